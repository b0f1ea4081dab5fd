"""Inline SVG charts that take their colours from the page's CSS variables: lines, scatter, horizontal bars.

Colour classes: c0..c7 name the categorical palette, r0..r7 the ordered ramp, `quiet` the grey of baselines.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siamscope.report.markup import Html, join, number, tag, whole
from siamscope.report.metrics import FloatArray
from siamscope.report.scale import Scale, Thinned, limits, thin

DASHES = (None, "6 3", "2 3", "8 3 2 3")
COLOURS = 8
MARKERS = (
    "m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0z",  # circle
    "m-2.3-2.3h4.6v4.6h-4.6z",  # square
    "m0-3.1 2.9 5h-5.8z",  # triangle
    "m0-3.4 3 3.4-3 3.4-3-3.4z",  # diamond
    "m-1-3h2v2h2v2h-2v2h-2v-2h-2v-2h2z",  # plus
)
_WIDTH, _HEIGHT = 360, 226
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 36


@dataclass(frozen=True)
class Series:
    """One line: x and y of one length (NaN leaves a gap), colour class, dash pattern, and whether it is drawn bold."""

    label: str
    x: FloatArray
    y: FloatArray
    colour: str = "c0"
    dash: str | None = None
    strong: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis: its label with the unit, fixed ends (None: from the data), logarithmic, or with whole numbers only."""

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    counts: bool = False


@dataclass(frozen=True)
class Bar:
    """One horizontal bar of 0..1 with an optional interval."""

    label: str
    value: float
    text: str
    colour: str = "quiet"
    low: float = float("nan")
    high: float = float("nan")


def line_chart(series: Sequence[Series], x: Axis, y: Axis, *, marks: Sequence[float] = (), band: bool = True) -> Html:
    """A line chart; series longer than 200 points are drawn as bin means, with `band` inside the range of their bins.

    `marks` are x positions of events. The description for screen readers tells each series' first and last value.
    """
    thinned = [thin(one.x, one.y) for one in series]
    x_values = np.concatenate([one.x for one in series]) if series else np.empty(0)
    y_values = np.concatenate([_span(one) if band else one.y for one in thinned]) if series else np.empty(0)
    across = Scale(*limits(x_values, x.low, x.high), _LEFT, _WIDTH - _RIGHT)
    up = Scale(*limits(y_values, y.low, y.high, y.log), _HEIGHT - _BOTTOM, _TOP, y.log)
    drawn: list[Html] = [_frame(across, up, x)]
    for mark in marks:
        if across.low <= mark <= across.high:
            place = _xy(float(across(np.array([mark]))[0]))
            drawn.append(tag("path", d=f"M{place} {_TOP}V{_HEIGHT - _BOTTOM}", class_="event"))
    for one, points in zip(series, thinned, strict=True):
        if band and len(points.x) < len(one.x):
            drawn.append(_band(across(points.x), up(points.low), up(points.high), one.colour))
        drawn.append(_line(across(points.x), up(points.y), one))
        drawn.append(_dots(one, across, up, x.label))
    return tag(
        "svg",
        *drawn,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_="chart",
        aria_label=_describe(series, x, y),
    )


def _span(points: Thinned) -> FloatArray:
    """The values an axis must hold: all means, and the bins' extremes but for the outermost 2 % (spikes are cut)."""
    low, high = (np.clip(side[np.isfinite(side)], -1e300, 1e300) for side in (points.low, points.high))
    if not len(low):
        return np.empty(0)
    return np.concatenate([points.y, np.quantile(low, [0.02]), np.quantile(high, [0.98])])


def _frame(across: Scale, up: Scale, x: Axis) -> Html:
    """Grid lines, tick labels, the base line and the label of the x axis."""
    parts: list[Html] = []
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value, label in up.ticks(5):
        height = float(up(np.array([value]))[0])
        parts.append(tag("path", d=f"M{_LEFT} {_xy(height)}H{right}", class_="grid"))
        parts.append(tag("text", label, x=_LEFT - 6, y=_xy(height + 4), text_anchor="end"))
    for value, label in across.ticks(4, x.counts):
        place = float(across(np.array([value]))[0])
        anchor = "end" if place > right - 14 and len(label) > 3 else "middle"
        parts.append(tag("path", d=f"M{_xy(place)} {bottom}v4", class_="axis"))
        parts.append(
            tag("text", label, x=_xy(place if anchor == "middle" else right + 8), y=bottom + 16, text_anchor=anchor)
        )
    parts.append(tag("path", d=f"M{_LEFT} {bottom}H{right}", class_="axis"))
    parts.append(tag("text", x.label, x=(_LEFT + right) / 2, y=_HEIGHT - 4, text_anchor="middle", class_="label"))
    return tag("g", *parts)


def _line(x: FloatArray, y: FloatArray, one: Series) -> Html:
    return tag(
        "path", d=_path(x, y), class_=f"line {one.colour}{' strong' if one.strong else ''}", stroke_dasharray=one.dash
    )


def _path(x: FloatArray, y: FloatArray) -> str:
    """A path through the finite points; a gap starts a new piece."""
    pieces, pen = [], "M"
    for px, py in zip(x, y, strict=True):
        if not (np.isfinite(px) and np.isfinite(py)):
            pen = "M"
            continue
        pieces.append(f"{pen}{_xy(px)} {_xy(py)}")
        pen = "L"
    return "".join(pieces)


def _band(x: FloatArray, low: FloatArray, high: FloatArray, colour: str) -> Html:
    keep = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    outline = np.concatenate([x[keep], x[keep][::-1]]), np.concatenate([high[keep], low[keep][::-1]])
    return tag("path", d=_path(*outline) + "Z" if keep.any() else "", class_=f"band {colour}")


def _dots(one: Series, across: Scale, up: Scale, x_label: str) -> Html:
    """Points with a tooltip, where there are few enough to be told apart (isolated points would else be invisible)."""
    if len(one.x) > 40:
        return Html()
    dots = [
        tag(
            "circle",
            tag("title", f"{one.label}, {x_label} {number(x, 3) if x % 1 else whole(x)}: {number(y, 4)}"),
            cx=_xy(px),
            cy=_xy(py),
            r=2.6,
        )
        for x, y, px, py in zip(one.x, one.y, across(one.x), up(one.y), strict=True)
        if np.isfinite(py) and np.isfinite(px)
    ]
    return tag("g", *dots, class_=f"dots {one.colour}")


def _describe(series: Sequence[Series], x: Axis, y: Axis) -> str:
    told = []
    for one in series[:8]:
        known = one.y[np.isfinite(one.y)]
        if len(known):
            told.append(f"{one.label} from {number(float(known[0]))} to {number(float(known[-1]))}")
    return f"{y.label} against {x.label}: " + ("; ".join(told) or "no values") + "."


def _xy(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def key(label: Html | str, colour: str, *, dash: str | None = None, marker: str | None = None) -> Html:
    """One legend entry with the mark that it explains."""
    if marker is not None:
        mark = tag("path", d=f"M8 6{marker}", class_=f"mark {colour}")
    else:
        mark = tag("path", d="M1 6H21", class_=f"line strong {colour}", stroke_dasharray=dash)
    swatch = tag("svg", mark, viewBox="0 0 16 12" if marker else "0 0 22 12", class_="swatch", aria_hidden="true")
    return tag("li", swatch, label)


def legend(*keys: Html) -> Html:
    """Legend entries as a list."""
    return tag("ul", *keys, class_="legend")


def category(index: int) -> tuple[str, str]:
    """Colour class and marker of category `index`: 40 pairs before one returns, so colour never stands alone."""
    return f"c{index % COLOURS}", MARKERS[index % len(MARKERS)]


def scatter(
    points: FloatArray, groups: Sequence[int], titles: Sequence[str], x_label: str, y_label: str, description: str
) -> Html:
    """Points (n, 2) at one scale on both axes: distances are true. Group -1 is grey; `titles` show on hovering."""
    points = np.clip(points, -1e100, 1e100)
    low, high = points.min(axis=0), points.max(axis=0)
    centre, span = (low + high) / 2, np.maximum(high - low, 1e-12 + 1e-9 * np.abs(high))
    left, right, top, bottom, width = 14, 14, 12, 40, 440
    inner = width - left - right
    scale = inner / float(span[0])
    if span[1] * scale > 380:
        scale = 380 / float(span[1])
    plot_height = float(np.clip(span[1] * scale, max(130, 6.5 * len(y_label)), 380))  # a letter is about 6 wide
    height = plot_height + top + bottom
    px = left + inner / 2 + (points[:, 0] - centre[0]) * scale
    py = top + plot_height / 2 - (points[:, 1] - centre[1]) * scale
    marks = [_mark(x, y, group, title) for x, y, group, title in zip(px, py, groups, titles, strict=True)]
    return tag(
        "svg",
        tag("rect", x=2, y=2, width=width - 4, height=plot_height + top + 8, rx=3, class_="plot"),
        *marks,
        tag("text", x_label, x=width / 2, y=_xy(height - 8), text_anchor="middle", class_="label"),
        tag(
            "text",
            y_label,
            transform=f"translate(-8 {_xy(top + plot_height / 2)}) rotate(-90)",
            text_anchor="middle",
            class_="label",
        ),
        viewBox=f"-24 0 {width + 24} {_xy(height)}",
        role="img",
        class_="chart map",
        aria_label=description,
    )


def _mark(x: float, y: float, group: int, title: str) -> Html:
    colour, marker = category(group) if group >= 0 else ("quiet", MARKERS[0])
    return tag("path", tag("title", title), d=f"M{_xy(x)} {_xy(y)}{marker}", class_=colour)


def bars(rows: Sequence[Bar], description: str) -> Html:
    """Horizontal bars on one axis from 0 to 100 %, the figure written beside each."""
    label_width, value_width, row_height = 92, 62, 30
    across = Scale(0.0, 1.0, label_width, _WIDTH - value_width)
    parts: list[Html] = []
    for index, row in enumerate(rows):
        middle = index * row_height + row_height / 2 + 2
        end = float(across(np.array([row.value]))[0]) if np.isfinite(row.value) else label_width
        parts.append(tag("text", row.label, x=label_width - 8, y=_xy(middle + 4), text_anchor="end", class_="label"))
        parts.append(
            tag("rect", x=label_width, y=_xy(middle - 8), width=across.stop - label_width, height=16, class_="track")
        )
        parts.append(
            tag("rect", x=label_width, y=_xy(middle - 8), width=_xy(end - label_width), height=16, class_=row.colour)
        )
        if np.isfinite(row.low) and np.isfinite(row.high):
            low, high = across(np.array([row.low, row.high]))
            whisker = f"M{_xy(low)} {middle:g}H{_xy(high)}m0-4v8M{_xy(low)} {middle - 4:g}v8"
            parts.append(tag("path", d=whisker, class_="whisker"))
        parts.append(tag("text", row.text, x=_WIDTH - 2, y=_xy(middle + 4), text_anchor="end", class_="value"))
    height = len(rows) * row_height + 4
    return tag(
        "svg", join(*parts), viewBox=f"0 0 {_WIDTH} {height}", role="img", class_="chart bars", aria_label=description
    )
