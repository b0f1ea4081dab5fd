"""The figure of `siamscope dynamics modes`: the flow of p on its parabola, and p, s and tau in time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamscope.report.dynamics_style import (
    BASIN,
    COLLAPSE,
    INK,
    LEARN,
    LINES,
    SERIES,
    Cell,
    dress,
    legend,
    mark,
    mark_handles,
    new_figure,
    save,
    save_table,
    short,
)

if TYPE_CHECKING:
    from siamscope.dynamics.courses import Courses, FlowLine

_WIDE = 12.3


def write_modes(
    flows: Sequence[FlowLine], by_beta: Sequence[Courses], by_eta: Sequence[Courses], folder: Path, name: str = "modes"
) -> list[Path]:
    """PNG, SVG and three tables: -flow, -points, -courses.

    Args:
        flows: the panels of the first row; by_beta, by_eta: the courses in the second and the third.

    Raises:
        ReportError: a file cannot be written.
    """
    figure = new_figure(_WIDE, 8.7)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.05, 2.0])
    _flows(upper, flows)
    grid = lower.subplots(2, 3, sharex=True)
    _courses(grid[0], by_beta, "beta")
    _courses(grid[1], by_eta, "eta")
    for axes in grid[1]:
        axes.set_xlabel("time $t$", fontsize=11)
    return [*save(figure, folder, name), *_tables(flows, by_beta, by_eta, folder, name)]


def _flows(figure: Any, flows: Sequence[FlowLine]) -> None:
    span = max(_span(flow) for flow in flows)
    panels = figure.subplots(1, len(flows), sharey=True, squeeze=False)[0]
    for axes, flow in zip(panels, flows, strict=True):
        _flow(axes, flow, span)
    panels[0].set_ylabel(r"$dp/dt$  on  $s = p^2/\alpha_p$", fontsize=11)
    marked = [point.kind for flow in flows for point in flow.points if flow.p[0] <= point.at[0] <= flow.p[-1]]
    legend(figure, [*mark_handles(marked), *_moves(any(_edge(flow) < flow.p[-1] for flow in flows))], 6)


def _span(flow: FlowLine) -> float:
    """Largest |dp/dt| from 0 to most of p*; beyond, the curve falls ever more steeply and may leave the picture."""
    shown = (flow.p >= 0) & (flow.p <= 0.8 * float(flow.modes.constant_tau / flow.modes.total))
    return float(np.abs(flow.dp[shown] if shown.any() else flow.dp).max())


def _moves(learns: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(fc=BASIN, ec="none", label="$p$ from which the mode collapses"),
        Line2D([], [], color=COLLAPSE, lw=2.5, label="towards 0"),
        Line2D([], [], color=LEARN, lw=2.5, label="towards $p_+$"),
    ]
    return handles[: 3 if learns else 2]


def _edge(flow: FlowLine) -> float:
    """Where the basin of collapse ends; infinity if everything collapses."""
    return max((point.at[0] for point in flow.points if point.kind != "stable"), default=math.inf)


def _flow(axes: Any, flow: FlowLine, span: float) -> None:
    eta, limit = float(flow.modes.eta), flow.limit
    close = abs(eta / limit - 1) < 1e-9
    side = "at" if close else "below" if eta < limit else "above"
    dress(axes, rf"$\eta = {eta:.3g}$: {side} the limit {limit:.3g}", "$p$")
    low = _edge(flow)
    left, right = float(flow.p[0]), float(flow.p[-1])
    axes.axvspan(left, min(low, right), color=BASIN, lw=0, zorder=0)
    axes.axhline(0, color=INK, lw=0.8)
    axes.plot(flow.p, flow.dp, color=INK, lw=2)
    axes.set_xlim(left, right)
    axes.set_ylim(-1.3 * span, 1.3 * span)
    _arrows(axes, flow, low)
    for point in flow.points:
        if left <= point.at[0] <= right:
            mark(axes, point, (point.at[0], 0.0))


def _arrows(axes: Any, flow: FlowLine, low: float) -> None:
    """On the axis, between the fixed points: which way p moves."""
    left, right = float(flow.p[0]), float(flow.p[-1])
    stops = [left, *(point.at[0] for point in flow.points if left < point.at[0] < right), right]
    for begin, end in itertools.pairwise(stops):
        if end - begin < 0.06 * (right - left):
            continue
        for centre in np.linspace(begin, end, 2 + int(4 * (end - begin) / (right - left)) + 1)[1:-1]:
            way = np.sign(np.interp(centre, flow.p, flow.dp)) * 0.028 * (right - left)
            axes.annotate(
                "", (centre + way, 0), (centre - way, 0), zorder=7,
                arrowprops={
                    "arrowstyle": "-|>", "color": COLLAPSE if centre < low else LEARN, "lw": 2.2, "mutation_scale": 14,
                    "shrinkA": 0, "shrinkB": 0,
                },
            )  # fmt: skip


def _courses(row: Any, runs: Sequence[Courses], by: str) -> None:
    sign = r"\beta" if by == "beta" else r"\eta"
    for k, run in enumerate(runs):
        colour, style = SERIES[k % len(SERIES)], LINES[k % len(LINES)]
        value = run.beta if by == "beta" else run.eta
        label = rf"${sign} = {short(value)}$" if math.isfinite(value) else rf"${sign} = \infty$ (no average)"
        for axes, part in zip(row, (run.p, run.s, run.tau), strict=True):
            for i, curve in enumerate(part.T):
                axes.plot(run.times, curve, color=colour, ls=style, lw=1.6, label=label if i == 0 else None)
    other = runs[0]
    fixed = rf"$\eta = {short(other.eta)}$" if by == "beta" else rf"$\beta = {short(other.beta)}$"
    if by == "eta" and math.isinf(other.beta):
        fixed = "target = online"
    for axes, name in zip(row, ("p", "s", r"\tau"), strict=True):
        dress(axes, f"${name}(t)$,  {fixed}", grid=True)
        axes.margins(x=0)
    top = np.nanquantile(np.concatenate([run.tau.ravel() for run in runs]), 0.99)
    row[2].set_ylim(min(0.0, *(float(np.nanmin(run.tau)) for run in runs)), max(1.25, 1.1 * float(top)))
    row[2].legend(fontsize=10.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.05), handlelength=2.6)


def _tables(
    flows: Sequence[FlowLine], by_beta: Sequence[Courses], by_eta: Sequence[Courses], folder: Path, name: str
) -> list[Path]:
    runs = [("beta", run) for run in by_beta] + [("eta", run) for run in by_eta]
    return [
        save_table(folder, f"{name}-flow", ("eta", "eta_limit", "p", "dp_dt"), _flow_rows(flows)),
        save_table(folder, f"{name}-points", ("eta", "eta_limit", "p", "eigenvalue", "kind"), _point_rows(flows)),
        save_table(folder, f"{name}-courses", ("row", "beta", "eta", "start", "t", "p", "s", "tau"), _rows(runs)),
    ]


def _flow_rows(flows: Sequence[FlowLine]) -> Iterator[list[Cell]]:
    for flow in flows:
        for p, dp in zip(flow.p, flow.dp, strict=True):
            yield [float(flow.modes.eta), flow.limit, float(p), float(dp)]


def _point_rows(flows: Sequence[FlowLine]) -> Iterator[list[Cell]]:
    for flow in flows:
        for point in flow.points:
            yield [float(flow.modes.eta), flow.limit, point.at[0], point.eigenvalues[0].real, point.kind]


def _rows(runs: Sequence[tuple[str, Courses]]) -> Iterator[list[Cell]]:
    for row, run in runs:
        for i in range(run.p.shape[1]):
            for k, t in enumerate(run.times):
                values = [float(part[k, i]) for part in (run.p, run.s, run.tau)]
                yield [row, run.beta, run.eta, i + 1, float(t), *values]
