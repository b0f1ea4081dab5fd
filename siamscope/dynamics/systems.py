"""What a system is: named parts in one state vector, and a right-hand side. It knows no solver and saves nothing.

>>> from siamscope.dynamics import Modes, solve
>>> flow = Modes(eta=0.04, sigma2=0.1)
>>> path = solve(flow, {"p": 0.1, "s": 0.01}, 300.0)
>>> path.status, round(float(path["p"][-1]), 3)
('done', 0.867)
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the parts of a state, in their order; a part of shape () is one number."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.shapes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for _, shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """Numbers in one state."""
        return sum(self.sizes)

    def unpack(self, y: Float) -> dict[str, Float]:
        """State (..., size) -> {name: (..., *shape)}; views where numpy can."""
        parts, begin = {}, 0
        for (name, shape), size in zip(self.shapes, self.sizes, strict=True):
            parts[name] = y[..., begin : begin + size].reshape((*y.shape[:-1], *shape))
            begin += size
        return parts

    def pack(self, parts: Mapping[str, Float]) -> Float:
        """The reverse; parts with fewer batch axes than others are repeated along them."""
        arrays = [np.asarray(parts[name], dtype=np.float64) for name in self.names]
        leads = [a.shape[: a.ndim - len(shape)] for a, (_, shape) in zip(arrays, self.shapes, strict=True)]
        lead = np.broadcast_shapes(*leads)
        flat = [
            np.broadcast_to(a.reshape((*had, size)), (*lead, size))
            for a, had, size in zip(arrays, leads, self.sizes, strict=True)
        ]
        return np.concatenate(flat, axis=-1)


class System(ABC):
    """Base of all flows. Subclasses are frozen dataclasses whose fields are the parameters of the flow.

    Fields that hold a vector (n,) give each trajectory of a batch its own value; see `take`.
    """

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """Names and shapes of the state's parts."""

    @abstractmethod
    def rhs(self, t: float | Float, y: Float) -> Float:
        """dy/dt (..., size) at time t (a number or (...,)) and state y (..., size). NaN in, NaN out."""

    def start(self, parts: Mapping[str, npt.ArrayLike]) -> Float:
        """Initial states (..., size) from their parts, each (..., *shape), checked.

        Raises:
            DynamicsError: a part is missing, unknown, of a wrong shape, not finite or outside the flow's domain.
        """
        names = self.layout.names
        if set(parts) != set(names):
            raise DynamicsError(
                f"start: the parts of a {type(self).__name__} are {', '.join(names)}; got {list(parts)}."
            )
        checked = {name: errors.array(name, parts[name], shape) for name, shape in self.layout.shapes}
        self.check_start(checked)
        try:
            return self.layout.pack(checked)
        except ValueError:
            shapes = {name: part.shape for name, part in checked.items()}
            raise DynamicsError(f"start: the parts have batch axes that do not fit together: {shapes}.") from None

    def check_start(self, parts: Mapping[str, Float]) -> None:  # noqa: B027 - most flows take any state
        """Raise DynamicsError if these parts are outside the flow's domain. Here: all are inside."""

    def take(self, rows: npt.NDArray[np.intp]) -> Self:
        """The same system for some trajectories of a batch: picks those rows of every parameter that is a vector."""
        vectors = {name: getattr(self, name)[rows] for name in self.vectors()}
        if not vectors:
            return self
        clone = object.__new__(type(self))  # the parameters have been checked: do not pay for it again
        clone.__dict__.update({field.name: getattr(self, field.name) for field in self._fields()} | vectors)
        return clone

    def vectors(self) -> list[str]:
        """Names of the parameters that hold one value for each trajectory."""
        fields = [f.name for f in self._fields() if not f.metadata.get("shared")]
        return [name for name in fields if isinstance(value := getattr(self, name), np.ndarray) and value.ndim == 1]

    def _fields(self) -> tuple[dataclasses.Field[object], ...]:
        return dataclasses.fields(self)  # type: ignore[arg-type]

    def _set(self, **values: object) -> None:
        """Replace fields by their checked forms, from __post_init__ of a frozen dataclass."""
        for name, value in values.items():
            object.__setattr__(self, name, value)
