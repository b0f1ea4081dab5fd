"""Checkpoints: atomic, few, and read without ever unpickling code."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from siamscope import recipe as recipes
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, explained, write_atomically

if TYPE_CHECKING:
    from siamscope.training.distributed import World

FORMAT = 1
HEALTHY = "healthy.pt"
"""The last checkpoint of a run at which the alarm had found nothing."""
_NAME = re.compile(r"step-(\d+)\.pt$")
# What a resumed run may change: where and how it computes, and what it watches; not what it computes.
FREE_FIELDS = {
    "data.workers", "data.cache", "data.cache_dir", "data.memory_budget_mb", "train.device", "train.threads",
    "train.checkpoint_minutes", "train.checkpoint_steps", "train.keep", "monitor.on_collapse",
}  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: `step` steps are done, after `rollbacks` returns to a healthy checkpoint."""

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    best: float | None = None
    reference: dict[str, Any] | None = None
    rollbacks: int = 0


def save(
    run: RunDir, recipe: Recipe, point: Checkpoint, keep: int, is_best: bool = False, is_healthy: bool = False
) -> Path:
    """Write the checkpoint of a step, then remove all but the last `keep`; `best.pt` is replaced when `is_best`, and
    `healthy.pt` when `is_healthy`.

    Raises:
        RunError: it cannot be written; earlier checkpoints are untouched.
    """
    path = run.checkpoints / f"step-{point.step:08d}.pt"
    _write(path, recipe, point)
    if is_best:
        link(path, run.checkpoints / "best.pt")
    if is_healthy:
        link(path, run.checkpoints / HEALTHY)
    for old in numbered(run)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def save_healthy(run: RunDir, recipe: Recipe, point: Checkpoint) -> None:
    """Write `healthy.pt` alone."""
    _write(run.checkpoints / HEALTHY, recipe, point)


def _write(path: Path, recipe: Recipe, point: Checkpoint) -> None:
    state = {"format": FORMAT, "recipe": json.dumps(recipes.to_dict(recipe)), **vars(point)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, lambda stream: stream.write(buffer.getbuffer()))


def link(path: Path, name: Path) -> None:
    """`name` becomes another name of the same file, so that the best checkpoint costs no second copy."""
    temporary = name.with_name(f".{name.name}.link.{os.getpid()}")
    with explained(name):
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)
        temporary.replace(name)


def numbered(run: RunDir) -> list[Path]:
    """The run's checkpoints in the order of their steps."""
    return sorted((path for path in run.checkpoints.glob("step-*.pt") if _NAME.search(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """The step in a numbered checkpoint's name."""
    return int(_NAME.search(path.name)[1])  # type: ignore[index]


def load(path: Path, recipe: Recipe) -> Checkpoint:
    """Read one checkpoint and check that it belongs to `recipe`.

    Raises:
        CheckpointError: unreadable or truncated, of another format, or of another recipe (the fields are named).
    """
    state = _read(path)
    differing = _differing(json.loads(state["recipe"]), recipes.to_dict(recipe))
    if differing:
        raise CheckpointError(f"{path} was written under another recipe; these fields differ: {', '.join(differing)}")
    return _point(state)


def load_alone(path: Path) -> tuple[Checkpoint, Recipe]:
    """One checkpoint and the recipe that it was written under.

    Raises:
        CheckpointError: unreadable or truncated, or of another format.
    """
    state = _read(path)
    recipe = recipes.from_dict(json.loads(state["recipe"]))
    return _point(state), recipe


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}") from None
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({type(error).__name__}: {str(error)[:120]})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version of siamscope")
    return state


def _point(state: dict[str, Any]) -> Checkpoint:
    known = {item.name: state[item.name] for item in fields(Checkpoint) if item.name in state}
    return Checkpoint(**known)  # a field that a newer version has added is at its default


def load_latest(run: RunDir, recipe: Recipe) -> tuple[Checkpoint | None, list[str]]:
    """The newest readable checkpoint, and a note for each newer one that is damaged.

    Raises:
        CheckpointError: checkpoints exist and none can be read, or the newest belongs to another recipe.
    """
    notes: list[str] = []
    paths = numbered(run)
    for path in reversed(paths):
        try:
            return load(path, recipe), notes
        except CheckpointError as error:
            if "another recipe" in str(error):
                raise
            notes.append(str(error))
    if paths:
        raise CheckpointError(f"no checkpoint of {run.path} can be read: " + "; ".join(notes))
    return None, notes


def from_first(world: World, path: Path, recipe: Recipe) -> Checkpoint:
    """A checkpoint that rank 0 reads, on every process: hosts need not share a disk. Called by all of them.

    Raises:
        CheckpointError, RunError: as `load` on rank 0.
    """
    point = world.on_first(lambda: load(path, recipe))
    return shared(world, point) if world.size > 1 else cast("Checkpoint", point)


def shared(world: World, point: Checkpoint | None) -> Checkpoint:
    """Rank 0's checkpoint on every process, as bytes that are read without unpickling code."""
    if world.size == 1:
        return cast("Checkpoint", point)
    buffer = io.BytesIO()
    if world.first:
        torch.save(vars(point), buffer)
    state = torch.load(io.BytesIO(world.broadcast_bytes(buffer.getvalue())), map_location="cpu", weights_only=True)
    return point or Checkpoint(**state)


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = flat(old), flat(new)
    # A field that a newer version has added was at its default when the checkpoint was written.
    return [name for name in sorted(before) if name not in FREE_FIELDS and before.get(name) != after.get(name)]


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return out
