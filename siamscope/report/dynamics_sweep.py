"""The figure of `siamscope dynamics sweep`: basins above, fixed points and speed below, a column a parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamscope.report.dynamics_style import (
    BASIN,
    COLLAPSE,
    GREEN,
    INK,
    LEARN,
    SOFT,
    Cell,
    dress,
    legend,
    new_figure,
    save,
    save_table,
    short,
)

if TYPE_CHECKING:
    from siamscope.dynamics.sweeps import Sweep

_SIGNS = {
    "eta": r"weight decay $\eta$",
    "alpha_p": r"predictor's rate $\alpha_p$",
    "sigma2": r"augmentation $\sigma^2$",
    "beta": r"average's rate $\beta$",
    "tau": r"target's share $\tau$",
}
_COLUMNS = ("value", "collapse_share", "unknown_share", "p_minus", "p_plus", "s_rest", "s_early", "s_end")


def write_sweeps(
    sweeps: Sequence[Sweep],
    time: float,
    limits: Sequence[float | None],
    folder: Path,
    name: str = "sweep",
    *,
    tau_start: float = 0.0,
) -> list[Path]:
    """PNG, SVG and a table, a row for each parameter and value.

    Args:
        time: when `early` of each was taken.
        limits: the value beyond which only collapse is left, None where there is none.
        tau_start: tau(0) where beta is varied.

    Raises:
        ReportError: a file cannot be written.
    """
    count = len(sweeps)
    figure = new_figure(max(2.75 * count, 7.4), 6.4)
    grid = figure.subplots(2, count, squeeze=False, height_ratios=[1, 1.25], sharex="col", sharey="row")
    for upper, lower, found, limit in zip(grid[0], grid[1], sweeps, limits, strict=True):
        _share(upper, found, limit)
        _rest(lower, found, limit)
        more = rf",  $\tau(0) = {short(tau_start)}$" if found.over == "beta" else ""
        lower.set_xlabel(_SIGNS[found.over] + more, fontsize=11)
    top = _top(sweeps)
    grid[1, 0].set_ylim(-0.025 * top, top)
    grid[0, 0].set_ylabel("share of starts that collapse", fontsize=11)
    grid[1, 0].set_ylabel("$p$ and $s$", fontsize=11)
    _legend(figure, sweeps, limits, time, 3 if count > 1 else 2)
    return [*save(figure, folder, name), save_table(folder, name, ("over", *_COLUMNS), _rows(sweeps))]


def _scale(axes: Any, values: Any) -> None:
    """Logarithmic where the values span a factor of 30 or more."""
    if values.min() > 0 and values.max() / values.min() >= 30:
        axes.set_xscale("log")


def _bound(axes: Any, found: Sweep, limit: float | None) -> None:
    if _crossed(found, limit):
        axes.axvline(limit, color=SOFT, lw=1.2, ls=(0, (1.5, 1.5)))
    dead = found.collapse == 1
    if dead.all():
        axes.patch.set_facecolor(BASIN)  # there may be one value only, or no limit
    elif dead.any():
        first, last = np.flatnonzero(dead)[[0, -1]]
        end = limit if limit is not None else float(found.values[last if first == 0 else first])
        left, right = (found.values[0], end) if first == 0 else (end, found.values[-1])
        axes.axvspan(left, right, color=BASIN, lw=0, zorder=0)


def _crossed(found: Sweep, limit: float | None) -> bool:
    return limit is not None and bool(found.values.min() < limit < found.values.max())


def _share(axes: Any, found: Sweep, limit: float | None) -> None:
    dress(axes, grid=True)
    _scale(axes, found.values)
    _bound(axes, found, limit)
    axes.plot(found.values, found.collapse, color=COLLAPSE, lw=2, **_alone(found, "o"))
    axes.set_ylim(-0.02, 1.02)


def _rest(axes: Any, found: Sweep, limit: float | None) -> None:
    dress(axes, grid=True)
    _bound(axes, found, limit)
    axes.plot(found.values, found.high, color=INK, lw=2, **_alone(found, "^"))
    axes.plot(found.values, found.low, color=INK, lw=1.6, ls=(0, (5, 2)), **_alone(found, "v"))
    axes.plot(found.values, found.rest, color=LEARN, lw=2, **_alone(found, "s"))
    axes.plot(found.values, found.late, "o", color=LEARN, ms=3.5, mfc="white", mew=1.1)
    axes.plot(found.values, found.early, color=GREEN, lw=1.8, ls=(0, (2, 1.5)), **_alone(found, "D"))
    axes.margins(x=0.02)
    axes.ticklabel_format(axis="x", useOffset=False) if axes.get_xscale() == "linear" else None


def _alone(found: Sweep, marker: str) -> dict[str, Any]:
    """A line through one value is a mark."""
    return _mark(marker) if len(found.values) == 1 else {}


def _mark(marker: str) -> dict[str, Any]:
    """Open where others may lie on the same spot."""
    return {"marker": marker, "ms": {"s": 12, "D": 8}.get(marker, 6), "mfc": "none" if marker in "sD" else None}


def _top(sweeps: Sequence[Sweep]) -> float:
    """Room for all values but those of s for a small alpha_p, which goes as 1 / alpha_p."""
    parts = [part for found in sweeps for part in (found.high, found.late, found.early) if found.over != "alpha_p"]
    parts = parts or [1.8 * sweeps[0].high]
    values = np.concatenate(parts)
    return 1.08 * float(values[np.isfinite(values)].max(initial=0.1))


def _legend(figure: Any, sweeps: Sequence[Sweep], limits: Sequence[float | None], time: float, columns: int) -> None:
    """What is drawn: there is no rest, or nothing shaded, in some sweeps."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rest = any(np.isfinite(found.high).any() for found in sweeps)
    dead = any((found.collapse == 1).any() for found in sweeps)
    dotted = any(_crossed(found, limit) for found, limit in zip(sweeps, limits, strict=True))
    up, down, square, diamond = (_alone(sweeps[0], marker) if len(sweeps) == 1 else {} for marker in "^vsD")
    entries = [  # whether it is drawn, and how
        (rest, Line2D([], [], color=INK, lw=2, label="$p_+$, where learning ends", **up)),
        (rest, Line2D([], [], color=INK, lw=1.6, ls=(0, (5, 2)), label="$p_-$, edge of the basin on the parabola",
                      **down)),
        (rest, Line2D([], [], color=LEARN, lw=2, label=r"$s = p_+^2/\alpha_p$ at rest", **square)),
        (True, Line2D([], [], color=LEARN, ls="", marker="o", mfc="white", ms=5, label="$s$ in the end, simulated")),
        (True, Line2D([], [], color=GREEN, lw=1.8, ls=(0, (2, 1.5)), label=f"$s$ at $t = {time:g}$, simulated",
                      **diamond)),
        (dead, Patch(fc=BASIN, label="everything collapses" + "; dotted: its limit" * dotted)),
    ]  # fmt: skip
    legend(figure, [handle for drawn, handle in entries if drawn], columns)


def _rows(sweeps: Sequence[Sweep]) -> Iterator[list[Cell]]:
    for found in sweeps:
        parts = (
            found.values, found.collapse, found.unknown, found.low, found.high, found.rest, found.early, found.late,
        )  # fmt: skip
        for row in zip(*parts, strict=True):
            yield [found.over, *(float(value) if not math.isinf(value) else "inf" for value in row)]
