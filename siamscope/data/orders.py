"""Orders that go by chunks: single pass, cumulative, a fixed subset, and the hybrid with multi-epoch training.

Source: Li, Efros & Pathak 2022 (arXiv 2209.15007) and their code (strategies `current`, `accumulate`, `last`). N images
in one fixed permutation are cut into E contiguous chunks; a run of given length shares its steps out among them, and an
epoch stays a unit of floor(N / batch) steps whatever the order. Every order is a pure function of (seed, step, steps).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from siamscope.data.chunks import Pace, Passes, Positions, bounds, exactly, permutation, suffix_length
from siamscope.data.errors import DataError
from siamscope.data.order import IidOrder
from siamscope.data.replay import Replay


class ChunkOrder:
    """`current`: one chunk after another, each in repeated passes, then never again. `cumulative`: all chunks so far.

    rounds: so many passes over all chunks; cumulative begins anew with the first chunk in each, as the paper's code.
    replay: for `current`, which has earlier images to come back to. groups: see `permutation`.

    Raises DataError for a batch larger than the data, or more chunks than images or steps.
    """

    def __init__(
        self,
        kind: Literal["current", "cumulative"],
        count: int,
        batch_size: int,
        seed: int,
        steps: int,
        chunks: int,
        rounds: int = 1,
        replay: Replay | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.steps_per_epoch = IidOrder(count, batch_size, seed).steps_per_epoch
        if chunks > count:
            raise DataError(f"order.chunks = {chunks} is more than the {count} training images: choose fewer")
        self.kind, self.count, self.batch_size, self.chunks = kind, count, batch_size, chunks
        self.pace = Pace(steps, chunks * rounds)
        self.permutation = permutation(count, seed, groups)
        self._passes, self._replay = Passes(seed), replay

    def members(self, segment: int) -> Positions:
        """Indices of the images that segment number `segment` of the run presents (without the replayed ones)."""
        return self.permutation[slice(*self._places(segment))]

    def batch(self, step: int) -> Positions:
        """Indices of the global batch of a step (from 0), int64 (batch_size,)."""
        segment = self.pace.segment(step)
        turn = step - self.pace.first(segment)
        start, stop = self._places(segment)
        if self._replay is None:
            return self.permutation[start + self._passes.batch(segment, stop - start, self.batch_size, turn)]
        seen = start if segment < self.chunks else self.count
        replayed = self._replay.draw(step, seen, (start, stop))
        fresh = start + self._passes.batch(segment, stop - start, self.batch_size - len(replayed), turn)
        return self.permutation[self._replay.mixed(step, fresh, replayed) if len(replayed) else fresh]

    def _places(self, segment: int) -> tuple[int, int]:
        start, stop = bounds(self.count, self.chunks, segment % self.chunks)
        return (0 if self.kind == "cumulative" else start), stop


class LastOrder:
    """A fixed subset, the end of the permutation, in repeated passes: ceil(N share) images, nested for one seed.

    share: of all images, above 0; or 0 for one of `chunks` chunks. groups: see `permutation`.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        share: float,
        chunks: int,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.steps_per_epoch = IidOrder(count, batch_size, seed).steps_per_epoch
        if not share and chunks > count:
            raise DataError(f"order.chunks = {chunks} is more than the {count} training images: choose fewer")
        self.batch_size = batch_size
        length = suffix_length(count, exactly(share) if share else exactly(1) / chunks)
        self.members = permutation(count, seed, groups)[count - length :]
        self._passes = Passes(seed)

    def batch(self, step: int) -> Positions:
        """Indices of the global batch of a step (from 0), int64 (batch_size,)."""
        if step < 0:
            raise DataError(f"steps count from 0; got {step}")
        return self.members[self._passes.batch(0, len(self.members), self.batch_size, step)]


class HybridOrder:
    """Another order for the first floor(switch * steps) steps, then iid on all images.

    Before the switch the batches are those of `first`, whose pace is that of the whole run (so with `current` and
    switch 0.4, 40 % of the chunks are seen), after it those of an iid run at the same steps. That is the paper's
    recipe: resume the single-pass run's checkpoint in mid-schedule with multi-epoch training.
    """

    def __init__(self, first: ChunkOrder, seed: int, switch: float) -> None:
        self.first, self.then = first, IidOrder(first.count, first.batch_size, seed)
        self.batch_size, self.steps_per_epoch = first.batch_size, first.steps_per_epoch
        share = exactly(switch)
        self.switch_step = first.pace.steps * share.numerator // share.denominator

    def batch(self, step: int) -> Positions:
        """Indices of the global batch of a step (from 0), int64 (batch_size,)."""
        return (self.first if step < self.switch_step else self.then).batch(step)
