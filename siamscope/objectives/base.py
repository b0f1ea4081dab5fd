"""What every objective offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

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
    sums the gradients of all ranks. `mean` averages a tensor of statistics over the ranks, without gradient.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Tensor], Tensor] = _identity
    mean: Callable[[Tensor], Tensor] = _identity


class Objective(nn.Module, ABC):
    """A loss on the embeddings of several views, with the closed form of its gradient.

    `forward(online, target)` takes one (n, d) tensor a view from the online branch (after the predictor, normalised)
    and one from the target branch, and returns the mean over the pairs (i, j), i != j, of online view i and target view
    j, a scalar. There may be fewer target views than online ones (multi-crop): target view j is another look at the
    same crop as online view j, and the further online views (local crops) have no target and never enter statistics.

    A step of training is `prepare` (statistics that this batch's loss uses), `forward`, backward, `commit` (what later
    batches use: memory bank, centre). `forward` changes nothing. Statistics are buffers of at least float32.
    """

    unit_length: ClassVar[bool] = True
    """Whether embeddings are expected to have length about one (then normalise 'batch' divides by sqrt(d))."""

    @abstractmethod
    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """The loss, a scalar."""

    @abstractmethod
    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """The gradient of `forward` with respect to `online[view]` in closed form.

        The tensors are those of the whole batch (gathered from all processes). The target is held fixed; with `shared`
        the targets are the online embeddings themselves, and the gradient through that role is part of the terms.
        """

    def prepare(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """Update the statistics that the loss of this batch uses; once a step, before `forward`. No gradient."""

    def commit(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """Keep what later batches use; once a step, after `forward`. No gradient."""

    def update_target(self, momentum: float) -> None:
        """Let the target's copy of the objective's own weights (prototypes) follow by EMA."""

    def parameter_gradients(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(w, dL/dw) for tensors w of the objective's own that have a graph (normalised prototypes), in closed form."""
        return []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts as every module, but statistics never fall below float32: an EMA in half precision stalls."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, before[name].to(buffer.device))
        return self

    def extra_repr(self) -> str:
        shown = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str) and k[0] != "_"}
        return ", ".join(f"{k}={v}" for k, v in shown.items() if k != "training")


def ordered_pairs(online: int, targets: int | None = None) -> Iterator[tuple[int, int]]:
    """All (i, j), i != j, of online view i and target view j."""
    return ((i, j) for i in range(online) for j in range(online if targets is None else targets) if i != j)


def checked(online: Sequence[Tensor], target: Sequence[Tensor], *, batch: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """Both branches as lists in at least float32, after the checks that all objectives share.

    Raises:
        ObjectiveError: fewer than two online views, no target, more targets than online views, different shapes, or
            fewer than `batch` samples.
    """
    if len(online) < 2 or not 1 <= len(target) <= len(online):
        raise ObjectiveError(
            "online must hold two or more views, and target one or more but not more than online; "
            f"got {len(online)} and {len(target)}"
        )
    shape = online[0].shape
    for name, group in (("online", online), ("target", target)):
        for i, z in enumerate(group):
            if z.ndim != 2 or z.shape != shape:
                raise ObjectiveError(f"{name}[{i}] must be (n, d) = {tuple(shape)} as online[0], got {tuple(z.shape)}")
    if shape[0] < batch:
        raise ObjectiveError(f"online: this objective needs at least {batch} samples a batch, got {shape[0]}")
    return [full(z) for z in online], [full(z) for z in target]


def full(z: Tensor) -> Tensor:
    """At least float32."""
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
