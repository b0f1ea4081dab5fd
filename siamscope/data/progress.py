"""Progress of long preparations on standard error: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many (0: nobody knows)."""

_SECONDS_BETWEEN_LINES = 10.0


def quiet(what: str, done: int, total: int) -> None:
    """A Progress that says nothing."""


def waiting(progress: Progress, does: str = "decodes") -> Callable[[], None]:
    """Says that another process is at the same images."""
    return lambda: progress(f"waiting for another process that {does} the same images", 0, 0)


@contextmanager
def console_progress() -> Iterator[Progress]:
    """A Progress that shows itself. Nothing is printed unless it is called."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        tasks: dict[tuple[str, int], TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if (what, total) not in tasks:
                tasks[what, total] = bar.add_task(what, total=total or None)
            bar.update(tasks[what, total], completed=done)

        yield show


class _Lines:
    """One line at the start, then one every ten seconds, and one at the end."""

    def __init__(self) -> None:
        self._next = 0.0
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or now >= self._next or (total and done == total):
            self._what, self._next = what, now + _SECONDS_BETWEEN_LINES
            counts = f": {done:,} of {total:,}" if total else ""
            print(f"{what}{counts}", file=sys.stderr, flush=True)
