"""The printed tables of a paper, from its TOML file: figures, tolerances, and the recipe of every cell. Torch-free."""

from __future__ import annotations

import fnmatch
import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from siamscope import recipe as recipes
from siamscope.claims.base import Claim, Expected, NotOffered, Order, Preset, Published
from siamscope.recipe import Recipe

IMAGES = {"stl10": 105_000, "cifar10": 50_000, "cifar100": 50_000}
"""Training images of the papers' runs; STL-10: labelled and unlabelled together."""


@dataclass(frozen=True)
class Paper:
    """name: citation.  differences: what these recipes do otherwise than the paper.  claims: of its tables."""

    name: str
    differences: tuple[str, ...]
    claims: tuple[Claim, ...]


@cache
def load(name: str) -> Paper:
    """The paper whose file is `siamscope/claims/NAME.toml`."""
    book = tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))
    claims = [claim for table in book["table"] for claim in _cells(book, table)]
    return Paper(book["paper"], tuple(book["differences"]), (*claims, *map(_order, book["order"])))


def canonical_hash(recipe: Recipe) -> str:
    """SHA-256 of the complete recipe as TOML."""
    return hashlib.sha256(recipes.to_toml(recipe).encode()).hexdigest()


def _cells(book: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[Claim]:
    memory = bool(table.get("memory"))
    for row, figures in table["rows"].items():
        for column, printed in zip(table["columns"], figures, strict=True):
            published = Published(*_value_and_sd(printed), memory=memory) if printed else None
            yield Claim(
                id=f"{table['id']}.{row}.{column}",
                sentence=table["sentence"],
                experiment=_experiment(book, table, f"{row}.{column}"),
                cost="gpu",
                published=published,
                expected=None if memory or published is None else _within(book["tolerance"], published),
                unit="%",
                note=table.get("note", "from memory" if memory else ""),
            )


def _value_and_sd(printed: list[float]) -> tuple[float, float | None]:
    return printed[0], printed[1] if len(printed) > 1 else None


def _within(rule: Mapping[str, float], published: Published) -> Expected:
    tolerance = max(rule["deviations"] * (published.sd or 0.0), rule["points"])
    why = f"max({rule['deviations']:g} printed deviations, {rule['points']:g} points)"
    return Expected("near", published.value, round(tolerance, 6), "mean", why)


def _experiment(book: Mapping[str, Any], table: Mapping[str, Any], cell: str) -> Preset | NotOffered:
    for pattern, reason in table.get("not_offered", {}).items():
        if fnmatch.fnmatchcase(cell, pattern):
            return NotOffered(reason)
    traits = [*table["base"], *cell.split(".")]
    data = next(trait for trait in traits if trait in IMAGES)
    merged: dict[str, Any] = book["common"]
    joint = [name for name in book["trait"] if "+" in name and set(name.split("+")) <= set(traits)]
    for trait in [*traits, *joint]:
        merged = _merge(merged, book["trait"][trait])
    return Preset(data, recipes.from_dict(merged), IMAGES[data])


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(under)
    for key, value in over.items():
        out[key] = _merge(out.get(key, {}), value) if isinstance(value, Mapping) else value
    return out


def _order(entry: Mapping[str, Any]) -> Claim:
    order = Order(entry["higher"], entry["lower"], bool(entry.get("short")))
    return Claim(entry["id"], entry["sentence"], order, "gpu", unit="points")


def shortened(recipe: Recipe, epochs: float, steps: int) -> Recipe:
    """The recipe with another length; 0 leaves it."""
    train = recipe.train
    if epochs:
        train = replace(train, epochs=epochs)
    if steps:
        train = replace(train, steps=steps)
    return replace(recipe, train=train)
