"""`siamscope study distill`: is a small encoder held back by its capacity or by its optimisation?

A large encoder is trained by the recipe, then a small one is trained to give the large one's features (distillation),
and the small one is trained alone as well, all for the same number of steps. If the distilled one is as good as the
large one, the small one has the capacity, and what it lacks alone is the optimisation (Li et al. 2022 distil a SimSiam
ResNet-50 into a ResNet-18). The pupil has no predictor and a linear layer for a projector, so that its features must
hold the teacher's; the rest is as the recipe has it: with `simsiam` the cosine with the standardised features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siamscope.recipe import Recipe
from siamscope.row import MethodError
from siamscope.workflow.answer import Answer
from siamscope.workflow.batch import PlanError
from siamscope.workflow.study import plan, runner, verdicts
from siamscope.workflow.study.collect import Record
from siamscope.workflow.study.plan import Common, Line
from siamscope.workflow.study.verdicts import Verdict

TITLE = "Capacity or optimisation: a small encoder alone and distilled from a large one"
LARGE, ALONE, TAUGHT = "large, alone", "small, alone", "small, distilled"


@dataclass(frozen=True)
class Options(Common):
    """The large encoder and the small one are the recipe's backbone in two widths."""

    small: float = 0.25
    """Width of the small encoder."""
    large: float = 2.0
    """Width of the large encoder, the teacher."""
    out: Path = Path("runs/study-distill")
    """Directory of the study; run again, it goes on where it was."""


def default(args: list[str]) -> Any:
    """Defaults: the shipped recipe of studies."""
    return plan.default(Options, args)


def run(given: Options) -> Answer:
    """Run what is missing, and write the results."""
    sizes = plan.widths(f"{given.small},{given.large}")
    if len(sizes) < 2 or given.small > given.large:
        raise PlanError(f"--small must be below --large, got {given.small:g} and {given.large:g}")

    def lines(shared: Recipe, images: int) -> list[Line]:
        small, large = plan.models(shared, [shared.network.backbone], sizes)
        head = replace(shared.method.projector, layers=1)
        try:
            method = replace(shared.method, target="teacher", teacher="-", predictor="none", projector=head)
        except MethodError as error:
            raise PlanError(f"the method {shared.method.name} cannot be taught: {error}") from error
        taught = replace(small.recipe, method=method)
        return [
            Line("large", large.label, LARGE, images, large.recipe),
            Line("small", small.label, ALONE, images, small.recipe),
            Line("small-distilled", small.label, TAUGHT, images, taught, teacher="large"),
        ]

    return runner.run(runner.Study("distill", TITLE, "encoder", lines, judge), given, given.out)


def judge(lines: Sequence[Line], records: Sequence[Record]) -> list[Verdict]:
    """What the large one has before the small one, and how much of that distillation brings."""
    accuracy = verdicts.labelled(records)
    found: list[Verdict] = []
    for figure, unit, scale, sign in (("auc_sigma", "in AUC", 1.0, -1), (accuracy, "points", 100.0, 1)):
        if not figure:
            continue
        better = "less collapsed" if figure == "auc_sigma" else "more accurate"
        gaps = verdicts.pairs(records, "large", "small", figure)
        found.append(
            verdicts.difference(f"The large encoder is {better}", f"{LARGE} against {ALONE}", gaps, sign, unit, scale)
        )
        gaps = verdicts.pairs(records, "small-distilled", "small", figure)
        claim = f"It is optimisation: distilled, the small encoder is {better}"
        found.append(verdicts.difference(claim, f"{TAUGHT} against {ALONE}", gaps, sign, unit, scale))
        gaps = verdicts.pairs(records, "small-distilled", "large", figure)
        claim = f"It is capacity too: the large encoder stays {better}"
        found.append(verdicts.difference(claim, f"{TAUGHT} against {LARGE}", gaps, -sign, unit, scale))
    return found
