"""What a person sees while training: a progress bar on a terminal, one plain line an interval without one."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, Protocol

WORDS = {"healthy": "green", "partial collapse": "yellow", "collapse": "red"}


class Reporter(Protocol):
    """Where the loop's news goes."""

    def start(self, step: int, steps: int) -> None: ...
    def step(self, step: int, loss: float, rate: float) -> None: ...
    def measured(self, record: dict[str, Any]) -> None: ...
    def say(self, message: str) -> None: ...
    def close(self) -> None: ...


class Silent:
    """For other ranks than 0, and for library use."""

    def start(self, step: int, steps: int) -> None:
        pass

    def step(self, step: int, loss: float, rate: float) -> None:
        pass

    def measured(self, record: dict[str, Any]) -> None:
        pass

    def say(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass


class Plain(Silent):
    """One line a measurement, on standard error."""

    def start(self, step: int, steps: int) -> None:
        self.first, self.steps, self.began = step, steps, time.monotonic()
        self.loss = self.rate = math.nan

    def step(self, step: int, loss: float, rate: float) -> None:
        self.loss, self.rate = loss, rate

    def measured(self, record: dict[str, Any]) -> None:
        step = record["step"]
        parts = [f"step {step}/{self.steps}", f"epoch {record['epoch']:.1f}"]
        if step:
            parts += [f"loss {self.loss:.4f}", f"{self.rate:.0f} images/s"]
        if "knn" in record:
            parts.append(f"k-NN {100 * record['knn']:.1f} %")
        parts += [f"effective rank {record['feature_effective_rank']:.1f}", record["health"]]
        if step > self.first:
            left = (time.monotonic() - self.began) / (step - self.first) * (self.steps - step)
            parts.append(f"{duration(left)} left")
        self.say("  ".join(parts))

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


class Bar(Silent):
    """A progress bar with loss, images/s, time left and the health of the representation in words."""

    def start(self, step: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("{task.completed}/{task.total}"), BarColumn(bar_width=None), TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}"), TextColumn("{task.fields[rate]} images/s"),
            TextColumn("{task.fields[knn]}[{task.fields[style]}]{task.fields[health]}[/]"),
            console=Console(stderr=True),
        )  # fmt: skip
        self.task = self.progress.add_task(
            "train", total=steps, completed=step, loss="-", rate="-", health="measuring", style="default", knn=""
        )
        self.progress.start()

    def step(self, step: int, loss: float, rate: float) -> None:
        self.progress.update(self.task, completed=step, loss=f"{loss:.4f}", rate=f"{rate:.0f}")

    def measured(self, record: dict[str, Any]) -> None:
        knn = f"k-NN {100 * record['knn']:.1f} %  " if "knn" in record else ""
        health = record["health"]
        self.progress.update(self.task, health=health, style=WORDS.get(health, "default"), knn=knn)

    def say(self, message: str) -> None:
        if hasattr(self, "progress"):
            self.progress.console.print(message, markup=False, highlight=False)
        else:  # before the training, and after it
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        if hasattr(self, "progress"):
            self.progress.stop()
            del self.progress


def reporter() -> Reporter:
    """A bar when standard error is a terminal, plain lines otherwise."""
    return Bar() if sys.stderr.isatty() else Plain()


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
