"""The moments of a run that can be read back."""

from __future__ import annotations

from pathlib import Path

from siamscope.recipe import Recipe
from siamscope.rundir import RunDir
from siamscope.training import checkpoint
from siamscope.training.checkpoint import Checkpoint, CheckpointError
from siamscope.training.progress import Reporter


def readable(run: RunDir, recipe: Recipe, reporter: Reporter) -> list[tuple[int, str, Path]]:
    """(step, file name, path) of every readable checkpoint, each step once.

    Raises:
        CheckpointError: none can be read.
    """
    paths = [*checkpoint.numbered(run), run.checkpoints / "best.pt"]
    found: dict[int, tuple[int, str, Path]] = {}
    problems = []
    for path in (path for path in paths if path.is_file()):
        try:
            point: Checkpoint = checkpoint.load(path, recipe)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        found.setdefault(point.step, (point.step, path.name, path))
    if not found:
        why = "; ".join(problems) or "there is none; train with --train.checkpoint-steps, or resume the run"
        raise CheckpointError(f"no checkpoint of {run.path} can be read: {why}")
    for problem in problems:
        reporter.say(f"{problem}; left out")
    found.pop(0, None)  # step 0 is rebuilt from the seed
    return [found[step] for step in sorted(found)]
