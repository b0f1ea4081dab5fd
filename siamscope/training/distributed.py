"""The processes of one run: who I am, and what we say to each other. Without torchrun it is one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from siamscope.objectives.base import Group
from siamscope.recipe import RecipeError
from siamscope.rundir import RunError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process among `size`; `rank` 0 writes files and speaks."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patient: dist.ProcessGroup | None = None  # for waits of hours, while rank 0 decodes images or judges

    @property
    def first(self) -> bool:
        return self.rank == 0

    def group(self) -> Group:
        """What an objective needs to see the whole batch."""
        return Group(self.rank, self.size, _Gather.apply, self.mean) if self.size > 1 else Group()

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def any(self, flag: int) -> int:
        """The largest flag of all processes (all of them get the same answer)."""
        if self.size == 1:
            return flag
        value = torch.tensor([flag], device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value.item())

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank (small Python objects), however long rank 0 takes."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    def on_first(self, work: Callable[[], T]) -> T | None:
        """`work()` on rank 0 while the others wait; when it fails for the user's reasons, it fails on all of them."""
        result, problem = None, None
        if self.first:
            try:
                result = work()
            except ValueError as error:
                problem = error
        said = self.broadcast(str(problem) if problem else None)
        if problem:
            raise problem
        if said is not None:
            raise RunError(said)
        return result


class _Gather(torch.autograd.Function):
    """All ranks' rows in the order of ranks; backward sums what every rank wants of my rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # gloo has no reduce-scatter of its own: there the sum of all rows takes half the time.
        return scattered(grads[0]) if grads[0].is_cuda else reduced(grads[0])


def scattered(gradient: Tensor) -> Tensor:
    """This rank's rows of the sum over ranks; a rank sends half the bytes of `reduced`, and holds its rows alone."""
    parts = list(gradient.contiguous().chunk(dist.get_world_size()))
    mine = torch.empty_like(parts[0])
    dist.reduce_scatter(mine, parts)
    return mine


def reduced(gradient: Tensor) -> Tensor:
    """The same rows, by summing all of them everywhere."""
    total = gradient.contiguous().clone()
    dist.all_reduce(total)
    return total.chunk(dist.get_world_size())[dist.get_rank()]


def launched_by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def world(device: str, timeout_minutes: float = 10) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone; leave again at the end.

    A caller's own process group is used as it is, and stays.
    """
    chosen = choose_device(device)
    mine = not dist.is_initialized()
    if mine and not launched_by_torchrun():
        yield World(device=chosen)
        return
    if mine:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    try:
        patient = dist.new_group(backend="gloo", timeout=timedelta(hours=24))
        yield World(dist.get_rank(), dist.get_world_size(), chosen, patient)
    finally:
        if mine:
            dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """The device of this process; `auto` takes the GPU if there is one.

    Raises:
        RecipeError: no such device, or a GPU is asked for that torch does not see.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    try:
        index = torch.device(name).index
    except RuntimeError:
        index = None
    if not name.startswith("cuda") or (index is None and name != "cuda"):
        raise RecipeError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if not torch.cuda.is_available():
        raise RecipeError(f"device {name!r}: torch {torch.__version__} sees no GPU; use 'cpu' or 'auto'")
    index = int(os.environ.get("LOCAL_RANK", "0")) if index is None else index
    if index >= torch.cuda.device_count():
        raise RecipeError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
