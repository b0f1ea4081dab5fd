"""Optimisers and schedules, from the recipe's section `optim`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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
            for w in group["params"]:
                if w.grad is not None:
                    self._update(w, group)

    def _update(self, w: Tensor, group: dict[str, Any]) -> None:
        grad = w.grad.add(w, alpha=group["weight_decay"]) if group["weight_decay"] else w.grad.clone()  # type: ignore[union-attr]
        if group["adapt"]:
            size, change = w.norm(), grad.norm()
            ratio = torch.where((size > 0) & (change > 0), group["trust"] * size / change, torch.ones_like(size))
            grad.mul_(ratio)
        state = self.state[w]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(w)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(grad)
        w.add_(velocity, alpha=-group["lr"])


def build(
    config: OptimConfig, encoder: nn.Module, predictor: nn.Module, objective: nn.Module, batch_size: int
) -> Optimizer:
    """The optimiser over the trained parameters, in groups: {encoder, predictor, objective} x {decayed, excluded}.

    Every group carries `peak` (its rate after warm-up) and `constant` (whether the schedule leaves it alone).
    """
    peak = config.lr * (batch_size / 256 if config.lr_scaling else 1.0)
    groups: list[dict[str, Any]] = []
    for module, constant in ((encoder, False), (predictor, config.constant_predictor_lr), (objective, False)):
        decayed, excluded = _split(module.parameters(), config.exclude_norm_and_bias)
        for params, decay, share in ((decayed, config.weight_decay, 1.0), (excluded, 0.0, config.norm_and_bias_lr)):
            if params:
                rate = share * peak
                groups.append(
                    {"params": params, "weight_decay": decay, "lr": rate, "peak": rate, "constant": constant}
                    | ({"adapt": params is decayed} if config.name == "lars" else {})
                )
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=peak, momentum=config.momentum, foreach=True)
    if config.name == "lars":
        return LARS(groups, lr=peak, momentum=config.momentum, trust=config.trust)
    return torch.optim.AdamW(groups, lr=peak, betas=(config.momentum, 0.999), foreach=True)


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
