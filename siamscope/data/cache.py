"""Prepared images on disk: written once, under a lock, by a rename; opened memory-mapped ever after.

An entry is a folder GROUP-KEY with `images.u8` (raw uint8, N×C×S×S) and `index.json`. GROUP stands for where the
images come from and how they are prepared, KEY for the state of the files; when a group gets a new key, the old entry
goes. An entry that lacks anything is as good as none.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamscope.data.errors import DataError
from siamscope.data.source import Images

VERSION = 1  # raise it when the same files would now be prepared differently
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Written:
    """What a builder reports: a hash of the pixels, and for rows that stay black the reason.

    retry: some reason may pass (a file without permission, say), so the next start should build again.
    """

    digest: str
    rejected: dict[int, str]
    retry: bool = False


@dataclass(frozen=True)
class Entry:
    """An entry of the cache: images uint8 (N, C, S, S), memory-mapped."""

    images: Images
    digest: str
    rejected: dict[int, str]


def cache_root(cache_dir: str = "") -> Path:
    """The folder of the cache: `cache_dir`, else $SIAMSCOPE_CACHE, else siamscope/ in the user's cache folder."""
    given = cache_dir or os.environ.get("SIAMSCOPE_CACHE", "")
    return Path(given).expanduser().absolute() if given else _user_cache() / "siamscope"


def _user_cache() -> Path:
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if xdg.startswith("/"):  # the specification says to ignore a relative one
        return Path(xdg)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser()
    return Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache").expanduser()


def short_hash(*parts: object) -> str:
    """16 hexadecimal digits from the texts of `parts`."""
    text = json.dumps([VERSION, *map(str, parts)])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def open_or_build(
    root: Path, group: str, key: str, shape: Shape, build: Callable[[Path], Written], on_wait: Callable[[], None]
) -> Entry:
    """The entry of `group` and `key`; if there is none, `build(path)` must fill the file at `path`, which has its full
    length already.

    Of several processes that ask at once one builds, and the others wait (after a call of `on_wait`). Whatever goes
    wrong, a keyboard interrupt included, what was written is removed.

    Raises:
        DataError: the cache cannot be written, or there is no space left.
    """
    target = root / f"{group}-{key}"
    entry = _open(target, shape)
    if entry is not None:
        return entry
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f"{group}.lock", on_wait):
            entry = _open(target, shape) or _build(target, shape, build)
            _remove_others(root, group, target)
            return entry
    except OSError as error:
        raise DataError(_cause(error, root)) from error


def _open(folder: Path, shape: Shape) -> Entry | None:
    try:
        index = json.loads((folder / "index.json").read_text(encoding="ascii"))
        pixels = folder / "images.u8"
        if index["version"] != VERSION or tuple(index["shape"]) != shape or index["retry"]:
            return None
        if pixels.stat().st_size != int(np.prod(shape)):
            return None
        rejected = {int(row): str(reason) for row, reason in index["rejected"].items()}
        return Entry(np.memmap(pixels, np.uint8, "r", shape=shape), str(index["digest"]), rejected)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _build(target: Path, shape: Shape, build: Callable[[Path], Written]) -> Entry:
    nbytes = int(np.prod(shape))
    free = shutil.disk_usage(target.parent).free
    if nbytes > free:
        raise OSError(errno.ENOSPC, f"{nbytes / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        pixels = partial / "images.u8"
        with pixels.open("wb") as file:
            file.truncate(nbytes)
        written = build(pixels)
        _flush(pixels)
        _write_index(partial / "index.json", shape, written)
        entry = Entry(np.memmap(pixels, np.uint8, "r", shape=shape), written.digest, written.rejected)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        return entry
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_index(path: Path, shape: Shape, written: Written) -> None:
    index = {
        "version": VERSION,
        "shape": list(shape),
        "digest": written.digest,
        "rejected": {str(row): reason for row, reason in sorted(written.rejected.items())},
        "retry": written.retry,
    }
    path.write_text(json.dumps(index), encoding="ascii")
    _flush(path)


def _flush(path: Path) -> None:
    """Onto the disk before the rename, so that a power cut cannot leave a whole entry with black images."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _remove_others(root: Path, group: str, keep: Path) -> None:
    """Entries of an older state of the files, and what a killed process left. An open map keeps its pages."""
    for old in root.glob(f"{group}-*"):
        if old != keep:
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that the system releases when the process ends, however it ends."""
    with path.open("a") as file:
        if sys.platform != "win32":  # there the last rename wins
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cause(error: OSError, root: Path) -> str:
    elsewhere = "choose another folder with data.cache_dir or SIAMSCOPE_CACHE"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        detail = f" ({error.strerror})" if error.strerror and "MB" in error.strerror else ""
        return f"no space left for prepared images in {str(root)!r}{detail}: free some space, or {elsewhere}"
    return f"cannot write prepared images in {str(root)!r}: {error.strerror or error}; {elsewhere}"
