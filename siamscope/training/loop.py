"""The loop: steps, measurements, checkpoints, and an orderly end whatever happens."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from siamscope.collapse import CollapseError
from siamscope.objectives import ObjectiveError
from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint, rollback
from siamscope.training.checkpoint import Checkpoint
from siamscope.training.monitor import Monitor
from siamscope.training.progress import Reporter
from siamscope.training.step import Trainer
from siamscope.training.watch import Watch


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the message names the step, the last good checkpoint and likely causes."""


GO_ON, STOP, GO_BACK = 0, 1, 2  # what an alarm does; the largest of all processes counts


@dataclass
class Outcome:
    """How `fit` ended: after step `step`, by itself, by a signal, or by the alarm, for the `reason` that it gives."""

    step: int
    signal: int | None = None
    reason: str = ""


class Interrupt:
    """Turns the first SIGINT or SIGTERM into a flag, so that the step can finish; a second one is not held back."""

    def __init__(self) -> None:
        self.received = 0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._former[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread: the caller keeps its own handling
                break
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._former.get(number) or signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)


@dataclass
class Loop:
    """Everything that `fit` needs."""

    trainer: Trainer
    monitor: Monitor
    run: RunDir
    reporter: Reporter
    steps_per_epoch: int
    watch: Watch
    start: int = 0
    best: float | None = None
    reference: dict[str, Any] | None = None
    rollbacks: int = 0
    pending: list[tuple[int, Tensor, float, float]] = field(default_factory=list)

    def fit(self, batches: Callable[[int], Iterator[Tensor]]) -> Outcome:
        """Train from step `start` + 1 to the end, until a signal, or until an alarm ends it.

        `batches(step)` yields this process's rows (n, C, H, W) uint8 of the global batch of each step after `step`.

        Raises:
            NonFiniteLossError: the loss is not a number any more.
            RunError: the run directory cannot be written; the last checkpoint is intact.
        """
        self.reporter.start(self.start, self.trainer.steps)
        self.saved_at, self.flushed_at = time.monotonic(), time.monotonic()
        self.interval = self.trainer.recipe.monitor.interval or max(self.trainer.steps // 20, 1)
        with Interrupt() as interrupt:
            if self.start == 0:
                self.observe(0)
                if self.on_collapse != "warn":
                    self.keep_healthy(0)
            action = self.act(self.start)  # of a run that is resumed where the alarm had sounded
            if action == GO_BACK:
                self.go_back(self.start)
            outcome = Outcome(self.start, reason=self.last_word(self.start)) if action == STOP else None
            while outcome is None:
                outcome = self.train(batches(self.start), interrupt)
        return outcome

    def train(self, batches: Iterator[Tensor], interrupt: Interrupt) -> Outcome | None:
        """The steps after `start`; None when the alarm has taken the run back to another `start`."""
        trainer, config, world = self.trainer, self.trainer.recipe.train, self.trainer.world
        spans = trainer.spans
        # A GPU is asked for its losses only now and then, because every question stalls it.
        flush_every = 10 if world.device.type == "cuda" else 1
        for number in range(self.start + 1, trainer.steps + 1):
            spans.begin(number)
            world.at(number, 0)
            with spans("data"):
                images = next(batches)
            world.at(number, 1)
            loss = self.step(number, images)
            world.at(number, 2)
            self.pending.append((number, loss, self.current_rate(), trainer.momentum(number)))
            last = number == trainer.steps
            measured = last or number % self.interval == 0
            save_due = last or bool(config.checkpoint_steps and number % config.checkpoint_steps == 0)
            watched = self.watch.due(number)
            if not (measured or save_due or watched or number % flush_every == 0):
                continue
            with spans("logging"):
                stop = self.flush(interrupt.received)  # every process comes here at the same steps
            with spans("monitor") if measured else nullcontext():
                improved = self.observe(number) if measured else False
            with spans("alarm") if watched else nullcontext():
                action = self.look(number) if watched else GO_ON
            if action == GO_BACK:
                with spans("rollback"):
                    self.go_back(number)
                return None
            healthy = measured and self.on_collapse != "warn" and self.watch.healthy
            minutes_due = time.monotonic() - self.saved_at >= 60 * config.checkpoint_minutes
            if save_due or stop or improved or minutes_due or healthy or action == STOP:
                with spans("checkpoint"):
                    self.save(number, improved, healthy)
            if action == STOP:
                return Outcome(number, reason=self.last_word(number))
            if stop:
                return Outcome(number, stop)
        return Outcome(trainer.steps)

    @property
    def on_collapse(self) -> str:
        return self.trainer.recipe.monitor.on_collapse

    def step(self, number: int, images: Tensor) -> Tensor:
        """A step; embeddings that the objective took before and cannot now (nothing left to whiten) end the run."""
        try:
            return self.trainer.step(number, images)
        except ObjectiveError as error:
            if number == self.start + 1:
                raise
            raise NonFiniteLossError(self._explain(number, f"undefined ({error})")) from error

    def current_rate(self) -> float:
        return float(self.trainer.optimizer.param_groups[0]["lr"])

    def flush(self, received: int) -> int:
        """Write the pending steps' lines; the strongest signal that any process received.

        A loss that is not finite ends the run here, before anything is saved.
        """
        stop = self.trainer.world.any(received)
        if not self.pending:
            return stop
        losses = self.trainer.world.mean(torch.stack([loss.float() for _, loss, _, _ in self.pending])).tolist()
        now = time.monotonic()
        speed = len(losses) * self.trainer.recipe.train.batch_size / max(now - self.flushed_at, 1e-9)
        self.flushed_at = now
        for (number, _, rate, momentum), loss in zip(self.pending, losses, strict=True):
            if self.trainer.world.first:
                self._write_step(number, loss, rate, momentum, speed)
            if not math.isfinite(loss):
                raise NonFiniteLossError(self._explain(number, str(loss)))
        self.reporter.step(self.pending[-1][0], losses[-1], speed)
        self.pending.clear()
        return stop

    def _write_step(self, number: int, loss: float, rate: float, momentum: float, speed: float) -> None:
        record: dict[str, Any] = {"kind": "step", "step": number, "epoch": self.epoch(number), "loss": loss, "lr": rate}
        config = self.trainer.recipe.optim
        for group in self.trainer.optimizer.param_groups:
            of_predictor = group.get("part") == "predictor"  # checkpoints of older versions do not name the part
            if group["constant"] or (of_predictor and config.predictor_lr != 1):
                record.setdefault("lr_predictor", group["lr"])
        if self.trainer.model.target is not None:
            record["momentum"] = momentum
        self.run.append_metrics(record | {"images_per_second": round(speed, 1)})
        self.loss = loss

    def observe(self, number: int) -> bool:
        """Measure and log; True (on rank 0) if this is the best measurement so far. Every process does its share."""
        if not self.trainer.world.first:
            self.monitor.measure(self.trainer.model, number, None)
            return False
        started = time.monotonic()
        record: dict[str, Any] = {"kind": "monitor", "step": number, "epoch": self.epoch(number)}
        if number:
            record |= {"loss": self.loss, "grad_norm": self.trainer.gradient_norm()}
        try:
            record |= self.monitor.measure(self.trainer.model, number, self.reference)
        except CollapseError as error:  # embeddings that are not finite
            raise NonFiniteLossError(self._explain(number, "followed by embeddings that are not finite")) from error
        if self.reference is None:
            self.reference = {"feature_effective_rank": record["feature_effective_rank"]}
        record["seconds"] = round(time.monotonic() - started, 3)
        self.run.append_metrics(record)
        self.reporter.measured(record)
        self.flushed_at += time.monotonic() - started  # the speed is that of training alone
        score: float = record.get("knn", record["feature_effective_rank"])
        if number and (self.best is None or score > self.best):
            self.best = score
            return True
        return False

    def look(self, number: int) -> int:
        """Let the alarm look (rank 0), log it, and say what has changed; what every process does now."""
        if self.trainer.world.first:
            started, before = time.monotonic(), self.watch.alarm
            try:
                self.run.append_metrics(self.watch.look(self.trainer.model, number))
            except CollapseError as error:
                raise NonFiniteLossError(self._explain(number, "followed by embeddings that are not finite")) from error
            alarm = self.watch.alarm
            if (alarm.state, alarm.kind) != (before.state, before.kind):
                self.tell(number, str(alarm) + (f"; try: {'; '.join(alarm.advice)}" if alarm.state == "alarm" else ""))
            self.flushed_at += time.monotonic() - started
        return self.act(number)

    def act(self, number: int) -> int:
        """What the alarm's state asks for, agreed by all processes."""
        action = GO_ON
        if self.trainer.world.first and self.watch.alarm.state == "alarm" and self.on_collapse != "warn":
            action = GO_BACK if self.on_collapse == "rollback" and self.may_go_back() else STOP
        return self.trainer.world.any(action)

    def may_go_back(self) -> bool:
        return self.rollbacks < rollback.MOST and rollback.healthy(self.run, self.trainer.recipe) is not None

    def go_back(self, number: int) -> None:
        """Return from step `number` to the last healthy checkpoint, with less rate and decay."""
        self.pending.clear()
        trainer, self.rollbacks = self.trainer, self.rollbacks + 1
        point = rollback.restore(self.run, trainer, self.monitor, self.rollbacks)
        self.start, self.best, self.reference = point.step, point.best, point.reference
        if trainer.world.first:
            said = rollback.forget(self.run, trainer.recipe, point, number, self.watch.alarm)
            self.watch.rebuild(read_jsonl(self.run.metrics))
            self.reporter.say(said)

    def last_word(self, number: int) -> str:
        """Why the alarm ends the run; it is logged too."""
        alarm = self.watch.alarm
        reason = f"the alarm ended the run: {alarm}" if self.trainer.world.first else "the alarm ended the run"
        if self.on_collapse == "rollback":
            tried = self.rollbacks >= rollback.MOST
            reason += f"; {rollback.MOST} rollbacks did not help" if tried else "; no healthy checkpoint to go back to"
        if self.trainer.world.first:
            self.tell(number, reason)
        return reason

    def tell(self, number: int, message: str) -> None:
        self.run.append_metrics({"kind": "event", "step": number, "message": message})
        self.reporter.say(message)

    def keep_healthy(self, number: int) -> None:
        """A checkpoint to go back to that is no numbered one: that of step 0."""
        if self.trainer.world.first:
            checkpoint.save_healthy(self.run, self.trainer.recipe, self.point(number))

    def save(self, number: int, improved: bool, healthy: bool = False) -> None:
        """Write a checkpoint (rank 0)."""
        self.saved_at = time.monotonic()
        if not self.trainer.world.first:
            return
        trainer = self.trainer
        if not all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters()):
            raise NonFiniteLossError(self._explain(number, "followed by weights that are not finite"))
        checkpoint.save(self.run, trainer.recipe, self.point(number), trainer.recipe.train.keep, improved, healthy)

    def point(self, number: int) -> Checkpoint:
        model, optimizer = self.trainer.model, self.trainer.optimizer
        return Checkpoint(number, model.state_dict(), optimizer.state_dict(), self.best, self.reference, self.rollbacks)

    def epoch(self, number: int) -> float:
        return round(number / self.steps_per_epoch, 4)

    def _explain(self, number: int, loss: str) -> str:
        paths = checkpoint.numbered(self.run)
        good = f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"
        config = self.trainer.recipe
        causes = [f"a learning rate that is too high (optim.lr = {config.optim.lr:g}); try a third of it"]
        if not config.optim.warmup_epochs:
            causes.append("no warm-up (optim.warmup_epochs = 0)")
        if not config.optim.clip_norm:
            causes.append("no gradient clipping (optim.clip_norm = 0)")
        if self.trainer.precision.bf16:
            causes.append("bf16 arithmetic; try --precision fp32")
        return f"the loss is {loss} at step {number}; {good}. Likely causes: {'; '.join(causes)}."
