"""An alarm while training: is this run collapsing, to a point or to a few directions, and does it go there?

`advance` takes one look after another, each the `Vitals` of the same few images, and says quiet, suspect or alarm. It
is a pure function of the looks, so a run that is resumed rebuilds the alarm from its log.

A finding is a level below a limit of `siamscope.collapse.health`, or a trend that leads below the grave one soon; both
together are grave. Two grave ones in a row are an alarm, and so are four of any weight among six looks. The limits were
set on seed 0 of benchmarks/alarm.py: a ResNet-8 of half width on Fashion-MNIST and shapes at 16 pixels, 400 steps of
128 images, a look at 128 validation images every 25 steps. Figures from step 50 to the end:

| run | embedding std | embedding rank | feature rank |
|---|---|---|---|
| SimSiam (three rates), BYOL, SimCLR (two), VICReg, Barlow Twins | .63-.99 | 17-52 | 13-22 |
| SimSiam without stop-gradient | .90-.98 | 5.8, later 3.7-5.2 | 8.5-10.5 |
| without predictor; with neither | .93-.98 | 7.6, later 3.4-5.4 | 8.4-10.4 |
| BYOL without predictor | **.16-.23** | 12-17 | 14-15 |
| weight decay 20 times the recipe's | .22-.99 | 22, later 2.8-3.2 | 6.2-15 |
| 60 times | .00-1.00 | 1.1-2.0 | 1.2-5.3 |
| rate 10 times; 40 times | .46-1.00 | 9.7, later 3.1-4.6; 1.5-3.9 | 7.9-12; 3.9-7.8 |

So a spread and a rank are both needed: each misses what the other sees. Rank 3-6, which health.py calls partial, is
where short runs without stop-gradient stay: it must last to be an alarm, because runs pass through it at first. The AUC
has no limit that holds for every d; as a number of `directions` it has, and its trend must confirm that of the rank.
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
    """When looks become an alarm. Levels are those of `siamscope.collapse.health`.

    Attributes:
        looks: over how many of the last looks a trend and the memory of findings reach.
        least: with fewer there is no trend.
        confirm: looks in a row with a finding that make a suspicion, and with a grave one that make an alarm.
        lasting: findings among the last `looks` that make an alarm, however slight: it does not pass by itself.
        clear: looks in a row without any before the state falls to quiet.
        fall: a trend is a curve that loses this share of itself over the looks, and
        scatter: more than this many times its scatter about the trend.
        ahead: how far a trend is followed, in multiples of the steps from the first of the looks to the last; 0 = no
            trends, levels only.
    """

    looks: int = 6
    least: int = 3
    confirm: int = 2
    lasting: int = 4
    clear: int = 3
    fall: float = 0.2
    scatter: float = 3.0
    ahead: float = 2.0


@dataclass(frozen=True)
class Watching:
    """The alarm between two looks.

    Attributes:
        recent: the last looks.
        severities: of what was found at each of them: 0 nothing, 1 a finding, 2 a grave one.
        alarm: the state.
    """

    recent: tuple[Look, ...] = ()
    severities: tuple[int, ...] = ()
    alarm: Alarm = Alarm()


@dataclass(frozen=True)
class _Finding:
    """severity: 1 or 2."""

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
    found = _findings(recent, limits)
    severities = (*watching.severities, max((f.severity for f in found), default=0))[-limits.looks :]
    state = _state(watching.alarm.state, severities, limits)
    if state == "quiet":
        alarm = Alarm(step=look.step)
    elif not found:
        before = watching.alarm
        alarm = Alarm(state, before.kind, look.step, ("nothing new at this look",), before.advice)
    else:
        kind = _kind(found)
        reasons = tuple(f.reason for f in sorted(found, key=lambda f: (f.kind != kind, -f.severity)))
        alarm = Alarm(state, kind, look.step, reasons, _advice(kind))
    return Watching(recent, severities, alarm)


def _state(before: State, severities: Sequence[int], limits: Limits) -> State:
    last = severities[-limits.confirm :]
    if len(last) == limits.confirm and min(last) == 2:
        return "alarm"
    if severities[-1] and sum(severity > 0 for severity in severities) >= limits.lasting:
        return "alarm"
    if not any(severities[-limits.clear :]):
        return "quiet"
    if before == "quiet" and len(last) == limits.confirm and min(last) >= 1:
        return "suspect"
    return before


def _kind(found: Sequence[_Finding]) -> Kind:
    """A cloud that shrinks to a point loses its directions on the way: where the spread falls, it is that."""
    return "complete" if any(f.kind == "complete" for f in found) else "dimensional"


def _advice(kind: Kind) -> tuple[str, ...]:
    return MISSING_BRAKE if kind == "complete" else LOST_DIRECTIONS + SMALL_MODEL


def directions(v: Vitals) -> float:
    """The AUC as a number of directions that means the same for every d: 1 + 2 d (1 - AUC).

    A flat spectrum of rank r has AUC 1 - (r - 1)/(2d), and so r directions, whatever d is.
    """
    return 1 + 2 * v.d * (1 - v.auc)


def _findings(recent: Sequence[Look], limits: Limits) -> list[_Finding]:
    """What is wrong at the last look: a level, a trend, or both, which is grave."""
    out = [_of_spread(recent, limits)]
    for name, vitals in (
        ("embeddings", [look.embeddings for look in recent]),
        ("backbone features", [look.features for look in recent]),
    ):
        out.append(_of_rank(name, vitals, recent, limits))
    return [finding for finding in out if finding]


def _of_spread(recent: Sequence[Look], limits: Limits) -> _Finding | None:
    std = [look.embeddings.embedding_std for look in recent]
    falls = _reaches(recent, std, COLLAPSED_STD, limits)
    return _finding(
        "complete", "the embeddings' spread (std x sqrt(d))", std, COLLAPSED_STD, SHRUNKEN_STD, falls, recent
    )


def _of_rank(name: str, vitals: Sequence[Vitals], recent: Sequence[Look], limits: Limits) -> _Finding | None:
    """A rank falls when the AUC says so too: one of them may stray."""
    ranks = [v.effective_rank for v in vitals]
    collapsed, low = rank_thresholds(vitals[-1].d, vitals[-1].n)
    falls = all(_reaches(recent, curve, collapsed, limits) for curve in (ranks, [directions(v) for v in vitals]))
    what = f"the effective rank of the {name} (of {vitals[-1].d} directions)"
    return _finding("dimensional", what, ranks, collapsed, low, falls, recent)


def _finding(
    kind: Kind, what: str, curve: Sequence[float], grave: float, slight: float, falls: bool, recent: Sequence[Look]
) -> _Finding | None:
    """Below the `grave` limit, or below the `slight` one on the way to it: severity 2. One of the two: severity 1."""
    now, words = curve[-1], []
    if now < slight:
        words.append(f"is {now:.3g}, below {grave if now < grave else slight:.3g}")
    if falls:
        soon = f", and will be below {grave:.3g} soon" if now >= grave else ""
        words.append(f"falls, from {curve[0]:.3g} at step {recent[0].step} to {now:.3g}{soon}")
    if not words:
        return None
    return _Finding(2 if now < grave or len(words) == 2 else 1, kind, f"{what} {' and '.join(words)}")


def _reaches(recent: Sequence[Look], values: Sequence[float], limit: float, limits: Limits) -> bool:
    """Whether a curve falls, and so fast that it will be at `limit` soon.

    A straight line through the logarithms, with the median of the slopes between any two looks (Theil 1950, Sen 1968):
    it does not follow a single stray look.
    """
    if len(recent) < limits.least or not limits.ahead:
        return False
    steps = [float(look.step) for look in recent]
    y = np.log(np.maximum(values, 1e-12))
    pairs = itertools.combinations(range(len(y)), 2)
    slope = float(np.median([(y[j] - y[i]) / (steps[j] - steps[i]) for i, j in pairs]))
    line = slope * (np.asarray(steps) - steps[-1])
    level = float(np.median(y - line))
    scatter = 1.4826 * float(np.median(np.abs(y - line - level)))
    span = steps[-1] - steps[0]
    fallen = -slope * span
    if fallen < -math.log(1 - limits.fall) or fallen < limits.scatter * scatter:
        return False
    return bool(level + slope * limits.ahead * span < math.log(limit))
