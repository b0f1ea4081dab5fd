"""Runs of a comparison, study or sweep, each a process of its own: started, watched, stopped after saving, remembered.

Beside every run directory `seed-0/` lie `seed-0.toml` (its recipe), `seed-0.log` (what it said) and `seed-0.json` (how
it ended). Torch-free, and it must stay so: on Linux a child's peak memory cannot be less than its parent's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Literal

from siamscope import recipe as recipes
from siamscope.recipe import Recipe, RecipeError
from siamscope.rundir import RunDir, RunError, explained, write_text

POLL_SECONDS = 0.05
REASON_LENGTH = 600
OWN_FAULT = (2, 3, 4)
"""Exit codes of runs that ended for a reason of their own: bad input, a loss that is not finite, the alarm."""
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)

Status = Literal["finished", "failed", "stopped", "pending", "busy"]


@dataclass(frozen=True)
class Run:
    """One run, and where it lies. key: of its line in the results (runs that differ by the seed share it).  label: the
    same for a person."""

    key: str
    label: str
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def dir(self) -> RunDir:
        return RunDir(self.folder / f"seed-{self.seed}")

    def file(self, kind: str) -> Path:
        """The file of that kind (toml, log, json) beside the run directory."""
        return self.folder / f"seed-{self.seed}.{kind}"

    def state(self) -> dict[str, Any]:
        """How it ended last time: status, reason, seconds, peak_memory_mib, or nothing."""
        try:
            value = json.loads(self.file("json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def remember(self, **values: Any) -> None:
        """Write how it ended."""
        write_text(self.file("json"), json.dumps(values, indent=1) + "\n")


def outcome(run: Run) -> tuple[Status, str]:
    """The state of a run on the disk, and the reason of a failure."""
    if complete(run.dir):
        problem = other_recipe(run)
        return ("failed", problem) if problem else ("finished", "")
    state = run.state()
    if state.get("status") == "failed":
        return "failed", str(state.get("reason", ""))
    if run.dir.recipe_file.is_file():
        problem = other_recipe(run)
        return ("failed", problem) if problem else ("stopped", "not finished; run the command again")
    return "pending", "not run yet"


def complete(run: RunDir) -> bool:
    """Whether a run was trained to the end and judged."""
    try:
        about = json.loads(run.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return run.evaluation.is_file() and isinstance(about, dict) and "finished" in about


def other_recipe(run: Run) -> str:
    """Why the run that lies there is not the one that is asked for; empty if it is."""
    try:
        found = run.dir.recipe()
    except (RecipeError, RunError) as error:
        return f"its recipe.toml cannot be read: {error}"
    if run.recipe.train.compile == "auto":  # the run has noted what it decided
        found = replace(found, train=replace(found.train, compile="auto"))
    if recipes.digest(found) == recipes.digest(run.recipe):
        return ""
    return "the run that lies there was trained by another recipe (the method's cells have changed since); use --retry"


def due(run: Run, retry: bool) -> bool:
    """Whether the run must be started."""
    status, _ = outcome(run)
    return status in ("pending", "stopped") or (status == "failed" and retry)


class Child:
    """A run in progress."""

    def __init__(self, run: Run, threads: int) -> None:
        self.run = run
        self.former = run.state()
        with explained(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.file("toml"), recipes.to_toml(run.recipe))
        with explained(run.file("log")):
            self.log: IO[bytes] = run.file("log").open("ab")
        self.log_start = self.log.tell()
        self.started = time.monotonic()
        # A session of its own: Ctrl-C on the terminal reaches only us, and we pass on exactly one signal.
        self.process = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log,
            env=os.environ | _threads(threads), start_new_session=True,
        )  # fmt: skip
        self.memory = 0.0

    def _command(self) -> list[str]:
        run, program = self.run, [sys.executable, "-m", "siamscope"]
        there = run.dir.recipe_file.is_file()
        # A run that diverged or that the alarm ended would do so again; one that was killed goes on.
        diverged = self.former.get("exit_code") in OWN_FAULT
        if there and not other_recipe(run) and not diverged and not complete(run.dir):
            return [*program, "resume", str(run.dir.path), "--quiet", "--json"]
        command = [*program, "train", "--recipe", str(run.file("toml")), "--out", str(run.dir.path), "--quiet"]
        return [*command, "--json", *(["--overwrite"] if there else [])]

    def ended(self) -> bool:
        """Whether the process is over; then its peak memory is known and it is reaped."""
        if self.process.returncode is not None:
            return True
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid == 0:
            return False
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.memory = usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
        self.log.close()
        return True

    def tell(self, number: int) -> None:
        """Pass a signal on."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    def record(self, stopping: bool) -> tuple[Status, str]:
        """Write how the run ended; its status and the reason of a failure."""
        code, run = self.process.returncode, self.run
        status: Status = "finished"
        reason = ""
        if not complete(run.dir) or other_recipe(run):
            stopped = code in STOPPED or (stopping and code not in OWN_FAULT)
            status = "stopped" if stopped else "failed"
            reason = "" if stopped else self._reason(code)
        run.remember(
            status=status,
            reason=reason,
            exit_code=code,
            seconds=round(self.former.get("seconds", 0.0) + time.monotonic() - self.started, 1),
            peak_memory_mib=round(max(self.memory, self.former.get("peak_memory_mib", 0.0)), 1),
        )
        return status, reason

    def _reason(self, code: int) -> str:
        """What the process said last, or what ended it."""
        if code < 0:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        with self.run.file("log").open("rb") as stream:
            stream.seek(self.log_start)
            text = stream.read().decode("utf-8", "replace").strip()
        for word in ("siamscope train: ", "siamscope resume: "):
            if code in OWN_FAULT and word in text:
                return text.rpartition(word)[2][:REASON_LENGTH]
        last = text.splitlines()[-1] if text else "it said nothing"
        return f"exit code {code}: {last}"[:REASON_LENGTH]


def _threads(count: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: str(count) for name in names}


class Signals:
    """Notes SIGINT and SIGTERM and passes each on to the children, who save at the first and leave at the second."""

    def __init__(self) -> None:
        self.received = 0
        self.children: list[Child] = []
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._former[number] = signal.signal(number, self._pass_on)
            except ValueError:  # not in the main thread: the caller keeps its own handling
                break
        return self

    def start(self, run: Run, threads: int) -> None:
        """Start a run; a signal that came meanwhile reaches it too."""
        child = Child(run, threads)
        self.children.append(child)
        if self.received:
            child.tell(self.received)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for child in self.children:
            child.tell(number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children:  # none are left unless we fail ourselves
            child.tell(signal.SIGTERM)
            child.process.wait()
        for number, handler in self._former.items():
            signal.signal(number, handler)


def execute(runs: Sequence[Run], jobs: int, threads: int, ended: Callable[[Run, Status, str], None]) -> int:
    """Run all, at most `jobs` at once, each with `threads` threads; the signal that stopped it, or 0.

    After a signal no further run starts, and those in progress save and end. `ended` hears of each.
    """
    waiting = deque(runs)
    with Signals() as signals:
        while signals.children or (waiting and not signals.received):
            while waiting and len(signals.children) < jobs and not signals.received:
                run = waiting.popleft()
                if busy(run):
                    ended(run, "busy", "another process is working in it; run the command again later")
                else:
                    signals.start(run, threads)
            time.sleep(POLL_SECONDS)
            for child in [child for child in signals.children if child.ended()]:
                signals.children.remove(child)
                ended(child.run, *child.record(bool(signals.received)))
        return signals.received


def busy(run: Run) -> bool:
    """Whether a process holds the run: a child that outlived a comparison which was killed."""
    if not run.dir.path.is_dir():
        return False
    try:
        with run.dir.lock():
            return False
    except RunError:
        return True
