"""`siamscope train` and `siamscope resume`: from images to a judged encoder."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from siamscope import networks
from siamscope import recipe as recipes
from siamscope.data import Dataset, Loader, Source, channel_stats
from siamscope.data.memory import budget
from siamscope.data.order import Order
from siamscope.networks.backbone import Backbone
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, RunError, explained, read_jsonl, write_text
from siamscope.sections import OnCollapse
from siamscope.training import checkpoint, machine, rollback
from siamscope.training.build import (
    Normalisation,
    build_monitor,
    build_trainer,
    build_watch,
    view_size,
)
from siamscope.training.checkpoint import Checkpoint
from siamscope.training.compile import NOT_NEEDED, Choice
from siamscope.training.distributed import World, world
from siamscope.training.loop import Loop, Outcome
from siamscope.training.monitor import Monitor
from siamscope.training.precision import Precision
from siamscope.training.progress import Reporter, Silent
from siamscope.training.step import Trainer
from siamscope.training.watch import Watch
from siamscope.workflow import environment
from siamscope.workflow.choices import compiled_step, with_number_format
from siamscope.workflow.judge import judge
from siamscope.workflow.launch import Launch, agree_on_data, agree_on_recipe, how_to_go_on, restarted
from siamscope.workflow.opening import shared_dataset
from siamscope.workflow.ordering import batches, begin_order, build_order, dealt, described, known_files
from siamscope.workflow.ordering import steps_per_epoch as steps_of_epoch
from siamscope.workflow.profiled import profiled

STATS_SAMPLES = 10_000


@dataclass(frozen=True)
class Finished:
    """What a command that trains ends with; without `signal` and `reason` (the alarm's) the training is complete."""

    run: RunDir
    step: int
    signal: int | None
    evaluation: dict[str, Any] | None
    first: bool
    reason: str = ""


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    profile: int | None = None,
) -> Finished:
    """Train by a recipe into a new run directory, export the encoder and judge it.

    profile: write where the time went, with the operators of so many steps (`siamscope.workflow.profiled`).

    Raises:
        RunError, RecipeError, DataError, NetworkError, ...: a ValueError that says what to do, before training starts.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    recipes.validate(recipe)
    with ExitStack() as stack:
        here = stack.enter_context(world()).on(recipe.train.device)
        reporter = (reporter or Silent()) if here.first else Silent()
        run = RunDir(out)
        here.last_words(partial(how_to_go_on, run))
        agree_on_recipe(here, recipe)
        launch = Launch.of(here, recipe)
        if here.broadcast(here.on_first(lambda: launch.began(run))):
            return _go_on(run, here, stack, reporter, launch=launch, profile=profile)
        if restarted():
            reporter.say(f"torchrun has started its processes again, and there is no run of theirs in {run.path}: anew")
        here.on_first(lambda: run.check_free(overwrite))
        prepared = _prepare(recipe, here, reporter)
        _compile(prepared, reporter)

        def begin() -> None:  # only now, so that data or names that cannot be used leave nothing behind
            stack.enter_context(run.created(prepared.recipe, overwrite))
            begin_order(run, prepared.order, prepared.dataset)
            _write_start(run, prepared, here, launch)

        here.on_first(begin)
        return _run(run, prepared, here, reporter, profile)


def resume(
    path: str | Path,
    *,
    device: str | None = None,
    on_collapse: OnCollapse | None = None,
    reporter: Reporter | None = None,
    profile: int | None = None,
) -> Finished:
    """Continue a run from its last checkpoint, bit for bit on the same machine and software.

    A run that is complete is only judged again. The device may be changed (then the continuation is not bit-equal), and
    what an alarm does.

    Raises:
        RunError: an alarm ended the run, and it may not go on.
    """
    with ExitStack() as stack:
        here = stack.enter_context(world())
        reporter = (reporter or Silent()) if here.first else Silent()
        run = RunDir(path)
        here.last_words(partial(how_to_go_on, run))
        return _go_on(run, here, stack, reporter, device, on_collapse, profile=profile)


def _go_on(
    run: RunDir,
    here: World,
    stack: ExitStack,
    reporter: Reporter,
    device: str | None = None,
    on_collapse: OnCollapse | None = None,
    launch: Launch | None = None,
    profile: int | None = None,
) -> Finished:
    """What rank 0 finds in the run's directory, on all processes: their hosts need not share a disk."""
    recipe, known = here.broadcast(here.on_first(lambda: (RunDir.open(run.path).recipe(), known_files(run))))
    if on_collapse:
        recipe = replace(recipe, monitor=replace(recipe.monitor, on_collapse=on_collapse))
    if device:
        recipe = replace(recipe, train=replace(recipe.train, device=device))
    if recipe.train.compile == "auto":  # of a run that was begun before there was the choice
        recipe = replace(recipe, train=replace(recipe.train, compile="off"))
    agree_on_recipe(here, recipe)
    here = here.on(recipe.train.device)
    launch = launch or Launch.of(here, recipe)
    here.on_first(lambda: stack.enter_context(run.lock()))
    prepared = _prepare(recipe, here, reporter, known)
    here.on_first(lambda: _same_data(run, prepared.dataset))
    _restore(prepared, run, reporter)
    _compile(prepared, reporter)
    if prepared.recipe.train.compile == "on" and not prepared.compiling.compiled and prepared.compiling != NOT_NEEDED:
        here.on_first(lambda: _tell_otherwise(run, prepared, reporter))
    here.on_first(lambda: launch.note(run, here.size))
    return _run(run, prepared, here, reporter, profile)


@dataclass
class Prepared:
    """A run before its first step (or the next one, when it is resumed)."""

    recipe: Recipe
    dataset: Dataset
    norm: Normalisation
    order: Order
    source: Source
    trainer: Trainer
    monitor: Monitor
    watch: Watch
    timings: dict[str, float]
    compiling: Choice = NOT_NEEDED
    start: Checkpoint | None = None


def _prepare(recipe: Recipe, here: World, reporter: Reporter, known: Mapping[str, list[str]] | None = None) -> Prepared:
    """Open the data, decide the number format, build everything; writes nothing but the cache of decoded images.

    known: the files that a run on a growing folder began with.
    """
    _configure(recipe)
    dataset = shared_dataset(recipe, here, reporter, known)
    agree_on_data(here, dataset)
    recipe = replace(recipe, data=replace(dataset.config, cache_dir=recipe.data.cache_dir))
    if len(dataset.val) < 2:
        raise RunError(
            f"{dataset.name} leaves {len(dataset.val)} image to watch the training with; a spectrum needs at least 2: "
            "use 4 images or more, or raise data.val_samples"
        )
    norm = normalisation(dataset)
    channels = dataset.train.channels
    per_epoch = steps_of_epoch(recipe, dataset)
    recipe, timings = with_number_format(recipe, channels, here)
    precision = Precision(recipe.train.precision == "bf16", recipe.train.channels_last == "on")
    trainer = build_trainer(recipe, channels, per_epoch, norm, here, precision)
    order, source = build_order(recipe, dataset, trainer.steps)
    monitor = build_monitor(recipe, dataset.train, dataset.val, norm, here, precision)
    watch = build_watch(recipe, dataset.val, norm, here, precision)
    return Prepared(recipe, dataset, norm, order, source, trainer, monitor, watch, timings)


def _run(run: RunDir, prepared: Prepared, here: World, reporter: Reporter, profile: int | None = None) -> Finished:
    recipe, dataset, start, order = prepared.recipe, prepared.dataset, prepared.start, prepared.order
    loop = Loop(prepared.trainer, prepared.monitor, run, reporter, order.steps_per_epoch, prepared.watch)
    if start:
        loop.start, loop.best, loop.reference, loop.rollbacks = start.step, start.best, start.reference, start.rollbacks
    fits = recipe.order.name != "stream" and _fits(dataset, here)
    with Loader(
        prepared.source,
        dealt(order, here.size, recipe.train.accumulate),
        rank=here.rank,
        world=here.size,
        device=here.device,
        device_resident=fits,
    ) as loader:
        try:
            with profiled(run, recipe, prepared.trainer, loop.start, here, profile):
                outcome = loop.fit(batches(run, order, dataset, loader, prepared.trainer.steps, here, reporter))
        finally:
            reporter.close()
    return _finish(run, prepared, outcome, here, reporter)


def _fits(dataset: Dataset, here: World) -> bool:
    """Whether every process may keep all training images on its device."""
    if dataset.streams or dataset.train.nbytes * here.local_size > budget(dataset.config.memory_budget_mb):
        return False
    if here.device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(here.device)
    return dataset.train.nbytes < free // 3


def _finish(run: RunDir, prepared: Prepared, outcome: Outcome, here: World, reporter: Reporter) -> Finished:
    evaluation = None
    if here.first and outcome.reason:
        export(run, prepared)  # what there is, but no judgement: the training did not come to its end
    elif not outcome.reason and outcome.signal is None:
        if here.first:
            export(run, prepared)
            reporter.say("judging the encoder")
        evaluation = judge(run, prepared.recipe, prepared.trainer.model, prepared.dataset, prepared.norm, here)
    if evaluation is not None:
        known = json.loads(run.environment.read_text(encoding="utf-8"))
        run.write_json(run.environment, known | {"finished": environment.now()})
    return Finished(run, outcome.step, outcome.signal, evaluation, here.first, outcome.reason)


def export(run: RunDir, prepared: Prepared) -> None:
    """Write encoder.safetensors and encoder.json."""
    recipe, norm = prepared.recipe, prepared.norm
    about = {
        "input_size": view_size(recipe),
        "mean": list(norm.mean),
        "std": list(norm.std),
        "method": recipe.method.name,
        "data": prepared.dataset.name,
        "recipe": recipes.digest(recipe),
        "licence": "",
    }
    with explained(run.path):
        networks.save_encoder(run.path, cast("Backbone", prepared.trainer.model.online.backbone), about)


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
    wanted = machine.threads(recipe.train.threads)
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)
    machine.keep_memory()
    if recipe.train.deterministic:  # what cuBLAS needs to be deterministic; read when CUDA starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if recipe.train.deterministic != torch.are_deterministic_algorithms_enabled():  # the call itself is slow
        torch.use_deterministic_algorithms(recipe.train.deterministic)


def _compile(prepared: Prepared, reporter: Reporter) -> None:
    """Compile the step if that pays in the steps to go, and note the choice in the recipe."""
    left = prepared.trainer.steps - (prepared.start.step if prepared.start else 0)
    prepared.recipe, prepared.compiling = compiled_step(prepared.trainer, left, reporter)


def _tell_otherwise(run: RunDir, prepared: Prepared, reporter: Reporter) -> None:
    """A run that began with a compiled step goes on without: its figures then differ in the last digits."""
    message = f"{prepared.compiling.reason}; the steps before were, so what follows is not bit-equal"
    run.append_metrics({"kind": "event", "step": prepared.start.step if prepared.start else 0, "message": message})
    reporter.say(message)


def _write_start(run: RunDir, prepared: Prepared, here: World, launch: Launch) -> None:
    dataset, recipe = prepared.dataset, prepared.recipe
    about = environment.describe(here.device, here.size) | {
        "precision": recipe.train.precision,
        "channels_last": recipe.train.channels_last,
        "precision_probe_seconds": prepared.timings,
        "compile": prepared.compiling.reason,
        "compile_seconds": prepared.compiling.seconds,
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "train_images": len(dataset.train if dataset.stream is None else dataset.stream),
        "validation_images": len(dataset.val),
        "test_images": len(dataset.test) if dataset.test else 0,
        "order": described(recipe, prepared.order, prepared.trainer.steps),
        "launch": launch.facts(),
        "started": environment.now(),
    }
    run.write_json(run.environment, about)
    if dataset.rejected:
        lines = [json.dumps(dataclasses.asdict(item)) for item in dataset.rejected]
        write_text(run.rejected, "\n".join(lines) + "\n")


def _restore(prepared: Prepared, run: RunDir, reporter: Reporter) -> None:
    """Put the run's last checkpoint into the trainer."""
    here = prepared.trainer.world
    point, notes = here.on_first(lambda: checkpoint.load_latest(run, prepared.recipe)) or (None, [])
    for note in notes:
        reporter.say(f"{note}; falling back to the one before")
    here.on_first(lambda: _rebuild_alarm(prepared, run, point))
    if here.first:
        run.sweep()
        step = point.step if point else 0
        run.forget_after(step if point else -1, point.rollbacks if point else 0)
        event = {"kind": "event", "step": step, "message": f"resumed after step {step}", "time": environment.now()}
        run.append_metrics(event)
    if not here.broadcast(point is not None):
        reporter.say("no checkpoint yet: starting again from step 0")
        return
    point = checkpoint.shared(here, point)
    prepared.trainer.model.load_state_dict(point.model)
    prepared.trainer.optimizer.load_state_dict(point.optimizer)
    rollback.follow(prepared.monitor, prepared.recipe, point.rollbacks)
    prepared.start = point


def _rebuild_alarm(prepared: Prepared, run: RunDir, point: Checkpoint | None) -> None:
    """The alarm's state as the log tells it. A run that the alarm ended goes on only if someone has decided so.

    Raises:
        RunError: the alarm is on, and `monitor.on_collapse` is "stop".
    """
    if point is None or not run.metrics.is_file():
        return
    prepared.watch.rebuild(line for line in read_jsonl(run.metrics) if line.get("step", 0) <= point.step)
    alarm = prepared.watch.alarm
    if alarm.state == "alarm" and prepared.recipe.monitor.on_collapse == "stop":
        raise RunError(
            f"the alarm ended {run.path} ({alarm}); go on all the same with 'siamscope resume {run.path} --on-collapse "
            "warn', from its last healthy checkpoint with a third of the rate and of the weight decay with "
            "'--on-collapse rollback', or start a new run"
        )
