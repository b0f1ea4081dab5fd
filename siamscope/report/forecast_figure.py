"""The figure of `siamscope forecast fit`: accuracy predicted against measured, and against the first feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.report.dynamics_style import COLLAPSE, INK, SERIES, SOFT, dress, legend, new_figure, save, save_table

MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
WORDS = {
    "auc_sigma": "AUC of the spectrum (higher = more collapsed)",
    "auc_relative": "AUC relative to its range (1 = rank one)",
    "loss": "loss at the end",
    "rankme": "RankMe",
    "effective_rank": "effective rank",
}


@dataclass(frozen=True)
class Shown:
    """What is drawn: (n,) columns, and words.

    Attributes:
        predicted: of each run by a fit to the others.  fitted: by the fit to all.
        x: the first feature, by the name `x_name`.
    """

    names: Sequence[str]
    groups: Sequence[str]
    measured: Sequence[float]
    predicted: Sequence[float]
    fitted: Sequence[float]
    x: Sequence[float]
    x_name: str
    target: str
    split: str
    loo_r2: float
    rmse: float
    title: str
    group_name: str


def write_forecast(shown: Shown, folder: Path, name: str) -> list[Path]:
    """PNG, SVG and a table with a row for each run.

    Raises:
        ReportError: a file cannot be written.
    """
    figure = new_figure(9.4, 4.9)
    left, right = figure.subplots(1, 2)
    looks = _looks(shown.groups)
    _against_measured(left, shown, looks)
    _against_feature(right, shown, looks)
    legend(figure, _handles(shown, looks), min(len(looks) + 1, 5))
    header = ("run", shown.group_name, shown.x_name, "measured", "predicted_by_others", "fitted")
    columns = (shown.names, shown.groups, shown.x, shown.measured, shown.predicted, shown.fitted)
    return [*save(figure, folder, name), save_table(folder, name, header, zip(*columns, strict=True))]


def _looks(groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and mark of each group."""
    return {
        group: {"color": SERIES[i % len(SERIES)], "marker": MARKS[i % len(MARKS)]}
        for i, group in enumerate(dict.fromkeys(groups))
    }


def _scatter(axes: Any, x: Any, y: Any, groups: Sequence[str], looks: dict[str, dict[str, Any]]) -> None:
    labels = np.asarray(groups)
    for group, look in looks.items():
        own = labels == group
        axes.plot(x[own], y[own], ls="", ms=6, alpha=0.85, mec="white", mew=0.6, **look)


def _against_measured(axes: Any, shown: Shown, looks: dict[str, dict[str, Any]]) -> None:
    measured, predicted = 100 * np.asarray(shown.measured), 100 * np.asarray(shown.predicted)
    both = np.concatenate([measured, predicted])
    room = 0.06 * float(np.ptp(both)) or 1.0
    ends = float(both.min()) - room, float(both.max()) + room
    dress(axes, "each run predicted by the others", grid=True)
    axes.plot(ends, ends, color=SOFT, lw=1.2)
    axes.axhline(float(measured.mean()), color=SOFT, lw=1, ls=(0, (2, 2)))
    _scatter(axes, measured, predicted, shown.groups, looks)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_aspect("equal")
    where = f", {shown.split}" if shown.split else ""
    axes.set_xlabel(f"measured {shown.target} accuracy{where} (%)", fontsize=11)
    axes.set_ylabel(f"predicted (%) from\n{shown.title}", fontsize=11)
    axes.text(
        0.03, 0.97, f"left-out $R^2$ = {shown.loo_r2:.2f}\nRMSE = {100 * shown.rmse:.1f} points", color=INK,
        transform=axes.transAxes, va="top", fontsize=10.5, bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 2},
    )  # fmt: skip


def _against_feature(axes: Any, shown: Shown, looks: dict[str, dict[str, Any]]) -> None:
    x, y = np.asarray(shown.x), 100 * np.asarray(shown.measured)
    dress(axes, f"{len(x)} runs and the line through them", grid=True)
    slope, start = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, start + slope * ends, color=COLLAPSE, lw=1.6)
    _scatter(axes, x, y, shown.groups, looks)
    axes.set_xlabel(WORDS.get(shown.x_name, shown.x_name.replace("_", " ")), fontsize=11)
    axes.set_ylabel(f"measured {shown.target} accuracy (%)", fontsize=11)


def _handles(shown: Shown, looks: dict[str, dict[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], ls="", ms=6.5, mec="white", label=group, **look) for group, look in looks.items()]
    return [*marks, Line2D([], [], color=SOFT, lw=1, ls=(0, (2, 2)), label="mean of all runs")]
