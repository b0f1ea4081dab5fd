"""Many trajectories at once: an embedded Runge-Kutta pair with error control of its own for each of them.

Dormand and Prince's pair of order 5(4) (J. Comput. Appl. Math. 6, 1980), stepped for a block of trajectories together:
each has its own time and step, and one that has ended hands its place to the next in the queue, so that a slow one does
not hold up the rest. Blocks are small enough for a processor's cache; threads share the queue's rows.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.modes import Modes
from siamscope.dynamics.solution import STATUSES, Ensemble, Stats
from siamscope.dynamics.solve import Start, Steady, Stop, check_stop, initial
from siamscope.dynamics.systems import System

_C = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1])
_A = (
    np.array([1 / 5]),
    np.array([3 / 40, 9 / 40]),
    np.array([44 / 45, -56 / 15, 32 / 9]),
    np.array([19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729]),
    np.array([9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656]),
    np.array([35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84]),
)
_E = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])
_STAGES = len(_E)
_LOOK = 4  # steps between two looks for trajectories that have ended
_RUNNING = -1


@dataclass(frozen=True)
class Settled:
    """The verdict on a mode is certain (`Modes.verdict`): where it will end is known long before it gets there."""

    def __call__(self, system: System, t: float | Float, y: Float, dy: Float) -> npt.NDArray[np.bool_]:
        if not isinstance(system, Modes) or system.layout.names != ("p", "s"):
            raise DynamicsError("Settled is for Modes (p, s); use Steady for other systems.")
        return np.asarray(system.verdict(y[..., 0], y[..., 1]) != 0)


def solve_many(
    system: System,
    start: Start,
    t1: float,
    *,
    t0: float = 0.0,
    times: npt.ArrayLike | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    stop: Stop | None = None,
    max_steps: int = 10_000,
    limit: float = 1e12,
    threads: int = 1,
    block: int | None = None,
) -> Ensemble:
    """Trajectories from the states (N, size), or parts (N, *shape), at t0 to t1.

    The error of a step is kept below atol + rtol |y| in every entry of every trajectory, as if each were solved alone.

    Args:
        system: its parameters are common numbers, or vectors (N,) with one value for each trajectory.
        times: (T,) increasing, from t0 to t1: also return the states then. All trajectories wait for one another there.
        stop: ends a trajectory once it holds; looked at every few steps.
        max_steps: budget for each trajectory (between two of `times`, if given).
        limit: the size of an entry of the state that counts as diverged.
        threads: each takes a share of the trajectories; results do not depend on it beyond rounding.
        block: trajectories stepped together by one thread; default: 32768 numbers of state.

    Raises:
        DynamicsError: bad arguments. What became of each trajectory is in `Ensemble.code`.
    """
    y0 = initial(system, start)
    check_stop(stop)
    if y0.ndim != 2 or not len(y0):
        raise DynamicsError(f"start must be states (N, {system.layout.size}), N at least 1; it has shape {y0.shape}.")
    for name in system.vectors():
        if len(getattr(system, name)) != len(y0):
            raise DynamicsError(f"{name} has {len(getattr(system, name))} values for {len(y0)} trajectories.")
    t0, t1 = errors.number("t0", t0), errors.number("t1", t1, low=t0)
    errors.number("rtol", rtol, low=2.3e-14)
    errors.number("atol", atol, low=0, above=True)
    errors.number("limit", limit, low=0, above=True)
    block = max(32, 32_768 // y0.shape[1]) if block is None else block
    settings = _Settings(rtol, atol, stop, errors.whole("max_steps", max_steps), limit, errors.whole("block", block))
    state = _State.begin(y0, t0)
    marks = np.array([t1]) if times is None else _marks(times, t0, t1)
    path = None if times is None else np.empty((len(marks), *y0.shape))
    shares = np.array_split(np.arange(len(y0)), min(errors.whole("threads", threads), len(y0)))
    for k, mark in enumerate(marks if times is None or marks[-1] == t1 else [*marks, t1]):
        _advance_all(system, state, shares, float(mark), settings, last=float(mark) == t1)
        if path is not None and k < len(path):
            path[k] = state.y
    stats = Stats(int(state.accepted.sum()), int((state.tried - state.accepted).sum()), int(state.evaluations.sum()))
    return Ensemble(
        system, state.t, state.y, state.code, state.tried, stats, marks if times is not None else None, path
    )


@dataclass(frozen=True)
class _Settings:
    rtol: float
    atol: float
    stop: Stop | None
    max_steps: int
    limit: float
    block: int


@dataclass(frozen=True)
class _State:
    """All trajectories between two calls of `_advance`: rows are trajectories."""

    t: Float
    y: Float
    h: Float  # the next step; 0 = not chosen yet
    code: npt.NDArray[np.int8]
    tried: npt.NDArray[np.int64]
    accepted: npt.NDArray[np.int64]
    evaluations: npt.NDArray[np.int64]

    @classmethod
    def begin(cls, y0: Float, t0: float) -> _State:
        n = len(y0)
        counts = [np.zeros(n, dtype=np.int64) for _ in range(3)]
        return cls(np.full(n, t0), y0.copy(), np.zeros(n), np.full(n, _RUNNING, dtype=np.int8), *counts)


def _marks(times: npt.ArrayLike, t0: float, t1: float) -> Float:
    marks = errors.times("times", times)
    if (np.diff(marks) <= 0).any() or marks[0] < t0 or marks[-1] > t1:
        raise DynamicsError(f"times must increase, from t0={t0:g} or later to t1={t1:g} or earlier.")
    return marks


def _advance_all(
    system: System, state: _State, shares: list[npt.NDArray[np.intp]], mark: float, settings: _Settings, *, last: bool
) -> None:
    """Every running trajectory to time `mark`, in threads: numpy lets go of the interpreter while it computes."""

    def work(rows: npt.NDArray[np.intp]) -> None:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            _Block(system, state, rows[state.code[rows] == _RUNNING], mark, settings, last).run()

    if len(shares) == 1:
        work(shares[0])
    else:
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(work, shares))


class _Block:
    """The trajectories under way in one thread. Arrays are (size, m) and (m,): a column is a trajectory."""

    def __init__(
        self, system: System, state: _State, rows: npt.NDArray[np.intp], mark: float, settings: _Settings, last: bool
    ) -> None:
        self.whole, self.state, self.mark, self.settings, self.last = system, state, mark, settings, last
        self.rows, self.waiting = rows[: settings.block], rows[settings.block :]
        self._allocate(len(self.rows))
        self._load(np.arange(len(self.rows)), self.rows)

    def run(self) -> None:
        while len(self.rows):
            for _ in range(_LOOK):
                self._step()
            self._look()

    # -- one step ----------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        size, m = self.y.shape
        flat, h, t, y, k = self.k.reshape(_STAGES, -1), self.h, self.t, self.y, self.k
        np.minimum(h, self.mark - t, out=self.used)
        for i in range(1, _STAGES):
            np.dot(_A[i - 1], flat[:i], out=self.sum)
            new = self.sum.reshape(size, m)
            new *= self.used
            new += y
            k[i] = self.system.rhs(t + _C[i] * self.used, new.T).T
        error = np.dot(_E, flat, out=self.gap).reshape(size, m)
        error *= self.used
        worst = self._worst(error, new)
        accept = worst <= 1
        np.copyto(y, new, where=accept)
        np.copyto(k[0], k[-1], where=accept)
        np.add(t, self.used, out=t, where=accept)
        self.accepted += accept
        self._resize(worst, accept)

    def _worst(self, error: Float, new: Float) -> Float:
        """(m,) the largest error over its bound, entry by entry; NaN counts as too large."""
        settings, scale = self.settings, self.scale
        np.maximum(np.abs(self.y, out=scale), np.abs(new), out=scale)
        scale *= settings.rtol
        scale += settings.atol
        np.abs(error, out=error)
        error /= scale
        return self._fold(error)

    @staticmethod
    def _fold(error: Float) -> Float:
        """max(0) of (size, m); faster than numpy's for few rows."""
        worst: Float = error[0]
        for row in error[1:]:
            worst = np.maximum(worst, row)
        return worst

    def _resize(self, worst: Float, accept: npt.NDArray[np.bool_]) -> None:
        """The usual rule, 0.9 worst^(-1/5) in [0.2, 8]. A step cut short by the mark does not shrink the next."""
        factor = np.maximum(worst, 1e-10)
        np.log(factor, out=factor)
        factor *= -0.2
        np.exp(factor, out=factor)
        factor *= 0.9
        np.clip(factor, 0.2, 8.0, out=factor)
        factor[~(worst < np.inf)] = 0.2
        cut = accept & (self.used < self.h)
        proposed = self.used * factor
        np.copyto(proposed, np.maximum(proposed, self.h), where=cut)
        self.h[...] = proposed

    # -- who is under way --------------------------------------------------------------------------------------------

    def _allocate(self, m: int) -> None:
        size = self.state.y.shape[1]
        self.y, self.scale = np.zeros((size, m)), np.zeros((size, m))
        self.k = np.zeros((_STAGES, size, m))
        self.sum, self.gap = np.zeros(size * m), np.zeros(size * m)
        self.t: Float = np.zeros(m)
        self.h: Float = np.zeros(m)
        self.used: Float = np.zeros(m)
        self.earlier, self.since = np.zeros((size, m)), np.zeros(m)  # state and time half as many steps ago
        self.steps = np.zeros(m, dtype=np.int64)
        self.accepted = np.zeros(m, dtype=np.int64)
        self.system = self.whole.take(self.rows)

    def _load(self, slots: npt.NDArray[np.intp], rows: npt.NDArray[np.intp]) -> None:
        """Put trajectories `rows` into the places `slots`."""
        if not len(rows):
            return
        state = self.state
        system = self.whole.take(rows)
        t, y, h = state.t[rows], np.ascontiguousarray(state.y[rows].T), state.h[rows]
        slope = np.ascontiguousarray(system.rhs(t, y.T).T)
        fresh = h == 0
        if fresh.any():
            first, cost = self._first_step(system, t, y, slope), 2
            h = np.where(fresh, first, h)
            state.evaluations[rows] += cost
        self.rows[slots] = rows
        self.y[:, slots], self.k[0][:, slots] = y, slope
        self.t[slots], self.h[slots], self.steps[slots], self.accepted[slots] = t, h, 0, 0

    def _first_step(self, system: System, t: Float, y: Float, slope: Float) -> Float:
        """Hairer, Norsett & Wanner (Solving ODEs I, section II.4), with the largest entry for the norm."""
        scale = self.settings.atol + self.settings.rtol * np.abs(y)
        d0, d1 = self._fold(np.abs(y) / scale), self._fold(np.abs(slope) / scale)
        h0 = np.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h0 = np.minimum(h0, self.mark - t)
        moved = system.rhs(t + h0, (y + h0 * slope).T).T
        d2 = self._fold(np.abs(moved - slope) / scale) / h0
        size = np.maximum(d1, d2)
        h1 = np.where(size <= 1e-15, np.maximum(1e-6, h0 * 1e-3), (0.01 / size) ** 0.2)
        first = np.minimum(100 * h0, h1)
        return np.where(np.isfinite(first), first, 1e-6)

    def _look(self) -> None:
        """Write out the trajectories that have ended, and fill their places from the queue."""
        self.steps += _LOOK
        code = self._codes()
        ended = np.flatnonzero(code != _RUNNING)
        if not len(ended):
            return
        self._store(ended, code[ended])
        count = min(len(ended), len(self.waiting))
        incoming, self.waiting = self.waiting[:count], self.waiting[count:]
        if count < len(ended):
            keep = np.ones(len(self.rows), dtype=bool)
            keep[ended[count:]] = False
            self._shrink(keep)
            ended = np.searchsorted(np.flatnonzero(keep), ended[:count])
        self._load(ended, incoming)
        if count:
            self.system = self.whole.take(self.rows)

    def _codes(self) -> npt.NDArray[np.int8]:
        settings = self.settings
        code = np.full(len(self.rows), _RUNNING, dtype=np.int8)
        code[self.steps >= settings.max_steps] = STATUSES.index("too many steps")
        code[self.h < 1e-14 * np.maximum(np.abs(self.t), 1e-3)] = STATUSES.index("too small steps")
        # a trajectory held up by the mark has reached it: `_step` leaves h alone there
        code[self.t >= self.mark] = STATUSES.index("done")
        if settings.stop is not None:
            calm = settings.stop(self.system, self.t, self.y.T, self.k[0].T)
            if isinstance(settings.stop, Steady):
                calm |= self._calm_on_average(settings.stop)
            code[calm] = STATUSES.index("stopped")
        new = np.flatnonzero(self.steps <= _LOOK)
        if len(new):  # no step can be taken from where the rate of change is not finite
            code[new[~np.isfinite(self.k[0][:, new]).all(0)]] = STATUSES.index("diverged")
        size = self._fold(np.abs(self.y))
        code[~(size < settings.limit)] = STATUSES.index("diverged")
        return code

    def _calm_on_average(self, stop: Steady) -> npt.NDArray[np.bool_]:
        """(m,) at rest by the mean rate since half as many steps ago, looked at after 32, 64, 128, ... steps.

        A stiff trajectory at rest never looks so at one instant: its step settles where errors just stay within the
        tolerance, and its rate of change flickers at that error times the fastest rate.
        """
        calm = np.zeros(len(self.rows), dtype=bool)
        due = np.flatnonzero((self.steps & (self.steps - 1)) == 0)
        if len(due):
            now, elapsed = self.y[:, due], self.t[due] - self.since[due]
            mean = (now - self.earlier[:, due]) / np.where(elapsed > 0, elapsed, np.nan)
            calm[due] = stop.calm(now.T, mean.T) & (self.steps[due] > 16)
            self.earlier[:, due], self.since[due] = now, self.t[due]
        return calm

    def _store(self, slots: npt.NDArray[np.intp], code: npt.NDArray[np.int8]) -> None:
        state, rows = self.state, self.rows[slots]
        state.t[rows], state.y[rows], state.h[rows] = self.t[slots], self.y[:, slots].T, self.h[slots]
        waits = (code == STATUSES.index("done")) & (not self.last)
        state.code[rows] = np.where(waits, _RUNNING, code)
        state.tried[rows] += self.steps[slots]
        state.accepted[rows] += self.accepted[slots]
        state.evaluations[rows] += 6 * self.steps[slots] + 1

    def _shrink(self, keep: npt.NDArray[np.bool_]) -> None:
        """The queue is empty: go on with fewer places."""
        old = self._columns()
        self.rows = self.rows[keep]
        self._allocate(len(self.rows))
        for new, values in zip(self._columns(), old, strict=True):
            new[...] = values[..., keep]

    def _columns(self) -> list[npt.NDArray[Any]]:
        return [self.y, self.k, self.t, self.h, self.earlier, self.since, self.steps, self.accepted]
