"""The gradient of an objective as the sentence that all Siamese methods share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GradientTerms:
    """dL/du = scale * (-positive + balance * negative), for the anchor embeddings u.

    Shapes: `positive` and `negative` are (N, d); `balance` is a scalar or (N, 1); `scale` is a scalar.
    Source: Tao et al. 2022, arXiv:2112.05141, equation of the unified framework.
    """

    positive: Tensor
    negative: Tensor
    balance: Tensor
    scale: float

    @property
    def total(self) -> Tensor:
        """The gradient itself, (N, d)."""
        return self.scale * (self.balance * self.negative - self.positive)
