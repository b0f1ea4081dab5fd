"""An objective made of the positive term of one method and the negative term of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from siamscope.objectives import GradientTerms, Objective, ObjectiveError


class Composed(Objective):
    """dL/du = scale_p * (-positive_p + balance * balance_n * negative_n): a method that need not be in any paper.

    p and n are the two objectives. The scale is the positive's, so `balance` = 1 joins the two terms with the weights
    that each has beside its partner in its own method; `Composed(a, a, 1.0)` is `a`. Such a gradient is in general that
    of no loss: `forward` raises, and training goes through `siamscope.gradients.surrogate`.

    Tensors that the two objectives own (prototypes) learn from the loss of their own objective, unweighted.

    Source: Tao et al. 2022 (arXiv:2112.05141), who exchange the terms of published methods one at a time.

    Raises:
        ObjectiveError: `balance` is not a finite number of at least 0.
    """

    has_loss: ClassVar[bool] = False

    def __init__(self, positive: Objective, negative: Objective, balance: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(balance) and balance >= 0):
            raise ObjectiveError(f"balance must be a number of at least 0, got {balance}")
        self.positive = positive
        self.negative = negative
        self.balance = balance
        # Unscaled features are given if either asks for them: what wants unit variance breaks at unit length, and the
        # positive term does not mind.
        vars(self)["unit_length"] = positive.unit_length and negative.unit_length

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        raise ObjectiveError("a composed gradient has no loss: train it with siamscope.gradients.surrogate")

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        pull = self.positive.gradient_terms(online, target, view, shared=shared)
        push = self.negative.gradient_terms(online, target, view, shared=shared)
        return GradientTerms(pull.positive, push.negative, self.balance * push.balance, pull.scale)

    def prepare(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        for part in self._parts():
            part.prepare(online, target)

    def commit(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        for part in self._parts():
            part.commit(online, target)

    def update_target(self, momentum: float) -> None:
        for part in self._parts():
            part.update_target(momentum)

    def parameter_gradients(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [pair for part in self._parts() for pair in part.parameter_gradients(online, target)]

    def _parts(self) -> list[Objective]:
        """Both objectives; an objective that serves as both keeps its statistics once."""
        return [self.positive] if self.positive is self.negative else [self.positive, self.negative]
