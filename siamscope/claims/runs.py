"""Presets trained on a user's data, seed by seed; a finished run is read, one that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siamscope.claims.base import ClaimError, Preset
from siamscope.claims.published import canonical_hash, shortened
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, write_text
from siamscope.workflow.jobs import complete

Say = Callable[[str], None]
ENOUGH = 0.85
"""Share of the paper's training images that a run must have; validation images are taken from them."""


@dataclass(frozen=True)
class Data:
    """Where images are.  labelled: a data set with labels and a test split.  pretrain: other images to train on, or
    None for the labelled ones."""

    labelled: Path
    pretrain: Path | None = None


@dataclass(frozen=True)
class Plan:
    """How presets are run. epochs, steps: 0 = the recipe's own length.  device: empty = the recipe's."""

    data: Data
    out: Path
    seeds: Sequence[int]
    epochs: float = 0.0
    steps: int = 0
    device: str = ""

    def recipe(self, preset: Preset) -> Recipe:
        """The preset on these data, at seed 0."""
        recipe = shortened(preset.recipe, self.epochs, self.steps)
        recipe = replace(recipe, data=replace(recipe.data, source=str(self.data.pretrain or self.data.labelled)))
        return replace(recipe, train=replace(recipe.train, device=self.device)) if self.device else recipe

    def folder(self, preset: Preset) -> Path:
        """Claims with the same recipe share their runs."""
        return self.out / canonical_hash(self.recipe(preset))[:16]


@dataclass(frozen=True)
class Measured:
    """values: probe accuracy in percent, one a seed that has ended.  reasons: why they do not compare with the paper's.

    signal: what stopped it, or None.
    """

    values: tuple[float, ...]
    reasons: tuple[str, ...]
    signal: int | None = None


def check(plan: Plan, preset: Preset) -> None:
    """Refuse data that cannot give a figure, before anything is trained.

    Raises:
        ClaimError: no labels, or no test split: a figure from images that chose the probe would flatter.
        DataError: no images there.
    """
    from siamscope.training.progress import Silent
    from siamscope.workflow.opening import opened

    config = replace(preset.recipe.data, source=str(plan.data.labelled))
    dataset = opened(config, Silent())
    where = str(plan.data.labelled)
    if dataset.train.labels is None:
        raise ClaimError(f"{where!r} has no labels: --data needs train/CLASS/ and test/CLASS/ folders, or a key y")
    if dataset.test is None or dataset.test.labels is None:
        raise ClaimError(
            f"{where!r} has no labelled test split: --data needs train/ and test/ folders, or x_test, y_test"
        )


def measure(plan: Plan, preset: Preset, reporter: Any, say: Say) -> Measured:
    """Train and evaluate every seed of the plan.

    Raises:
        DataError, RunError, ...: before training starts.
    """
    from siamscope.training.loop import NonFiniteLossError

    values: list[float] = []
    reasons = [f"shortened to {length}"] if (length := _length(plan)) else []
    for seed in plan.seeds:
        run = RunDir(plan.folder(preset) / f"seed-{seed}")
        say(f"seed {seed}: {run.path}")
        try:
            signal = _train(plan, preset, run, seed, reporter)
        except NonFiniteLossError as error:
            values.append(float("nan"))
            reasons.append(f"seed {seed}: {error}")
            continue
        if signal:
            return Measured(tuple(values), tuple(reasons), signal)
        values.append(_accuracy(plan, preset, run, seed))
        reasons += _few(run, preset)
    return Measured(tuple(values), tuple(dict.fromkeys(reasons)))


def _length(plan: Plan) -> str:
    return f"{plan.steps} steps" if plan.steps else f"{plan.epochs:g} epochs" if plan.epochs else ""


def _train(plan: Plan, preset: Preset, run: RunDir, seed: int, reporter: Any) -> int | None:
    from siamscope.workflow.train import resume, train

    if complete(run):
        return None
    if run.recipe_file.is_file():
        return resume(run.path, reporter=reporter).signal
    recipe = plan.recipe(preset)
    recipe = replace(recipe, train=replace(recipe.train, seed=seed))
    return train(recipe, run.path, reporter=reporter).signal


def _accuracy(plan: Plan, preset: Preset, run: RunDir, seed: int) -> float:
    """Test accuracy of the linear probe, in percent."""
    if plan.data.pretrain is None:
        found = json.loads(run.evaluation.read_text(encoding="utf-8"))
    else:
        kept = run.path.with_name(f"{run.path.name}-probe.json")
        if not kept.is_file():
            from siamscope.workflow.encoder import evaluate

            config = replace(preset.recipe.data, source=str(plan.data.labelled))
            found = evaluate(run.path, config, preset.recipe.evaluation, seed=seed, device=plan.device or "auto")
            write_text(kept, json.dumps(found) + "\n")
        found = json.loads(kept.read_text(encoding="utf-8"))
    return 100 * float(found["probe"]["trained"]["top1"])


def _few(run: RunDir, preset: Preset) -> list[str]:
    images = int(json.loads(run.environment.read_text(encoding="utf-8"))["train_images"])
    if images >= ENOUGH * preset.images:
        return []
    return [f"trained on {images:,} images; the paper's runs on {preset.images:,}"]
