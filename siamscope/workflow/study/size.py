"""`siamscope study size`: how collapse depends on the size of the data and of the model, at a fixed number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siamscope.data.chunks import exactly, suffix_length
from siamscope.recipe import Recipe
from siamscope.sections import OrderConfig
from siamscope.workflow import compare_plan
from siamscope.workflow.answer import Answer
from siamscope.workflow.batch import PlanError
from siamscope.workflow.study import plan, runner, verdicts
from siamscope.workflow.study.collect import Record, value
from siamscope.workflow.study.plan import Common, Line, Model
from siamscope.workflow.study.verdicts import Verdict

TITLE = "Size of the data against size of the model"
CLAIMS = {
    "a": "More images at the same number of steps: more collapse",
    "b": "A smaller model on the same images: more collapse",
    "c": "Runs with a higher AUC have a lower accuracy",
    "f": "Another method collapses less on all images",
}
"""Directions of Li et al. 2022 (abstract), in the letters of the reference."""


@dataclass(frozen=True)
class Options(Common):
    """Subsets of one permutation, each within the next larger one, and all images, for every width of the model."""

    sizes: str = "0.002,0.02,1"
    """Shares of the training images, with commas between them."""
    widths: str = "0.25,1"
    """Widths of the backbone, with commas between them (in place of network.width)."""
    backbones: str = ""
    """Backbones, with commas between them, for the depth (in place of network.backbone)."""
    controls: str = ""
    """Methods that stand beside, on all images: such as byol,mocov3."""
    out: Path = Path("runs/study-size")
    """Directory of the study; run again, it goes on where it was."""


def default(args: list[str]) -> Any:
    """Defaults: the shipped recipe of studies."""
    return plan.default(Options, args)


def run(given: Options) -> Answer:
    """Run what is missing, and write the results."""
    sizes, widths = plan.shares(given.sizes), plan.widths(given.widths)
    names = plan.backbones(given.backbones, given.network.backbone)
    controls = plan.words(given.controls)

    def lines(shared: Recipe, images: int) -> list[Line]:
        models = plan.models(shared, names, widths)
        own = [_line(model, share, images) for model in models for share in sizes]
        return own + [_control(model, name, images) for name in controls for model in models]

    return runner.run(runner.Study("size", TITLE, "images", lines, judge), given, given.out)


def _line(model: Model, share: float, images: int) -> Line:
    order = OrderConfig() if share == 1 else OrderConfig("last", subset=share)
    count = suffix_length(images, exactly(share))
    variant = "all images" if share == 1 else f"{count:,} images"
    return Line(f"{model.key}-s{share:g}", model.label, variant, count, replace(model.recipe, order=order))


def _control(model: Model, name: str, images: int) -> Line:
    (cell,) = compare_plan.cells(model.recipe, compare_plan.chosen(name)[:1])
    if cell.row is None:
        raise PlanError(f"--controls: {name}: {cell.problem}")
    recipe = replace(model.recipe, method=cell.row, order=OrderConfig())
    return Line(f"{cell.key}-{model.key}", f"{cell.label}, {model.label}", "all images", images, recipe, control=True)


# ------------------------------------------------------------------------------------------ verdicts


def judge(lines: Sequence[Line], records: Sequence[Record]) -> list[Verdict]:
    """The directions that the runs can speak of."""
    own = [line for line in lines if not line.control]
    models, sizes = list(dict.fromkeys(line.model for line in own)), sorted({line.images for line in own})
    at = {(line.model, line.images): line.key for line in own}
    dimensions = {record["d"] for record in records if record["status"] == "finished" and not record["control"]}
    figure, unit = ("auc_sigma", "in AUC") if len(dimensions) < 2 else ("auc_relative", "in relative AUC")
    found: list[Verdict] = []
    for model in models if len(sizes) > 1 else ():
        mine = [record for record in records if record["model"] == model and record["status"] == "finished"]
        gaps = verdicts.pairs(records, at[model, sizes[-1]], at[model, sizes[0]], "auc_sigma")
        about = f"{model}, {sizes[-1]:,} against {sizes[0]:,} images"
        found.append(verdicts.difference(CLAIMS["a"], about, gaps, 1, "in AUC"))
        points = [(record["images"], auc) for record in mine if (auc := value(record, "auc_sigma")) is not None]
        ranked = [n for n, _ in points], [auc for _, auc in points]
        found.append(verdicts.correlation(CLAIMS["a"], f"{model}, images against AUC", *ranked, 1))
    for size in sizes if len(models) > 1 else ():
        gaps = verdicts.pairs(records, at[models[0], size], at[models[-1], size], figure)
        about = f"{size:,} images, {models[0]} against {models[-1]}"
        found.append(verdicts.difference(CLAIMS["b"], about, gaps, 1, unit))
    found += verdicts.accuracy_falls_with_auc(CLAIMS["c"], records)
    for line in lines:
        alike = next((model for model in models if line.control and line.model.endswith(f", {model}")), "")
        if (alike, line.images) in at:
            gaps = verdicts.pairs(records, line.key, at[alike, line.images], "auc_sigma")
            found.append(verdicts.difference(CLAIMS["f"], f"{line.model}, against the study's", gaps, -1, "in AUC"))
    return found
