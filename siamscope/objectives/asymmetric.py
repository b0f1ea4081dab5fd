"""Pull the online embedding to the target's: SimSiam, BYOL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from siamscope.objectives.base import Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.terms import GradientTerms


class Asymmetric(Objective):
    """Mean over pairs of views of -<p_i, t_j> (`cosine`) or |p_i - t_j|^2 (`euclidean`).

    On unit vectors the second is 2 - 2 cos, BYOL's loss, and its gradient through the normaliser is twice the first's.
    There is no negative term: what keeps the embeddings apart lies in the predictor and the stopped gradient.

    Vectors of zero are taken as they are; what is not finite comes out not finite.

    Sources: Chen & He 2021 (arXiv:2011.10566), eq. 1-4; Grill et al. 2020 (arXiv:2006.07733), eq. 2.

    Raises:
        ObjectiveError: `distance` is neither of the two.
    """

    def __init__(self, distance: Literal["cosine", "euclidean"] = "cosine") -> None:
        super().__init__()
        if distance not in ("cosine", "euclidean"):
            raise ObjectiveError(f"distance must be 'cosine' or 'euclidean', got {distance!r}")
        self.distance = distance

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        p, t = checked(online, target)
        losses = [self._pair(p[i], t[j]) for i, j in ordered_pairs(len(p), len(t))]
        return torch.stack(losses).mean()

    def _pair(self, p: Tensor, t: Tensor) -> Tensor:
        if self.distance == "cosine":
            return -(p * t).sum(1).mean()
        return (p - t).square().sum(1).mean()

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """Positive: the mean of the other views' targets. Negative: none (cosine), or p itself, which is radial.

        `shared` adds the online embeddings that are pulled to this view's target; with two views it doubles the terms.
        """
        p, t = checked(online, target)
        pairs = list(ordered_pairs(len(p), len(t)))
        pulls = [t[j] for i, j in pairs if i == view]
        divisor = max(1, len(pulls))
        if shared:
            pulls += [p[i] for i, j in pairs if j == view]
        positive = torch.stack(pulls).sum(0) / divisor if pulls else torch.zeros_like(p[view])
        share = divisor / (len(pairs) * len(p[view]))
        if self.distance == "cosine":
            return GradientTerms(positive, torch.zeros_like(positive), positive.new_ones(()), share)
        return GradientTerms(positive, len(pulls) / divisor * p[view], positive.new_ones(()), 2 * share)
