"""Predictors that are set from F = W W^T and not trained: DirectPred, DirectSet(alpha), DirectCopy.

Sources: Tian, Chen & Ganguli 2021 (arXiv:2102.06810), section 4 and eq. 18; Wang, Chen, Du & Tian 2021
(arXiv:2110.04947), DirectSet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float, Rate, per_row, transposed
from siamscope.dynamics.matrix import Target
from siamscope.dynamics.modes import Tau
from siamscope.dynamics.systems import Layout, System

Boost = Literal["plain", "paper", "code"]


@dataclass(frozen=True)
class SetRule:
    """From the eigenvalues s (..., m) of F to those of W_p, p (..., m).

    plain:  p = max(s - shift, 0)^power + eps                DirectSet's theorem; power 1/2 DirectPred, 1 DirectCopy
    paper:  p = max(s - shift, 0)^power + eps max(s)         eq. 18 of DirectPred
    code:   p = max(s / max(s) - shift, 0)^power + eps       the released DirectPred; F^power / |F^power| + eps I of
            DirectSet and DirectCopy in practice. Up to scale that is s^power + eps max(s)^power: not eq. 18.

    largest: what stands for max(s), which otherwise is that of the state.
    """

    power: float = 0.5
    eps: float = 0.0
    shift: float = 0.0
    boost: Boost = "paper"
    largest: float | None = None

    def __post_init__(self) -> None:
        errors.number("power", self.power, low=0, above=True)
        errors.number("eps", self.eps, low=0)
        errors.number("shift", self.shift)
        errors.choice("boost", self.boost, ("plain", "paper", "code"))
        if self.largest is not None:
            errors.number("largest", self.largest, low=0, above=True)

    def __call__(self, s: Float) -> Float:
        top = s.max(-1, keepdims=True) if self.largest is None else np.asarray(self.largest)
        if self.boost == "code":
            return self._raised(s / np.where(top > 0, top, 1.0)) + self.eps
        return self._raised(s) + self.eps * (top if self.boost == "paper" else 1.0)

    def _raised(self, s: Float) -> Float:
        return np.asarray(np.maximum(s - self.shift, 0.0) ** self.power)


@dataclass(frozen=True, eq=False)
class SetModes(System):
    """s (modes,) of a network whose predictor follows a rule, with W_a = tau W:

    ds_j/dt = 2 p_j s_j [signal_j tau_j - (signal_j + sigma2_j) p_j] - 2 eta s_j,   p = rule(s)

    sigma2, signal: numbers, or one for each mode. Modes are coupled only by a rule that looks at max(s).
    tau: a number, a function of time, or "ema": part of the state, one for each mode, with
        dtau_j/dt = beta (1 - tau_j) - tau_j (ds_j/dt) / (2 s_j).
    eta, beta, tau: numbers, or vectors (n,) with one value for each trajectory.
    """

    modes: int = 1
    eta: Rate = 0.0
    sigma2: float | Float = field(default=0.0, metadata={"shared": True})
    signal: float | Float = field(default=1.0, metadata={"shared": True})
    tau: Tau | Literal["ema"] = 1.0
    rule: SetRule = field(default_factory=SetRule)
    beta: Rate = 1.0

    def __post_init__(self) -> None:
        self._set(
            modes=errors.whole("modes", self.modes),
            eta=errors.rate("eta", self.eta),
            sigma2=errors.rate("sigma2", self.sigma2),
            signal=errors.rate("signal", self.signal, above=True),
            beta=errors.rate("beta", self.beta),
        )
        if isinstance(self.tau, str):
            errors.choice("tau", self.tau, ("ema",))
        elif not callable(self.tau):
            self._set(tau=errors.rate("tau", self.tau, low=-np.inf))
        _is_rule(self.rule)
        for name in ("sigma2", "signal"):
            if np.shape(getattr(self, name)) not in ((), (self.modes,)):
                raise DynamicsError(f"{name} must be one number, or one for each of the {self.modes} modes.")

    @cached_property
    def layout(self) -> Layout:
        parts: tuple[tuple[str, tuple[int, ...]], ...] = (("s", (self.modes,)),)
        return Layout((*parts, ("tau", (self.modes,))) if isinstance(self.tau, str) else parts)

    def check_start(self, parts: Mapping[str, Float]) -> None:
        if (parts["s"] < 0).any():
            raise DynamicsError(f"s holds eigenvalues of W W^T; none can be negative. Smallest: {parts['s'].min():g}.")

    def rhs(self, t: float | Float, y: Float) -> Float:
        s = y[..., : self.modes]
        p = self.rule(s)
        tau = self._tau(t, y)
        growth = p * (self.signal * tau - (self.signal + self.sigma2) * p) - per_row(self.eta, 1)
        if not isinstance(self.tau, str):
            return np.asarray(2 * s * growth)
        return np.concatenate([2 * s * growth, per_row(self.beta, 1) * (1 - tau) - tau * growth], axis=-1)

    def _tau(self, t: float | Float, y: Float) -> float | Float:
        if isinstance(self.tau, str):
            return y[..., self.modes :]
        return per_row(errors.of_time("tau", self.tau, t) if callable(self.tau) else self.tau, 1)


@dataclass(frozen=True, eq=False)
class SetFlow(System):
    """W (width, n1) with W_p = rule(F) at all times and stop-gradient; W_a too, if it is a moving average:

    dW/dt = W_p [W_a X - W_p W (X + X')] - eta W,   dW_a/dt = beta (W - W_a)

    target: "online", W_a = W at all times, or "ema".
    eta, beta: numbers, or vectors (n,) with one value for each trajectory.
    correlation: F = W W^T ("weights"), W X W^T ("means") or W (X + X') W^T ("views", what a network can measure).
    """

    x: Float
    x_noise: Float
    width: int
    eta: Rate = 0.0
    rule: SetRule = field(default_factory=SetRule)
    correlation: Literal["weights", "means", "views"] = "weights"
    target: Target = "online"
    beta: Rate = 1.0

    def __post_init__(self) -> None:
        errors.choice("correlation", self.correlation, ("weights", "means", "views"))
        errors.choice("target", self.target, ("ema", "online"))
        _is_rule(self.rule)
        self._set(x=errors.psd("x", self.x), x_noise=errors.psd("x_noise", self.x_noise))
        if self.x.shape != self.x_noise.shape:
            raise DynamicsError(f"x_noise has shape {self.x_noise.shape}; x has {self.x.shape}.")
        self._set(
            width=errors.whole("width", self.width),
            eta=errors.rate("eta", self.eta),
            beta=errors.rate("beta", self.beta),
        )

    @cached_property
    def layout(self) -> Layout:
        shape = (self.width, len(self.x))
        return Layout((("W", shape), ("W_a", shape)) if self.target == "ema" else (("W", shape),))

    def predictor_at(self, y: Float) -> Float:
        """W_p (..., width, width)."""
        w = self.layout.unpack(y)["W"]
        middle = {"weights": None, "means": self.x, "views": self.x + self.x_noise}[self.correlation]
        f = (w if middle is None else w @ middle) @ transposed(w)
        return apply_rule(self.rule, f)

    def rhs(self, t: float | Float, y: Float) -> Float:
        parts, w_p = self.layout.unpack(y), self.predictor_at(y)
        w = parts["W"]
        w_a = parts.get("W_a", w)
        moves = {"W": w_p @ (w_a @ self.x - w_p @ w @ (self.x + self.x_noise)) - per_row(self.eta, 2) * w}
        if self.target == "ema":
            moves["W_a"] = per_row(self.beta, 2) * (w - w_a)
        return self.layout.pack(moves)


def _is_rule(rule: object) -> None:
    if not isinstance(rule, SetRule):
        raise DynamicsError(f"rule must be a SetRule; it is {errors.shown(rule)}.")


def apply_rule(rule: SetRule, f: Float) -> Float:
    """W_p = U diag(rule(s)) U^T (..., d, d) for F = U diag(s) U^T; rounding below 0 counts as 0. NaN in, NaN out."""
    if np.ndim(f) < 2 or np.shape(f)[-1] != np.shape(f)[-2]:
        raise DynamicsError(f"f must be square matrices; it has shape {np.shape(f)}.")
    fine = np.isfinite(f).all((-2, -1), keepdims=True)  # one bad member of a batch must not spoil the others
    s, u = np.linalg.eigh(np.where(fine, f, 0.0))
    return np.where(fine, (u * rule(np.maximum(s, 0.0))[..., None, :]) @ transposed(u), np.nan)


# -- closed forms ------------------------------------------------------------------------------------------------------


def largest_decay(sigma2: npt.ArrayLike, *, tau: float = 1.0, signal: npt.ArrayLike = 1.0) -> Float:
    """The weight decay above which a mode must collapse: (signal tau)^2 / (4 (signal + sigma2)).

    The same for a trained predictor and for DirectSet of any power.
    """
    noise, own = _rates(sigma2=sigma2, signal=signal)
    return np.asarray((own * errors.number("tau", tau)) ** 2 / (4 * (own + noise)), dtype=np.float64)


def largest_noise(eta: npt.ArrayLike, *, tau: float = 1.0, signal: npt.ArrayLike = 1.0) -> Float:
    """The augmentation variance up to which a mode can live: (signal tau)^2 / (4 eta) - signal; 1 / (4 eta) - 1."""
    own, decay = _rates(signal=signal, eta=eta)
    with np.errstate(divide="ignore"):
        return np.asarray((own * errors.number("tau", tau)) ** 2 / (4 * decay) - own, dtype=np.float64)


def _rates(**values: npt.ArrayLike) -> list[Float]:
    """Arrays of any shape: signal above 0, the others not below."""
    arrays = {name: errors.array(name, value, ()) for name, value in values.items()}
    for name, array in arrays.items():
        if (array < 0).any() or (name == "signal" and (array == 0).any()):
            raise DynamicsError(f"{name} must not be negative, and signal above 0; it is {array.min():g}.")
    return list(arrays.values())


@dataclass(frozen=True)
class SubspaceTheorem:
    """DirectSet from W = delta I on X = I, X' = sigma2 P_B (Wang et al. 2021): W -> scale * P_S if delta > threshold.

    For 1 / (4 (1 + sigma2)) < eta < 1/4; `inside` says whether eta is. scale and threshold are NaN for eta > 1/4.
    """

    eta: float
    sigma2: float
    power: float = 0.5

    def __post_init__(self) -> None:
        errors.number("eta", self.eta, low=0)
        errors.number("sigma2", self.sigma2, low=0)
        errors.number("power", self.power, low=0, above=True)

    @property
    def inside(self) -> bool:
        return 1 / (4 * (1 + self.sigma2)) < self.eta < 0.25

    @property
    def scale(self) -> float:
        return float(self._root(1) ** (1 / (2 * self.power)))

    @property
    def threshold(self) -> float:
        return float(self._root(-1) ** (1 / (2 * self.power)))

    def _root(self, sign: int) -> float:
        square = 1 - 4 * self.eta
        return (1 + sign * square**0.5) / 2 if square >= 0 else float("nan")
