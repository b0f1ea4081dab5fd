"""What a claim is, what a measurement of it must be, and the verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from siamscope.recipe import Recipe

Cost = Literal["seconds", "minutes", "gpu"]
Outcome = Literal["holds", "does not hold", "undecided", "not judged", "not comparable", "not run", "not offered"]


class ClaimError(ValueError):
    """A paper, a claim or an option that makes no sense, or data that are missing; the message says what to do."""


@dataclass(frozen=True)
class Published:
    """A printed figure. sd: over the paper's seeds, None if not printed.  memory: recalled, not copied: no evidence."""

    value: float
    sd: float | None = None
    memory: bool = False


@dataclass(frozen=True)
class Expected:
    """What the measured value must be: within `tolerance` of `value` ("near"), or at least or at most `value`.

    of: what is compared: the mean over seeds, or every single seed.  why: where tolerance or bound comes from.
    """

    kind: Literal["near", "at least", "at most"]
    value: float
    tolerance: float = 0.0
    of: Literal["mean", "every seed"] = "every seed"
    why: str = ""

    def holds(self, values: Sequence[float]) -> bool:
        """False for no value, and for one that is not finite."""
        if not values or not all(math.isfinite(value) for value in values):
            return False
        compared = [statistics.fmean(values)] if self.of == "mean" else values
        return all(self._one(value) for value in compared)

    def _one(self, value: float) -> bool:
        if self.kind == "near":
            return abs(value - self.value) <= self.tolerance
        return value >= self.value if self.kind == "at least" else value <= self.value

    def __str__(self) -> str:
        sign = {"near": "", "at least": ">= ", "at most": "<= "}[self.kind]
        return f"{sign}{self.value:g}" + (f" +- {self.tolerance:g}" if self.kind == "near" else "")


@dataclass(frozen=True)
class Preset:
    """An experiment that trains by a recipe on a data set that the user has. images: of the paper's training set."""

    data: str
    recipe: Recipe
    images: int


@dataclass(frozen=True)
class Ablation:
    """An experiment that runs anywhere: one `measure` of what `siamscope.claims.experiments` does under that name."""

    experiment: str
    measure: str


@dataclass(frozen=True)
class Order:
    """The mean of one claim's figures must be above another's by more than twice the standard error of the difference.

    short: also expected of shortened runs.
    """

    higher: str
    lower: str
    short: bool = False


@dataclass(frozen=True)
class NotOffered:
    """Why no recipe can express it."""

    reason: str


@dataclass(frozen=True)
class Claim:
    """One line of the table. id: TABLE.ROW.COLUMN, or the name of a check.  table: first part of the id.

    expected: None where there is nothing that may be used for a verdict.  earlier: measured elsewhere under settings
    that are not all known; no verdict.  note: what a reader must know.
    """

    id: str
    sentence: str
    experiment: Preset | Ablation | Order | NotOffered
    cost: Cost
    published: Published | None = None
    expected: Expected | None = None
    earlier: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def table(self) -> str:
        return self.id.partition(".")[0]


@dataclass(frozen=True)
class Verdict:
    """What became of a claim. values: one a seed.  details: other measures of the same runs, by name."""

    claim: Claim
    outcome: Outcome
    values: tuple[float, ...] = ()
    note: str = ""
    details: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Over the seeds, with divisor n - 1; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def judge(
    claim: Claim,
    values: Sequence[float],
    *,
    comparable: bool = True,
    note: str = "",
    details: Mapping[str, tuple[float, ...]] | None = None,
) -> Verdict:
    """The verdict on the measured values, one a seed. comparable: whether settings and data are the claim's own."""
    outcome: Outcome
    if not values:
        outcome = "not run"
    elif claim.expected is None or (claim.published is not None and claim.published.memory):
        outcome = "not judged"
    elif not comparable:
        outcome = "not comparable"
    else:
        outcome = "holds" if claim.expected.holds(values) else "does not hold"
    return Verdict(claim, outcome, tuple(values), "; ".join(n for n in (note, claim.note) if n), details or {})


def judge_order(
    claim: Claim, higher: Sequence[float], lower: Sequence[float], *, comparable: bool = True, note: str = ""
) -> Verdict:
    """The verdict on an `Order`: the difference of means against twice its standard error.

    Undecided within it, and for fewer than two seeds, which show no spread. The value is the difference.
    """
    order = claim.experiment
    if not isinstance(order, Order):
        raise ClaimError(f"{claim.id} compares nothing")
    if not higher or not lower:
        return Verdict(claim, "not run", note=f"needs {order.higher} and {order.lower}")
    gap = statistics.fmean(higher) - statistics.fmean(lower)
    if not comparable and not order.short:
        return Verdict(claim, "not comparable", (gap,), note)
    if min(len(higher), len(lower)) < 2:
        return Verdict(claim, "undecided", (gap,), "one seed shows no spread")
    error = math.sqrt(statistics.variance(higher) / len(higher) + statistics.variance(lower) / len(lower))
    outcome: Outcome = "holds" if gap > 2 * error else "does not hold" if gap < -2 * error else "undecided"
    if not math.isfinite(gap) or not math.isfinite(error):
        outcome = "does not hold"
    return Verdict(claim, outcome, (gap,), note, {"standard error": (error,)})
