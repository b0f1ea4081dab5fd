"""The figure of `siamscope gradients` as PNG: cosines between methods, norms, and what changes over a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np

from siamscope.report.figure import save_png
from siamscope.report.gradients_read import Gradients
from siamscope.report.metrics import FloatArray

BLUE, ORANGE, GREY, INK = "#0072b2", "#c67700", "#6b727c", "#1b1d21"
MOST_STEPS = 9
RATIO_SPAN = 4.0  # push / pull from 1/4 to 4 has its own colour


def write_png(found: Gradients, out: Path, dpi: int = 150) -> Path:
    """Write the figure.

    Raises:
        ReportError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    count, several = len(found.methods), len(found.steps) > 1
    figure = Figure(figsize=(12, 2.0 + 0.46 * count), layout="constrained")
    upper, lower = cast("Any", figure.subfigures(2, 1, height_ratios=[1.12, 1.0]))
    for axes, of, title in zip(
        upper.subplots(1, 2), ("total", "push"), ("whole gradients", "negative terms"), strict=True
    ):
        _heat(axes, *found.matrix(found.steps[-1], of), f"cosines of {title}, {moment(found, found.steps[-1])}")
    widths = [1.5, 1.1, 1.1, 1.3] if several else [1.5, 1.3]
    panels = lower.subplots(1, len(widths), sharey=True, width_ratios=widths)
    _norms(panels[0], found)
    if several:
        _strip(panels[1], found, "ratio", "push / pull")
        _strip(panels[2], found, "cosine", f"cosine with {found.reference}")
    _escape(panels[-1], found)
    _rows(panels, found)
    return save_png(figure, out, dpi)


def moment(found: Gradients, step: int) -> str:
    """A step in words."""
    label = found.labels.get(step, "")
    return f"step {step:,}" if label.endswith(".pt") else label or f"step {step:,}"


def two_digits(value: float) -> str:
    """A cosine without its leading zero: .87, -.3, 1."""
    if not math.isfinite(value):
        return ""
    text = f"{value:.2f}".replace("0.", ".")
    return {"1.00": "1", "-1.00": "-1", ".00": "0", "-.00": "0"}.get(text, text).replace("-", "−")


def chosen(steps: tuple[int, ...], most: int = MOST_STEPS) -> list[int]:
    """At most so many of the steps, evenly, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))]


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("cosine", [ORANGE, "#ffffff", BLUE])


def _heat(axes: Any, names: list[str], cells: FloatArray, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[:].set_visible(False)
    if not names:
        axes.set_axis_off()
        return
    axes.imshow(cells, cmap=_colours(), vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(length=0)
    _numbers(axes, cells, [[two_digits(value) for value in row] for row in cells], np.abs(cells) > 0.6)


def _numbers(axes: Any, cells: FloatArray, texts: list[list[str]], bright: Any) -> None:
    size = 8 if cells.shape[1] <= 10 else 6.3
    for i, j in np.ndindex(*cells.shape):
        axes.text(j, i, texts[i][j], ha="center", va="center", fontsize=size, color="white" if bright[i][j] else INK)


def _norms(axes: Any, found: Gradients) -> None:
    """Pull and push at the last step, on the trace of the steps before."""
    axes.set_xscale("log")
    last = found.steps[-1]
    for row, method in enumerate(found.methods):
        for key, offset, colour in (("pull", -0.17, BLUE), ("push", 0.17, ORANGE)):
            values = found.series(method, key)
            values = np.where(values > 0, values, np.nan)
            if np.isfinite(values[:-1]).any():
                axes.plot(values, [row + offset] * len(values), "|-", color=colour, lw=0.8, ms=4, alpha=0.5)
            axes.plot([values[-1]], [row + offset], "o" if key == "pull" else "s", color=colour, ms=5,
                      mfc=colour if key == "pull" else "white")  # fmt: skip
        problem = found.text(last, method, "problem")
        if problem:
            short = problem.splitlines()[0]
            axes.annotate(short[:60] + ("…" if len(short) > 60 else ""), (0, row), xycoords=("axes fraction", "data"),
                          fontsize=6.5, va="center", color=GREY, style="italic", annotation_clip=False)  # fmt: skip
    for key, colour in (("pull", BLUE), ("push", ORANGE)):
        axes.plot([], [], "o" if key == "pull" else "s", color=colour, mfc=colour if key == "pull" else "white",
                  label=key)  # fmt: skip
    several = " (bars: steps before)" if len(found.steps) > 1 else ""
    axes.set_title(f"tangent norms{several}", fontsize=9, loc="left")
    axes.legend(fontsize=7.5, frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1.0, -0.07), borderaxespad=0)


def _strip(axes: Any, found: Gradients, key: str, title: str) -> None:
    """A column a step: methods by rows."""
    steps = chosen(found.steps)
    cells = np.array([[found.value(step, method, key) for step in steps] for method in found.methods])
    if key == "ratio":
        with np.errstate(divide="ignore", invalid="ignore"):
            shade = -np.log(cells) / math.log(RATIO_SPAN)
        texts = [[ratio(value) for value in row] for row in cells]
    else:
        shade, texts = cells, [[two_digits(value) for value in row] for row in cells]
    shade = np.clip(shade, -1, 1)
    axes.imshow(shade, cmap=_colours(), vmin=-1, vmax=1, aspect="auto")
    _numbers(axes, shade, texts, np.abs(shade) > 0.6)
    axes.set_xticks(range(len(steps)), [f"{step:,}" for step in steps], fontsize=7.5)
    axes.set_xlabel("step", fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")


def ratio(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:.2f}".removeprefix("0") if value < 10 else f"{value:.0f}"


def _escape(axes: Any, found: Gradients) -> None:
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xticks([-1e4, -1, 0, 1, 1e2, 1e4, 1e6], minor=False)
    axes.minorticks_off()
    last = found.steps[-1]
    for row, method in enumerate(found.methods):
        predicted, measured = (found.value(last, method, f"escape_{key}") for key in ("predicted", "measured"))
        linear = found.value(last, method, "escape_linear") == 1
        axes.plot([predicted], [row], "|", color=ORANGE, ms=13, mew=2)
        axes.plot([measured], [row], "o", color=BLUE, ms=4.5, mfc=BLUE if linear else "white")
    axes.axvline(0, color=GREY, lw=0.8)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -1e7), min(high, 1e8))
    axes.plot([], [], "|", color=ORANGE, ms=9, mew=2, label="predicted")
    axes.plot([], [], "o", color=BLUE, ms=4.5, label="measured")
    axes.plot([], [], "o", color=BLUE, ms=4.5, mfc="white", label="depends on size")
    axes.set_title("rate of escape from collapse", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False, ncols=3, loc="upper right", bbox_to_anchor=(1.02, -0.07), borderaxespad=0,
                handletextpad=0.2, columnspacing=0.8)  # fmt: skip


def _rows(panels: Any, found: Gradients) -> None:
    """One row a method through all panels."""
    for index, axes in enumerate(panels):
        axes.set_yticks(range(len(found.methods)), found.methods, fontsize=8.5)
        axes.set_ylim(len(found.methods) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelleft=index == 0)
        axes.tick_params(axis="x", labelsize=7.5)
        axes.spines[["top", "right", "left"]].set_visible(False)
        if not axes.images:
            axes.grid(axis="y", color="#e4e6ea", lw=0.7)
            axes.set_axisbelow(True)
