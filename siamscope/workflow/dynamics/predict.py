"""`siamscope dynamics predict`: what the theory says of a recipe or a run, and, of a run, how it came out."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from siamscope import options as shared
from siamscope import recipe as recipes
from siamscope.recipe import Recipe
from siamscope.report import prediction_figure as figure
from siamscope.report.dynamics_style import save_table, write
from siamscope.rundir import RunDir
from siamscope.training.progress import Reporter, Silent, reporter
from siamscope.workflow.answer import Answer
from siamscope.workflow.dynamics import deep, linear
from siamscope.workflow.dynamics import predict_text as words
from siamscope.workflow.dynamics.units import PredictError, Units, units
from siamscope.workflow.gradients_embed import Images
from siamscope.workflow.writing import check_folder

BATCH = 512
TABLES = ("modes", "course")


@dataclass(frozen=True)
class Options(Recipe):
    """A run directory, or a recipe with data as for `train`.

    Of a linear encoder (`--recipe linear`) the prediction follows every mode of the pixels; of any other it is a
    heuristic on the embeddings.
    """

    source: Annotated[str, Positional, arg(metavar="RUN|DATA")] = ""
    """Run directory, whose course is held beside the prediction, or a data source as for `train`."""
    recipe: str | None = None
    """TOML file, or name of a shipped recipe (default: linear)."""
    modes: int = 64
    """Linear: directions of the pixels to follow, at most."""
    images: int = 16_384
    """Training images, at most, whose views the moments are estimated from."""
    out: Path = Path("prediction")
    """Folder to write: modes.csv, course.csv (linear), prediction.png, prediction.svg, prediction.json. Of a run: its
    own folder's prediction/."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print the figures as JSON."""


def default(args: list[str]) -> Options:
    """A run's own recipe, else the one named, else the linear one."""
    path = shared.positional(args)
    file = Path(path) / "recipe.toml" if path else None
    found = recipes.load(file) if file is not None and file.is_file() else shared.layered(args, "linear")
    out: Options = shared.with_recipe(Options, found)
    return replace(out, out=file.parent / "prediction") if file is not None and file.is_file() else out


def run(options: Options) -> Answer:
    """Predict, compare and write.

    Raises:
        PredictError: a method that the theory is not about, or too few images or modes.
        DataError, RecipeError, RunError, CheckpointError, ReportError: what is there cannot be used, or not written.
    """
    if options.modes < 1:
        raise PredictError(f"--modes must be at least 1, got {options.modes}")
    if options.images < 2:
        raise PredictError(f"--images must be at least 2, got {options.images}")
    of = _run_of(options.source)
    recipe = _recipe(options, of)
    recipes.validate(recipe)
    found = units(recipe)
    check_folder(options.out)
    say: Reporter = Silent() if options.quiet else reporter()
    images = Images.of(recipe, min(BATCH, options.images), -(-options.images // BATCH), say)
    settled = replace(recipe, data=images.recipe.data)
    about = _linear if linear.is_linear(recipe) else _deep
    facts, text, tables = about(settled, found, images, of, options, say)
    _write(options.out, facts, tables)
    written = f"figures, tables and prediction.json in {options.out}/"
    return Answer(json.dumps(facts, allow_nan=False) if options.json else f"{text}\n{written}")


def _run_of(source: str) -> RunDir | None:
    path = Path(source)
    return RunDir.open(path) if source and (path / "recipe.toml").is_file() else None


def _recipe(options: Options, of: RunDir | None) -> Recipe:
    recipe = shared.recipe_of(options)
    if of is None:
        return replace(recipe, data=replace(recipe.data, source=options.source)) if options.source else recipe
    own = of.recipe()
    changed = [
        name for name in ("views", "network", "method", "optim", "train") if getattr(recipe, name) != getattr(own, name)
    ]
    if changed:
        raise PredictError(f"{of.path} was trained with its own {', '.join(changed)}; leave those options out")
    return own


Found = tuple[dict[str, Any], str, dict[str, words.Table]]


def _linear(recipe: Recipe, found: Units, images: Images, of: RunDir | None, options: Options, say: Reporter) -> Found:
    seen = linear.examine(recipe, found, images, of, options.modes, say)
    result = words.compare(seen, found)
    title = f"{images.name}: linear encoder, {recipe.method.predictor} predictor, weight decay {found.weight_decay:g}"
    facts = words.linear_facts(title, recipe, found, seen, result, linear.further(recipe, found, seen))
    shape = (images.channels, recipe.views.size or recipe.data.size)
    trained = None if result.trained is None else result.trained.p
    course = (seen.steps, seen.flow, seen.trained)
    figure.linear(
        options.out, title, seen.data, seen.forecast, seen.directions, course, (result.flow.p, trained), shape
    )
    return facts, words.linear_text(facts, seen, found, result), words.linear_tables(seen, found, result)


def _deep(recipe: Recipe, found: Units, images: Images, of: RunDir | None, options: Options, say: Reporter) -> Found:
    moments = deep.examine(recipe, found, images, of, say)
    title = f"{images.name}: {recipe.network.backbone}, {recipe.method.name} with {recipe.method.predictor} predictor"
    facts = words.deep_facts(title, recipe, found, moments)
    figure.deep(options.out, title, [(m.step, m.strength, m.forecast, m.p) for m in moments])
    return facts, words.deep_text(facts, moments, found), words.deep_tables(moments, found)


def _cleared(out: Path) -> None:
    """Take an older prediction's tables away: another kind of encoder has others."""
    for name in TABLES:
        (out / f"{name}.csv").unlink(missing_ok=True)


def _write(out: Path, facts: dict[str, Any], tables: dict[str, words.Table]) -> None:
    _cleared(out)
    for name, (header, *rows) in tables.items():
        save_table(out, name, header, rows, digits=6)
    write(out / "prediction.json", json.dumps(facts, indent=1, allow_nan=False) + "\n")
