"""Pull to the positive, push from the other samples by softmax: SimCLR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.terms import GradientTerms


class Contrastive(Objective):
    """NT-Xent: mean over ordered pairs (i, j) of the cross-entropy of sample n's key in view j.

    The keys against which view i competes are all of views i and j, its own key in view i left out (when the keys come
    from a momentum branch as well: keeping that key changes the gradient by a quarter). Keys are gathered from every
    process; each process scores its own anchors.

    Source: Chen et al. 2020 (arXiv:2002.05709), eq. 1.
    """

    def __init__(self, temperature: float = 0.5, group: Group | None = None) -> None:
        super().__init__()
        if not temperature > 0:
            raise ObjectiveError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self.group = group or Group()

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        u, keys = checked(online, target)
        everyone = [self.group.gather(k) for k in keys]
        if len(everyone[0]) < 2:
            raise ObjectiveError("online: contrastive learning needs at least 2 samples a batch, got 1")
        labels = torch.arange(len(u[0]), device=u[0].device) + self.group.rank * len(u[0])
        losses = [
            F.cross_entropy(self._logits(u[i], everyone[i], everyone[j], labels), labels)
            for i, j in ordered_pairs(len(u))
        ]
        return torch.stack(losses).mean()

    def _logits(self, anchor: Tensor, own: Tensor, other: Tensor, labels: Tensor) -> Tensor:
        """(n, 2N): similarities to the other view's keys, then to the own view's without oneself."""
        same_view = (anchor @ own.T).scatter(1, labels[:, None], float("-inf"))
        return torch.cat([anchor @ other.T, same_view], dim=1) / self.temperature

    def gradient_terms(self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0) -> GradientTerms:
        """Positive: the other view's key. Negative: the keys, weighted by their softmax; balance 1, scale 1/(tau N).

        The target is held fixed (the term through the keys, which a shared target adds, is not part of this form).
        """
        u, keys = checked(online, target, batch=2)
        labels = torch.arange(len(u[0]), device=u[0].device)
        others = [j for j in range(len(u)) if j != view]
        positive = torch.stack([keys[j] for j in others]).mean(0)
        negatives = []
        for j in others:
            share = self._logits(u[view], keys[view], keys[j], labels).softmax(1)
            negatives.append(share @ torch.cat([keys[j], keys[view]]))
        scale = 1 / (self.temperature * len(u) * len(u[0]))
        return GradientTerms(positive, torch.stack(negatives).mean(0), torch.ones(()), scale)
