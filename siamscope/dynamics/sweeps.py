"""One parameter at a time: what it does to the basin of collapse, to the fixed points and to the speed of learning.

The observations of Tian, Chen & Ganguli 2021 (arXiv:2102.06810), section 3, with numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from siamscope.dynamics import errors
from siamscope.dynamics.courses import scalar_start
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.modes import Modes
from siamscope.dynamics.portrait import outcomes
from siamscope.dynamics.solution import Ensemble
from siamscope.dynamics.solve import Steady
from siamscope.dynamics.systems import System
from siamscope.dynamics.vectorised import solve_many

Parameter = Literal["eta", "alpha_p", "sigma2", "beta", "tau"]
PARAMETERS: tuple[Parameter, ...] = ("eta", "alpha_p", "sigma2", "beta", "tau")
MOST_STARTS = 200_000
"""Starts times values of a sweep: beyond that it takes minutes."""
_AT_ONCE = 50.0  # a beta above it is stiff
_STEPS = 20_000  # of a trajectory; stiff ones need more, and are not known
_GONE = 1e-6  # s of a mode at rest is p_+^2 / alpha_p or 0


@dataclass(frozen=True)
class Setting:
    """One set of parameters, and one start.

    beta: infinity is a target that is the online network, where tau stays what it is. With a finite beta, tau moves
    from `tau` to 1. A sweep of beta takes all above 50 for 50, whose target lags by a fiftieth of a unit of time.
    """

    alpha_p: float = 1.0
    eta: float = 0.02
    sigma2: float = 0.1
    tau: float = 1.0
    beta: float = math.inf
    p: float = 0.2
    s: float = 0.1
    time: float = 60.0

    def __post_init__(self) -> None:
        errors.number("time", self.time, low=0, above=True)
        errors.number("p", self.p)
        errors.number("s", self.s, low=0, above=True)
        if math.isnan(self.beta) or self.beta < 0:
            raise DynamicsError(f"beta must be a number of at least 0, or infinity; it is {self.beta}.")
        if math.isinf(self.beta):
            errors.number("tau", self.tau, low=0, above=True)


@dataclass(frozen=True)
class Starts:
    """The grid of starts whose share of collapse is counted: ends included."""

    p: tuple[float, float] = (-0.5, 1.0)
    s: tuple[float, float] = (0.01, 0.5)
    grid: tuple[int, int] = (31, 21)

    def points(self) -> tuple[Float, Float]:
        """p and s, (N,) each."""
        for name, span, count in (("p", self.p, self.grid[0]), ("s", self.s, self.grid[1])):
            if not (np.isfinite(span).all() and span[0] < span[1]):
                raise DynamicsError(f"the range of {name} must be two finite numbers that increase; it is {span}.")
            errors.whole("the grid of starts", count, low=2)
        if self.s[0] < 0:
            raise DynamicsError(f"the range of s must begin at 0 or more; it begins at {self.s[0]:g}.")
        p, s = np.meshgrid(np.linspace(*self.p, self.grid[0]), np.linspace(*self.s, self.grid[1]))
        return p.ravel(), s.ravel()


@dataclass(frozen=True, eq=False)
class Sweep:
    """All (V,), one for each of `values`; NaN where there is none.

    collapse: share of the starts.  unknown: share whose end was not seen.  low, high: p_-, p_+ at rest (tau as given,
    1 for a moving average).  rest: p_+^2 / alpha_p.  early: s at the setting's time.  late: s in the end, simulated;
    both from the setting's start.
    """

    over: Parameter
    values: Float
    collapse: Float
    unknown: Float
    low: Float
    high: Float
    rest: Float
    early: Float
    late: Float


def sweep(over: Parameter, values: Sequence[float], base: Setting | None = None, starts: Starts | None = None) -> Sweep:
    """Vary one parameter of `base`, the others as they are.

    Raises:
        DynamicsError: an unknown parameter, values that are not finite or outside its domain, too many starts.
    """
    errors.choice("over", over, PARAMETERS)
    setting, (p, s) = base or Setting(), (starts or Starts()).points()
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or np.isnan(numbers).any():
        raise DynamicsError(f"{over}: give one value or more, none of them NaN.")
    if over != "beta" and np.isinf(numbers).any():
        raise DynamicsError(f"{over} must be finite.")
    if len(numbers) * len(p) > MOST_STARTS:
        raise DynamicsError(f"{len(numbers)} values of {len(p)} starts: at most {MOST_STARTS:,} together.")
    checked = [replace(setting, **{over: float(value)}) for value in numbers]
    batch = _Batch(checked)
    ends = batch.collapse(p, s)
    low, high = batch.modes(1).roots()
    rest = high**2 / batch.vector("alpha_p", 1)
    one_p, one_s = np.array([setting.p]), np.array([setting.s])
    return Sweep(
        over, numbers, (ends < 0).mean(1), (ends == 0).mean(1), low, high, rest,
        batch.early(one_p, one_s, setting.time), batch.late(one_p, one_s)[:, 0],
    )  # fmt: skip


@dataclass(frozen=True)
class _Batch:
    """Settings (V) that differ in one parameter; all start from each of N points at once, (V, N)."""

    settings: list[Setting]

    def vector(self, name: str, count: int) -> Float:
        """(V * count,) a parameter, each value `count` times."""
        return np.repeat([float(getattr(one, name)) for one in self.settings], count)

    def modes(self, count: int) -> Modes:
        """(p, s) with tau as given, or 1, where a moving average comes to rest."""
        tau = 1.0 if self._moving else self.vector("tau", count)
        return Modes(**self._common(count), tau=tau)

    def collapse(self, p: Float, s: Float) -> Float:
        """(V, N) -1 collapses, 1 learns, 0 not known."""
        if not self._moving:
            ends = outcomes(self.modes(len(p)), self._each(p), self._each(s)).reshape(-1, len(p))
            return ends.astype(np.float64)
        last = self.late(p, s)
        return np.where(np.isnan(last), 0.0, np.where(last < _GONE, -1.0, 1.0))

    def early(self, p: Float, s: Float, time: float) -> Float:
        """(V,) s at that time, from one point; NaN if it did not get there."""
        flow, start = self._flow(p, s)
        run = solve_many(flow, start, time, rtol=1e-8, atol=1e-12, max_steps=_STEPS)
        return np.where(run.is_("done"), _size(run), np.nan)

    def late(self, p: Float, s: Float) -> Float:
        """(V, N) s in the end, by integration until at rest; NaN if it was not seen to rest."""
        flow, start = self._flow(p, s)
        run = solve_many(flow, start, 1e5, stop=Steady(1e-6, 1e-9), max_steps=_STEPS)
        return np.where(run.is_("stopped") | run.is_("done"), _size(run), np.nan).reshape(-1, len(p))

    def _flow(self, p: Float, s: Float) -> tuple[System, dict[str, Float]]:
        own_p, own_s = self._each(p), self._each(s)
        if not self._moving:
            return self.modes(len(p)), {"p": own_p, "s": own_s}
        beta = np.minimum(self.vector("beta", len(p)), _AT_ONCE)
        return scalar_start(own_p, own_s, self.settings[0].tau, **self._common(len(p)), beta=beta)

    def _common(self, count: int) -> dict[str, Float]:
        return {name: self.vector(name, count) for name in ("alpha_p", "eta", "sigma2")}

    def _each(self, values: Float) -> Float:
        return np.tile(values, len(self.settings))

    @property
    def _moving(self) -> bool:
        return any(math.isfinite(one.beta) for one in self.settings)


def _size(run: Ensemble) -> Float:
    return run["s"] if isinstance(run.system, Modes) else run["w"] ** 2
