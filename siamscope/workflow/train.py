"""`siamscope train` and `siamscope resume`: from images to a judged encoder."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from siamscope import networks
from siamscope import recipe as recipes
from siamscope.data import Dataset, Loader, channel_stats
from siamscope.data.order import IidOrder
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, RunError, write_text
from siamscope.training import checkpoint
from siamscope.training.build import (
    Normalisation,
    build_model,
    build_monitor,
    build_trainer,
    choose_precision,
    view_size,
)
from siamscope.training.distributed import World, world
from siamscope.training.loop import Loop, Outcome
from siamscope.training.precision import Precision
from siamscope.training.progress import Reporter, Silent
from siamscope.workflow import environment
from siamscope.workflow.judge import judge
from siamscope.workflow.opening import opened

STATS_SAMPLES = 10_000


@dataclass(frozen=True)
class Finished:
    """What a command that trains ends with; `signal` is None when the training is complete."""

    run: RunDir
    step: int
    signal: int | None
    evaluation: dict[str, Any] | None
    first: bool


def train(recipe: Recipe, out: str | Path, *, overwrite: bool = False, reporter: Reporter | None = None) -> Finished:
    """Train by a recipe into a new run directory, export the encoder and judge it.

    Raises:
        RunError, RecipeError, DataError, NetworkError, ...: a ValueError that says what to do, before training starts.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    recipes.validate(recipe)
    with ExitStack() as stack:
        here = stack.enter_context(world(recipe.train.device))
        reporter = (reporter or Silent()) if here.first else Silent()
        run = RunDir.create(out, recipe, overwrite) if here.first else RunDir(out)
        if here.first:
            stack.enter_context(run.lock())
        return _run(run, recipe, here, reporter, resumed=False)


def resume(path: str | Path, *, device: str | None = None, reporter: Reporter | None = None) -> Finished:
    """Continue a run from its last checkpoint, bit for bit on the same machine and software.

    A run that is complete is only judged again. The device may be changed (then the continuation is not bit-equal).
    """
    run = RunDir.open(path)
    recipe = run.recipe()
    if device:
        recipe = replace(recipe, train=replace(recipe.train, device=device))
    with ExitStack() as stack:
        here = stack.enter_context(world(recipe.train.device))
        reporter = (reporter or Silent()) if here.first else Silent()
        if here.first:
            stack.enter_context(run.lock())
        return _run(run, recipe, here, reporter, resumed=True)


def _run(run: RunDir, recipe: Recipe, here: World, reporter: Reporter, resumed: bool) -> Finished:
    _configure(recipe)
    dataset = _shared_dataset(recipe, here, reporter)
    if resumed:
        _same_data(run, dataset)
    recipe = replace(recipe, data=replace(dataset.config, cache_dir=recipe.data.cache_dir))
    norm = normalisation(dataset)
    channels = dataset.train.channels
    order = IidOrder(len(dataset.train), recipe.train.batch_size, recipe.train.seed)
    recipe, timings = _resolve(recipe, channels, here, resumed)
    if here.first and not resumed:
        write_text(run.recipe_file, recipes.to_toml(recipe))
        _write_start(run, recipe, dataset, here, timings)
    precision = Precision(recipe.train.precision == "bf16", recipe.train.channels_last == "on")
    trainer, per_epoch = build_trainer(recipe, channels, len(dataset.train), norm, here, precision)
    loop = Loop(
        trainer=trainer,
        monitor=build_monitor(recipe, dataset.train, dataset.val, norm, here, precision),
        run=run,
        reporter=reporter,
        steps_per_epoch=per_epoch,
    )
    if resumed:
        _restore(loop, run, recipe, reporter)
    with Loader(
        dataset.train, order, rank=here.rank, world=here.size, device=here.device,
        device_resident=not dataset.streams,
    ) as loader:  # fmt: skip
        try:
            outcome = loop.fit(images for images, _ in loader.batches(loop.start, trainer.steps))
        finally:
            reporter.close()
    return _finish(run, recipe, loop, outcome, dataset, norm, here, reporter)


def _finish(
    run: RunDir, recipe: Recipe, loop: Loop, outcome: Outcome, dataset: Dataset, norm: Normalisation, here: World,
    reporter: Reporter,
) -> Finished:  # fmt: skip
    evaluation = None
    if here.first and outcome.signal is None:
        model = loop.trainer.model
        export(run, recipe, model.online.backbone, dataset, norm)
        reporter.say("judging the encoder")
        evaluation = judge(run, recipe, model, dataset, norm, loop.trainer.precision)
        known = json.loads(run.environment.read_text(encoding="utf-8"))
        run.write_json(run.environment, known | {"finished": environment.now()})
    here.barrier()
    return Finished(run, outcome.step, outcome.signal, evaluation, here.first)


def export(run: RunDir, recipe: Recipe, backbone: Any, dataset: Dataset, norm: Normalisation) -> None:
    """Write encoder.safetensors and encoder.json."""
    networks.save_encoder(
        run.path,
        backbone,
        {
            "input_size": view_size(recipe),
            "mean": list(norm.mean),
            "std": list(norm.std),
            "method": recipe.method.name,
            "data": dataset.name,
            "recipe": recipes.digest(recipe),
            "licence": "",
        },
    )


def _shared_dataset(recipe: Recipe, here: World, reporter: Reporter) -> Dataset:
    """The data, decoded by rank 0 while the others wait."""
    dataset = opened(recipe.data, reporter) if here.first else None
    here.barrier()
    return dataset or opened(recipe.data, Silent())


def _same_data(run: RunDir, dataset: Dataset) -> None:
    """A resumed run must see the images that it started with."""
    if not run.environment.is_file():
        return
    known = json.loads(run.environment.read_text(encoding="utf-8")).get("data_fingerprint")
    if known and known != dataset.fingerprint:
        raise RunError(
            f"the images of {dataset.name} have changed since {run.path} was started; put them back, or start a new run"
        )


def normalisation(dataset: Dataset) -> Normalisation:
    """Mean and deviation of the training images; a fixed sample, so that a resumed run finds the same."""
    mean, std = channel_stats(dataset.train, STATS_SAMPLES, 0)
    return Normalisation(tuple(mean), tuple(std))


def _configure(recipe: Recipe) -> None:
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    torch.use_deterministic_algorithms(recipe.train.deterministic)


def _resolve(recipe: Recipe, channels: int, here: World, resumed: bool) -> tuple[Recipe, dict[str, float]]:
    """The recipe with number format and layout decided, so that a resumed run computes in the same."""
    decided = recipe.train.precision != "auto" and recipe.train.channels_last != "auto"
    if decided or resumed:
        return recipe, {}
    precision, timings = choose_precision(
        recipe, build_model(recipe, channels, World(device=here.device)), channels, here
    )
    chosen = replace(
        recipe.train,
        precision="bf16" if precision.bf16 else "fp32",
        channels_last="on" if precision.channels_last else "off",
    )
    return replace(recipe, train=chosen), timings


def _write_start(run: RunDir, recipe: Recipe, dataset: Dataset, here: World, timings: dict[str, float]) -> None:
    about = environment.describe(here.device, here.size) | {
        "precision": recipe.train.precision,
        "channels_last": recipe.train.channels_last,
        "precision_probe_seconds": timings,
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "train_images": len(dataset.train),
        "validation_images": len(dataset.val),
        "test_images": len(dataset.test) if dataset.test else 0,
        "started": environment.now(),
    }
    run.write_json(run.environment, about)
    if dataset.rejected:
        lines = [json.dumps(dataclasses.asdict(item)) for item in dataset.rejected]
        write_text(run.rejected, "\n".join(lines) + "\n")


def _restore(loop: Loop, run: RunDir, recipe: Recipe, reporter: Reporter) -> None:
    point, notes = checkpoint.load_latest(run, recipe)
    for note in notes:
        reporter.say(f"{note}; falling back to the one before")
    step = point.step if point else 0
    if loop.trainer.world.first:
        run.forget_after(step if point else -1)
        run.append_metrics(
            {"kind": "event", "step": step, "message": f"resumed after step {step}", "time": time.time()}
        )
    if point is None:
        reporter.say("no checkpoint yet: starting again from step 0")
        return
    loop.trainer.model.load_state_dict(point.model)
    loop.trainer.optimizer.load_state_dict(point.optimizer)
    loop.start, loop.best, loop.reference = step, point.best, point.reference
