"""Assign views to prototypes, and predict one view's assignment from another: DINO, SwAV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, full, ordered_pairs
from siamscope.objectives.terms import GradientTerms

Assignment = Literal["centred", "sinkhorn"]


class Prototypes(Objective):
    """Mean over pairs (i, j) of the cross-entropy between q_j, the target's assignment, and p_i, the online one's.

    p_i = softmax(W u_i / temperature) with the rows of `weight` (K, d), the prototypes, normalised to W. No gradient
    passes q_j, which is one of

    - `centred`: softmax((W_t t_j - centre) / target_temperature). The centre (K,) is the running mean of the target's
      scores over samples, views and processes; it follows in `commit`, so that this batch's loss uses the one before.
      DINO.
    - `sinkhorn`: scores / target_temperature, brought by `iterations` of Sinkhorn's algorithm to equal shares of the
      batch (of all processes) for every prototype, each target view by itself. SwAV, without its queue.

    With `target` 'momentum' the target's prototypes W_t are the EMA `target_weight` of `weight`, moved by
    `update_target`; otherwise they are the detached W. Call `commit` before the optimiser's step: it uses W_t.

    Vectors of zero have score zero for every prototype; what is not finite comes out not finite.

    Sources: Caron et al. 2021 (arXiv:2104.14294), eq. 1-4; Caron et al. 2020 (arXiv:2006.09882), eq. 2-5.

    Raises:
        ObjectiveError: a temperature not above 0, no prototypes, no iterations, an unknown assignment, a momentum
            outside [0, 1], or target 'shared'.
    """

    target_weight: Tensor | None
    centre: Tensor | None

    def __init__(
        self,
        width: int,
        prototypes: int = 2048,
        temperature: float = 0.1,
        target_temperature: float = 0.04,
        assignment: Assignment = "centred",
        centre_momentum: float = 0.9,
        iterations: int = 3,
        target: str = "momentum",
        group: Group | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("target_temperature", target_temperature)):
            if not 0 < value < math.inf:
                raise ObjectiveError(f"{name} must be a number above 0, got {value}")
        for name, count in (("width", width), ("prototypes", prototypes), ("iterations", iterations)):
            if count < 1:
                raise ObjectiveError(f"{name} must be at least 1, got {count}")
        if assignment not in get_args(Assignment):
            raise ObjectiveError(f"assignment must be 'centred' or 'sinkhorn', got {assignment!r}")
        if not 0 <= centre_momentum <= 1:
            raise ObjectiveError(f"centre_momentum must lie in [0, 1], got {centre_momentum}")
        if target not in ("momentum", "detached"):
            raise ObjectiveError(
                f"target must be 'momentum' or 'detached' (assignments have no gradient), got {target!r}"
            )
        self.temperature = temperature
        self.target_temperature = target_temperature
        self.assignment = assignment
        self.centre_momentum = centre_momentum
        self.iterations = iterations
        self.group = group or Group()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(prototypes, width).uniform_(-bound, bound))
        self.register_buffer("target_weight", self.weight.detach().clone() if target == "momentum" else None)
        self.register_buffer("centre", torch.zeros(prototypes) if assignment == "centred" else None)

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        u, t = self._checked(online, target)
        with torch.autocast(u[0].device.type, enabled=False):
            assigned = self._assign(t, self.group.gather)
            weight = _unit(self.weight, u[0])
            losses = []
            for i, x in enumerate(u):
                others = [q for j, q in enumerate(assigned) if j != i]
                if others:
                    log_p = ((x / self.temperature) @ weight.T).log_softmax(1)
                    losses.append(-(sum(others[1:], others[0]) * log_p).sum(1).mean())
            return torch.stack(losses).sum() / _pairs(u, t)

    @torch.no_grad()
    def commit(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """The centre follows the mean of the target's scores over samples, target views and processes."""
        if self.centre is None:
            return
        with torch.autocast(self.centre.device.type, enabled=False):
            mean = torch.stack([full(t).mean(0) for t in target]).mean(0)
            # Scores are linear in the embedding: the mean of the scores is the score of the mean.
            scores = self._target_prototypes(mean) @ self.group.mean(mean)
            self.centre.lerp_(scores.to(self.centre.dtype), 1 - self.centre_momentum)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target_weight <- momentum * target_weight + (1 - momentum) * weight, if the target is a momentum one."""
        if self.target_weight is not None:
            self.target_weight.lerp_(self.weight.detach().to(self.target_weight.dtype), 1 - momentum)

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """Positive: the prototypes weighted by the targets' assignments; negative: by one's own; exact.

        Raises:
            ObjectiveError: `shared`; assignments are targets without gradient.
        """
        if shared:
            raise ObjectiveError("shared: assignments to prototypes are targets without gradient")
        u, t = self._checked(online, target)
        weight = _unit(self.weight.detach(), u[0])
        others = [q for j, q in enumerate(self._assign(t)) if j != view]
        scale = max(1, len(others)) / (self.temperature * _pairs(u, t) * len(u[0]))
        if not others:
            return GradientTerms(torch.zeros_like(u[view]), torch.zeros_like(u[view]), weight.new_ones(()), scale)
        p = ((u[view] / self.temperature) @ weight.T).softmax(1)
        return GradientTerms(torch.stack(others).mean(0) @ weight, p @ weight, weight.new_ones(()), scale)

    def parameter_gradients(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """[(W, dL/dW)], both (K, d): the normalised prototypes with their graph, and the gradient of the whole batch.

        dL/dW = 1 / (tau N pairs) * the sum over pairs of (p_i - q_j)^T u_i, so that sum((dL/dW).detach() * W) has
        the gradient of `forward` with respect to `weight`.
        """
        u, t = self._checked(online, target)
        weight = _unit(self.weight, u[0])
        with torch.no_grad():
            assigned = self._assign(t)
            total = torch.zeros_like(weight)
            for i, x in enumerate(u):
                others = [q for j, q in enumerate(assigned) if j != i]
                if others:
                    p = ((x / self.temperature) @ weight.T).softmax(1)
                    total += (len(others) * p - sum(others[1:], others[0])).T @ x
            return [(weight, total / (self.temperature * _pairs(u, t) * len(u[0])))]

    @torch.no_grad()
    def _assign(self, target: list[Tensor], gather: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
        """For each target view the shares (n, K) of the prototypes in each sample; rows sum to one."""
        prototypes = self._target_prototypes(target[0])
        scores = [t.detach() @ prototypes.T for t in target]
        if self.centre is None:
            return sinkhorn(torch.stack(scores) / self.target_temperature, self.iterations, gather)
        return [((s - self.centre.to(s.dtype)) / self.target_temperature).softmax(1) for s in scores]

    def _target_prototypes(self, like: Tensor) -> Tensor:
        return _unit(self.weight.detach() if self.target_weight is None else self.target_weight, like)

    def _checked(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        u, t = checked(online, target)
        if u[0].shape[1] != self.weight.shape[1]:
            raise ObjectiveError(f"online: the prototypes have width {self.weight.shape[1]}, got {u[0].shape[1]}")
        return u, t


def sinkhorn(scores: Tensor, iterations: int = 3, gather: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
    """Shares (n, K) for each of the views in `scores` (views, n, K), already divided by the temperature.

    Each iteration makes the prototypes' totals equal over the samples of all processes, then each sample's shares sum
    to one; it ends with the latter. Constant factors, by which the official code divides, cancel. In logarithms, so
    that no exponential can overflow and no prototype is lost to underflow. `gather` concatenates rows (views, K) of all
    processes.

    Source: Cuturi 2013 (arXiv:1306.0895); Caron et al. 2020 (arXiv:2006.09882), eq. 5.
    """
    views, _, prototypes = scores.shape
    q = scores
    for _ in range(iterations):
        totals = q.logsumexp(1)
        if gather is not None:
            totals = gather(totals).view(-1, views, prototypes).logsumexp(0)
        q = (q - totals[:, None]).log_softmax(2)
    return list(q.exp())


def _unit(weight: Tensor, like: Tensor) -> Tensor:
    """Rows of length one in the embeddings' type."""
    return F.normalize(full(weight), dim=1).to(like.dtype)


def _pairs(online: list[Tensor], target: list[Tensor]) -> int:
    return sum(1 for _ in ordered_pairs(len(online), len(target)))
