"""The figure of a comparison of methods: one line a method (and rho), with and without a momentum target side by side.

The same lines are drawn as PNG (for a README or a slide) and as inline SVG in the page's colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.report.figure import save_png
from siamscope.report.markup import Html, join, tag
from siamscope.report.scale import Scale, limits
from siamscope.report.svg import legend

BLUE, ORANGE, GREY, INK = "#0072b2", "#c67700", "#6b727c", "#1b1d21"
AXES = {"knn": ("k-NN accuracy (%)", 100.0, 1), "effective_rank": ("effective rank of the features", 1.0, 1)}
"""Title, factor and decimals of the figure that is drawn."""
_BASELINES = (("untrained", "untrained encoder", "6 3"), ("raw_pixels", "raw pixels", "2 3"))
_MARKS = ((True, "momentum target"), (False, "target without momentum"))


@dataclass(frozen=True)
class Mark:
    """Mean, standard deviation (None for one seed) and the single values of one cell, in the axis' unit."""

    label: str
    momentum: bool
    mean: float
    sd: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """One line of the figure: its marks, the one with the published target first, or why there are none."""

    label: str
    marks: tuple[Mark, ...]
    problem: str


@dataclass(frozen=True)
class Picture:
    """All that is drawn: lines from best to worst, baselines (title, mean, sd, dash), the axis' title and decimals."""

    lines: tuple[Line, ...]
    baselines: tuple[tuple[str, float, float | None, str], ...]
    axis: str
    digits: int

    @property
    def span(self) -> tuple[float, float]:
        """The ends of the axis."""
        values = [value for line in self.lines for mark in line.marks for value in _reach(mark)]
        values += [mean + sign * (sd or 0.0) for _, mean, sd, _ in self.baselines for sign in (-1, 1)]
        return limits(np.array(values, dtype=np.float64))


def picture(facts: Mapping[str, Any]) -> Picture:
    """The figure's content from that of compare.json."""
    figure = facts["figure"]
    axis, factor, digits = AXES[figure]
    cells = {cell["key"]: cell for cell in facts["cells"]}
    values: dict[str, list[float]] = {name: [] for name in cells}
    for run in facts["runs"]:
        if run["status"] == "finished" and run.get(figure) is not None:
            values[run["cell"]].append(factor * run[figure])
    lines = []
    for method, rho in dict.fromkeys((cell["method"], cell["rho"]) for cell in _in_order(facts["cells"])):
        mine = [cell for cell in facts["cells"] if (cell["method"], cell["rho"]) == (method, rho)]
        mine.sort(key=lambda cell: (not cell["published"], len(cell["key"])))
        lines.append(_line(mine, values, figure, factor))
    known = [(title, facts["baselines"][name].get(figure), dash) for name, title, dash in _BASELINES]
    drawn = tuple(
        (title, factor * found["mean"], None if found["sd"] is None else factor * found["sd"], dash)
        for title, found, dash in known
        if found and found["mean"] is not None
    )
    return Picture(tuple(lines), drawn, axis, digits)


def _in_order(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Methods by the place of their published row, each with its variants behind it."""
    place = {cell["method"]: index for index, cell in reversed(list(enumerate(cells))) if cell["published"]}
    return sorted(cells, key=lambda cell: (place.get(cell["method"], len(cells)), len(cell["key"])))


def _line(cells: Sequence[Mapping[str, Any]], values: Mapping[str, list[float]], figure: str, factor: float) -> Line:
    first = cells[0]
    other_rho = first["rho"] is not None and not first["published"]
    label = first["method"] + (f", rho {first['rho']:g}" if other_rho else "")
    marks = []
    for cell in cells:
        found = cell["figures"][figure]
        if found["mean"] is not None:
            sd = None if found["sd"] is None else factor * found["sd"]
            named = cell["label"], cell["target"] == "momentum"
            marks.append(Mark(*named, factor * found["mean"], sd, tuple(values[cell["key"]])))
    problems = [problem for cell in cells for problem in cell["problems"]]
    return Line(label, tuple(marks), problems[0].splitlines()[0] if problems else "not run")


def _reach(mark: Mark) -> list[float]:
    return [*mark.values, mark.mean - (mark.sd or 0.0), mark.mean + (mark.sd or 0.0)]


def spread(mark: Mark, digits: int) -> str:
    """`45.2 ± 0.8`, without a standard deviation the mean alone."""
    text = f"{mark.mean:.{digits}f}"
    return text if mark.sd is None else f"{text} ± {mark.sd:.{digits}f}"


def _offset(line: Line, mark: Mark) -> float:
    """Marks of one line lie a little above (momentum) and below each other; a single one on the line."""
    return 0.0 if len(line.marks) < 2 else -0.17 if mark.momentum else 0.17


# ------------------------------------------------------------------------------------------ PNG


def write_png(facts: Mapping[str, Any], out: Path, dpi: int = 150) -> Path:
    """Write the figure as PNG.

    Raises:
        ReportError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    drawn = picture(facts)
    figure = Figure(figsize=(8.6, 1.5 + 0.29 * len(drawn.lines)), layout="constrained")
    axes = figure.subplots()
    _draw(axes, drawn)
    seeds = len(facts["seeds"])
    counted = f"{seeds} seeds (dots), mean ± sd" if seeds > 1 else "1 seed"
    title = f"{facts['data']['name']}, {facts['shared']['network']['backbone']}, one recipe, {counted}"
    axes.set_title(title, fontsize=10, loc="left", pad=8 + 10 * len(drawn.baselines))
    if any(line.marks for line in drawn.lines):
        figure.legend(*axes.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower right", ncols=2)
    return save_png(figure, out, dpi)


def _draw(axes: Any, drawn: Picture) -> None:
    low, high = drawn.span
    axes.set_xlim(low, high)
    axes.set_ylim(len(drawn.lines) - 0.4, -0.6)
    axes.set_yticks(range(len(drawn.lines)), [line.label for line in drawn.lines], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(drawn.axis, fontsize=9)
    axes.grid(axis="y", color="#e4e6ea", lw=0.7)
    axes.set_axisbelow(True)
    for index, (title, mean, sd, _) in enumerate(drawn.baselines):
        axes.axvline(mean, color=GREY, lw=1, ls="--" if index == 0 else ":")
        if sd:
            axes.axvspan(mean - sd, mean + sd, color=GREY, alpha=0.12, lw=0)
        axes.annotate(f"{title} {mean:.{drawn.digits}f}", (mean, 1), xycoords=("data", "axes fraction"), fontsize=7.5,
                      xytext=(0, 3 + 9 * index), textcoords="offset points", ha="center", color=GREY)  # fmt: skip
    for index, line in enumerate(drawn.lines):
        _draw_line(axes, index, line, drawn.digits)
    present = {mark.momentum for line in drawn.lines for mark in line.marks}
    for momentum, title in _MARKS:
        if momentum in present:
            axes.plot([], [], **_style(momentum), ls="", label=title)


def _style(momentum: bool) -> dict[str, Any]:
    colour = BLUE if momentum else ORANGE
    shape = "o" if momentum else "s"
    return {"marker": shape, "ms": 5.5, "mec": colour, "mfc": colour if momentum else "white", "mew": 1.4}


def _draw_line(axes: Any, index: int, line: Line, digits: int) -> None:
    right = axes.get_xlim()[1]
    if not line.marks:
        text = line.problem if len(line.problem) < 100 else line.problem[:98] + "…"
        axes.text(axes.get_xlim()[0], index, f" {text}", fontsize=7, va="center", color=GREY, style="italic")
        return
    heights = [index + _offset(line, mark) for mark in line.marks]
    axes.plot([mark.mean for mark in line.marks], heights, color="#b9bec7", lw=1.2, zorder=1)
    for mark, height in zip(line.marks, heights, strict=True):
        style = _style(mark.momentum)
        if mark.sd is not None:
            axes.plot(
                [mark.mean - mark.sd, mark.mean + mark.sd], [height, height], color=style["mec"], lw=1.6, zorder=2
            )
        axes.plot(mark.values, [height] * len(mark.values), "o", ms=2.2, color=INK, alpha=0.55, mew=0, zorder=4)
        axes.plot([mark.mean], [height], ls="", zorder=3, **style)
    axes.annotate(spread(line.marks[0], digits), (right, index), xytext=(6, 0), textcoords="offset points",
                  va="center", fontsize=8, annotation_clip=False)  # fmt: skip


# ------------------------------------------------------------------------------------------ SVG

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 420, 112, 70, 18, 34


def svg(facts: Mapping[str, Any]) -> Html:
    """The figure as inline SVG with its legend."""
    drawn = picture(facts)
    bottom = _TOP + _ROW * len(drawn.lines)
    across = Scale(*drawn.span, _LEFT, _WIDTH - _RIGHT)
    parts = [*_baselines(drawn, across, bottom), _ticks(across, bottom)]
    for index, line in enumerate(drawn.lines):
        parts.append(_svg_line(line, across, _TOP + _ROW * (index + 0.5), drawn.digits))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(tag("text", drawn.axis, x=middle, y=bottom + 30, text_anchor="middle", class_="label"))
    chart = tag(
        "svg", *parts, viewBox=f"0 0 {_WIDTH} {bottom + 36}", role="img", class_="chart",
        aria_label=_description(drawn),
    )  # fmt: skip
    present = {mark.momentum for line in drawn.lines for mark in line.marks}
    keys = [_key(momentum, title) for momentum, title in _MARKS if momentum in present]
    return join(legend(*keys), tag("div", chart, class_="wide", style="max-width:620px"))


def _key(momentum: bool, title: str) -> Html:
    """One legend entry."""
    mark = tag("path", d=f"M8 6{_shape(momentum, 3.6)}", **_mark_style(momentum))
    return tag("li", tag("svg", mark, viewBox="0 0 16 12", class_="swatch", aria_hidden="true"), title)


def _mark_style(momentum: bool) -> dict[str, str]:
    """Full with a momentum target, hollow without."""
    return {"class_": f"line c{0 if momentum else 1}", "style": f"fill:var(--{'c' if momentum else 'page'})"}


def _ticks(across: Scale, bottom: float) -> Html:
    parts: list[Html] = []
    for value, label in across.ticks(5):
        place = round(float(across(np.array([value]))[0]), 1)
        parts.append(tag("path", d=f"M{place:g} {_TOP}V{bottom}", class_="grid"))
        parts.append(tag("text", label, x=place, y=bottom + 14, text_anchor="middle"))
    parts.append(tag("path", d=f"M{_LEFT} {bottom}H{_WIDTH - _RIGHT}", class_="axis"))
    return tag("g", *parts)


def _baselines(drawn: Picture, across: Scale, bottom: float) -> list[Html]:
    parts: list[Html] = []
    for index, (title, mean, sd, dash) in enumerate(drawn.baselines):
        low, place, high = (round(float(x), 1) for x in across(np.array([mean - (sd or 0), mean, mean + (sd or 0)])))
        parts.append(
            tag("rect", x=low, y=_TOP, width=high - low, height=bottom - _TOP, class_="track") if sd else Html()
        )
        parts.append(tag("path", d=f"M{place:g} {_TOP - 2}V{bottom}", class_="axis", stroke_dasharray=dash))
        text = f"{title} {mean:.{drawn.digits}f}"
        near_right = place > _WIDTH - _RIGHT - 40
        anchor = "end" if near_right else "start" if place < _LEFT + 40 else "middle"
        parts.append(tag("text", text, x=place, y=_TOP - 6 - 13 * index, text_anchor=anchor))
    return parts


def _svg_line(line: Line, across: Scale, y: float, digits: int) -> Html:
    name = tag("text", line.label, x=_LEFT - 8, y=y + 4, text_anchor="end", class_="label")
    if not line.marks:
        return tag("g", name, tag("text", f"{line.problem.partition(':')[0]}: see below", x=_LEFT + 4, y=y + 4))
    heights = [y + _ROW * _offset(line, mark) for mark in line.marks]
    middles = [float(x) for x in across(np.array([mark.mean for mark in line.marks]))]
    parts = [name]
    if len(middles) > 1:
        ends = f"M{middles[0]:.1f} {heights[0]:.1f}L{middles[1]:.1f} {heights[1]:.1f}"
        parts.append(tag("path", d=ends, class_="line quiet"))
    for mark, x, height in zip(line.marks, middles, heights, strict=True):
        parts.append(_svg_mark(mark, across, x, height, digits))
    value = tag(
        "text", spread(line.marks[0], digits), x=_WIDTH - 2, y=y + 4, text_anchor="end", style="fill:var(--ink)"
    )
    return tag("g", *parts, value)


def _svg_mark(mark: Mark, across: Scale, x: float, y: float, digits: int) -> Html:
    colour = "c0" if mark.momentum else "c1"
    parts = [tag("title", f"{mark.label}: {spread(mark, digits)} ({len(mark.values)} seeds)")]
    if mark.sd is not None:
        low, high = across(np.array([mark.mean - mark.sd, mark.mean + mark.sd]))
        parts.append(tag("path", d=f"M{low:.1f} {y:.1f}H{high:.1f}", class_=f"line {colour}"))
    parts.append(tag("path", d=f"M{x:.1f} {y:.1f}{_shape(mark.momentum, 3.2)}", **_mark_style(mark.momentum)))
    for value in across(np.array(mark.values)):
        parts.append(tag("circle", cx=round(float(value), 1), cy=round(y, 1), r=1.1, style="fill:var(--ink)"))
    return tag("g", *parts)


def _shape(momentum: bool, size: float) -> str:
    """A circle with a momentum target, a square without: shape tells as well as colour."""
    if momentum:
        return f"m{-size:g} 0a{size:g} {size:g} 0 1 0 {2 * size:g} 0a{size:g} {size:g} 0 1 0 {-2 * size:g} 0z"
    side = 0.9 * size
    return f"m{-side:g} {-side:g}h{2 * side:g}v{2 * side:g}h{-2 * side:g}z"


def _description(drawn: Picture) -> str:
    told = [f"{mark.label} {spread(mark, drawn.digits)}" for line in drawn.lines for mark in line.marks]
    base = [f"{title} {mean:.{drawn.digits}f}" for title, mean, *_ in drawn.baselines]
    return f"{drawn.axis}, mean over seeds: " + "; ".join(told[:60] + base) + "."
