"""From a network's data and optimiser to what the theory expects of it, mode by mode.

Where X and X' share their eigenvectors, each of them is a mode by itself (appendix D of arXiv:2102.06810): a `Modes`
with its own `signal` (X's eigenvalue) and `sigma2` (that of X'). Real data do not commute. There W rests, with W_a = W
and W_p = U diag(p) U^T, if each row w of U^T W has

    p X w - p^2 (X + X') w - eta w = 0,

eq. (16) at rest with a matrix in place of each number: a quadratic eigenvalue problem whose real solutions come in
pairs, p_- below p_+. W_p rests as well if these w are orthogonal, as they are where X and X' commute; elsewhere the
solution is an approximation, the better the nearer they are to it. Derived here, not in the paper; held against the
flow of the matrices in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.modes import Modes


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


@dataclass(frozen=True, eq=False)
class ModeForecast:
    """What the theory says of each mode, arrays (m,); tau = 1, as at the end of training.

    eta: weight decay of the encoder.  signal, sigma2: variance of the augmentations' means along the mode, and the
    variance that they add.  eta_limit: the weight decay above which it must collapse.
    p_low, p_high: the predictor's eigenvalue below which the mode falls, and at which it rests; NaN for one that must
    collapse.
    strength: |w|^2 at rest, 0 for such a mode; infinite where nothing holds it (decay of the predictor alone), NaN
    where it depends on the start (no decay at all).
    """

    eta: float
    signal: Float
    sigma2: Float
    eta_limit: Float
    p_low: Float
    p_high: Float
    strength: Float

    @property
    def can_survive(self) -> npt.NDArray[np.bool_]:
        """Whether there is a rest other than collapse."""
        return np.isfinite(self.p_high)

    @property
    def margin(self) -> Float:
        """eta_limit / eta: how many times larger the weight decay may be; infinite for eta = 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(self.eta_limit > 0, self.eta_limit / self.eta, 0.0))


def forecast(
    signal: npt.ArrayLike, sigma2: npt.ArrayLike, eta: float, *, alpha_p: float = 1.0, eta_p: float | None = None
) -> ModeForecast:
    """Of independent modes (m,). One without signal cannot survive.

    With unequal decay p rests where it would with eta alone, and s = (eta_p / eta) p^2 / alpha_p, from eqs (11), (12).
    """
    own = np.atleast_1d(errors.array("signal", signal, np.shape(signal)))
    added = np.broadcast_to(errors.array("sigma2", sigma2, np.shape(sigma2)), own.shape)
    if (own < 0).any() or (added < 0).any():
        raise DynamicsError("signal and sigma2 are variances; none can be negative.")
    alive = own > 0
    modes = Modes(eta=eta, sigma2=added, signal=np.where(alive, own, 1.0), alpha_p=alpha_p)
    limit = np.where(alive, modes.eta_limit, 0.0)
    low, high = (np.where(eta < limit, root, np.nan) for root in modes.roots())
    return ModeForecast(eta, own, np.asarray(added), limit, low, high, _strength(high, eta, alpha_p, eta_p))


def joint_forecast(
    data: InputModes, eta: float, *, alpha_p: float = 1.0, eta_p: float | None = None
) -> tuple[ModeForecast, Float]:
    """Of data whose X and X' need not commute: the forecast and the modes' directions (k, m), columns of length 1.

    First the modes that can survive, largest p first: solutions of the quadratic problem above, not orthogonal in
    general. Then, orthogonal to them in the metric X + X' (views along one hold nothing of the other), those that
    cannot, largest signal first. `eta_limit` is that of the direction by itself; for the former the exact one is a
    little higher.

    Without weight decay the modes are the eigenvectors of X w = p (X + X') w, as in appendix D, and p_- is 0.
    """
    errors.number("eta", eta, low=0)
    low, high, living = _rests(data.x, data.x_noise, eta)
    total = data.x + data.x_noise
    q = linalg.null_space((total @ living).T) if living.size else np.eye(len(data.x))
    _, turned = np.linalg.eigh(q.T @ data.x @ q)
    others = q @ turned[:, ::-1]
    directions = np.concatenate([living, others], axis=1)
    signal = np.maximum((directions * (data.x @ directions)).sum(0), 0.0)
    sigma2 = np.maximum((directions * (data.x_noise @ directions)).sum(0), 0.0)
    none = np.full(others.shape[1], np.nan)
    low, high = np.concatenate([low, none]), np.concatenate([high, none])
    size = signal + sigma2
    limit = np.where(size > 0, signal**2 / (4 * np.where(size > 0, size, 1.0)), 0.0)
    return ModeForecast(eta, signal, sigma2, limit, low, high, _strength(high, eta, alpha_p, eta_p)), directions


def _rests(x: Float, x_noise: Float, eta: float) -> tuple[Float, Float, Float]:
    """p_- (m,), p_+ (m,) and w (k, m) of the quadratic problem, largest p_+ first.

    A solution is a p_+ where w^T [X - 2 p (X + X')] w, the slope of its branch of eigenvalues of p X - p^2 (X + X'), is
    negative. Its p_- is the solution below with the nearest w that no larger p_+ has taken.
    """
    k, total = len(x), x + x_noise
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


def _strength(p: Float, eta: float, alpha_p: float, eta_p: float | None) -> Float:
    """s at rest, from p; 0 where p is NaN."""
    if eta_p is None or eta_p == eta:
        ratio = 1.0 if eta > 0 else np.nan
    else:
        ratio = errors.number("eta_p", eta_p, low=0) / eta if eta > 0 else np.inf
    return np.where(np.isfinite(p), ratio * np.square(p) / alpha_p, 0.0)


@dataclass(frozen=True, eq=False)
class NetworkModes:
    """The modes of a network: eigenvectors u of W_p's symmetric part, largest eigenvalue first.

    p (..., n2): the eigenvalues.  rows (..., n2, k): u^T W.
    """

    p: Float
    rows: Float

    @property
    def strength(self) -> Float:
        """|u^T W|^2 (..., n2)."""
        return np.asarray(np.square(self.rows).sum(-1), dtype=np.float64)


def network_modes(w: Float, w_p: Float) -> NetworkModes:
    """Modes of encoders W (..., n2, k) with predictors W_p (..., n2, n2)."""
    values, u = np.linalg.eigh((w_p + np.swapaxes(w_p, -1, -2)) / 2)
    values, u = values[..., ::-1], u[..., ::-1]
    return NetworkModes(np.asarray(values, dtype=np.float64), np.asarray(np.swapaxes(u, -1, -2) @ w, dtype=np.float64))


def starts(w: Float, w_p: Float, directions: Float) -> tuple[Float, Float]:
    """p = u^T W_p u with u along W w, and s = |W w|^2, both (m,), of a network W (n2, k), W_p (n2, n2)."""
    seen = w @ directions
    s = np.square(seen).sum(0)
    turned = (seen * (w_p @ seen)).sum(0)
    return np.where(s > 0, turned / np.where(s > 0, s, 1.0), 0.0), np.asarray(s, dtype=np.float64)


def matched(directions: Float, network: NetworkModes) -> tuple[npt.NDArray[np.intp], Float]:
    """For each direction (k, m) the network's mode (m,) with the most of it, each taken once, and their cosine (m,).

    By the sum of |u^T W w|, so that strong modes are matched first; -1 and NaN for those left over.
    """
    from scipy.optimize import linear_sum_assignment

    share = np.abs(network.rows @ directions)
    size = np.linalg.norm(network.rows, axis=-1, keepdims=True)
    mode, direction = linear_sum_assignment(-share)
    found = np.full(directions.shape[1], -1, dtype=np.intp)
    cosine = np.full(directions.shape[1], np.nan)
    found[direction] = mode
    cosine[direction] = (share / np.where(size > 0, size, np.inf))[mode, direction]
    return found, cosine


@dataclass(frozen=True)
class Agreement:
    """Predicted against measured strengths of the same modes.

    modes: how many.  predicted, measured: how many of them are alive.  agree: how many have the same verdict.
    correlation: Spearman's, of the strengths of modes that are alive on either side; NaN if one side is constant.
    error: median of |predicted - measured| / measured over the modes that are alive on both sides; NaN without any.
    """

    modes: int
    predicted: int
    measured: int
    agree: int
    correlation: float
    error: float


def agreement(predicted: npt.ArrayLike, measured: npt.ArrayLike, floor: npt.ArrayLike) -> Agreement:
    """Compare strengths (k,); a mode is alive if its strength is above `floor`, a number or (k,)."""
    a = errors.array("predicted", predicted, np.shape(predicted))
    b = errors.array("measured", measured, np.shape(measured))
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise DynamicsError(f"predicted and measured must be two vectors of one length; {a.shape} and {b.shape}.")
    least = np.broadcast_to(errors.array("floor", floor, np.shape(floor)), a.shape)
    up, alive = a > least, b > least
    both = up & alive
    error = float(np.median(np.abs(a[both] - b[both]) / b[both])) if both.any() else float("nan")
    either = up | alive
    rank = _spearman(a[either], b[either]) if either.any() else float("nan")
    return Agreement(len(a), int(up.sum()), int(alive.sum()), int((up == alive).sum()), rank, error)


def _spearman(a: Float, b: Float) -> float:
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    if x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
