"""Hugging Face data sets: what is read from Parquet, Arrow and images; columns, labels and splits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_sets import CLASSES, needed, opened, parquet, table
from images import all_of, noise

from siamscope.data.errors import DataError
from siamscope.data.open import open_dataset

pytestmark = pytest.mark.usefixtures("at_home")


@needed
def test_pixels_equal_those_of_the_same_files_in_a_folder(folder: Path, tmp_path: Path) -> None:
    for split, rows in (("train", range(60)), ("test", range(100, 112))):
        for row in rows:
            path = tmp_path / "photos" / split / f"{row:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(noise(row))
    expected = opened(tmp_path / "photos", tmp_path)
    found = opened(f"hf:{folder}", tmp_path)
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(all_of(getattr(found, part)), all_of(getattr(expected, part)))
        assert getattr(found, part).fingerprint == getattr(expected, part).fingerprint
    assert all_of(found.train).std() > 10 and found.name == "set" and found.config.kind == "hub"


@needed
@pytest.mark.parametrize("form", ["arrow", "arrow of one split", "images", "one parquet file", "pieces of a cache"])
def test_other_forms_hold_the_same(folder: Path, tmp_path: Path, form: str) -> None:
    from datasets import DatasetDict

    expected = opened(f"hf:{folder}", tmp_path)
    train, test = table(range(60)), table(range(100, 112))
    place = tmp_path / "other"
    labelled = True
    if form == "arrow":
        DatasetDict({"train": train, "validation": test}).save_to_disk(place)
    elif form == "arrow of one split":
        train.save_to_disk(place)
    elif form == "images":
        for row in range(60):
            path = place / CLASSES[row % 3] / f"{row:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(noise(row))
        found = opened(f"hf:{place}", tmp_path)
        assert found.train.class_names == tuple(sorted(CLASSES))
        known = {image.tobytes() for part in (expected.train, expected.val) for image in all_of(part)}
        assert known == {image.tobytes() for part in (found.train, found.val) for image in all_of(part)}
        return
    elif form == "one parquet file":
        place = place.with_suffix(".parquet")
        train.to_parquet(place)
    else:
        labelled = False
        parquet(place, {"train": table(range(60), labels=(train.features["label"], [None] * 60))}, group=1000)
    found = opened(f"hf:{place}", tmp_path)
    np.testing.assert_array_equal(all_of(found.train), all_of(expected.train))
    assert found.train.class_names == (tuple(CLASSES) if labelled else None)


@needed
def test_labels_are_the_numbers_of_the_classes(folder: Path, tmp_path: Path) -> None:
    found = opened(f"hf:{folder}", tmp_path)
    assert found.train.class_names == tuple(CLASSES)  # in their own order, not sorted
    rows = np.array([int(name) for name in found.train.names])
    assert found.train.labels is not None and found.test is not None and found.test.labels is not None
    np.testing.assert_array_equal(found.train.labels, rows % 3)
    np.testing.assert_array_equal(found.test.labels, np.arange(100, 112) % 3)


@needed
@pytest.mark.parametrize(
    ("kind", "values", "names", "note"),
    [
        ("string", ["b", "a"] * 10, ("a", "b"), ""),
        ("int64", [10, 9] * 10, ("9", "10"), ""),
        ("float64", [1.0, 2.0] * 10, ("1", "2"), ""),
        ("float64", [1.0, float("nan")] * 10, None, "no labels for train: 10 of its 20 images have none"),
        ("string", ["b", "a"] * 9 + [None, ""], None, "no labels for train: 2 of its 20 images have none"),
        ("class", [0, 1] * 9 + [-1, None], None, "no labels for train: 2 of its 20 images have none"),
        ("class", [-1] * 20, None, ""),
    ],
)
def test_values_of_labels(
    tmp_path: Path, kind: str, values: list[Any], names: tuple[str, ...] | None, note: str
) -> None:
    from datasets import ClassLabel, Value

    feature = ClassLabel(names=CLASSES) if kind == "class" else Value(kind)
    parquet(tmp_path / "set", {"train": table(range(20), labels=(feature, values))})
    found = opened(f"hf:{tmp_path}/set", tmp_path)
    assert found.train.class_names == names and (found.train.labels is None) == (names is None)
    assert (note in str(found.hint)) if note else found.hint is None


@needed
def test_which_label_column(tmp_path: Path) -> None:
    from datasets import ClassLabel, Value

    fine = (ClassLabel(names=list("abcd")), [k % 4 for k in range(20)])
    parquet(tmp_path / "set", {"train": table(range(20), labels=(Value("string"), ["x", "y"] * 10), fine=fine)})
    assert opened(f"hf:{tmp_path}/set", tmp_path).train.class_names == tuple("abcd")  # the only column of classes
    assert opened(f"hf:{tmp_path}/set", tmp_path, label="label").train.class_names == ("x", "y")
    assert opened(f"hf:{tmp_path}/set", tmp_path, label="none").train.class_names is None
    with pytest.raises(DataError, match=r"no column 'kind' \(data.label\); there are picture, label, fine"):
        opened(f"hf:{tmp_path}/set", tmp_path, label="kind")
    with pytest.raises(DataError, match=r"'picture' \(data.label\) is .* names no classes"):
        opened(f"hf:{tmp_path}/set", tmp_path, label="picture")
    coarse = (ClassLabel(names=list("pq")), [k % 2 for k in range(20)])
    both = table(range(20), labels=(Value("float64"), [0.5] * 20), fine=fine, coarse=coarse)
    parquet(tmp_path / "two", {"train": both})
    found = opened(f"hf:{tmp_path}/two", tmp_path)
    assert found.train.labels is None and "fine, coarse hold classes; choose one with data.label" in str(found.hint)


@needed
def test_which_image_column(tmp_path: Path) -> None:
    from datasets import Dataset, Value
    from datasets import Image as ImageFeature

    second = (ImageFeature(), [{"bytes": noise(500 + k), "path": None} for k in range(20)])
    parquet(
        tmp_path / "two",
        {"train": table(range(20), other=second, raw=(Value("binary"), [noise(k) for k in range(20)]))},
    )
    with pytest.raises(DataError, match=r"several columns hold images, picture, other: choose one with data.image"):
        opened(f"hf:{tmp_path}/two", tmp_path)
    first, other, raw = (opened(f"hf:{tmp_path}/two", tmp_path, image=name) for name in ("picture", "other", "raw"))
    assert first.train.fingerprint == raw.train.fingerprint != other.train.fingerprint
    for name, match in (("label", "holds no image files"), ("none", "no column 'none' .*picture")):
        with pytest.raises(DataError, match=match):
            opened(f"hf:{tmp_path}/two", tmp_path, image=name)
    Dataset.from_dict({"text": ["a", "b"]}).to_parquet(tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"no column holds images; there are text \(string\)"):
        opened(f"hf:{tmp_path}/text.parquet", tmp_path)


@needed
def test_plain_parquet_that_the_library_did_not_write(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    rows = pa.table({"image": [{"bytes": noise(k), "path": "x.jpg"} for k in range(20)], "label": ["a", "b"] * 10})
    pq.write_table(rows, tmp_path / "plain.parquet", row_group_size=7)
    found = opened(f"hf:{tmp_path}/plain.parquet", tmp_path)
    parquet(tmp_path / "set", {"train": table(range(20))})
    assert found.train.fingerprint == opened(f"hf:{tmp_path}/set", tmp_path).train.fingerprint
    assert found.train.class_names == ("a", "b")


@needed
def test_splits(tmp_path: Path) -> None:
    from datasets import DatasetDict

    parts = {"train": table(range(30)), "dev": table(range(30, 34)), "testing": table(range(40, 45))}
    DatasetDict({**parts, "extra": table(range(50, 60))}).save_to_disk(tmp_path / "set")
    found = opened(f"hf:{tmp_path}/set", tmp_path)
    assert [len(part) for part in (found.train, found.val, found.test or ())] == [30, 4, 5]
    assert "passed over the splits extra" in str(found.hint)
    DatasetDict({"one": parts["train"], "two": parts["dev"]}).save_to_disk(tmp_path / "odd")
    with pytest.raises(DataError, match="has the splits one, two, and none for training"):
        opened(f"hf:{tmp_path}/odd", tmp_path)


@needed
def test_the_second_start_decodes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(f"hf:{folder}", tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("siamscope.data.decoding.decode", refuse)
    monkeypatch.chdir(folder.parent)
    assert opened("hf:set", tmp_path).fingerprint == open_dataset(first.config).fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="decoded again"):
        opened("hf:set", tmp_path, size=17)


@needed
def test_what_comes_out_does_not_depend_on_workers(folder: Path, tmp_path: Path) -> None:
    prints = {opened(f"hf:{folder}", tmp_path / str(n), workers=n).fingerprint for n in (1, 3)}
    assert len(prints) == 1


@needed
def test_arrow_data_without_a_cache(tmp_path: Path) -> None:
    table(range(60)).save_to_disk(tmp_path / "set")
    kept, looked = (opened(f"hf:{tmp_path}/set", tmp_path, cache=cache) for cache in ("disk", "none"))
    rows = np.random.default_rng(0).permutation(len(kept.train))
    np.testing.assert_array_equal(looked.train.read(rows), kept.train.read(rows))
    assert looked.stream is None and looked.fingerprint == kept.fingerprint
