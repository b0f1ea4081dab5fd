"""Make the cross-correlation of two views the identity: Barlow Twins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.pairs import partners, weighted_mean
from siamscope.objectives.statistics import square_norm, weighted_rows, whole_batch
from siamscope.objectives.terms import GradientTerms


class Decorrelation(Objective):
    """Mean over ordered pairs of views of a loss of W = (1/N) sum v1 v2^T, over the samples of all processes.

    exact: sum_i (W_ii - 1)^2 + balance sum_{i != j} W_ij^2, Barlow Twins. Its features have mean 0 and variance 1 per
        dimension over the batch (biased variance: with the unbiased one identical views keep a loss of d / N^2).
    trace: -2 tr W + balance |W|_F^2, the loss whose gradient is Barlow Twins' with A = I, which UniGrad's authors use
        on unit vectors. It is `exact` plus (balance - 1) sum_i W_ii^2 - d, and not bounded below for balance 0.

    Zero vectors: W has zero rows there, loss and gradient are finite.

    Sources: Zbontar et al. 2021 (arXiv:2103.03230), eq. 1; Tao et al. 2022 (arXiv:2112.05141) for A = I.
    """

    unit_length: ClassVar[bool] = False

    def __init__(
        self, balance: float = 0.0051, form: Literal["exact", "trace"] = "exact", group: Group | None = None
    ) -> None:
        super().__init__()
        if not 0 <= balance < float("inf"):
            raise ObjectiveError(f"balance must be a number of at least 0, got {balance}")
        if form not in ("exact", "trace"):
            raise ObjectiveError(f"form must be 'exact' or 'trace', got {form!r}")
        self.balance = balance
        self.form = form
        self.group = group or Group()

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        branches = checked(online, target)
        with torch.autocast(branches[0][0].device.type, enabled=False):
            u, t = whole_batch(self.group, branches, batch=2)
            return torch.stack([self._pair(u[i], t[j]) for i, j in ordered_pairs(len(u), len(t))]).mean()

    def _pair(self, u: Tensor, t: Tensor) -> Tensor:
        n = len(u)
        diagonal = (u * t).mean(0)
        squares = square_norm(u, t) / n**2
        if self.form == "trace":
            return self.balance * squares - 2 * diagonal.sum()
        return (diagonal - 1).square().sum() + self.balance * (squares - diagonal.square().sum())

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """Positive: A t with A = I - (1 - balance) diag(W), or A = I (`trace`). Negative: W t = sum_v (t.t_v/N) u_v.

        Both are means over the views t that the view is paired with; the scale of one pair is 2 / N. It is the gradient
        with respect to the normalised features. Source: Tao et al. 2022 (arXiv:2112.05141), feature decorrelation.
        """
        u, t = checked(online, target, batch=2)
        share, others = partners(u, t, view, shared=shared)
        n, mine = len(u[0]), u[view]
        with torch.autocast(mine.device.type, enabled=False):
            positive, total = weighted_mean([(self._pull(mine, other), weight) for other, weight in others], mine)
            negative, _ = weighted_mean([(weighted_rows(z, z, mine) / n, weight) for z, weight in others], mine)
        balance = torch.full((), self.balance, dtype=mine.dtype, device=mine.device)
        return GradientTerms(positive, negative, balance, 2 * share * total / n)

    def _pull(self, u: Tensor, t: Tensor) -> Tensor:
        if self.form == "trace":
            return t
        return t * (1 - (1 - self.balance) * (u * t).mean(0))
