"""The figure of `siamscope sweep`: score of every trial, the best so far, and the score against what was searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamscope.report.dynamics_style import COLLAPSE, INK, LEARN, SOFT, dress, legend, new_figure
from siamscope.report.figure import save_png

DPI = 130
MOST_PANELS = 3


@dataclass(frozen=True)
class Axis:
    """A searched field. log: whether its axis is logarithmic, from `low` to `high`.  named: its values are names."""

    name: str
    log: bool
    named: bool
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Dot:
    """A trial: its number, its values by field, its score (the last that was measured, if it was pruned)."""

    number: int
    values: dict[str, Any]
    score: float
    pruned: bool
    chosen: bool


def write_sweep(dots: Sequence[Dot], axes: Sequence[Axis], score: str, maximise: bool, out: Path) -> Path:
    """Write the picture as PNG; pruned trials are crosses, and a trial without any score is not drawn.

    Raises:
        ReportError: the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator, NullFormatter

    shown = list(axes[:MOST_PANELS])
    figure = new_figure(4.4 + 3.1 * len(shown), 3.9)
    panels = figure.subplots(1, 1 + len(shown), sharey=True, width_ratios=[1.3] + [1.0] * len(shown), squeeze=False)[0]
    better = "higher is better" if maximise else "lower is better"
    dress(panels[0], "", "trial", f"{score} ({better})", grid=True)
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    _draw(panels[0], dots, [dot.number for dot in dots])
    finished = sorted((dot for dot in dots if not dot.pruned), key=lambda dot: dot.number)
    best: list[float] = []
    for dot in finished:
        value = dot.score if not best else (max if maximise else min)(best[-1], dot.score)
        best.append(value)
    if finished:
        ends = [*[dot.number for dot in finished], max(dot.number for dot in dots)]
        panels[0].step(ends, [*best, best[-1]], where="post", color=LEARN, lw=1.4, zorder=2)
    for panel, axis in zip(panels[1:], shown, strict=True):
        dress(panel, "", axis.name, grid=True)
        _draw(panel, dots, [str(dot.values[axis.name]) if axis.named else dot.values[axis.name] for dot in dots])
        if axis.log:
            panel.set_xscale("log")
            panel.set_xlim(axis.low / 1.3, axis.high * 1.3)
            panel.xaxis.set_minor_formatter(NullFormatter())
    legend(figure, _handles(dots), 4)
    return save_png(figure, out, DPI)


def _draw(panel: Any, dots: Sequence[Dot], places: Sequence[Any]) -> None:
    for dot, x in zip(dots, places, strict=True):
        if dot.pruned:
            panel.plot([x], [dot.score], "x", color=COLLAPSE, ms=6.5, mew=1.6, zorder=3)
        else:
            panel.plot([x], [dot.score], "o", color=SOFT, ms=5.5, zorder=3)
        if dot.chosen:
            panel.plot([x], [dot.score], "o", mfc="none", mec=INK, ms=12, mew=1.6, zorder=4)


def _handles(dots: Sequence[Dot]) -> list[Any]:
    from matplotlib.lines import Line2D

    looks: list[Any] = [
        Line2D([], [], ls="", marker="o", color=SOFT, ms=5.5, label="finished"),
        Line2D([], [], color=LEARN, lw=1.4, label="best so far"),
    ]
    if any(dot.pruned for dot in dots):
        looks.append(Line2D([], [], ls="", marker="x", color=COLLAPSE, mew=1.6, label="pruned (last measured)"))
    if any(dot.chosen for dot in dots):
        looks.append(Line2D([], [], ls="", marker="o", mfc="none", mec=INK, ms=11, mew=1.6, label="chosen"))
    return looks
