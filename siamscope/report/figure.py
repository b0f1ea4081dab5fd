"""One picture of a run, for a README or a slide: images with their views, the k-NN curve or the rank, and the map."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.files import write_atomically
from siamscope.report.errors import ReportError
from siamscope.report.gallery import ImageArray
from siamscope.report.read import RunData, read_run

# Paul Tol's "muted" scheme (nine colours that colour-blind readers can tell apart) and a grey for a tenth class.
COLOURS = ["#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#888888"]
TRAINED, BASELINE = "#117733", "#666666"


def overview(run_dir: str | Path, out: str | Path, dpi: int = 150) -> Path:
    """Write the picture as PNG. Parts that the run does not have stay empty, and say so.

    Raises:
        ReportError: no run there, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    run = read_run(Path(run_dir))
    figure = Figure(figsize=(11.5, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.0, 1.2, 1.1])
    _views(left, run)
    _curve(middle, run)
    _map(right, run)
    return save_png(figure, Path(out), dpi)


def save_png(figure: Any, out: Path, dpi: int) -> Path:
    """Write a figure of matplotlib's as PNG, whole or not at all; the folder is made.

    Raises:
        ReportError: the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, lambda stream: stream.write(buffer.getbuffer()))
    except OSError as error:
        raise ReportError(f"Cannot write {out}: {error.strerror}. Choose another place.") from error
    return out


def _views(axes: Any, run: RunData) -> None:
    axes.set_axis_off()
    block = run.gallery.views if run.gallery else None
    if block is None or not len(block):
        axes.set_title("no views stored", fontsize=10)
        return
    axes.imshow(mosaic(block), interpolation="nearest")
    axes.set_title(f"an image and {block.shape[1] - 1} random views of it", fontsize=10)


def mosaic(block: ImageArray, gap: int = 2) -> ImageArray:
    """(R, N, C, H, W) uint8 as one RGB picture; of other than three channels the first, as grey."""
    rgb = block if block.shape[2] == 3 else np.repeat(block[:, :, :1], 3, axis=2)
    r, n, _, h, w = rgb.shape
    canvas = np.full((r * (h + gap) - gap, n * (w + gap) - gap, 3), 255, np.uint8)
    for i in range(r):
        for j in range(n):
            y, x = i * (h + gap), j * (w + gap)
            canvas[y : y + h, x : x + w] = rgb[i, j].transpose(1, 2, 0)
    return canvas


def _curve(axes: Any, run: RunData) -> None:
    table = run.metrics.monitors.table
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    if not table.has("knn"):
        axes.plot(table.get("step"), table.get("feature_effective_rank"), color=TRAINED, lw=2)
        axes.set_title("effective rank of the features", fontsize=10)
        return
    axes.plot(table.get("step"), 100 * table.get("knn"), color=TRAINED, lw=2, marker="o", ms=3)
    axes.set_title("k-NN accuracy on validation images (%)", fontsize=10)
    axes.set_ylim(0, 100)
    if run.evaluation is None:
        return
    for encoder, name in (("raw_pixels", "raw pixels"), ("untrained", "untrained encoder")):
        level = 100 * run.evaluation.headline(encoder)
        if np.isfinite(level):
            axes.axhline(level, color=BASELINE, lw=1, ls="--" if encoder == "untrained" else ":")
            side = "bottom" if level == max(_levels(run)) else "top"
            text = f"{name}, {run.evaluation.split}: {level:.1f} %"
            axes.annotate(text, (table.last("step"), level), ha="right", va=side, fontsize=8, color=BASELINE)
    trained = 100 * run.evaluation.headline("trained")
    text = f"trained, {run.evaluation.split}: {trained:.1f} %"
    axes.annotate(text, (table.last("step"), min(trained, 90)), xytext=(0, -14), textcoords="offset points",
                  ha="right", va="top", fontsize=9, color=TRAINED, weight="bold")  # fmt: skip


def _levels(run: RunData) -> list[float]:
    assert run.evaluation is not None
    return [100 * run.evaluation.headline(encoder) for encoder in ("raw_pixels", "untrained")]


def _map(axes: Any, run: RunData) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#cccccc")
    found = run.gallery.map if run.gallery else None
    if run.gallery is None or found is None:
        axes.set_title("no map stored", fontsize=10)
        return
    labels = np.unique(found.labels)
    for label in labels:
        points = found.points[found.labels == label]
        colour = COLOURS[label % len(COLOURS)] if label >= 0 else BASELINE
        name = run.gallery.class_name(int(label)) or "no label"
        axes.scatter(points[:, 0], points[:, 1], s=5, color=colour, linewidths=0, label=name[:18])
    if 1 < len(labels) <= 12:
        axes.legend(
            fontsize=7, markerscale=2, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0
        )
    axes.set_title("features of validation images (PCA)", fontsize=10)
