"""What a trial is judged by, without labels: a score of its features, or the accuracy that a forecast expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from siamscope.collapse.errors import CollapseError
from siamscope.collapse.forecast import Forecaster
from siamscope.collapse.selection import DIRECTIONS, WITHOUT_DIMENSION, parts
from siamscope.recipe import Recipe
from siamscope.workflow.fleet import Member, derived
from siamscope.workflow.forecast.apply import expected
from siamscope.workflow.forecast.file import Context, load
from siamscope.workflow.sweep.errors import SweepError
from siamscope.workflow.sweep.space import Dimension, changes_dimension, changes_loss

_MEASURED = {"auc_sigma": "feature_auc", "effective_rank": "feature_effective_rank", "loss": "loss"}
"""Scores that every measurement in training has, by their names in its line."""


@dataclass(frozen=True)
class Objective:
    """What is searched for.

    Attributes:
        by: as the user wrote it.  name: of the score, or `expected_KNN` and the like for a forecast.
        direction: of the number that `value` gives.
    """

    by: str
    name: str
    direction: Literal["minimize", "maximize"]
    forecaster: Forecaster | None = None
    context: Context | None = None

    def value(self, member: Member) -> tuple[float, str]:
        """The number of a finished run; NaN, and why, if it has none."""
        if self.forecaster is not None and self.context is not None:
            (found,) = expected([member], self.forecaster, self.context)
            return found.value, f"the forecast says nothing: {found.reason}" if found.reason else ""
        found_score = derived(member, {}).value(self.name)
        if not math.isfinite(found_score):
            return math.nan, f"its judgement holds no {self.name}"
        return (-abs(found_score - 1), "") if DIRECTIONS[self.name] == 0 else (found_score, "")

    def early(self, line: dict[str, Any]) -> float:
        """The number for the course of a run, from one measurement: the score itself where the line has it, else AUC or
        effective rank, whichever has the same direction."""
        known = {name: line[key] for name, key in _MEASURED.items() if isinstance(line.get(key), int | float)}
        member = derived(Member("", {k: float(v) for k, v in known.items()}, d=int(line.get("feature_dim", 0))), {})
        if self.forecaster is not None:
            value, _ = self.value(member)
            return value
        if math.isfinite(member.value(self.name)):
            return member.value(self.name)
        return member.value("auc_sigma" if self.direction == "minimize" else "effective_rank")

    def better(self, values: Sequence[float]) -> int:
        """Index of the best of these numbers, NaN never being it."""
        sign = 1 if self.direction == "maximize" else -1
        return max(range(len(values)), key=lambda i: -math.inf if math.isnan(values[i]) else sign * values[i])


def objective(by: str, forecast: Path | None, recipe: Recipe, space: Sequence[Dimension]) -> Objective:
    """The objective that options name, if the trials of this space can be compared by it.

    Raises:
        SweepError: an unknown score, a sum without a forecast, or trials whose scores could not be compared.
        ForecastError: the forecast cannot be read.
    """
    try:
        names = parts(by)
    except CollapseError as error:
        raise SweepError(f"--by: {error}") from error
    if forecast is not None:
        forecaster, context = load(forecast)
        if set(names) != set(forecaster.features) and by != "auc":
            raise SweepError(
                f"--by {by} names other scores than the forecast {forecast}, which takes "
                f"{'+'.join(forecaster.features)}; leave --by out, or fit another forecast"
            )
        names = tuple(forecaster.features)
        found = Objective("+".join(names), f"expected_{context.target}", "maximize", forecaster, context)
    elif len(names) > 1:
        raise SweepError(
            f"--by {by} needs a forecast that joins its scores into one number: give --forecast FILE "
            f"('siamscope forecast fit RUNS... --features {','.join(names)}' writes one), or search by one score and "
            f"choose afterwards with 'siamscope select OUT --by {by}'"
        )
    else:
        found = Objective(by, names[0], "minimize" if DIRECTIONS[names[0]] < 0 else "maximize")
    _check(names, recipe, space)
    return found


def _check(names: Sequence[str], recipe: Recipe, space: Sequence[Dimension]) -> None:
    widened, fixed = changes_dimension(space), [name for name in names if name not in WITHOUT_DIMENSION]
    if widened and fixed and not recipe.network.features:
        raise SweepError(
            f"{widened} changes the dimension of the features, and {fixed[0]} can be compared at one dimension only: "
            "give all trials one with --network.features 128 (or so), or search --by auc_relative"
        )
    changed = changes_loss(space)
    if changed and any(name.startswith("loss") for name in names):
        raise SweepError(f"losses of trials that differ in {changed} cannot be compared; search --by auc or another")
