"""Back to the last healthy checkpoint after an alarm, with a third of the rate and of the weight decay.

The order of what is written makes it safe to be killed at any moment: a resumed run either repeats the rollback or goes
on after it, and ends with the same weights and the same log.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from siamscope.collapse.alarm import Alarm
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint, theory
from siamscope.training.checkpoint import Checkpoint, CheckpointError
from siamscope.training.monitor import Monitor
from siamscope.training.step import Trainer

MOST = 3
"""Rollbacks of a run at most."""
SHARE = 1 / 3
"""What is left of the rate and of the weight decay after each."""


def healthy(run: RunDir, recipe: Recipe) -> Checkpoint | None:
    """The last healthy checkpoint, if it can be read."""
    try:
        return checkpoint.load(run.checkpoints / checkpoint.HEALTHY, recipe)
    except CheckpointError:
        return None


def restore(run: RunDir, trainer: Trainer, monitor: Monitor, rollbacks: int) -> Checkpoint:
    """Put the healthy checkpoint into the trainer, with the rate and the decay that `rollbacks` rollbacks leave.

    Raises:
        CheckpointError: it cannot be read.
    """
    point = checkpoint.from_first(trainer.world, run.checkpoints / checkpoint.HEALTHY, trainer.recipe)
    trainer.model.load_state_dict(point.model)
    trainer.optimizer.load_state_dict(point.optimizer)
    factor = SHARE ** (rollbacks - point.rollbacks)
    for group in trainer.optimizer.param_groups:
        for name in ("lr", "peak", "weight_decay", "shrink"):
            if name in group:
                group[name] *= factor
    follow(monitor, trainer.recipe, rollbacks)
    return replace(
        point, model=trainer.model.state_dict(), optimizer=trainer.optimizer.state_dict(), rollbacks=rollbacks
    )


def follow(monitor: Monitor, recipe: Recipe, rollbacks: int) -> None:
    """Tell the monitor the rate and the decay after so many rollbacks."""
    if rollbacks:
        monitor.rates = theory.rates(lessened(recipe, SHARE**rollbacks))


def lessened(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with that share of its rate and of its weight decays."""
    config = recipe.optim
    of_predictor = config.predictor_weight_decay
    changed = replace(
        config,
        lr=config.lr * factor,
        weight_decay=config.weight_decay * factor,
        predictor_weight_decay=of_predictor * factor if of_predictor >= 0 else of_predictor,
    )
    return replace(recipe, optim=changed)


def forget(run: RunDir, recipe: Recipe, point: Checkpoint, number: int, alarm: Alarm) -> str:
    """Write on the disk that the run stands at `point` again; what was said about it.

    The event comes first, then the checkpoint, then the end of the abandoned branch. A run that is resumed from an
    earlier checkpoint than this one drops the event (its `rollback` is above the checkpoint's) and comes here again.
    """
    lost = [line for line in read_jsonl(run.metrics) if line.get("step", 0) > point.step]
    event = _event(point, number, alarm, lost)
    run.append_metrics(event)
    checkpoint.save(run, recipe, point, keep=len(checkpoint.numbered(run)) + 1)
    for path in checkpoint.numbered(run):
        if checkpoint.step_of(path) > point.step:
            path.unlink(missing_ok=True)
    best = run.checkpoints / "best.pt"
    if best.is_file() and _is_after(best, recipe, point.step):
        checkpoint.link(run.checkpoints / checkpoint.HEALTHY, best)
    run.forget_after(point.step)
    return str(event["message"])


def _is_after(path: Path, recipe: Recipe, step: int) -> bool:
    """Whether a checkpoint is of the abandoned branch; one that cannot be read is of no use either."""
    try:
        return checkpoint.load(path, recipe).step > step
    except CheckpointError:
        return True


def _event(point: Checkpoint, number: int, alarm: Alarm, lost: list[dict[str, Any]]) -> dict[str, Any]:
    """The line that keeps what the log loses: the alarm, its looks, and the last figures of the abandoned branch."""
    counts = Counter(str(line.get("kind")) for line in lost)
    message = (
        f"{alarm}; went back from step {number} to step {point.step}, with {SHARE**point.rollbacks:.3g} times the "
        f"recipe's rate and weight decay from there (rollback {point.rollbacks} of {MOST} at most)"
    )
    return {
        "kind": "event",
        "step": point.step,
        "message": message,
        "rollback": point.rollbacks,
        "abandoned": {
            "from": point.step + 1,
            "to": number,
            "lines": dict(counts),
            "loss": _last(lost, "loss"),
            "knn": _last(lost, "knn"),
            "looks": [
                {name: line.get(name) for name in ("step", "embedding_std", "effective_rank", "auc", "state")}
                for line in lost
                if line.get("kind") == "watch"
            ],
        },
    }


def _last(lines: list[dict[str, Any]], name: str) -> Any:
    """The figure of that name on the last line that carries one."""
    return next((line[name] for line in reversed(lines) if line.get(name) is not None), None)
