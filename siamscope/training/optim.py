"""Optimisers and schedules, from the recipe's section `optim`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from siamscope.recipe import RecipeError
from siamscope.sections import OptimConfig


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling with momentum; groups with `adapt=False` take plain SGD steps.

    For a weight w with gradient g: g' = g + wd * w; v <- m * v + q * g' with q = trust * |w| / |g'| (1 if either is 0);
    w <- w - lr * v. Source: You et al. 2017 (arXiv:1708.03888), as used by Barlow Twins and BYOL (the rate outside v).
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 0.001):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [w for w in group["params"] if w.grad is not None]
            # On a GPU a whole group at once: few launches. On a CPU one after another: a weight stays in the cache.
            for part in [moved] if moved and moved[0].is_cuda else [[w] for w in moved]:
                self._update(part, group)

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Weights of one group, all of them in each call; nothing waits for a norm."""
        grads = [w.grad for w in weights if w.grad is not None]
        changes = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
        if group["adapt"]:
            sizes, lengths = torch._foreach_norm(weights), torch._foreach_norm(changes)
            size, length = torch.stack(sizes), torch.stack(lengths)
            ratio = torch.where((size > 0) & (length > 0), group["trust"] * size / length, torch.ones_like(size))
            torch._foreach_mul_(changes, list(ratio.unbind()))
        for w in weights:
            if "momentum_buffer" not in self.state[w]:
                self.state[w]["momentum_buffer"] = torch.zeros_like(w)
        velocities = [self.state[w]["momentum_buffer"] for w in weights]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, changes)
        torch._foreach_add_(weights, velocities, alpha=-group["lr"])


class PerStepDecay(torch.optim.SGD):
    """SGD whose groups shrink w by the share `shrink` at every step, whatever the rate and the momentum are:

    v <- m v + g;  w <- (1 - shrink) w - lr v, with the gradient g at the old w. Weights without a gradient stay.
    Source: the per-step decay of Tian, Chen & Ganguli 2021 (arXiv:2102.06810), eta times the rate; their code's option
    `predictor_wd`, while its weight_decay is torch's, which the rate multiplies.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [w for w in group["params"] if w.grad is not None]
            if moved and group["shrink"]:
                torch._foreach_mul_(moved, 1 - group["shrink"])
        super().step()


def build(
    config: OptimConfig, encoder: nn.Module, predictor: nn.Module, objective: nn.Module, batch_size: int
) -> Optimizer:
    """The optimiser over the trained parameters, in groups: {encoder, predictor, objective} x {decayed, excluded}.

    Every group carries `peak` (its rate after warm-up), `constant` (whether the schedule leaves it alone) and `part`
    (encoder, predictor or objective).
    """
    peak = peak_rate(config, batch_size)
    groups: list[dict[str, Any]] = []
    for part, module in (("encoder", encoder), ("predictor", predictor), ("objective", objective)):
        of_predictor = part == "predictor"
        base = peak * config.predictor_lr if of_predictor else peak
        weight_decay = predictor_weight_decay(config) if of_predictor else config.weight_decay
        decayed, excluded = _split(module.parameters(), config.exclude_norm_and_bias)
        for params, decay, share in ((decayed, weight_decay, 1.0), (excluded, 0.0, config.norm_and_bias_lr)):
            if params:
                rate = share * base
                group = {"params": params, "lr": rate, "peak": rate, "part": part} | _decay(config, decay)
                group["constant"] = of_predictor and config.constant_predictor_lr
                groups.append(group | ({"adapt": params is decayed} if config.name == "lars" else {}))
    if config.name == "sgd":
        kind = PerStepDecay if config.decay == "per-step" else torch.optim.SGD
        return kind(groups, lr=peak, momentum=config.momentum, fused=True)
    if config.name == "lars":
        return LARS(groups, lr=peak, momentum=config.momentum, trust=config.trust)
    return torch.optim.AdamW(groups, lr=peak, betas=(config.momentum, 0.999), fused=True)


def peak_rate(config: OptimConfig, batch_size: int) -> float:
    """The encoder's rate after warm-up."""
    return config.lr * (batch_size / 256 if config.lr_scaling else 1.0)


def predictor_weight_decay(config: OptimConfig) -> float:
    """The predictor's weight decay: its own, or the encoder's."""
    return config.weight_decay if config.predictor_weight_decay < 0 else config.predictor_weight_decay


def _decay(config: OptimConfig, decay: float) -> dict[str, float]:
    if config.decay == "coupled":
        return {"weight_decay": decay}
    if config.name != "sgd":
        raise RecipeError(f"optim.decay 'per-step' goes with optim.name 'sgd' only, got {config.name!r}")
    return {"weight_decay": 0.0, "shrink": decay}


def _split(params: Iterable[Tensor], exclude: bool) -> tuple[list[Tensor], list[Tensor]]:
    """(decayed, excluded): biases and the weights of normalisation layers are the parameters with one dimension."""
    trained = [p for p in params if p.requires_grad]
    if not exclude:
        return trained, []
    return [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]


def rate_factor(step: int, steps: int, warmup: int, final: float) -> float:
    """Share of the peak rate for step `step` (1-based) of `steps`: linear to 1 at step `warmup`, then a cosine that
    reaches `final` at the last step."""
    if step <= warmup:
        return step / warmup
    span = max(steps - max(warmup, 1), 1)
    progress = min((step - max(warmup, 1)) / span, 1.0)
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate; groups marked constant stay at their peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] if group["constant"] else group["peak"] * factor
