"""Pull views together while every random slice of the embeddings is held to a standard Gaussian: LeJEPA with SIGReg."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.pairs import partners
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
        a = torch.randn(like.shape[1], self.slices, generator=generator)
        if like.is_cuda:  # else the copy would wait for the GPU
            a = a.pin_memory()
        a = a.to(like, non_blocking=True)
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
        local: Tensor = _Characteristic.apply(x, self.knots)  # type: ignore[no-untyped-call]
        cos, sin = self.group.gather(local.reshape(1, -1)).mean(0).reshape(local.shape)
        knot, weight = quadrature(self.knots, x)
        error = (cos - gauss(knot)[:, None]).square() + sin.square()
        out: Tensor = samples * (weight @ error).mean()
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
        share, pulls = partners(u, t, view, shared=shared)
        positive = torch.zeros_like(u[view])
        for other, weight in pulls:
            positive = positive + (1 - self.balance) * weight * (other - u[view])
        scale = share / (2 * n * d)
        tested = any(i == view for i, _ in ordered_pairs(len(u), len(t)))
        negative = 2 * n * d * tested * torch.stack(self.gaussian_terms(u[view])).sum(0)
        return GradientTerms(positive, negative, positive.new_tensor(self.balance), scale)

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
    knot, weight = quadrature(knots, x)
    pull = (2 * weight * knot)[:, None]
    confinement = _polynomial(x, pull * gauss(knot)[:, None]).imag
    return -_polynomial(x, pull * characteristic(x, knots).conj()).imag, confinement


def characteristic(x: Tensor, knots: int) -> Tensor:
    """The mean of exp(i t_k x) over samples, complex (knots, slices), of projections (N, slices).

    The knots are equally spaced, so that each is one multiplication on from the last: no sine or cosine a knot, and no
    tensor of N * slices * knots.
    """
    turn = _turn(x, knots)
    power = torch.ones_like(turn)
    means = [power.mean(0)]
    for _ in range(knots - 1):
        power *= turn
        means.append(power.mean(0))
    return torch.stack(means)


def _turn(x: Tensor, knots: int) -> Tensor:
    """exp(i x * distance of two knots)."""
    return torch.polar(torch.ones_like(x), x * (RANGE / (knots - 1)))


def _polynomial(x: Tensor, coefficients: Tensor) -> Tensor:
    """sum_k coefficients[k] exp(i t_k x), complex (N, slices), by Horner's rule; coefficients (knots, slices or 1)."""
    turn = _turn(x, len(coefficients))
    total = torch.zeros_like(turn)
    for coefficient in coefficients.flip(0):
        total.mul_(turn).add_(coefficient)
    return total


class _Characteristic(torch.autograd.Function):
    """`characteristic` as real (2, knots, slices), cosine and sine; keeps x alone for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, knots: int) -> Tensor:
        ctx.save_for_backward(x)
        values = characteristic(x, knots)
        return torch.stack([values.real, values.imag])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        cos, sin = gradients[0]
        knot, _ = quadrature(len(cos), x)
        return -_polynomial(x, knot[:, None] * torch.complex(cos, -sin)).imag / len(x), None


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
