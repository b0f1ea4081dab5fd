"""Pull the online embedding to the target's: SimSiam, BYOL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from siamscope.objectives.base import Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.terms import GradientTerms


class Asymmetric(Objective):
    """Mean over ordered pairs of views of -<p_i, t_j> (`cosine`) or |p_i - t_j|^2 (`euclidean`).

    On unit vectors the second is 2 - 2 cos, BYOL's loss, and its gradient through the normaliser is twice the first's.
    There is no negative term: what keeps the embeddings apart lies in the predictor and the stopped gradient.

    Sources: Chen & He 2021 (arXiv:2011.10566), eq. 1-4; Grill et al. 2020 (arXiv:2006.07733), eq. 2.
    """

    def __init__(self, distance: Literal["cosine", "euclidean"] = "cosine") -> None:
        super().__init__()
        if distance not in ("cosine", "euclidean"):
            raise ObjectiveError(f"distance must be 'cosine' or 'euclidean', got {distance!r}")
        self.distance = distance

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        p, t = checked(online, target)
        losses = [self._pair(p[i], t[j]) for i, j in ordered_pairs(len(p))]
        return torch.stack(losses).mean()

    def _pair(self, p: Tensor, t: Tensor) -> Tensor:
        if self.distance == "cosine":
            return -(p * t).sum(1).mean()
        return (p - t).square().sum(1).mean()

    def gradient_terms(self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0) -> GradientTerms:
        """Positive: the mean of the other views' targets. Negative: none (cosine), or p itself, which is radial."""
        p, t = checked(online, target)
        views = len(p)
        positive = torch.stack([t[j] for j in range(views) if j != view]).mean(0)
        share = 1 / (views * p[0].shape[0])
        if self.distance == "cosine":
            return GradientTerms(positive, torch.zeros_like(positive), torch.ones(()), share)
        return GradientTerms(positive, p[view], torch.ones(()), 2 * share)
