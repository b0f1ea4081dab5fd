"""What every objective offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siamscope.objectives.terms import GradientTerms


class ObjectiveError(ValueError):
    """Embeddings or parameters that an objective cannot take; the message names the argument."""


def _identity(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Group:
    """The processes that share a batch. The default is one process alone.

    `gather` concatenates a (n, d) tensor of every rank to (n * world_size, d), in the order of ranks, and its backward
    sums the gradients of all ranks.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Tensor], Tensor] = _identity


class Objective(nn.Module, ABC):
    """A loss on the embeddings of several views, with the closed form of its gradient.

    `forward(online, target)` takes one (n, d) tensor a view from the online branch (after the predictor, normalised)
    and one from the target branch, and returns the mean over the ordered pairs of different views, a scalar.
    """

    @abstractmethod
    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """The loss, a scalar."""

    @abstractmethod
    def gradient_terms(self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0) -> GradientTerms:
        """The gradient of `forward` with respect to `online[view]`, the target held fixed, in closed form."""


def ordered_pairs(views: int) -> Iterator[tuple[int, int]]:
    """All (i, j) with i != j."""
    return ((i, j) for i in range(views) for j in range(views) if i != j)


def checked(online: Sequence[Tensor], target: Sequence[Tensor], *, batch: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """Both branches as lists in at least float32, after the checks that all objectives share.

    Raises:
        ObjectiveError: fewer than two views, different shapes, or fewer than `batch` samples.
    """
    if len(online) < 2 or len(online) != len(target):
        raise ObjectiveError(
            f"online and target must hold the same two or more views, got {len(online)} and {len(target)}"
        )
    shape = online[0].shape
    for name, group in (("online", online), ("target", target)):
        for i, z in enumerate(group):
            if z.ndim != 2 or z.shape != shape:
                raise ObjectiveError(f"{name}[{i}] must be (n, d) = {tuple(shape)} as online[0], got {tuple(z.shape)}")
    if shape[0] < batch:
        raise ObjectiveError(f"online: this objective needs at least {batch} samples a batch, got {shape[0]}")
    return [_at_least_float32(z) for z in online], [_at_least_float32(z) for z in target]


def _at_least_float32(z: Tensor) -> Tensor:
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
