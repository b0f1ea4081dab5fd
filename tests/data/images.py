"""Images for tests, and what a data set holds of them."""

import io
from typing import Any

import numpy as np
from PIL import Image

from siamscope.data.open import Dataset
from siamscope.data.source import Images


def noise(seed: int, side: int = 20, kind: str = "jpeg") -> bytes:
    """An image file of random pixels."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def all_of(source: Any) -> Images:
    """All images of a source."""
    return source.read(np.arange(len(source)))


def pool(dataset: Dataset) -> dict[str, tuple[int, int | None]]:
    """Grey value and label of every training and validation image, by name."""
    found = {}
    for source in (dataset.train, dataset.val):
        values = all_of(source)[:, 0, 4, 4]
        for i, name in enumerate(source.names):
            found[name] = (int(values[i]), None if source.labels is None else int(source.labels[i]))
    return found
