"""Pull views together after each has been whitened, so that no direction can vanish: W-MSE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.pairs import partners
from siamscope.objectives.terms import GradientTerms

SMALLEST_NORM = 1e-6
"""A whitened sample (norm about sqrt(d)) shorter than this is divided by this: one exactly at the mean stays zero."""


class Whitening(Objective):
    """Mean over pairs (i, j) of 2 - 2 cos between view i's and view j's whitened samples.

    Each view is centred and multiplied by the inverse Cholesky factor of its covariance (unbiased, then
    (1 - eps) C + eps I), which makes the dimensions uncorrelated with variance one; then every sample is scaled to unit
    length. The gradient flows through the mean and the covariance. There is no negative term in the loss: the whitening
    itself keeps samples apart.

    `whiten_group`: samples that are whitened together, as consecutive rows (the authors' code draws them at random;
    batches are shuffled already); 0 is the whole batch. Samples are gathered from every process, and the loss is then
    the same on each of them, unless each process holds whole groups.

    Not finite in, not finite out. Zero vectors are samples like others; a sample exactly at the mean of its group has
    no direction, and its cosines are 0.

    Source: Ermolov et al. 2021 (arXiv:2007.06346), eq. 3-6, and the authors' code (Cholesky, eps as shrinkage).

    Raises:
        ObjectiveError: `eps` outside [0, 1), a group of one, groups that do not divide the batch, no more samples in a
            group than dimensions, or a singular covariance (collapsed embeddings; the check waits for the GPU once).
    """

    unit_length: ClassVar[bool] = False

    def __init__(self, whiten_group: int = 0, eps: float = 0.0, group: Group | None = None) -> None:
        super().__init__()
        if whiten_group < 0 or whiten_group == 1:
            raise ObjectiveError(f"whiten_group must be 0 (the batch) or at least 2 samples, got {whiten_group}")
        if not 0 <= eps < 1:
            raise ObjectiveError(f"eps must lie in [0, 1) (the share of the identity in the covariance), got {eps}")
        self.whiten_group = whiten_group
        self.eps = eps
        self.group = group or Group()

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        u, t = checked(online, target)
        views = {id(z): z for z in (*u, *t)}  # shared targets are the online tensors: whiten them once
        if not self.whiten_group or len(u[0]) % self.whiten_group:
            views = {key: self.group.gather(z) for key, z in views.items()}
        unit = dict(zip(views, self._whiten(torch.stack(list(views.values()))).unit, strict=True))
        cosines = [(unit[id(u[i])] * unit[id(t[j])]).sum(1).mean() for i, j in ordered_pairs(len(u), len(t))]
        return 2 - 2 * torch.stack(cosines).mean()

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """With g = dL/dy at the whitened samples y = L^-1 x: dL/du = P[L^-T g + M x].

        Positive: -P[L^-T g] by the scale, the other views' whitened samples brought back through the whitening (P
        removes the mean). Negative: M x, the way through the covariance, with the symmetric matrix
        M = 2 (1 - eps) / (n - 1) dL/dS; balance 1. The target's whitening is held fixed unless `shared`.
        """
        u, t = checked(online, target)
        share, pulls = partners(u, t, view, shared=shared)
        own, *others = self._whiten(torch.stack([u[view], *(z for z, _ in pulls)])).split()
        scale = 2 * share / len(u[view])
        g = torch.zeros_like(own.unit)
        for other, (_, weight) in zip(others, pulls, strict=True):
            g = g - weight * other.unit
        positive, negative = own.backward(g, self.eps)
        return GradientTerms(-positive, negative, g.new_ones(()), scale)

    def _whiten(self, x: Tensor) -> _Whitened:
        """(V, N, d) to the whitened samples of every view, in groups."""
        views, n, d = x.shape
        size = self.whiten_group or n
        _check_sizes(n, d, size)
        groups = x.double().reshape(views, n // size, size, d)
        mean = groups.mean(2, keepdim=True)
        centred = groups - mean
        covariance = (1 - self.eps) / (size - 1) * (centred.mT @ centred)
        covariance = covariance + self.eps * torch.eye(d, dtype=torch.float64, device=x.device)
        factor = _cholesky(covariance, mean, torch.finfo(x.dtype).eps)
        whitened = torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT
        return _Whitened(centred, factor, whitened, x.dtype)


@dataclass(frozen=True)
class _Whitened:
    """`centred` (V, B, n, d) with `factor` (V, B, d, d), lower, and `whitened` = centred factor^-T.

    In float64: the covariance squares the condition number, and d is small. `dtype`: the embeddings'.
    """

    centred: Tensor
    factor: Tensor
    whitened: Tensor
    dtype: torch.dtype

    @property
    def unit(self) -> Tensor:
        """(V, N, d) samples of unit length, or (N, d) of one view."""
        return F.normalize(self.whitened, dim=-1, eps=SMALLEST_NORM).flatten(-3, -2).to(self.dtype)

    def split(self) -> list[_Whitened]:
        """One element a view."""
        parts = zip(self.centred, self.factor, self.whitened, strict=True)
        return [_Whitened(*tensors, self.dtype) for tensors in parts]

    def backward(self, unit_gradient: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """What a gradient (N, d) at the unit samples of one view is at its embeddings: direct, and by the covariance.

        The Cholesky factor's backward: Murray 2016 (arXiv:1602.07527), eq. 8; dL/dfactor is -factor^-T (sum of g y^T).
        """
        y = self.whitened
        norm = y.norm(dim=-1, keepdim=True)
        g = unit_gradient.to(y.dtype).reshape(y.shape)
        along = (g * y).sum(-1, keepdim=True) * y / norm.square().clamp_min(SMALLEST_NORM**2)
        g = torch.where(norm > SMALLEST_NORM, g - along, g) / norm.clamp_min(SMALLEST_NORM)
        direct = torch.linalg.solve_triangular(self.factor, g, upper=False, left=False)
        phi = -(g.mT @ y).tril()
        phi = phi - phi.diagonal(dim1=-2, dim2=-1).diag_embed() / 2
        left = torch.linalg.solve_triangular(self.factor.mT, phi, upper=True)
        through = torch.linalg.solve_triangular(self.factor, left, upper=False, left=False)
        matrix = (1 - eps) / (y.shape[-2] - 1) * (through + through.mT)
        direct = direct - direct.mean(-2, keepdim=True)
        through = self.centred @ matrix
        return direct.flatten(-3, -2).to(self.dtype), through.flatten(-3, -2).to(self.dtype)


def _check_sizes(n: int, d: int, size: int) -> None:
    if n % size:
        raise ObjectiveError(f"whiten_group: {size} samples whitened together do not divide a batch of {n}")
    if size <= d:
        raise ObjectiveError(
            f"whitening {size} samples together in {d} dimensions: their covariance is singular. Use a projector.out "
            f"below {size}, a batch size above {d}, or a whiten_group of 0 or above {d}"
        )


def _cholesky(covariance: Tensor, mean: Tensor, precision: float) -> Tensor:
    """The lower factor; not finite in, not finite out.

    A pivot within the rounding of the embeddings counts as singular: a dimension that is constant, or that the earlier
    ones determine. `mean` (V, B, 1, d); `precision`: of the embeddings.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(covariance)
    with torch.no_grad():
        pivots = factor.diagonal(dim1=-2, dim2=-1).square()
        sizes = covariance.diagonal(dim1=-2, dim2=-1) + mean[..., 0, :].square()
        rounding = max(16 * precision**2, 8 * torch.finfo(covariance.dtype).eps)
        sound = (info == 0).all() & (pivots > rounding * sizes).all()
    if sound:
        return factor
    if not torch.isfinite(covariance).all():
        return covariance.tril().mul(float("nan"))
    raise ObjectiveError(
        "online: the covariance of the embeddings is singular (collapsed, constant or linearly dependent dimensions): "
        "raise eps (for example 1e-3), use a smaller projector.out, or a lower learning rate"
    )
