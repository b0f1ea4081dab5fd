"""How far a linear predictor W and the correlation F of its inputs share their eigenvectors, and why they come to.

Source: Tian, Chen & Ganguli 2021 (arXiv:2102.06810), theorems 1 and 3 and figure 2: in training the two align.
"""

from dataclasses import dataclass

import numpy as np

from siamscope.collapse.arrays import Array, Float64, require_finite, require_matrix, to_numpy
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


def target_share(online: Array, target: Array) -> float:
    """tau = E<f_a, f> / E<f, f>: how far a target's embeddings f_a (N, d) have come towards the online ones f (N, d).

    It is assumption 1, W_a = tau W, read off embeddings: 1 for a target equal to the online network, 0 for an
    independent one, below 1 while an EMA target lags behind growing embeddings.

    Raises:
        CollapseError: other shapes, NaN or infinity, or online embeddings that are all 0.
    """
    f, f_a = _pair(online, "online", target, "target")
    size = float((f * f).sum())
    if size == 0:
        raise CollapseError("online embeddings are all 0: there is nothing to take a share of.")
    return float((f_a * f).sum()) / size


def noise_ratio(first: Array, second: Array) -> float:
    """sigma2 = (E|f1 - f2|^2 / 2) / E<f1, f2> of two views' embeddings (N, d), row k of both from one image.

    The variance that augmentation adds over that of the mean: for f = W x it is tr(W X' W^T) / tr(W X W^T), and sigma2
    of assumption 2 where X = I and X' = sigma2 I. Infinite if views of an image have nothing in common.

    Raises:
        CollapseError: other shapes, NaN or infinity.
    """
    f1, f2 = _pair(first, "first", second, "second")
    common, gap = float((f1 * f2).sum()), float(((f1 - f2) ** 2).sum()) / 2
    if common <= 0:
        return float("inf") if gap > 0 else 0.0
    return gap / common


def common_correlation(first: Array, second: Array) -> Float64:
    """F = W X W^T (d, d) as the symmetric part of E[f1 f2^T] over two views' embeddings (N, d); see `noise_ratio`.

    The theory's F is of the mean over augmentations; E[f f^T] of one view is (1 + sigma2) times it.
    """
    f1, f2 = _pair(first, "first", second, "second")
    product = f1.T @ f2 / len(f1)
    out: Float64 = (product + product.T) / 2
    return out


def k_matrix(
    correlation: Array,
    matrix: Array,
    *,
    tau: float,
    sigma2: float,
    eta: float,
    eta_p: float | None = None,
    alpha_p: float = 1.0,
    signal: float = 1.0,
) -> Float64:
    """K (d, d) of theorem 3: the commutator L = [F, W] of embeddings' correlation F and predictor W obeys

    dL/dt = -L K - K L,   K = (1 + sigma2) (alpha_p F / 2 + signal W^2) - signal tau W + (eta_p + 2 eta) / 2 I.

    Where K is positive definite, F and W align at the rate of twice its smallest eigenvalue; where it is not, they may
    come apart. eq. (9) has signal = 1 and eta_p = eta. Here X = signal I, since data need not be whitened: F = signal
    W_e W_e^T for an encoder W_e. Holds for symmetric W (assumption 3); of another one the symmetric part is taken.

    Args:
        correlation, matrix: F and W (d, d).
        tau, sigma2: `target_share`, `noise_ratio`.
        eta, eta_p: weight decay of encoder and predictor in the flow of J = E|W f - f_a|^2 / 2.
        alpha_p: rate of the predictor over that of the encoder.

    Raises:
        CollapseError: matrices of another form, or NaN or infinity in anything.
    """
    f, w = _square(correlation, "correlation"), _square(matrix, "matrix")
    if f.shape != w.shape:
        raise CollapseError(f"correlation is {f.shape} and matrix {w.shape}; they must be of one size.")
    numbers = {"tau": tau, "sigma2": sigma2, "eta": eta, "alpha_p": alpha_p, "signal": signal, "eta_p": eta_p or 0.0}
    wrong = [name for name, value in numbers.items() if not np.isfinite(value)]
    if wrong:
        raise CollapseError(f"{wrong[0]} must be finite, got {numbers[wrong[0]]}.")
    w = (w + w.T) / 2
    decay = ((eta if eta_p is None else eta_p) + 2 * eta) / 2
    out: Float64 = (1 + sigma2) * (alpha_p * f / 2 + signal * w @ w) - signal * tau * w + decay * np.eye(len(w))
    return out


def smallest_eigenvalue(matrix: Float64) -> float:
    """Least eigenvalue of a matrix's symmetric part: of `k_matrix` the rate that theorem 3 is about."""
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[0])


def balance(correlation: Array, matrix: Array, alpha_p: float = 1.0) -> float:
    """|F - W^T W / alpha_p|_F / |F|_F: what theorem 1 says goes to 0 as e^(-2 eta t), with equal decay of both nets.

    The theorem is about W_e W_e^T of the encoder, which is F if X = I. Infinite for F = 0 and W not 0; 0 for both 0.

    Raises:
        CollapseError: matrices of another form, NaN or infinity, or alpha_p not above 0.
    """
    f, w = _square(correlation, "correlation"), _square(matrix, "matrix")
    if f.shape != w.shape:
        raise CollapseError(f"correlation is {f.shape} and matrix {w.shape}; they must be of one size.")
    if not 0 < alpha_p < float("inf"):
        raise CollapseError(f"alpha_p must be above 0, got {alpha_p}.")
    gap, size = float(np.linalg.norm(f - w.T @ w / alpha_p)), float(np.linalg.norm(f))
    return gap / size if size > 0 else (float("inf") if gap > 0 else 0.0)


def _pair(a: Array, name_a: str, b: Array, name_b: str) -> tuple[Float64, Float64]:
    """Two sets of embeddings, row for row."""
    out = []
    for x, name in ((a, name_a), (b, name_b)):
        require_matrix(x, name)
        out.append(to_numpy(x))
        require_finite(out[-1], name)
    if out[0].shape != out[1].shape or len(out[0]) == 0:
        raise CollapseError(f"{name_a} is {out[0].shape} and {name_b} {out[1].shape}; they must be of one shape.")
    return out[0], out[1]


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
