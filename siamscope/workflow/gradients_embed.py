"""Where the embeddings of `siamscope gradients` come from: no images, an untrained encoder, or a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siamscope import views
from siamscope.data import Dataset
from siamscope.gradients import pairs
from siamscope.recipe import Recipe
from siamscope.row import projector_of
from siamscope.rundir import RunDir
from siamscope.training import checkpoint
from siamscope.training.build import Normalisation, build_model, specs_of
from siamscope.training.distributed import choose_device
from siamscope.training.progress import Reporter
from siamscope.training.siamese import Branch, Siamese
from siamscope.workflow.gradients_rows import Embeddings, Views
from siamscope.workflow.opening import opened
from siamscope.workflow.points import readable
from siamscope.workflow.train import normalisation

OTHERS = 4
"""Batches of other samples, which fill memory banks and centres."""
RANDOM = "random"


class GradientsError(ValueError):
    """Embeddings that cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Moment:
    """Embeddings after `step` steps of training; `model` is the network they come from, if a run trained it."""

    step: int
    label: str
    embeddings: Embeddings
    model: Siamese | None = None


@dataclass(frozen=True)
class Origin:
    """What a source offers: its kind in words, the recipe as resolved, and the moments, computed one by one."""

    kind: str
    title: str
    recipe: Recipe
    moments: Callable[[], Iterator[Moment]]


def origin(recipe: Recipe, source: str, count: int, others: bool, reporter: Reporter, momentum: bool = False) -> Origin:
    """The embeddings of `count` pairs from `source`: 'random', a run directory, or a data source.

    `others`: also those of further samples. `momentum`: also those of the run's momentum network, as targets.

    Raises:
        GradientsError: fewer than two pairs or images, or a run without a checkpoint.
        RunError, CheckpointError, DataError: what is there cannot be used.
    """
    if count < 2:
        raise GradientsError(f"--pairs must be at least 2 (samples are pushed from each other), got {count}")
    batches = 1 + (OTHERS if others else 0)
    if source == RANDOM:
        return Origin("random", "random unit vectors", recipe, lambda: _random(recipe, count, batches))
    path = Path(source)
    if (path / "recipe.toml").is_file():
        return _of_run(RunDir.open(path), recipe, count, batches, reporter, momentum)
    if path.is_dir() and ((path / "checkpoints").is_dir() or (path / "metrics.jsonl").is_file()):
        RunDir.open(path)  # says what is missing
    if source:
        recipe = replace(recipe, data=replace(recipe.data, source=source))
    images = Images.of(recipe, count, batches, reporter)

    def moments() -> Iterator[Moment]:
        model = build_model(images.recipe, images.channels)
        yield Moment(0, "initialisation", images.embedded(model))

    return Origin("data", images.name, images.recipe, moments)


def _random(recipe: Recipe, count: int, batches: int) -> Iterator[Moment]:
    """Unit vectors of the projector's width, standard deviations falling as k^-1/2, positives differing by noise."""
    drawn = [pairs.draw(recipe.train.seed + k * 2**20, count, projector_of(recipe.method).out) for k in range(batches)]
    every = [Views((pair.u1, pair.u2)) for pair in drawn]
    yield Moment(0, "random", Embeddings(every[0], tuple(every[1:])))


def _of_run(run: RunDir, recipe: Recipe, count: int, batches: int, reporter: Reporter, momentum: bool) -> Origin:
    """Step 0 and every checkpoint of a run."""
    own = run.recipe()
    if not checkpoint.numbered(run) and not (run.checkpoints / "best.pt").is_file():
        raise GradientsError(
            f"{run.path} has no checkpoint yet; continue it with 'siamscope resume {run.path}', or give its data source"
        )
    changed = [name for name in ("network", "method") if getattr(recipe, name) != getattr(own, name)]
    if changed:
        raise GradientsError(f"{run.path} was trained with its own {' and '.join(changed)}; leave those options out")
    points = readable(run, own, reporter)  # before the data are opened: a damaged run fails at once
    images = Images.of(recipe, count, batches, reporter)

    def moments() -> Iterator[Moment]:
        settled = replace(own, data=images.recipe.data)
        for step, label, path in [(0, "initialisation", None), *points]:
            reporter.say(f"{label}: step {step}")
            model = build_model(settled, images.channels)
            if path is not None:
                model.load_state_dict(checkpoint.load(path, own).model)
            found = images.embedded(model, momentum)
            if all(bool(torch.isfinite(z).all()) for z in found.pairs.online):
                yield Moment(step, label, found, model.cpu())
            else:
                reporter.say(f"{label}: the embeddings are not finite; left out")

    return Origin("run", run.path.name, images.recipe, moments)


@dataclass(frozen=True)
class Images:
    """Training images in batches, the first the compared ones; `recipe` with what the data decided filled in."""

    recipe: Recipe
    name: str
    channels: int
    batches: tuple[Tensor, ...]
    norm: Normalisation
    device: torch.device
    total: int
    """Training images that there are."""

    @property
    def count(self) -> int:
        """Images in the batches."""
        return sum(map(len, self.batches))

    @classmethod
    def of(cls, recipe: Recipe, count: int, batches: int, reporter: Reporter) -> Images:
        """Drawn from the training split by the recipe's seed; the same at every moment.

        Raises:
            GradientsError: fewer than two images.
        """
        dataset: Dataset = opened(recipe.data, reporter)
        total = len(dataset.train)
        if total < 2:
            raise GradientsError(f"{dataset.name} has {total} training image; a gradient needs at least 2")
        if total < count:
            reporter.say(f"{dataset.name} has only {total} training images")
        order = np.random.Generator(np.random.PCG64([recipe.train.seed, 13])).permutation(total)[: count * batches]
        parts = [order[k : k + count] for k in range(0, len(order), count)]
        read = tuple(torch.from_numpy(dataset.train.read(np.sort(part).astype(np.int64))) for part in parts)
        settled = replace(recipe, data=replace(dataset.config, cache_dir=recipe.data.cache_dir))
        device = choose_device(recipe.train.device)
        return cls(settled, dataset.name, dataset.train.channels, read, normalisation(dataset), device, total)

    @torch.no_grad()
    def embedded(self, model: Siamese, momentum: bool = False) -> Embeddings:
        """Projector outputs of two views of every image, in training mode (batch norm by the batch), as float64."""
        model.to(self.device).train()
        many = [images for k, images in enumerate(self.batches) if k == 0 or len(images) > 1]
        every = [self._views(model, images, k, momentum) for k, images in enumerate(many)]
        return Embeddings(every[0], tuple(every[1:]))

    def _views(self, model: Siamese, images: Tensor, number: int, momentum: bool) -> Views:
        generator = torch.Generator().manual_seed(self.recipe.train.seed * 1_000_003 + number)
        pair = views.make_views(
            images.to(self.device), specs_of(self.recipe)[:2], generator,
            colour=self.recipe.views.colour, mean=self.norm.mean, std=self.norm.std,
        )  # fmt: skip
        online = _pair(model.online, pair)
        return Views(online, _pair(model.target, pair) if momentum and model.target is not None else None)


def _pair(branch: Branch | torch.nn.Module, pair: list[Tensor]) -> tuple[Tensor, Tensor]:
    first, second = (branch(view).double().cpu() for view in pair[:2])
    return first, second
