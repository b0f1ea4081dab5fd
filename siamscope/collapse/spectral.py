"""More label-free scores of a spectrum. All take singular values, or a `Spectrum`, whose centring is then checked.

Which spectrum each score is of follows its source: RankMe, stable rank and the pseudo-condition number take the
uncentred one, alpha-ReQ, NESum and the participation ratio the centred one; `CovarianceState` gives both in one pass.
A spectrum of zeros is complete collapse: rank 1 by convention, and nothing that has no meaning then (CollapseError).
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from siamscope.collapse.arrays import Float64, require_finite, to_numpy
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.spectrum import Spectrum

Values: TypeAlias = npt.ArrayLike | Spectrum

RANKME_EPS = 1e-7
"""Added to every share, outside the division: the paper's, for float32."""
ALPHA_RANGE = (11, 100)
"""First and last index, from 1 and inclusive, that alpha-ReQ is fitted on."""
ALPHA_POINTS = 10
"""Fewer eigenvalues than this give no exponent."""
DEAD_SHARE = 1e-4
"""A direction counts as dead below this share of the largest singular value."""
FLOOR = 1e-7
"""Singular values below this share of the largest are rounding of the d x d scatter (measured: up to 2e-8, more when
the features have a large offset)."""


@dataclass(frozen=True)
class PowerLaw:
    """lambda_j ~ j^-alpha.

    Attributes:
        alpha: the exponent.
        r2: share of the (weighted) variance of log lambda that the line explains; 1 for a power law.
        first, last: the indices it was fitted on, from 1, both inclusive.
    """

    alpha: float
    r2: float
    first: int
    last: int


def rankme(singular_values: Values, *, n: int | None = None, eps: float = RANKME_EPS) -> float:
    """exp(-sum p log p) over the first min(n, d) of p_k = sigma_k / sum(sigma) + eps (Garrido et al., ICML 2023).

    Of the *uncentred* features: a common offset lowers it. eps stands outside the division, so the p sum to 1 + d eps
    and the value can pass min(n, d): d equal directions read exactly (1/d + eps)^-(1 + d eps), 2050.78 for d = 2048.
    eps = 0 gives the effective rank. The paper takes 25,600 samples, and compares runs of one method only.

    Args:
        singular_values: (d,), or a `Spectrum` that was not centred.
        n: number of samples, if smaller than d; known of a `Spectrum`.
        eps: at least 0.

    Raises:
        CollapseError: not a spectrum, a centred `Spectrum`, eps below 0, or n below 1.
    """
    if not 0 <= eps < 1:
        raise CollapseError(f"eps must be from 0 to below 1, got {eps}.")
    sigma = _sigma(singular_values, center=False, score="RankMe")
    if isinstance(singular_values, Spectrum):
        n = singular_values.n if n is None else n
    if n is not None and n < 1:
        raise CollapseError(f"RankMe needs at least 1 sample, got n = {n}.")
    if sigma[0] == 0:
        return 1.0
    kept = sigma[: len(sigma) if n is None else min(n, len(sigma))] / sigma[0]
    p = kept / kept.sum() + eps
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def alpha_req(singular_values: Values, *, span: tuple[int, int] = ALPHA_RANGE) -> PowerLaw:
    """Exponent of the eigenvalues' power law: least squares of log lambda_j on log j, weights 1/j.

    Source: Agrawal et al. (NeurIPS 2022), of the centred features. The paper does not fix the range of j, and it can
    turn the sign of a correlation: compare at equal ranges only. Others fit log sigma, or use a linear index, which
    gives other numbers (tests/collapse/test_other_formulas.py). About 1 is held to be good.

    Args:
        singular_values: (d,), or a centred `Spectrum`.
        span: first and last index j, from 1 and inclusive; the last is cut to d, or to min(n - 1, d) of a `Spectrum`.

    Raises:
        CollapseError: not a spectrum, an uncentred `Spectrum`, fewer than 10 indices left, or eigenvalues among them
            that are 0 (of a `Spectrum` also: within rounding of 0).
    """
    sigma = _sigma(singular_values, center=True, score="alpha-ReQ")
    first, last = span
    if first < 1 or last < first:
        raise CollapseError(f"the range of alpha-ReQ is (first, last) from 1 on, got {span}.")
    limit, floor = len(sigma), 0.0
    if isinstance(singular_values, Spectrum):
        limit, floor = min(limit, singular_values.n - 1), FLOOR * float(sigma[0])
    last = min(last, limit)
    if last - first + 1 < ALPHA_POINTS:
        raise CollapseError(
            f"alpha-ReQ needs at least {ALPHA_POINTS} eigenvalues from number {first} on, and there are {limit} in all."
        )
    values = sigma[first - 1 : last]
    if values[-1] <= floor:
        rank = int((sigma > floor).sum())
        raise CollapseError(
            f"only {rank} eigenvalues differ from zero, and alpha-ReQ was to be fitted on numbers {first} to {last}; "
            "a logarithm of 0 has no place in a line. Choose a range that ends earlier."
        )
    index = np.arange(first, last + 1, dtype=np.float64)
    x, y, w = np.log(index), 2 * np.log(values / sigma[0]), 1 / index
    w = w / w.sum()
    x_c, y_c = x - (w * x).sum(), y - (w * y).sum()
    slope = (w * x_c * y_c).sum() / (w * x_c**2).sum()
    total, left = (w * y_c**2).sum(), (w * (y_c - slope * x_c) ** 2).sum()
    return PowerLaw(float(-slope) + 0.0, float(1 - left / total) if total > 0 else 1.0, first, last)


def nesum(singular_values: Values) -> float:
    """sum(lambda) / lambda_1 of the centred features (He & Ozay, ICML 2022, definition 4.1); from 1 to d.

    The stable rank of the centred matrix is the same number. Its relation to accuracy is not monotone.

    Raises:
        CollapseError: not a spectrum, or an uncentred `Spectrum`.
    """
    return _rank_of_norms(_sigma(singular_values, center=True, score="NESum"))


def stable_rank(singular_values: Values) -> float:
    """||Z||_F^2 / ||Z||_2^2 of the uncentred features (Tsitsulin et al. 2023); from 1 to d.

    Raises:
        CollapseError: not a spectrum, or a centred `Spectrum` (whose stable rank is `nesum`).
    """
    return _rank_of_norms(_sigma(singular_values, center=False, score="the stable rank"))


def participation_ratio(singular_values: Values) -> float:
    """(sum lambda)^2 / sum lambda^2 of the centred features; from 1 to d, and to d equal directions exactly d.

    With n samples it is too low: 1/PR_naive ~ 1/PR + 1/n. See `participation_ratio_corrected`.

    Raises:
        CollapseError: not a spectrum, or an uncentred `Spectrum`.
    """
    sigma = _sigma(singular_values, center=True, score="the participation ratio")
    if sigma[0] == 0:
        return 1.0
    values = (sigma / sigma[0]) ** 2
    return float(values.sum() ** 2 / (values**2).sum())


def participation_ratio_corrected(singular_values: Values, n: int | None = None) -> float:
    """The participation ratio that many samples would give, 1 / (1/PR_naive - 1/n).

    An estimate: it can pass d. `n`: number of samples; known of a `Spectrum`.

    Raises:
        CollapseError: as `participation_ratio`; no n; or PR_naive >= n, when the samples say nothing.
    """
    if n is None:
        if not isinstance(singular_values, Spectrum):
            raise CollapseError("the corrected participation ratio needs the number of samples n.")
        n = singular_values.n
    sigma = _sigma(singular_values, center=True, score="the participation ratio")
    if sigma[0] == 0:
        return 1.0
    naive = participation_ratio(sigma)
    if naive >= n * (1 - 1e-12):
        raise CollapseError(f"the participation ratio of {n} samples is {naive:.4g}: too few samples to correct it.")
    return 1 / (1 / naive - 1 / n)


def pseudo_condition(singular_values: Values) -> float:
    """sigma_d / sigma_1 of the uncentred features, the pseudo-condition number (Tsitsulin et al. 2023); from 0 to 1.

    0 for dead dimensions, whatever the rest does. Of a `Spectrum`, what lies below the rounding of the scatter is 0.

    Raises:
        CollapseError: not a spectrum, a centred `Spectrum`, or all zeros.
    """
    sigma = _sigma(singular_values, center=False, score="the pseudo-condition number")
    if sigma[0] == 0:
        raise CollapseError("all singular values are 0: they have no ratio.")
    ratio = float(sigma[-1] / sigma[0])
    return 0.0 if isinstance(singular_values, Spectrum) and ratio < FLOOR else ratio


def dead_directions(singular_values: Values, *, share: float = DEAD_SHARE) -> int:
    """How many singular values lie below `share` of the largest; all but one of a spectrum of zeros."""
    sigma = _sigma(singular_values, center=None, score="")
    return len(sigma) - 1 if sigma[0] == 0 else int((sigma < share * sigma[0]).sum())


def _rank_of_norms(sigma: Float64) -> float:
    return float(((sigma / sigma[0]) ** 2).sum()) if sigma[0] > 0 else 1.0


def _sigma(singular_values: Values, *, center: bool | None, score: str) -> Float64:
    """Singular values, descending; a copy."""
    if isinstance(singular_values, Spectrum):
        if center is not None and singular_values.center != center:
            wanted, got = ("centred", "uncentred") if center else ("uncentred", "centred")
            raise CollapseError(
                f"{score} is of the {wanted} features and this spectrum is {got}; "
                f"take spectrum(features, center={center}), or pass its singular values if you mean it."
            )
        singular_values = singular_values.singular_values
    values = to_numpy(singular_values)
    if values.ndim != 1 or values.size == 0:
        raise CollapseError(f"a spectrum is a vector of singular values; this one has shape {values.shape}.")
    require_finite(values, "the spectrum")
    if (values < 0).any():
        raise CollapseError("singular values cannot be negative; pass sigma, not logarithms or raw eigenvalues.")
    return np.asarray(np.sort(values)[::-1], dtype=np.float64)
