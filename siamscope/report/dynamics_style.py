"""What the figures of `siamscope dynamics` share: colours, marks, and how figures and tables are written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamscope.files import write_atomically
from siamscope.report.errors import ReportError
from siamscope.report.figure import save_png

if TYPE_CHECKING:
    from siamscope.dynamics.plane import FixedPoint

# Okabe and Ito's colours, darkened where they would be pale on white. A meaning has one colour in all figures.
INK, SOFT = "#1b1d21", "#5a616b"
LEARN, COLLAPSE = "#0072b2", "#c8501e"
BASIN = "#fae3d6"
GREEN, PURPLE = "#00835f", "#a0468a"
FLOW = "#a9afb8"
SERIES = ["#0072b2", "#d98200", "#00835f", "#a0468a", "#4a4f57"]
LINES: list[Any] = ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1))]
DPI = 150

Cell = str | float | int | None


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches, with the house's type and lines."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def dress(axes: Any, title: str = "", x: str = "", y: str = "", *, note: str = "", grid: bool = False) -> None:
    """Title at the left, a note at the right of it, quiet frame, labels."""
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    axes.set_title(note, fontsize=10.5, loc="right", color=COLLAPSE)
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.tick_params(labelsize=9.5, color=SOFT, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(SOFT)
    if grid:
        axes.grid(color="#e6e8eb", lw=0.7)
        axes.set_axisbelow(True)


def mark(axes: Any, point: FixedPoint, at: Sequence[float], size: float = 8.5) -> None:
    """A fixed point: filled = stable, half = saddle, open = unstable, diamond = degenerate."""
    face = INK if point.kind in ("stable", "saddle") else "white"
    axes.plot(
        [at[0]], [at[1]], "D" if point.kind == "degenerate" else "o", ms=size - (point.kind == "degenerate"), mec=INK,
        mew=1.4, mfc=face, mfcalt="white", fillstyle="left" if point.kind == "saddle" else "full", zorder=9,
        clip_on=False,
    )  # fmt: skip


def point_out(axes: Any, at: Sequence[float]) -> None:
    """An arrow at the edge of the axes, whose limits are set, towards a stable point outside; its place in words."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    edge = min(max(at[0], left), right), min(max(at[1], low), high)
    way = [float(np.sign(out - shown)) for out, shown in zip(at, edge, strict=True)]
    right_half = edge[0] > (left + right) / 2
    axes.annotate(
        "", edge, (-16 * way[0], -16 * way[1]), textcoords="offset points", zorder=9, annotation_clip=False,
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 2.0, "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    axes.annotate(
        f"stable: ({short(at[0], 3)}, {short(at[1], 3)})", edge, (-9 if right_half else 9, -9 if way[1] >= 0 else 9),
        textcoords="offset points", ha="right" if right_half else "left", va="top" if way[1] >= 0 else "bottom",
        fontsize=9.5, color=INK, zorder=10, bbox={"fc": "white", "ec": "none", "alpha": 0.85, "pad": 1},
    )  # fmt: skip


def mark_handles(kinds: Iterable[str]) -> list[Any]:
    """Legend entries of the kinds that occur."""
    from matplotlib.lines import Line2D

    looks = {
        "stable": {"marker": "o", "mfc": INK, "fillstyle": "full"},
        "saddle": {"marker": "o", "mfc": INK, "mfcalt": "white", "fillstyle": "left"},
        "unstable": {"marker": "o", "mfc": "white", "fillstyle": "full"},
        "degenerate": {"marker": "D", "mfc": "white", "fillstyle": "full"},
    }
    named = {"stable": "stable", "saddle": "saddle", "unstable": "unstable", "degenerate": "degenerate (eigenvalue 0)"}
    present = set(kinds)
    return [
        Line2D([], [], ls="", mec=INK, mew=1.4, ms=8, label=named[kind], **look)  # type: ignore[arg-type]
        for kind, look in looks.items()
        if kind in present
    ]


def legend(figure: Any, handles: Sequence[Any], columns: int) -> None:
    """One legend for the whole figure, below it."""
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=10.5,
        handlelength=2.2, columnspacing=1.8,
    )  # fmt: skip


def short(value: float, digits: int = 4) -> str:
    """A number for a label: 0.02, 16, 1e-05; infinity as a sign."""
    return "∞" if value == math.inf else f"{value:.{digits}g}"


def save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write name.png and name.svg into the folder, which is made.

    Raises:
        ReportError: they cannot be written.
    """
    import matplotlib as mpl

    png = save_png(figure, folder / f"{name}.png", DPI)
    figure.set_layout_engine("none")  # keep the layout that has been found: it takes as long as the drawing
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "siamscope"}):  # the same figure gives the same file
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return [png, write(folder / f"{name}.svg", buffer.getvalue())]


def save_table(
    folder: Path, name: str, header: Sequence[str], rows: Iterable[Sequence[Cell]], digits: int = 12
) -> Path:
    """Write name.csv: numbers to so many digits, nothing for NaN and None.

    Raises:
        ReportError: it cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_cell(value, digits) for value in row] for row in rows])
    return write(folder / f"{name}.csv", buffer.getvalue())


def write(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all; the folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda stream: stream.write(text.encode()))
    except OSError as error:
        raise ReportError(f"Cannot write {path}: {error.strerror}. Choose another place.") from error
    return path


def _cell(value: Cell, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else f"{value:.{digits}g}"
