"""The processes of one run: who I am, and what we say to each other. Without torchrun it is one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from siamscope.objectives.base import Group
from siamscope.recipe import RecipeError
from siamscope.rundir import RunError
from siamscope.training import meeting, pulse
from siamscope.training.pulse import LostProcessError, Pulse

T = TypeVar("T")
PATIENCE = "SIAMSCOPE_TIMEOUT_MINUTES"
"""How long processes wait for one that does not answer: an environment variable, since it is the machines' matter."""


@dataclass(frozen=True)
class World:
    """One process among `size`; `rank` 0 writes files and speaks. A host has `local_size` of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patient: dist.ProcessGroup | None = None  # for waits of hours, while rank 0 decodes images or judges
    prompt: dist.ProcessGroup | None = None  # where all processes do the same; on the CPU
    local_rank: int = 0
    local_size: int = 1
    pulse: Pulse | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def on(self, device: str) -> World:
        """The same process with the device of this name; see `choose_device`."""
        return replace(self, device=choose_device(device))

    def at(self, step: int, stage: int) -> None:
        """Note how far this process is: in `pulse.STAGES` of a step."""
        if self.pulse is not None:
            self.pulse.step, self.pulse.stage = step, stage

    def last_words(self, advice: Callable[[], str]) -> None:
        """What to add when another process is lost: how to go on."""
        if self.pulse is not None:
            self.pulse.advice = advice

    def share(self, n: int) -> slice:
        """The part of n rows that this process does, of about equal parts in the order of ranks."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def within(self, n: int, start: int, stop: int) -> slice:
        """The rows of the block from `start` to `stop` that are in this process's share of n, counted in the block."""
        mine = self.share(n)
        low = min(max(mine.start, start), stop)
        return slice(low - start, max(min(mine.stop, stop), low) - start)

    def gathered(self, rows: Tensor | None) -> Tensor | None:
        """The rows (n, ...) of all processes in the order of ranks, on rank 0 (None elsewhere); None stands for no row.

        float32 travels, on the CPU; the result is where rank 0's rows are.
        """
        if self.size == 1:
            return rows
        counts = self.all_said(None if rows is None else tuple(rows.shape))
        shape = next((count for count in counts if count is not None), None)
        if shape is None:
            return None
        lengths = [0 if count is None else count[0] for count in counts]
        padded = torch.zeros(max(lengths), *shape[1:])
        if rows is not None:
            padded[: len(rows)] = rows.float().cpu()
        parts = [torch.empty_like(padded) for _ in counts] if self.first else None
        dist.gather(padded, parts, dst=0, group=self.prompt)
        if parts is None:
            return None
        return torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)]).to(self.device)

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Rank 0's bytes, on every rank, without pickling."""
        box = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.first else None
        length = self.broadcast(len(data))
        box = torch.empty(length, dtype=torch.uint8) if box is None else box
        dist.broadcast(box, src=0, group=self.patient)
        return box.numpy().tobytes()

    def all_said(self, value: T, patient: bool = False) -> list[T]:
        """The value of every process (small Python objects), in the order of ranks, on all of them.

        patient: wait for hours, since some process has work that the others do not have.
        """
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value, group=self.patient if patient else self.prompt)
        return out

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
        return self._on(self.first, work)

    def on_each_host(self, work: Callable[[], T]) -> T | None:
        """`work()` on one process of every host while the others wait; when it fails on one, it fails on all."""
        return self._on(self.local_rank == 0, work)

    def _on(self, chosen: bool, work: Callable[[], T]) -> T | None:
        result, problem = None, None
        if chosen:
            try:
                result = work()
            except ValueError as error:
                problem = error
        told = self.all_said(str(problem) if problem else None, patient=True)
        said = {text for text in told if text}
        if problem and len(said) == 1:
            raise problem
        if said:
            shared = len(said) == 1
            raise RunError("; ".join(text if shared else f"rank {k}: {text}" for k, text in _first_of_each(told)))
        return result


def _first_of_each(told: list[str | None]) -> list[tuple[int, str]]:
    """The different texts, each with the first rank that said it."""
    return [(rank, text) for rank, text in enumerate(told) if text and text not in told[:rank]]


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


def _join(wait: float) -> None:
    """Make the process group of torchrun's processes.

    Raises:
        LostProcessError: some of them do not come.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # A little longer than the patience: who does not beat any more is named by the pulse before this fails.
    limit = timedelta(seconds=wait + 5)
    if not meeting.kept_by_agent():
        dist.init_process_group(backend, timeout=limit)
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = meeting.connection(max(wait, 60))
    try:
        token = meeting.meet(store, rank, size, wait)
    except TimeoutError as error:
        raise LostProcessError(f"{error} within {wait / 60:.3g} minutes") from error
    place = meeting.prefixed(token, store)
    dist.init_process_group(backend, store=place, rank=rank, world_size=size, timeout=limit)


def exchanges(*groups: Any) -> int:
    """How many exchanges of these groups this process has begun; 0 where torch does not say."""
    try:
        return sum(int(group._get_sequence_number_for_group()) for group in groups)
    except (AttributeError, RuntimeError, ValueError):
        return 0


def patience() -> float:
    """Seconds to wait for a process that does not answer: $SIAMSCOPE_TIMEOUT_MINUTES, 10 minutes by default.

    Raises:
        RunError: it is no positive number.
    """
    given = os.environ.get(PATIENCE, "10")
    try:
        minutes = float(given)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise RunError(f"{PATIENCE} must be a number of minutes above 0, got {given!r}")
    return 60 * minutes


@contextmanager
def world() -> Iterator[World]:
    """Join the processes that torchrun started, or be alone; leave again at the end. The device is the CPU until `on`.

    A caller's own process group is used as it is, and stays.

    Raises:
        LostProcessError: another process is gone or does not answer.
    """
    mine = not dist.is_initialized()
    if mine and not launched_by_torchrun():
        yield World()
        return
    wait = patience()
    if mine:
        _join(wait)
    patient = dist.new_group(backend="gloo", timeout=timedelta(hours=24))
    prompt = dist.new_group(backend="gloo", timeout=timedelta(seconds=wait + 5))
    local, beside = (
        int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    here = World(
        dist.get_rank(), dist.get_world_size(), patient=patient, prompt=prompt, local_rank=local, local_size=beside
    )
    if not mine:
        yield here
        return
    alive = Pulse(meeting.prefixed(here.broadcast(uuid4().hex), meeting.connection()), here.rank, here.size, wait)
    alive.exchanges = lambda: exchanges(dist.group.WORLD, prompt)
    alive.beat()
    here.all_said(None)  # every process has had its first beat
    alive.start()
    try:
        yield replace(here, pulse=alive)
    except RuntimeError as error:
        if not pulse.concerns_others(error):
            alive.leave(f"rank {here.rank} ended with an error ({type(error).__name__})")
            raise
        lost = alive.explain(error)
        alive.leave(str(lost))
        raise lost from None  # the group is broken: nothing to take leave of
    except BaseException as error:
        alive.leave(f"rank {here.rank} ended: {str(error) or type(error).__name__}")
        dist.destroy_process_group()
        raise
    alive.leave()
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
