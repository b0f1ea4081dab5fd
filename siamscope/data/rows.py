"""Reads rows that lie in many files, at the disk's speed and in bounded memory.

Read with `preadv`, not mapped: pages of a map count as memory of the process, and a file that somebody cut short would
end the process by a signal where a read gives an error. What was read lately stays in the system's page cache.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamscope.data.descriptors import exhausted, share_of_descriptors, too_many
from siamscope.data.errors import DataError
from siamscope.data.locks import Held
from siamscope.data.source import Images, Indices, checked_indices

_MOST_OPEN = 256  # files of one entry kept open, if the process's limit allows; others are opened again when needed
_MOST_VIEWS = 512  # of one preadv; systems allow 1,024


@dataclass(frozen=True)
class State:
    """Size in bytes and time of change (ns) by which a file is known."""

    nbytes: int
    time: int


class Rows:
    """Images uint8 (N, C, S, S) in files of `per_file` rows each, the last one perhaps of fewer.

    The files are opened at once, up to a limit (a lower one when the process runs out of descriptors): what is open can
    be read on after the files were removed. lock: held as long as this object is there, so that nobody removes the
    others. Safe to read from threads. Raises OSError if a file cannot be opened or is not in its state.
    """

    def __init__(
        self,
        files: Sequence[Path],
        states: Sequence[State],
        shape: tuple[int, int, int, int],
        per_file: int,
        lock: Held | None = None,
    ) -> None:
        self.shape, self._per_file, self._held = shape, per_file, lock
        self._files, self._states = files, states
        self._open: OrderedDict[int, _File] = OrderedDict()
        self._lock = threading.Lock()
        self._most = share_of_descriptors(_MOST_OPEN)
        for place in range(min(len(files), self._most)):
            try:
                self._open[place] = _File(files[place], states[place])
            except OSError as error:
                if not exhausted(error):
                    raise
                self._keep_half()
                break

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, indices: Indices) -> Images:
        """The images at `indices` (B,), as a fresh array (B, C, S, S).

        Raises:
            IndexError: an index outside 0 .. N - 1. DataError: a file is gone, has changed or was cut short.
        """
        indices = checked_indices(indices, len(self))
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        if not out.size:
            return out
        order = np.argsort(indices, kind="stable")  # ascending, so that a disk is read in one direction
        rows = indices[order]
        begins = np.flatnonzero((np.diff(rows) != 1) | (rows[1:] % self._per_file == 0)) + 1
        begins = np.concatenate([[0], begins])
        places, firsts = np.divmod(rows[begins], self._per_file)
        nbytes = out[0].nbytes
        flat = out.reshape(-1).data
        runs = zip(begins.tolist(), [*begins[1:].tolist(), len(rows)], places.tolist(), firsts.tolist(), strict=True)
        for begin, end, place, first in runs:
            self._read_run(place, first * nbytes, _views(flat, order[begin:end], nbytes))
        return out

    def _read_run(self, place: int, offset: int, views: list[memoryview]) -> None:
        file = self._file(place)
        for start in range(0, len(views), _MOST_VIEWS):
            part = views[start : start + _MOST_VIEWS]
            if not file.read(part, offset):
                raise DataError(f"prepared images in {str(self._files[place])!r} were cut short: {_REMEDY}")
            offset += sum(map(len, part))

    def _file(self, place: int) -> "_File":
        with self._lock:
            file = self._open.get(place)
            if file is not None:
                self._open.move_to_end(place)
                return file
            while file is None:
                try:
                    file = _File(self._files[place], self._states[place])
                except OSError as error:
                    if not exhausted(error):
                        raise DataError(
                            f"prepared images in {str(self._files[place])!r} are gone or have changed "
                            f"({error.strerror or error}): {_REMEDY}"
                        ) from error
                    if not self._open:
                        raise DataError(too_many(error)) from error
                    self._keep_half()
            self._open[place] = file
            if len(self._open) > self._most:
                self._open.popitem(last=False)  # closed when the last thread that reads it lets go
            return file

    def _keep_half(self) -> None:
        """Close half of the open files, those read longest ago, and keep no more from now on."""
        for _ in range((len(self._open) + 1) // 2):
            self._open.popitem(last=False)
        self._most = max(1, len(self._open))


_REMEDY = "start again, and they are prepared anew"


def _views(flat: memoryview, places: Indices, nbytes: int) -> list[memoryview]:
    """Where consecutive rows of a file go: one view for each stretch of the output."""
    if len(places) == 1:  # nearly always, of shuffled rows
        at = int(places[0]) * nbytes
        return [flat[at : at + nbytes]]
    breaks = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
    bounds = zip([0, *breaks], [*breaks, len(places)], strict=True)
    return [flat[int(places[a]) * nbytes : (int(places[b - 1]) + 1) * nbytes] for a, b in bounds]


class _File:
    """An open file, closed when nobody holds it any more."""

    def __init__(self, path: Path, state: State) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        status = os.fstat(self._descriptor)
        if State(status.st_size, status.st_mtime_ns) != state:
            raise OSError(f"{str(path)!r} is not the file that was prepared")
        if hasattr(os, "posix_fadvise"):  # no reading ahead: the next rows are wanted of somewhere else
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, views: list[memoryview], offset: int) -> bool:
        """Fill the views from the offset on; whether there was enough."""
        if hasattr(os, "preadv") and os.preadv(self._descriptor, views, offset) == sum(map(len, views)):
            return True
        for view in views:  # an interrupted or very long read, or a system without preadv
            if not self._read_one(view, offset):
                return False
            offset += len(view)
        return True

    def _read_one(self, view: memoryview, offset: int) -> bool:
        while view:
            with self._lock:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                data = os.read(self._descriptor, min(len(view), 2**24))
            if not data:
                return False
            view[: len(data)] = data
            view, offset = view[len(data) :], offset + len(data)
        return True
