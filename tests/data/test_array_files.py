"""Arrays and IDX files: layouts, types, ranges, labels, damage."""

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamscope.data import idx
from siamscope.data.config import DataConfig
from siamscope.data.convert import Converter
from siamscope.data.errors import DataError
from siamscope.data.open import Dataset, open_dataset
from siamscope.data.rows import Rows

RNG = np.random.default_rng(0)


def opened(path: Path, size: int = 8, **fields: object) -> Dataset:
    return open_dataset(DataConfig(source=str(path), size=size, cache_dir=str(path.parent / "cache"), **fields))


def everything(dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """The pool's images and labels in their order in the file."""
    sources = (dataset.train, dataset.val)
    order = np.argsort([int(name) for source in sources for name in source.names])
    images = np.concatenate([source.read(np.arange(len(source))) for source in sources])[order]
    if dataset.train.labels is None:
        return images, None
    return images, np.concatenate([source.labels for source in sources])[order]


def converted(values: np.ndarray, size: int = 8, **options: object) -> np.ndarray:
    return np.concatenate([piece for _, piece in Converter("a", values, size, **options).pieces()])


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7])
def test_layouts(channels: int) -> None:
    images = RNG.integers(0, 256, (6, channels, 8, 8), np.uint8)
    np.testing.assert_array_equal(converted(images), images)
    np.testing.assert_array_equal(converted(np.ascontiguousarray(images.transpose(0, 2, 3, 1))), images)
    np.testing.assert_array_equal(converted(images[:, 0]), images[:, :1])


def test_a_tie_of_second_and_last_axis_is_channels_last() -> None:
    images = RNG.integers(0, 256, (2, 8, 8, 8), np.uint8)
    np.testing.assert_array_equal(converted(images), images.transpose(0, 3, 1, 2))


def test_types_and_ranges() -> None:
    bytes_ = RNG.integers(0, 256, (4, 8, 8), np.uint8)
    bytes_[0, 0, :2] = 0, 255
    expected = bytes_[:, None]
    for dtype in (np.int16, np.int64, np.uint32, np.float16, np.float32, np.float64, ">i4", ">f4"):
        np.testing.assert_array_equal(converted(bytes_.astype(dtype)), expected)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(converted((bytes_ / 255).astype(dtype)), expected)
    np.testing.assert_array_equal(converted(bytes_.astype(np.uint16) * 257), expected)
    np.testing.assert_array_equal(converted(bytes_ > 100), (expected > 100) * np.uint8(255))
    np.testing.assert_array_equal(converted(np.full((1, 8, 8), 0.5)), 128)  # 127.5, to even


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 8)), r"shape \(4, 8\).*N×H×W×C"),
        (np.zeros((4, 3, 8, 8, 1)), "accepted|N×C×H×W"),
        (np.zeros((0, 8, 8)), "empty"),
        (np.full((4, 8, 8), -0.5), r"from -0.5 to -0.5.*normalisation"),
        (np.full((4, 8, 8), 300), "uint16"),
        (np.zeros((4, 8, 8), complex), "complex"),
        (np.zeros((4, 8, 8), "U3"), "U3"),
        (np.zeros((9, 4, 12, 3), np.uint8), "9 images of 4 × 12 pixels and 3 channels.*min_side"),
    ],
)
def test_refused_arrays(values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Converter("array 'x'", values, 8, min_side=8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_located(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamscope.data.convert._PIECE_BYTES", 1000)  # several pieces
    values = np.zeros((50, 8, 8, 3), np.float32)
    values[33, 4, 5, 1] = values[40, 0, 0, 0] = bad
    with pytest.raises(DataError, match=rf"array 'x'.*{bad}.*\[33, 4, 5, 1\]"):
        Converter("array 'x'", values, 8)


def test_channels_asked_for() -> None:
    rgb = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    luma = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in rgb])
    np.testing.assert_array_equal(converted(rgb, channels=1)[:, 0], luma)
    np.testing.assert_array_equal(converted(luma, channels=3), np.repeat(luma[:, None], 3, 1))
    with pytest.raises(DataError, match=r"5 channels.*data.channels = 3"):
        converted(np.zeros((3, 8, 8, 5), np.uint8), channels=3)


def test_sizes() -> None:
    images = RNG.integers(0, 256, (2, 20, 30, 3), np.uint8)
    expected = np.stack([Image.fromarray(i).resize((12, 8), Image.Resampling.BILINEAR) for i in images])[:, :, 2:10]
    assert abs(converted(images).astype(int) - expected.transpose(0, 3, 1, 2)).max() <= 1
    small = RNG.integers(0, 256, (2, 28, 28), np.uint8)
    padded = converted(small, 32, pad=True)
    np.testing.assert_array_equal(padded[:, 0, 2:30, 2:30], small)
    assert padded.sum() == small.sum()
    assert converted(small, 64, pad=True)[:, 0, 0].any()  # too much of a border: scaled instead


def test_npz_with_splits_and_labels(tmp_path: Path) -> None:
    train, test = RNG.integers(0, 256, (20, 8, 8, 3), np.uint8), RNG.integers(0, 256, (5, 8, 8, 3), np.uint8)
    y_train, y_test = np.arange(20) % 3 + 4, np.array([[6], [5], [4], [9], [9]])
    np.savez_compressed(tmp_path / "a.npz", X_train=train, Y_train=y_train, X_test=test, Y_test=y_test)
    dataset = opened(tmp_path / "a.npz")
    images, labels = everything(dataset)
    np.testing.assert_array_equal(images, train.transpose(0, 3, 1, 2))
    assert labels is not None and labels.tolist() == (np.arange(20) % 3).tolist()
    assert dataset.train.class_names == ("4", "5", "6", "9")
    assert dataset.test is not None and dataset.test.labels is not None
    assert dataset.test.labels.tolist() == [2, 1, 0, 3, 3]
    np.testing.assert_array_equal(dataset.test.read(np.arange(5)), test.transpose(0, 3, 1, 2))


def test_npz_of_other_writers(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (12, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, val_images=images[:4], test_images=images[:3])
    dataset = opened(tmp_path / "a.npz")
    assert (len(dataset.train), len(dataset.val), len(dataset.test or [])) == (12, 4, 3)
    np.savez(tmp_path / "b.npz", images=images, label=np.array(["b", "a"] * 6))
    dataset = opened(tmp_path / "b.npz")
    assert dataset.train.class_names == ("a", "b") and everything(dataset)[1].tolist() == [1, 0] * 6
    np.savez(tmp_path / "c.npz", whatever=images)
    np.testing.assert_array_equal(everything(opened(tmp_path / "c.npz"))[0][:, 0], images)
    np.save(tmp_path / "d.npy", np.asfortranarray(images / 255))
    np.testing.assert_array_equal(everything(opened(tmp_path / "d.npy"))[0][:, 0], images)


def test_refused_array_files(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8), np.uint8)
    path = tmp_path / "a.npz"
    np.savez(path, foo=images, bar=images)
    with pytest.raises(DataError, match=r"'foo', 'bar'.*x_train"):
        opened(path)
    np.savez(path, x=images, y=np.zeros(3, int))
    with pytest.raises(DataError, match=r"labels.*\(3,\).*each of 4"):
        opened(path)
    np.savez(path, x=images, y=np.array([0, 1, 0.5, np.nan]))
    with pytest.raises(DataError, match=r"labels.*float64"):
        opened(path)
    np.savez(path, x=np.array([{"a": 1}], object))
    with pytest.raises(DataError, match="Python objects"):
        opened(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        opened(path)
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object))
    with pytest.raises(DataError, match="Python objects"):
        opened(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", images)
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-10])
    with pytest.raises(DataError, match="damaged"):
        opened(tmp_path / "b.npy")
    with pytest.raises(DataError, match=r"data.kind is idx"):
        opened(tmp_path / "b.npy", kind="idx")
    np.savez(path, x=images, x_test=np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="different numbers of channels"):
        opened(path)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harmed",))

    for name, save in (("a.npy", np.save), ("a.npz", np.savez)):
        save(tmp_path / name, np.array([Harm()], object))
        with pytest.raises(DataError):
            opened(tmp_path / name)
    assert not (tmp_path / "harmed").exists()


def test_header_that_claims_too_much(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8), }"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117) + b"\n" + bytes(100)
    (tmp_path / "a.npy").write_bytes(npy)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="damaged"):
            opened(tmp_path / name)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "idx", "idx.gz"])
def test_more_than_the_memory_budget_streams(tmp_path: Path, name: str) -> None:
    images = RNG.integers(0, 256, (1500, 28, 28), np.uint8)
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if name.startswith("idx"):
        path.mkdir()
        write_idx(path, "train", images, zipped=name.endswith("gz"))
    else:
        (np.save if name.endswith("npy") else lambda p, x: np.savez_compressed(p, x=x))(path, images)
    small, large = opened(path, 32, memory_budget_mb=1), opened(path, 32)
    assert small.streams and not large.streams
    assert isinstance(small.train.source.images, Rows)
    assert isinstance(large.train.source.images, np.ndarray)
    np.testing.assert_array_equal(everything(small)[0], everything(large)[0])
    kept = [entry.name for entry in (path.parent / "cache").iterdir() if entry.is_dir()]
    assert len(kept) == 1 and not kept[0].startswith("unpacked")
    again = opened(path, 32, memory_budget_mb=1)
    assert again.fingerprint == small.fingerprint


# --- IDX


def write_idx(
    folder: Path, split: str, images: np.ndarray, labels: np.ndarray | None = None, zipped: bool = False
) -> None:
    for what, values in (("images", images), ("labels", labels)):
        if values is not None:
            data = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()
            name = f"{split}-{what}-idx{values.ndim}-ubyte"
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_round_trip(tmp_path: Path, zipped: bool) -> None:
    images, labels = RNG.integers(0, 256, (30, 28, 28), np.uint8), RNG.integers(0, 4, 30).astype(np.uint8)
    write_idx(tmp_path, "train", images, labels, zipped)
    write_idx(tmp_path, "t10k", images[:7], labels[:7], zipped)
    dataset = opened(tmp_path, 28)
    assert dataset.config.kind == "idx" and dataset.train.channels == 3
    found, found_labels = everything(dataset)
    np.testing.assert_array_equal(found[:, 0], images)
    np.testing.assert_array_equal(found_labels, labels)
    assert dataset.test is not None and dataset.test.labels is not None
    np.testing.assert_array_equal(dataset.test.read(np.arange(7))[:, 0], images[:7])
    np.testing.assert_array_equal(everything(opened(tmp_path, 32))[0][:, 0, 2:-2, 2:-2], images)


def test_idx_without_labels_and_beside_its_gz(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (30, 28, 28), np.uint8)
    write_idx(tmp_path, "train", images)
    write_idx(tmp_path, "train", images[:3], zipped=True)  # passed over: the plain file is there
    dataset = opened(tmp_path)
    assert dataset.train.labels is None and len(dataset.train) + len(dataset.val) == 30


def test_refused_idx_files(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.zeros(5, np.uint8)
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        opened(tmp_path, kind="idx")
    write_idx(tmp_path, "train", images, labels[:4])
    with pytest.raises(DataError, match="labels"):
        opened(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    path = tmp_path / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for data, message in (
        (whole[:-1], "cut short.*3,936"),
        (whole + b"x", "left over"),
        (whole[:9], "cut short.*9 bytes"),
        (struct.pack(">4I", 0x801, 5, 28, 28), "0x00000801.*0x00000803"),
        (struct.pack(">4I", 0x803, 0, 28, 28), "empty"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            opened(tmp_path)
        (tmp_path / "zip").mkdir(exist_ok=True)
        (tmp_path / "zip" / f"{path.name}.gz").write_bytes(gzip.compress(data))
        with pytest.raises(DataError, match=message):
            opened(tmp_path / "zip")
    (tmp_path / "zip" / f"{path.name}.gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(DataError, match="damaged or cut short"):
        opened(tmp_path / "zip")
    (tmp_path / "zip" / f"{path.name}.gz").write_bytes(whole)
    with pytest.raises(DataError, match="damaged"):
        opened(tmp_path / "zip")


def test_several_idx_candidates(tmp_path: Path) -> None:
    images = np.zeros((5, 28, 28), np.uint8)
    for name in ("emnist-letters-train", "emnist-digits-train"):
        write_idx(tmp_path, name, images)
    with pytest.raises(DataError, match=r"several files.*digits.*letters"):
        opened(tmp_path)


def test_fashion_mnist_is_found_or_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    config = DataConfig(source="fashion-mnist")
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        open_dataset(config)
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    labels = np.arange(30).astype(np.uint8) % 10
    write_idx(folder, "train", np.zeros((30, 28, 28), np.uint8), labels, True)
    dataset = open_dataset(config)
    assert dataset.train.class_names == idx.FASHION_MNIST_CLASSES
    assert dataset.config.source == dataset.name == "fashion-mnist"


def test_debians_fashion_mnist() -> None:
    try:
        idx.fashion_mnist_folder()
    except DataError:
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    dataset = open_dataset(DataConfig(source="fashion-mnist", samples=100))
    assert (len(dataset.train), len(dataset.val), len(dataset.test or [])) == (100, 5000, 10000)
    assert dataset.test is not None and dataset.test.labels is not None
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
