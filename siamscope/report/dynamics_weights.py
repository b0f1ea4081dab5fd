"""The figure of `siamscope dynamics portrait --plane weights`: three planes of a network of one weight a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamscope.report.dynamics_style import (
    COLLAPSE,
    FLOW,
    INK,
    LEARN,
    SOFT,
    Cell,
    dress,
    legend,
    mark,
    mark_handles,
    new_figure,
    save,
    save_table,
)

if TYPE_CHECKING:
    from siamscope.dynamics.plane import FixedPoint
    from siamscope.dynamics.weights import WeightPlane

_TITLES = {
    "frozen": "target at rest: the fast weights",
    "tied": "target follows, $w_p = \\sqrt{\\alpha_p}\\,w$",
    "none": "no predictor, $w_p = 1$",
}
_SIGNS = {"w_p": "$w_p$", "w": "$w$", "w_a": "$w_a$"}


def write_planes(planes: Sequence[WeightPlane], folder: Path, name: str = "portrait-weights") -> list[Path]:
    """PNG, SVG and four tables: -field, -curves, -points, -paths.

    Raises:
        ReportError: a file cannot be written.
    """
    figure = new_figure(4.1 * len(planes), 4.75)
    for axes, plane in zip(figure.subplots(1, len(planes)), planes, strict=True):
        _panel(axes, plane)
    _legend(figure, planes)
    return [*save(figure, folder, name), *_tables(planes, folder, name)]


def _panel(axes: Any, plane: WeightPlane) -> None:
    dress(axes, _TITLES[plane.name], _SIGNS[plane.axes[0]], _SIGNS[plane.axes[1]])
    axes.streamplot(
        plane.x, plane.y, plane.dx, plane.dy, density=0.85, color=FLOW, linewidth=0.7, arrowsize=0.75, arrowstyle="->",
    )  # fmt: skip
    axes.axhline(0, color="#e2e4e8", lw=0.8, zorder=0)
    axes.axvline(0, color="#e2e4e8", lw=0.8, zorder=0)
    for path in plane.paths:
        colour = LEARN if _alive(path) else COLLAPSE
        axes.plot(*path.T, color=colour, lw=1.6)
        axes.plot(*path[0], "s", color=colour, ms=4.5)
    if len(plane.rest):
        axes.plot(*plane.rest.T, color=INK, lw=3)
    if len(plane.edge):
        axes.plot(*plane.edge.T, color=SOFT, lw=1.5, ls=(0, (1.5, 1.5)))
    (left, right), (low, high) = ((values[0], values[-1]) for values in (plane.x, plane.y))
    shown = _shown(plane)
    for before, point in zip([None, *shown], shown, strict=False):
        mark(axes, point, point.at)
        near = before is not None and np.hypot(*np.subtract(point.at, before.at)) < 0.15 * (right - left)
        _eigenvalues(axes, point, above=near, to_left=near or point.at[0] > left + 0.6 * (right - left))
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_box_aspect(1)
    axes.locator_params(nbins=5)


def _shown(plane: WeightPlane) -> list[FixedPoint]:
    """The fixed points inside the box."""
    (left, right), (low, high) = ((values[0], values[-1]) for values in (plane.x, plane.y))
    return [p for p in plane.points if left <= p.at[0] <= right and low <= p.at[1] <= high]


def _alive(path: Any) -> bool:
    return bool(np.hypot(*path[-1]) > 0.05 * np.hypot(*path[0]))


def _eigenvalues(axes: Any, point: FixedPoint, above: bool, to_left: bool) -> None:
    rates = ", ".join(f"{value.real:.3g}" for value in point.eigenvalues).replace("-", "−")
    axes.annotate(
        rates, point.at, xytext=(-9 if to_left else 9, 8 if above else -13), textcoords="offset points", fontsize=9.5,
        ha="right" if to_left else "left", bbox={"fc": "white", "ec": "none", "alpha": 0.85, "pad": 1}, zorder=10,
    )  # fmt: skip


def _legend(figure: Any, planes: Sequence[WeightPlane]) -> None:
    from matplotlib.lines import Line2D

    fates = {_alive(path) for plane in planes for path in plane.paths}
    handles = []
    if True in fates:
        handles.append(Line2D([], [], color=LEARN, lw=1.6, marker="s", ms=4.5, label="learns"))
    if False in fates:
        handles.append(Line2D([], [], color=COLLAPSE, lw=1.6, marker="s", ms=4.5, label="collapses"))
    if any(len(plane.rest) for plane in planes):
        handles.append(Line2D([], [], color=INK, lw=3, label="curve of fixed points"))
    if any(len(plane.edge) for plane in planes):
        handles.append(Line2D([], [], color=SOFT, lw=1.5, ls=(0, (1.5, 1.5)), label="way into the saddle"))
    marks = mark_handles(point.kind for plane in planes for point in _shown(plane))
    legend(figure, [*handles, *marks, Line2D([], [], ls="", label="numbers: eigenvalues")], 4)


def _tables(planes: Sequence[WeightPlane], folder: Path, name: str) -> list[Path]:
    start = ("plane", "x_name", "y_name")
    return [
        save_table(folder, f"{name}-field", (*start, "x", "y", "dx_dt", "dy_dt"), _each(planes, _field)),
        save_table(folder, f"{name}-curves", (*start, "curve", "x", "y"), _each(planes, _curves)),
        save_table(
            folder, f"{name}-points", (*start, "x", "y", "eigenvalue_1", "eigenvalue_2", "kind"), _each(planes, _points)
        ),
        save_table(folder, f"{name}-paths", (*start, "path", "x", "y"), _each(planes, _paths)),
    ]


def _each(planes: Sequence[WeightPlane], rows: Any) -> Iterator[list[Cell]]:
    for plane in planes:
        for row in rows(plane):
            yield [plane.name, *plane.axes, *row]


def _field(plane: WeightPlane) -> Iterator[list[Cell]]:
    for j, y in enumerate(plane.y):
        for i, x in enumerate(plane.x):
            yield [float(x), float(y), float(plane.dx[j, i]), float(plane.dy[j, i])]


def _curves(plane: WeightPlane) -> Iterator[list[Cell]]:
    for kind, curve in (("rest", plane.rest), ("separatrix", plane.edge)):
        for x, y in curve[np.isfinite(curve).all(1)]:
            yield [kind, float(x), float(y)]


def _points(plane: WeightPlane) -> Iterator[list[Cell]]:
    for point in plane.points:
        yield [*point.at, *(value.real for value in point.eigenvalues), point.kind]


def _paths(plane: WeightPlane) -> Iterator[list[Cell]]:
    for i, path in enumerate(plane.paths, 1):
        for x, y in path:
            yield [i, float(x), float(y)]
