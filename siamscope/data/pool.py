"""Decodes a list of files into a cache file with several processes; the death of one is a clear error."""

import contextlib
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from siamscope.data.cache import Written
from siamscope.data.decode import DecodeOptions, own_limits
from siamscope.data.errors import DataError
from siamscope.data.progress import Progress
from siamscope.data.worker import decode_rows

_CHUNK_BYTES = 2**24
_CHUNK_ROWS = 128
_WORTH_A_PROCESS = 2_000_000  # bytes of image files that one process decodes before another has even started


@dataclass
class _Tally:
    """The replies so far."""

    digests: dict[int, str] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    passing: bool = False
    done: int = 0

    def add(self, reply: dict[str, Any]) -> None:
        if "errno" in reply:
            raise OSError(reply["errno"], reply["strerror"])
        self.digests[reply["first"]] = reply["digest"]
        self.done += reply["count"]
        for row, reason, passing in reply["rejected"]:
            self.rejected[row] = reason
            self.passing |= passing

    def written(self) -> Written:
        text = "".join(digest for _, digest in sorted(self.digests.items()))
        return Written(hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), self.rejected, self.passing)


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_files(
    root: Path, paths: list[str], nbytes: int, options: DecodeOptions, file: Path, workers: int, progress: Progress
) -> Written:
    """Decode `paths` (relative to `root`, `nbytes` together) into the rows of `file`.

    workers: processes; 0 is one for each usable core. A small job, or one worker, is done in this process. The digest
    does not depend on the number of processes.

    Raises:
        DataError: a process died. OSError: the file cannot be written.
    """
    chunks = list(_chunks(paths, options))
    count = min(workers or usable_cores(), len(chunks))
    tally = _Tally()
    progress("decoding images", 0, len(paths))
    if count == 1 or nbytes < _WORTH_A_PROCESS or not sys.executable:
        with own_limits():
            for first, part in chunks:
                tally.add(decode_rows(str(root), part, first, options, file))
                progress("decoding images", tally.done, len(paths))
        return tally.written()
    with _Processes(count, chunks, {"root": str(root), "file": str(file), "options": asdict(options)}) as processes:
        while tally.done < len(paths):
            tally.add(processes.next_reply())
            progress("decoding images", tally.done, len(paths))
    return tally.written()


def _chunks(paths: list[str], options: DecodeOptions) -> Iterator[tuple[int, list[str]]]:
    row = options.channels * options.size**2
    step = min(_CHUNK_ROWS, max(1, _CHUNK_BYTES // row))
    for first in range(0, len(paths), step):
        yield first, paths[first : first + step]


class _Processes:
    """Decoding processes, each served by a thread that hands it one chunk after another."""

    def __init__(self, count: int, chunks: list[tuple[int, list[str]]], job: dict[str, Any]) -> None:
        self._job = json.dumps(job).encode("ascii") + b"\n"
        self._chunks = iter(chunks)
        self._lock = threading.Lock()
        self._replies: queue.SimpleQueue[dict[str, Any] | DataError] = queue.SimpleQueue()
        self._errors = [Path(job["file"]).with_name(f"worker-{i}.log") for i in range(count)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "_Processes":
        try:
            for log in self._errors:
                self._processes.append(_start(log))
            for process, log in zip(self._processes, self._errors, strict=True):
                self._threads.append(threading.Thread(target=self._serve, args=(process, log), daemon=True))
                self._threads[-1].start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()  # an idle one holds nothing; a busy one's file is about to be removed
        for process in self._processes:
            process.wait()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not yet sent to a dead process
                    pipe.close()  # type: ignore[union-attr]
        for log in self._errors:
            log.unlink(missing_ok=True)

    def next_reply(self) -> dict[str, Any]:
        reply = self._replies.get()
        if isinstance(reply, DataError):
            raise reply
        return reply

    def _serve(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        assert process.stdin is not None  # opened as pipes
        assert process.stdout is not None
        message = self._job
        part: list[str] = []
        try:
            while True:
                with self._lock:
                    first, part = next(self._chunks, (-1, []))
                if first < 0:
                    return
                message += json.dumps({"first": first, "paths": part}).encode("ascii") + b"\n"
                process.stdin.write(message)
                process.stdin.flush()
                self._replies.put(json.loads(process.stdout.readline()))  # an empty line, at the end, is no JSON
                message = b""
        except (OSError, ValueError):
            self._replies.put(_death(_ended(process), part, log))


def _ended(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:  # alive, but what it says makes no sense
        process.kill()
        return process.wait()


def _start(log: Path) -> "subprocess.Popen[bytes]":
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # -P: a file in the working directory must not stand in for a module of the library.
    command = [sys.executable, "-P", "-m", "siamscope.data.worker"]
    with log.open("wb") as errors:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment)


def _death(code: int, part: list[str], log: Path) -> DataError:
    try:
        said = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        said = []
    if code == -signal.SIGKILL:
        cause = "was killed, probably because the memory ran out: use fewer (data.workers) or lower data.max_pixels"
    elif code < 0:
        cause = f"was ended by signal {-code}: one of these files may be harmful; move them away and try again"
    else:
        cause = f"ended with code {code}{': ' + said[-1] if said else ''}"
    span = f"{part[0]!r} to {part[-1]!r}" if part else "nothing yet"
    return DataError(f"a decoding process {cause} (it worked on {span})")
