"""Spread the centroids of the views over all directions: MMCR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.pairs import partners
from siamscope.objectives.terms import GradientTerms


class Centroids(Objective):
    """Minus the nuclear norm of the (N, d) matrix of centroids (u_i + t_j) / 2, mean over the pairs (i, j).

    With two views this is the official loss; with more, the official one takes the centroid of all views. Embeddings
    of unit length are expected: centroids are long where views agree, and the nuclear norm of long rows is largest
    where they are orthogonal.

    The value is the official one, a sum of singular values: between -N and 0 on unit vectors, and its gradient on one
    sample does not shrink with the batch (norm at most 1/2 in the mean square), N times the usual mean over samples.
    `per_sample` divides by N, for one learning rate across methods under plain SGD; Adam and LARS do not feel it.

    Centroids are gathered from every process, and the loss is the same on each of them.

    Directions without a centroid get no gradient (the subgradient of least norm), so that exactly collapsed embeddings
    are a finite, stationary point; a small perturbation of them is pushed with full strength. Zero vectors are samples
    like others. Not finite in, not finite out.

    Source: Yerxa et al. 2023 (arXiv:2303.03307), eq. 3 with lambda = 0.

    Raises:
        ObjectiveError: fewer than two samples.
    """

    def __init__(self, per_sample: bool = False, group: Group | None = None) -> None:
        super().__init__()
        self.per_sample = per_sample
        self.group = group or Group()

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        u, t = checked(online, target)
        norms: dict[frozenset[int], Tensor] = {}
        keys = [frozenset((id(u[i]), id(t[j]))) for i, j in ordered_pairs(len(u), len(t))]
        for key, (i, j) in zip(keys, ordered_pairs(len(u), len(t)), strict=True):
            if key not in norms:  # with shared targets (i, j) and (j, i) have one centroid
                norms[key] = self._norm(self.group.gather((u[i] + t[j]) / 2))
        return -torch.stack([norms[key] for key in keys]).mean()

    def _norm(self, centroids: Tensor) -> Tensor:
        _at_least_two(len(centroids))
        norm: Tensor = _NuclearNorm.apply(centroids)  # type: ignore[no-untyped-call]
        return norm / len(centroids) if self.per_sample else norm

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """-(1/4) (K t + K u), K = (C^T C)^(-1/2) on the centroids' directions: a spectral negative phi(F) = -F^(-1/2).

        Positive: K t, mean over the other views; negative: -K u; balance 1; scale the share of pairs / 4.
        """
        u, t = checked(online, target)
        _at_least_two(len(u[view]))
        share, pulls = partners(u, t, view, shared=shared)
        positive, negative = torch.zeros_like(u[view]), torch.zeros_like(u[view])
        for other, weight in pulls:
            spread = _Spectrum((u[view] + other) / 2)
            positive = positive + weight * spread.inverse_root(other)
            negative = negative - weight * spread.inverse_root(u[view])
        scale = share / (4 * (len(u[view]) if self.per_sample else 1))
        return GradientTerms(positive, negative, positive.new_ones(()), scale)


class _Spectrum:
    """Singular values `s` and right singular vectors of C (N, d), `inverse` = 1/s where s is above rounding, else 0.

    Of float32 matrices by the eigenvalues of the smaller Gram matrix in float64, whose digits make up for the squared
    condition number (and which a GPU finds many times faster than an SVD); of float64 by SVD.
    """

    def __init__(self, c: Tensor) -> None:
        self.dtype = c.dtype
        wide = c.double()
        try:
            s, v = _by_svd(wide) if c.dtype == torch.float64 else _by_gram(wide)
        except RuntimeError:  # LinAlgError
            if torch.isfinite(c).all():
                raise
            s, v = wide.new_full((1,), float("nan")), wide.new_full((c.shape[1], 1), float("nan"))
        floor = torch.finfo(c.dtype).eps * max(c.shape) * s.max()
        self.s = s
        self.inverse = torch.where(s <= floor, 0.0, 1 / s)
        self.vectors = v

    def inverse_root(self, x: Tensor) -> Tensor:
        """x (C^T C)^(-1/2), (n, d); of C itself it is the polar factor, the gradient of the nuclear norm."""
        return ((x.double() @ self.vectors * self.inverse) @ self.vectors.T).to(self.dtype)


def _by_svd(c: Tensor) -> tuple[Tensor, Tensor]:
    _, s, vh = torch.linalg.svd(c, full_matrices=False)
    return s, vh.T


def _by_gram(c: Tensor) -> tuple[Tensor, Tensor]:
    if c.shape[1] <= c.shape[0]:
        values, v = torch.linalg.eigh(c.T @ c)
        return values.clamp_min(0).sqrt(), v
    values, left = torch.linalg.eigh(c @ c.T)
    s = values.clamp_min(0).sqrt()
    return s, c.T @ left / s.clamp_min(torch.finfo(s.dtype).tiny)


class _NuclearNorm(torch.autograd.Function):
    """The sum of the singular values of (N, d); backward is the polar factor on directions above rounding."""

    @staticmethod
    def forward(ctx: Any, c: Tensor) -> Tensor:
        spread = _Spectrum(c)
        ctx.save_for_backward(spread.inverse_root(c))
        return spread.s.sum().to(c.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (polar,) = ctx.saved_tensors
        out: Tensor = gradients[0] * polar
        return out


def _at_least_two(samples: int) -> None:
    if samples < 2:
        raise ObjectiveError(f"online: centroids need at least 2 samples a batch to spread, got {samples}")
