"""From the section `order` of a recipe to the batches of a run: which images, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from siamscope.data import DataError, Dataset, IidOrder, Order, ShapesSource, Source
from siamscope.data.chunks import Positions, bounds
from siamscope.data.growing import GrowingFolder, GrowingOrder, GrowingSource, read_start, write_start
from siamscope.data.open import SHAPES_VAL_AT
from siamscope.data.orders import ChunkOrder, HybridOrder, LastOrder
from siamscope.data.replay import Replay
from siamscope.data.stream import EndlessOrder, EndlessShapes
from siamscope.data.windows import StreamOrder, even_edges
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, RunError, explained, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from siamscope.data import Loader
    from siamscope.training.distributed import World
    from siamscope.training.progress import Reporter


def steps_per_epoch(recipe: Recipe, dataset: Dataset) -> int:
    """Steps of a pass over all training images; the unit of epochs, whatever the order."""
    count = len(dataset.train if dataset.stream is None else dataset.stream)
    return IidOrder(count, recipe.train.batch_size, recipe.train.seed).steps_per_epoch


def build_order(recipe: Recipe, dataset: Dataset, steps: int) -> tuple[Order, Source]:
    """The order of a run of `steps` steps, and the images that its indices mean: the training images, or a stream's.

    Raises:
        DataError: sizes that do not fit together, or data without what the order goes by.
    """
    config, count = recipe.order, len(dataset.train)
    batch_size, seed = recipe.train.batch_size, recipe.train.seed
    replay = Replay(batch_size, config.replay, config.buffer, seed) if config.replay else None
    if config.name == "stream":
        return _stream(recipe, dataset, steps, replay)
    if dataset.stream is not None:
        raise DataError(
            f"{dataset.name} lies in Parquet files that are read front to back, as data.cache is none: take order.name "
            f"'stream' instead of {config.name!r}, or data.cache = disk"
        )
    groups = _groups(recipe, dataset)
    order: Order
    if config.name == "iid":
        order = IidOrder(count, batch_size, seed)
    elif config.name == "last":
        order = LastOrder(count, batch_size, seed, config.subset, config.chunks, groups)
    else:
        kind: Literal["current", "cumulative"] = "cumulative" if config.name == "cumulative" else "current"
        chunks = ChunkOrder(kind, count, batch_size, seed, steps, config.chunks, config.rounds, replay, groups)
        order = HybridOrder(chunks, seed, config.switch) if config.name == "hybrid" else chunks
    return order, dataset.train


def _stream(recipe: Recipe, dataset: Dataset, steps: int, replay: Replay | None) -> tuple[Order, Source]:
    """Drawn images that never end, files read as they lie, or a folder that may grow."""
    batch_size, chunks = recipe.train.batch_size, recipe.order.chunks
    if isinstance(dataset.train, ShapesSource):
        shapes = EndlessShapes(dataset.train.spec, SHAPES_VAL_AT)
        return EndlessOrder(len(shapes), batch_size, steps, chunks, steps_per_epoch(recipe, dataset), replay), shapes
    if dataset.config.kind in ("tar", "hub"):
        if replay:
            raise DataError(
                f"order.replay draws from earlier images, which the stream of {dataset.name} does not keep: set it to "
                "0, or take another order"
            )
        images = dataset.train if dataset.stream is None else dataset.stream
        edges = even_edges(len(images)) if dataset.stream is None else dataset.stream.edges
        return StreamOrder(edges, batch_size, recipe.train.seed, dataset.config.window), images
    if not dataset.files:
        raise DataError(
            f"order.name 'stream' needs images that never end or that lie in a row: shapes, tar files, a data set of "
            f"hf:, or a folder of image files; {dataset.name} is {dataset.config.kind}"
        )
    source = GrowingSource(dataset.train)
    return GrowingOrder(source, batch_size, recipe.train.seed, steps, chunks, replay), source


def _groups(recipe: Recipe, dataset: Dataset) -> Positions | None:
    """What the chunks follow: the class or the domain of every training image, or nothing."""
    if recipe.order.shift == "none":
        return None
    train = dataset.train
    groups, names = (train.labels, "classes") if recipe.order.shift == "class" else (train.domains, "domains")
    if groups is None or groups.min() == groups.max():
        where = "of at least two sub-folders" if names == "classes" else "of at least two folders DOMAIN/CLASS/"
        raise DataError(
            f"order.shift = {recipe.order.shift!r} needs training images of at least two {names}, which "
            f"{dataset.name} has not (a folder has them when every image lies in one {where})"
        )
    return groups


def described(recipe: Recipe, order: Order, steps: int) -> str:
    """The order in words, with its sizes."""
    config = recipe.order
    if isinstance(order, IidOrder):
        return f"iid: all {order.count} images in every epoch of {order.steps_per_epoch} steps"
    if isinstance(order, LastOrder):
        return f"last: a fixed subset of {len(order.members)} images"
    if isinstance(order, EndlessOrder):
        text = f"stream: {order.seen(steps)} drawn images, each once, in {config.chunks} chunks"
    elif isinstance(order, StreamOrder):
        return f"stream: all {order.count} images in every pass, mixed within windows of {order.window}"
    elif isinstance(order, GrowingOrder):
        text = f"stream: a folder, listed again at the start of each of {config.chunks} chunks"
    else:
        chunks = order.first if isinstance(order, HybridOrder) else order
        assert isinstance(chunks, ChunkOrder)
        sizes = sorted({b - a for a, b in (bounds(chunks.count, config.chunks, i) for i in range(config.chunks))})
        text = f"{config.name}: {config.chunks} chunks of {' or '.join(map(str, sizes))} images"
    text += f", about {steps / (config.chunks * config.rounds):.4g} steps each"
    text += f", {config.rounds} rounds" if config.rounds > 1 else ""
    text += f", following the {config.shift}" if config.shift != "none" else ""
    if config.replay:
        held = f"a buffer of {config.buffer}" if config.buffer else "all"
        text += f", {config.replay:.4g} of a batch replayed from {held} earlier images"
    return text + (f"; iid from step {order.switch_step}" if isinstance(order, HybridOrder) else "")


class Dealt:
    """An order whose batches are dealt out: the contiguous rows that a process takes of a batch are then its share of
    each of the `parts` that the batch is computed in, so that a part holds the same images on any number of processes.
    """

    def __init__(self, order: Order, processes: int, parts: int) -> None:
        self.order, self.processes, self.parts = order, processes, parts
        self.batch_size, self.steps_per_epoch = order.batch_size, order.steps_per_epoch

    def batch(self, step: int) -> Positions:
        """Indices of the global batch of a step (from 0), int64 (batch_size,)."""
        cut = self.order.batch(step).reshape(self.parts, self.processes, -1)
        return cut.transpose(1, 0, 2).reshape(-1)


def dealt(order: Order, processes: int, parts: int) -> Order:
    """The order for so many processes that accumulate gradients over `parts` of a batch."""
    return Dealt(order, processes, parts) if processes > 1 and parts > 1 else order


# ------------------------------------------------------------------------------- a folder that grows


def known_files(run: RunDir) -> dict[str, list[str]] | None:
    """The files that a run on a growing folder began with; None for other runs."""
    return read_start(_ledger(run))


def begin_order(run: RunDir, order: Order, dataset: Dataset) -> None:
    """Write down what a run on a growing folder begins with."""
    if isinstance(order, GrowingOrder):
        with explained(run.path):
            write_start(_ledger(run), dataset.files, write_text)


def batches(
    run: RunDir, order: Order, dataset: Dataset, loader: Loader, steps: int, here: World, reporter: Reporter
) -> Callable[[int], Iterator[Tensor]]:
    """A function of the steps that are done, to this process's rows of the batches of all steps after them."""
    if not isinstance(order, GrowingOrder):
        return lambda done: (images for images, _ in loader.batches(done, steps))
    if not all(here.all_said(_ledger(run).is_dir())):
        raise RunError(
            f"{run.path} is not the same directory on every host, and with order.name 'stream' all processes read "
            "there which images have joined: give an --out on a disk that the hosts share"
        )
    folder = GrowingFolder(dataset.config, _ledger(run), dataset.files, order.source, order, write_text)

    def growing(done: int) -> Iterator[Tensor]:
        while done < steps:  # chunk by chunk: the folder is looked at when the first step of a chunk is due
            chunk = order.pace.segment(done)
            joined = here.on_first(partial(folder.look, chunk))
            if joined:
                reporter.say(f"{joined} new images join before step {done + 1}")
            folder.follow(chunk)
            stop = order.pace.first(chunk + 1)
            yield from (images for images, _ in loader.batches(done, stop))
            done = stop

    return growing


def _ledger(run: RunDir) -> Path:
    return run.path / "stream"
