"""The trials of a sweep in an Optuna study: asked for, told, and taken over from a process that was killed.

Several processes, also on several machines, work on one study. What a trial found is written into it as attributes, so
that every process can make the table. A trial belongs to the process that holds a lock on OUT/workers/ID; when that
lock is free the process is dead, and the next one with this OUT goes on with its trials.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.rundir import explained
from siamscope.workflow.batch import differences
from siamscope.workflow.sweep.errors import SweepError
from siamscope.workflow.sweep.score import Objective
from siamscope.workflow.sweep.space import Dimension, Value

NAME = "siamscope"
DATABASE = "study.db"
LOCK = ".study.lock"
STARTUP = 8
"""Trials drawn at random before the sampler (TPE) learns from them; the recipe's own values are the first."""
_TRIES = 5
_ENDED = ("COMPLETE", "PRUNED", "FAIL")


def optuna() -> Any:
    """The module, or an error that says how to install it.

    Raises:
        SweepError: it is not installed.
    """
    try:
        import optuna as module
    except ImportError:
        raise SweepError("a sweep needs Optuna: pip install 'siamscope[sweep]'") from None
    module.logging.set_verbosity(module.logging.ERROR)
    return module


@contextlib.contextmanager
def held(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a file's lock, which the kernel frees when the process dies; False if another process has it."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


class Store:
    """A study, seen by one process that works in the folder `out`."""

    def __init__(self, study: Any, out: Path, space: Sequence[Dimension], seed: int, alone: bool) -> None:
        self.study, self.out, self.space, self.seed = study, out.absolute(), space, seed
        self.alone = alone  # the storage lies in `out`: whatever is in it is of this folder
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"

    @classmethod
    def open(
        cls, out: Path, url: str, name: str, space: Sequence[Dimension], goal: Objective, asked: Mapping[str, Any],
        first: Mapping[str, Value] | None, seed: int,
    ) -> Store:  # fmt: skip
        """Open the study, or make it with `first` as the first trial to come.

        Raises:
            SweepError: the storage cannot be used, or holds a study of this name that asked for something else.
        """
        module = optuna()
        url = url or f"sqlite:///{out.absolute() / DATABASE}"
        with held(out / LOCK):
            study = _opened(module, url, name, goal.direction)
            wanted = json.dumps(asked)
            former = study.user_attrs.get("asked")
            if former is None:
                study.set_user_attr("asked", wanted)
                if first is not None:
                    study.enqueue_trial(dict(first), skip_if_exists=True)
            elif changed := list(differences(json.loads(former), json.loads(wanted))):
                raise SweepError(
                    f"the study {name!r} in {url} searches by another recipe or space ({'; '.join(changed[:3])}); "
                    "give another --study or --out"
                )
        return cls(study, out, space, seed, alone=url.endswith(str(out.absolute() / DATABASE)))

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Be alive: what is asked for meanwhile is this process's."""
        path = self.out / "workers" / self.id
        try:
            with held(path):
                yield
        finally:
            path.unlink(missing_ok=True)

    def ask(self, most: int) -> Any:
        """A new trial with its parameters, or None if the study has `most` of them.

        The sampler is seeded by the trial's number, so that neither a second process nor a second start repeats
        what the first drew.
        """
        module = optuna()
        with held(self.out / LOCK):
            if len(self._counted()) >= most:
                return None
            trial = self.study.ask()
            if sum(other.number < trial.number for other in self._counted()) >= most:
                trial.set_user_attr("surplus", True)  # another machine asked at the same moment
                self.study.tell(trial, state=module.trial.TrialState.FAIL)
                return None
            self._claim(trial)
        self._draw(trial)
        return trial

    def orphans(self) -> list[Any]:
        """The trials in progress in this folder whose process is dead; they are this process's from now on."""
        module, out = optuna(), []
        usual = str(self.out) if self.alone else ""
        with held(self.out / LOCK):
            for frozen in self.study.get_trials(deepcopy=False, states=(module.trial.TrialState.RUNNING,)):
                known = frozen.user_attrs
                if known.get("out", usual) != str(self.out) or self._alive(known.get("worker", "")):
                    continue
                trial = module.trial.Trial(self.study, frozen._trial_id)
                self._claim(trial)
                out.append(trial)
        for trial in out:
            self._draw(trial)  # it may have been killed between asking and drawing
        return out

    def steps_told(self, trial: Any) -> set[int]:
        """The steps whose scores were reported."""
        frozen = self.study._storage.get_trial(trial._trial_id)
        return set(frozen.intermediate_values)

    def tell(self, trial: Any, state: str, value: float | None, **about: Any) -> None:
        """How a trial ended (COMPLETE with its value, PRUNED or FAIL), and what else is known of it."""
        for name, item in about.items():
            trial.set_user_attr(name, item)
        states = optuna().trial.TrialState
        self.study.tell(trial, value, state=getattr(states, state), skip_if_finished=True)

    def rows(self) -> list[dict[str, Any]]:
        """All trials of all processes: number, state, parameters, value, last early value, and their attributes."""
        return [
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "params": dict(trial.params),
                "value": trial.value if trial.state.name == "COMPLETE" else None,
                "last": list(trial.intermediate_values.values())[-1] if trial.intermediate_values else None,
                "course": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
            }
            | {key: item for key, item in trial.user_attrs.items() if key != "worker"}
            for trial in self.study.get_trials(deepcopy=False)
            if not trial.user_attrs.get("surplus") and trial.state.name != "WAITING"
        ]

    def _counted(self) -> list[Any]:
        """Trials that are done or in progress."""
        trials = self.study.get_trials(deepcopy=False)
        return [t for t in trials if t.state.name in (*_ENDED, "RUNNING") and not t.user_attrs.get("surplus")]

    def _draw(self, trial: Any) -> None:
        seed = int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0])
        self.study.sampler = optuna().samplers.TPESampler(
            seed=seed, n_startup_trials=STARTUP, constant_liar=True, multivariate=False
        )
        for dimension in self.space:
            _suggest(trial, dimension)

    def _claim(self, trial: Any) -> None:
        for name, value in (("out", str(self.out)), ("host", socket.gethostname()), ("worker", self.id)):
            trial.set_user_attr(name, value)

    def _alive(self, worker: str) -> bool:
        path = self.out / "workers" / worker
        if not worker or not path.is_file():
            return False
        with held(path, wait=False) as free:
            return not free


def _opened(module: Any, url: str, name: str, direction: str) -> Any:
    """The study in the storage. Two processes that make the tables of a new database get in each other's way: again."""
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    attempt = 1
    while True:
        try:
            storage = module.storages.RDBStorage(url, engine_kwargs=options)
            return module.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        except Exception as error:  # the drivers' errors have no common class
            if attempt == _TRIES:
                raise SweepError(f"cannot use the storage {url}: {error}") from error
            time.sleep(0.2 * attempt)
            attempt += 1


def _suggest(trial: Any, dimension: Dimension) -> None:
    if dimension.choices:
        trial.suggest_categorical(dimension.field, dimension.choices)
    elif dimension.whole:
        trial.suggest_int(dimension.field, int(dimension.low), int(dimension.high), log=dimension.log)
    else:
        trial.suggest_float(dimension.field, dimension.low, dimension.high, log=dimension.log)
