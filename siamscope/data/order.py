"""Which samples a step sees. An order is a pure function of the step, so a run resumes from the step's number alone."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from siamscope.data.errors import DataError


class Order(Protocol):
    """What a training loop needs of an order."""

    @property
    def batch_size(self) -> int:
        """Images of a step, over all processes together."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which (nearly) every sample is presented once."""

    def batch(self, step: int) -> NDArray[np.int64]:
        """Indices of the global batch of a step, the same on every process."""


class IidOrder:
    """Every epoch is a fresh random permutation, cut into batches.

    The permutation depends on (seed, epoch) only, so the order does not depend on how many processes share it. With
    `drop_last` the samples that do not fill a batch are left out of that epoch; otherwise the last batch is smaller.
    Raises DataError if a batch is larger than the data.
    """

    def __init__(self, count: int, batch_size: int, seed: int, drop_last: bool = True) -> None:
        if batch_size < 1:
            raise DataError(f"the batch size must be at least 1; got {batch_size}")
        if count < 1:
            raise DataError("there are no images to order")
        if batch_size > count:
            raise DataError(
                f"a batch of {batch_size} images is larger than the data ({count} training images): "
                f"choose a batch size of at most {count}, or use more images"
            )
        self.count, self.batch_size, self.seed, self.drop_last = count, batch_size, seed, drop_last
        self._latest: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Indices of the global batch of a step (from 0), int64 (batch_size,)."""
        if step < 0:
            raise DataError(f"steps count from 0; got {step}")
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return self._of_epoch(epoch)[start : start + self.batch_size].copy()

    def _of_epoch(self, epoch: int) -> NDArray[np.int64]:
        # One tuple, read and replaced as a whole: a prefetching thread may ask for the next epoch at the same time.
        known, permutation = self._latest
        if known != epoch:
            permutation = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.count)
            permutation = permutation.astype(np.int64, copy=False)
            self._latest = (epoch, permutation)
        return permutation


def rows(rank: int, world: int, batch_size: int) -> slice:
    """The rows of a global batch that process `rank` of `world` takes: contiguous, without overlap or loss.

    Raises DataError if the batch cannot be shared out evenly.
    """
    if not 0 <= rank < world:
        raise DataError(f"rank must be from 0 to {world - 1}; got {rank}")
    if batch_size % world:
        raise DataError(
            f"a batch of {batch_size} images cannot be shared out evenly among {world} processes: "
            f"choose a multiple of {world}, such as {max(1, batch_size // world) * world}"
        )
    each = batch_size // world
    return slice(rank * each, (rank + 1) * each)
