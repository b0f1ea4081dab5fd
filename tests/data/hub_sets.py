"""Hugging Face data sets on this machine, for tests."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from images import noise

from siamscope.data.config import DataConfig
from siamscope.data.hub_stream import StreamedSource
from siamscope.data.open import Dataset, open_dataset

needed = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the library datasets (extra [hub]) is not installed"
)
CLASSES = ["owl", "fox", "ant"]


def table(rows: Any, images: dict[int, Any] | None = None, labels: Any = None, **more: Any) -> Any:
    """A `datasets.Dataset` of noise images; `images` replaces some, `labels` is (feature, values)."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    rows = list(rows)
    kind, values = labels or (ClassLabel(names=CLASSES), [row % 3 for row in rows])
    features = {"picture": ImageFeature(), "label": kind, **{name: feature for name, (feature, _) in more.items()}}
    contents = [(images or {}).get(row, noise(row)) for row in rows]
    columns = {
        "picture": [None if content is None else {"bytes": content, "path": None} for content in contents],
        "label": values,
        **{name: given for name, (_, given) in more.items()},
    }
    return Dataset.from_dict(columns, features=Features(features))


def parquet(folder: Path, parts: dict[str, Any], group: int = 8) -> Path:
    """train-0, train-1, test-0, ... as the hub names such files."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        split, _, number = name.partition("-")
        of = sum(other.partition("-")[0] == split for other in parts)
        part.to_parquet(folder / "data" / f"{split}-{int(number or 0):05d}-of-{of:05d}.parquet", batch_size=group)
    return folder


def opened(source: object, root: Path, **fields: Any) -> Dataset:
    fields = {"size": 16, "cache_dir": str(root / "cache"), **fields}
    return open_dataset(DataConfig(source=str(source), **fields))


def streamed(folder: Path, root: Path, **fields: Any) -> tuple[Dataset, StreamedSource]:
    dataset = opened(f"hf:{folder}", root, cache="none", **fields)
    assert dataset.stream is not None
    return dataset, dataset.stream
