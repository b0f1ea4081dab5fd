"""How far a linear predictor W and the correlation F of its inputs share their eigenvectors.

Source: Tian, Chen & Ganguli 2021 (arXiv:2102.06810), theorem 3 and figure 2: in training the two align.
"""

from dataclasses import dataclass

import numpy as np

from siamscope.collapse.arrays import Array, Float64, require_finite, to_numpy
from siamscope.collapse.errors import CollapseError

_ROUNDING = 1e-6  # of float32, in which W usually comes


@dataclass(frozen=True)
class Alignment:
    """Attributes:
    cosines: (k,) cosine of u_j and W u_j for the first k eigenvectors u_j of F, largest eigenvalue first; 1 if u_j is
        an eigenvector of W with a positive eigenvalue, -1 with a negative one, 0 where |W u_j| is within rounding of 0.
    cosine: their mean.
    asymmetry: |W - W^T|_F / |W|_F, from 0 to 2; 0 for W = 0.
    commutator: |F W - W F|_F / (|F|_F |W|_F), from 0 to sqrt(2); 0 for F = 0 or W = 0.
    smallest: least eigenvalue of (W + W^T) / 2; W is positive semi-definite if it is not below 0.
    correlation_spectrum: (d,) eigenvalues of F, descending.
    matrix_spectrum: (d,) eigenvalues of (W + W^T) / 2, descending.
    """

    cosines: Float64
    cosine: float
    asymmetry: float
    commutator: float
    smallest: float
    correlation_spectrum: Float64
    matrix_spectrum: Float64


def alignment(correlation: Array, matrix: Array, k: int = 10) -> Alignment:
    """Compare the eigenvectors of F and W, both (d, d), arrays or tensors; computed in float64.

    Where F has equal eigenvalues its eigenvectors are not unique, and the cosines depend on which ones are found unless
    W acts alike on all of them; the commutator does not.

    Args:
        correlation: F, symmetric.
        matrix: W, any.
        k: how many eigenvectors of F to take; at most d are.

    Raises:
        CollapseError: matrices that are not square and of one size, or hold NaN or infinity; F not symmetric; k < 1.
    """
    f, w = _square(correlation, "correlation"), _square(matrix, "matrix")
    if f.shape != w.shape:
        raise CollapseError(f"correlation is {f.shape} and matrix {w.shape}; they must be of one size.")
    if k < 1:
        raise CollapseError(f"k must be at least 1, got {k}.")
    size_f, size_w = float(np.linalg.norm(f)), float(np.linalg.norm(w))
    if np.linalg.norm(f - f.T) > 1e-3 * size_f:
        raise CollapseError("correlation must be symmetric; give F = E[f f^T], and the predictor's weight as matrix.")
    s, u = np.linalg.eigh((f + f.T) / 2)
    spectrum: Float64 = np.asarray(np.linalg.eigvalsh((w + w.T) / 2)[::-1], dtype=np.float64)
    cosines = _cosines(u[:, ::-1][:, :k], w, size_w)
    return Alignment(
        cosines=cosines,
        cosine=float(cosines.mean()),
        asymmetry=_ratio(float(np.linalg.norm(w - w.T)), size_w),
        commutator=_ratio(float(np.linalg.norm(f @ w - w @ f)), size_f * size_w),
        smallest=float(spectrum[-1]),
        correlation_spectrum=s[::-1],
        matrix_spectrum=spectrum,
    )


def _cosines(u: Float64, w: Float64, size: float) -> Float64:
    image = w @ u
    length = np.linalg.norm(image, axis=0)
    seen = length > _ROUNDING * size
    inner: Float64 = (u * image).sum(0)
    return np.where(seen, inner / np.where(seen, length, 1.0), 0.0)


def _square(x: Array, name: str) -> Float64:
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise CollapseError(f"{name} has shape {shape}; expected (d, d) with d >= 1.")
    out = to_numpy(x)
    require_finite(out, name)
    return out


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else 0.0
