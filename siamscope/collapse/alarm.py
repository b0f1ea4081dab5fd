"""An alarm while training: is this run collapsing, to a point or to a few directions, and does it go there?

`advance` takes one look after another, each the `Vitals` of the same few images, and says quiet, suspect or alarm. It
is a pure function of the looks, so a run that is resumed rebuilds the alarm from its log.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from siamscope.collapse.errors import CollapseError
from siamscope.collapse.health import (
    COLLAPSED_STD,
    LOST_DIRECTIONS,
    MISSING_BRAKE,
    SETTLING_STEPS,
    SHRUNKEN_STD,
    SMALL_MODEL,
    Vitals,
    rank_thresholds,
)

State = Literal["quiet", "suspect", "alarm"]
Kind = Literal["", "complete", "dimensional"]


@dataclass(frozen=True)
class Look:
    """What was measured after `step` steps, of the projector's and of the backbone's output for the same images."""

    step: int
    embeddings: Vitals
    features: Vitals


@dataclass(frozen=True)
class Alarm:
    """The state after a look. `step`: of that look. `str()` gives one line."""

    state: State = "quiet"
    kind: Kind = ""
    step: int = 0
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.state == "quiet":
            return f"step {self.step}: no sign of collapse"
        return f"step {self.step}: {self.state}, {self.kind} collapse: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Limits:
    """Attributes:
    looks: over how many a trend is taken.
    least: with fewer there is no trend.
    confirm: looks in a row that must say the same before the state rises.
    clear: looks in a row without any finding before it falls to quiet.
    fall: a trend counts if the curve has fallen to less than this share over the looks,
    scatter: and by more than this many times the scatter about the trend.
    ahead: how far a trend is followed, as a share of the steps between the first and the last of the looks; 0 = no
        trends, levels only.
    """

    looks: int = 6
    least: int = 4
    confirm: int = 2
    clear: int = 3
    fall: float = 0.8
    scatter: float = 3.0
    ahead: float = 1.0


@dataclass(frozen=True)
class Watching:
    """The alarm between two looks: the recent ones, and for how many looks in a row something was found.

    Attributes:
        recent: the last looks.
        rising: looks in a row with a finding of at least severity 1 and 2.
        clean: looks in a row without.
    """

    recent: tuple[Look, ...] = ()
    rising: tuple[int, int] = (0, 0)
    clean: int = 0
    alarm: Alarm = Alarm()


@dataclass(frozen=True)
class _Finding:
    severity: int
    kind: Kind
    reason: str


def replay(looks: Iterable[Look], limits: Limits | None = None) -> list[Alarm]:
    """The state after each of the looks."""
    watching, out = Watching(), []
    for look in looks:
        watching = advance(watching, look, limits)
        out.append(watching.alarm)
    return out


def advance(watching: Watching, look: Look, limits: Limits | None = None) -> Watching:
    """The alarm after one more look.

    Raises:
        CollapseError: a look at a step that is not after the last one, or at a figure that is not a number.
    """
    limits = limits or Limits()
    if watching.recent and look.step <= watching.recent[-1].step:
        raise CollapseError(f"a look at step {look.step} cannot follow one at step {watching.recent[-1].step}.")
    if look.step < SETTLING_STEPS:
        return Watching(alarm=Alarm(step=look.step))
    recent = (*watching.recent, look)[-limits.looks :]
    found = [*_levels(look), *_trends(recent, limits)]
    worst = max((f.severity for f in found), default=0)
    suspicious, alarming = watching.rising
    rising = (suspicious + 1 if worst >= 1 else 0, alarming + 1 if worst >= 2 else 0)
    clean = 0 if found else watching.clean + 1
    state = _state(watching.alarm.state, rising, clean, limits)
    if state == "quiet":
        alarm = Alarm(step=look.step)
    elif not found:
        alarm = Alarm(state, watching.alarm.kind, look.step, ("no sign of it at this look",), watching.alarm.advice)
    else:
        kind = _kind(found, worst)
        reasons = tuple(f.reason for f in sorted(found, key=lambda f: (f.kind != kind, -f.severity)))
        alarm = Alarm(state, kind, look.step, reasons, _advice(kind))
    return Watching(recent, rising, clean, alarm)


def _state(before: State, rising: tuple[int, ...], clean: int, limits: Limits) -> State:
    if rising[1] >= limits.confirm:
        return "alarm"
    if clean >= limits.clear:
        return "quiet"
    if before == "quiet" and rising[0] >= limits.confirm:
        return "suspect"
    return before


def _kind(found: Sequence[_Finding], worst: int) -> Kind:
    """A point has no directions either, so a shrinking spread tells."""
    return "complete" if any(f.kind == "complete" for f in found) else "dimensional"


def _advice(kind: Kind) -> tuple[str, ...]:
    return MISSING_BRAKE if kind == "complete" else LOST_DIRECTIONS + SMALL_MODEL


def directions(v: Vitals) -> float:
    """The AUC as a number of directions that means the same for every d: 1 + 2 d (1 - AUC).

    A flat spectrum of rank r has AUC 1 - (r - 1)/(2d), and so r directions, whatever d is.
    """
    return 1 + 2 * v.d * (1 - v.auc)


def _levels(look: Look) -> list[_Finding]:
    out: list[_Finding] = []
    std = look.embeddings.embedding_std
    if std < SHRUNKEN_STD:
        limit = COLLAPSED_STD if std < COLLAPSED_STD else SHRUNKEN_STD
        reason = f"the embeddings' spread (std x sqrt(d)) is {std:.2f}, below {limit}"
        out.append(_Finding(2 if std < COLLAPSED_STD else 1, "complete", reason))
    for name, v in (("embeddings", look.embeddings), ("backbone features", look.features)):
        collapsed, low = rank_thresholds(v.d, v.n)
        rank = v.effective_rank
        if rank < low:
            limit = collapsed if rank < collapsed else low
            reason = f"{name} vary along {rank:.1f} of {v.d} directions, below {limit:.3g}"
            out.append(_Finding(2 if rank < collapsed else 1, "dimensional", reason))
    return out


def _trends(recent: Sequence[Look], limits: Limits) -> list[_Finding]:
    """Curves that fall towards a limit. A rank counts when the AUC falls with it, so that one noisy figure does not."""
    if len(recent) < limits.least or not limits.ahead:
        return []
    out = []
    steps = [float(look.step) for look in recent]
    std = [look.embeddings.embedding_std for look in recent]
    if _reaches(steps, std, COLLAPSED_STD, limits):
        out.append(_Finding(1, "complete", f"the embeddings' spread falls: {_course(std, recent)}"))
    for name, vitals in (
        ("embeddings", [look.embeddings for look in recent]),
        ("backbone features", [look.features for look in recent]),
    ):
        ranks, limit = [v.effective_rank for v in vitals], rank_thresholds(vitals[-1].d, vitals[-1].n)[0]
        if all(_reaches(steps, curve, limit, limits) for curve in (ranks, [directions(v) for v in vitals])):
            out.append(_Finding(1, "dimensional", f"the {name}' effective rank falls: {_course(ranks, recent)}"))
    return out


def _course(values: Sequence[float], recent: Sequence[Look]) -> str:
    return f"{values[0]:.3g} at step {recent[0].step}, {values[-1]:.3g} at step {recent[-1].step}"


def _reaches(steps: Sequence[float], values: Sequence[float], limit: float, limits: Limits) -> bool:
    """Whether a curve falls, and so fast that it will be at `limit` soon.

    A straight line through the logarithms, with the median of the slopes between any two looks (Theil 1950, Sen 1968):
    it does not follow a single stray look.
    """
    y = np.log(np.maximum(values, 1e-12))
    pairs = itertools.combinations(range(len(y)), 2)
    slope = float(np.median([(y[j] - y[i]) / (steps[j] - steps[i]) for i, j in pairs]))
    line = slope * (np.asarray(steps) - steps[-1])
    level = float(np.median(y - line))
    scatter = 1.4826 * float(np.median(np.abs(y - line - level)))
    span = steps[-1] - steps[0]
    fallen = -slope * span
    if fallen < -math.log(limits.fall) or fallen < limits.scatter * scatter:
        return False
    return bool(level + slope * limits.ahead * span < math.log(limit))
