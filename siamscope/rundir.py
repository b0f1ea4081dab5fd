"""The run directory: the unit of truth. Names of its files, atomic writes, the lock. Torch-free."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from siamscope import files
from siamscope import recipe as recipes
from siamscope.recipe import Recipe

RECIPE = "recipe.toml"
OWN_FILES = {
    RECIPE, "metrics.jsonl", "checkpoints", "environment.json", "evaluation.json", "gallery.npz", "rejected.jsonl",
    "report.html", "encoder.safetensors", "encoder.json", "stream", ".lock",
    "profile.txt", "profile.json", "trace.json",
}  # fmt: skip


class RunError(ValueError):
    """A run directory that cannot be made, opened or written; the message says what to do."""


class RunDir:
    """Paths inside one run directory, and how they are written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / RECIPE
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.environment = self.path / "environment.json"
        self.evaluation = self.path / "evaluation.json"
        self.gallery = self.path / "gallery.npz"
        self.rejected = self.path / "rejected.jsonl"
        self.report = self.path / "report.html"

    def check_free(self, overwrite: bool = False) -> None:
        """Whether a new run may be made here.

        Raises:
            RunError: the path holds something (unless it is a run and `overwrite`).
        """
        if self.path.is_dir():
            found = {item.name for item in self.path.iterdir()} - {".lock"}
            if found:
                self._check_replaceable(found, overwrite)
        elif self.path.exists():
            raise RunError(f"{self.path} is a file; give another --out")
        above = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise RunError(f"cannot write in {above}; give another --out")

    def _check_replaceable(self, found: set[str], overwrite: bool) -> None:
        """Only a run, and nothing but a run, may be replaced."""
        strangers = sorted(name for name in found - OWN_FILES if not name.startswith("."))
        if strangers or not {RECIPE, "environment.json"} <= found:
            named = f" ({', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''})" if strangers else ""
            raise RunError(f"{self.path} holds files that are not a run's{named}; give another --out")
        if not overwrite:
            raise RunError(
                f"{self.path} holds a run already; continue it with 'siamscope resume {self.path}', "
                "give another --out, or replace it with --overwrite"
            )

    @contextlib.contextmanager
    def created(self, recipe: Recipe, overwrite: bool = False) -> Iterator[None]:
        """Make the directory with its recipe, a former run removed, and hold its lock.

        Raises:
            RunError: as `check_free`; another process holds it; it cannot be written.
        """
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with self.lock():
            with explained(self.path):
                self.check_free(overwrite)
                for name in OWN_FILES - {".lock"}:
                    item = self.path / name
                    shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink(missing_ok=True)
                self.sweep()
                self.checkpoints.mkdir()
            write_text(self.recipe_file, recipes.to_toml(recipe))
            yield

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run directory.

        Raises:
            RunError: nothing there, or no run.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise RunError(f"no run directory at {str(path)!r}")
        if not run.recipe_file.is_file():
            raise RunError(f"{run.path} is not a run directory: it has no {RECIPE}")
        return run

    def recipe(self) -> Recipe:
        """The run's recipe."""
        return recipes.load(self.recipe_file)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory; the kernel lets go of it when the process dies, however it dies.

        Raises:
            RunError: another process holds it.
        """
        with explained(self.path):
            handle = (self.path / ".lock").open("a+")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                raise RunError(
                    f"another process ({owner}) is working in {self.path}; wait for it, or give another --out"
                ) from None
            handle.truncate(0)
            handle.write(f"pid {os.getpid()}")
            handle.flush()
            yield

    def sweep(self) -> None:
        """Remove what a killed process left half written. Call it under the lock."""
        for folder in (self.path, self.checkpoints):
            for item in folder.glob(".*.*.*"):
                if item.is_file() and item.name[1:].startswith(tuple(OWN_FILES | {"step-", "best.pt", "healthy.pt"})):
                    item.unlink(missing_ok=True)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl (non-finite numbers as null)."""
        with explained(self.metrics), self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(finite(record)) + "\n")

    def forget_after(self, step: int, rollbacks: int | None = None) -> None:
        """Drop the metric lines after `step`, and a torn last line, so that a resumed run writes each line once; also
        the events of rollbacks beyond the first `rollbacks`, which will happen again."""
        if not self.metrics.is_file():
            return
        most = math.inf if rollbacks is None else rollbacks
        lines = read_jsonl(self.metrics)
        kept = [line for line in lines if line.get("step", 0) <= step and line.get("rollback", 0) <= most]
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def write_json(self, path: Path, value: Any) -> None:
        write_text(path, json.dumps(finite(value), indent=1) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a torn last line (a process was killed while writing) is left out."""
    out = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(line)
            if isinstance(value, dict):
                out.append(value)
    return out


def finite(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, so that it is JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda stream: stream.write(text.encode("utf-8", "surrogateescape")))


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """`siamscope.files.write_atomically` with errors for the user.

    Raises:
        RunError: no space, read-only, ...; the old file is untouched.
    """
    with explained(path):
        files.write_atomically(path, write)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Operating-system errors as a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "no space is left on the device: free some, then resume; the previous checkpoint is intact",
            errno.EDQUOT: "the disk quota is used up: free some, then resume; the previous checkpoint is intact",
            errno.EROFS: "the file system is read-only: give another --out",
            errno.EACCES: "permission denied: give another --out",
            errno.EPERM: "permission denied: give another --out",
        }.get(error.errno or 0, error.strerror or str(error))
        raise RunError(f"cannot write {path}: {advice}") from error
