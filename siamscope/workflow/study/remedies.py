"""`siamscope study remedies`: an ill run, and what each remedy that one flag turns on does to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siamscope.recipe import Recipe
from siamscope.row import MethodError
from siamscope.sections import OrderConfig
from siamscope.workflow.answer import Answer
from siamscope.workflow.batch import PlanError
from siamscope.workflow.study import plan, runner, verdicts
from siamscope.workflow.study.collect import Record
from siamscope.workflow.study.plan import Common, Line
from siamscope.workflow.study.verdicts import Verdict

TITLE = "Remedies for an ill run"
BASE = "as it is"
ILL = "study-ill"
"""The shipped recipe of the ill run."""


@dataclass(frozen=True)
class Remedy:
    """A change that one flag of `siamscope train` makes: to cells of the method, or to the order."""

    flag: str
    cells: Mapping[str, Any]
    order: str = ""


REMEDIES = {
    "cumulative": Remedy("--order cumulative", {}, "cumulative"),
    "hybrid": Remedy("--order hybrid", {}, "hybrid"),
    "momentum": Remedy("--target momentum", {"target": "momentum"}),
    "directpred": Remedy("--predictor directpred", {"predictor": "directpred"}),
    "directcopy": Remedy("--predictor directcopy", {"predictor": "directcopy"}),
    "variance": Remedy("--regulariser variance", {"regulariser": "variance"}),
    "isotropic": Remedy("--regulariser isotropic", {"regulariser": "isotropic"}),
    "wide": Remedy("--wide-projector 4", {"projector_scale": 4.0}),
}


@dataclass(frozen=True)
class Options(Common):
    """The recipe is that of the ill run; every remedy changes it in one flag alone."""

    remedies: str = ",".join(REMEDIES)
    """Remedies to try, with commas between them."""
    out: Path = Path("runs/study-remedies")
    """Directory of the study; run again, it goes on where it was."""


def default(args: list[str]) -> Any:
    """Defaults: the shipped recipe of an ill run."""
    return plan.default(Options, args, ILL)


def run(given: Options) -> Answer:
    """Run what is missing, and write the results."""
    chosen = plan.words(given.remedies)
    unknown = [name for name in chosen if name not in REMEDIES]
    if unknown or not chosen:
        raise PlanError(f"--remedies: {unknown[0] if unknown else 'none'!r} is not one of {', '.join(REMEDIES)}")
    asked = given.order

    def lines(shared: Recipe, images: int) -> list[Line]:
        model = plan.models(shared, [shared.network.backbone], [shared.network.width])[0]
        usual = replace(model.recipe, order=asked)
        out = [Line(f"{model.key}-base", model.label, BASE, images, usual)]
        return out + [_line(model.key, model.label, name, usual, images) for name in chosen]

    return runner.run(runner.Study("remedies", TITLE, "remedy", lines, judge), given, given.out)


def _line(key: str, label: str, name: str, usual: Recipe, images: int) -> Line:
    """The ill run with one remedy; one that its row does not go with says why."""
    remedy = REMEDIES[name]
    named = f"{key}-{name}", label, remedy.flag, images
    try:
        recipe = replace(usual, method=replace(usual.method, **remedy.cells))
    except MethodError as error:
        return Line(*named, None, str(error))
    if remedy.order:
        recipe = replace(recipe, order=OrderConfig(remedy.order, chunks=usual.order.chunks))  # type: ignore[arg-type]
    return Line(*named, recipe)


def judge(lines: Sequence[Line], records: Sequence[Record]) -> list[Verdict]:
    """For every remedy: does it lower AUC, and does it raise the accuracy?"""
    base, *others = lines
    accuracy = verdicts.labelled(records)
    found: list[Verdict] = []
    for line in others:
        gaps = verdicts.pairs(records, line.key, base.key, "auc_sigma")
        about = f"{line.variant} against the run {BASE}"
        found.append(verdicts.difference("The remedy lowers collapse", about, gaps, -1, "in AUC"))
        if accuracy:
            gaps = verdicts.pairs(records, line.key, base.key, accuracy)
            found.append(verdicts.difference("The remedy raises the accuracy", about, gaps, 1, "points", 100))
    return found
