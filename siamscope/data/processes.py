"""Decoding processes that work off a queue; the death of one is a clear error for all that is waiting."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from typing import IO, Any

from siamscope.data.errors import DataError

Reply = dict[str, Any]
_PATIENCE = 5.0  # seconds until a process that talks nonsense is killed


class Processes:
    """`count` processes for one job, each served by a thread that hands it one task after another.

    Safe to use from threads. Close it, or use it in `with`: what is unfinished is given up.
    """

    def __init__(self, count: int, job: dict[str, Any]) -> None:
        self._job = json.dumps(job).encode("ascii") + b"\n"
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._logs = contextlib.ExitStack()
        self._problem: DataError | None = None
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(count):
                log = self._logs.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
                self._processes.append(_start(log))
                serve = threading.Thread(target=self._serve, args=(self._processes[-1], log), daemon=True)
                self._threads.append(serve)
                serve.start()
        except BaseException:
            self.close()
            raise

    def submit(self, task: dict[str, Any], out: memoryview | None = None) -> "Future[Reply]":
        """Queue a task; its future gives the reply, after `out` was filled with the pixels if it asks for them. It
        fails at once when the processes were ended, or one of them has died."""
        item = _Task(task, out)
        with self._lock:  # so that nothing is queued behind what ends the threads
            if self._problem is None:
                self._tasks.put(item)
            else:
                item.future.set_exception(self._problem)
        return item.future

    def close(self) -> None:
        """End the processes, whatever they are at. May be called again."""
        with self._lock:
            self._problem = self._problem or DataError("the decoding processes were ended")
        for process in self._processes:
            process.kill()  # an idle one holds nothing; a busy one's file is about to be removed
        for _ in self._threads:
            self._tasks.put(None)
        for process in self._processes:
            process.wait()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join()
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not yet sent to a dead process
                    pipe.close()  # type: ignore[union-attr]
        self._processes, self._threads = [], []
        self._logs.close()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        message = self._job
        while (task := self._tasks.get()) is not None:
            if self._problem:  # of another process, or this one's before
                task.future.set_exception(self._problem)
                continue
            try:
                reply = task.done_by(process, message)
            except Exception:  # a thread that ended would leave its tasks waiting for ever
                self._problem = self._problem or _death(_ended(process), task.about["paths"], log)
                task.future.set_exception(self._problem)
            else:
                message = b""
                task.future.set_result(reply)


class _Task:
    def __init__(self, about: dict[str, Any], out: memoryview | None) -> None:
        self.about, self.out = about, out
        self.future: Future[Reply] = Future()

    def done_by(self, process: "subprocess.Popen[bytes]", message: bytes) -> Reply:
        """Send it and wait for the reply. Raises OSError, ValueError or the like if the process is gone or talks
        nonsense."""
        assert process.stdin is not None  # opened as pipes
        assert process.stdout is not None
        process.stdin.write(message + json.dumps(self.about).encode("ascii") + b"\n")
        process.stdin.flush()
        reply: Reply = json.loads(process.stdout.readline())  # an empty line, at the end, is no JSON
        if self.out is not None and "errno" not in reply and process.stdout.readinto(self.out) != len(self.out):  # type: ignore[attr-defined]
            raise ValueError("pixels are missing")
        return reply


def _ended(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:  # alive, but what it says makes no sense
        process.kill()
        return process.wait()


def _start(log: IO[bytes]) -> "subprocess.Popen[bytes]":
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # -P: a file in the working directory must not stand in for a module of the library.
    command = [sys.executable, "-P", "-m", "siamscope.data.worker"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment)


def _death(code: int, part: list[str], log: IO[bytes]) -> DataError:
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines()
    if code == -signal.SIGKILL:
        cause = "was killed, probably because the memory ran out: use fewer (data.workers) or lower data.max_pixels"
    elif code < 0:
        cause = f"was ended by signal {-code}: one of these files may be harmful; move them away and try again"
    else:
        cause = f"ended with code {code}{': ' + said[-1] if said else ''}"
    return DataError(f"a decoding process {cause} (it worked on {part[0]!r} to {part[-1]!r})")
