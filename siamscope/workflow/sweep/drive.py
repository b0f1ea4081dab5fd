"""Trials in progress: started as `siamscope train` processes, watched, ended early where they collapse, told."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from siamscope.recipe import Recipe, RecipeError
from siamscope.rundir import RunError
from siamscope.workflow import facts, jobs
from siamscope.workflow.fleet import of_run
from siamscope.workflow.jobs import POLL_SECONDS, Child, Run, Signals
from siamscope.workflow.sweep.errors import SweepError
from siamscope.workflow.sweep.score import Objective
from siamscope.workflow.sweep.space import applied, plain
from siamscope.workflow.sweep.store import Store, optuna

Prune = Literal["collapse", "median", "none"]
Say = Callable[[str], None]

LOOK_SECONDS = 1.0
COLLAPSED_TWICE = 2
"""Measurements in a row that must say "collapse" before a trial is ended, beside the alarm in the training itself."""
FAILURES = 3
"""Failures in a row that end a sweep: the next one would fail too."""
ALARM, DIVERGED = 4, 3


@dataclass
class Going:
    """A trial in progress.

    Attributes:
        why: the reason for which it is being ended early.  step: the last one that was measured.
        collapsed: measurements in a row that said so.  seen: steps of those that were read.
        taken: whether another process had begun it.
    """

    trial: Any
    run: Run
    why: str = ""
    step: int = 0
    collapsed: int = 0
    seen: set[int] = field(default_factory=set)
    offset: int = 0
    taken: bool = False

    def lines(self) -> list[dict[str, Any]]:
        """The measurements that were written since the last call (again those of a log that was cut by a resume)."""
        out = []
        with contextlib.suppress(OSError), self.run.dir.metrics.open("rb") as stream:
            if stream.seek(0, 2) < self.offset:
                self.offset = 0
            stream.seek(self.offset)
            text = stream.read()
            text = text[: text.rfind(b"\n") + 1]  # the last line may be half written
            self.offset += len(text)
            for line in text.splitlines():
                with contextlib.suppress(ValueError):
                    value = json.loads(line) if b'"monitor"' in line else None
                    if isinstance(value, dict) and value.get("kind") == "monitor":
                        out.append(value)
        return out


class Driver:
    """One process's part of a sweep.

    `recipe` is that of all trials but for what is searched; `fingerprint` that of the images; `steps` its length.
    """

    def __init__(
        self, store: Store, goal: Objective, recipe: Recipe, fingerprint: str, steps: int, prune: Prune, say: Say | None
    ) -> None:
        self.store, self.goal, self.recipe, self.fingerprint = store, goal, _watched(recipe, prune), fingerprint
        self.prune, self.say = prune, say or (lambda text: None)
        self.going: dict[str, Going] = {}
        self.failures = 0
        if prune == "median":
            median = optuna().pruners.MedianPruner
            store.study.pruner = median(n_startup_trials=4, n_warmup_steps=steps // 3, n_min_trials=4)

    def work(self, trials: int, at_once: int, threads: int) -> int:
        """Run trials until the study has `trials` of them; the signal that stopped it, or 0.

        After a signal those in progress save and end, and stay in progress in the study: the next start goes on.

        Raises:
            SweepError: the first trials failed one after another.
        """
        with self.store.working(), Signals() as signals:
            left = deque(self._taken(trial) for trial in self.store.orphans())
            looked = 0.0
            while True:
                while len(signals.children) < at_once and not signals.received:
                    found = self._next(left, trials)
                    if found is None:
                        break
                    self._start(found, signals, threads)
                if not signals.children and (signals.received or not left):
                    return signals.received
                time.sleep(POLL_SECONDS)
                if time.monotonic() - looked > LOOK_SECONDS:
                    looked = time.monotonic()
                    for child in signals.children:
                        self._look(child)
                for child in [child for child in signals.children if child.ended()]:
                    signals.children.remove(child)
                    self._ended(child, bool(signals.received))

    # ------------------------------------------------------------------------------------------ starting

    def _taken(self, trial: Any) -> Any:
        self.say(f"trial {trial.number}: goes on where a process left it")
        return trial

    def _next(self, left: deque[Any], trials: int) -> Going | None:
        """A trial that was left, unless its run still goes on by itself, else a new one, else nothing."""
        for _ in range(len(left)):
            trial = left.popleft()
            found = self._made(trial)
            if found and jobs.busy(found.run):
                left.append(trial)
            elif found:
                found.taken, found.seen = True, self.store.steps_told(trial)
                return found
        while (trial := self.store.ask(trials)) is not None:
            found = self._made(trial)
            if found:
                return found
        return None

    def _made(self, trial: Any) -> Going | None:
        """The run of a trial; a recipe that these values do not make is told as a failure."""
        try:
            recipe = applied(self.recipe, trial.params)
        except RecipeError as error:
            self._fail(trial, str(error))
            return None
        key = f"trial-{trial.number:04d}"
        run = Run(key, f"trial {trial.number}", recipe.train.seed, recipe, self.store.out / "trials" / key)
        return Going(trial, run)

    def _start(self, going: Going, signals: Signals, threads: int) -> None:
        run, state = going.run, going.run.state()
        if jobs.complete(run.dir) and not jobs.other_recipe(run):  # it ended before its process could say so
            self._look_at(going)
            self._finished(going)
        elif going.taken and state.get("status") == "failed":
            self._failed(going, int(state.get("exit_code") or 1), str(state.get("reason", "")))
        else:
            self.going[run.key] = going
            values = ", ".join(f"{name.rpartition('.')[2]} {plain(v)}" for name, v in going.trial.params.items())
            self.say(f"trial {going.trial.number}: {values}")
            signals.start(run, threads)

    # ------------------------------------------------------------------------------------------ watching

    def _look(self, child: Child) -> None:
        """Report what a run has measured, and end it if it collapses."""
        going = self.going[child.run.key]
        if not going.why and self._look_at(going):
            child.tell(signal.SIGTERM)

    def _look_at(self, going: Going) -> bool:
        """Report what a run has measured; whether it should end."""
        for line in going.lines():
            step, value = int(line.get("step", 0)), self.goal.early(line)
            if step == 0 or step in going.seen:
                continue
            going.seen.add(step)
            going.step = max(going.step, step)
            if math.isfinite(value):
                going.trial.report(value, step)
            going.collapsed = going.collapsed + 1 if line.get("health") == "collapse" else 0
            going.why = self._reason(going, line, step)
            if going.why:
                return True
        return False

    def _reason(self, going: Going, line: dict[str, Any], step: int) -> str:
        """Why a run should end after this measurement, or nothing."""
        if self.prune == "none":
            return ""
        if going.collapsed >= COLLAPSED_TWICE:
            return f"collapsed at step {step}: {(line.get('reasons') or ['the measurements say so'])[0]}"
        if self.prune == "median" and going.trial.should_prune():
            return f"worse than half of the others at step {step}"
        return ""

    # ------------------------------------------------------------------------------------------ ending

    def _ended(self, child: Child, stopping: bool) -> None:
        going = self.going.pop(child.run.key)
        why = going.why
        self._look_at(going)
        going.why = why  # what was seen only after its end does not end it
        status, reason = child.record(stopping)
        if status == "finished":
            self._finished(going)
        elif why:
            self._tell(going, "PRUNED", None, why)
        elif status == "failed":
            self._failed(going, child.process.returncode, reason)
        else:
            self.say(f"trial {going.trial.number}: saved after a signal; the same command goes on")

    def _failed(self, going: Going, code: int, reason: str) -> None:
        if code in (ALARM, DIVERGED):
            self._tell(going, "PRUNED", None, reason)
        else:
            self._fail(going.trial, reason, going)

    def _fail(self, trial: Any, reason: str, going: Going | None = None) -> None:
        self.store.tell(trial, "FAIL", None, reason=reason, step=going.step if going else 0)
        self.say(f"trial {trial.number}: failed: {reason.splitlines()[0]}")
        self.failures += 1
        if self.failures >= FAILURES:
            raise SweepError(f"{FAILURES} trials failed one after another, the last one with: {reason}")

    def _finished(self, going: Going) -> None:
        """Judge a finished run. One that its own verdict calls collapsed, or without a score, does not compete."""
        try:
            known = facts.read(going.run.dir.path)
        except (RunError, RecipeError) as error:
            self._fail(going.trial, str(error), going)
            return
        member = of_run(known)
        if member.data != self.fingerprint:
            self._fail(going.trial, "its images are not the sweep's: the data have changed", going)
            return
        going.step = known.steps
        about = {
            "scores": member.scores, "accuracy": member.accuracy, "health": member.health, "split": member.split,
            "validation": member.validation if math.isfinite(member.validation) else None, "n": member.n, "d": member.d,
        }  # fmt: skip
        value, why = self.goal.value(member)
        if member.health == "collapse" and self.prune != "none":
            self._tell(going, "PRUNED", None, "collapsed at the end", **about)
        elif why:
            self._fail(going.trial, why, going)
        else:
            self._tell(going, "COMPLETE", value, "", **about)

    def _tell(self, going: Going, state: str, value: float | None, reason: str, **about: Any) -> None:
        self.failures = 0
        seconds = going.run.state().get("seconds")
        path = str(going.run.dir.path)
        self.store.tell(going.trial, state, value, reason=reason, step=going.step, seconds=seconds, path=path, **about)
        found = reason.splitlines()[0] if reason else f"{self.goal.name} {value:.4g}, {about['health']}"
        self.say(f"trial {going.trial.number}: {'pruned: ' if state == 'PRUNED' else ''}{found}")


def _watched(recipe: Recipe, prune: Prune) -> Recipe:
    """The recipe with its alarm, if it has one, set to end a collapsing run, unless it says more than to warn."""
    if prune == "none" or recipe.monitor.watch == -1 or recipe.monitor.on_collapse != "warn":
        return recipe
    return replace(recipe, monitor=replace(recipe.monitor, on_collapse="stop"))
