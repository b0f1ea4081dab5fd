"""Keep every dimension's spread and make the dimensions uncorrelated: VICReg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.pairs import partners, weighted_mean
from siamscope.objectives.statistics import square_norm, weighted_rows, whole_batch
from siamscope.objectives.terms import GradientTerms


class Covariance(Objective):
    """VICReg: invariance |u - t|^2 / d + spread(u) + spread(t), the mean over samples and ordered pairs of views.

    spread(v) = (variance / 2) mean_i max(0, 1 - std_i) + covariance / d sum_{i != j} C_ij^2, with C the unbiased
    covariance over the samples of all processes and std_i = sqrt(C_ii + eps). This is the authors' released formula:
    the variance term is halved per view (other libraries give it twice that weight). Embeddings are not normalised.

    Zero vectors (collapse): loss and gradient are finite, and the gradient of the spread is zero there.

    Source: Bardes, Ponce & LeCun 2022 (arXiv:2105.04906), eq. 1-6.
    """

    unit_length: ClassVar[bool] = False

    def __init__(
        self,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        eps: float = 1e-4,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
            if not 0 <= value < float("inf"):
                raise ObjectiveError(f"{name} must be a number of at least 0, got {value}")
        if not 0 < eps < float("inf"):
            raise ObjectiveError(f"eps must be above 0 (a dimension without variance needs it), got {eps}")
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance
        self.eps = eps
        self.group = group or Group()

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        branches = checked(online, target)
        with torch.autocast(branches[0][0].device.type, enabled=False):
            u, t = whole_batch(self.group, branches, batch=2)
            spread = {id(v): self._spread(v) for v in {id(v): v for v in (*u, *t)}.values()}  # shared targets once
            losses = [
                self.invariance * (u[i] - t[j]).square().mean() + spread[id(u[i])] + spread[id(t[j])]
                for i, j in ordered_pairs(len(u), len(t))
            ]
        return torch.stack(losses).mean()

    def _spread(self, v: Tensor) -> Tensor:
        n, d = v.shape
        v = v - v.mean(0)
        variances = v.square().sum(0) / (n - 1)
        hinge = (1 - (variances + self.eps).sqrt()).relu().mean()
        off_diagonal = square_norm(v, v) / (n - 1) ** 2 - variances.square().sum()
        return self.variance / 2 * hinge + self.covariance / d * off_diagonal

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """Positive: the mean of the views it is paired with. Balance: lambda = 2 l1 N^2 / (d (N - 1)^2).

        Negative: sum_v (u~ . u~_v / N) u~_v + u / lambda - B u~ with u~ = u - mean and the diagonal matrix
        B = N / (d lambda (N - 1)) (2 l1 diag(C) + (l2 / 2) diag([std < 1] / std)), for l1 = d covariance / invariance
        and l2 = d variance / (2 invariance). Without a covariance term lambda counts as 1, without an invariance term
        the weights are not divided by it. Source: Tao et al. 2022 (arXiv:2112.05141), with `std` as the code has it.
        """
        u, t = checked(online, target, batch=2)
        share, others = partners(u, t, view, shared=shared)
        mine = u[view]
        n, d = mine.shape
        unit = self.invariance or 1.0
        weight = 2 * self.covariance / unit * (n / (n - 1)) ** 2  # lambda
        balance = weight or 1.0
        with torch.autocast(mine.device.type, enabled=False):
            centred = mine - mine.mean(0)
            push = self.invariance / unit * mine - self._shrink(centred, unit) * centred
            if weight:
                push = push + weight / n * weighted_rows(centred, centred, centred)
        pull, total = weighted_mean(others, mine)
        return GradientTerms(
            pull * (self.invariance / unit),
            push / balance,
            torch.full((), balance, dtype=mine.dtype, device=mine.device),
            2 * unit * share * total / (n * d),
        )

    def _shrink(self, centred: Tensor, unit: float) -> Tensor:
        """The diagonal of lambda B, (d,): what the variance term and the diagonal of C take from the push."""
        n = len(centred)
        variances = centred.square().sum(0) / (n - 1)
        std = (variances + self.eps).sqrt()
        hinge = self.variance / (4 * unit) * (std < 1) / std
        return n / (n - 1) * (2 * self.covariance / unit * variances + hinge)
