"""How well sets of label-free scores forecast the accuracy of runs: what a forecast is compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siamscope.collapse.arrays import Float64
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.least_squares import explained, groups_out, rmse, shuffled, solve, spearman

SHUFFLES = 1000


@dataclass(frozen=True)
class Quality:
    """How a set of features forecasts n runs; no features: the mean of the targets.

    Attributes:
        r2, rmse: on the runs of the fit: these flatter.
        loo_r2, loo_rmse, loo_spearman: each run predicted by a fit to the others; R^2 is against the mean of all.
        p_value: share of shuffled targets whose leave-one-out R^2 is as high (1,000 shuffles).
        group_spearman, group_mae: means over groups left out, that over runs; NaN without groups.
    """

    features: tuple[str, ...]
    n: int
    r2: float
    rmse: float
    loo_r2: float
    loo_rmse: float
    loo_spearman: float
    p_value: float
    group_spearman: float
    group_mae: float

    @property
    def name(self) -> str:
        return " + ".join(self.features) or "mean"


def quality(
    table: Mapping[str, Float64],
    y: Float64,
    features: Sequence[str],
    groups: Sequence[Any] | None = None,
    alpha: float = 0.0,
    seed: int = 0,
) -> Quality:
    """How these features forecast; raises CollapseError as `Forecaster.fit`."""
    names = tuple(features)
    x = matrix(table, names, len(y))
    fit = solve(x, y, alpha, names)
    out = fit.left_out()
    loo = explained(y, out)
    by_chance = shuffled(x, y, fit, alpha, SHUFFLES, seed) if names else np.zeros(0)
    nan = math.nan
    found = groups_out(x, y, groups, alpha, names) if groups is not None else []
    known = [group.spearman for group in found if math.isfinite(group.spearman)]
    sizes = [(group.mae, group.n) for group in found if math.isfinite(group.mae)]
    return Quality(
        features=names,
        n=len(y),
        r2=explained(y, fit.fitted),
        rmse=rmse(y, fit.fitted),
        loo_r2=loo,
        loo_rmse=rmse(y, out),
        loo_spearman=spearman(out, y) if names else nan,  # left-out means go against their targets by construction
        p_value=float((1 + (by_chance >= loo).sum()) / (1 + SHUFFLES)) if names else nan,
        group_spearman=sum(known) / len(known) if known else nan,
        group_mae=sum(mae * n for mae, n in sizes) / sum(n for _, n in sizes) if sizes else nan,
    )


def compare(
    table: Mapping[str, Float64],
    y: Float64,
    sets: Sequence[Sequence[str]],
    groups: Sequence[Any] | None = None,
    alpha: float = 0.0,
    seed: int = 0,
) -> list[Quality]:
    """`quality` of each set of features; a set that cannot be fitted to these runs is left out."""
    out = []
    for names in sets:
        try:
            out.append(quality(table, y, names, groups, alpha, seed))
        except CollapseError:
            continue
    return out


def matrix(table: Mapping[str, Float64], names: Sequence[str], n: int) -> Float64:
    """(n, p), every entry finite; CollapseError names the column and the run."""
    for name in names:
        if name not in table:
            raise CollapseError(f"no column {name}; there are {', '.join(table) or 'none'}.")
        if table[name].shape != (n,):
            raise CollapseError(f"{name} has shape {table[name].shape} for {n} accuracies.")
        bad = np.flatnonzero(~np.isfinite(table[name]))
        if len(bad):
            raise CollapseError(f"{name} is missing or not finite in {len(bad)} of {n} runs, the first being {bad[0]}.")
    return np.stack([table[name] for name in names], axis=1) if names else np.zeros((n, 0))
