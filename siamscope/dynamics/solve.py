"""One trajectory at a time: scipy's adaptive integrators, or Euler's fixed steps.

Never endless: a state that leaves the limits, or a budget of steps that is spent, ends the run with a status.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy import integrate

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.solution import Solution, Stats, Status
from siamscope.dynamics.systems import System

_LARGEST = 50_000_000  # numbers that save="steps" keeps: 400 MB

Method = Literal["DOP853", "RK45", "LSODA", "Radau", "BDF"]
Save = Literal["steps", "ends"]
Start = Mapping[str, npt.ArrayLike] | Float


class Stop(Protocol):
    """A condition that ends a trajectory: (system, t, y (..., size), dy/dt) -> bool (...,)."""

    def __call__(self, system: System, t: float | Float, y: Float, dy: Float) -> npt.NDArray[np.bool_]: ...


@dataclass(frozen=True)
class Steady:
    """At rest: |dy/dt| <= atol + rtol |y| in every entry. atol and rtol are rates, 1 / time.

    The neighbourhood of a saddle is at rest too, as is a mode of s = 0 to within atol: a trajectory that creeps past
    one may be stopped there. For verdicts on modes see `Settled`.
    """

    rtol: float = 1e-6
    atol: float = 1e-9

    def __post_init__(self) -> None:
        errors.number("rtol", self.rtol, low=0)
        errors.number("atol", self.atol, low=0)

    def __call__(self, system: System, t: float | Float, y: Float, dy: Float) -> npt.NDArray[np.bool_]:
        return self.calm(y, dy)

    def calm(self, y: Float, dy: Float) -> npt.NDArray[np.bool_]:
        calm: npt.NDArray[np.bool_] = np.abs(dy[..., 0]) <= self.atol + self.rtol * np.abs(y[..., 0])
        for i in range(1, y.shape[-1]):  # entry by entry: for many trajectories each is one contiguous array
            calm &= np.abs(dy[..., i]) <= self.atol + self.rtol * np.abs(y[..., i])
        return calm


@dataclass(frozen=True)
class Adaptive:
    """One of scipy's integrators. DOP853: explicit, order 8. LSODA, Radau, BDF: for stiff flows."""

    method: Method = "DOP853"
    rtol: float = 1e-8
    atol: float = 1e-10
    first_step: float | None = None
    max_step: float = np.inf

    def __post_init__(self) -> None:
        errors.choice("method", self.method, ("DOP853", "RK45", "LSODA", "Radau", "BDF"))
        errors.number("rtol", self.rtol, low=2.3e-14)
        errors.number("atol", self.atol, low=0)
        if self.first_step is not None:
            errors.number("first_step", self.first_step, low=0, above=True)
        if not (isinstance(self.max_step, float) and self.max_step == np.inf):
            errors.number("max_step", self.max_step, low=0, above=True)


@dataclass(frozen=True)
class Euler:
    """y <- y + step dy/dt: what plain gradient descent without noise does with learning rate `step`."""

    step: float

    def __post_init__(self) -> None:
        errors.number("step", self.step, low=0, above=True)


def solve(
    system: System,
    start: Start,
    t1: float,
    *,
    t0: float = 0.0,
    save: Save | npt.ArrayLike = "steps",
    solver: Adaptive | Euler | None = None,
    stop: Stop | None = None,
    max_steps: int = 100_000,
    limit: float = 1e12,
) -> Solution:
    """The trajectory from `start` at t0 to t1 (or, for t1 < t0, back in time).

    Args:
        start: the parts of the initial state by name, or a flat vector (size,).
        save: "steps", "ends", or the times (T,) to save at, in order from t0 to t1. A trajectory that ends early saves
            the times it has reached and its end. "steps" keeps up to 5e7 numbers; then it ends with "too many steps".
        solver: default `Adaptive()`.
        stop: ends the trajectory at the first step after which it holds; also looked at before the first step.
        max_steps: budget. A stiff flow with an explicit method, the default among them, spends all of it before it
            ends with "too many steps": the default is some ten seconds for a mode. Give less, or a solver for stiff
            flows.
        limit: the size of an entry of the state that counts as diverged.

    Raises:
        DynamicsError: bad arguments. Stiff or diverging flows are no error: see `Solution.status`.
    """
    y0 = initial(system, start)
    check_stop(stop)
    if not isinstance(solver, Adaptive | Euler | None):
        raise DynamicsError(f"solver must be an Adaptive or an Euler; it is {errors.shown(solver)}.")
    if y0.ndim != 1:
        raise DynamicsError(f"start must be one state of {system.layout.size} numbers; for many see solve_many.")
    if system.vectors():
        raise DynamicsError(f"{system.vectors()[0]} must be one number for one trajectory; for many see solve_many.")
    t0, t1 = errors.number("t0", t0), errors.number("t1", t1)
    errors.number("t1 - t0", t1 - t0)
    errors.whole("max_steps", max_steps)
    errors.number("limit", limit, low=0, above=True)
    recorder = _Recorder(save, t0, t1, y0)
    solver = solver or Adaptive()
    span = _Span(system, y0, t0, t1, stop, max_steps, limit)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lsoda", UserWarning)  # what it warns of is in the status
        if isinstance(solver, Euler):
            status, stats = _euler(span, recorder, solver.step)
        else:
            status, stats = _adaptive(span, recorder, solver)
    t, y = recorder.arrays()
    return Solution(system, t, y, status, stats)


def initial(system: System, start: Start) -> Float:
    """The checked state, or states, (..., size) of a mapping of parts or of an array."""
    if not isinstance(system, System):
        raise DynamicsError(f"system must be a System, such as Modes(); it is {errors.shown(system)}.")
    if isinstance(start, Mapping):
        return system.start(start)
    flat = errors.array("start", start, (system.layout.size,))
    return system.start(system.layout.unpack(flat))


def check_stop(stop: object) -> None:
    if stop is not None and (isinstance(stop, type) or not callable(stop)):
        raise DynamicsError(f"stop must be None or a condition such as Steady(); it is {errors.shown(stop)}.")


@dataclass(frozen=True)
class _Span:
    """What to solve and when to end."""

    system: System
    y0: Float
    t0: float
    t1: float
    stop: Stop | None
    max_steps: int
    limit: float

    def before(self) -> Status | None:
        return "stopped" if self._stops(self.t0, self.y0) else "done" if self.t0 == self.t1 else None

    def after(self, t: float, y: Float) -> Status | None:
        if not np.abs(y).max() < self.limit:
            return "diverged"
        return "stopped" if self._stops(t, y) else "done" if t == self.t1 else None

    def _stops(self, t: float, y: Float) -> bool:
        return self.stop is not None and bool(self.stop(self.system, t, y, self.system.rhs(t, y)))


def _adaptive(span: _Span, recorder: _Recorder, solver: Adaptive) -> tuple[Status, Stats]:
    status = span.before()
    if status is None and not np.isfinite(span.system.rhs(span.t0, span.y0)).all():
        status = "diverged"  # scipy's choice of the first step would be NaN, and the step endless
    if status is not None:
        recorder.end()
        return status, Stats(0, 0, 1)
    stepper = _stepper(span, solver)
    per_step = {"DOP853": 12, "RK45": 6}.get(solver.method)  # evaluations
    rejected, steps = 0, 0
    while status is None:
        before = stepper.nfev
        if steps == span.max_steps or recorder.full:
            status = "too many steps"
        elif not _steps(stepper):
            status = "too small steps" if np.isfinite(stepper.f if per_step else stepper.y).all() else "diverged"
        else:
            steps += 1
            rejected += (stepper.nfev - before) // per_step - 1 if per_step else 0
            recorder.step(stepper.t, stepper.y, stepper.dense_output)
            status = span.after(stepper.t, stepper.y)
    recorder.end()
    return status, Stats(steps, rejected, stepper.nfev)


def _stepper(span: _Span, solver: Adaptive) -> Any:
    """scipy's integrator, with a first step that is a number: its own choice may not be, as with atol = 0 and y = 0."""
    kind = getattr(integrate, solver.method)
    options = {"rtol": solver.rtol, "atol": solver.atol, "max_step": solver.max_step, "first_step": solver.first_step}
    if solver.first_step is not None:
        options["first_step"] = min(solver.first_step, abs(span.t1 - span.t0))
    stepper = kind(span.system.rhs, span.t0, span.y0, span.t1, **options)
    if np.isfinite(getattr(stepper, "h_abs", 0.0)):
        return stepper
    options["first_step"] = min(1e-6, abs(span.t1 - span.t0))
    return kind(span.system.rhs, span.t0, span.y0, span.t1, **options)


def _steps(stepper: Any) -> bool:
    """Take a step; False if there is none to take."""
    try:
        stepper.step()
    except DynamicsError:
        raise
    except (ValueError, np.linalg.LinAlgError):  # the implicit ones, of a Jacobian that is not finite
        return False
    return bool(stepper.status != "failed")


def _euler(span: _Span, recorder: _Recorder, wanted: float) -> tuple[Status, Stats]:
    count = max(int(min(np.ceil(abs(span.t1 - span.t0) / wanted - 1e-9), 1e18)), 1)
    step, y, done = (span.t1 - span.t0) / count, span.y0, 0
    status = span.before()
    while status is None:
        if done == span.max_steps or recorder.full:
            status = "too many steps"
            break
        t = span.t0 + done * step
        new = y + step * span.system.rhs(t, y)
        done += 1
        t_new = span.t1 if done == count else span.t0 + done * step
        recorder.step(t_new, new, _straight(t, y, t_new, new))
        y = new
        status = span.after(t_new, y)
    recorder.end()
    return status, Stats(done, 0, done)


def _straight(t: float, y: Float, t_new: float, new: Float) -> Callable[[], Callable[[float], Float]]:
    """Linear interpolation of a step, in the form of scipy's dense output."""
    return lambda: lambda at: y + (at - t) / (t_new - t) * (new - y)


class _Recorder:
    """Keeps the states that were asked for."""

    def __init__(self, save: Save | npt.ArrayLike, t0: float, t1: float, y0: Float) -> None:
        self.every = isinstance(save, str) and save == "steps"
        self.times: Float | None = None
        self.sign = 1.0 if t1 >= t0 else -1.0
        self.last = (t0, y0)
        self.t: list[float] = []
        self.y: list[Float] = []
        self.next = 0
        if isinstance(save, str):
            errors.choice("save", save, ("steps", "ends"))
            self._keep(t0, y0)
        else:
            self.times = _times(save, t0, t1)
            while self.next < len(self.times) and self.times[self.next] == t0:
                self._keep(t0, y0)
                self.next += 1

    @property
    def full(self) -> bool:
        return self.every and len(self.y) * self.y[0].size > _LARGEST

    def step(self, t: float, y: Float, dense: Callable[[], Callable[[float], Float]]) -> None:
        if self.times is not None:
            curve = None
            while self.next < len(self.times) and self.sign * (t - self.times[self.next]) >= 0:
                at = float(self.times[self.next])
                curve = curve or (dense() if at != t else None)
                self._keep(at, y.copy() if at == t or curve is None else curve(at))
                self.next += 1
        elif self.every:
            self._keep(t, y.copy())
        self.last = (t, y)

    def end(self) -> None:
        """The end is kept whatever was asked for, unless times were asked for and all have been reached."""
        wanted = self.times is None or self.next < len(self.times)
        if wanted and (not self.t or self.t[-1] != self.last[0]):
            self._keep(self.last[0], self.last[1].copy())

    def arrays(self) -> tuple[Float, Float]:
        return np.array(self.t), np.stack(self.y)

    def _keep(self, t: float, y: Float) -> None:
        self.t.append(t)
        self.y.append(y)


def _times(save: npt.ArrayLike, t0: float, t1: float) -> Float:
    times = errors.times("save", save)
    sign = 1.0 if t1 >= t0 else -1.0
    if (np.diff(times) * sign < 0).any() or sign * (times[0] - t0) < 0 or sign * (t1 - times[-1]) < 0:
        raise DynamicsError(f"save must hold times in order, from t0={t0:g} to t1={t1:g}.")
    return times
