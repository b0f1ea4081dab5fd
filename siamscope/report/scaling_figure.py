"""The figure of `siamscope scaling`: what a step sends, and how its efficiency falls with the number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamscope.report.dynamics_style import LINES, SERIES, SOFT, dress, legend, new_figure
from siamscope.report.figure import COLOURS, save_png

DPI = 130
MOST_LINKS, MOST_METHODS = 3, 9
MARKS = ["o", "s", "D", "^"]


def write_scaling(records: Sequence[dict[str, Any]], out: Path) -> Path:
    """Left: bytes a process sends in a step at the largest number of processes, every method. Right: efficiency by link
    (three at most), of the first method of each objective; the others go with it.

    Raises:
        ReportError: the file cannot be written.
    """
    links = list(dict.fromkeys(r["link"] for r in records))[:MOST_LINKS]
    figure = new_figure(6.2 + 3.3 * len(links), 5.6)
    panels = figure.subplots(1, 1 + len(links), width_ratios=[1.25] + [1.0] * len(links), squeeze=False)[0]
    _bytes(panels[0], [r for r in records if r["link"] == links[0]])
    chosen = _chosen(records)
    for panel, name in zip(panels[1:], links, strict=True):
        _efficiency(panel, [r for r in records if r["link"] == name], chosen)
        dress(panel, f"{name} between nodes", "processes", "efficiency" if panel is panels[1] else "", grid=True)
    legend(figure, [*_purposes(records), *_methods(chosen)], 7)
    return save_png(figure, out, DPI)


def _bytes(panel: Any, records: Sequence[dict[str, Any]]) -> None:
    largest = max(r["processes"] for r in records)
    last = [r for r in records if r["processes"] == largest]
    for place, record in enumerate(last):
        panel.axhline(place, color="#e6e8eb", lw=0.7, zorder=0)
        for (_, sent), mark, colour in zip(record["bytes"].items(), MARKS, SERIES, strict=False):
            if sent:
                panel.plot([sent / 1e6], [place], mark, color=colour, ms=6, alpha=0.9, zorder=3)
    dress(panel, f"sent in a step at {largest} processes", "MB a process")
    if any(sum(record["bytes"].values()) for record in last):
        panel.set_xscale("log")
    panel.set_yticks(range(len(last)), [r["method"] for r in last])
    panel.set_ylim(len(last) - 0.5, -0.5)


def _efficiency(panel: Any, records: Sequence[dict[str, Any]], chosen: Sequence[str]) -> None:
    from matplotlib.ticker import FuncFormatter

    for number, name in enumerate(chosen):
        mine = [r for r in records if r["method"] == name]
        panel.plot(
            [r["processes"] for r in mine], [r["efficiency"] for r in mine], color=COLOURS[number % len(COLOURS)],
            ls=LINES[number % len(LINES)], lw=1.8, marker="o" if len(mine) == 1 else None,
        )  # fmt: skip
    panel.axhline(0.5, color=SOFT, lw=0.8, ls=(0, (1, 2)))
    panel.set_xscale("log", base=2)
    panel.set_ylim(0, 1.03)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))


def _chosen(records: Sequence[dict[str, Any]]) -> list[str]:
    """The first method of each objective; all of them, if they are few."""
    names = list(dict.fromkeys(r["method"] for r in records))
    if len(names) <= MOST_METHODS:
        return names
    first: dict[str, str] = {}
    for record in records:
        first.setdefault(record["objective"], record["method"])
    return list(first.values())[:MOST_METHODS]


def _purposes(records: Sequence[dict[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D

    names = list(records[0]["bytes"])
    return [
        Line2D([], [], ls="", marker=mark, color=colour, ms=6, label=name)
        for name, mark, colour in zip(names, MARKS, SERIES, strict=False)
    ]


def _methods(chosen: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], ls=LINES[k % len(LINES)], lw=1.8, label=name)
        for k, name in enumerate(chosen)
    ]
