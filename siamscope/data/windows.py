"""The order of a stream: read nearly as it lies, mixed within a bounded window."""

import numpy as np
from numpy.typing import NDArray

from siamscope.data.chunks import Positions, generator
from siamscope.data.order import IidOrder

_BLOCK = 256
_STREAM = 2**31 + 16  # a stream of random numbers of its own, beside those of siamscope.data.chunks


def even_edges(count: int, block: int = _BLOCK) -> Positions:
    """Where blocks of `block` images begin, and the end: 0, block, ..., count."""
    return np.append(np.arange(0, count, block, dtype=np.int64), count)


class StreamOrder:
    """Passes over images that are cheap to read in the order in which they lie.

    In every pass the blocks between `edges` come in a fresh random order; that sequence is cut into windows of `window`
    images, from a random place on, and every window is permuted. So a batch lies within about `window` images of whole
    blocks, and whoever holds two windows never reads a block twice in a pass. The whole is a pure function of (seed,
    step), as every order: it depends on neither processes nor workers, and resumes from the step's number.

    What does not fill a batch is left out of that pass. Raises DataError if a batch is larger than the data.
    """

    def __init__(self, edges: Positions, batch_size: int, seed: int, window: int) -> None:
        self.count = int(edges[-1])
        self.steps_per_epoch = IidOrder(self.count, batch_size, seed).steps_per_epoch
        self.batch_size, self.seed, self.window = batch_size, seed, window
        self._edges = edges
        self._latest: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def batch(self, step: int) -> Positions:
        """Indices of the global batch of a step (from 0), int64 (batch_size,)."""
        number, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return self._of_pass(number)[start : start + self.batch_size].copy()

    def _of_pass(self, number: int) -> Positions:
        # One tuple, read and replaced as a whole: a prefetching thread may ask for the next pass at the same time.
        known, order = self._latest
        if known != number:
            order = self._drawn(number)
            self._latest = (number, order)
        return order

    def _drawn(self, number: int) -> Positions:
        random = generator(self.seed, _STREAM, number)
        blocks = random.permutation(len(self._edges) - 1)
        order = np.concatenate([np.arange(self._edges[k], self._edges[k + 1], dtype=np.int64) for k in blocks])
        first = int(random.integers(self.window))
        for start in range(first - self.window, self.count, self.window):
            part = order[max(start, 0) : start + self.window]
            random.shuffle(part)
        return order
