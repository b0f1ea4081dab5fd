"""Limits for pipelines: `--fail-above auc=0.95,effective_rank=3` and `--fail-below`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from siamscope.collapse.definitions import ALIASES
from siamscope.workflow.diagnose.loaded import DiagnoseError


@dataclass(frozen=True)
class Limit:
    """A score must not be above (or below) `bound`."""

    score: str
    above: bool
    bound: float


def canonical(word: str, known: Iterable[str], option: str) -> str:
    """The name of a score: as it is, with dashes, or by its short form.

    Raises:
        DiagnoseError: an unknown name, with the nearest one.
    """
    names = list(known)
    key = word.strip().lower().replace("-", "_")
    key = ALIASES.get(key, key)
    if key in names:
        return key
    near = difflib.get_close_matches(key, [*names, *ALIASES], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DiagnoseError(f"{option}: unknown score {word.strip()!r}{hint} (scores: {', '.join(names)})")


def parse(text: str, above: bool, known: Iterable[str]) -> list[Limit]:
    """Limits from `name=value` with commas between them.

    Raises:
        DiagnoseError: an unknown score, or no number.
    """
    option = "--fail-above" if above else "--fail-below"
    limits = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        word, equals, value = part.partition("=")
        try:
            bound = float(value) if equals else math.nan
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            raise DiagnoseError(f"{option} {part!r}: expected SCORE=NUMBER, as auc=0.95")
        limits.append(Limit(canonical(word, known, option), above, bound))
    return limits


def broken(limits: Iterable[Limit], values: Mapping[str, float], name: str) -> list[str]:
    """What is out of bounds, in words. A score that this input does not have counts as out of bounds."""
    out = []
    for limit in limits:
        value = values.get(limit.score, math.nan)
        if math.isnan(value):
            out.append(f"{name}: {limit.score} could not be computed, so its limit {limit.bound:g} is not kept")
        elif value > limit.bound if limit.above else value < limit.bound:
            out.append(f"{name}: {limit.score} is {value:.6g}, {'above' if limit.above else 'below'} {limit.bound:g}")
    return out
