"""A further term on the online embeddings of any method: it keeps them from collapsing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamscope.objectives.base import Group, ObjectiveError, full
from siamscope.objectives.statistics import square_norm, weighted_rows, whole_batch
from siamscope.objectives.terms import GradientTerms

EPS = 1e-6
"""Length below which an embedding is divided by this in place of its own, so that the gradient at 0 stays bounded."""


class Regulariser(nn.Module, ABC):
    """A loss on the embeddings (n, d) of each view by itself, averaged over views, with its gradient in closed form.

    Embeddings are brought to unit length first, so that the term neither sees nor moves their scale and is bounded;
    samples of all processes count as one batch. Half precision is computed in float32.
    """

    before_norm: ClassVar[bool] = False
    """Whether a last batch norm must come after it, because that norm hides what the term is about."""

    def __init__(self, group: Group | None = None) -> None:
        super().__init__()
        self.group = group or Group()

    def forward(self, z: Sequence[Tensor]) -> Tensor:
        """The loss of the views `z`, one (n, d) tensor each, a scalar.

        Raises:
            ObjectiveError: no view, views of different shapes, or fewer than two samples.
        """
        views = _checked(z)
        with torch.autocast(views[0].device.type, enabled=False):
            (everyone,) = whole_batch(self.group, [views], batch=2)
            return torch.stack([self._value(_unit(view)) for view in everyone]).mean()

    def gradient_terms(self, z: Sequence[Tensor], view: int = 0) -> GradientTerms:
        """The gradient with respect to `z[view]`, a push alone; the tensors are those of the whole batch."""
        views = _checked(z)
        if not 0 <= view < len(views):
            raise ObjectiveError(f"view must lie in 0..{len(views) - 1}, got {view}")
        mine = views[view]
        if len(mine) < 2:
            raise ObjectiveError(f"z: a regulariser needs at least 2 samples a batch, got {len(mine)}")
        with torch.autocast(mine.device.type, enabled=False):
            u = _unit(mine)
            length = torch.linalg.vector_norm(mine, dim=1, keepdim=True)
            push = self._push(u)
            along = torch.where(length > EPS, (push * u).sum(1, keepdim=True), 0)
            negative = (push - along * u) / length.clamp_min(EPS)
        return GradientTerms(torch.zeros_like(mine), negative, mine.new_ones(()), 1 / len(views))

    @abstractmethod
    def _value(self, u: Tensor) -> Tensor:
        """The loss of one view's unit vectors."""

    @abstractmethod
    def _push(self, u: Tensor) -> Tensor:
        """Its gradient with respect to them, (n, d)."""


class Variance(Regulariser):
    """VICReg's hinge, mean_j max(0, 1 - std_j), on unit vectors times sqrt(d): 0 to 1.

    std_j = sqrt(unbiased variance of dimension j + eps). On the sphere the mean square of a dimension is one, so the
    hinge is at rest only when no dimension has a mean or less than its share. It sees complete collapse (all at one
    point) and dead dimensions; of embeddings on a line or plane that lies askew to the axes it sees next to nothing.
    A batch norm gives every dimension of a collapsed cloud its spread back, so the term belongs before it.

    Source: Bardes, Ponce & LeCun 2022 (arXiv:2105.04906), eq. 1, there on raw embeddings, whose scale can then grow
    in place of their spread.
    """

    before_norm: ClassVar[bool] = True

    def __init__(self, eps: float = 1e-4, group: Group | None = None) -> None:
        super().__init__(group)
        if not 0 < eps < float("inf"):
            raise ObjectiveError(f"eps must be above 0 (a dimension without variance needs it), got {eps}")
        self.eps = eps

    def _std(self, u: Tensor) -> tuple[Tensor, Tensor]:
        n, d = u.shape
        centred = (u - u.mean(0)) * math.sqrt(d)
        return centred, (centred.square().sum(0) / (n - 1) + self.eps).sqrt()

    def _value(self, u: Tensor) -> Tensor:
        _, std = self._std(u)
        return (1 - std).relu().mean()

    def _push(self, u: Tensor) -> Tensor:
        n, d = u.shape
        centred, std = self._std(u)
        return -centred * ((std < 1) / std) / ((n - 1) * math.sqrt(d))


class Isotropic(Regulariser):
    """log(d |M|_F^2) of the second moment M = (1/N) sum u u^T of unit vectors: 0 (M = I/d) to log d (one direction).

    Since tr M = 1, |M - I/d|_F^2 = |M|_F^2 - 1/d: both are least where all directions are used alike. The exponential
    of the term is d over the participation ratio of M, so it is the share of directions lost, in nats; without the
    logarithm the push would fade long before all are used. M is not centred: a common mean is a direction of its own,
    so complete collapse costs log d as a line does. A batch of N < d samples cannot reach 0 but log(d / N); that floor
    has no gradient. It is of the embeddings as the objective is given them, after a last batch norm: before it the
    term would spend itself on the mean, which the norm removes.

    The gradient (4 / N) M u / |M|_F^2 is the negative term of UniGrad and TiCo with the batch's own F, over |F|^2.

    Sources: the pull of the correlation to I/d as in Tao et al. 2022 (arXiv:2112.05141); the participation ratio's
    logarithm is minus the Renyi entropy of order 2, less log d, of M's spectrum. The form is ours.
    """

    def _value(self, u: Tensor) -> Tensor:
        return (len(u[0]) * self._size(u)).log()

    def _push(self, u: Tensor) -> Tensor:
        return 4 / len(u) ** 2 * weighted_rows(u, u, u) / self._size(u)

    def _size(self, u: Tensor) -> Tensor:
        """|M|_F^2; at least 1/d of unit vectors, so the bound is felt by zeros alone."""
        return (square_norm(u, u) / len(u) ** 2).clamp_min(1e-12)


REGULARISERS: dict[str, type[Regulariser]] = {"variance": Variance, "isotropic": Isotropic}


def create_regulariser(name: str, group: Group | None = None) -> Regulariser | None:
    """The regulariser of that name; None for 'none'.

    Raises:
        ObjectiveError: unknown name.
    """
    if name == "none":
        return None
    if name not in REGULARISERS:
        raise ObjectiveError(f"unknown regulariser {name!r} (known: none, {', '.join(REGULARISERS)})")
    return REGULARISERS[name](group=group)


def _unit(z: Tensor) -> Tensor:
    return F.normalize(z, dim=1, eps=EPS)


def _checked(z: Sequence[Tensor]) -> list[Tensor]:
    if not z:
        raise ObjectiveError("z must hold one or more views")
    for i, view in enumerate(z):
        if view.ndim != 2 or view.shape != z[0].shape:
            raise ObjectiveError(f"z[{i}] must be (n, d) = {tuple(z[0].shape)} as z[0], got {tuple(view.shape)}")
    return [full(view) for view in z]
