"""Where the time of a run's steps goes: named spans around the parts of a step, and torch's operators for a few steps.

A span costs two readings of the clock; on a GPU two events as well, which are read when the device has passed them, so
that nothing waits for it. Times of a GPU are those between events on its stream: work of the device, and what it waits
for the host.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

WARM_UP = 10  # steps at most that are left out of the figures: caches, memory and compilers settle
KEPT = 20_000  # spans at most that the trace holds
INSIDE = ("online", "target", "predictor", "objective")  # parts of the model whose share of `forward` is told
BETWEEN = ("logging", "monitor", "alarm", "checkpoint", "rollback")
"""Spans that not every step has: their time is told of all steps, warm-up included."""

_NOTHING = nullcontext()


class Spans:
    """Measures nothing: what a run has that is not profiled."""

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """Everything inside belongs to span `name`; spans nest."""
        return _NOTHING

    def begin(self, step: int) -> None:
        """A step begins, and the one before has ended."""


@dataclass
class _Mark:
    """A moment: nanoseconds of the host's clock, and the event on the device's stream."""

    at: int
    event: torch.cuda.Event | None = None


@dataclass
class _Step:
    """A step's spans by path ("forward/online"): pairs of moments."""

    number: int
    start: _Mark
    end: _Mark | None = None
    spans: list[tuple[str, _Mark, _Mark]] = field(default_factory=list)


@dataclass
class Totals:
    """Milliseconds and calls by the path of a span, over `steps` steps of `wall` milliseconds in all."""

    steps: int = 0
    wall: float = 0.0
    milliseconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Profile(Spans):
    """The spans of the steps after `start`, of `steps` in all; `detailed` of them with torch's operators.

    Attributes:
        settled: totals of the steps after warm-up and without the operators' recording, which slows them.
        everything: totals of all steps.
        lost: why there are no operators, if they could not be kept.
        first, last: numbers of the first and the last step; None before there is one.
    """

    def __init__(
        self, start: int, steps: int, detailed: int = 5, device: torch.device | None = None, operators: bool = True
    ) -> None:
        self.device = device or torch.device("cpu")
        length = max(steps - start, 0)
        self.warm_up = min(WARM_UP, length // 4)
        self.detailed = min(detailed, length // 4) if operators else 0
        self.settled, self.everything = Totals(), Totals()
        self.first: int | None = None
        self.last: int | None = None
        self.lost = ""
        self._before = 0  # steps that have begun
        self._unix = time.time_ns() - time.perf_counter_ns()
        self._path: list[str] = []
        self._step: _Step | None = None
        self._waiting: deque[tuple[_Step, bool]] = deque()  # for the device to pass their events
        self._kept: list[tuple[str, int, int, int]] = []  # path, step, start, end
        self._unused: list[torch.cuda.Event] = []
        self._recorder: Any = None
        self._operators: dict[str, Any] = {}
        self._hooks: list[Any] = []

    # -------------------------------------------------------------------------------------- recording

    @contextlib.contextmanager
    def _span(self, name: str) -> Iterator[None]:
        self._path.append(name)
        path, start = "/".join(self._path), self._mark()
        try:
            with torch.profiler.record_function(name) if self._recorder else _NOTHING:
                yield
        finally:
            self._path.pop()
            if self._step is not None:
                self._step.spans.append((path, start, self._mark()))

    def __call__(self, name: str) -> AbstractContextManager[None]:
        return self._span(name)

    def begin(self, step: int) -> None:
        self.end()
        self.first, self.last = step if self.first is None else self.first, step
        if self._before == self.warm_up and self.detailed:
            self._record_operators()
        elif self._recorder and self._before == self.warm_up + self.detailed:
            self._keep_operators()
        self._before += 1
        self._step = _Step(step, self._mark())

    def end(self) -> None:
        """The step that has begun, if any, ends here."""
        if self._step is None:
            return
        self._step.end = self._mark()
        settled = self._before > self.warm_up + self.detailed
        self._waiting.append((self._step, settled))
        self._step = None
        self._read(wait=False)

    def finish(self) -> None:
        """The run has ended; every event is read."""
        self.end()
        if self._recorder:
            self._keep_operators()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._read(wait=True)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def attach(self, model: nn.Module) -> None:
        """Tell the parts of the model's forward pass apart."""
        for name in INSIDE:
            module = getattr(model, name, None)
            if not isinstance(module, nn.Module):
                continue
            opened: list[AbstractContextManager[None]] = []
            self._hooks.append(module.register_forward_pre_hook(self._opening(name, opened)))
            self._hooks.append(module.register_forward_hook(_closing(opened), always_call=True))

    def _opening(self, name: str, opened: list[AbstractContextManager[None]]) -> Callable[..., None]:
        def enter(*_: object) -> None:
            inside = self._path[:1] == ["forward"]
            opened.append(self(name) if inside else _NOTHING)
            opened[-1].__enter__()

        return enter

    def _mark(self) -> _Mark:
        if self.device.type != "cuda":
            return _Mark(time.perf_counter_ns())
        event = self._unused.pop() if self._unused else torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return _Mark(time.perf_counter_ns(), event)

    def _read(self, wait: bool) -> None:
        """Add up the steps that the device is done with."""
        while self._waiting:
            step, settled = self._waiting[0]
            assert step.end is not None
            event = step.end.event
            if not wait and event is not None and not event.query():  # type: ignore[no-untyped-call]
                return
            self._waiting.popleft()
            self._add(self.everything, step)
            if settled:
                self._add(self.settled, step)
            room = max(KEPT - len(self._kept), 0)
            spans = [("step", step.start, step.end), *step.spans]
            self._kept += [(path, step.number, start.at, end.at) for path, start, end in spans[:room]]
            marks = {id(mark): mark for _, start, end in spans for mark in (start, end)}
            self._unused += [mark.event for mark in marks.values() if mark.event is not None]

    def _add(self, totals: Totals, step: _Step) -> None:
        assert step.end is not None
        totals.steps += 1
        totals.wall += milliseconds(step.start, step.end)
        for path, start, end in step.spans:
            totals.milliseconds[path] += milliseconds(start, end)
            totals.calls[path] += 1

    # -------------------------------------------------------------------------------------- the trace

    def _record_operators(self) -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it says on standard error when it starts and stops
        self._recorder = torch.profiler.profile(activities=kinds)
        self._recorder.start()

    def _keep_operators(self) -> None:
        self._recorder.stop()
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "trace.json"
                self._recorder.export_chrome_trace(str(file))
                self._operators = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # no reason to end the run
            self.lost = f"the operators could not be kept: {error}"
        self._recorder = None

    def trace(self) -> dict[str, Any]:
        """The spans, as a thread of their own, and the recorded operators in Chrome's trace-event format."""
        base = int(self._operators.get("baseTimeNanoseconds", self._unix))  # times are microseconds from here on
        process = os.getpid()
        named = [
            {"ph": "M", "pid": process, "tid": 1, "ts": 0, "name": "process_name", "args": {"name": "siamscope"}},
            {"ph": "M", "pid": process, "tid": 1, "ts": 0, "name": "thread_name", "args": {"name": "spans"}},
        ]
        spans = [
            {
                "ph": "X", "cat": "siamscope", "name": path.rpartition("/")[2], "pid": process, "tid": 1,
                "ts": (start + self._unix - base) / 1e3, "dur": (end - start) / 1e3,
                "args": {"step": step, "path": path},
            }
            for path, step, start, end in self._kept
        ]  # fmt: skip
        events = [*named, *spans, *self._operators.get("traceEvents", [])]
        about = {name: value for name, value in self._operators.items() if name != "traceName"}
        return {**about, "displayTimeUnit": "ms", "traceEvents": events}


def milliseconds(start: _Mark, end: _Mark) -> float:
    """Between two moments: on the device, if they have events there."""
    if start.event is not None and end.event is not None:
        return float(start.event.elapsed_time(end.event))
    return (end.at - start.at) / 1e6


def _closing(opened: list[AbstractContextManager[None]]) -> Callable[..., None]:
    def leave(*_: object) -> None:
        opened.pop().__exit__(None, None, None)

    return leave
