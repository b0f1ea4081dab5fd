"""Intrinsic dimension by two neighbours, and how well a clustering of the features is learnt (the parts of CLID)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamscope.collapse.arrays import Array, Float64, is_tensor, require_finite, to_float64, to_numpy
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.geometry import WHAT, require_rows, sample_rows

_BLOCK = 512
_CANDIDATES = 4  # neighbours looked at once more: distances by a product of matrices may be out in the last digits
MOST_CLUSTERS = 32
ROWS_A_CLUSTER = 20
_LLOYD_STEPS = 50
_TRIALS = 6  # candidates for every new centre, of which the best one is kept
_ROUNDING = 1e-12  # of squared distances, when the largest entry is 1
MOST = 5000
"""Rows that are looked at; of more, a sample."""


@dataclass(frozen=True)
class TwoNN:
    """dimension: the estimate.  n: distinct rows behind it.  duplicates: rows that were left out as copies."""

    dimension: float
    n: int
    duplicates: int


def twonn(features: Array, *, most: int = MOST, seed: int = 0) -> float:
    """The dimension alone; see `intrinsic_dimension`."""
    return intrinsic_dimension(features, most=most, seed=seed).dimension


def intrinsic_dimension(features: Array, *, most: int = MOST, seed: int = 0) -> TwoNN:
    """N / sum log(r2 / r1), r1 and r2 the distances of a row to its two nearest others (Facco et al. 2017, likelihood).

    Biased downwards, the more so the higher the dimension: uniform cubes of 2, 5 and 10 dimensions read about 2.00,
    4.74 and 8.68 with 5,000 points (mean of 8 draws). It looks at the scale of nearest neighbours, so it depends on N:
    compare at equal N. Copies of a row are removed first, since r1 = 0 has no logarithm. Identical rows have dimension
    0.

    Args:
        features: (N, d), N >= 3; Euclidean distances, in float64.
        most, seed: of more rows, a sample of so many; the copies are looked for within it. The cost grows with N^2 d.

    Raises:
        CollapseError: another shape, NaN or infinity, only two distinct rows, or rows at equal distances everywhere.
    """
    require_rows(features, 3)
    x = _rows(features, most, seed)
    first = _distinct(to_numpy(x))
    n, duplicates = len(first), len(x) - len(first)
    if n == 1:
        return TwoNN(0.0, 1, duplicates)
    if n == 2:
        raise CollapseError("there are only 2 distinct rows; TwoNN needs at least 3.")
    r1, r2 = _two_nearest(x[first] if duplicates else x)
    total = float(np.log(r2 / r1).sum())
    if total <= 1e-12 * n:
        raise CollapseError("every row has its two nearest others at one distance: TwoNN has no finite estimate.")
    return TwoNN(n / total, n, duplicates)


def _rows(features: Array, most: int, seed: int) -> Array:
    """A sample in float64, measured from its mean and in units of its largest entry, so that no digits are lost."""
    x = to_float64(sample_rows(features, most, seed))
    require_finite(x, WHAT)
    x = x - x[0]
    x = x - x.mean(0)
    scale = float(abs(x).max())
    return x / scale if scale > 0 else x


def _distinct(x: Float64) -> NDArray[np.int64]:
    """Index of the first of every distinct row, ascending."""
    plain = np.ascontiguousarray(x + 0.0)  # -0 and 0 are one number
    keys = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).reshape(-1)
    return np.sort(np.unique(keys, return_index=True)[1])


def _two_nearest(x: Array) -> tuple[Float64, Float64]:
    """Distances (N,) of every row to its nearest and second-nearest other row; all above 0."""
    n = x.shape[0]
    k = min(_CANDIDATES, n - 1)
    squares = (x * x).sum(1)
    found = np.empty((n, 2))
    for start in range(0, n, _BLOCK):
        block = x[start : start + _BLOCK]
        places = np.arange(len(block))
        distances = squares[None, :] - 2 * (block @ x.T)  # less the row's own square, which changes no order
        distances[places, start + places] = float("inf")
        gap = x[_smallest(distances, k)] - block[:, None]
        found[start : start + len(block)] = np.sort(to_numpy((gap * gap).sum(2)), axis=1)[:, :2]
    lengths = np.sqrt(np.maximum(found, np.finfo(np.float64).tiny))
    return lengths[:, 0], lengths[:, 1]


def _smallest(x: Array, k: int) -> Array:
    """(B, k) columns of the k smallest entries of every row, in no order."""
    if is_tensor(x):
        return x.topk(k, dim=1, largest=False).indices
    return np.argpartition(x, k - 1, axis=1)[:, :k]


def clid_learnability(
    features: Array,
    *,
    clusters: int | None = None,
    neighbours: int = 5,
    most: int = MOST,
    seed: int = 0,
) -> float:
    """Accuracy with which k-NN, from one half of the rows, predicts the k-means cluster of the other half: 0 to 1.

    The cluster learnability of CLID (Lu et al., arXiv:2206.01251), whose constants were not at hand: ours are below.
    CLID sums it with the intrinsic dimension (`twonn`), both standardised over the models compared; that needs several
    models, so the parts stay apart. High where features fall into clumps, and for identical rows (1): collapse is easy
    to learn. Euclidean; no change under rotation, shift and scale.

    Args:
        features: (N, d), N >= 4.
        clusters: K of k-means (k-means++, at most 50 rounds); by default one for 20 rows, from 2 to 32. Fewer, if there
            are fewer distinct rows.
        neighbours: k of the vote, less if half the rows are fewer; a draw goes to the cluster of the nearest.
        most, seed: of more rows a sample of so many; the seed is also that of k-means and of the split.

    Raises:
        CollapseError: another shape, NaN or infinity, clusters not between 2 and N / 2, or neighbours < 1.
    """
    require_rows(features, 4)
    if neighbours < 1:
        raise CollapseError(f"neighbours must be at least 1, got {neighbours}.")
    x = to_numpy(_rows(features, most, seed))
    n = len(x)
    k = min(max(n // ROWS_A_CLUSTER, 2), MOST_CLUSTERS) if clusters is None else clusters
    if not 2 <= k <= n // 2:
        raise CollapseError(f"clusters must be from 2 to half the rows ({n // 2}), got {k}.")
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    labels = _kmeans(x, k, rng)
    order = rng.permutation(n)
    bank, queries = order[: n // 2], order[n // 2 :]
    found = _vote(x[bank], labels[bank], x[queries], min(neighbours, len(bank)))
    return float((found == labels[queries]).mean())


def _kmeans(x: Float64, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cluster (N,) of every row, by Lloyd's rounds from k-means++ centres."""
    centres = x[rng.integers(len(x))][None]
    gap = _squares(x, centres)[:, 0]
    while len(centres) < k and gap.max() > _ROUNDING:
        drawn = x[rng.choice(len(x), size=_TRIALS, p=gap / gap.sum())]
        gaps = np.minimum(gap[:, None], _squares(x, drawn))
        best = int(gaps.sum(0).argmin())
        centres, gap = np.vstack([centres, drawn[best]]), gaps[:, best]
    labels: NDArray[np.int64] = _squares(x, centres).argmin(1)
    for _ in range(_LLOYD_STEPS):
        counts = np.bincount(labels, minlength=len(centres))
        sums = np.eye(len(centres))[:, labels] @ x
        filled = counts > 0
        centres = np.where(filled[:, None], sums / np.maximum(counts, 1)[:, None], centres)
        changed = _squares(x, centres).argmin(1)
        if (changed == labels).all():
            break
        labels = changed
    return labels


def _vote(bank: Float64, labels: NDArray[np.int64], queries: Float64, k: int) -> NDArray[np.int64]:
    """The most frequent cluster among the k nearest; of several, that of the nearest."""
    out = np.empty(len(queries), dtype=np.int64)
    weights = 1 + 0.5 ** np.arange(2, k + 2)  # a nearer one outweighs all farther ones, and all together are no vote
    for start in range(0, len(queries), _BLOCK):
        distances = _squares(queries[start : start + _BLOCK], bank)
        near = _smallest(distances, k)
        near = np.take_along_axis(near, np.take_along_axis(distances, near, 1).argsort(1, kind="stable"), 1)
        votes = np.zeros((len(near), int(labels.max()) + 1))
        np.add.at(votes, (np.arange(len(near))[:, None], labels[near]), weights)
        out[start : start + len(near)] = votes.argmax(1)
    return out


def _squares(x: Float64, y: Float64) -> Float64:
    """(N, M) squared Euclidean distances."""
    out: Float64 = np.clip((x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * (x @ y.T), 0, None)
    return out
