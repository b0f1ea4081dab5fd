"""Number format and memory layout: chosen by a short timed probe, never assumed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Precision:
    """What the forward pass runs in. Weights, statistics and losses stay float32."""

    bf16: bool = False
    channels_last: bool = False

    @property
    def name(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def layout(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


def choose(
    precision: str, channels_last: str, time_it: Callable[[Precision], float]
) -> tuple[Precision, dict[str, float]]:
    """The fastest of the formats that the two settings allow, and the seconds that the probe measured for each.

    With one candidate nothing is timed. The first, plainest one stays unless another is faster by a tenth: a probe of
    milliseconds is noisy, and a change of format changes the figures.
    """
    halves = {"fp32": [False], "bf16": [True], "auto": [False, True]}[precision]
    layouts = {"off": [False], "on": [True], "auto": [False, True]}[channels_last]
    candidates = [Precision(bf16, last) for bf16 in halves for last in layouts]
    if len(candidates) == 1:
        return candidates[0], {}
    seconds = {candidate: time_it(candidate) for candidate in candidates}
    best = min(candidates, key=lambda c: seconds[c] * (1.0 if c == candidates[0] else 1.1))
    return best, {f"{c.name}{', channels last' if c.channels_last else ''}": round(s, 5) for c, s in seconds.items()}


def step_timer(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, repeats: int = 3
) -> Callable[[Precision], float]:
    """A function that gives the seconds of a forward and backward pass of a copy of `network` on noise of `shape`."""

    def time_it(precision: Precision) -> float:
        state = torch.get_rng_state()
        trial = copy.deepcopy(network).train()
        if precision.channels_last:
            trial = trial.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = precision.layout(torch.randn(shape, device=device))
        best = float("inf")
        for _ in range(repeats + 1):  # the first pass also compiles kernels; the minimum leaves it out
            _synchronise(device)
            start = time.perf_counter()
            with precision.autocast(device):
                out = trial(images)
            torch.autograd.backward(out.float().square().mean())
            _synchronise(device)
            best = min(best, time.perf_counter() - start)
        torch.set_rng_state(state)
        return best

    return time_it


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
