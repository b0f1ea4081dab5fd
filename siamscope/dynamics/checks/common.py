"""Random data and weights, and trajectories that must reach their end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from siamscope.dynamics.errors import DynamicsError, Float, transposed
from siamscope.dynamics.solution import Solution
from siamscope.dynamics.solve import Adaptive, Euler, Save, Start, solve
from siamscope.dynamics.systems import System

Rng = np.random.Generator
FINE = Adaptive(rtol=1e-11, atol=1e-13)
STIFF = Adaptive("LSODA", 1e-10, 1e-12)
t = transposed


def widths(rng: Rng) -> tuple[int, int]:
    """(n1, n2), not equal."""
    n1 = int(rng.integers(4, 8))
    return n1, int(rng.choice([n for n in (3, 4, 5) if n != n1]))


def data(rng: Rng, n1: int, noise: float = 0.3) -> tuple[Float, Float]:
    """X and X', not isotropic."""
    a, b = rng.standard_normal((2, n1, n1)) / np.sqrt(n1)
    return a @ a.T, noise * b @ b.T


def weights(rng: Rng, n1: int, n2: int, size: float = 0.6) -> tuple[Float, Float]:
    """W (n2, n1) and W_p (n2, n2), not symmetric."""
    return size * rng.standard_normal((n2, n1)), size * rng.standard_normal((n2, n2))


def basis(rng: Rng, d: int) -> Float:
    """A random rotation (d, d)."""
    return np.asarray(np.linalg.qr(rng.standard_normal((d, d)))[0], dtype=np.float64)


def spread(rng: Rng, low: float, high: float) -> float:
    """A number between low and high, its logarithm uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def path(
    system: System,
    start: Start,
    t1: float,
    save: Save | npt.ArrayLike = "steps",
    solver: Adaptive | Euler = FINE,
) -> Solution:
    """The trajectory to t1.

    Raises:
        DynamicsError: it did not get there.
    """
    done = solve(system, start, t1, save=save, solver=solver)
    if done.status != "done":
        raise DynamicsError(f"the trajectory ended at t={done.t[-1]:g} of {t1:g}: {done.status}")
    return done


def differences(function: Callable[[Float], Float], at: Float, step: float = 1e-5) -> Float:
    """The gradient of a function of an array, by central differences."""
    out = np.empty_like(at)
    for i in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[i] = step
        out[i] = (function(at + move) - function(at - move)) / (2 * step)
    return out


def size(a: Float) -> Float:
    """Frobenius norm over the last two axes."""
    return np.asarray(np.linalg.norm(a, axis=(-2, -1)), dtype=np.float64)


def largest(a: npt.ArrayLike) -> float:
    """Largest absolute entry; NaN if there is one."""
    return float(np.abs(np.asarray(a)).max())


def symmetrised(a: Float) -> Float:
    return np.asarray((a + t(a)) / 2, dtype=np.float64)
