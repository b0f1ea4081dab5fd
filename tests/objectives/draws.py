"""Random embeddings that the tests of the objectives share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize


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
