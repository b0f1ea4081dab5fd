"""Label-free scores of a representation. Those of a spectrum take singular values; the others take embeddings.

Conventions for degenerate input, the same for every score: a spectrum of zeros (all rows identical) is *complete
collapse* and scores AUC 1 and rank 1; NaN or infinity raise CollapseError.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from siamscope.collapse.arrays import (
    Array,
    Float64,
    in_chunks,
    like,
    require_finite,
    require_matrix,
    to_float64,
    to_numpy,
    unit_rows,
)
from siamscope.collapse.errors import CollapseError

Of = Literal["sigma", "lambda"]


def _shares(singular_values: npt.ArrayLike, of: Of) -> Float64:
    """Share of each direction in the whole, descending, summing to 1;

    all on the first direction if the spectrum is zero.
    """
    values = to_numpy(singular_values)
    if values.ndim != 1 or values.size == 0:
        raise CollapseError(f"a spectrum is a vector of singular values; this one has shape {values.shape}.")
    require_finite(values, "the spectrum")
    if (values < 0).any():
        raise CollapseError("singular values cannot be negative; pass sigma, not logarithms or raw eigenvalues.")
    if of not in ("sigma", "lambda"):
        raise CollapseError(f"of={of!r}: choose 'sigma' (the paper's) or 'lambda' (their squares).")
    values = np.sort(values)[::-1]
    if values[0] == 0:
        return np.asarray(np.eye(1, values.size)[0], dtype=np.float64)
    values = values / values[0]  # before squaring, lest it overflow or vanish
    weights = values if of == "sigma" else values**2
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def cumulative_explained(singular_values: npt.ArrayLike, *, of: Of = "sigma") -> Float64:
    """CEV(k) for k = 1..d: the part of the spectrum held by the k largest of its d values; (d,) float64, ends at 1.

    Li, Efros & Pathak (ECCV 2022) call it cumulative explained *variance* but sum singular values, not their squares
    ("sigma"); "lambda" sums variances. The two differ much: 0.858 against 0.979 for their ResNet-18 on ImageNet.
    """
    return np.asarray(np.cumsum(_shares(singular_values, of)), dtype=np.float64)


def auc(singular_values: npt.ArrayLike, *, of: Of = "sigma") -> float:
    """Area under the cumulative-explained-variance curve: mean over k = 1..d of CEV(k) (Li et al. 2022, Eq. 2).

    Higher is more collapsed: (d+1)/(2d) for a flat spectrum, 1 for a single direction (or none). `singular_values` must
    have all d entries, zeros included, as `Spectrum` has: dropping zeros changes the divisor.
    """
    return float(cumulative_explained(singular_values, of=of).mean())


def effective_rank(singular_values: npt.ArrayLike) -> float:
    """exp of the entropy (nats) of sigma / sum(sigma), with 0 log 0 = 0 (Roy & Vetterli 2007); from 1 to d.

    Of a centred spectrum this counts the directions that vary; RankMe is the same of an uncentred one, with an epsilon.
    """
    p = _shares(singular_values, "sigma")
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def embedding_std(embeddings: Array) -> float:
    """Mean over dimensions of the standard deviation of L2-normalised rows, times sqrt(d) (Chen & He 2021, Fig. 2).

    `embeddings` (N, d), N >= 2. About 1 for directions spread evenly over the sphere, 0 for complete collapse. It
    cannot see dimensional collapse: a randomly rotated line still reads 0.8. Zero rows stay zero. Unbiased deviation
    (divisor N - 1).
    """
    require_matrix(embeddings, "the embedding matrix")
    if embeddings.shape[0] < 2:
        raise CollapseError(f"a standard deviation needs at least 2 samples, not {embeddings.shape[0]}.")
    n, d = embeddings.shape
    origin: Array = None
    total: Array = 0.0
    squares: Array = 0.0
    for chunk in in_chunks(embeddings):
        rows = to_float64(chunk)
        require_finite(rows, "the embedding matrix")
        rows = unit_rows(rows)
        origin = rows[0] if origin is None else origin
        rows = rows - origin  # measured from inside the cloud: no cancellation, and identical rows give exactly 0
        total = total + rows.sum(0)
        squares = squares + (rows * rows).sum(0)
    variances = to_numpy(squares - total * total / n) / (n - 1)
    return float(np.sqrt(np.clip(variances, 0, None)).mean()) * math.sqrt(d)


def positive_similarity(first: Array, second: Array) -> float:
    """Mean cosine between row i of `first` and row i of `second`, both (N, d): two views of the same images; -1 to 1.

    A zero row counts as cosine 0. Near 1 it means invariance or collapse: only together with a spread does it say
    which.
    """
    require_matrix(first, "the first view's embeddings")
    if tuple(first.shape) != tuple(second.shape) or first.shape[0] < 1:
        raise CollapseError(
            f"two views must have equal, non-empty shapes, not {tuple(first.shape)} and {tuple(second.shape)}."
        )
    a = to_float64(first)
    b = like(to_float64(second), a)
    require_finite(a, "the first view's embeddings")
    require_finite(b, "the second view's embeddings")
    return float((unit_rows(a) * unit_rows(b)).sum(1).mean())
