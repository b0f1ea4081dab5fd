"""One mode of the linear network: p, its eigenvalue of the predictor, and s, its eigenvalue of W W^T.

    dp/dt = alpha_p s [signal tau - (signal + sigma2) p] - eta_p p                           (11)
    ds/dt = 2 p s [signal tau - (signal + sigma2) p] - 2 eta s                               (12)
    dtau/dt = beta (1 - tau) - tau (ds/dt) / (2 s)                                           (13)

Equation numbers are those of Tian, Chen & Ganguli 2021 (arXiv:2102.06810). There `signal` is 1; other values are the
case of their appendix D in which everything commutes: `signal` is the mode's eigenvalue of X, `sigma2` that of X'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float, Rate
from siamscope.dynamics.systems import Layout, System

Tau = Rate | Callable[[float | Float], float | Float]
"""The target's share of the online weights, W_a = tau W: constant, or a function of time that takes arrays.

A function's TypeError or ValueError becomes a DynamicsError; any other exception goes through the solvers as it is.
"""


@dataclass(frozen=True, eq=False)
class Modes(System):
    """(p, s) with tau given: eqs (11), (12).

    Parameters are numbers, or vectors (n,) with one value for each trajectory.

    alpha_p: the predictor's learning rate over the encoder's.
    eta: weight decay of the encoder (of both, unless eta_p is given), in the theory's units: a gradient flow's -eta W.
    sigma2: variance that augmentation adds along the mode.  signal: variance of the augmentations' mean.
    """

    alpha_p: Rate = 1.0
    eta: Rate = 0.0
    sigma2: Rate = 0.0
    tau: Tau = 1.0
    eta_p: Rate | None = None
    signal: Rate = 1.0

    def __post_init__(self) -> None:
        self._set(
            alpha_p=errors.rate("alpha_p", self.alpha_p, above=True),
            eta=errors.rate("eta", self.eta),
            sigma2=errors.rate("sigma2", self.sigma2),
            signal=errors.rate("signal", self.signal, above=True),
        )
        if self.eta_p is not None:
            self._set(eta_p=errors.rate("eta_p", self.eta_p))
        if not callable(self.tau):
            self._set(tau=errors.rate("tau", self.tau, low=-np.inf))

    @property
    def layout(self) -> Layout:
        return _PS

    def check_start(self, parts: Mapping[str, Float]) -> None:
        _not_negative(parts["s"])

    def tau_at(self, t: float | Float) -> float | Float:
        return errors.of_time("tau", self.tau, t) if callable(self.tau) else self.tau

    def rhs(self, t: float | Float, y: Float) -> Float:
        p, s = y[..., 0], y[..., 1]
        gain = self._drive(t) - self.total * p
        out = np.empty_like(y)
        out[..., 0] = self.alpha_p * (gain * s) - self.decay_p * p
        out[..., 1] = 2.0 * s * (p * gain - self.eta)
        return out

    @cached_property
    def total(self) -> Rate:
        """signal + sigma2, the mode's eigenvalue of X + X'."""
        return self.signal + self.sigma2

    @cached_property
    def decay_p(self) -> Rate:
        """The predictor's weight decay."""
        return self.eta if self.eta_p is None else self.eta_p

    def _drive(self, t: float | Float) -> float | Float:
        return self.tau_at(t) * self.signal

    @property
    def constant_tau(self) -> Rate:
        """tau, for the closed forms, which hold only if it is constant."""
        if callable(self.tau):
            raise DynamicsError("tau is a function of time: this closed form needs a constant. Give tau a number.")
        return self.tau

    def _equal_decay(self) -> None:
        if self.eta_p is not None and np.any(np.asarray(self.eta_p) != self.eta):
            raise DynamicsError("eta_p differs from eta: this closed form needs equal weight decay. Leave eta_p out.")

    def _at(self, p: Rate, s: Rate = 0.0) -> tuple[Float, Float]:
        """p and s as arrays that fit together and with the parameters."""
        p, s = errors.real("p", p), errors.real("s", s)
        try:
            np.broadcast_shapes(p.shape, s.shape, *self._sizes)
        except ValueError:
            sizes = f", the parameters {self._sizes[0]}" if self._sizes else ""
            raise DynamicsError(f"p and s do not fit together: p has shape {p.shape}, s {s.shape}{sizes}.") from None
        return p, s

    @cached_property
    def _sizes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the parameters that are vectors."""
        return tuple(getattr(self, name).shape for name in self.vectors())

    # -- closed forms ------------------------------------------------------------------------------------------------

    def excess(self, p: Rate, s: Rate) -> Float:
        """c = s - p^2 / alpha_p, which decays as exp(-2 eta t): eq. (14). The paper prints c with the other sign."""
        self._equal_decay()
        p, s = self._at(p, s)
        return np.asarray(s - np.square(p) / self.alpha_p, dtype=np.float64)

    def delta(self, p: Rate) -> Float:
        """Delta = p [signal tau - total p] - eta, the rate of log s / 2: the mode grows where it is positive."""
        p, _ = self._at(p)
        return np.asarray(p * (self.constant_tau * self.signal - self.total * p) - self.eta, dtype=np.float64)

    def roots(self) -> tuple[Float, Float]:
        """(p_-, p_+): the values of p at which Delta is 0; NaN where eta is above `eta_limit`.

        p_- is where the basin of collapse ends, on the parabola s = p^2 / alpha_p; p_+ is where a learnt mode ends.
        """
        drive, total = np.asarray(self.constant_tau * self.signal), np.asarray(self.total)
        square = drive**2 - 4 * self.eta * total
        spread = np.sqrt(np.where(square < 0, np.nan, square))
        high = (drive + spread) / (2 * total)
        # p_- p_+ = eta / total: a difference of near-equal numbers would lose p_-'s digits at small eta
        by_product = self.eta / (total * np.where(high > 0, high, np.nan))
        low = np.where(drive > 0, by_product, (drive - spread) / (2 * total))
        return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)

    @property
    def eta_limit(self) -> Float:
        """(signal tau)^2 / (4 total): a weight decay above it leaves collapse only (observation 5)."""
        return np.asarray((self.constant_tau * self.signal) ** 2 / (4 * self.total), dtype=np.float64)

    def jacobian(self, p: Rate, s: Rate) -> Float:
        """d rhs / d (p, s), (..., 2, 2)."""
        (p, s), drive = self._at(p, s), self.constant_tau * self.signal
        gain = drive - self.total * p
        entries = (
            -self.alpha_p * self.total * s - self.decay_p,
            self.alpha_p * gain,
            2 * s * (drive - 2 * self.total * p),
            2 * (p * gain - self.eta),
        )
        shape = np.broadcast_shapes(*(np.shape(entry) for entry in entries))
        flat = np.stack([np.broadcast_to(np.asarray(entry, dtype=np.float64), shape) for entry in entries], -1)
        return np.asarray(flat.reshape(*shape, 2, 2), dtype=np.float64)

    def aligned_k(self, p: Rate, s: Rate) -> Float:
        """This mode's eigenvalue of K (eq. 9) when F and W_p commute; alignment is sure where it is positive (17).

        For signal = 1, as the theorem.
        """
        if np.any(np.asarray(self.signal) != 1):
            raise DynamicsError("signal must be 1 for K: the theorem of alignment is for isotropic data.")
        p, s = self._at(p, s)
        growth = p * (self.constant_tau - self.total * p)
        return np.asarray(self.alpha_p * self.total * s / 2 - growth + (self.decay_p + 2 * self.eta) / 2)

    @property
    def alignment_limit(self) -> Float:
        """tau^2 / (9 total): with more weight decay, K is positive for every p on the parabola."""
        return np.asarray((self.constant_tau * self.signal) ** 2 / (9 * self.total), dtype=np.float64)

    def learns_without_decay(self, p: Rate, s: Rate) -> npt.NDArray[np.bool_]:
        """eta = 0: whether s stays above 0, exactly; c > 0, or p > 0 and -alpha_p c < (p*)^2, p* = signal tau / total.

        The paper's condition, c > 0, is sufficient only.
        """
        self._no_decay()
        c, limit = self.excess(p, s), self.constant_tau * self.signal / self.total
        reaches = (np.asarray(p) > 0) & (-self.alpha_p * c < np.square(limit)) & (np.asarray(limit) > 0)
        return np.asarray((np.asarray(s) > 0) & ((c > 0) | reaches))

    def limit_without_decay(self, p: Rate, s: Rate) -> tuple[Float, Float]:
        """eta = 0: the limits (p, s); s = s0 + (p*^2 - p0^2) / alpha_p for a mode that learns, 0 for one that does not.

        For tau > 0.
        """
        learns, c = self.learns_without_decay(p, s), self.excess(p, s)
        limit = np.asarray(self.constant_tau * self.signal / self.total)
        if (limit <= 0).any():
            raise DynamicsError("tau must be above 0 for this limit.")
        dead = np.copysign(np.sqrt(np.maximum(-self.alpha_p * c, 0)), p)
        dead = np.where(np.asarray(s) == 0, p, dead)
        final = c + limit**2 / self.alpha_p
        return np.where(learns, limit, dead), np.where(learns, final, 0.0)

    def _no_decay(self) -> None:
        if np.any(np.asarray(self.eta) != 0) or np.any(np.asarray(self.decay_p) != 0):
            raise DynamicsError("eta must be 0 for this closed form; `verdict` holds for any.")

    def verdict(self, p: Rate, s: Rate) -> npt.NDArray[np.int8]:
        """What is certain from (p, s) on: 1 the mode learns, -1 it collapses, 0 not settled yet. Equal decay above 0.

        From the corner (p_-, s_-) of the parabola: p <= p_- and s <= s_- can never be left and holds no other rest than
        collapse; p >= p_- and s >= s_- can only be left where p > p_+ and c < 0. There s = p^2 / alpha_p + c is above
        s_- until p is back at p_+ if alpha_p c >= p_-^2 - p_+^2, as c only shrinks. Without p_- everything collapses.
        """
        self._equal_decay()
        if np.any(np.asarray(self.eta) <= 0) or np.any(np.asarray(self.constant_tau) <= 0):
            raise DynamicsError("eta and tau must be above 0 for a verdict; see learns_without_decay for eta = 0.")
        low, high = self.roots()
        corner = low**2 / self.alpha_p
        p, s = self._at(p, s)
        dead = ((p <= low) & (s <= corner) & ~((p == low) & (s == corner))) | np.isnan(low) | (s <= 0)
        stays = (p <= high) | (self.alpha_p * self.excess(p, s) >= low**2 - high**2)
        alive = (p >= low) & (s >= corner) & stays & ~((p == low) & (s == corner))
        return np.asarray(np.where(dead, -1, np.where(alive, 1, 0)), dtype=np.int8)


@dataclass(frozen=True, eq=False)
class EMAModes(Modes):
    """(p, s, tau): tau follows the target's moving average, eq. (13), here with (ds/dt) / s in closed form.

    `tau` is not a parameter but part of the state. At rest tau = 1, so fixed points are those of `Modes`. In a mode
    that collapses tau tends to beta / (beta - eta) if beta > eta, and grows without end if not.

    Where p < 0, w may pass through 0 on its way, and tau = w_a / w has a pole there: a trajectory ends as "diverged".
    `ScalarNetwork`, the same flow in w and w_a, passes.
    """

    beta: Rate = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(beta=errors.rate("beta", self.beta))
        if callable(self.tau) or np.any(np.asarray(self.tau) != 1.0):
            raise DynamicsError("tau is part of the state here; give its initial value to `start`.")

    @property
    def layout(self) -> Layout:
        return _PST

    def verdict(self, p: Rate, s: Rate) -> npt.NDArray[np.int8]:
        """Refused, as is `learns_without_decay`: what becomes of (p, s) depends on how tau will move."""
        raise DynamicsError("tau moves here: nothing is certain from p and s. Use Modes, or solve to the end.")

    def learns_without_decay(self, p: Rate, s: Rate) -> npt.NDArray[np.bool_]:
        """Refused."""
        raise DynamicsError("tau moves here: this closed form is for a constant tau. Use Modes, or solve to the end.")

    def rhs(self, t: float | Float, y: Float) -> Float:
        p, s, tau = y[..., 0], y[..., 1], y[..., 2]
        gain = self.signal * tau - self.total * p
        growth = p * gain - self.eta
        out = np.empty_like(y)
        out[..., 0] = self.alpha_p * (gain * s) - self.decay_p * p
        out[..., 1] = 2.0 * s * growth
        out[..., 2] = self.beta * (1.0 - tau) - tau * growth
        return out


@dataclass(frozen=True, eq=False)
class Parabola(Modes):
    """p alone, on the parabola s = p^2 / alpha_p to which weight decay draws every mode: eq. (16).

    dp/dt = p^2 [signal tau - total p] - eta p; alpha_p cancels.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._equal_decay()

    @property
    def layout(self) -> Layout:
        return _P

    def check_start(self, parts: Mapping[str, Float]) -> None:
        """Any p is inside."""

    def rhs(self, t: float | Float, y: Float) -> Float:
        rate = np.expand_dims(self.eta, -1) if np.ndim(self.eta) else self.eta
        total = np.expand_dims(self.total, -1) if np.ndim(self.total) else self.total
        drive = self._drive(t)
        drive = np.expand_dims(drive, -1) if np.ndim(drive) else drive
        return np.asarray(y * (y * (drive - total * y) - rate))


def ema_share(t: Float, p: Float, beta: float, start: float = 0.0) -> Float:
    """tau(t) of eq. (15), on the parabola, from p at increasing times t (T,), T at least 2; (T,). `start` = tau(0).

    tau = [p(0) tau(0) + beta int p exp(beta t') dt'] exp(-beta t) / p. The paper takes tau(0) = 0; it prints dt.
    p is a cubic spline between the times, and its product with the exponential is integrated exactly: an error of
    fourth order in the spacing of t, whatever beta. Exponents are of differences of times, so none is too large.
    """
    from scipy.interpolate import CubicSpline
    from scipy.special import hyp1f1

    t, p = errors.times("t", t), errors.array("p", p, (np.size(t),))
    if len(t) < 2 or (np.diff(t) <= 0).any():
        raise DynamicsError("t must hold two times or more, and increase.")
    if (p == 0).any():
        raise DynamicsError("p must not be 0: tau is a share of it.")
    step, start = np.diff(t), errors.number("start", start)
    z = errors.number("beta", beta, low=0) * step
    gained = np.zeros(len(step))  # beta int p exp(-beta (end - t')) dt' over each step
    for k, c in enumerate(CubicSpline(t, p).c[::-1]):  # int_0^1 x^k exp(-z (1 - x)) dx = 1F1(1; k + 2; -z) / (k + 1)
        gained += z * c * step**k * hyp1f1(1, k + 2, -z) / (k + 1)
    product = np.empty(len(t))  # p tau
    product[0] = p[0] * start
    for i, (kept, more) in enumerate(zip(np.exp(-z), gained, strict=True)):
        product[i + 1] = product[i] * kept + more
    return np.asarray(product / p, dtype=np.float64)


_PS = Layout((("p", ()), ("s", ())))
_PST = Layout((("p", ()), ("s", ()), ("tau", ())))
_P = Layout((("p", ()),))


def _not_negative(s: Float) -> None:
    if (s < 0).any():
        raise DynamicsError(f"s is an eigenvalue of W W^T and cannot be negative; it is {s.min():g}.")
