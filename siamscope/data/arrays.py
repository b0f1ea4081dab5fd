"""Array files: .npy and .npz. Nothing is ever unpickled from them."""

import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamscope.data.errors import DataError
from siamscope.data.source import Indices

_IMAGES = {
    "train": ("x_train", "train_images", "train_x", "images_train", "x", "images", "data", "imgs", "arr_0"),
    "val": ("x_val", "val_images", "val_x", "images_val", "x_valid"),
    "test": ("x_test", "test_images", "test_x", "images_test"),
}
_LABELS = {
    "train": ("y_train", "train_labels", "train_y", "labels_train", "y", "labels", "label", "targets"),
    "val": ("y_val", "val_labels", "val_y", "labels_val", "y_valid"),
    "test": ("y_test", "test_labels", "test_y", "labels_test"),
}


@dataclass(frozen=True)
class RawSplit:
    """A split as it was found: images of any layout and type, and labels as they are or None."""

    name: str
    images: NDArray[Any]
    labels: NDArray[Any] | None = None


def read_npy(path: Path) -> dict[str, RawSplit]:
    """The split "train" of a .npy file, memory-mapped. Raises DataError if it holds no plain array."""
    return {"train": RawSplit(repr(path.name), _load(path, repr(path.name)))}


def read_npz(path: Path, limit: int, spool: Callable[[], Path]) -> dict[str, RawSplit]:
    """The splits "train", "val" and "test" of a .npz file, as far as it has them.

    Images are looked for under x_train, train_images, x, images, data; labels under y_train, train_labels, y, labels,
    label; and x_val, x_test and so on beside them, in any case. An array of more than `limit` bytes is unpacked into
    the folder that `spool` gives and memory-mapped.

    Raises:
        DataError: not a .npz file, damaged, holding Python objects, or without images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            return _splits_of(path, archive, members, limit, spool)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path.name!r} is damaged or no .npz file: {error}") from error


def _splits_of(
    path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], limit: int, spool: Callable[[], Path]
) -> dict[str, RawSplit]:
    lower = {name.lower(): name for name in members}

    def get(names: Sequence[str]) -> tuple[str, NDArray[Any]] | None:
        for name in names:
            if name in lower:
                member = lower[name]
                label = f"array {member!r} of {path.name!r}"
                return label, _member(archive, members[member], label, limit, spool)
        return None

    found: dict[str, RawSplit] = {}
    for split in ("train", "val", "test"):
        images = get(_IMAGES[split])
        if images is None and split == "train" and len(members) == 1:
            images = get((next(iter(lower)),))
        if images is not None:
            labels = get(_LABELS[split])
            found[split] = RawSplit(images[0], images[1], None if labels is None else labels[1])
    if "train" not in found:
        raise DataError(
            f"{path.name!r} holds {', '.join(map(repr, members)) or 'nothing'}, but no images: "
            f"name the array x_train, x or images"
        )
    return found


def _member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str, limit: int, spool: Callable[[], Path]
) -> NDArray[Any]:
    # Always by way of a file or a bounded read: an archive may claim any size for what it unpacks to.
    if info.file_size > limit:
        return _load(unpack(archive.open(info), info.file_size, spool(), label), label)
    with archive.open(info) as stream:
        return _parsed(lambda: np.lib.format.read_array(stream, allow_pickle=False), label)


def _load(path: Path, label: str) -> NDArray[Any]:
    loaded = _parsed(lambda: np.load(path, mmap_mode="r", allow_pickle=False), label)
    if not isinstance(loaded, np.ndarray):
        raise DataError(f"{label} is a .npz file by its content: rename it")
    return loaded


def _parsed(read: Callable[[], NDArray[Any]], label: str) -> NDArray[Any]:
    try:
        return read()
    except (ValueError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile) as error:
        text = str(error)
        if "pickle" in text.lower() or "object" in text.lower():
            raise DataError(f"{label} holds Python objects or no array at all; save plain numbers (uint8)") from None
        raise DataError(f"{label} is damaged: {text or type(error).__name__}") from error
    except OSError as error:
        raise DataError(f"cannot read {label}: {error.strerror or error}") from error


def unpack(stream: Any, size: int, folder: Path, label: str) -> Path:
    """Write a stream of `size` bytes into a new file of a folder. Raises DataError if there is no room for it."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{label} needs {size / 1e6:,.0f} MB unpacked; {free / 1e6:,.0f} MB are free in {str(folder)!r}"
        )
    target = folder / f"{len(list(folder.iterdir()))}.raw"
    left = size + 1  # not more, whatever it unpacks to
    with stream, target.open("wb") as file:
        while block := stream.read(min(left, 2**20)):
            file.write(block)
            left -= len(block)
    return target


def integer_labels(splits: dict[str, RawSplit]) -> tuple[dict[str, Indices | None], tuple[str, ...] | None]:
    """Labels of every split as 0 .. K - 1, and the K class names: the values found, as text.

    Accepted are integers, floats without a fraction, truth values and texts, one an image (N or N×1). Without labels
    for "train" the others' count.

    Raises:
        DataError: another shape or type, or not as many labels as images.
    """
    flat = {name: _flat_labels(split) for name, split in splits.items() if split.labels is not None}
    if not flat:
        return dict.fromkeys(splits), None
    try:
        values = np.unique(np.concatenate(list(flat.values())))
    except (TypeError, ValueError) as error:
        raise DataError(f"the splits' labels are of different kinds: {error}") from error
    places: dict[str, Indices | None] = {
        name: np.searchsorted(values, flat[name]).astype(np.int64) if name in flat else None for name in splits
    }
    return places, tuple(str(value) for value in values)


def _flat_labels(split: RawSplit) -> NDArray[Any]:
    labels = np.asarray(split.labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(split.images),):
        raise DataError(
            f"the labels of {split.name} have shape {labels.shape}; expected one for each of {len(split.images)} images"
        )
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iubUS":
        raise DataError(f"the labels of {split.name} are {labels.dtype}; expected whole numbers or texts")
    return labels
