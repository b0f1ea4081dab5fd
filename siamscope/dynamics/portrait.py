"""The phase portrait of one mode in the plane of p and s: what figure 3 of Tian, Chen & Ganguli 2021 shows.

Field, nullclines, fixed points, the basin of collapse and its edge, and the parabola s = p^2 / alpha_p to which weight
decay draws every mode (arXiv:2102.06810, eqs 11, 12, 14, 16). Nothing here draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.modes import Modes
from siamscope.dynamics.plane import FixedPoint, axis, check_field, check_grid, check_tau, fixed_point, inside
from siamscope.dynamics.separatrix import separatrix
from siamscope.dynamics.solve import Adaptive, Steady, solve
from siamscope.dynamics.vectorised import Settled, solve_many

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Path:
    """One trajectory: t (T,), p (T,), s (T,)."""

    t: Float
    p: Float
    s: Float


@dataclass(frozen=True, eq=False)
class Portrait:
    """All that is drawn of one set of parameters. Curves are (K, 2) points (p, s); NaN is a gap.

    p (P,), s (S,): centres of the cells of the grid.  dp, ds (S, P): the field there.
    outcome (S, P): 1 the mode learns, -1 it collapses, 0 not known within the budget.
    p_nullcline, s_nullcline: lists of curves on which dp/dt, ds/dt is 0.
    points: isolated fixed points, also those outside the box.  lines: without weight decay, the lines of fixed points.
    edge: where the basin of collapse ends; empty if there is none.
    """

    modes: Modes
    p_range: Range
    s_range: Range
    p: Float
    s: Float
    dp: Float
    ds: Float
    outcome: npt.NDArray[np.int8]
    p_nullcline: tuple[Float, ...]
    s_nullcline: tuple[Float, ...]
    parabola: Float
    edge: Float
    points: tuple[FixedPoint, ...]
    lines: tuple[tuple[bool, Float], ...]
    """(attracts, curve); empty if there is weight decay"""
    paths: tuple[Path, ...]

    @property
    def collapse(self) -> float:
        """Share of the box's area from which the mode collapses."""
        return float((self.outcome < 0).mean())

    @property
    def unknown(self) -> float:
        """Share of the box's area whose outcome is not known."""
        return float((self.outcome == 0).mean())

    @property
    def learns(self) -> bool:
        """Whether there is a rest with s above 0."""
        return bool(float(self.modes.eta) <= float(self.modes.eta_limit))


def portrait(
    modes: Modes,
    p_range: Range = (-0.5, 1.0),
    s_range: Range = (0.0, 0.5),
    *,
    grid: tuple[int, int] = (121, 81),
    starts: Sequence[tuple[float, float]] = (),
    threads: int = 1,
) -> Portrait:
    """The portrait of numbers as parameters, constant tau above 0, equal weight decay.

    Args:
        grid: cells along p and along s; at most 1,000,000 of them.
        starts: points (p, s) from which trajectories are drawn.

    Raises:
        DynamicsError: parameters outside the above, a range that does not increase or has s below 0, too large a grid.
    """
    _check(modes)
    check_grid(grid)
    p, s = axis("p_range", p_range, grid[0]), axis("s_range", s_range, grid[1], low=0.0)
    states = np.stack(np.meshgrid(p, s), axis=-1)
    with np.errstate(over="ignore", invalid="ignore"):
        field = modes.rhs(0.0, states)
    check_field(modes, field)
    ends = outcomes(modes, states[..., 0].ravel(), states[..., 1].ravel(), threads=threads)
    return Portrait(
        modes, p_range, s_range, p, s, field[..., 0], field[..., 1], ends.reshape(len(s), len(p)),
        *nullclines(modes, p_range, s_range), parabola(modes, p_range, s_range), edge(modes, p_range, s_range),
        resting_points(modes), resting_lines(modes, p_range, s_range), tuple(_path(modes, *start) for start in starts),
    )  # fmt: skip


def outcomes(modes: Modes, p: npt.ArrayLike, s: npt.ArrayLike, *, threads: int = 1) -> npt.NDArray[np.int8]:
    """(N,) what becomes of modes at (p, s): 1 learns, -1 collapses, 0 not known within 20,000 steps.

    By integration until the verdict is certain; by the exact criterion where there is no weight decay. Parameters may
    be vectors (N,).
    """
    p, s = (np.atleast_1d(a) for a in np.broadcast_arrays(errors.array("p", p, ()), errors.array("s", s, ())))
    free = np.broadcast_to(np.asarray(modes.eta) == 0, p.shape)
    out = np.zeros(p.shape, dtype=np.int8)
    without, rest = np.flatnonzero(free), np.flatnonzero(~free)
    if len(without):
        learns = modes.take(without).learns_without_decay(p[without], s[without])
        out[without] = np.where(learns, 1, -1)
    if len(rest):
        own = modes.take(rest)
        start = {"p": p[rest], "s": s[rest]}
        ends = solve_many(own, start, 1e7, stop=Settled(), max_steps=20_000, threads=threads)
        out[rest] = own.verdict(ends["p"], ends["s"])
    return out


def nullclines(
    modes: Modes, p_range: Range, s_range: Range, count: int = 400
) -> tuple[tuple[Float, ...], tuple[Float, ...]]:
    """Curves on which dp/dt = 0, and on which ds/dt = 0, inside the box; in closed form.

    dp/dt = 0: p = alpha_p s signal tau / (eta_p + alpha_p s total), and s = 0 if there is no weight decay.
    ds/dt = 0: s = 0, p = p_- and p = p_+.
    """
    heights = np.linspace(*s_range, count)
    pull = modes.alpha_p * heights
    with np.errstate(invalid="ignore"):
        width = pull * modes.constant_tau * modes.signal / (modes.decay_p + pull * modes.total)
    slow_p = [np.stack([width, heights], -1)]
    floor = np.stack([np.linspace(*p_range, count), np.zeros(count)], -1)
    slow_s = [floor] + [np.stack([np.full(count, root), heights], -1) for root in modes.roots()]
    if np.all(np.asarray(modes.decay_p) == 0):
        slow_p.append(floor)
    return tuple(
        tuple(shown for curve in curves if np.isfinite(shown := inside(curve, p_range, s_range)).any())
        for curves in (slow_p, slow_s)
    )  # type: ignore[return-value]


def parabola(modes: Modes, p_range: Range, s_range: Range, count: int = 400) -> Float:
    """s = p^2 / alpha_p, which every mode approaches as exp(-2 eta t) and none crosses."""
    p = np.linspace(*p_range, count)
    return inside(np.stack([p, p**2 / modes.alpha_p], -1), p_range, s_range)


def edge(modes: Modes, p_range: Range, s_range: Range, count: int = 400) -> Float:
    """Where the basin of collapse ends, inside the box; (0, 2) if everything collapses.

    With weight decay the separatrix of the saddle. Without: c = 0 for p <= 0, and c = -p*^2 / alpha_p for p >= p*.
    """
    if float(modes.eta) == 0:
        p, top = np.linspace(*p_range, count), float(modes.constant_tau * modes.signal / modes.total)
        s = np.where(p <= 0, p**2, np.maximum(p**2 - top**2, 0)) / modes.alpha_p
        return inside(np.stack([p, s], -1), p_range, s_range)
    low = float(modes.roots()[0])
    if not np.isfinite(low):
        return np.empty((0, 2))
    corner = low**2 / float(modes.alpha_p)  # the box is widened to hold the saddle, from which the curve is found
    wide = min(p_range[0], 0.9 * low), max(p_range[1], 1.1 * low)
    curve = separatrix(modes, wide, (min(s_range[0], 0.9 * corner), max(s_range[1], 1.1 * corner)))
    return inside(curve, p_range, s_range)


def resting_points(modes: Modes) -> tuple[FixedPoint, ...]:
    """The isolated fixed points, p increasing: the origin, (p_-, p_-^2 / alpha_p), (p_+, ...). None if eta = 0."""
    if float(modes.eta) == 0:
        return ()
    low, high = (float(root) for root in modes.roots())
    near = abs(high - low) <= 1e-7 * abs(high)  # at the limit the two are one; rounding parts them by its square root
    places = [0.0] + ([high] if near else [p for p in (low, high) if np.isfinite(p)])
    corners = [(p, p * p / float(modes.alpha_p)) for p in places]
    return tuple(fixed_point(corner, modes.jacobian(*corner)) for corner in corners)


def resting_lines(modes: Modes, p_range: Range, s_range: Range, count: int = 200) -> tuple[tuple[bool, Float], ...]:
    """Without weight decay, whole lines are at rest: p = p*, which attracts, and s = 0, which does unless 0 < p < p*.

    (attracts, curve) for each piece inside the box.
    """
    if float(modes.eta) != 0:
        return ()
    top = float(modes.constant_tau * modes.signal / modes.total)
    heights = np.linspace(max(s_range[0], 0.0), s_range[1], count)
    pieces = [(True, np.stack([np.full(count, top), heights], -1))]
    for attracts, left, right in ((True, p_range[0], 0.0), (False, 0.0, top), (True, top, p_range[1])):
        begin, end = max(left, p_range[0]), min(right, p_range[1])
        if begin < end:
            pieces.append((attracts, np.stack([np.linspace(begin, end, count), np.zeros(count)], -1)))
    shown = [(attracts, inside(curve, p_range, s_range)) for attracts, curve in pieces]
    return tuple((attracts, curve) for attracts, curve in shown if np.isfinite(curve).any())


def _path(modes: Modes, p: float, s: float) -> Path:
    """From (p, s) until it is at rest, or t = 2000."""
    solver = Adaptive("LSODA", rtol=1e-8, atol=1e-11)  # a large alpha_p is stiff
    run = solve(modes, {"p": p, "s": s}, 2000.0, solver=solver, stop=Steady(1e-5, 1e-7), max_steps=20_000)
    return Path(run.t, run["p"], run["s"])


def _check(modes: Modes) -> None:
    if type(modes) is not Modes:
        raise DynamicsError(f"modes must be Modes; a {type(modes).__name__} has another plane.")
    if modes.vectors():
        raise DynamicsError(f"{modes.vectors()[0]} must be one number: a portrait shows one set of parameters.")
    check_tau(modes)
    if float(modes.decay_p) != float(modes.eta):
        raise DynamicsError("eta_p differs from eta: the portrait is for equal weight decay. Leave eta_p out.")
