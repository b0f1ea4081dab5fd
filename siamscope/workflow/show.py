"""`siamscope data NAME --show`: a picture of samples and of their augmented views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamscope.data import Dataset
from siamscope.data.source import Source
from siamscope.recipe import Recipe
from siamscope.report.figure import mosaic
from siamscope.rundir import write_atomically
from siamscope.training.progress import Reporter, Silent
from siamscope.workflow.judge import augmented
from siamscope.workflow.opening import opened


def about(recipe: Recipe, out: str | Path | None = None, reporter: Reporter | None = None) -> dict[str, Any]:
    """What a data source holds; with `out`, also a PNG of samples by class and of augmented views."""
    dataset = opened(recipe.data, reporter or Silent())
    train = dataset.train
    facts: dict[str, Any] = {
        "name": dataset.name,
        "train": len(train),
        "validation": len(dataset.val),
        "test": len(dataset.test) if dataset.test else 0,
        "size": train.size,
        "channels": train.channels,
        "labels": train.labels is not None,
        "classes": list(train.class_names or ()),
        "rejected": len(dataset.rejected),
    }
    if train.domain_names:
        facts["domains"] = list(train.domain_names)
    if dataset.hint:
        facts["hint"] = dataset.hint
    if out is not None:
        picture(recipe, dataset, Path(out))
        facts["picture"] = str(out)
    return facts


def picture(recipe: Recipe, dataset: Dataset, out: Path) -> None:
    """Left: samples, a row a class (if labels exist). Right: images, each followed by its augmented views."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows, names = sample_rows(dataset.train)
    images = dataset.train.read(np.concatenate(rows)).reshape(
        len(rows), len(rows[0]), *dataset.train.read(rows[0][:1]).shape[1:]
    )
    pairs = augmented(recipe, images[:, 0])
    figure = Figure(figsize=(11, 0.9 + 0.62 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[images.shape[1], pairs.shape[1]])
    for axes, block, title in (
        (left, images, f"{dataset.name}: samples"),
        (right, pairs, f"one image and {pairs.shape[1] - 1} views of it ({recipe.views.policy})"),
    ):
        axes.imshow(mosaic(block), interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    if names:
        side = mosaic(images).shape[0] / len(rows)
        left.set_yticks([side * (i + 0.5) for i in range(len(rows))], names, fontsize=8)
        left.tick_params(length=0)
    write_atomically(out, lambda stream: figure.savefig(stream, format="png", dpi=150))


def sample_rows(source: Source, columns: int = 8, most: int = 10) -> tuple[list[NDArray[np.int64]], list[str]]:
    """Indices for the picture, a row each: by class when labels exist, in order otherwise."""
    if source.labels is None or not source.class_names:
        count = max(min(len(source) // columns, most), 1)
        return [(np.arange(columns) + columns * i) % len(source) for i in range(count)], []
    rows, names = [], []
    for label, name in enumerate(source.class_names[:most]):
        found = np.flatnonzero(source.labels == label)
        if len(found):
            rows.append(np.resize(found[:columns], columns).astype(np.int64))
            shown = name.encode("utf-8", "replace").decode()
            names.append(shown if len(shown) <= 24 else shown[:23] + "…")
    return rows, names
