"""One mode on its parabola, and modes in time: figures 4 and 5 of Tian, Chen & Ganguli 2021 (arXiv:2102.06810)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.anisotropic import ScalarNetwork
from siamscope.dynamics.errors import DynamicsError, Float, Rate
from siamscope.dynamics.modes import Modes, Parabola
from siamscope.dynamics.plane import FixedPoint, axis, fixed_point
from siamscope.dynamics.vectorised import solve_many


@dataclass(frozen=True, eq=False)
class FlowLine:
    """dp/dt (P,) of eq. (16) at p (P,), and its fixed points, p increasing; all of them, also those outside the range.

    With eta at `limit` the two roots are one, degenerate: it attracts from above and lets go below.
    """

    modes: Modes
    p: Float
    dp: Float
    points: tuple[FixedPoint, ...]

    @property
    def limit(self) -> float:
        """The weight decay above which only collapse is left."""
        return float(self.modes.eta_limit)


def flow_line(modes: Modes, p_range: tuple[float, float] = (-0.2, 1.0), count: int = 600) -> FlowLine:
    """The flow on the parabola s = p^2 / alpha_p, for numbers as parameters and constant tau.

    Raises:
        DynamicsError: parameters outside the above, or a range that does not increase.
    """
    if modes.vectors():
        raise DynamicsError(f"{modes.vectors()[0]} must be one number: a flow line shows one set of parameters.")
    flow = Parabola(modes.alpha_p, modes.eta, modes.sigma2, modes.tau, modes.eta_p, modes.signal)
    p = axis("p_range", p_range, count)
    return FlowLine(modes, p, flow.rhs(0.0, p[:, None])[:, 0], _points(modes))


def _points(modes: Modes) -> tuple[FixedPoint, ...]:
    drive, total, eta = float(modes.constant_tau * modes.signal), float(modes.total), float(modes.eta)
    low, high = (float(root) for root in modes.roots())
    if not math.isfinite(high):
        places = [0.0]
    elif abs(high - low) <= 1e-7 * abs(high):  # at the limit; rounding parts the roots by its square root
        places = [0.0, drive / (2 * total)]
    else:
        places = sorted({0.0, low, high})
    return tuple(fixed_point((p,), [[2 * drive * p - 3 * total * p * p - eta]], drive**2 / total) for p in places)


@dataclass(frozen=True, eq=False)
class Courses:
    """Modes in time under one set of rates: times (T,); p, s, tau (T, N) for N starts."""

    eta: float
    beta: float
    times: Float
    p: Float
    s: Float
    tau: Float

    @property
    def tau_when_dead(self) -> float:
        """Where tau of a collapsing mode goes: beta / (beta - eta), infinite if beta <= eta, 1 if the target is W."""
        if math.isinf(self.beta):
            return 1.0
        return self.beta / (self.beta - self.eta) if self.beta > self.eta else math.inf


def courses(
    p: Sequence[float],
    s: Sequence[float],
    *,
    eta: float,
    beta: float,
    end: float = 60.0,
    tau: float = 0.0,
    alpha_p: float = 1.0,
    sigma2: float = 0.1,
    count: int = 301,
) -> Courses:
    """p, s and tau of the starts (N,), s above 0, from tau(0) = `tau` on.

    beta = infinity: the target is the online network, tau = 1. tau(0) is 0 in the paper (eq. 15): a target that starts
    at 0; a copy of the online network starts at 1. Solved as the network (w_p, w, w_a) with p = w_p, s = w^2 and
    tau = w_a / w, because eq. (13) ends in a pole of tau where w passes through 0, as it may for p < 0.

    Raises:
        DynamicsError: starts or rates outside their domain, or a trajectory that does not reach `end`.
    """
    if len(p) != len(s) or not len(p):
        raise DynamicsError(f"starts need as many p as s, at least one; there are {len(p)} and {len(s)}.")
    if min(s) <= 0:
        raise DynamicsError(f"s of a start must be above 0; it is {min(s):g}.")
    errors.number("end", end, low=0, above=True)
    times = np.linspace(0.0, end, errors.whole("count", count, low=2))
    network, start = scalar_start(p, s, tau, alpha_p=alpha_p, eta=eta, sigma2=sigma2, beta=beta)
    run = solve_many(network, start, end, times=times, rtol=1e-8, atol=1e-30, max_steps=100_000)
    if run.count("done") < len(p):
        raise DynamicsError(f"a trajectory did not reach t={end:g}; it may be stiff: use a smaller alpha_p.")
    w_p, w = run.paths["w_p"], run.paths["w"]
    return Courses(eta, beta, times, w_p, w**2, run.paths.get("w_a", w) / w)


def scalar_start(
    p: npt.ArrayLike, s: npt.ArrayLike, tau: float, *, alpha_p: Rate, eta: Rate, sigma2: Rate, beta: Rate
) -> tuple[ScalarNetwork, dict[str, Float]]:
    """The network of one weight a layer that is the modes (p, s, tau) (N,), and its starts; see `courses`."""
    share, w_p, w = errors.number("tau", tau), errors.array("p", p, ()), np.sqrt(errors.array("s", s, ()))
    if np.all(np.isinf(beta)):
        return ScalarNetwork(alpha_p, eta, sigma2=sigma2, target="online"), {"w_p": w_p, "w": w}
    return ScalarNetwork(alpha_p, eta, beta, sigma2=sigma2), {"w_p": w_p, "w": w, "w_a": share * w}
