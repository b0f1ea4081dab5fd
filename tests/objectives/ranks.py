"""Several processes in one: what each rank's loss is, with every rank's rows in one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from siamscope.objectives import Group, Objective, ObjectiveError


def mean_over_ranks(
    make: Callable[[Group], Objective],
    online: Sequence[Tensor],
    target: Sequence[Tensor] | None,
    world: int,
) -> Tensor:
    """The mean of the ranks' losses, each on its rows; its gradient is what data-parallel training would average.

    The first pass records what each rank gives to be gathered, the second answers with all of it (the gradient of a
    rank's rows is then the sum over ranks, as the real gather's). `target` None: the targets are the online tensors.
    """
    given: list[list[Tensor]] = [[] for _ in range(world)]

    def loss(rank: int, gather: Callable[[Tensor], Tensor]) -> Tensor:
        rows = slice(rank * len(online[0]) // world, (rank + 1) * len(online[0]) // world)
        u = [z[rows] for z in online]
        t = u if target is None else [z[rows] for z in target]
        return make(Group(rank, world, gather))(u, t)

    for rank in range(world):

        def record(z: Tensor, rank: int = rank) -> Tensor:
            given[rank].append(z)
            return z

        with suppress(ObjectiveError):  # a rank's share alone may be too small
            loss(rank, record)
    losses = []
    for rank in range(world):
        answers = iter([torch.cat(parts) for parts in zip(*given, strict=True)])
        losses.append(loss(rank, lambda _, answers=answers: next(answers)))
    return torch.stack(losses).mean()
