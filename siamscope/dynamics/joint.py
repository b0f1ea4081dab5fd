"""The modes of data whose X and X' need not commute.

W rests, with W_a = W and W_p = U diag(p) U^T, if each row w of U^T W has

    p X w - p^2 (X + X') w - eta w = 0,

eq. (16) of arXiv:2102.06810 at rest with a matrix in place of each number: a quadratic eigenvalue problem whose real
solutions come in pairs, p_- below p_+. W_p rests as well if these w are orthogonal, as they are where X and X' commute
(appendix D); elsewhere the solution is an approximation, the better the nearer they are to it. Derived here, not in the
paper; held against the flow of the matrices in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.prediction import ModeForecast, check_rates, strength_at_rest

_POINTS = 64


@dataclass(frozen=True, eq=False)
class InputModes:
    """X and X' on the span of the first k eigenvectors of X, largest eigenvalue first.

    basis (n, k): orthonormal columns.  x, x_noise (k, k): X and X' in that basis; x is diagonal, x_noise need not be.
    kept: their share of the trace of X + X'.
    """

    basis: Float
    x: Float
    x_noise: Float
    kept: float

    @property
    def mixing(self) -> float:
        """Share of X' (squared Frobenius norm) outside its diagonal: 0 where X and X' commute."""
        whole = float(np.square(self.x_noise).sum())
        return 1 - float(np.square(np.diag(self.x_noise)).sum()) / whole if whole > 0 else 0.0


def input_modes(x: npt.ArrayLike, x_noise: npt.ArrayLike, keep: int) -> InputModes:
    """The first `keep` modes (or all, if there are fewer) of X (n, n) and X' (n, n), both symmetric.

    Estimates are welcome: small negative eigenvalues, as sampling leaves them, are set to 0.

    Raises:
        DynamicsError: not square, not of one size, not symmetric, not finite, or X without a positive eigenvalue.
    """
    signal, noise = (errors.array(name, a, np.shape(a)) for name, a in (("x", x), ("x_noise", x_noise)))
    if signal.ndim != 2 or signal.shape[0] != signal.shape[1] or signal.shape != noise.shape:
        raise DynamicsError(f"x and x_noise must be square and of one size; they are {signal.shape}, {noise.shape}.")
    errors.symmetric("x", signal)
    errors.symmetric("x_noise", noise)
    n = len(signal)
    values, vectors = linalg.eigh(signal, subset_by_index=(max(n - errors.whole("keep", keep), 0), n - 1))
    if values[-1] <= 0:
        raise DynamicsError(f"x has no positive eigenvalue (largest: {values[-1]:.3g}): the views share nothing.")
    basis = vectors[:, ::-1]
    inner = _not_negative(basis.T @ noise @ basis)
    kept_x = np.diag(np.maximum(values[::-1], 0.0))
    share = float(np.trace(kept_x) + np.trace(inner)) / float(np.trace(signal) + np.trace(noise))
    return InputModes(basis, kept_x, inner, min(share, 1.0))


def _not_negative(a: Float) -> Float:
    values, vectors = np.linalg.eigh((a + a.T) / 2)
    out = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return np.asarray((out + out.T) / 2, dtype=np.float64)


def joint_forecast(
    data: InputModes, eta: float, *, alpha_p: float = 1.0, eta_p: float | None = None
) -> tuple[ModeForecast, Float]:
    """The forecast for such data, and the modes' directions (k, m), columns of length 1.

    First the modes that can survive, largest p first: solutions of the quadratic problem above, not orthogonal in
    general. Their `eta_limit` is the largest eta on the solution's branch between p_+ and p_-; the direction turns on
    that way, while `signal` and `sigma2` are those at eta. Then, orthogonal to them in the metric X + X' (views along
    one hold nothing of the other), those that cannot, largest signal first; their limit is that of the direction by
    itself, and at most eta. Without weight decay the modes are the eigenvectors of X w = p (X + X') w, as in appendix
    D, and p_- is 0.

    All directions are counted, whatever the network's width: of more modes than it has dimensions, which ones live
    depends on the start.

    Raises:
        DynamicsError: matrices that are not positive semi-definite, or rates out of range.
    """
    check_rates(eta, alpha_p, eta_p)
    x = errors.psd("x", data.x)
    total = x + errors.psd("x_noise", data.x_noise)
    low, high, living = _rests(x, total, eta)
    if eta_p == 0 and eta > 0:  # the encoder's decay is not answered by the predictor: nothing rests
        low, high, living = low[:0], high[:0], living[:, :0]
    directions = np.concatenate([living, _others(x, total, living)], axis=1)
    signal = np.maximum((directions * (x @ directions)).sum(0), 0.0)
    size = (directions * (total @ directions)).sum(0)
    limit = np.where(size > 0, signal**2 / (4 * np.where(size > 0, size, 1.0)), 0.0)
    count = len(high)
    limit[:count] = [_limit(x, total, *mode) for mode in zip(low, high, living.T, strict=True)]
    limit[count:] = np.minimum(limit[count:], eta)
    none = np.full(len(limit) - count, np.nan)
    low, high = np.concatenate([low, none]), np.concatenate([high, none])
    noise = np.maximum(size - signal, 0.0)
    return ModeForecast(eta, signal, noise, limit, low, high, strength_at_rest(high, eta, alpha_p, eta_p)), directions


def _others(x: Float, total: Float, living: Float) -> Float:
    """Directions (k, k - m), orthogonal to the m living ones in the metric `total`, largest signal first."""
    rest = linalg.null_space((total @ living).T) if living.size else np.eye(len(x))
    _, turned = np.linalg.eigh(rest.T @ x @ rest)
    return np.asarray(rest @ turned[:, ::-1], dtype=np.float64)


def _limit(x: Float, total: Float, low: float, high: float, w: Float) -> float:
    """The largest eigenvalue of p X - p^2 (X + X') on the branch that has w at p = high, down to p = low."""
    p = np.linspace(high, 0.0 if np.isnan(low) else low, _POINTS)
    values, vectors = _branch(x, total, p, w)
    top = int(values.argmax())
    before = max(top - 1, 0)
    closer = np.linspace(p[before], p[min(top + 1, _POINTS - 1)], _POINTS)
    return float(max(values.max(), _branch(x, total, closer, vectors[before])[0].max()))


def _branch(x: Float, total: Float, p: Float, w: Float) -> tuple[Float, Float]:
    """Eigenvalues (T,) and vectors (T, k) of p X - p^2 (X + X') at p (T,): each the one nearest to the last, from w."""
    values, vectors = np.linalg.eigh(p[:, None, None] * x - np.square(p)[:, None, None] * total)
    kept_values, kept = np.empty(len(p)), np.empty((len(p), len(x)))
    for i in range(len(p)):
        chosen = int(np.abs(w @ vectors[i]).argmax())
        kept_values[i], w = values[i, chosen], vectors[i, :, chosen]
        kept[i] = w
    return kept_values, kept


def _rests(x: Float, total: Float, eta: float) -> tuple[Float, Float, Float]:
    """p_- (m,), p_+ (m,) and w (k, m) of the quadratic problem, largest p_+ first.

    A solution is a p_+ where w^T [X - 2 p (X + X')] w, the slope of its branch of eigenvalues of p X - p^2 (X + X'), is
    negative. Its p_- is the solution below with the nearest w that no larger p_+ has taken.
    """
    k = len(x)
    if eta == 0:
        p, w = linalg.eigh(x, total + 1e-14 * np.trace(total) * np.eye(k))
        lives = np.flatnonzero(p > 1e-10)[::-1]
        return np.zeros(len(lives)), p[lives], w[:, lives] / np.linalg.norm(w[:, lives], axis=0)
    one, zero = np.eye(k), np.zeros((k, k))
    p, w = linalg.eig(np.block([[zero, one], [-eta * one, x]]), np.block([[one, zero], [zero, total]]))
    with np.errstate(invalid="ignore"):
        real = np.isfinite(p) & (np.abs(p.imag) <= 1e-8 * np.abs(p))
    roots, w = p[real].real, w[:k, real].real
    w = w / np.linalg.norm(w, axis=0)
    slope = (w * (x @ w - 2 * roots * (total @ w))).sum(0)
    upper = np.flatnonzero(slope < 0)
    upper = upper[np.argsort(-roots[upper])]
    free, lower = list(np.flatnonzero(slope >= 0)), []
    for i in upper:
        below = [j for j in free if roots[j] < roots[i]]
        partner = max(below, key=lambda j: abs(float(w[:, i] @ w[:, j])), default=None)
        lower.append(np.nan if partner is None else roots[partner])
        if partner is not None:
            free.remove(partner)
    return np.array(lower, dtype=np.float64), roots[upper], w[:, upper]
