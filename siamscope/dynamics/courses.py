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
from siamscope.dynamics.plane import FixedPoint, axis, check_field, check_tau, fixed_point
from siamscope.dynamics.solve import Adaptive, solve
from siamscope.dynamics.vectorised import solve_many

_FEW = 50  # steps of the explicit solver between two times; a flow that needs more is stiff
_MOST = 20_000  # steps of the stiff one for a whole trajectory: a few seconds
_ROUNDING = 1e-25  # below it w is no longer known relative to itself, nor is tau = w_a / w


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
    """The flow on the parabola s = p^2 / alpha_p, for numbers as parameters and constant tau above 0.

    Raises:
        DynamicsError: parameters outside the above or too large to draw, or a range that does not increase.
    """
    if modes.vectors():
        raise DynamicsError(f"{modes.vectors()[0]} must be one number: a flow line shows one set of parameters.")
    check_tau(modes)
    flow = Parabola(modes.alpha_p, modes.eta, modes.sigma2, modes.tau, modes.eta_p, modes.signal)
    p = axis("p_range", p_range, count)
    with np.errstate(over="ignore", invalid="ignore"):
        dp = flow.rhs(0.0, p[:, None])[:, 0]
    check_field(modes, dp)
    return FlowLine(modes, p, dp, _points(modes))


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
    """Modes in time under one set of rates: times (T,); p, s, tau (T, N) for N starts.

    tau is NaN where w is below 1e-25: a ratio of rounding.
    """

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
    tau = w_a / w, because eq. (13) ends in a pole of tau where w passes through 0, as it may for p < 0. Stiff flows,
    of a large alpha_p for instance, go to an implicit solver.

    Raises:
        DynamicsError: starts or rates outside their domain, or a trajectory that does not reach `end` within 20,000
            steps of that solver; the message names the largest of the numbers.
    """
    if len(p) != len(s) or not len(p):
        raise DynamicsError(f"starts need as many p as s, at least one; there are {len(p)} and {len(s)}.")
    if min(s) <= 0:
        raise DynamicsError(f"s of a start must be above 0; it is {min(s):g}.")
    errors.number("end", end, low=0, above=True)
    times = np.linspace(0.0, end, errors.whole("count", count, low=2))
    network, start = scalar_start(p, s, tau, alpha_p=alpha_p, eta=eta, sigma2=sigma2, beta=beta)
    found = _paths(network, start, times)
    if found is None:
        name, value = _largest(p, s, end, tau=abs(tau), alpha_p=alpha_p, eta=eta, sigma2=sigma2, beta=beta)
        raise DynamicsError(f"a trajectory did not reach t={end:g}: too stiff. Make {name}={value:g} smaller.")
    w_p, w = found["w_p"], found["w"]
    known = np.abs(w) > _ROUNDING
    share = np.where(known, found.get("w_a", w) / np.where(known, w, 1.0), np.nan)
    return Courses(eta, beta, times, w_p, w**2, share)


def _paths(network: ScalarNetwork, start: dict[str, Float], times: Float) -> dict[str, Float] | None:
    """Each part of the state (T, N), or None if a trajectory did not get to the end."""
    run = solve_many(network, start, times[-1], times=times, rtol=1e-8, atol=1e-30, max_steps=_FEW)
    if run.count("done") == len(run.y):
        return run.paths
    solver, columns = Adaptive("LSODA", rtol=1e-8, atol=1e-30), []
    for i in range(len(run.y)):
        one = solve(network, {name: part[i] for name, part in start.items()}, times[-1], save=times, solver=solver,
                    max_steps=_MOST)  # fmt: skip
        if one.status != "done":
            return None
        columns.append(one)
    return {name: np.stack([one[name] for one in columns], -1) for name in start}


def _largest(p: Sequence[float], s: Sequence[float], end: float, **rates: float) -> tuple[str, float]:
    """The name and size of the number that most likely is to blame."""
    sizes = {name: value for name, value in rates.items() if math.isfinite(value)}
    sizes |= {"a start's p": max(abs(x) for x in p), "a start's s": max(s), "time": end}
    return max(sizes.items(), key=lambda item: item[1])


def scalar_start(
    p: npt.ArrayLike, s: npt.ArrayLike, tau: float, *, alpha_p: Rate, eta: Rate, sigma2: Rate, beta: Rate
) -> tuple[ScalarNetwork, dict[str, Float]]:
    """The network of one weight a layer that is the modes (p, s, tau) (N,), and its starts; see `courses`."""
    share, w_p, w = errors.number("tau", tau), errors.array("p", p, ()), np.sqrt(errors.array("s", s, ()))
    if np.all(np.isinf(beta)):
        return ScalarNetwork(alpha_p, eta, sigma2=sigma2, target="online"), {"w_p": w_p, "w": w}
    return ScalarNetwork(alpha_p, eta, beta, sigma2=sigma2), {"w_p": w_p, "w": w, "w_a": share * w}
