"""Features from files: .npy, .npz, .csv, .tsv and .txt. Torch-free; nothing is ever unpickled; .npy stays on disk."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamscope.workflow.diagnose.loaded import DiagnoseError, Loaded

TEXT = {".csv": ",", ".tsv": "\t", ".txt": None}
ENDINGS = (".npy", ".npz", *TEXT)
_FEATURES = ("features", "embeddings", "reprs", "representations", "z", "x", "arr_0")
_GROUPS = ("groups", "group", "ids", "image_ids")
_SPLITS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


def read(path: Path, name: str, split: str = "auto") -> Loaded:
    """The features of a file.

    A (N, d) array: one row an image. A (n, q, d) array: q views of each image; spectra are then taken of the first
    view, LiDAR and alignment of all. In an .npz file also `views` (n, q, d), or `groups` (N,), which image a row is a
    view of; and `split` (N,), as `siamscope embed` writes it, by which rows can be chosen.

    Raises:
        DiagnoseError: no such file, damaged, Python objects, other than numbers, or of another shape.
    """
    if path.suffix.lower() == ".npz":
        arrays = _npz(path)
        key = _first(arrays, _FEATURES) or (next(iter(arrays)) if len(arrays) == 1 else None)
        if key is None:
            raise DiagnoseError(
                f"{name} holds {', '.join(map(repr, arrays)) or 'nothing'}; name the array of features 'features'"
            )
        return _of_arrays(name, f"array {key!r} of {name}", arrays[key], arrays, split)
    if split not in ("auto", "all"):
        raise DiagnoseError(f"{name} does not say which row is of which split; leave --split out")
    x = _parsed(name, lambda: _text(path)) if path.suffix.lower() in TEXT else _npy(path, name)
    return _of_arrays(name, name, x, {}, "auto")


def _of_arrays(name: str, label: str, x: NDArray[Any], arrays: dict[str, NDArray[Any]], split: str) -> Loaded:
    _check(x, label)
    notes = _notes(x)
    about: dict[str, Any] = {"kind": "file", "layer": "as in the file", "dtype": str(x.dtype), "split": "unknown"}
    about |= {"transform": "unknown", "augmented": "unknown"}
    views = arrays.get("views")
    if views is not None:
        _check(views, f"array 'views' of {name}", (3,))
        if views.shape[2] != x.shape[-1]:
            raise DiagnoseError(
                f"{name}: 'views' has {views.shape[2]} columns and the features {x.shape[-1]}; both must be of one "
                "encoder"
            )
    if x.ndim == 3:
        views = x if views is None else views
        notes += (
            f"spectra are of the first of {x.shape[1]} views of each image; the others serve LiDAR and alignment",
        )
        return Loaded(name, x[:, 0], views, about=about | {"augmented": True}, notes=notes)
    if split != "auto" and split != "all":
        chosen = _rows(arrays, split, len(x), name)
        x = x[chosen]
        about["split"] = split
        arrays = {key: value[chosen] for key, value in arrays.items() if key in _GROUPS and len(value) == len(chosen)}
    elif "split" in arrays:
        about["split"] = "all"
    key = _first(arrays, _GROUPS)
    if key is not None and views is None:
        return _grouped(name, x, arrays[key], key, about, notes)
    return Loaded(name, x, views, about=about, notes=notes)


def _rows(arrays: dict[str, NDArray[Any]], split: str, n: int, name: str) -> NDArray[np.bool_]:
    marks = arrays.get("split")
    if marks is None or marks.shape != (n,):
        raise DiagnoseError(f"{name} has no array 'split' with one entry a row; leave --split out")
    found: NDArray[np.bool_] = np.isin(marks.astype(str), _SPLITS[split])
    if not found.any():
        raise DiagnoseError(
            f"{name} has no rows of the {split} split; it has {', '.join(np.unique(marks).astype(str))}"
        )
    return found


def _grouped(
    name: str, x: NDArray[Any], groups: NDArray[Any], key: str, about: dict[str, Any], notes: tuple[str, ...]
) -> Loaded:
    """Rows that belong to images: as views if each image has equally many, refused if not."""
    if groups.shape != (len(x),):
        raise DiagnoseError(f"{name}: {key!r} has shape {groups.shape}; expected one entry for each of {len(x)} rows")
    _, first, counts = np.unique(groups, return_index=True, return_counts=True)
    if counts.max() == 1:  # names of the images, no more
        return Loaded(name, x, about=about, notes=notes)
    if counts.min() != counts.max():
        raise DiagnoseError(
            f"{name}: {key!r} has unequal groups, from {counts.min()} to {counts.max()} rows an image; LiDAR needs "
            "equally many views of each: cut them to the smallest, or leave the groups out"
        )
    order = np.argsort(groups, kind="stable")
    views = x[order].reshape(len(first), int(counts[0]), x.shape[1])
    notes += (f"spectra are of the first of {counts[0]} rows of each of {len(first)} groups",)
    return Loaded(name, views[:, 0], views, about=about | {"augmented": True}, notes=notes)


def _check(x: NDArray[Any], label: str, axes: tuple[int, ...] = (2, 3)) -> None:
    if x.dtype.kind == "O":
        raise DiagnoseError(f"{label} holds Python objects; save plain numbers (float32)")
    if x.dtype.kind == "c":
        raise DiagnoseError(f"{label} is complex ({x.dtype}); a spectrum of features needs real numbers")
    if x.dtype.kind not in "fiu":
        raise DiagnoseError(f"{label} is of type {x.dtype}; expected numbers (float32)")
    if x.ndim not in axes:
        hint = "; pool feature maps first" if x.ndim == 4 else ""
        raise DiagnoseError(
            f"{label} has shape {x.shape}; expected (N, d), one row an image, or (n, q, d), q views of each{hint}"
        )
    if len(x) < 2:
        raise DiagnoseError(f"{label} has {len(x)} row{'s' * (len(x) != 1)}; a spectrum needs at least 2")
    if x.shape[-1] < 2:
        raise DiagnoseError(f"{label} has {x.shape[-1]} column{'s' * (x.shape[-1] != 1)}; a spectrum needs at least 2")
    if x.ndim == 3 and x.shape[1] < 2:
        raise DiagnoseError(f"{label} has {x.shape[1]} view of each image; LiDAR needs at least 2, or give (N, d)")


def _notes(x: NDArray[Any]) -> tuple[str, ...]:
    if x.dtype.kind in "iu":
        return (f"the numbers are whole ({x.dtype}): are these features, not pixels or labels?",)
    return ()


def _npy(path: Path, name: str) -> NDArray[Any]:
    loaded = _parsed(name, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    if not isinstance(loaded, np.ndarray):
        raise DiagnoseError(f"{name} is a .npz file by its content: rename it")
    return loaded


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    def load() -> dict[str, NDArray[Any]]:
        with np.load(path, allow_pickle=False) as archive:
            wanted = {*_FEATURES, *_GROUPS, "views", "split"}
            keys = [key for key in archive.files if key in wanted] or list(archive.files)
            return {key: archive[key] for key in keys}

    found: dict[str, NDArray[Any]] = _parsed(str(path), load)
    return found


def _text(path: Path) -> NDArray[np.float64]:
    """Numbers in columns; a first line that is not numbers is a heading."""
    separator = TEXT[path.suffix.lower()]
    with path.open(encoding="utf-8") as stream:
        first = stream.readline()
    try:
        [float(word) for word in first.split(separator)]
        skip = 0
    except ValueError:
        skip = 1
    found: NDArray[np.float64] = np.loadtxt(path, delimiter=separator, skiprows=skip, ndmin=2, dtype=np.float64)
    return found


def _parsed(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except OSError as error:
        raise DiagnoseError(f"cannot read {name}: {error.strerror or error}") from error
    except (ValueError, EOFError, KeyError, MemoryError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError) as error:
        text = str(error)
        if "pickle" in text.lower() or "object" in text.lower():
            raise DiagnoseError(f"{name} holds Python objects or no array at all; save plain numbers") from None
        raise DiagnoseError(f"{name} cannot be read as an array of numbers: {text or type(error).__name__}") from error


def _first(arrays: dict[str, NDArray[Any]], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in arrays), None)
