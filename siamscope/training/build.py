"""From a recipe and data to a trainer."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from siamscope import networks
from siamscope.data.order import rows
from siamscope.data.source import Source
from siamscope.networks.backbone import Backbone
from siamscope.recipe import Recipe, RecipeError
from siamscope.training import precision as precisions
from siamscope.training import theory
from siamscope.training.distributed import World
from siamscope.training.monitor import Monitor, Sample
from siamscope.training.optim import build as build_optimizer
from siamscope.training.precision import Precision
from siamscope.training.siamese import Branch, Siamese
from siamscope.training.step import Trainer
from siamscope.training.teacher import load_teacher
from siamscope.training.watch import Watch, every
from siamscope.views.multicrop import multi_crop
from siamscope.views.policies import ViewSpec, get_policy


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the training images, per channel, in units of [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def view_size(recipe: Recipe) -> int:
    return recipe.views.size or recipe.data.size


def specs_of(recipe: Recipe) -> tuple[ViewSpec, ...]:
    """The views of the recipe: the policy's, with what the recipe changes."""
    config = recipe.views
    pair = get_policy(config.policy, view_size(recipe))
    low = config.crop_min
    specs = tuple(dataclasses.replace(s, crop_scale=(low, max(low, s.crop_scale[1]))) for s in pair) if low else pair
    if not config.local_crops:
        return specs
    return multi_crop(
        specs,
        config.local_crops,
        config.local_size or None,
        local_scale=(config.local_min, config.local_max),
        image_size=recipe.data.size,
    )


def build_backbone(recipe: Recipe, channels: int) -> Backbone:
    """The recipe's backbone with the weights that its seed gives: the untrained encoder."""
    torch.manual_seed(recipe.train.seed)
    return _drawn(recipe, channels)


def _drawn(recipe: Recipe, channels: int) -> Backbone:
    """A backbone with the next weights of torch's generator."""
    return networks.create(
        recipe.network.backbone,
        in_channels=channels,
        width=recipe.network.width,
        stem=recipe.network.stem,
        zero_init_residual=recipe.network.zero_init_residual,
        input_size=view_size(recipe),
        features=recipe.network.features,
    )


def build_model(recipe: Recipe, channels: int, world: World | None = None) -> Siamese:
    """The whole network of the recipe, with the weights that its seed gives."""
    world = world or World()
    backbone = build_backbone(recipe, channels)
    model = Siamese(
        backbone, backbone.feature_dim, recipe.method, world.group(), another=lambda: _drawn(recipe, channels),
        teacher=load_teacher(recipe.method, channels, world.group()),
    )  # fmt: skip
    return model.to(world.device)


def choose_precision(recipe: Recipe, model: Siamese, channels: int, world: World) -> tuple[Precision, dict[str, float]]:
    """Rank 0 times the formats that the recipe allows on a part of a batch; every rank takes the fastest."""
    found: tuple[Precision, dict[str, float]] | None = None
    if world.first:
        size = view_size(recipe)
        n = min(
            recipe.train.batch_size // world.size // recipe.train.accumulate, 64 if world.device.type == "cpu" else 256
        )
        timer = precisions.step_timer(
            Branch(model.online.backbone, nn.Sequential()), (n, channels, size, size), world.device
        )
        found = precisions.choose(recipe.train.precision, recipe.train.channels_last, timer)
    chosen: tuple[Precision, dict[str, float]] = world.broadcast(found)
    return chosen


def build_trainer(
    recipe: Recipe, channels: int, steps_per_epoch: int, norm: Normalisation, world: World, precision: Precision
) -> Trainer:
    """The trainer at step 0.

    Raises:
        RecipeError, DataError: sizes that do not fit together.
    """
    config = recipe.train
    rows(world.rank, world.size, config.batch_size)  # refuses a batch that the processes cannot share
    share = config.batch_size // world.size
    if share % config.accumulate:
        raise RecipeError(f"train.accumulate ({config.accumulate}) must divide the {share} images of a process")
    if recipe.views.cutmix and share // config.accumulate % 2:
        raise RecipeError(
            f"views.cutmix pairs neighbours: a process needs an even part of the batch, it has {share} images"
        )
    steps = config.steps or max(round(config.epochs * steps_per_epoch), 1)
    model = build_model(recipe, channels, world)
    if model.teacher is not None:
        model.teacher.sees(norm.mean, norm.std)
    alone = world.size * share // config.accumulate == 1
    if alone and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        raise RecipeError(
            f"train.accumulate ({config.accumulate}) leaves 1 image a part, and batch norm needs at least 2"
        )
    if precision.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if world.size > 1:
        networks.convert_sync_batchnorm(model)
    optimizer = build_optimizer(recipe.optim, model.online, model.predictor, model.objective, config.batch_size)
    wrapped: nn.Module | None = None
    if world.size > 1:
        wrapped = distributed(model, world)
    trainer = Trainer(
        recipe=recipe, model=model, optimizer=optimizer, specs=specs_of(recipe), mean=norm.mean, std=norm.std,
        steps=steps, warmup=round(recipe.optim.warmup_epochs * steps_per_epoch), world=world, precision=precision,
        wrapped=wrapped,
    )  # fmt: skip
    return trainer


def distributed(model: Siamese, world: World) -> DistributedDataParallel:
    """The model with gradients averaged over processes. Buffers are equal on all of them by construction."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters  # torch 2.13 renamed the option
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    ids = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, **{option: False})  # type: ignore[arg-type]


def build_monitor(
    recipe: Recipe, train: Source, val: Source, norm: Normalisation, world: World, precision: Precision
) -> Monitor:
    """A monitor on a fixed sample of the validation split, with a bank from the training split if labels exist."""
    sample = draw(val, recipe.monitor.samples, recipe.train.seed, world)
    bank = draw(train, recipe.monitor.bank if train.labels is not None else 0, recipe.train.seed + 1, world)
    return Monitor(
        recipe.monitor, sample, bank, specs_of(recipe), view_size(recipe), norm.mean, norm.std, precision,
        recipe.train.seed, theory.rates(recipe), world,
    )  # fmt: skip


def build_watch(recipe: Recipe, val: Source, norm: Normalisation, world: World, precision: Precision) -> Watch:
    """The alarm's look at a few images of the validation split."""
    images = draw(val, recipe.monitor.watch_samples, recipe.train.seed, World(device=world.device)).images
    return Watch(images, every(recipe, world.device.type), view_size(recipe), norm.mean, norm.std, precision)


def draw(source: Source, most: int, seed: int, world: World) -> Sample:
    """At most `most` images of a source, drawn by the seed: this process's share of them, on the device."""
    chosen = np.sort(np.random.Generator(np.random.PCG64([seed, 7])).permutation(len(source))[:most])
    images = torch.from_numpy(source.read(chosen[world.share(len(chosen))].astype(np.int64))).to(world.device)
    labels = None if source.labels is None else torch.from_numpy(source.labels[chosen])
    return Sample(images, labels, len(chosen))
