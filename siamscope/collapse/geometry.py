"""Label-free scores of how rows lie on the sphere and to one another; arrays and tensors alike, chunked.

Conventions: a row of zeros has no direction. `uniformity` and `view_alignment` keep it as the zero vector, as the rest
of this room does; `self_cluster` leaves it out. Identical rows are complete collapse: self-clustering 1, uniformity 0.
NaN and infinity raise CollapseError. Computed in float64, on the features' device.
"""

import itertools
import math

import numpy as np

from siamscope.collapse.arrays import (
    Array,
    Float64,
    in_chunks,
    is_tensor,
    like,
    require_finite,
    require_matrix,
    require_numbers,
    to_float64,
    to_numpy,
    unit_rows,
)
from siamscope.collapse.errors import CollapseError

WHAT = "the feature matrix"
_BLOCK = 1024  # rows against rows: 8 MiB a block of 1024 x 1024 in float64
_MOST_T = 150.0  # exp(-4 t) must not vanish


def self_cluster(features: Array) -> float:
    """How far directions crowd: (||U U^T||_F^2 - e) / (n^2 - e), e = n + n (n - 1) / d, for U the unit rows (n, d).

    Source: Tsitsulin et al. 2023 (arXiv:2305.16562). 1 for rows on one line through the origin, about 0 for directions
    spread evenly, -1/(d - 1) for an orthonormal basis. Computed by U^T U in O(d^2) memory, in one pass. Not centred: a
    common offset counts as crowding. Zero rows are left out; with fewer than two others left, or d = 1, it is 1.

    Raises:
        CollapseError: not (N, d) with N >= 2, or NaN or infinity.
    """
    require_rows(features, 2)
    n, d = 0, int(features.shape[1])
    moment: Array = 0.0
    single = str(features.dtype).rpartition(".")[2] == "float32"
    for chunk in in_chunks(features):
        u = unit_rows(_finite(chunk))
        n += int((abs(u).sum(1) > 0).sum())
        u = _single(u) if single else u  # twice as fast; the score moves by about 1e-8
        moment = moment + to_float64(u.T @ u)
    if n < 2 or d == 1:
        return 1.0
    expected = n + n * (n - 1) / d
    return (float((moment * moment).sum()) - expected) / (n * n - expected)


def coherence(features: Array, moment: Array = None, *, row_norm: bool = False) -> float:
    """n / r max_i ||u_i||^2 for the rows u_i of the left singular vectors (n, r) of the features, r their rank.

    Source: Tsitsulin et al. 2023, after Candes & Recht 2009. From 1, when every row has the same weight in the column
    space, to n / r, when one row alone spans a direction of it. Tsitsulin et al. write d for r: the same at full rank;
    beyond it the left singular vectors are arbitrary, so only those of singular values above about 2e-8 sqrt(d) of the
    largest count. It does not see collapse: rows that are all alike read 1, and so do rows of zeros, by convention.
    It is unstable, and its correlation with accuracy changes its sign from study to study. Not centred. Two passes over
    the features, or one with `moment`, their X^T X (d, d), where it is known (m2 + n mean mean^T of a CovarianceState).
    `row_norm`: of the unit rows.

    Raises:
        CollapseError: not (N, d) with N >= 2, or NaN or infinity.
    """
    require_rows(features, 2)
    n, d = features.shape
    if n < d:
        rows = _finite(features, row_norm=row_norm)
        values, vectors = np.linalg.eigh(to_numpy(rows @ rows.T))
        kept = _significant(values)
        return _scaled(n, int(kept.sum()), float((vectors[:, kept] ** 2).sum(1).max(initial=0.0)))
    values, vectors = np.linalg.eigh(to_numpy(_moment(features, row_norm) if moment is None else moment))
    kept = _significant(values)
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    largest = 0.0
    if kept.any():
        for chunk in in_chunks(features):
            rows = _finite(chunk, row_norm=row_norm)
            u = rows @ like(whiten, rows)
            largest = max(largest, float((u * u).sum(1).max()))
    return _scaled(n, int(kept.sum()), largest)


def _moment(features: Array, row_norm: bool) -> Array:
    total: Array = 0.0
    for chunk in in_chunks(features):
        rows = _finite(chunk, row_norm=row_norm)
        total = total + rows.T @ rows
    return total


def _significant(values: Float64) -> Float64:
    """Which eigenvalues of a second moment stand above the rounding of its largest one."""
    bound = len(values) * float(np.finfo(np.float64).eps) * max(float(values.max()), 0.0)
    return np.asarray(values > bound)


def _scaled(n: int, rank: int, largest: float) -> float:
    return n / rank * largest if rank else 1.0


def uniformity(features: Array, t: float = 2.0, most: int = 4096, seed: int = 0) -> float:
    """log of the mean over i < j of exp(-t ||x_i - x_j||^2), x the unit rows (Wang & Isola 2020); 0 down to -4 t.

    0 if all directions are one, -4 for an orthonormal set (t = 2), and -2 t + log 0F1(; d/2; t^2) for directions spread
    evenly over the sphere: -3.8752 at d = 64. It hardly sees dimensional collapse.

    Args:
        features: (N, d), N >= 2. Wang & Isola take embeddings.
        t: above 0.
        most: of more rows than this, a sample of so many is taken without replacement; the exact mean costs N^2 d.
        seed: of that sample.

    Raises:
        CollapseError: another shape, NaN or infinity, t not between 0 and 150, or most < 2.
    """
    require_rows(features, 2)
    if not 0 < t <= _MOST_T:
        raise CollapseError(f"t must be above 0 and at most {_MOST_T:g}, got {t}.")
    x = unit_rows(_finite(sample_rows(features, most, seed)))
    n = x.shape[0]
    squares = (x * x).sum(1)
    total = 0.0
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        distances = squares[start:end, None] + squares[None, start:] - 2 * (x[start:end] @ x[start:].T)
        kernel = _exp(-t * distances.clip(0))
        places = np.arange(end - start)
        kernel[places, places] = 0  # a row with itself; every other pair of this block comes twice
        total += float(kernel[:, : end - start].sum()) / 2 + float(kernel[:, end - start :].sum())
    return min(math.log(total) - math.log(n * (n - 1) / 2), 0.0)


def view_alignment(first: Array, second: Array, alpha: float = 2.0) -> float:
    """Mean of ||x - y||^alpha over the unit rows x, y of two views' embeddings (N, d) (Wang & Isola 2020).

    Row i of both belongs to one image. 0 for equal directions, 2^alpha for opposite ones. Low means invariance or
    collapse: only together with a spread does it say which.

    Raises:
        CollapseError: other or different shapes, NaN or infinity, or alpha not above 0.
    """
    require_matrix(first, "the first view's embeddings")
    if tuple(first.shape) != tuple(second.shape) or first.shape[0] < 1:
        raise CollapseError(
            f"two views must have equal, non-empty shapes, not {tuple(first.shape)} and {tuple(second.shape)}."
        )
    if not 0 < alpha < math.inf:
        raise CollapseError(f"alpha must be above 0, got {alpha}.")
    total = 0.0
    for a, b in zip(in_chunks(first), in_chunks(second), strict=True):
        x = _finite(a, "the first view's embeddings")
        gap = unit_rows(x) - unit_rows(like(_finite(b, "the second view's embeddings"), x))
        total += float(((gap * gap).sum(1) ** (alpha / 2)).sum())
    return total / int(first.shape[0])


def views_alignment(views: Array) -> float:
    """Mean of `view_alignment` over all pairs of the q views of each of n images, `views` (n, q, d).

    Raises:
        CollapseError: another shape, fewer than 2 views, NaN or infinity.
    """
    require_numbers(views, "the views' embeddings")
    if len(views.shape) != 3 or views.shape[1] < 2:
        raise CollapseError(f"alignment needs at least 2 views of every image (n, q, d), not {tuple(views.shape)}.")
    pairs = itertools.combinations(range(views.shape[1]), 2)
    found = [view_alignment(views[:, i], views[:, j]) for i, j in pairs]
    return sum(found) / len(found)


def require_rows(features: Array, least: int) -> None:
    """Raise CollapseError unless `features` is (N, d) with N >= least."""
    require_matrix(features, WHAT)
    if features.shape[0] < least:
        raise CollapseError(f"{WHAT} has {features.shape[0]} rows; this score needs at least {least}.")


def sample_rows(features: Array, most: int, seed: int) -> Array:
    """All rows in their order, or `most` of them drawn without replacement, also in order; the same for every kind."""
    if most < 2:
        raise CollapseError(f"most must be at least 2 rows, got {most}.")
    n = features.shape[0]
    if n <= most:
        return features
    return features[np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(n)[:most])]


def _finite(rows: Array, what: str = WHAT, *, row_norm: bool = False) -> Array:
    rows = to_float64(rows)
    require_finite(rows, what)
    return unit_rows(rows) if row_norm else rows


def _single(x: Array) -> Array:
    return x.float() if is_tensor(x) else x.astype(np.float32)


def _exp(x: Array) -> Array:
    return x.exp() if is_tensor(x) else np.exp(x)
