"""Singular values of a feature matrix, in one call or as a stream that can be merged across processes."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siamscope.collapse.arrays import (
    Array,
    Float64,
    detached,
    in_blocks,
    in_chunks,
    is_finite,
    like,
    number_format,
    require_finite,
    require_matrix,
    scratch,
    subtract,
    to_float64,
    to_numpy,
    unit_rows,
)
from siamscope.collapse.errors import CollapseError

NOT_FINITE = (
    "a batch of features holds NaN or infinite entries (or numbers too large to add up), so it has no spectrum; "
    "look for a diverged loss or an overflow in half precision."
)
TOO_LARGE = "the features hold numbers too large to square and add up; scale them down."
TOO_SMALL = "the features differ by numbers too small to square; scale them up."
TINY = float(np.finfo(np.float64).tiny)
NOISE = 4.0
"""A spread below this many roundings of the mean is no spread: an encoder's own arithmetic is off by as much."""


class TooFewSamples(UserWarning):
    """Fewer samples than dimensions: trailing singular values are zero for want of data, not because of collapse."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of an (N, d) feature matrix, with what is needed to compare them with another's.

    Attributes:
        singular_values: (d,) float64, descending; zeros beyond min(N, d). Not squared: sigma_k = sqrt(N * variance_k)
            when centred.
        n, d: number of samples and of dimensions.
        center: whether the column mean was subtracted.
        row_norm: whether rows were divided by their L2 norm (before centring).
        mean_norm: L2 norm of the column mean (of the unit rows, if `row_norm`).
    """

    singular_values: Float64
    n: int
    d: int
    center: bool
    row_norm: bool
    mean_norm: float

    @property
    def eigenvalues(self) -> Float64:
        """(d,) eigenvalues sigma^2 / n of the (biased) covariance, or of the second moment if not centred."""
        return np.asarray(self.singular_values**2 / self.n, dtype=np.float64)


class CovarianceState:
    """Sample count, mean and scatter of a stream of rows, in float64: O(d^2) memory, exact under merging.

    Updates and merges follow Chan, Golub & LeVeque (1983): the scatter is always taken about the current mean, so a
    large common offset does not cancel digits, as sum(x x^T) - n m m^T does (tests/collapse/test_streaming.py shows
    that failing).

    Attributes:
        n: rows seen.
        mean: (d,) column mean.
        m2: (d, d) scatter, sum over rows of (x - mean)(x - mean)^T.
    """

    def __init__(self, d: int, *, reference: Array = None) -> None:
        """An empty state for `d` dimensions.

        `reference`: a tensor whose device the state shall live on; by default, that of the first batch. It matters
        only for a process that may see no batch at all and must still join an all-reduce on a GPU.
        """
        if d < 1:
            raise CollapseError(f"a covariance needs at least one dimension, not {d}.")
        self.d = d
        self.n = 0
        self.mean: Array = np.zeros(d)
        self.m2: Array = np.zeros((d, d))
        if reference is not None:
            self._move(to_float64(reference))

    def _move(self, reference: Array) -> None:
        self.mean, self.m2 = like(self.mean, reference), like(self.m2, reference)

    def update(self, rows: Array, *, unit: bool = False) -> "CovarianceState":
        """Add `rows` (B, d), array or tensor, B >= 0; `unit` divides each by its norm first (zero rows stay zero).

        Returns self. Raises CollapseError on a wrong shape, NaN or infinity.
        """
        require_matrix(rows, "a batch of features")
        if rows.shape[1] != self.d:
            raise CollapseError(f"a batch of features has {rows.shape[1]} columns; this state was made for {self.d}.")
        for block in in_blocks(detached(rows)):
            self._absorb(block, unit)
        return self

    def _absorb(self, block: Array, unit: bool) -> None:
        """Add a block of rows, at least one, in chunks.

        All are measured from one point inside the cloud, so identical rows give exactly zero and a large offset costs
        no digits; what the block's mean differs from that point is taken off at the end. That costs no more digits than
        the block has, since the point is our mean or one of its rows: 5 of 16 for 2^15 rows, at the very worst.
        """
        free = scratch(block)
        origin: Array = None
        offset: Array = 0.0
        m2: Array = 0.0
        for chunk in in_chunks(block):
            rows = (unit_rows(to_float64(chunk)) if free is None else unit_rows(chunk, free)) if unit else chunk
            if origin is None:
                first = to_float64(rows[0]) * 1
                if self.n == 0:
                    self._move(first)
                origin = like(self.mean, first) if self.n else first
            with np.errstate(invalid="ignore", over="ignore"):  # said below, and by `spectrum`
                shifted = subtract(rows, origin, free)  # in float64, also of float32 rows
                offset = offset + shifted.sum(0)
                m2 = m2 + shifted.T @ shifted
        if not is_finite(offset):  # as every NaN or infinity makes it; cheaper than to look at all entries
            raise CollapseError(NOT_FINITE)
        if float(m2.trace()) < TINY and float(abs(offset).max() + abs(shifted).max()) > 0:
            raise CollapseError(TOO_SMALL)
        n = block.shape[0]
        self._add(n, like(origin, self.mean), like(offset, self.mean) / n, like(m2, self.m2))

    def _add(self, n: int, origin: Array, offset: Array, m2: Array) -> None:
        """A block of n rows of mean origin + offset, and scatter m2 about the origin: our mean, if we have one."""
        total = self.n + n
        with np.errstate(invalid="ignore", over="ignore"):
            m2 -= offset[:, None] * offset[None, :] * (n * (n / total))
            if self.n:
                m2 += self.m2
            self.m2 = m2
        self.mean = origin + offset * (n / total)
        self.n = total

    def merge(self, other: "CovarianceState") -> "CovarianceState":
        """Add all that `other` has seen, and leave it as it was. Returns self. The order matters only to rounding."""
        if other.d != self.d:
            raise CollapseError(f"cannot merge a state of {other.d} dimensions into one of {self.d}.")
        if other.n == 0:
            return self
        if self.n == 0:
            self._move(other.mean)
        mean, m2 = like(other.mean, self.mean), like(other.m2, self.m2)
        total = self.n + other.n
        if self.n:
            gap = mean - self.mean
            self.m2 = self.m2 + m2 + gap[:, None] * gap[None, :] * (self.n * other.n / total)
            self.mean = self.mean + gap * (other.n / total)
        else:
            self.m2, self.mean = m2 * 1, mean * 1
        self.n = total
        return self

    def all_reduce(self, reduce: Callable[[Array], Array]) -> "CovarianceState":
        """Replace this state by the one of all processes together. Returns self.

        `reduce` returns the element-wise sum over processes of a float64 array (a tensor if the state lives in
        tensors); for `torch.distributed` a function that calls ``all_reduce(x)`` and returns x. Every process must
        call this, also one that has seen nothing. Two rounds, mean first: summing raw second moments in one round
        would cancel digits.
        """
        total = float(reduce(self.mean[:1] * 0 + self.n)[0])
        if total == 0:
            return self
        mean = reduce(self.mean * (self.n / total))
        gap = self.mean - mean if self.n else self.mean * 0
        self.m2 = reduce(self.m2 + gap[:, None] * gap[None, :] * self.n)
        self.mean, self.n = mean, round(total)
        return self

    def is_point(self, rounding: float) -> bool:
        """Whether all rows seen are one point, up to the relative `rounding` of their number format."""
        spread = math.sqrt(max(float(self.m2.trace()), 0.0) / max(self.n, 1))
        return is_point(spread, float(np.linalg.norm(to_numpy(self.mean))), rounding)

    def spectrum(self, *, center: bool = True, row_norm: bool = False, rounding: float = 0.0) -> Spectrum:
        """Spectrum of all rows seen; exactly that of one point, if they are one up to `rounding`: see `is_point`.

        `row_norm` only records that the caller normalised the rows. Raises CollapseError when fewer than two rows were
        seen; warns TooFewSamples when there are fewer rows than dimensions.
        """
        if self.n < 2:
            raise CollapseError(f"a spectrum needs at least 2 samples, not {self.n}.")
        mean, scatter = to_numpy(self.mean), to_numpy(self.m2)
        with np.errstate(over="ignore", invalid="ignore"):
            moment = scatter + self.n * np.outer(mean, mean)
        if not is_finite(moment):
            raise CollapseError(TOO_LARGE)
        scatter = scatter if center else moment
        if self.is_point(rounding):
            squares: npt.ArrayLike = _of_a_point(mean, self.n, self.d, center)
        else:
            squares = np.linalg.eigvalsh((scatter + scatter.T) / 2)
        return _spectrum(squares, self.n, self.d, center, row_norm, mean)


def is_point(spread: float, offset: float, rounding: float) -> bool:
    """Whether rows are one point: complete collapse, up to the rounding of their number format.

    `spread`: root mean square of their distances from their mean, whose length is `offset`.
    """
    return spread <= NOISE * rounding * offset


def one_point(rows: Array, what: str) -> bool:
    """`is_point` of `rows` (N, d), array or tensor, in O(d) memory. Raises CollapseError on NaN or infinity."""
    origin: Array = None
    total: Array = 0.0
    squares = 0.0
    for chunk in in_chunks(detached(rows)):
        x = to_float64(chunk)
        require_finite(x, what)
        origin = x[0] * 1 if origin is None else origin
        x = x - origin
        total, squares = total + x.sum(0), squares + float((x * x).sum())
    n = int(rows.shape[0])
    if n == 0:
        return False
    mean = to_numpy(total) / n
    spread = math.sqrt(max(squares / n - float(mean @ mean), 0.0))
    return is_point(spread, float(np.linalg.norm(to_numpy(origin) + mean)), number_format(rows)[1])


def _of_a_point(mean: Float64, n: int, d: int, center: bool) -> Float64:
    """Ascending eigenvalues of the scatter of n rows that are all the mean."""
    squares = np.zeros(d)
    squares[-1] = 0.0 if center else n * float(mean @ mean)
    return squares


def _spectrum(squares: npt.ArrayLike, n: int, d: int, center: bool, row_norm: bool, mean: Float64) -> Spectrum:
    """Spectrum from the ascending eigenvalues of the scatter (d, d) or of the Gram matrix (n, n)."""
    if n < d:
        warnings.warn(
            f"{n} samples in {d} dimensions: at most {n - center} singular values can differ from zero, the rest are "
            "padded with zeros; take at least 16 samples per dimension for a bias of AUC under 0.01.",
            TooFewSamples,
            stacklevel=3,
        )
    values = np.zeros(d)
    rank = min(n - center, d)  # the highest that n samples can have; what lies beyond is rounding noise
    values[:rank] = np.sqrt(np.clip(np.asarray(squares)[::-1][:rank], 0, None))
    return Spectrum(values, n, d, center, row_norm, float(np.linalg.norm(mean)))


def spectrum(features: Array, *, center: bool = True, row_norm: bool = False) -> Spectrum:
    """Singular values of `features` (N, d), an array or a tensor, as Li, Efros & Pathak (2022) take them for their AUC.

    Computed from the d x d scatter (from the N x N Gram matrix if N < d) in float64, in chunks of rows, on the
    features' device. Squaring sets a floor: singular values below about 2e-8 of the largest are rounding noise (their
    effect on AUC is under 1e-7).

    Args:
        features: one row per image. The paper takes the backbone's pooled output in eval mode, without augmentation.
            Rows that differ by no more than the rounding of their number format are one point: then no direction has
            any spread.
        center: subtract the column mean (the paper does; RankMe does not).
        row_norm: divide each row by its L2 norm first (the paper's released values do not); a zero row stays zero.

    Raises:
        CollapseError: wrong shape, N < 2, NaN or infinite entries.
    Warns:
        TooFewSamples: N < d.
    """
    require_matrix(features, "the feature matrix")
    if 2 <= features.shape[0] < features.shape[1]:
        return _spectrum_of_few(features, center, row_norm)
    state = CovarianceState(features.shape[1])
    state.update(features, unit=row_norm)
    return state.spectrum(center=center, row_norm=row_norm, rounding=number_format(features)[1])


def _spectrum_of_few(features: Array, center: bool, row_norm: bool) -> Spectrum:
    """`spectrum` for N < d: the N x N Gram matrix has the same eigenvalues as the scatter, for less work."""
    rows = to_float64(features)
    require_finite(rows, "the feature matrix")
    rows = unit_rows(rows) if row_norm else rows
    shifted = rows - rows[0]
    offset = shifted.mean(0)
    mean = to_numpy(rows[0] + offset)
    n, d = rows.shape
    centred = shifted - offset
    total = float((centred * centred).sum())
    if total < TINY and float(abs(centred).max()) > 0:
        raise CollapseError(TOO_SMALL)
    if is_point(math.sqrt(total / n), float(np.linalg.norm(mean)), number_format(features)[1]):
        return _spectrum(_of_a_point(mean, n, d, center), n, d, center, row_norm, mean)
    rows = centred if center else rows
    return _spectrum(np.linalg.eigvalsh(to_numpy(rows @ rows.T)), n, d, center, row_norm, mean)
