"""What the tests of the objectives share: random embeddings, autograd's gradients, and several ranks in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from siamscope.objectives import Group, Objective

T = TypeVar("T")


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Unit vectors along the last dimension, float64."""
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def draws(count: int = 50) -> Iterator[tuple[Tensor, Tensor]]:
    """(online [V, n, d], target [T, n, d]) with n in 4..64 other than d in 3..64, V in {2, 3} and T in {2, .., V}.

    Whatever the count, the first three draws are 2 views, 3 views with 3 targets and 3 views with 2 targets (one local
    crop). Views are independent, so that no term of a gradient is small by chance.
    """
    kinds = [(2, 2), (3, 3), (3, 2)]
    for seed in range(count):
        g = torch.Generator().manual_seed(seed)
        n, d = (int(torch.randint(low, 65, (), generator=g)) for low in (4, 3))
        views, targets = kinds[seed % 3]
        yield unit(views, n, d + (n == d), seed=seed), unit(targets, n, d + (n == d), seed=seed + 1000)


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|."""
    a, b = a.detach().double(), b.detach().double()
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b))


def autograd(objective: Objective, online: Tensor, target: Tensor | None) -> Tensor:
    """d forward / d online, (V, n, d); `target` None: shared, the targets are the online tensors themselves."""
    u = [view.clone().requires_grad_() for view in online]
    objective(u, u if target is None else list(target)).backward()
    return torch.stack([torch.zeros_like(view) if view.grad is None else view.grad for view in u])


def in_ranks(size: int, work: Callable[[Group], T]) -> list[T]:
    """`work(group)` of `size` ranks at once, each a thread; their tensors meet in `gather` and `mean`, with autograd.

    The mean of the losses is what data-parallel training minimises, and its gradient what it averages.
    """
    barrier = threading.Barrier(size, timeout=60)
    board: list[Tensor] = [torch.empty(0)] * size

    def meet(rank: int, x: Tensor) -> list[Tensor]:
        board[rank] = x
        barrier.wait()
        everyone = list(board)
        barrier.wait()
        return everyone

    def run(rank: int) -> T:
        torch.set_num_threads(1)
        group = Group(
            rank, size, lambda x: torch.cat(meet(rank, x)), lambda x: torch.stack(meet(rank, x)).mean(0).detach()
        )
        try:
            return work(group)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
