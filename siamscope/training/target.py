"""The momentum (EMA) target."""

from __future__ import annotations

import math

import torch
from torch import nn


def momentum_at(step: int, steps: int, start: float, end: float) -> float:
    """The EMA coefficient after step `step` (1-based) of `steps`: from `start` to `end` by a cosine.

    Source: Grill et al. 2020 (arXiv:2006.07733), section 3.1.
    """
    if steps <= 1 or step >= steps:
        return end if steps > 1 else start
    if step <= 1:
        return start
    return end - (end - start) * (math.cos(math.pi * (step - 1) / (steps - 1)) + 1) / 2


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, momentum: float, buffers: str = "copy") -> None:
    """target <- momentum * target + (1 - momentum) * online, all weights in one call.

    A momentum of 0 makes the weights bit-equal to the online ones; 1 leaves them unchanged. Floating-point buffers (the
    running statistics of batch norm) are copied, or averaged as the weights; counters are always copied.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)
    old = dict(target.named_buffers())
    new = dict(online.named_buffers())
    averaged = [name for name in old if buffers == "average" and old[name].is_floating_point()]
    copied = [name for name in old if name not in averaged]
    if averaged:
        torch._foreach_lerp_([old[n] for n in averaged], [new[n] for n in averaged], 1 - momentum)
    if copied:
        torch._foreach_copy_([old[n] for n in copied], [new[n] for n in copied])
