"""What a solver returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from siamscope.dynamics.errors import Float
from siamscope.dynamics.systems import System

Status = Literal["done", "stopped", "diverged", "too many steps", "too small steps"]
STATUSES: tuple[Status, ...] = ("done", "stopped", "diverged", "too many steps", "too small steps")
"""done: reached the end of the time span. stopped: the stopping condition held first. diverged: a state beyond the
limit, or a state or its rate of change not finite. too many steps: gave up. too small steps: the tolerance asks for
less than rounding allows, as it does near a point where the rate of change stops being finite."""


@dataclass(frozen=True)
class Stats:
    """What it cost. Of several trajectories: sums over all of them."""

    steps: int
    rejected: int
    evaluations: int
    """of the right-hand side, each trajectory's counted"""


@dataclass(frozen=True, eq=False)
class Solution:
    """One trajectory (or, from `solve` with batched states, several with common steps).

    t (T,), y (T, ..., size). `solution["W"]` is that part of the state, (T, ..., *shape).
    """

    system: System
    t: Float
    y: Float
    status: Status
    stats: Stats

    def __getitem__(self, name: str) -> Float:
        return self.parts[name]

    @property
    def parts(self) -> dict[str, Float]:
        return self.system.layout.unpack(self.y)

    @property
    def final(self) -> dict[str, Float]:
        """The parts of the last state, (..., *shape)."""
        return self.system.layout.unpack(self.y[-1])


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Many trajectories (N), each with its own steps, and the state at which each ended.

    t (N,): when.  y (N, size).  code (N,): index into STATUSES.  steps (N,): attempted steps, up to a few more than
    were needed, as ends are looked for only every few steps.
    times (T,), path (T, N, size): states at the times that were asked for; the end state is repeated from its time on.
    """

    system: System
    t: Float
    y: Float
    code: npt.NDArray[np.int8]
    steps: npt.NDArray[np.int64]
    stats: Stats
    times: Float | None = None
    path: Float | None = None

    def __getitem__(self, name: str) -> Float:
        """That part of the end states, (N, *shape)."""
        return self.system.layout.unpack(self.y)[name]

    def count(self, status: Status) -> int:
        """Trajectories that ended so."""
        return int((self.code == STATUSES.index(status)).sum())

    def is_(self, status: Status) -> npt.NDArray[np.bool_]:
        """(N,) whether each ended so."""
        return np.asarray(self.code == STATUSES.index(status))

    @property
    def paths(self) -> dict[str, Float]:
        """Parts of the path, (T, N, *shape); empty if no times were asked for."""
        return {} if self.path is None else self.system.layout.unpack(self.path)
