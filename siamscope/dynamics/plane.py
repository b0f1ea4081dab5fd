"""Fixed points and what they are: the part of a phase portrait that is the same in every plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.modes import Modes

Kind = Literal["stable", "saddle", "unstable", "degenerate"]
KINDS: tuple[Kind, ...] = ("stable", "saddle", "unstable", "degenerate")
LARGEST_GRID = 1_000_000
"""Points of a grid; a finer one says nothing more on paper."""
LARGEST_RATE = 1e100
"""Of a field that is drawn: squares of larger ones overflow."""


@dataclass(frozen=True)
class FixedPoint:
    """A state at rest. at: its coordinates in the plane, or on the line.  eigenvalues: of the Jacobian there."""

    at: tuple[float, ...]
    eigenvalues: tuple[complex, ...]
    kind: Kind


def fixed_point(at: tuple[float, ...], jacobian: npt.ArrayLike, scale: float = 0.0) -> FixedPoint:
    """The point `at` (d,), with the eigenvalues (increasing real parts) of the Jacobian (d, d) and their `kind`."""
    values = np.linalg.eigvals(np.atleast_2d(np.asarray(jacobian, dtype=np.float64)))
    ordered = sorted((complex(value) for value in values), key=lambda value: (value.real, value.imag))
    return FixedPoint(tuple(float(x) for x in at), tuple(ordered), kind(ordered, scale))


def kind(eigenvalues: npt.ArrayLike, scale: float = 0.0) -> Kind:
    """stable: all real parts below 0. unstable: all above. saddle: both. degenerate: one is 0, to within 1e-7 of the
    largest eigenvalue, or of `scale` if that is larger; linear stability decides nothing then."""
    values = np.asarray(eigenvalues, dtype=np.complex128)
    real = values.real
    if (np.abs(real) <= 1e-7 * max(float(np.abs(values).max()), scale)).any():
        return "degenerate"
    if (real < 0).all():
        return "stable"
    return "unstable" if (real > 0).all() else "saddle"


def axis(name: str, span: tuple[float, float], count: int, *, low: float = -np.inf) -> Float:
    """(count,) centres of equal cells that fill a range: every point stands for the same area.

    Raises:
        DynamicsError: a range that is not two finite, increasing numbers from `low` on, or less than 2 cells.
    """
    limits = np.asarray(span, dtype=np.float64)
    if limits.shape != (2,) or not np.isfinite(limits).all() or limits[0] >= limits[1]:
        raise DynamicsError(f"{name} must be two finite numbers that increase; it is {tuple(span)}.")
    if limits[0] < low:
        raise DynamicsError(f"{name} must begin at {low:g} or more; it begins at {limits[0]:g}.")
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 2:
        raise DynamicsError(f"the grid needs 2 points or more along each axis; it has {count!r}.")
    edges = np.linspace(limits[0], limits[1], int(count) + 1)
    return np.asarray((edges[1:] + edges[:-1]) / 2, dtype=np.float64)


def check_grid(grid: tuple[int, int]) -> None:
    """Raise DynamicsError if a grid has more points than `LARGEST_GRID`."""
    if len(grid) != 2 or grid[0] * grid[1] > LARGEST_GRID:
        raise DynamicsError(f"grid must be two numbers with a product of at most {LARGEST_GRID:,}; it is {grid}.")


def check_tau(modes: Modes) -> None:
    """Raise DynamicsError unless tau is a constant above 0."""
    if float(modes.constant_tau) <= 0:
        raise DynamicsError(f"tau must be above 0; it is {modes.constant_tau:g}.")


def check_field(modes: Modes, *field: Float) -> None:
    """Raise DynamicsError if a rate of the field cannot be drawn; the message names the largest parameter."""
    if all(np.abs(part).max(initial=0.0) < LARGEST_RATE for part in field):  # False for NaN
        return
    names = ("alpha_p", "eta", "sigma2", "tau", "signal")
    name = max(names, key=lambda one: abs(float(getattr(modes, one))))
    raise DynamicsError(f"the flow is too fast to draw: make {name}={getattr(modes, name):g} or the ranges smaller.")


def inside(curve: Float, x_range: tuple[float, float], y_range: tuple[float, float]) -> Float:
    """(K, 2) the curve with NaN for the points outside the box: a gap in a drawing."""
    x, y = curve[:, 0], curve[:, 1]
    outside = (x < x_range[0]) | (x > x_range[1]) | (y < y_range[0]) | (y > y_range[1])
    return np.where(outside[:, None], np.nan, curve)
