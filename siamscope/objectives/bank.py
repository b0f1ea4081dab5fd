"""A memory bank: the last K keys, first in, first out.

The keys and the place of the oldest one are two tensors that the objective registers as buffers, so that they are saved
with it and stay in float32.

Source: He et al. 2020 (arXiv:1911.05722), algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from siamscope.objectives.base import ObjectiveError

_SIMILARITIES_AT_ONCE = 2**24  # 64 MiB of float32


def random_keys(count: int, width: int) -> Tensor:
    """(count, width) random unit vectors, the same in every process, without touching the global generator."""
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(count, width, generator=generator), dim=1)


@torch.no_grad()
def push(keys: Tensor, oldest: Tensor, new: Tensor) -> None:
    """Let the rows of `new` (n, d) replace the oldest keys, in place; `oldest`: the row that goes next, a long scalar.

    Raises:
        ObjectiveError: more new keys than the bank holds.
    """
    if len(new) > len(keys):
        raise ObjectiveError(
            f"bank: {len(keys)} keys are fewer than the {len(new)} of one step (samples times target views); "
            f"set bank to at least {len(new)}"
        )
    places = (oldest + torch.arange(len(new), device=keys.device)) % len(keys)  # on the device: no wait for a GPU
    keys.index_copy_(0, places, new.to(keys.dtype))
    oldest.copy_((oldest + len(new)) % len(keys))


@torch.no_grad()
def nearest(keys: Tensor, queries: Tensor) -> Tensor:
    """(n, d): for each of the queries (n, d) the key at the smallest Euclidean distance (unit: the largest cosine)."""
    half_squares = keys.square().sum(1) / 2
    parts = torch.split(queries, max(1, _SIMILARITIES_AT_ONCE // len(keys)))
    return torch.cat([keys[(part @ keys.T - half_squares).argmax(1)] for part in parts])
