"""What commands that start many runs share: their plan, how many runs at once, and what they say meanwhile. Torch-free.

`plan.json` of such a directory holds what was asked for (to recognise it when the command is run again), the recipe
that all runs share with device, threads and number format settled, and what the machine and the images are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamscope import recipe as recipes
from siamscope.data.cores import usable_cores
from siamscope.recipe import Recipe
from siamscope.workflow.jobs import Run, Status

PLAN = "plan.json"
MEMORY_A_RUN = 2 * 1024**3  # bytes that `auto` leaves for each run on a CPU; a small one takes less than half

Say = Callable[[str], None]


class PlanError(ValueError):
    """Runs that cannot be planned; the message says what to do."""


# ------------------------------------------------------------------------------------------ what was asked


def seeds_of(text: str) -> tuple[int, ...]:
    """The seeds in `0,1,2`, each once.

    Raises:
        PlanError: something that is no whole number from 0.
    """
    words = [part.strip() for part in text.split(",") if part.strip()]
    if not words or not all(word.isdecimal() and int(word) < 2**31 for word in words):
        raise PlanError(f"--seeds must be whole numbers from 0 with commas between them (0,1,2), got {text!r}")
    return tuple(dict.fromkeys(int(word) for word in words))


def jobs_of(text: str) -> int:
    """Runs at once; 0 for `auto`."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise PlanError(f"--jobs must be auto or a whole number from 1, got {text!r}")
    return int(text)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Fields in which two nested tables differ, in words."""
    for key in dict.fromkeys([*old, *new]):
        was, now_ = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(now_, Mapping):
            yield from differences(was, now_, f"{prefix}{key}.")
        elif was != now_:
            yield f"{prefix}{key} is {now_!r}, not {was!r}"


def known(folder: Path, asked: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    """The plan of a `what` (a comparison, a study) that lies there already; None if the folder is empty or missing.

    Raises:
        PlanError: something else lies there, or one by another recipe.
    """
    if folder.is_file():
        raise PlanError(f"{folder} is a file; give another --out")
    if not folder.is_dir() or not any(not item.name.startswith(".") for item in folder.iterdir()):
        return None
    try:
        found: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        former = found["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PlanError(f"{folder} holds files but no {what} (no readable {PLAN}); give another --out") from None
    changed = list(differences(former, asked))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise PlanError(
            f"{folder} holds a {what} by another recipe ({'; '.join(changed[:3])}{more}); give another --out"
        )
    return found


def prepared(recipe: Recipe, asked: Mapping[str, Any], jobs: int, quiet: bool) -> dict[str, Any]:
    """A new plan: data opened, device, threads and number format decided in a process of its own.

    Raises:
        PlanError: the data or the device cannot be used.
    """
    threads = recipe.train.threads or (max(usable_cores() // jobs, 1) if jobs else 1)
    command = [sys.executable, "-m", "siamscope.workflow.compare_prepare", str(threads), "1" if quiet else "0"]
    text = recipes.to_toml(recipe).encode("utf-8", "surrogateescape")
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise PlanError(f"preparing the data failed with exit code {done.returncode}; see above") from None
    if "error" in found:
        raise PlanError(found["error"])
    command_line = " ".join([Path(sys.argv[0]).name.replace("__main__.py", "siamscope"), *sys.argv[1:]])
    found["environment"] |= {"command": command_line, "cores": usable_cores()}
    return {"asked": asked, "shared": found.pop("recipe"), "started": now()} | found


# ------------------------------------------------------------------------------------------ how much at once


def at_once(wanted: int, plan: Mapping[str, Any], threads: int) -> int:
    """How many runs at once: as wanted, else one on a GPU, else what cores and free memory allow."""
    if wanted:
        return wanted
    if str(plan["environment"]["device"]).startswith("cuda"):
        return 1
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        free = MEMORY_A_RUN * usable_cores()
    return max(min(usable_cores() // max(threads, 1), free // MEMORY_A_RUN), 1)


# ------------------------------------------------------------------------------------------ meanwhile


class Teller:
    """Says how each run ended, and how long the rest may take. `describe` puts a finished run into a few words."""

    def __init__(self, say: Say | None, total: int, at_once: int, describe: Callable[[Run], str]) -> None:
        self.say, self.total, self.describe = say, total, describe
        self.ended = 0
        self.began = time.monotonic()
        if say and total:
            say(f"{total} runs, {at_once} at once")

    def __call__(self, run: Run, status: Status, reason: str) -> None:
        self.ended += 1
        if self.say is None:
            return
        text = f"[{self.ended}/{self.total}] {run.label}, seed {run.seed}: {status}"
        if status == "finished":
            text += f" in {run.state()['seconds']:.0f} s, {self.describe(run)}"
        elif reason:
            text += f": {reason.splitlines()[0]}"
        left = (time.monotonic() - self.began) / self.ended * (self.total - self.ended)
        self.say(text + (f"; about {_duration(left)} left" if self.ended < self.total else ""))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def now() -> str:
    """The time, in UTC, as results give it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
