"""What the scores read on N samples of a population that does not collapse at all: equal variance in all d directions.

Even then the sample's singular values differ, by the law of Marchenko & Pastur (1967), and the scores look collapsed;
the less so, the more samples. A score near its baseline is as good as this sample can tell.
"""

from dataclasses import dataclass

import numpy as np

from siamscope.collapse.arrays import Float64
from siamscope.collapse.errors import CollapseError

_POINTS = 20_000


@dataclass(frozen=True)
class Baseline:
    """Scores that an isotropic population is expected to give; the population itself has AUC (d + 1)/(2 d) and rank d.

    Attributes:
        n, d: samples and dimensions.
        auc_sigma, auc_lambda: of `auc`.
        effective_rank: also RankMe, with eps = 0.
        participation_ratio: the naive one.
        nesum: low by 2 per cent at d = 100 and by 10 at d = 10, where the largest eigenvalue stays short of its limit.
    """

    n: int
    d: int
    auc_sigma: float
    auc_lambda: float
    effective_rank: float
    participation_ratio: float
    nesum: float


def isotropic(n: int, d: int, *, center: bool = True) -> Baseline:
    """`Baseline` for n samples in d dimensions, from integrals over the Marchenko-Pastur law of ratio c = d / n.

    AUC = E[s F(s)] / E[s] + 1/(2 d), with s = sqrt(lambda) (or lambda) and F its distribution function: the area under
    the limit's curve, and the half step by which the sum over k = 1..d passes it. Within 5e-4 of simulations at d =
    100. Centring costs one sample. With n < d, 1 - 1/c of the directions are 0.

    Raises:
        CollapseError: n < 2 or d < 1.
    """
    c, values, mass, below = _law(n, d, center)
    root = np.sqrt(values)
    p = root / (mass * root).sum()
    return Baseline(
        n,
        d,
        auc_sigma=min(float((mass * root * below).sum() / (mass * root).sum()) + 0.5 / d, 1.0),
        auc_lambda=min(float((mass * values * below).sum() / (mass * values).sum()) + 0.5 / d, 1.0),
        effective_rank=max(d * float(np.exp(-(mass * p * np.log(p)).sum())), 1.0),
        participation_ratio=max(d / (1 + c), 1.0),
        nesum=float(max(d / (1 + np.sqrt(c)) ** 2, 1.0)),
    )


def isotropic_spectrum(n: int, d: int, *, center: bool = True) -> Float64:
    """(d,) singular values, descending, that n samples of unit variance in all d directions are expected to have.

    Quantiles of the Marchenko-Pastur law at (k - 1/2) / d, times sqrt(n); zeros beyond the rank that n samples have.

    Raises:
        CollapseError: n < 2 or d < 1.
    """
    _, values, _, below = _law(n, d, center)
    at = 1 - (np.arange(d) + 0.5) / d
    sigma = np.sqrt(n * np.interp(at, below, values))
    return np.asarray(np.where(np.arange(d) < n - center, sigma, 0.0), dtype=np.float64)


def _law(n: int, d: int, center: bool) -> tuple[float, Float64, Float64, Float64]:
    """c, eigenvalues ascending, the mass of each (without that at 0), and the distribution function at each."""
    if n < 2 or d < 1:
        raise CollapseError(f"a baseline needs n >= 2 and d >= 1, not n={n} and d={d}.")
    c = d / (n - 1 if center else n)
    theta = (np.arange(_POINTS) + 0.5) * np.pi / _POINTS  # midpoints; lambda = 1 + c - 2 sqrt(c) cos(theta)
    values = 1 + c - 2 * np.sqrt(c) * np.cos(theta)
    mass = 2 * np.sin(theta) ** 2 / (np.pi * values) * (np.pi / _POINTS)
    mass *= min(1.0, 1 / c) / mass.sum()
    return c, values, mass, 1 - np.cumsum(mass[::-1])[::-1] + mass / 2
