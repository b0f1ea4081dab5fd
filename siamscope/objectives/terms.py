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

    @property
    def pull(self) -> Tensor:
        """The positive term with its sign and scale, (N, d)."""
        return -self.scale * self.positive

    @property
    def push(self) -> Tensor:
        """The negative term with its balance and scale, (N, d)."""
        return self.scale * (self.balance * self.negative)


def radial(gradient: Tensor, u: Tensor) -> Tensor:
    """The part of each row of `gradient` (N, d) along u (N, d), which a normaliser to unit length removes."""
    return u * ((gradient * u).sum(1, keepdim=True) / (u * u).sum(1, keepdim=True).clamp_min(1e-30))


def tangent(gradient: Tensor, u: Tensor) -> Tensor:
    """The part of each row of `gradient` (N, d) orthogonal to u (N, d): all that unit-length embeddings feel.

    Source: Lemma 0 (tangent lemma) of the theory notes; Tao et al. 2022 compare gradients up to it.
    """
    return gradient - radial(gradient, u)
