"""How far a score would move had other images been drawn: intervals by leaving out blocks of rows, or by resampling.

The default is the delete-a-group jackknife (Busing, Meijer & van der Leeden 1999): rows are dealt at random into K
groups, every score is computed K times without one of them, and the variance follows from how much these K values
differ. It costs one more pass and K eigenvalue problems, needs O(d^2) memory, and it is not misled by copies: a
bootstrap draw holds a row several times over, so its spectrum is that of 0.63 N rows, and its scores are shifted by
more than they scatter. That is why `bootstrap` takes from its draws their scatter alone; the usual interval between
their percentiles would often not even contain the score (tests/collapse/test_intervals.py shows both).

An interval is about the expected score *at this N and d*. The bias of a small sample, which is common to all draws, is
not in it: `Interval.bias` estimates it, and `baseline.isotropic` says how large it can be.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from siamscope.collapse.arrays import Array, is_tensor
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.moments import Moments, moments

Statistics: TypeAlias = Callable[[Moments], Mapping[str, float]]

BLOCKS = 20
DRAWS = 100
LEVEL = 0.95
SAMPLES_PER_DIMENSION = 2
"""With fewer rows the jackknife of a spectrum is no longer to be trusted."""


@dataclass(frozen=True)
class Interval:
    """low, high: the ends.  level: how often such an interval holds the expected score, if the theory holds.
    method: "jackknife" or "bootstrap".  error: standard error of the score.  bias: score minus what many more rows
    would give, by the jackknife, to first order in 1/N; NaN by the bootstrap.
    """

    low: float
    high: float
    level: float
    method: str
    error: float
    bias: float


def groups_of(n: int, ids: npt.ArrayLike | None) -> npt.NDArray[np.int64]:
    """(n,) number, from 0, of the image that each row belongs to; `ids` are any names of images, None = all different.

    Raises:
        CollapseError: another number of ids than of rows.
    """
    if ids is None:
        return np.arange(n, dtype=np.int64)
    names = np.asarray(ids.detach().cpu().numpy() if is_tensor(ids) else ids)  # type: ignore[union-attr]
    if names.shape != (n,):
        raise CollapseError(f"there are {n} rows and group ids of shape {names.shape}; give one id a row.")
    return np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64)


def dealt(groups: npt.NDArray[np.int64], blocks: int, seed: int) -> npt.NDArray[np.int64]:
    """(n,) which of `blocks` each row is dealt to at random, all rows of a group to one.

    The blocks have equally many groups, up to one. Rows are not cut where they lie: neighbours may be of one class.

    Raises:
        CollapseError: fewer than 2 blocks, or fewer groups than blocks.
    """
    count = int(groups.max()) + 1
    if not 2 <= blocks <= count:
        raise CollapseError(f"{count} images cannot be dealt into {blocks} blocks; choose from 2 to {count}.")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count) % blocks
    return np.asarray(order[groups], dtype=np.int64)


def jackknife(
    features: Array,
    statistics: Statistics,
    whole: Moments,
    *,
    groups: npt.ArrayLike | None = None,
    blocks: int = BLOCKS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """Interval of every score of `statistics` by the delete-a-group jackknife with Student's t of K - 1 degrees.

    None at all where fewer than two rows are left without a block.

    Args:
        features: (N, d), array, memory map or tensor.
        statistics: scores of a `Moments`.
        whole: the moments of all `features`.
        groups: (N,) which image each row is a view of; an image's rows are left out together.
        blocks: K; at most the number of images.
        level: between 0 and 1.
        seed: of the dealing.

    Raises:
        CollapseError: a level out of range, or too few images.
    """
    ids = groups_of(features.shape[0], groups)
    block = dealt(ids, min(blocks, int(ids.max()) + 1), seed)
    left, sizes = [], []
    for part in _parts(features, block, whole.row_norm):
        if whole.n - part.n < 2:
            return {}
        left.append(dict(statistics(whole.without(part))))
        sizes.append(part.n)
    return jackknifed(dict(statistics(whole)), left, np.asarray(sizes, dtype=np.float64), level)


def jackknifed(
    score: Mapping[str, float], left: list[dict[str, float]], sizes: npt.NDArray[np.float64], level: float
) -> dict[str, Interval]:
    """Intervals from the scores of all rows and of those without each block, of `sizes` rows; none where a NaN is."""
    if not 0 < level < 1:
        raise CollapseError(f"the level of an interval lies between 0 and 1, got {level}.")
    k, h = len(sizes), sizes.sum() / sizes
    from scipy import special  # half a second that `import siamscope.collapse` need not cost

    reach = float(special.stdtrit(k - 1, (1 + level) / 2))
    found = {}
    for name, value in score.items():
        without = np.asarray([scores[name] for scores in left])
        if not math.isfinite(value) or not np.isfinite(without).all():
            continue
        estimate = k * value - ((1 - 1 / h) * without).sum()
        pseudo = h * value - (h - 1) * without
        error = math.sqrt(float(((pseudo - estimate) ** 2 / (h - 1)).mean()))
        low, high = value - reach * error, value + reach * error
        found[name] = Interval(low, high, level, "jackknife", error, value - float(estimate))
    return found


def leave_out(
    items: Array, statistic: Callable[[Array], float], *, blocks: int = BLOCKS, level: float = LEVEL, seed: int = 0
) -> Interval | None:
    """Interval of any score of `items` (n, ...), one entry an image, by the same jackknife; it is computed K + 1 times.

    None where the score, or that without some block, is not finite. Errors as `jackknife`.
    """
    n = items.shape[0]
    block = dealt(np.arange(n), min(blocks, n), seed)
    left = [{"": statistic(items[np.flatnonzero(block != k)])} for k in range(int(block.max()) + 1)]
    sizes = np.bincount(block).astype(np.float64)
    return jackknifed({"": statistic(items)}, left, sizes, level).get("")


def bootstrap(
    features: Array,
    statistics: Statistics,
    whole: Moments,
    *,
    groups: npt.ArrayLike | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """Interval of every score by resampling images: score +- normal quantile times the deviation of `draws` samples.

    Each draw reads N rows again, so it costs `draws` passes. See the head of this file for why the draws' mean and
    percentiles are not used. Arguments and errors as `jackknife`; draws >= 2.
    """
    if not 0 < level < 1:
        raise CollapseError(f"the level of an interval lies between 0 and 1, got {level}.")
    if draws < 2:
        raise CollapseError(f"a bootstrap needs at least 2 draws, got {draws}.")
    drawn = list(resampled(features, statistics, whole.row_norm, groups=groups, draws=draws, seed=seed))
    from scipy import special

    reach = float(special.ndtri((1 + level) / 2))
    found = {}
    for name, value in statistics(whole).items():
        values = np.asarray([scores[name] for scores in drawn])
        if math.isfinite(value) and np.isfinite(values).all():
            error = float(values.std(ddof=1))
            low, high = value - reach * error, value + reach * error
            found[name] = Interval(low, high, level, "bootstrap", error, math.nan)
    return found


def resampled(
    features: Array, statistics: Statistics, row_norm: bool, *, groups: npt.ArrayLike | None, draws: int, seed: int
) -> Iterator[Mapping[str, float]]:
    """The scores of `draws` samples of as many images, drawn with replacement, each with all its rows."""
    ids = groups_of(features.shape[0], groups)
    order, count = np.argsort(ids, kind="stable"), int(ids.max()) + 1
    start = np.searchsorted(ids[order], np.arange(count + 1))
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(draws):
        chosen = np.sort(rng.integers(0, count, count))  # sorted: reads of a memory map stay in order
        rows = np.concatenate([order[start[g] : start[g + 1]] for g in chosen]) if groups is not None else chosen
        yield statistics(moments(features[rows], row_norm=row_norm))


def _parts(features: Array, block: npt.NDArray[np.int64], row_norm: bool) -> Iterator[Moments]:
    """The moments of every block, one after the other."""
    for k in range(int(block.max()) + 1):
        yield moments(features[np.flatnonzero(block == k)], row_norm=row_norm)
