"""Which views an embedding is paired with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from siamscope.objectives.base import ObjectiveError, ordered_pairs


def partners(
    online: Sequence[Tensor], target: Sequence[Tensor], view: int, *, shared: bool = False
) -> tuple[float, list[tuple[Tensor, float]]]:
    """What view `view` is paired with: the share of all pairs that it is in as online view, and (embeddings, weight).

    The weights add up to 1 (or to 2 with `shared`, where the view is a target as well; a partner that it meets in both
    roles comes once). A view that is the only target has no pair as online view: its share is then that of one pair.

    Raises:
        ObjectiveError: no such view.
    """
    if not 0 <= view < len(online):
        raise ObjectiveError(f"view must lie in 0..{len(online) - 1}, got {view}")
    pairs = list(ordered_pairs(len(online), len(target)))
    met = Counter(j for i, j in pairs if i == view)
    count = max(1, met.total())
    if shared:
        met.update(i for i, j in pairs if j == view)
    views = online if shared else target
    return count / len(pairs), [(views[k], times / count) for k, times in met.items()]


def weighted_mean(pulls: Sequence[tuple[Tensor, float]], like: Tensor) -> tuple[Tensor, float]:
    """The mean of the partners by their weights (zeros as `like` when there are none), and the sum of the weights."""
    total = sum(weight for _, weight in pulls)
    if not pulls:
        return torch.zeros_like(like), 0.0
    return torch.stack([weight / total * tensor for tensor, weight in pulls]).sum(0), total
