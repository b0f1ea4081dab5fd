"""The reduced flow of F = W W^T and W_p for isotropic data (X = I, X' = sigma2 I) and W_a = tau W.

    dW_p/dt = -(alpha_p / 2) (1 + sigma2) {W_p, F} + alpha_p tau F - eta_p W_p               (7)
    dF/dt   = -(1 + sigma2) {W_p^2, F} + tau {W_p, F} - 2 eta F                              (8)

with {A, B} = A B + B A. Equation numbers are those of Tian, Chen & Ganguli 2021 (arXiv:2102.06810).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from siamscope.dynamics import errors
from siamscope.dynamics.errors import Float, Rate, per_row
from siamscope.dynamics.errors import transposed as _t
from siamscope.dynamics.modes import Tau
from siamscope.dynamics.systems import Layout, System


@dataclass(frozen=True, eq=False)
class ReducedFlow(System):
    """F, W_p (width, width) and, if it follows the moving average, tau.

    Rates, sigma2 and tau are numbers, or vectors (n,) with one value for each trajectory.

    tau: a number, a function of time, or "ema": part of the state, dtau/dt = beta (1 - tau) - tau tr(dF/dt) / (2 tr F).
        W_a = tau W with one number tau is not what an EMA gives; this is its projection on the trace. Per-mode tau:
        `EMAModes`.
    symmetric: False is the flow of eq. (62), where W_p need not be symmetric:
        dW_p/dt = -alpha_p (1 + sigma2) W_p F + alpha_p tau F - eta_p W_p, and F's equation with W_p^T where it belongs.
    """

    width: int
    alpha_p: Rate = 1.0
    eta: Rate = 0.0
    sigma2: Rate = 0.0
    tau: Tau | Literal["ema"] = 1.0
    beta: Rate = 1.0
    eta_p: Rate | None = None
    symmetric: bool = True

    def __post_init__(self) -> None:
        self._set(
            width=errors.whole("width", self.width),
            alpha_p=errors.rate("alpha_p", self.alpha_p, above=True),
            eta=errors.rate("eta", self.eta),
            sigma2=errors.rate("sigma2", self.sigma2),
            beta=errors.rate("beta", self.beta),
        )
        if self.eta_p is not None:
            self._set(eta_p=errors.rate("eta_p", self.eta_p))
        errors.flag("symmetric", self.symmetric)
        if isinstance(self.tau, str):
            errors.choice("tau", self.tau, ("ema",))
        elif not callable(self.tau):
            self._set(tau=errors.rate("tau", self.tau, low=-np.inf))

    @cached_property
    def layout(self) -> Layout:
        shape = (self.width, self.width)
        parts: tuple[tuple[str, tuple[int, ...]], ...] = (("F", shape), ("W_p", shape))
        return Layout((*parts, ("tau", ())) if isinstance(self.tau, str) else parts)

    def check_start(self, parts: Mapping[str, Float]) -> None:
        for f in parts["F"].reshape(-1, self.width, self.width):
            errors.psd("F", f)
        if self.symmetric:
            errors.symmetric("W_p", parts["W_p"])

    def tau_at(self, t: float | Float, y: Float) -> Float:
        """tau at time t (a number or (...,)) and states y (..., size)."""
        if isinstance(self.tau, str):
            return y[..., -1]
        return np.asarray(errors.of_time("tau", self.tau, t) if callable(self.tau) else self.tau, dtype=np.float64)

    def rhs(self, t: float | Float, y: Float) -> Float:
        parts = self.layout.unpack(y)
        f, w_p = parts["F"], parts["W_p"]
        tau = self.tau_at(t, y)[..., None, None]
        total, alpha_p = 1 + per_row(self.sigma2, 2), per_row(self.alpha_p, 2)
        pull = w_p @ f
        if self.symmetric:
            anti = pull + _t(pull)  # {W_p, F}; F and W_p stay symmetric
            d_p = alpha_p * (tau * f - total / 2 * anti)
        else:
            d_p = alpha_p * (tau * f - total * pull)
            anti = _t(w_p) @ f + _t(_t(w_p) @ f)
        square = _t(w_p) @ pull
        d_f = tau * anti - total * (square + _t(square)) - 2 * per_row(self.eta, 2) * f
        out = {"F": d_f, "W_p": d_p - per_row(self.decay_p, 2) * w_p}
        if isinstance(self.tau, str):
            size = np.trace(f, axis1=-2, axis2=-1)
            growth = np.trace(d_f, axis1=-2, axis2=-1) / (2 * np.where(size > 0, size, np.inf))
            out["tau"] = self.beta * (1 - y[..., -1]) - y[..., -1] * growth
        return self.layout.pack(out)

    @property
    def decay_p(self) -> Rate:
        """The predictor's weight decay."""
        return self.eta if self.eta_p is None else self.eta_p

    def k(self, t: float | Float, y: Float) -> Float:
        """K (..., width, width) of eq. (9): the commutator L = [F, W_p] obeys dL/dt = -L K - K L. For symmetric W_p.

        K = (1 + sigma2) [alpha_p F / 2 + W_p^2] - tau W_p + (eta_p + 2 eta) / 2 I; the paper has eta_p = eta.
        """
        parts = self.layout.unpack(y)
        f, w_p, tau = parts["F"], parts["W_p"], self.tau_at(t, y)[..., None, None]
        decay = (per_row(self.decay_p, 2) + 2 * per_row(self.eta, 2)) / 2 * np.eye(self.width)
        spring = per_row(self.alpha_p, 2) * f / 2 + w_p @ w_p
        return np.asarray((1 + per_row(self.sigma2, 2)) * spring - tau * w_p + decay)

    def commutator(self, y: Float) -> Float:
        """L = F W_p - W_p F (..., width, width); 0 where the eigenvectors are the same."""
        parts = self.layout.unpack(y)
        return parts["F"] @ parts["W_p"] - parts["W_p"] @ parts["F"]

    def balance(self, y: Float) -> Float:
        """D = F - W_p^T W_p / alpha_p. In the symmetric flow with equal decay

        dD/dt + 2 eta D = -(1 + sigma2) / 2 [W_p, [W_p, F]]: theorem 1 holds for its trace, not as a matrix.
        """
        parts = self.layout.unpack(y)
        return np.asarray(parts["F"] - _t(parts["W_p"]) @ parts["W_p"] / per_row(self.alpha_p, 2))

    def balance_source(self, y: Float) -> Float:
        """-(1 + sigma2) / 2 [W_p, [W_p, F]], see `balance`."""
        w_p, inner = self.layout.unpack(y)["W_p"], -self.commutator(y)
        return np.asarray(-(1 + per_row(self.sigma2, 2)) / 2 * (w_p @ inner - inner @ w_p))
