"""What a study runs: its lines, each a recipe that is run once with every seed, and the words they are asked for in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from siamscope import options as opts
from siamscope import recipe as recipes
from siamscope.networks.catalogue import FLAT, TIMM_PREFIX, lookup
from siamscope.recipe import Recipe
from siamscope.workflow.batch import PlanError

RECIPE = "study"
"""The shipped recipe that studies start from."""


@dataclass(frozen=True)
class Common(Recipe):
    """Options of every study; its recipe is that of all runs, but for what the study varies."""

    source: Annotated[str, Positional, arg(metavar="DATA")] = ""
    """shapes, fashion-mnist, a folder of images, or a file of arrays (as --data.source)."""
    seeds: str = "0,1,2"
    """Seeds of weights, order and views, with commas between them; every line runs once with each."""
    recipe: str | None = None
    """TOML file, or name of a shipped recipe, with the shared settings (default: `study`, for small images)."""
    jobs: str = "auto"
    """Runs at once; auto = processor cores / threads of a run (one on a GPU)."""
    retry: bool = False
    """Run again what had failed."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        model: what is trained, for a person: lines of one model are joined in the figures.
        variant: what differs between them.
        images: training images that it sees.
        recipe: None if it has no meaning, and `problem` says why.
        control: another method, which stands beside the study and does not enter its correlations.
        teacher: key of the line whose run with the same seed teaches this one.
    """

    key: str
    model: str
    variant: str
    images: int
    recipe: Recipe | None
    problem: str = ""
    control: bool = False
    teacher: str = ""

    @property
    def label(self) -> str:
        return ", ".join(part for part in (self.model, self.variant) if part)

    def with_seed(self, seed: int, runs: Path) -> Recipe:
        """The recipe of one of its runs; `runs` is the folder of all."""
        assert self.recipe is not None
        recipe = replace(self.recipe, train=replace(self.recipe.train, seed=seed))
        if not self.teacher:
            return recipe
        place = (runs / self.teacher / f"seed-{seed}").resolve()
        return replace(recipe, method=replace(recipe.method, target="teacher", teacher=str(place)))


def default(kind: type[Any], args: list[str], usual: str = RECIPE) -> Any:
    """Defaults of a study's options: the recipe that the command line names, or the `usual` shipped one."""
    return opts.with_recipe(kind, opts.layered(args, usual))


def recipe_of(given: Common) -> Recipe:
    """The recipe that a command line asks for."""
    recipe = opts.recipe_of(given)
    return replace(recipe, data=replace(recipe.data, source=given.source)) if given.source else recipe


# ------------------------------------------------------------------------------------------ words to values


def shares(text: str) -> tuple[float, ...]:
    """The sizes in `0.01,0.1,1`, ascending, each once.

    Raises:
        PlanError: no number above 0 and at most 1.
    """
    found = _numbers(text, "--sizes")
    wrong = [value for value in found if not 0 < value <= 1]
    if wrong:
        raise PlanError(
            f"--sizes are shares of the training images, above 0 and at most 1; got {wrong[0]:g} "
            "(to use fewer images in all, give --data.samples)"
        )
    return found


def widths(text: str) -> tuple[float, ...]:
    """The widths in `0.25,1`, ascending, each once.

    Raises:
        PlanError: no number within what network.width may be.
    """
    found = _numbers(text, "--widths")
    wrong = [value for value in found if not 0.05 <= value <= 16]
    if wrong:
        raise PlanError(f"--widths multiply the backbone's channels and lie between 0.05 and 16; got {wrong[0]:g}")
    return found


def backbones(text: str, usual: str) -> tuple[str, ...]:
    """The backbones in `resnet8,resnet20`, each once; `usual` if there are none.

    Raises:
        NetworkError: an unknown name.
    """
    found = words(text) or (usual,)
    for name in found:
        if name not in FLAT and not name.startswith(TIMM_PREFIX):
            lookup(name)
    return found


def words(text: str) -> tuple[str, ...]:
    """Words with commas between them, each once."""
    return tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))


def _numbers(text: str, name: str) -> tuple[float, ...]:
    try:
        found = sorted({float(word) for word in words(text)})
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise PlanError(f"{name} must be numbers with commas between them, got {text!r}")
    return tuple(found)


# ------------------------------------------------------------------------------------------ models


@dataclass(frozen=True)
class Model:
    """A backbone of some width; `recipe` is the shared one with it."""

    key: str
    label: str
    recipe: Recipe


def models(shared: Recipe, names: Sequence[str], sizes: Sequence[float]) -> list[Model]:
    """Every backbone with every width, the smallest first."""
    out = []
    for name in names:
        for width in sizes:
            network = replace(shared.network, backbone=name, width=width)
            label = f"width {width:g}" if len(names) == 1 else f"{name} × {width:g}"
            key = f"{name.replace(':', '-').replace('/', '-')}-w{width:g}"
            out.append(Model(key, label, replace(shared, network=network)))
    return out


def checked(line: Line) -> Line:
    """The line, its recipe's fields held against each other.

    Raises:
        RecipeError: they do not go together.
    """
    if line.recipe is not None:
        recipes.validate(line.recipe)
    return line
