"""Decodes the rows of a list of files: into the shards of a cache, or whenever they are read."""

import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.data.cache import Part, Written
from siamscope.data.cores import usable_cores
from siamscope.data.decode import DecodeOptions, own_limits
from siamscope.data.errors import DataError
from siamscope.data.processes import Processes, Reply
from siamscope.data.progress import Progress, quiet
from siamscope.data.source import Images, Indices, checked_indices
from siamscope.data.worker import written_rows

_CHUNK_BYTES = 2**24
_CHUNK_ROWS = 128
_LEAST_ROWS = 8  # that are worth a message of their own when they are read
_WORTH_A_PROCESS = 2_000_000  # bytes of image files that one process decodes before another has even started


@dataclass(frozen=True)
class Files:
    """What lies in which row: the file `paths[i]` below `root`, or `spans[i]` (offset, bytes) of it.

    sizes, times: of the files (bytes; time of change in ns) when they were listed. checked: whether a file that is no
    longer so is set aside.
    """

    root: Path
    paths: Sequence[str]
    sizes: Sequence[int]
    times: Sequence[int]
    spans: Sequence[tuple[int, int]] | None = None
    checked: bool = True

    def nbytes(self, rows: range) -> int:
        """Bytes of image files in these rows."""
        return sum(self.spans[row][1] if self.spans else self.sizes[row] for row in rows)

    def task(self, rows: Sequence[int], **more: Any) -> dict[str, Any]:
        """These rows as a worker wants them."""
        spans = [self.spans[row] for row in rows] if self.spans else None
        states = [(self.sizes[row], self.times[row]) for row in rows] if self.checked else None
        return {"paths": [self.paths[row] for row in rows], "states": states, "spans": spans, **more}


def worker_count(workers: int) -> int:
    """Decoding processes of this process: its share of the host's `workers` (0: of the usable cores), at least 1."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, (workers or usable_cores()) // max(1, int(ranks) if ranks.isdigit() else 1))


def step_rows(options: DecodeOptions) -> int:
    """Rows of a piece of the cache."""
    return min(_CHUNK_ROWS, max(1, _CHUNK_BYTES // (options.channels * options.size**2)))


class Decoder:
    """Decodes rows of `files`. Processes start when there is enough to do; close it, or use it in `with`.

    workers: processes; 0 is one for each usable core. What comes out does not depend on it.
    """

    def __init__(self, files: Files, options: DecodeOptions, workers: int = 0, progress: Progress = quiet) -> None:
        self.files, self.options, self._progress = files, options, progress
        self._workers = worker_count(workers)
        self._processes: Processes | None = None
        self._lock = threading.Lock()
        self.step = step_rows(options)
        """Rows that a process is handed at once, and that have one hash."""

    def fill(self, part: Part) -> Written:
        """Decode rows into a shard of the cache.

        Raises:
            DataError: a process died. OSError: the file cannot be written.
        """
        total, done = len(self.files.paths), part.ready
        self._progress("decoding images", done, total)
        digests: list[str] = []
        rejected: dict[int, str] = {}
        passing = False
        chunks = [range(first, min(first + self.step, part.stop)) for first in range(part.first, part.stop, self.step)]
        for rows, reply in zip(chunks, self._replies(part, chunks), strict=True):
            if "errno" in reply:
                raise OSError(reply["errno"], reply["strerror"])
            digests.append(reply["digest"])
            for place, reason, may_pass in reply["rejected"]:
                rejected[rows[place]] = reason
                passing |= may_pass
            done += len(rows)
            self._progress("decoding images", done, total)
        return Written(digests, rejected, passing)

    def _replies(self, part: Part, chunks: list[range]) -> Iterator[Reply]:
        file = str(part.file) if part.file else None
        tasks = (self.files.task(rows, file=file, at=rows[0] - part.first, pixels=False) for rows in chunks)
        small = self._processes is None and self.files.nbytes(range(part.first, part.stop)) < _WORTH_A_PROCESS
        if small or min(self._workers, len(chunks)) == 1:
            with own_limits():
                for task in tasks:
                    yield written_rows(str(self.files.root), task, self.options)[0]
            return
        processes = self._started()
        for future in [processes.submit(task) for task in tasks]:
            yield future.result()

    def read(self, rows: Indices) -> Images:
        """Decode rows (B,) in the processes, to uint8 (B, C, S, S). Safe to call from threads.

        Raises:
            DataError: a file cannot be decoded, though it could before, or a process died.
        """
        size, channels = self.options.size, self.options.channels
        out = np.empty((len(rows), channels, size, size), np.uint8)
        if not len(rows):
            return out
        processes = self._started()
        step = min(self.step, max(_LEAST_ROWS, -(-len(rows) // self._workers)))
        parts = [rows[first : first + step].tolist() for first in range(0, len(rows), step)]
        views = (out[first : first + step].reshape(-1).data for first in range(0, len(rows), step))
        tasks = [self.files.task(part, pixels=True) for part in parts]
        futures = [processes.submit(task, view) for task, view in zip(tasks, views, strict=True)]
        for part, future in zip(parts, futures, strict=True):
            for place, reason, _ in future.result()["rejected"]:
                raise DataError(
                    f"{self.files.paths[part[place]]!r} could be decoded at the start, and now not: {reason}; put it "
                    f"back and resume"
                )
        return out

    def _started(self) -> Processes:
        with self._lock:
            if self._processes is None:
                job = {"root": str(self.files.root), "options": asdict(self.options)}
                self._processes = Processes(self._workers, job)
            return self._processes

    def close(self) -> None:
        """End the processes. The next call starts new ones."""
        with self._lock:
            if self._processes is not None:
                self._processes.close()
                self._processes = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DecodedRows:
    """Images uint8 (N, C, S, S) that are decoded whenever they are read; nothing is kept.

    The processes end with the object, or with the program.
    """

    def __init__(self, decoder: Decoder) -> None:
        size = decoder.options.size
        self.shape = (len(decoder.files.paths), decoder.options.channels, size, size)
        self._decoder = decoder
        weakref.finalize(self, decoder.close)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, indices: Indices) -> Images:
        """The images at `indices` (B,), as a fresh array (B, C, S, S). Raises IndexError or DataError."""
        return self._decoder.read(checked_indices(indices, len(self)))
