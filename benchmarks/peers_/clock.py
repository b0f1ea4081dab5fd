"""Seconds of the computation, what a process holds, and where its answers go. Standard library; torch only on a GPU."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def used() -> float:
    """Processor seconds of this process and of its ended children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def now(device: str) -> float:
    """Processor seconds on a CPU; wall seconds, with the device's queue empty, on a GPU."""
    if device == "cpu":
        return used()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def timed(action: Callable[[], Any], device: str) -> tuple[dict[str, float], Any]:
    """What `action` took: `seconds` by `now`, and `wall`; and what it gave."""
    start, wall = now(device), time.perf_counter()
    result = action()
    return {"seconds": now(device) - start, "wall": time.perf_counter() - wall}, result


def warm(work: Callable[[int], Any], count: int, device: str, before: int = 1) -> dict[str, float]:
    """What `work(count)` takes after `work(before)`, which is not counted: a process that waited while the others had
    their turn starts a fifth slower, and the faster one would pay most."""
    work(before)
    return timed(lambda: work(count), device)[0]


def peak_mb(device: str) -> float:
    """The most memory that was held, MB: of the process, or on the GPU."""
    if device == "cpu":
        scale = 1e6 if sys.platform == "darwin" else 1e3
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 1)
    import torch

    return round(torch.cuda.max_memory_allocated() / 1e6, 1)
