"""Chunks of one fixed permutation, the pace at which a run goes through them, and the passes over a chunk.

Everything here is a pure function of (seed, step, steps of the run): see `siamscope.data.order`.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from siamscope.data.errors import DataError

Positions = NDArray[np.int64]

# Streams of random numbers. `IidOrder` draws epoch e from (seed, e); no epoch comes near these.
PERMUTATION, PASS, REPLAY, KEEP = (2**31 + k for k in range(4))


def generator(*key: int) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    return np.random.Generator(np.random.PCG64(list(key)))


def permutation(count: int, seed: int, groups: NDArray[np.int64] | None = None) -> Positions:
    """The one fixed permutation of a run, int64 (count,).

    groups: the class or domain of every image, int64 (count,): the permutation is then sorted by it, and stays random
    within a group.
    """
    order = generator(seed, PERMUTATION).permutation(count).astype(np.int64, copy=False)
    return order if groups is None else order[np.argsort(groups[order], kind="stable")]


def bounds(count: int, chunks: int, index: int) -> tuple[int, int]:
    """First position of chunk `index` and the one after its last: floor(N i / E), floor(N (i + 1) / E).

    Source: main_simsiam.py of Li, Efros & Pathak 2022 (arXiv 2209.15007), strategies `current` and `accumulate`.
    """
    return count * index // chunks, count * (index + 1) // chunks


def exactly(share: float) -> Fraction:
    """The decimal fraction that a share is written as: 0.2 is a fifth, so that floors and ceilings fall as expected."""
    return Fraction(str(share))


def suffix_length(count: int, share: Fraction) -> int:
    """Images in the last `share` of a permutation: ceil(N share), as pi[-N c // E:] gives in the paper's `last`."""
    return -(-count * share.numerator // share.denominator)


class Pace:
    """The steps of a run, shared out evenly among `segments`: step t belongs to segment floor(t segments / steps).

    Raises DataError if some segment would have no step.
    """

    def __init__(self, steps: int, segments: int) -> None:
        if segments > steps:
            raise DataError(
                f"{segments} chunks to present (order.chunks times order.rounds) are more than the {steps} steps of "
                f"the run: choose at most {steps}, or train longer"
            )
        self.steps, self.segments = steps, segments

    def segment(self, step: int) -> int:
        """The segment of a step (both from 0). Raises DataError for a step outside the run."""
        if not 0 <= step < self.steps:
            raise DataError(f"the run has the steps 0 to {self.steps - 1}; got {step}")
        return step * self.segments // self.steps

    def first(self, segment: int) -> int:
        """The first step of a segment; `steps` for the one after the last."""
        return -(-segment * self.steps // self.segments)


class Passes:
    """Passes over a chunk, each in a fresh random order, cut into batches.

    A chunk of at least a batch: what does not fill a batch is left out of that pass (and drawn again in the next), as
    in the paper's code, so a batch never holds an image twice. A smaller chunk: the paper's code loops for ever; here
    passes follow on one another without a gap, so a batch holds an image more than once.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._latest: tuple[tuple[int, int, int], Positions] = ((-1, -1, -1), np.empty(0, np.int64))

    def batch(self, segment: int, size: int, rows: int, turn: int) -> Positions:
        """Positions 0 .. size - 1 within the chunk for batch number `turn` of a segment, int64 (rows,)."""
        if size >= rows:
            number, place = divmod(turn, size // rows)
            return self._pass(segment, number, size)[place * rows : (place + 1) * rows]
        start, stop = turn * rows, (turn + 1) * rows
        first = start // size
        joined = np.concatenate([self._pass(segment, number, size) for number in range(first, -(-stop // size))])
        return joined[start - first * size : stop - first * size]

    def _pass(self, segment: int, number: int, size: int) -> Positions:
        # One tuple, read and replaced as a whole: threads that read ahead may ask for several passes at a time.
        known, order = self._latest
        if known != (segment, number, size):
            order = generator(self._seed, PASS, segment, number).permutation(size).astype(np.int64, copy=False)
            self._latest = ((segment, number, size), order)
        return order
