"""Claims, the experiments that measure them, and the rows that come out."""

from __future__ import annotations

import fnmatch
import math
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError

Kind = Literal["theorem", "erratum", "negative control", "observation"]
Measure = Callable[[np.random.Generator], Sequence[float]]


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    bound: what the residual must stay below, or, if `above`, what it must exceed: a printed form that does not hold, or
    a control that must fail, shows a large residual.
    """

    id: str
    text: str
    bound: float
    kind: Kind = "theorem"
    above: bool = False

    def worst(self, residuals: Sequence[float]) -> float:
        """The residual that decides; NaN if any is."""
        if not residuals or any(math.isnan(value) for value in residuals):
            return math.nan
        return float(min(residuals) if self.above else max(residuals))

    def holds(self, residual: float) -> bool:
        """False for NaN."""
        return residual > self.bound if self.above else residual < self.bound


@dataclass(frozen=True)
class Experiment:
    """Draws one random configuration from a generator and returns one residual for each of its claims, in order."""

    name: str
    claims: tuple[Claim, ...]
    measure: Measure


@dataclass(frozen=True)
class Row:
    """What became of a claim. `residual`: the worst over the configurations; NaN where a run broke off, see `note`.

    seconds: processor time of the experiment, divided among its claims.
    """

    id: str
    claim: str
    kind: Kind
    residual: float
    relation: Literal["<", ">"]
    bound: float
    passed: bool
    configurations: int
    seconds: float
    note: str = ""


def experiment(*claims: Claim) -> Callable[[Measure], Experiment]:
    """Decorator: makes an `Experiment` of a function."""
    return lambda measure: Experiment(getattr(measure, "__name__", "experiment"), claims, measure)


def run_all(experiments: Iterable[Experiment], only: str, seed: int, configurations: int) -> list[Row]:
    """See `siamscope.dynamics.checks.run`."""
    errors.whole("seed", seed, low=0)
    errors.whole("configurations", configurations)
    if not isinstance(only, str):
        raise DynamicsError(f"only must be text, ids or patterns with commas between; it is {errors.shown(only)}.")
    patterns = [pattern.strip() for pattern in only.split(",")]
    rows = []
    for item in experiments:
        wanted = [any(fnmatch.fnmatchcase(claim.id, pattern) for pattern in patterns) for claim in item.claims]
        if any(wanted):
            found = _run(item, seed, configurations)
            rows += [row for row, keep in zip(found, wanted, strict=True) if keep]
    if not rows:
        raise DynamicsError(f"only={only!r} matches no check; without it all are run and their ids shown.")
    return rows


def _run(item: Experiment, seed: int, configurations: int) -> list[Row]:
    begin, values, note = time.process_time(), [], ""
    for k in range(configurations):
        rng = np.random.default_rng([seed, zlib.crc32(item.name.encode()), k])
        try:
            values.append([float(value) for value in item.measure(rng)])
        except (DynamicsError, np.linalg.LinAlgError) as error:  # a run that broke off proves nothing
            values.append([math.nan] * len(item.claims))
            note = note or f"configuration {k}: {error}"
    seconds = (time.process_time() - begin) / len(item.claims)
    rows = []
    for claim, residuals in zip(item.claims, zip(*values, strict=True), strict=True):
        worst = claim.worst(residuals)
        rows.append(
            Row(claim.id, claim.text, claim.kind, worst, ">" if claim.above else "<", claim.bound, claim.holds(worst),
                configurations, seconds, note)
        )  # fmt: skip
    return rows
