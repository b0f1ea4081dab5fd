"""From a network's data and optimiser to what the theory expects of it, mode by mode.

A mode is a direction of the input space: an eigenvector of X. Its `signal` is X's eigenvalue, its `sigma2` the variance
that augmentation adds along it. Where X and X' share their eigenvectors, modes of an aligned network are independent
(appendix D of arXiv:2102.06810) and each is a `Modes`; elsewhere that is an approximation, and the flow of the whole
matrices (`MatrixFlow`, `SetFlow`) is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.modes import Modes


@dataclass(frozen=True, eq=False)
class InputModes:
    """The first k eigenvectors of X, largest eigenvalue first.

    basis (n, k): orthonormal columns.  x, x_noise (k, k): X and X' in that basis; x is diagonal, x_noise need not be.
    kept: their share of the trace of X + X'.
    """

    basis: Float
    x: Float
    x_noise: Float
    kept: float

    @property
    def signal(self) -> Float:
        """(k,) variance of the augmentations' means along each mode, not below 0."""
        return np.maximum(np.diag(self.x), 0.0)

    @property
    def sigma2(self) -> Float:
        """(k,) variance that augmentation adds along each mode."""
        return np.diag(self.x_noise).copy()

    @property
    def mixing(self) -> float:
        """Share of X' (Frobenius norm, squared) outside its diagonal: 0 where modes are independent."""
        whole = float(np.square(self.x_noise).sum())
        return 1 - float(np.square(self.sigma2).sum()) / whole if whole > 0 else 0.0

    def strengths(self, w: npt.ArrayLike) -> Float:
        """|W v_j|^2 (..., k) of encoders W (..., n2, n)."""
        return np.asarray(np.square(np.asarray(w) @ self.basis).sum(-2), dtype=np.float64)

    def gains(self, w: npt.ArrayLike, w_p: npt.ArrayLike) -> Float:
        """u_j^T W_p u_j (..., k) for u_j along W v_j: what the predictor does to each mode; 0 where W v_j = 0."""
        seen = np.asarray(w) @ self.basis
        size = np.square(seen).sum(-2)
        turned = (seen * (np.asarray(w_p) @ seen)).sum(-2)
        return np.asarray(np.where(size > 0, turned / np.where(size > 0, size, 1.0), 0.0), dtype=np.float64)


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
    values, vectors = np.linalg.eigh(signal)
    if values[-1] <= 0:
        raise DynamicsError(f"x has no positive eigenvalue (largest: {values[-1]:.3g}): the views share nothing.")
    basis = vectors[:, ::-1][:, : errors.whole("keep", keep)]
    inner = _not_negative(basis.T @ noise @ basis)
    kept_x = np.diag(np.maximum(values[::-1][: basis.shape[1]], 0.0))
    share = float(np.trace(kept_x) + np.trace(inner)) / float(np.maximum(values, 0).sum() + np.trace(noise))
    return InputModes(basis, kept_x, inner, min(share, 1.0))


def _not_negative(a: Float) -> Float:
    values, vectors = np.linalg.eigh((a + a.T) / 2)
    out = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return np.asarray((out + out.T) / 2, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ModeForecast:
    """What the theory of one mode says of each, arrays (k,).

    eta: weight decay of the encoder.  eta_limit: the weight decay above which the mode must collapse.
    p_low, p_high: the predictor's eigenvalue below which the mode falls, and at which it rests; NaN above the limit.
    strength: |W v|^2 at rest, 0 above the limit; infinite where nothing holds it (a decay of the predictor alone), NaN
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
        """Whether eta is below the limit."""
        return np.asarray(self.eta < self.eta_limit)

    @property
    def margin(self) -> Float:
        """eta_limit / eta: how many times larger the weight decay may be; infinite for eta = 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(self.eta_limit > 0, self.eta_limit / self.eta, 0.0))


def forecast(
    signal: npt.ArrayLike, sigma2: npt.ArrayLike, eta: float, *, alpha_p: float = 1.0, eta_p: float | None = None
) -> ModeForecast:
    """Rests and limits of modes (k,) with tau = 1, as at the end of training.

    With unequal decay p rests where it would with eta alone, and s = (eta_p / eta) p^2 / alpha_p, from eqs (11), (12).
    A mode without signal cannot survive.
    """
    own = np.atleast_1d(errors.array("signal", signal, np.shape(signal)))
    added = np.broadcast_to(errors.array("sigma2", sigma2, np.shape(sigma2)), own.shape)
    if (own < 0).any() or (added < 0).any():
        raise DynamicsError("signal and sigma2 are variances; none can be negative.")
    alive = own > 0
    modes = Modes(eta=eta, sigma2=added, signal=np.where(alive, own, 1.0), alpha_p=alpha_p)
    low, high = (np.where(alive, root, np.nan) for root in modes.roots())
    ratio = 1.0 if eta_p is None or eta_p == eta else _ratio(errors.number("eta_p", eta_p, low=0), eta)
    if eta == 0 and not eta_p:
        ratio = np.nan
    rest = ratio * np.square(high) / alpha_p
    limit = np.where(alive, modes.eta_limit, 0.0)
    return ModeForecast(eta, own, np.asarray(added), limit, low, high, np.where(eta < limit, rest, 0.0))


def _ratio(eta_p: float, eta: float) -> float:
    return eta_p / eta if eta > 0 else np.inf


@dataclass(frozen=True)
class Agreement:
    """Predicted against measured strengths of the same modes.

    modes: how many.  predicted, measured: how many of them are alive.  agree: how many have the same verdict.
    correlation: Spearman's, of the strengths; NaN if one side is constant.
    error: median of |predicted - measured| / measured over the modes that are alive on both sides; NaN without any.
    """

    modes: int
    predicted: int
    measured: int
    agree: int
    correlation: float
    error: float


def agreement(predicted: npt.ArrayLike, measured: npt.ArrayLike, floor: float) -> Agreement:
    """Compare strengths (k,); a mode is alive if its strength is above `floor`."""
    a = errors.array("predicted", predicted, np.shape(predicted))
    b = errors.array("measured", measured, np.shape(measured))
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise DynamicsError(f"predicted and measured must be two vectors of one length; {a.shape} and {b.shape}.")
    up, alive = a > errors.number("floor", floor, low=0), b > floor
    both = up & alive
    error = float(np.median(np.abs(a[both] - b[both]) / b[both])) if both.any() else float("nan")
    return Agreement(len(a), int(up.sum()), int(alive.sum()), int((up == alive).sum()), _spearman(a, b), error)


def _spearman(a: Float, b: Float) -> float:
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    if x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
