"""Random batches of positive pairs, on which gradients are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from siamscope.objectives import ObjectiveError


@dataclass(frozen=True)
class Pair:
    """Two views u1, u2 (n, d), the target network's embedding of the first, and the correlation F of the second."""

    u1: Tensor
    u2: Tensor
    key1: Tensor
    """What a momentum network makes of the first view: u1 with a little noise, (n, d)."""
    correlation: Tensor
    """Second moment of u2, (d, d)."""

    @property
    def size(self) -> int:
        return len(self.u1)


def draw(
    seed: int,
    samples: int = 256,
    dimensions: int = 64,
    decay: float = 0.5,
    features: Literal["l2", "batch", "none"] = "l2",
    noise: float = 1 / 3,
) -> Pair:
    """A random batch in float64: contents with standard deviations k^-`decay`, views with noise of that share on top.

    Raises:
        ObjectiveError: fewer than 2 samples or dimensions.
    """
    if samples < 2 or dimensions < 2:
        raise ObjectiveError(f"need at least 2 samples and 2 dimensions, got {samples} and {dimensions}")
    g = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, dimensions + 1, dtype=torch.float64).pow(-decay)

    def normal() -> Tensor:
        return torch.randn(samples, dimensions, generator=g, dtype=torch.float64) * scale

    content = normal()
    first, second = content + noise * normal(), content + noise * normal()
    near = first + noise / 4 * normal()
    u1, u2, key1 = (_normalised(x, features) for x in (first, second, near))
    return Pair(u1, u2, key1, u2.T @ u2 / samples)


def _normalised(x: Tensor, features: str) -> Tensor:
    if features == "l2":
        return F.normalize(x, dim=1)
    if features == "batch":
        return (x - x.mean(0)) / x.std(0, correction=0)
    return x
