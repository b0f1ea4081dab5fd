"""What `siamscope compare` runs: the cells of the comparison, each a row of the table under one shared recipe.

Shared is everything but the section `method` and the seed; of the method's cells, the widths of the projector. The
normalisations inside the projector stay the row's, since they are part of what a method is. Torch-free.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from siamscope import methods
from siamscope import recipe as recipes
from siamscope.methods import Method, MethodError
from siamscope.recipe import Recipe, RecipeError
from siamscope.workflow.batch import PlanError

WIDTHS = ("layers", "hidden", "out")
"""The cells of the projector that all methods of a comparison share."""


@dataclass(frozen=True)
class Cell:
    """One line of the comparison: a row, or a row with its target (or F's rho) changed.

    `row` is None when the cells have no meaning together, and `problem` says why. `published` marks the row as it is in
    its shipped recipe; `rho` is that of the running correlation F, None for rows without one.
    """

    key: str
    label: str
    method: str
    target: str
    rho: float | None
    published: bool
    row: Method | None
    problem: str = ""


def chosen(names: str) -> list[str]:
    """The methods that `all`, or names and patterns with commas between them, stand for; in the table's order.

    Raises:
        PlanError: a name or pattern that no method has.
    """
    found: set[str] = set()
    for word in filter(None, (part.strip() for part in names.split(","))):
        matches = methods.list_methods("*" if word == "all" else word)
        if not matches:
            try:
                methods.get(word)
            except MethodError as error:
                raise PlanError(f"--methods: {error}") from error
        found |= set(matches)
    if not found:
        raise PlanError("--methods names none; give all, or names such as simclr,byol (see 'siamscope methods')")
    return [name for name in methods.METHODS if name in found]


def cells(shared: Recipe, names: Sequence[str], given: Sequence[str] = (), variants: bool = False) -> list[Cell]:
    """Every cell of the comparison, in the table's order.

    `given` are dotted names of cells that `shared.method` puts into every row. With `variants` every method comes with
    and without a momentum target, and spectral rows with their rho and with rho 0 beside it: on a short run a stale F
    looks like a gain from momentum (the reference's toy: .75 against .93, and no difference at rho 0).
    """
    return [cell for name in names for cell in _of_method(shared, name, given, variants)]


def _of_method(shared: Recipe, name: str, given: Sequence[str], variants: bool) -> Iterator[Cell]:
    try:
        published = recipes.for_method(name).method
        base = _row(published, shared, given, {})
    except (MethodError, RecipeError) as error:
        row = methods.get(name)
        yield Cell(name, name, name, row.target, _rho(row), True, None, str(error))
        return
    yield Cell(name, name, name, base.target, _rho(base), True, base)
    if variants:
        other = "detached" if base.target == "momentum" else "momentum"
        rhos = [base.rho, 0.0] if base.objective == "spectral" and base.rho > 0 else [base.rho]
        for target, rho in [(target, rho) for rho in rhos for target in (base.target, other)][1:]:
            yield _variant(published, base, shared, given, target, rho)


def _variant(published: Method, base: Method, shared: Recipe, given: Sequence[str], target: str, rho: float) -> Cell:
    """The row with another target, another rho, or both."""
    name = base.name
    key, label = [name], [name]
    if target != base.target:
        key.append(target)
        label.append(f"{target} target")
    if rho != base.rho:
        key.append(f"rho{rho:g}")
        label.append(f"rho {rho:g}")
    names = "-".join(key), ", ".join(label), name, target, rho if base.objective == "spectral" else None, False
    try:
        return Cell(*names, _row(published, shared, given, {"target": target, "rho": rho}))
    except MethodError as error:
        return Cell(*names, None, str(error))


def _rho(row: Method) -> float | None:
    return row.rho if row.objective == "spectral" else None


def _row(row: Method, shared: Recipe, given: Sequence[str], changes: Mapping[str, Any]) -> Method:
    """The row with the shared widths, the cells given for all rows, and `changes`, all put in at once.

    Raises:
        MethodError: these cells have no meaning together.
    """
    nested: dict[str, dict[str, Any]] = {"projector": {w: getattr(shared.method.projector, w) for w in WIDTHS}}
    plain = {}
    for path in shared_cells(given):
        section, _, last = path.rpartition(".")
        if section:
            nested.setdefault(section, {})[last] = getattr(getattr(shared.method, section), last)
        else:
            plain[last] = getattr(shared.method, last)
    heads = {section: replace(getattr(row, section), **values) for section, values in nested.items()}
    return replace(row, **(plain | heads | dict(changes)))


def shared_cells(given: Sequence[str]) -> list[str]:
    """Those of the cells named on the command line that go into every row (widths and the name do not count)."""
    return [path for path in given if path != "name" and path not in {f"projector.{w}" for w in WIDTHS}]


def recipe_of(shared: Recipe, cell: Cell, seed: int) -> Recipe:
    """The recipe of one run."""
    if cell.row is None:
        raise PlanError(f"{cell.key}: {cell.problem}")
    return replace(shared, method=cell.row, train=replace(shared.train, seed=seed))


def shared_part(recipe: Recipe) -> dict[str, Any]:
    """What every run of a comparison has in common, as nested tables: all but the method and the seed."""
    table = recipes.to_dict(recipe)
    projector = table.pop("method")["projector"]
    table["train"].pop("seed")
    return table | {"projector": {w: projector[w] for w in WIDTHS}}


def shared_digest(recipe: Recipe) -> str:
    """A short hash of `shared_part`."""
    text = json.dumps(shared_part(recipe), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def asked(recipe: Recipe, given: Sequence[str]) -> dict[str, Any]:
    """What a command line asks for, to recognise it when the comparison is run again."""
    row = dataclasses.asdict(recipe.method)
    values = {}
    for path in shared_cells(given):
        section, _, last = path.rpartition(".")
        values[path] = (row[section] if section else row)[last]
    table: dict[str, Any] = json.loads(json.dumps(shared_part(recipe) | {"cells": values}, default=str))
    return table
