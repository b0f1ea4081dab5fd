"""Hugging Face data sets: what is read from Parquet, Arrow and images; columns; streams; and what may be wrong."""

import importlib.util
import io
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamscope.data import hub
from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError
from siamscope.data.hub_stream import Pieces, StreamedSource
from siamscope.data.loader import Loader
from siamscope.data.open import Dataset, open_dataset
from siamscope.data.windows import StreamOrder

needed = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the library datasets (extra [hub]) is not installed"
)
CLASSES = ["owl", "fox", "ant"]


def noise(seed: int, side: int = 20) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "jpeg")
    return out.getvalue()


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


def all_of(source: Any) -> np.ndarray:
    return source.read(np.arange(len(source)))


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library writes nothing outside the test's folder, shows no bars, and asks nobody."""
    if importlib.util.find_spec("datasets") is not None:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 training images (rows 0 .. 59) in two Parquet files, and 12 test images."""
    return parquet(
        tmp_path / "set", {"train-0": table(range(36)), "train-1": table(range(36, 60)), "test": table(range(100, 112))}
    )


# ------------------------------------------------------------------------------------------- what is read


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


# ------------------------------------------------------------------------------------------- streams


def streamed(folder: Path, root: Path, **fields: Any) -> tuple[Dataset, StreamedSource]:
    dataset = opened(f"hf:{folder}", root, cache="none", **fields)
    assert dataset.stream is not None
    return dataset, dataset.stream


@needed
def test_a_pass_of_a_stream_holds_every_training_image_once(folder: Path, tmp_path: Path) -> None:
    dataset, stream = streamed(folder, tmp_path, window=8)
    known = {noise_pixels.tobytes(): row for row, noise_pixels in enumerate(_all_pixels(folder, tmp_path))}
    order = StreamOrder(stream.edges, 6, 0, 8)
    seen = [known[image.tobytes()] for step in range(order.steps_per_epoch) for image in stream.read(order.batch(step))]
    held = [known[image.tobytes()] for image in all_of(dataset.val)]
    assert len(stream) == 54 and len(held) == 6
    assert sorted([*seen, *held]) == list(range(60)) and seen != sorted(seen)
    assert {known[image.tobytes()] for image in all_of(dataset.train)} <= set(seen)
    assert dataset.train.labels is not None  # what stands for the stream in figures has labels
    for image, label in zip(all_of(dataset.train), dataset.train.labels, strict=True):
        assert known[image.tobytes()] % 3 == label


def _all_pixels(folder: Path, root: Path) -> np.ndarray:
    kept = opened(f"hf:{folder}", root)
    out = np.empty((60, 3, 16, 16), np.uint8)
    for part in (kept.train, kept.val):
        out[[int(name) for name in part.names]] = all_of(part)
    return out


@needed
def test_batches_depend_on_neither_processes_nor_where_one_begins(folder: Path, tmp_path: Path) -> None:
    def batches(start: int, rank: int = 0, world: int = 1, prefetch: int = 4) -> list[np.ndarray]:
        stream = streamed(folder, tmp_path, window=8)[1]
        order = StreamOrder(stream.edges, 6, 5, 8)
        with Loader(stream, order, rank=rank, world=world, device_resident=False, prefetch=prefetch) as loader:
            return [images.numpy() for images, _ in loader.batches(start, 20)]  # into the third pass

    whole = batches(0)
    np.testing.assert_array_equal(batches(0, prefetch=1), whole)
    np.testing.assert_array_equal(batches(11), whole[11:])
    shares = [batches(3, rank, 3) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(shares, 1), whole[3:])


@needed
def test_what_a_stream_holds_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "set", {"train": table(range(40))}, group=4)
    _, stream = streamed(tmp_path / "set", tmp_path, window=6, val_samples=4)
    order = StreamOrder(stream.edges, 4, 0, 6)
    read: list[int] = []
    group = stream._table.group

    def counted(at: int, column: str) -> list[Any]:
        read.append(at)
        return group(at, column)

    monkeypatch.setattr(stream._table, "group", counted)
    most = 0
    for step in range(order.steps_per_epoch):
        stream.read(order.batch(step))
        most = max(most, sum(map(len, stream._groups.values())))
    assert most <= 2 * 6 + 4 and len(read) == len(set(read)) == 9  # each group once, and far from all of 40 at a time
    random = StreamOrder(stream.edges, 4, 0, 40)  # without windows the same would be read again and again
    read.clear()
    for step in range(random.steps_per_epoch):
        stream.read(random.batch(step))
    assert len(read) > 15


@needed
def test_images_of_a_stream_that_cannot_be_used(tmp_path: Path) -> None:
    parquet(tmp_path / "set", {"train": table(range(40), {3: b"no image", 4: noise(4, 300), 17: None})})
    _, stream = streamed(tmp_path / "set", tmp_path, max_pixels=10_000, seed=3)
    rows = {row: place for place, row in enumerate(stream._rows.tolist())}
    assert {3, 4, 5, 17, 18} <= set(rows)  # of the seed's choosing: none of them validates
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = stream.read(np.array([rows[3], rows[4], rows[17], rows[5], rows[18]]))
    np.testing.assert_array_equal(found[[0, 1, 2]], found[[3, 3, 4]])
    texts = [str(item.message) for item in told]
    assert len(texts) == 3 and "row 3: not an image" in texts[0] and "max_pixels" in texts[1]
    assert texts[2].startswith("row 17: the row holds no image; the next image takes its place")
    strict = StreamedSource(stream._table, "picture", Pieces(np.array([[0, 8]])), stream._options, 8, True)
    with pytest.raises(DataError, match=r"row 3: not an image.*leave out --strict"):
        strict.read(np.array([3]))
    parquet(tmp_path / "bad", {"train": table(range(20), dict.fromkeys(range(8), b"x"))})
    none = StreamedSource(
        hub.tables(hub.parsed(f"hf:{tmp_path}/bad"), False)[0]["train"], "picture", Pieces(np.array([[0, 8]])),
        stream._options, 8, False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match="no image of the row group of row 2"):
            none.read(np.array([2]))


@needed
def test_row_groups_too_large_to_be_held(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, stream = streamed(folder, tmp_path)
    monkeypatch.setattr("siamscope.data.tables._MOST_GROUP", 100)
    with pytest.raises(DataError, match=r"row groups of .* data.cache = disk"):
        stream.read(np.array([0]))
    assert len(opened(f"hf:{folder}", tmp_path).train) == 54  # poured piece by piece


@needed
def test_files_far_away(tmp_path: Path) -> None:
    """The same through an address, as the hub's files have them."""
    from fsspec.core import url_to_fs

    from siamscope.data.tables import ParquetTable

    parquet(tmp_path / "set", {"train": table(range(40))})
    (file,) = (tmp_path / "set" / "data").iterdir()
    system, path = url_to_fs("memory://far/train.parquet")
    system.pipe(path, file.read_bytes())
    near, far = ParquetTable([str(file)]), ParquetTable(["memory://far/train.parquet"])
    assert list(near.images("picture", 5, 33)) == list(far.images("picture", 5, 33)) == [noise(k) for k in range(5, 33)]
    assert far.values("label") == [k % 3 for k in range(40)] and far.edges.tolist() == [0, 8, 16, 24, 32, 40]
    with pytest.raises(DataError, match=r"'memory://far/none.parquet' cannot be read"):
        ParquetTable(["memory://far/none.parquet"])


@needed
def test_a_stream_goes_with_its_order_alone(folder: Path, tmp_path: Path) -> None:
    from siamscope.recipe import Recipe
    from siamscope.sections import OrderConfig, TrainConfig
    from siamscope.workflow.ordering import build_order, steps_per_epoch

    dataset, stream = streamed(folder, tmp_path, window=8)
    recipe = Recipe(data=dataset.config, train=TrainConfig(batch_size=6), order=OrderConfig(name="stream"))
    order, source = build_order(recipe, dataset, 20)
    assert source is stream and order.steps_per_epoch == steps_per_epoch(recipe, dataset) == 9
    with pytest.raises(DataError, match=r"read front to back, as data.cache is none: take order.name 'stream'"):
        build_order(Recipe(data=dataset.config, train=TrainConfig(batch_size=6)), dataset, 20)
    with pytest.raises(DataError, match=r"data.samples does not go with data.cache = none"):
        streamed(folder, tmp_path, samples=10)


@needed
def test_a_held_out_image_takes_no_place_in_training(tmp_path: Path) -> None:
    """Row 3 of the rows 0 .. 3 cannot be decoded: row 0 stands in for it, not row 4, which is another's."""
    place = parquet(tmp_path / "set", {"train": table(range(8), {3: b"x"})})
    tables = hub.tables(hub.parsed(f"hf:{place}"), False)[0]
    _, stream = streamed(place, tmp_path, window=8)
    own = StreamedSource(tables["train"], "picture", Pieces(np.array([[0, 4]])), stream._options, 8, False)
    both = StreamedSource(tables["train"], "picture", Pieces(np.array([[0, 8]])), stream._options, 8, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, other = own.read(np.array([3, 0])), both.read(np.array([3, 4]))
    assert (found[0] == found[1]).all()
    assert (other[0] == other[1]).all() and not (other[0] == found[0]).all()


def test_pieces() -> None:
    pieces = Pieces.of(np.array([0, 300, 310, 900]))
    assert pieces.bounds.tolist() == [
        [0, 256],
        [256, 300],
        [300, 310],
        [310, 566],
        [566, 822],
        [822, 900],
    ]
    taken, left = pieces.drawn(100, seed=1)
    assert len(taken) == 100 and len(left) == 800 and sorted([*taken.rows, *left.rows]) == list(range(900))
    assert pieces.drawn(100, seed=2)[0].rows.tolist() != taken.rows.tolist()
    assert pieces.drawn(10_000, seed=1)[0].rows.tolist() == list(range(900))


# ------------------------------------------------------------------------------------------- what may be wrong


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'siamscope\[hub\]'"):
        opened("hf:owner/name", tmp_path)


def test_a_library_that_may_run_scripts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "3.6.0"

    monkeypatch.setattr("siamscope.data.hub.importlib.import_module", lambda name: Old)
    with pytest.raises(DataError, match=r"datasets 3.6.0 is too old"):
        opened("hf:owner/name", tmp_path)


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("hf:cifar10", ("cifar10", None, None)),
        ("hf:frgfm/imagenette", ("frgfm/imagenette", None, None)),
        ("hf:frgfm/imagenette:160px", ("frgfm/imagenette", "160px", None)),
        ("hf:a/b.c:d e@refs/convert/parquet", ("a/b.c", "d e", "refs/convert/parquet")),
        ("hf:a/b@main", ("a/b", None, "main")),
    ],
)
def test_addresses(source: str, address: tuple[str, str | None, str | None]) -> None:
    found = hub.parsed(source)
    assert (found.name, found.config, found.revision) == address and not found.local and found.text == source


@pytest.mark.parametrize("source", ["hf:", "hf:./nothing", "hf:/no/such/folder", "hf:a/b/c", "hf:a b"])
def test_addresses_that_are_none(source: str) -> None:
    with pytest.raises(DataError, match="there is no folder or file"):
        hub.parsed(source)


def test_a_folder_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.parsed("hf:owner/name") == hub.Address(str(tmp_path / "owner" / "name"), True)


@needed
def test_names_that_are_not_there_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unknown(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.")

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'a/b' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset_builder", unknown)
    with pytest.raises(DataError, match=r"there is no data set 'hf:a/b' that can be read: .*doesn't exist"):
        opened("hf:a/b", tmp_path)
    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(DataError, match=r"the hub cannot be reached for 'hf:a/b', and no copy is here"):
        opened("hf:a/b", tmp_path)


@needed
def test_folders_that_are_no_data_set(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        opened(f"hf:{tmp_path}/empty", tmp_path)
    (tmp_path / "text.txt").write_text("no data")
    with pytest.raises(DataError, match=r"is no .parquet file"):
        opened(f"hf:{tmp_path}/text.txt", tmp_path)
    (file,) = (folder / "data").glob("test-*")
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PAR1" + bytes(100)):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"test-00000-of-00001.parquet' cannot be read"):
            opened(f"hf:{folder}", tmp_path)
    parquet(tmp_path / "none", {"train": table(range(20)), "test": table(range(0))})
    with pytest.raises(DataError, match=r"the split for test of .* is empty"):
        opened(f"hf:{tmp_path}/none", tmp_path)


@needed
def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    wrong = {1: b"no image", 2: None, 5: noise(5, 300), 6: b""}
    parquet(tmp_path / "set", {"train": table(range(20), wrong)})
    found = opened(f"hf:{tmp_path}/set", tmp_path, max_pixels=10_000)
    assert len(found.train) + len(found.val) == 16 and "4 images were set aside" in str(found.hint)
    reasons = {item.path: item.reason for item in found.rejected}
    assert reasons["train/2"] == "the row holds no image" and "not an image" in reasons["train/1"]
    assert "more than max_pixels" in reasons["train/5"] and "not an image" in reasons["train/6"]
    with pytest.raises(DataError, match="leave out --strict"):
        opened(f"hf:{tmp_path}/set", tmp_path, max_pixels=10_000, strict=True)
    with pytest.raises(DataError, match="none of the 20 images"):
        opened(f"hf:{tmp_path}/set", tmp_path, max_pixels=10)


@needed
def test_parquet_that_names_files_instead_of_holding_images(tmp_path: Path) -> None:
    """A data set from elsewhere must not pick files of this machine."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    (tmp_path / "mine.jpg").write_bytes(noise(1))
    rows = [{"bytes": noise(k) if k else None, "path": str(tmp_path / "mine.jpg")} for k in range(8)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "x.parquet")
    found = opened(f"hf:{tmp_path}/x.parquet", tmp_path)
    assert [(item.path, item.reason) for item in found.rejected] == [("train/0", "the row holds no image")]


def test_pillows_limit_stays_as_it_was_while_threads_decode() -> None:
    from siamscope.data.decode import DecodeOptions
    from siamscope.data.decoding import decoded

    before = Image.MAX_IMAGE_PIXELS
    assert before
    images = [noise(k) for k in range(60)]
    threads = [threading.Thread(target=decoded, args=(images, DecodeOptions(16, 3))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS
