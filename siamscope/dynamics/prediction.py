"""From a network's data and optimiser to what the theory expects of it, mode by mode, and how that compares.

Where X and X' share their eigenvectors, each of them is a mode by itself (appendix D of arXiv:2102.06810): a `Modes`
with its own `signal` (X's eigenvalue) and `sigma2` (that of X'). Data that do not commute: `siamscope.dynamics.joint`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.modes import Modes


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

    With unequal decay p rests where it would with eta alone, and s = (eta_p / eta) p^2 / alpha_p, from eqs (11), (12);
    with decay of the encoder alone nothing rests but at s = 0.
    """
    check_rates(eta, alpha_p, eta_p)
    own = np.atleast_1d(errors.array("signal", signal, np.shape(signal)))
    added = errors.array("sigma2", sigma2, np.shape(sigma2))
    if added.shape not in ((), own.shape):
        raise DynamicsError(f"sigma2 must be one number, or one for each of the {len(own)} modes.")
    added = np.broadcast_to(added, own.shape)
    if (own < 0).any() or (added < 0).any():
        raise DynamicsError("signal and sigma2 are variances; none can be negative.")
    alive = (own > 0) & (eta == 0 or eta_p != 0)
    modes = Modes(eta=eta, sigma2=added, signal=np.where(alive, own, 1.0), alpha_p=alpha_p)
    limit = np.where(alive, modes.eta_limit, 0.0)
    low, high = (np.where(eta < limit, root, np.nan) for root in modes.roots())
    return ModeForecast(eta, own, np.asarray(added), limit, low, high, strength_at_rest(high, eta, alpha_p, eta_p))


def check_rates(eta: float, alpha_p: float, eta_p: float | None) -> None:
    """Raise DynamicsError for rates out of range."""
    errors.number("eta", eta, low=0)
    errors.number("alpha_p", alpha_p, low=0, above=True)
    if eta_p is not None:
        errors.number("eta_p", eta_p, low=0)


def strength_at_rest(p: Float, eta: float, alpha_p: float, eta_p: float | None) -> Float:
    """s at rest, from p; 0 where p is NaN."""
    own = eta if eta_p is None else eta_p
    ratio = own / eta if eta > 0 else np.inf if own > 0 else np.nan
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
    least = errors.array("floor", floor, np.shape(floor))
    if least.shape not in ((), a.shape):
        raise DynamicsError(f"floor must be one number, or one for each of the {len(a)} modes.")
    least = np.broadcast_to(least, a.shape)
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
