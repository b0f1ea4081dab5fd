"""IDX files, the format of MNIST (http://yann.lecun.com/exdb/mnist): a header, then raw bytes; plain or gzipped."""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from siamscope.data.arrays import RawSplit, unpack
from siamscope.data.errors import DataError

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def fashion_mnist_folder() -> Path:
    """Where Debian's package dataset-fashion-mnist puts its files. Raises DataError if it is not installed."""
    shares = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    for share in shares.split(":"):
        folder = Path(share) / "datasets" / "fashion-mnist"
        if folder.is_dir():
            return folder
    raise DataError(
        "fashion-mnist is not installed: apt-get install dataset-fashion-mnist (Debian, Ubuntu), or give the folder "
        "that holds train-images-idx3-ubyte.gz and its companions as data.source"
    )


def has_idx_files(folder: Path) -> bool:
    """Whether a folder directly holds a file of IDX images."""
    return any(_is_kind(path, "images", 3) for path in folder.iterdir())


def read_idx(folder: Path, limit: int, spool: Callable[[], Path]) -> dict[str, RawSplit]:
    """The splits "train" and perhaps "test" of a folder of IDX files.

    The names must contain train, or t10k or test, and end as MNIST's do: ...images-idx3-ubyte, ...labels-idx1-ubyte,
    with or without .gz. Plain files are memory-mapped; a gzipped one of more than `limit` bytes is unpacked into the
    folder that `spool` gives first.

    Raises:
        DataError: no training images, several candidates, a wrong header, too few or too many bytes, or another
        number of labels than of images.
    """
    found: dict[str, RawSplit] = {}
    for split in ("train", "test"):
        images = _find(folder, split, "images", 3)
        labels = _find(folder, split, "labels", 1)
        if images is not None:
            values = None if labels is None else np.asarray(_read(labels, 1, limit, spool))
            found[split] = RawSplit(repr(images.name), _read(images, 3, limit, spool), values)
    if "train" not in found:
        raise DataError(f"no training images in IDX format in {str(folder)!r}: expected train-images-idx3-ubyte[.gz]")
    return found


def _is_kind(path: Path, what: str, axes: int) -> bool:
    name = path.name.lower().removesuffix(".gz").replace(".idx", "-idx")
    return name.endswith(f"{what}-idx{axes}-ubyte") and path.is_file()


def _split_of(name: str) -> str:
    return "train" if "train" in name else "test" if "t10k" in name or "test" in name else ""


def _find(folder: Path, split: str, what: str, axes: int) -> Path | None:
    names = [
        path for path in folder.iterdir()
        if _is_kind(path, what, axes) and _split_of(path.name.lower()) == split
    ]  # fmt: skip
    plain = {path for path in names if path.suffix != ".gz"}
    found = sorted(path for path in names if path in plain or path.with_suffix("") not in plain)
    if len(found) > 1:
        raise DataError(
            f"{str(folder)!r} holds several files of {split} {what}: {', '.join(path.name for path in found)}; "
            f"give a folder with one of them"
        )
    return found[0] if found else None


def _read(path: Path, axes: int, limit: int, spool: Callable[[], Path]) -> NDArray[Any]:
    name = repr(path.name)
    try:
        if path.suffix != ".gz":
            with path.open("rb") as plain:
                shape = _header(plain, axes, name)
            _check_length(path.stat().st_size, axes, shape, name)
            return np.memmap(path, np.uint8, "r", offset=4 + 4 * axes, shape=shape)
        with gzip.open(path) as stream:
            shape = _header(stream, axes, name)
            return _unzipped(stream, axes, shape, name, limit, spool)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name} is damaged or cut short: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from error


def _unzipped(
    stream: Any, axes: int, shape: tuple[int, ...], name: str, limit: int, spool: Callable[[], Path]
) -> NDArray[Any]:
    size = math.prod(shape)
    if size > limit:
        path = unpack(stream, size, spool(), name)
        _check_length(4 + 4 * axes + path.stat().st_size, axes, shape, name)
        return np.memmap(path, np.uint8, "r", shape=shape)
    data = stream.read(size + 1)  # not more, whatever it unpacks to
    _check_length(4 + 4 * axes + len(data), axes, shape, name)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _header(stream: IO[bytes] | gzip.GzipFile, axes: int, name: str) -> tuple[int, ...]:
    head = stream.read(4 + 4 * axes)
    if len(head) < 4 + 4 * axes:
        raise DataError(f"{name} is cut short: {len(head)} bytes are no IDX header")
    magic, *shape = struct.unpack(f">{1 + axes}I", head)
    if magic != 0x800 + axes:
        raise DataError(f"{name} starts with 0x{magic:08x}; IDX bytes with {axes} axes start with 0x{0x800 + axes:08x}")
    if 0 in shape:
        raise DataError(f"{name} has shape {tuple(shape)}: it is empty")
    return tuple(shape)


def _check_length(present: int, axes: int, shape: tuple[int, ...], name: str) -> None:
    expected = 4 + 4 * axes + math.prod(shape)
    if present != expected:
        what = "is cut short" if present < expected else "has bytes left over"
        amount = f"{present:,}" if present < expected else f"at least {present:,}"
        raise DataError(f"{name} {what}: its header promises {expected:,} bytes, it holds {amount}")
