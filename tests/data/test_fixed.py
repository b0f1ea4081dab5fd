"""The start of a run on a folder that may grow: what cannot be used is as if it were not there, and nothing is decoded
twice."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamscope.data import pool, shards
from siamscope.data.config import DataConfig
from siamscope.data.decode import DecodeOptions
from siamscope.data.errors import DataError
from siamscope.data.open import Dataset
from siamscope.training.progress import Silent
from siamscope.workflow.opening import opened, opened_once


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded, one after another. A shard holds ten images."""
    paths: list[str] = []
    plain = pool.written_rows

    def noted(root: str, task: dict[str, object], options: DecodeOptions) -> object:
        paths.extend(f"{root}/{path}" for path in task["paths"])  # type: ignore[attr-defined]
        return plain(root, task, options)

    monkeypatch.setattr(pool, "written_rows", noted)
    monkeypatch.setattr(pool, "_CHUNK_ROWS", 5)
    monkeypatch.setattr(shards, "_BYTES", 10 * 8 * 8 * 3)
    return paths


def put(root: Path) -> Path:
    """Two classes of 16 images for training, and six for the end."""
    for split, count in (("train", 32), ("test", 6)):
        for value in range(count):
            path = root / split / "ab"[value % 2] / f"{value:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 5 * value).save(path)
    return root


def config(root: Path, **more: object) -> DataConfig:
    return DataConfig(source=str(root), size=8, cache_dir=str(root.parent / "cache"), **more)  # type: ignore[arg-type]


def content(dataset: Dataset) -> list[object]:
    parts = [dataset.train, dataset.val, dataset.test]
    return [
        [list(part.names), part.read(np.arange(len(part))).tolist(), part.labels.tolist(), part.class_names]
        for part in parts
        if part is not None and part.labels is not None
    ]


def test_a_folder_with_an_unusable_file_is_decoded_once(tmp_path: Path, decoded: list[str]) -> None:
    clean = opened_once(config(put(tmp_path / "clean" / "photos")), Silent(), None)
    root = put(tmp_path / "harmed" / "photos")
    for name in ("train/a/half.png", "train/c/half.png", "test/b/half.png"):  # c: a class of which nothing is there
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"\x89PNG")
    decoded.clear()
    first = opened_once(config(root), Silent(), None)
    assert len(decoded) == len({*decoded}) == 32 + 6 + 3
    assert [item.path for item in first.rejected] == ["train/a/half.png", "train/c/half.png", "test/b/half.png"]
    assert first.fingerprint == clean.fingerprint and content(first) == content(clean) and len(content(first)) == 3
    assert first.files == clean.files and first.config.samples == clean.config.samples

    decoded.clear()
    resumed = opened(config(root), Silent(), first.files)  # so do the other ranks
    again = opened_once(config(root), Silent(), None)
    Image.new("L", (8, 8), 255).save(root / "train" / "a" / "half.png")
    later = opened_once(config(root), Silent(), first.files)
    assert not decoded
    for dataset in (resumed, again, later):
        assert dataset.fingerprint == clean.fingerprint and content(dataset) == content(clean)


def test_without_a_cache_the_images_are_the_same(tmp_path: Path) -> None:
    root = put(tmp_path / "photos")
    (root / "train" / "a" / "half.png").write_bytes(b"\x89PNG")
    kept, looked = (opened_once(config(root, cache=cache), Silent(), None) for cache in ("disk", "none"))
    assert looked.fingerprint == kept.fingerprint and content(looked) == content(kept)
    assert [item.path for item in looked.rejected] == ["train/a/half.png"]
    with pytest.raises(DataError, match="leave out --strict"):
        opened_once(config(root, strict=True), Silent(), None)
