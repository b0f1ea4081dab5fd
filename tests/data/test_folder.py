"""Folders of images: what is found, labels, splits, files set aside, bad input."""

import os
from pathlib import Path

import numpy as np
import pytest
from images import pool
from PIL import Image

from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError
from siamscope.data.folder import find_splits, list_images
from siamscope.data.open import Dataset, open_dataset


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 12), value).save(path)


def opened(root: Path, **fields: object) -> Dataset:
    return open_dataset(DataConfig(source=str(root), size=8, cache_dir=str(root.parent / "cache"), **fields))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def test_classes_and_names(root: Path) -> None:
    for value, name in enumerate(["cat/a.png", "cat/b.PNG", "dog/deep/er/c.jpg", "dog/d.bmp", "ant/e.gif"]):
        picture(root / name, value * 50)
    dataset = opened(root)
    assert dataset.train.class_names == ("ant", "cat", "dog")
    assert pool(dataset) == {
        "ant/e.gif": (200, 0),
        "cat/a.png": (0, 1),
        "cat/b.PNG": (50, 1),
        "dog/d.bmp": (150, 2),
        "dog/deep/er/c.jpg": (100, 2),
    }
    assert (dataset.train.channels, dataset.train.size, dataset.test) == (3, 8, None)
    assert dataset.train.read(np.array([0])).shape == (1, 3, 8, 8)


def test_flat_folder_has_no_labels(root: Path) -> None:
    for value in range(5):
        picture(root / f"{value}.png", value)
    dataset = opened(root, channels=1)
    assert dataset.train.labels is None and dataset.train.class_names is None
    assert {name: value for name, (value, _) in pool(dataset).items()} == {f"{v}.png": v for v in range(5)}
    assert dataset.train.channels == 1


def test_mixed_or_single_sub_folders_give_no_labels(root: Path) -> None:
    picture(root / "a" / "1.png", 1)
    picture(root / "a" / "2.png", 2)
    assert opened(root).train.labels is None
    picture(root / "b" / "3.png", 3)
    picture(root / "4.png", 4)
    dataset = opened(root)
    assert dataset.train.labels is None
    assert "no labels" in (dataset.hint or "")


def test_given_splits(root: Path) -> None:
    for value, name in enumerate(["train/x/a.png", "train/y/b.png", "train/x/c.png", "val/y/d.png", "val/x/e.png"]):
        picture(root / name, value)
    dataset = opened(root)
    assert dataset.test is not None  # val/ without test/ is the held-out data
    assert list(dataset.test.names) == ["val/x/e.png", "val/y/d.png"]
    assert dataset.test.labels is not None and dataset.test.labels.tolist() == [0, 1]
    assert set(pool(dataset)) == {"train/x/a.png", "train/y/b.png", "train/x/c.png"}
    picture(root / "Test" / "y" / "f.png", 9)
    picture(root / "Test" / "z" / "g.png", 9)
    picture(root / "other" / "g.png", 9)
    dataset = opened(root)
    assert dataset.test is not None
    assert list(dataset.val.names) == ["val/x/e.png", "val/y/d.png"]
    assert list(dataset.test.names) == ["Test/y/f.png", "Test/z/g.png"]
    assert dataset.test.class_names == dataset.train.class_names == ("x", "y", "z")
    assert dataset.test.labels is not None and dataset.test.labels.tolist() == [1, 2]
    assert len(dataset.train) == 3
    assert "1 other folders" in (dataset.hint or "")


def test_classes_called_test_without_train(root: Path) -> None:
    picture(root / "test" / "a.png", 1)
    picture(root / "val" / "b.png", 1)
    assert find_splits(root) == {"train": root}
    assert opened(root).train.class_names == ("test", "val")


def test_dev_is_no_split_of_a_folder(root: Path) -> None:
    """It is one of tar files and tables, but folders with one have always been read without it."""
    for name in ("train", "dev"):
        picture(root / name / "a.png", 1)
    assert find_splits(root) == {"train": root / "train"}


def test_two_folders_of_one_split(root: Path) -> None:
    for name in ("train", "val", "validation"):
        picture(root / name / "a.png", 1)
    with pytest.raises(DataError, match=r"'val'.*'validation'"):
        opened(root)


def test_walk_passes_over_what_is_no_image(root: Path) -> None:
    picture(root / "a.png", 1)
    picture(root / ".hidden.png", 1)
    picture(root / ".git" / "b.png", 1)
    picture(root / "__MACOSX" / "c.png", 1)
    (root / "readme.txt").write_text("hello")
    os.mkfifo(root / "pipe.png")  # opening it would wait for ever
    listing = list_images(root)
    assert (listing.paths, listing.others, listing.broken) == (["a.png"], 1, [])


def test_links(root: Path, tmp_path: Path) -> None:
    picture(root / "real" / "a.png", 1)
    picture(tmp_path / "outside" / "b.png", 2)
    (root / "real" / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "real")  # sorts before "real", which still keeps its name
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    listing = list_images(root)
    assert listing.paths == ["out/b.png", "real/a.png"]
    assert [(item.path, item.reason) for item in listing.broken] == [("dangling.png", "a broken link")]


def test_strange_names_survive(root: Path) -> None:
    names = ["new\nline.png", "quote\"'.png", "sm\u00f6rg\u00e5s \U0001f370.png", os.fsdecode(b"not-utf8-\xff.png")]
    for value, name in enumerate(names):
        picture(root / name, value * 10)
    found = pool(opened(root, channels=1))
    assert {name: value for name, (value, _) in found.items()} == {name: i * 10 for i, name in enumerate(names)}


def test_unusable_files_are_set_aside_and_listed(root: Path) -> None:
    for value in range(6):
        picture(root / f"{value}.png", value)
    data = (root / "3.png").read_bytes()
    (root / "3.png").write_bytes(data[: len(data) - 30])
    (root / "text.jpg").write_text("hello")
    Image.new("L", (1, 1)).save(root / "dot.png")
    dataset = opened(root)
    assert [item.path for item in dataset.rejected] == ["3.png", "dot.png", "text.jpg"]
    assert all(item.reason for item in dataset.rejected)
    assert set(pool(dataset)) == {"0.png", "1.png", "2.png", "4.png", "5.png"}
    assert {name: value for name, (value, _) in pool(dataset).items()}["5.png"] == 5  # no row has slipped
    again = opened(root)
    assert again.rejected == dataset.rejected and again.fingerprint == dataset.fingerprint
    with pytest.raises(DataError, match=r"3\.png: .*2 more"):
        opened(root, strict=True)


def test_bad_folders(root: Path) -> None:
    with pytest.raises(DataError, match="no folder or file"):
        opened(root)
    root.mkdir()
    with pytest.raises(DataError, match="holds nothing"):
        opened(root)
    (root / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"1 files, none of them.*\.jpg"):
        opened(root)
    with pytest.raises(DataError, match="single file"):
        opened(root / "notes.txt")
    (root / "a.jpg").write_text("x")
    (root / "b.jpg").write_text("x")
    with pytest.raises(DataError, match=r"none of the 2 images.*a\.jpg: not an image"):
        opened(root)
    picture(root / "c.png", 1)
    with pytest.raises(DataError, match="1 image; at least 2"):
        opened(root)
    with pytest.raises(DataError, match=r"data\.channels"):
        opened(root, channels=4)


def test_the_resolved_configuration_opens_the_same_images(root: Path) -> None:
    for value in range(30):
        picture(root / "train" / "ab"[value % 2] / f"{value}.png", value)
        picture(root / "test" / "ab"[value % 2] / f"{value}.png", value)
    first = opened(root, samples=20, test_samples=7, seed=3)
    assert (first.config.samples, first.config.val_samples, first.config.test_samples) == (20, 3, 7)
    again = open_dataset(first.config)
    assert again.fingerprint == first.fingerprint and again.config == first.config
    assert opened(root, samples=20, test_samples=7, seed=4).fingerprint != first.fingerprint
