"""Replay: some rows of every batch are drawn from images of earlier chunks, all of them or a bounded buffer."""

import numpy as np
from numpy.typing import NDArray

from siamscope.data.chunks import KEEP, REPLAY, Positions, exactly, generator
from siamscope.data.errors import DataError

_BLOCK = 2**16


class Buffer:
    """The `size` images that a buffer holds after a stream's first `seen` ones: a uniform sample without replacement.

    Every image has a random key of (seed, place in the stream), and the smallest keys stay. That is reservoir sampling
    by keys: an image that went never comes back, and the content is a function of `seen` alone, whoever asks when.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._latest: tuple[int, Positions, NDArray[np.float64]] = (0, np.empty(0, np.int64), np.empty(0))

    def held(self, seen: int) -> Positions:
        """Places in the stream of the images held, ascending, int64 (min(seen, size),)."""
        known, places, keys = self._latest
        if known > seen:
            known, places, keys = 0, np.empty(0, np.int64), np.empty(0)
        while known < seen:
            block, start = divmod(known, _BLOCK)
            stop = min(_BLOCK, seen - block * _BLOCK)
            drawn = generator(self._seed, KEEP, block).random(_BLOCK)[start:stop]
            places = np.concatenate([places, np.arange(known, block * _BLOCK + stop, dtype=np.int64)])
            keys = np.concatenate([keys, drawn])
            if len(keys) > self._size:
                stay = np.sort(np.argpartition(keys, self._size - 1)[: self._size])
                places, keys = places[stay], keys[stay]
            known = block * _BLOCK + stop
        self._latest = (seen, places, keys)
        return places


class Replay:
    """Draws `share` of the rows of a batch, without replacement, from the images seen before the present chunk.

    share: of the batch, rounded to whole rows; at least one row stays for the chunk. buffer: how many of the images
    seen are kept to draw from, 0 for all. When fewer images than rows can be drawn, each is drawn once and the chunk
    fills the rest: the first chunk has nothing to replay. Raises DataError if no row stays for the chunk.
    """

    def __init__(self, batch_size: int, share: float, buffer: int, seed: int) -> None:
        self.rows = round(exactly(share) * batch_size)
        if self.rows >= batch_size:
            raise DataError(
                f"order.replay = {share:g} leaves no row of a batch of {batch_size} images for new ones: choose less"
            )
        self._buffer = Buffer(buffer, seed) if buffer else None
        self._seed = seed

    def count(self, seen: int, present: tuple[int, int] = (0, 0)) -> int:
        """Rows that are replayed after `seen` images, when those in the places `present` are the chunk's own."""
        if self._buffer is None or not self.rows:
            return min(self.rows, seen - _overlap(seen, present))
        return min(self.rows, len(self._without(self._buffer.held(seen), present)))

    def draw(self, step: int, seen: int, present: tuple[int, int] = (0, 0)) -> Positions:
        """Places in the stream of the images that a step replays, int64 (count(seen, present),)."""
        rows = self.count(seen, present)
        if not rows:
            return np.empty(0, np.int64)
        random = generator(self._seed, REPLAY, step)
        if self._buffer is not None:
            return random.choice(self._without(self._buffer.held(seen), present), rows, replace=False)
        skipped = _overlap(seen, present)
        places = random.choice(seen - skipped, rows, replace=False).astype(np.int64, copy=False)
        return places + skipped * (places >= present[0]) if skipped else places

    def mixed(self, step: int, fresh: Positions, replayed: Positions) -> Positions:
        """Both in one random succession, so that every process and every part of a batch gets of both."""
        joined = np.concatenate([fresh, replayed])
        return joined[generator(self._seed, REPLAY, step, 1).permutation(len(joined))]

    @staticmethod
    def _without(places: Positions, present: tuple[int, int]) -> Positions:
        return places[(places < present[0]) | (places >= present[1])]


def _overlap(seen: int, present: tuple[int, int]) -> int:
    """How many of the first `seen` places are in the present chunk."""
    return max(0, min(seen, present[1]) - present[0])
