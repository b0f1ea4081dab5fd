"""The figure of `siamscope dynamics portrait`: panels of the plane of p and s."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamscope.report.dynamics_style import (
    BASIN,
    COLLAPSE,
    FLOW,
    GREEN,
    INK,
    LEARN,
    PURPLE,
    SOFT,
    Cell,
    dress,
    legend,
    mark,
    mark_handles,
    new_figure,
    point_out,
    save,
    save_table,
)

if TYPE_CHECKING:
    from siamscope.dynamics.portrait import Path as Course
    from siamscope.dynamics.portrait import Portrait

UNKNOWN = "#eceef0"
_PARAMETERS = ("alpha_p", "eta", "sigma2", "tau", "signal")


def write_portraits(
    panels: Sequence[Portrait], labels: Sequence[str], columns: int, folder: Path, name: str = "portrait"
) -> list[Path]:
    """PNG, SVG and five tables: -panels, -points, -curves, -paths, -field; `panel` in them counts from 1, row by row.

    Args:
        labels: a title for each panel, in matplotlib's mathtext.

    Raises:
        ReportError: a file cannot be written.
    """
    rows = -(-len(panels) // columns)
    figure = new_figure(max(4.1 * columns, 7.4), (3.15 if columns > 1 else 4.2) * rows + 0.85)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for i, axes in enumerate(grid.flat):
        if i >= len(panels):
            axes.set_axis_off()
            continue
        x = "p" if i + columns >= len(panels) else ""
        _panel(axes, panels[i], labels[i], x, "s" if i % columns == 0 else "")
    _legend(figure, panels, 4 if columns > 1 else 3)
    return [*save(figure, folder, name), *_tables(panels, folder, name)]


def _panel(axes: Any, found: Portrait, label: str, x: str, y: str) -> None:
    share = "all collapses" if found.collapse == 1 else f"{100 * found.collapse:.1f} % collapses"
    dress(axes, label, f"${x}$" if x else "", f"${y}$" if y else "", note=share)
    (left, right), (low, high) = found.p_range, found.s_range
    _basin(axes, found)
    axes.streamplot(
        found.p, found.s, found.dp, found.ds, density=0.75, color=FLOW, linewidth=0.7, arrowsize=0.75, arrowstyle="->",
    )  # fmt: skip
    axes.plot(*found.parabola.T, color=SOFT, lw=1.3, ls=(0, (1.5, 1.5)))
    for curves, colour in ((found.s_nullcline, PURPLE), (found.p_nullcline, GREEN)):
        for curve in curves:
            axes.plot(*curve.T, color=colour, lw=1.5, ls="-" if colour == GREEN else (0, (6, 2)), clip_on=False)
    if len(found.edge):
        axes.plot(*found.edge.T, color=COLLAPSE, lw=2.2)
    for path in found.paths:
        _trajectory(axes, path.p, path.s, LEARN if _learns(found, path) else COLLAPSE)
    for attracts, line in found.lines:
        axes.plot(*line.T, color=INK, lw=3.0, ls="-" if attracts else (0, (0.6, 1.2)), zorder=8, clip_on=False)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    for point in found.points:
        if _inside(found, *point.at):
            mark(axes, point, point.at)
        elif point.kind == "stable":
            point_out(axes, point.at)


def _inside(found: Portrait, p: float, s: float) -> bool:
    (left, right), (low, high) = found.p_range, found.s_range
    return left <= p <= right and low <= s <= high


def _basin(axes: Any, found: Portrait) -> None:
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([BASIN, UNKNOWN, "#ffffff"])  # collapses, unknown, learns
    box = (*found.p_range, *found.s_range)
    axes.imshow(
        found.outcome, extent=box, origin="lower", cmap=colours, vmin=-1, vmax=1, aspect="auto", zorder=0,
        interpolation="nearest",
    )  # fmt: skip


def _learns(found: Portrait, path: Course) -> bool:
    from siamscope.dynamics.portrait import outcomes

    return bool(outcomes(found.modes, path.p[0], path.s[0])[0] > 0)


def _trajectory(axes: Any, p: Any, s: Any, colour: str) -> None:
    axes.plot(p, s, color=colour, lw=1.7)
    axes.plot(p[:1], s[:1], "s", color=colour, ms=4.5)


def _legend(figure: Any, panels: Sequence[Portrait], columns: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    learns = {_learns(panel, path) for panel in panels for path in panel.paths}
    pieces = {attracts for panel in panels for attracts, _ in panel.lines}
    entries = [  # whether it is drawn, and how
        (any(panel.collapse for panel in panels), Patch(fc=BASIN, ec="none", label="basin of collapse")),
        (any(panel.unknown for panel in panels), Patch(fc=UNKNOWN, ec="none", label="not known")),
        (any(_seen(panel.edge) for panel in panels),
         Line2D([], [], color=COLLAPSE, lw=2.2, label="its edge (separatrix)")),
        (any(panel.p_nullcline for panel in panels), Line2D([], [], color=GREEN, lw=1.5, label="$dp/dt = 0$")),
        (any(panel.s_nullcline for panel in panels),
         Line2D([], [], color=PURPLE, lw=1.5, ls=(0, (6, 2)), label="$ds/dt = 0$")),
        (any(_seen(panel.parabola) for panel in panels),
         Line2D([], [], color=SOFT, lw=1.3, ls=(0, (1.5, 1.5)), label=r"parabola $s = p^2/\alpha_p$")),
        (True in learns, Line2D([], [], color=LEARN, lw=1.7, marker="s", ms=4.5, label="a mode that learns")),
        (False in learns, Line2D([], [], color=COLLAPSE, lw=1.7, marker="s", ms=4.5, label="a mode that collapses")),
        (True in pieces, Line2D([], [], color=INK, lw=3, label="line of fixed points")),
        (False in pieces, Line2D([], [], color=INK, lw=3, ls=(0, (0.6, 1.2)), label="line of fixed points, repelling")),
    ]  # fmt: skip
    marked = [point.kind for panel in panels for point in panel.points if _inside(panel, *point.at)]
    legend(figure, [handle for drawn, handle in entries if drawn] + mark_handles(marked), columns)


def _seen(curve: Any) -> bool:
    return bool(np.isfinite(curve).all(-1).any())


def _tables(panels: Sequence[Portrait], folder: Path, name: str) -> list[Path]:
    return [
        save_table(
            folder, f"{name}-panels", ("panel", *_PARAMETERS, "eta_limit", "collapse_share", "unknown_share"),
            _each(panels, _facts),
        ),
        save_table(
            folder, f"{name}-points", ("panel", *_PARAMETERS, "p", "s", "eigenvalue_1", "eigenvalue_2", "kind"),
            _each(panels, _points),
        ),
        save_table(folder, f"{name}-curves", ("panel", "curve", "piece", "p", "s"), _each(panels, _curves)),
        save_table(folder, f"{name}-paths", ("panel", "path", "t", "p", "s"), _each(panels, _paths), 8),
        save_table(folder, f"{name}-field", ("panel", "p", "s", "dp_dt", "ds_dt", "outcome"), _each(panels, _field), 7),
    ]  # fmt: skip


def _each(panels: Sequence[Portrait], rows: Any) -> Iterator[list[Cell]]:
    for i, found in enumerate(panels, 1):
        for row in rows(found):
            yield [i, *row]


def _own(found: Portrait) -> list[Cell]:
    modes = found.modes
    return [float(value) for value in (modes.alpha_p, modes.eta, modes.sigma2, modes.constant_tau, modes.signal)]


def _facts(found: Portrait) -> Iterator[list[Cell]]:
    yield [*_own(found), float(found.modes.eta_limit), found.collapse, found.unknown]


def _field(found: Portrait) -> Iterator[list[Cell]]:
    words = {-1: "collapses", 0: "unknown", 1: "learns"}
    for j, s in enumerate(found.s):
        for i, p in enumerate(found.p):
            yield [float(p), float(s), float(found.dp[j, i]), float(found.ds[j, i]), words[int(found.outcome[j, i])]]


def _curves(found: Portrait) -> Iterator[list[Cell]]:
    lines = [(curve, "rest attracting" if attracts else "rest repelling") for attracts, curve in found.lines]
    named = [
        *((curve, "dp_dt=0") for curve in found.p_nullcline), *((curve, "ds_dt=0") for curve in found.s_nullcline),
        (found.parabola, "parabola"), (found.edge, "separatrix"), *lines,
    ]  # fmt: skip
    for piece, (curve, kind) in enumerate(named, 1):
        for p, s in curve[np.isfinite(curve).all(1)]:
            yield [kind, piece, float(p), float(s)]


def _points(found: Portrait) -> Iterator[list[Cell]]:
    for point in found.points:
        yield [*_own(found), *point.at, *(value.real for value in point.eigenvalues), point.kind]


def _paths(found: Portrait) -> Iterator[list[Cell]]:
    for i, path in enumerate(found.paths, 1):
        for t, p, s in zip(path.t, path.p, path.s, strict=True):
            yield [i, float(t), float(p), float(s)]
