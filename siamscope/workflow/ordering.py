"""From the section `order` of a recipe to the order in which its training images are presented."""

from __future__ import annotations

from typing import Literal

from siamscope.data import DataError, Dataset, IidOrder, Order
from siamscope.data.chunks import Positions, bounds
from siamscope.data.orders import ChunkOrder, HybridOrder, LastOrder
from siamscope.data.replay import Replay
from siamscope.recipe import Recipe


def steps_per_epoch(recipe: Recipe, dataset: Dataset) -> int:
    """Steps of a pass over all training images; the unit of epochs, whatever the order."""
    return IidOrder(len(dataset.train), recipe.train.batch_size, recipe.train.seed).steps_per_epoch


def build_order(recipe: Recipe, dataset: Dataset, steps: int) -> Order:
    """The order of a run of `steps` steps.

    Raises:
        DataError: sizes that do not fit together, or data without the classes that the order goes by.
    """
    config, count = recipe.order, len(dataset.train)
    batch_size, seed = recipe.train.batch_size, recipe.train.seed
    if config.name == "iid":
        return IidOrder(count, batch_size, seed)
    if config.name == "stream":
        raise DataError(f"order.name 'stream' needs images that never end; {dataset.name} holds {count}")
    groups = _groups(recipe, dataset)
    if config.name == "last":
        return LastOrder(count, batch_size, seed, config.subset, config.chunks, groups)
    replay = Replay(batch_size, config.replay, config.buffer, seed) if config.replay else None
    kind: Literal["current", "cumulative"] = "cumulative" if config.name == "cumulative" else "current"
    order = ChunkOrder(kind, count, batch_size, seed, steps, config.chunks, config.rounds, replay, groups)
    return HybridOrder(order, seed, config.switch) if config.name == "hybrid" else order


def _groups(recipe: Recipe, dataset: Dataset) -> Positions | None:
    """What the chunks follow: the class of every training image, or nothing."""
    if recipe.order.shift == "none":
        return None
    labels = dataset.train.labels
    if labels is None or len(set(labels.tolist())) < 2:
        raise DataError(
            f"order.shift = 'class' needs images of at least two classes; {dataset.name} has no labels to go by "
            "(a folder has them when every image lies in one of at least two sub-folders)"
        )
    return labels


def described(recipe: Recipe, order: Order, steps: int) -> str:
    """The order in words, with its sizes."""
    config = recipe.order
    if isinstance(order, IidOrder):
        return f"iid: all {order.count} images in every epoch of {order.steps_per_epoch} steps"
    if isinstance(order, LastOrder):
        return f"last: a fixed subset of {len(order.members)} images"
    chunks = order.first if isinstance(order, HybridOrder) else order
    assert isinstance(chunks, ChunkOrder)
    sizes = sorted({b - a for a, b in (bounds(chunks.count, config.chunks, i) for i in range(config.chunks))})
    text = f"{config.name}: {config.chunks} chunks of {' or '.join(map(str, sizes))} images"
    text += f", about {steps / chunks.pace.segments:.4g} steps each"
    text += f", {config.rounds} rounds" if config.rounds > 1 else ""
    text += f", following the {config.shift}" if config.shift != "none" else ""
    if config.replay:
        held = f"a buffer of {config.buffer}" if config.buffer else "all"
        text += f", {config.replay:.4g} of a batch replayed from {held} earlier images"
    return text + (f"; iid from step {order.switch_step}" if isinstance(order, HybridOrder) else "")
