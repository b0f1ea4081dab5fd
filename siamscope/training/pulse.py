"""Who of the processes is still there: a beat of every process in the run's key-value store, and what to say when one
stops.

A thread writes a counter and where the main thread is every second or so. Rank 0 watches all of them and the others
watch rank 0, so the store is asked about 3 times a beat and process. When the counter of a process stands still for
longer than the patience, all processes leave with one message; when an exchange fails, the counters tell which process
has failed. A main thread that hangs while its process lives is found by the time-out of the exchange that misses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

LOST = 6
"""The exit code of a process that another one has left alone."""
STAGES = ("is waiting for its images", "computes", "is past its computation")
"""Of a step, in the order of time."""
SIGNS = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out waiting", "TCPStore")
SHM = ("/dev/shm", "shared memory", "No space left")


class LostProcessError(ValueError):
    """Another process of the run is gone or does not answer; the message names it and says how to go on."""


class Store(Protocol):
    """What a beat needs of torch's key-value stores."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def multi_get(self, keys: list[str]) -> list[bytes]: ...
    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class Beat:
    """What a process says of itself: `count` grows while it lives; it is at `stage` of step `step` and has begun so
    many `exchanges` with the others; `left`: its last words, empty for a normal end."""

    rank: int
    count: int
    step: int
    stage: int
    host: str
    pid: int
    exchanges: int = 0
    left: str | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        """How far it is."""
        return self.step, self.stage, self.exchanges

    def __str__(self) -> str:
        where = f"at step {self.step}, where it {STAGES[self.stage]}" if self.step else "before its first step"
        return f"rank {self.rank} (process {self.pid} on {self.host}, last seen {where})"


class Pulse(threading.Thread):
    """The beat of this process and its look at the others.

    store: a connection of its own: a call of the main thread may wait in another one. patience: seconds without a beat
    after which a process counts as hung. `advice` is added to what is said then.
    """

    def __init__(self, store: Store, rank: int, size: int, patience: float) -> None:
        super().__init__(name="siamscope-pulse", daemon=True)
        self.store, self.rank, self.size, self.patience = store, rank, size, patience
        self.interval = min(1.0 if size <= 64 else 5.0, patience / 4)
        self.step, self.stage, self.count = 0, 0, 0
        self.advice: Callable[[], str] = str
        self.exchanges: Callable[[], int] = int
        self.left: str | None = None
        self._ended = threading.Event()
        self._seen: dict[int, tuple[int, float]] = {}
        self._heard = time.monotonic()
        self.host, self.pid = socket.gethostname(), os.getpid()

    def beat(self) -> None:
        """Say that this process lives, and where it is."""
        self.count += 1
        facts = [self.count, self.step, self.stage, self.host, self.pid, self.exchanges(), self.left]
        self.store.set(str(self.rank), json.dumps(facts))

    def beats(self, ranks: list[int]) -> list[Beat]:
        """What these processes said last."""
        found = self.store.multi_get([str(rank) for rank in ranks])
        return [Beat(rank, *json.loads(text)) for rank, text in zip(ranks, found, strict=True)]

    def run(self) -> None:
        while not self._ended.wait(self.interval):
            try:
                self.beat()
                verdict = self.look()
                self._heard = time.monotonic()
            except Exception:  # the store, which is on the first host, or what it holds; this thread must go on
                if time.monotonic() - self._heard < self.patience:
                    continue
                verdict = "the first host, which the processes meet at, does not answer" + self.go_on()
            if verdict and not self._ended.is_set():
                self.end(verdict)

    def look(self) -> str | None:
        """What to leave with, if a process has not been heard of for too long."""
        if self.rank and self.store.check(["verdict"]):
            return self.store.get("verdict").decode()
        now, silent = time.monotonic(), []
        for beat in self.beats(list(range(self.size)) if self.rank == 0 else [0]):
            count, since = self._seen.get(beat.rank, (-1, now))
            if count != beat.count or beat.left is not None:
                self._seen[beat.rank] = (beat.count, now)
            elif now - since > self.patience:
                silent.append(beat)
        if not silent:
            return None
        verdict = f"{_named(silent)} {_have(silent)} not answered for {self.patience:.0f} s" + self.go_on()
        if self.rank == 0:
            self.store.set("verdict", verdict)
        return verdict

    def go_on(self) -> str:
        advice = ""
        with contextlib.suppress(Exception):  # it reads the run directory, on a disk that may be gone too
            advice = self.advice()
        return f"; {advice}" if advice else ""

    def end(self, verdict: str) -> None:
        """Leave at once: the main thread may be in a system call that nothing interrupts. Files are written whole or
        not at all, and the system lets go of the run directory's lock."""
        print(f"siamscope: {verdict}", file=sys.stderr, flush=True)
        os._exit(LOST)

    def leave(self, words: str = "") -> None:
        """The last beat of a process that ends; `words`: why, if it is not the normal end."""
        self._ended.set()
        self.left = words
        with contextlib.suppress(RuntimeError):  # the store may be gone already
            self.beat()

    def explain(self, error: RuntimeError) -> LostProcessError:
        """Why an exchange between the processes failed, after a look at who still beats."""
        with contextlib.suppress(ValueError):  # torchrun ends what is left of a group: first say why
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        everyone = list(range(self.size))
        try:
            before = self.beats(everyone)
            time.sleep(2.5 * self.interval)
            found = self.beats(everyone)
            text = diagnosis(before, found, str(error), self.rank) + self.go_on()
        except RuntimeError:
            text = "the first host, which the processes meet at, is gone" + self.go_on()
        else:
            text = next((beat.left for beat in found if beat.left), text)  # whoever found it first says it for all
        return LostProcessError(text + shared_memory_hint(str(error)))


def diagnosis(before: list[Beat], after: list[Beat], error: str, mine: int) -> str:
    """Which process is gone, or behind, from two looks at the beats; `error`: what torch said to rank `mine`."""
    dead = [new for old, new in zip(before, after, strict=True) if new.count == old.count and new.left is None]
    dead = [beat for beat in dead if beat.rank != mine]
    if dead:
        return f"{_named(dead)} {'is' if len(dead) == 1 else 'are'} gone: killed, or stopped"
    here = [beat for beat in after if beat.left is None]
    last = min((beat.place for beat in here), default=(0, 0, 0))
    behind = [beat for beat in here if beat.place == last]
    if "imed out" in error and len(behind) < len(here):
        return f"{_named(behind)} did not come to where the others wait"
    return f"the processes cannot talk to each other any more ({error.strip().splitlines()[0][:200]})"


def shared_memory_hint(error: str) -> str:
    """What to do if NCCL, which uses shared memory between the GPUs of a host, finds too little of it."""
    if "NCCL" not in error or not any(sign in error for sign in SHM):
        return ""
    return (
        "; NCCL found too little shared memory: enlarge /dev/shm (docker run --shm-size=8g), or set "
        "NCCL_SHM_DISABLE=1, which is slower"
    )


def concerns_others(error: BaseException) -> bool:
    """Whether torch failed in talking to other processes."""
    named = {"DistError", "DistBackendError", "DistNetworkError", "DistStoreError"}
    return type(error).__name__ in named or any(sign in str(error) for sign in SIGNS)


def _named(beats: list[Beat]) -> str:
    shown = ", ".join(map(str, beats[:4]))
    return shown + (f" and {len(beats) - 4} more" if len(beats) > 4 else "")


def _have(beats: list[Beat]) -> str:
    return "has" if len(beats) == 1 else "have"
