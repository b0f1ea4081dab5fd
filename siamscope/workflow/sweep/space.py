"""What a sweep searches: fields of the recipe, each with a range or with choices. Neither torch nor Optuna."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from siamscope import recipe as recipes
from siamscope.recipe import Recipe, RecipeError
from siamscope.row import not_read
from siamscope.workflow.fleet import flat
from siamscope.workflow.sweep.errors import SweepError

Value: TypeAlias = float | int | str | bool

USUAL = ("optim.lr", "optim.weight_decay")
"""Searched when nothing is said: a factor of ten to either side of the recipe's value."""
SHORT = {
    "lr": "optim.lr",
    "weight_decay": "optim.weight_decay",
    "width": "network.width",
    "temperature": "method.temperature",
}
_FIXED = ("data.", "monitor.", "evaluation.", "method.name", "order.shift")
_MACHINE = ("device", "precision", "channels_last", "deterministic", "threads", "keep")
_WIDENS = ("network.width", "network.backbone", "network.features")


@dataclass(frozen=True)
class Dimension:
    """One field: from `low` to `high` (evenly, or evenly in the logarithm), or one of `choices`."""

    field: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Value, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            return f"{self.field}: {', '.join(map(plain, self.choices))}"
        return f"{self.field}: {self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the space."""
        return value in self.choices if self.choices else self.low <= value <= self.high

    def corners(self) -> tuple[Value, ...]:
        """The values by which the space is checked."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


def plain(value: Any) -> str:
    """A value for a person."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read(recipe: Recipe, short: Mapping[str, str], general: Sequence[str]) -> tuple[Dimension, ...]:
    """The space that options name: `short` by the names of `SHORT` (empty = not searched), `general` as FIELD=VALUES.

    Every corner of it is tried on the recipe, so that a value out of range is found before the first run.

    Raises:
        SweepError: an unknown field or form, a value that the recipe does not take, or a field that is named twice.
    """
    asked = {SHORT[name]: (f"--{name.replace('_', '-')}", text) for name, text in short.items() if text}
    for item in general:
        field, equals, text = item.partition("=")
        if not equals:
            raise SweepError(f"--space takes FIELD=LOW:HIGH, FIELD=LOW:HIGH:log or FIELD=A,B,C, got {item!r}")
        if field in asked:
            raise SweepError(f"{field} is searched twice: {asked[field][0]} and --space {item}")
        asked[field] = f"--space {field}", text
    found = tuple(_dimension(recipe, field, *given) for field, given in asked.items()) or tuple(_usual(recipe))
    for dimension in found:
        _check(recipe, dimension)
    return found


def _usual(recipe: Recipe) -> list[Dimension]:
    known = flat(recipe)
    out = [Dimension(name, known[name] / 10, known[name] * 10, log=True) for name in USUAL if known[name] > 0]
    if not out:
        raise SweepError("neither rate nor decay of this recipe is above 0; name what to search, as --lr 0.01,1")
    return out


def _dimension(recipe: Recipe, field: str, option: str, text: str) -> Dimension:
    known = flat(recipe)
    if field not in known:
        near = recipes._nearest(field, known)
        raise SweepError(f"{option}: the recipe has no field {field!r}{near}; fields are dotted, as optim.lr")
    if field.startswith(_FIXED) or field == "train.seed" or of_machine(field):
        raise SweepError(
            f"{option}: {field} must be the same in all trials, or their scores could not be compared "
            "(images, measurement, method and machine are fixed)"
        )
    now = known[field]
    if isinstance(now, tuple):
        raise SweepError(f"{option}: {field} is a list and cannot be searched")
    words = text.split(":")
    pair = [word.strip() for word in text.split(",") if word.strip()]
    if field in (*USUAL, SHORT["temperature"]) and option.startswith("--") and len(pair) == 2 and "space" not in option:
        words = [*pair, "log"]
    if len(words) in (2, 3) and isinstance(now, float | int) and not isinstance(now, bool):
        return _range(field, option, words, isinstance(now, int))
    choices = [word.strip() for word in re.split(r"[|,]", text) if word.strip()]
    if len(choices) < 2:
        raise SweepError(f"{option}: give LOW:HIGH, LOW:HIGH:log, or at least two choices A,B, got {text!r}")
    values = tuple(_typed(word, now, option) for word in choices)
    return Dimension(field, choices=tuple(dict.fromkeys(values)))


def of_machine(field: str) -> bool:
    """Whether a field is about where and how a run computes, and may differ between machines of one study."""
    section, _, name = field.partition(".")
    of_data = section == "data" and name in ("cache_dir", "workers", "memory_budget_mb")
    return of_data or (section == "train" and (name in _MACHINE or name.startswith("checkpoint")))


def _range(field: str, option: str, words: Sequence[str], whole: bool) -> Dimension:
    try:
        low, high = (int(word) if whole else float(word) for word in words[:2])
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise SweepError(f"{option}: the ends of a range must be {kind}, got {':'.join(words[:2])!r}") from None
    if len(words) == 3 and words[2] != "log":
        raise SweepError(f"{option}: after LOW:HIGH there may be :log, got {words[2]!r}")
    log = len(words) == 3
    if not low < high < float("inf"):
        raise SweepError(f"{option}: the range must go from low to high, got {low:g} to {high:g}")
    if log and low <= 0:
        raise SweepError(f"{option}: a logarithmic range must begin above 0, got {low:g}")
    return Dimension(field, float(low), float(high), log, whole)


def _typed(word: str, now: Any, option: str) -> Value:
    """A choice in the type of the recipe's own value."""
    try:
        if isinstance(now, bool):
            return {"true": True, "false": False}[word.lower()]
        return type(now)(word)  # type: ignore[no-any-return]
    except (KeyError, ValueError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(now)]
        raise SweepError(f"{option}: each choice must be {kind}, got {word!r}") from None


def _check(recipe: Recipe, dimension: Dimension) -> None:
    section, _, cell = dimension.field.partition(".")
    if section == "method" and not_read(recipe.method, [cell]):
        raise SweepError(f"{dimension.field} changes nothing in the row {recipe.method.name!r}; search something else")
    for value in dimension.corners():
        try:
            applied(recipe, {dimension.field: value})
        except ValueError as error:
            raise SweepError(f"{dimension.field} = {plain(value)}: {error}") from error


def applied(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """The recipe with these fields set.

    Raises:
        RecipeError: it does not take them.
    """
    table: dict[str, Any] = {}
    for field, value in values.items():
        *above, last = field.split(".")
        place = table
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    try:
        return recipes.from_dict(table, recipe)
    except RecipeError:
        raise
    except ValueError as error:  # cells of a row that have no meaning together
        raise RecipeError(str(error)) from error


def own_values(recipe: Recipe, space: Sequence[Dimension]) -> dict[str, Value] | None:
    """The recipe's own values where all of them lie in the space: the first trial."""
    known = flat(recipe)
    inside = all(dimension.holds(known[dimension.field]) for dimension in space)
    return {dimension.field: known[dimension.field] for dimension in space} if inside else None


def changes_dimension(space: Sequence[Dimension]) -> str:
    """The first searched field on which the dimension of the features depends, or nothing."""
    return next((d.field for d in space if d.field in _WIDENS), "")


def changes_loss(space: Sequence[Dimension]) -> str:
    """The first searched field that makes losses of trials numbers of different kinds, or nothing."""
    return next((d.field for d in space if d.field.startswith(("method.", "views."))), "")
