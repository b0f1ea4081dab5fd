"""`gallery.npz`: the map, the neighbours and the views, each checked on its own; the unusable is named and left out."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamscope.report.metrics import FloatArray

AnyArray = NDArray[np.generic]
ImageArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]

_LARGEST = 1 << 30  # bytes when unpacked; a gallery is a few MB, so more than this is damage or malice
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class EmbeddingMap:
    """PCA of validation embeddings: points (n, 2), labels (n,) with -1 unknown, share of variance (2,), names or ()."""

    points: FloatArray
    labels: IntArray
    explained: FloatArray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Neighbours:
    """Queries (q, C, H, W), their nearest images (q, k, C, H, W), names, labels (-1 unknown), similarity (q, k)."""

    queries: ImageArray
    query_names: tuple[str, ...]
    query_labels: IntArray
    images: ImageArray
    names: tuple[tuple[str, ...], ...]
    labels: IntArray
    similarity: FloatArray


@dataclass(frozen=True)
class Gallery:
    """The usable parts of `gallery.npz`; None for a part that is absent or unusable (see `notes`)."""

    map: EmbeddingMap | None
    neighbours: Neighbours | None
    views: ImageArray | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...]

    def class_name(self, label: int) -> str | None:
        """Name of class `label`; None when unknown, the number when unnamed."""
        if label < 0:
            return None
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"


def read_gallery(path: Path) -> Gallery:
    """Read and check `gallery.npz`, unpickling nothing. Raises OSError or ValueError when it is no such archive."""
    notes: list[str] = []
    arrays = _arrays(path, notes)
    class_names = _names(arrays.get("class_names"), None)
    parts = (_map(arrays, notes), _neighbours(arrays, notes), _views(arrays, notes))
    return Gallery(*parts, class_names, tuple(notes))


def _arrays(path: Path, notes: list[str]) -> dict[str, AnyArray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"not a NumPy archive ({error})") from error
    if size > _LARGEST:
        raise ValueError(f"unpacks to {size / 2**30:.1f} GiB, more than the 1 GiB a gallery may take")
    arrays: dict[str, AnyArray] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            try:
                arrays[key] = np.asarray(archive[key])
            except _UNREADABLE as error:
                notes.append(f"gallery.npz: {key} is not readable ({error}).")
    return arrays


def _names(array: AnyArray | None, count: int | None) -> tuple[str, ...]:
    """A vector of text as strings; empty strings, `count` of them, when it is absent or of another length."""
    if array is not None and array.dtype.kind == "U" and array.ndim == 1 and count in (None, len(array)):
        return tuple(str(item) for item in array)
    return ("",) * (count or 0)


def _labels(array: AnyArray | None, shape: tuple[int, ...]) -> IntArray:
    if array is None or array.shape != shape or array.dtype.kind not in "iu":
        return np.full(shape, -1, dtype=np.int64)
    return array.astype(np.int64)


def _floats(array: AnyArray | None, shape: tuple[int, ...]) -> FloatArray:
    if array is None or array.shape != shape or array.dtype.kind not in "fiu":
        return np.full(shape, np.nan)
    return array.astype(np.float64)


def _map(arrays: Mapping[str, AnyArray], notes: list[str]) -> EmbeddingMap | None:
    array = arrays.get("map")
    if array is None or array.size == 0:
        return None
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind != "f":
        notes.append(f"gallery.npz: map has shape {array.shape} and type {array.dtype}; expected (n, 2) floats.")
        return None
    values = array.astype(np.float64)
    keep: NDArray[np.bool_] = np.all(np.isfinite(values), axis=1)
    if not keep.all():
        notes.append(f"gallery.npz: {int((~keep).sum()):,} of {len(keep):,} map points are not finite and left out.")
    count = len(values)
    names = _names(arrays.get("map_names"), count)
    return EmbeddingMap(
        values[keep],
        _labels(arrays.get("map_labels"), (count,))[keep],
        _floats(arrays.get("map_explained"), (2,)),
        tuple(name for name, kept in zip(names, keep, strict=True) if kept),
    )


def _is_images(array: AnyArray | None, ndim: int) -> bool:
    return array is not None and array.dtype == np.uint8 and array.ndim == ndim and array.size > 0


def _neighbours(arrays: Mapping[str, AnyArray], notes: list[str]) -> Neighbours | None:
    queries, images = arrays.get("query_images"), arrays.get("neighbour_images")
    if queries is None or images is None or queries.size == 0 or images.size == 0:
        return None
    matching = _is_images(queries, 4) and _is_images(images, 5) and len(queries) == len(images)
    if not matching:
        notes.append(
            f"gallery.npz: query_images {queries.shape} {queries.dtype} and neighbour_images {images.shape} "
            f"{images.dtype} do not fit; expected uint8 (q, C, H, W) and (q, k, C, H, W)."
        )
        return None
    shape = images.shape[:2]
    return Neighbours(
        queries.astype(np.uint8),
        _names(arrays.get("query_names"), shape[0]),
        _labels(arrays.get("query_labels"), shape[:1]),
        images.astype(np.uint8),
        _name_rows(arrays.get("neighbour_names"), (shape[0], shape[1])),
        _labels(arrays.get("neighbour_labels"), shape),
        _floats(arrays.get("neighbour_similarity"), shape),
    )


def _name_rows(array: AnyArray | None, shape: tuple[int, int]) -> tuple[tuple[str, ...], ...]:
    if array is None or array.shape != shape:
        return (("",) * shape[1],) * shape[0]
    return tuple(_names(row, shape[1]) for row in array)


def _views(arrays: Mapping[str, AnyArray], notes: list[str]) -> ImageArray | None:
    views = arrays.get("view_images")
    if views is None or views.size == 0:
        return None
    if not _is_images(views, 5) or views.shape[1] < 2:
        notes.append(
            f"gallery.npz: view_images has shape {views.shape} and type {views.dtype}; "
            "expected uint8 (m, 1 + V, C, H, W)."
        )
        return None
    return views.astype(np.uint8)
