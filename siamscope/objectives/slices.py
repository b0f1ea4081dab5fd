"""Pull views together while every random slice of the embeddings is held to a standard Gaussian: LeJEPA with SIGReg."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.terms import GradientTerms

RANGE = 3.0
"""The knots lie on [0, 3]; the integrand is even, so that this stands for [-3, 3]."""


class Slices(Objective):
    """Mean over pairs (i, j) of (1 - balance) * |u_i - t_j|^2 / 4, mean over dimensions, + balance * SIGReg(u_i).

    The first term is the squared distance of a view to the centre of the pair. With two views the loss is the reference
    implementation's; with V views that one measures to the centre of all, which is 2 (V - 1) / V times this term. Every
    online view enters SIGReg, local crops too (algorithm 2 of the paper); targets never do, so that its gradient on
    the online views is the same with shared, detached and momentum targets.

    SIGReg is the Epps-Pulley distance of each of `slices` projections x on random unit directions from N(0, 1),
    mean over directions:

        N * integral of |mean_n exp(i w x_n) - exp(-w^2/2)|^2 exp(-w^2/2) dw

    over [-3, 3] by the trapezoid rule with `knots` points on [0, 3], taken twice. N is the number of samples in the
    batch of all processes, whose characteristic functions are averaged. The directions are drawn anew in each
    `prepare`, from a CPU generator seeded with the buffer `draws` (so they are the same on every process and after a
    resume); without `prepare` they stay the same.

    Zero vectors are samples like others. Not finite in, not finite out.

    Source: Balestriero & LeCun 2025 (arXiv:2511.08544), algorithms 1 and 2, and the authors' minimal example: 17
    knots, weight 0.02 (256 directions there, 1024 here).

    Raises:
        ObjectiveError: balance outside [0, 1], no slice, fewer than two knots, or fewer than two samples.
    """

    unit_length: ClassVar[bool] = False
    draws: Tensor

    def __init__(self, balance: float = 0.02, slices: int = 1024, knots: int = 17, group: Group | None = None) -> None:
        super().__init__()
        if not 0 <= balance <= 1:
            raise ObjectiveError(f"balance must lie in [0, 1] (the share of SIGReg in the loss), got {balance}")
        if slices < 1:
            raise ObjectiveError(f"slices must be at least 1 direction, got {slices}")
        if knots < 2:
            raise ObjectiveError(f"knots must be at least 2 points on [0, {RANGE:g}], got {knots}")
        self.balance = balance
        self.slices = slices
        self.knots = knots
        self.group = group or Group()
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))
        self._drawn = 0  # the same number where reading it does not wait for a GPU

    def prepare(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """New directions."""
        self.draws += 1
        self._drawn += 1

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._drawn = int(self.draws)

    def directions(self, like: Tensor) -> Tensor:
        """(d, slices) unit columns of this step, for embeddings `like` (n, d)."""
        generator = torch.Generator().manual_seed(self._drawn)
        a = torch.randn(like.shape[1], self.slices, generator=generator).to(like)
        out: Tensor = a / a.norm(dim=0)
        return out

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        u, t = checked(online, target)
        samples = len(u[0]) * self.group.world_size
        _at_least_two(samples)
        pairs = list(ordered_pairs(len(u), len(t)))
        distances = torch.stack([(u[i] - t[j]).square().mean() / 4 for i, j in pairs])
        loss = (1 - self.balance) * distances.mean()
        if self.balance:
            directions = self.directions(u[0])
            tests = {i: self._statistic(u[i] @ directions, samples) for i in {i for i, _ in pairs}}
            loss = loss + self.balance * torch.stack([tests[i] for i, _ in pairs]).mean()
        return loss

    def _statistic(self, x: Tensor, samples: int) -> Tensor:
        """SIGReg of the projections (n, slices) of this process's samples."""
        knot, weight = quadrature(self.knots, x)
        phase = x[..., None] * knot
        local = torch.stack([phase.cos().mean(0), phase.sin().mean(0)])
        cos, sin = self.group.gather(local.reshape(1, -1)).mean(0).reshape(local.shape)
        error = (cos - gauss(knot)).square() + sin.square()
        out: Tensor = samples * (error @ weight).mean()
        return out

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """Positive: (1 - balance) (mean of the other views - u). Negative: SIGReg's gradient, repulsion + confinement.

        The way to the other view stands whole in the positive term, because features without unit length feel it all.
        """
        u, t = checked(online, target)
        n, d = u[view].shape
        _at_least_two(n)
        pairs = list(ordered_pairs(len(u), len(t)))
        pulls = [t[j] for i, j in pairs if i == view]
        tested = len(pulls)
        if shared:
            pulls += [u[i] for i, j in pairs if j == view]
        divisor = max(1, tested)
        scale = divisor / (2 * n * d * len(pairs))
        away = torch.stack([z - u[view] for z in pulls] or [torch.zeros_like(u[view])]).sum(0)
        positive = (1 - self.balance) / divisor * away
        repulsion, confinement = self.gaussian_terms(u[view])
        negative = tested / len(pairs) / scale * (repulsion + confinement)
        return GradientTerms(positive, negative, away.new_tensor(self.balance), scale)

    def gaussian_terms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of SIGReg with respect to z (N, d) in two parts: repulsion between samples, and confinement."""
        directions = self.directions(z)
        repulsion, confinement = slice_gradient(z @ directions, self.knots)
        return repulsion @ directions.T / self.slices, confinement @ directions.T / self.slices


def gauss(w: Tensor) -> Tensor:
    """The characteristic function of N(0, 1), and the window of the integral."""
    return torch.exp(-w.square() / 2)


def quadrature(knots: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points on [0, 3] and their weights: trapezoid, twice for the other half, times the window."""
    knot = torch.linspace(0, RANGE, knots, dtype=like.dtype, device=like.device)
    step = RANGE / (knots - 1)
    weight = torch.full_like(knot, 2 * step)
    weight[0] = weight[-1] = step
    return knot, weight * gauss(knot)


def slice_gradient(x: Tensor, knots: int = 17) -> tuple[Tensor, Tensor]:
    """The gradient of every slice's statistic with respect to its projections x (N, slices): repulsion, confinement.

    Repulsion 2 sum_k w_k t_k mean_j sin(t_k (x_j - x)), from every sample on every other; confinement
    2 sum_k w_k t_k exp(-t_k^2/2) sin(t_k x), towards the origin. Their sum is the gradient.
    """
    repulsion, confinement = torch.zeros_like(x), torch.zeros_like(x)
    for knot, weight in zip(*quadrature(knots, x), strict=True):  # one by one: (N, slices) of memory, not times knots
        cos, sin = (knot * x).cos(), (knot * x).sin()
        repulsion += 2 * weight * knot * (sin.mean(0) * cos - cos.mean(0) * sin)
        confinement += 2 * weight * knot * gauss(knot) * sin
    return repulsion, confinement


def integral_statistic(x: Tensor) -> Tensor:
    """What the knots estimate, N * integral over the whole line, in closed form: (slices,) of projections (N, slices).

    sqrt(2 pi)/N sum_ij exp(-(x_i - x_j)^2/2) - 2 sqrt(pi) sum_i exp(-x_i^2/4) + N sqrt(2 pi/3). Memory N^2 * slices.
    """
    pair = torch.exp(-(x[:, None] - x[None]).square() / 2).mean(0).sum(0)
    alone = torch.exp(-x.square() / 4).sum(0)
    return math.sqrt(2 * math.pi) * pair - 2 * math.sqrt(math.pi) * alone + len(x) * math.sqrt(2 * math.pi / 3)


def integral_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """`slice_gradient` of the integral in closed form: a Gaussian kernel's repulsion, and confinement.

    2 sqrt(2 pi) mean_j (x_j - x) exp(-(x_j - x)^2/2) and sqrt(pi) x exp(-x^2/4). Memory N^2 * slices.
    """
    step = x[None] - x[:, None]
    repulsion = 2 * math.sqrt(2 * math.pi) * (step * torch.exp(-step.square() / 2)).mean(1)
    return repulsion, math.sqrt(math.pi) * x * torch.exp(-x.square() / 4)


def _at_least_two(samples: int) -> None:
    if samples < 2:
        raise ObjectiveError(f"online: slices need at least 2 samples a batch, got {samples}")
