"""The curve in the (p, s) plane that parts the modes that learn from those that collapse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.modes import Modes
from siamscope.dynamics.solve import Adaptive, solve
from siamscope.dynamics.systems import System


def separatrix(modes: Modes, p_range: tuple[float, float], s_range: tuple[float, float]) -> Float:
    """(K, 2) points (p, s), p increasing: the stable manifold of the saddle (p_-, p_-^2 / alpha_p), inside the box.

    Modes above it learn, those below collapse. It falls up to p_+ and then rises again: with a large p and a small s,
    the encoder's mode is gone before p has come back. Its ends lie on the box's edge. Empty (0, 2) where there is no
    saddle (everything collapses) or the saddle is outside the box. For numbers as parameters, constant tau, eta > 0 and
    equal weight decay. Found by integrating back in time from the saddle, relative tolerance 1e-10.

    Raises:
        DynamicsError: parameters outside the above, or an empty box.
    """
    if modes.vectors():
        raise DynamicsError(f"{modes.vectors()[0]} must be one number: a separatrix belongs to one set of parameters.")
    if type(modes) is not Modes:
        raise DynamicsError(f"modes must be Modes; a {type(modes).__name__} has another plane.")
    box = _Box(*_ends("p_range", p_range), *_ends("s_range", s_range))
    if not (box.p0 < box.p1 and 0 <= box.s0 < box.s1):
        raise DynamicsError(f"p_range and s_range must increase, s from 0 or more; they are {p_range}, {s_range}.")
    modes.verdict(0.0, 0.0)  # refuses what has no verdict
    p = float(modes.roots()[0])
    saddle = np.array([p, p * p / float(modes.alpha_p)])
    if not box.holds(saddle):
        return np.empty((0, 2))
    values, vectors = np.linalg.eig(modes.jacobian(*saddle))
    along = vectors[:, np.argmin(np.abs(values + 2 * float(modes.eta)))].real
    along *= -np.sign(along[1]) or 1.0  # downwards: to larger p and smaller s
    right, left = (_branch(modes, saddle, sign * along, box) for sign in (1, -1))
    curve = np.concatenate([left[::-1], saddle[None], right])
    return curve if curve[0, 0] <= curve[-1, 0] else curve[::-1]


def _ends(name: str, value: tuple[float, float]) -> tuple[float, float]:
    ends = errors.array(name, value, (2,))
    if ends.ndim != 1:
        raise DynamicsError(f"{name} must be two numbers; it has shape {ends.shape}.")
    return float(ends[0]), float(ends[1])


@dataclass(frozen=True)
class _Box:
    p0: float
    p1: float
    s0: float
    s1: float

    def holds(self, y: Float) -> npt.NDArray[np.bool_]:
        p, s = y[..., 0], y[..., 1]
        return np.asarray((p >= self.p0) & (p <= self.p1) & (s >= self.s0) & (s <= self.s1))

    def __call__(self, system: System, t: float | Float, y: Float, dy: Float) -> npt.NDArray[np.bool_]:
        return ~self.holds(y)

    def edge(self, inside: Float, outside: Float) -> Float:
        """Where the straight line between two points leaves the box."""
        low, high = np.array([self.p0, self.s0]), np.array([self.p1, self.s1])
        way = outside - inside
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(way > 0, (high - inside) / way, np.where(way < 0, (low - inside) / way, np.inf))
        return np.asarray(inside + min(float(shares.min()), 1.0) * way)


def _branch(modes: Modes, saddle: Float, along: Float, box: _Box) -> Float:
    """Points from the saddle outwards, without it: back in time along one side of the stable manifold."""
    first = saddle + 1e-6 * np.linalg.norm(saddle) * along
    longest = 60.0 / float(modes.eta)
    solver = Adaptive(rtol=1e-10, atol=1e-14, max_step=0.1 / float(modes.eta))
    path = solve(modes, first, -longest, solver=solver, stop=box).y
    outside = np.flatnonzero(~box.holds(path))
    if not len(outside):
        return path
    end = int(outside[0])
    return np.concatenate([path[:end], box.edge(path[end - 1] if end else saddle, path[end])[None]])
