"""What each command takes, as dataclasses. Those that take a recipe inherit its fields."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from tyro import MISSING
from tyro.conf import Positional, arg

from siamscope import recipe as recipes
from siamscope.data.config import DataConfig
from siamscope.methods import Method
from siamscope.recipe import Recipe, RecipeError
from siamscope.sections import EvaluationConfig, OnCollapse

NOT_GIVEN = "none"
"""Stands for the data of an encoder file when none are given."""


@dataclass(frozen=True)
class Train(Recipe):
    """Options of `siamscope train`."""

    source: Annotated[str, Positional, arg(metavar="DATA")] = ""
    """shapes, fashion-mnist, a folder of images, tar files, hf:NAME, or a file of arrays (as --data.source)."""
    out: Path = Path("runs/latest")
    """Run directory to make."""
    recipe: str | None = None
    """TOML file, or name of a shipped recipe, whose fields come before the method's defaults."""
    overwrite: bool = False
    """Replace a run that is there already."""
    profile: bool = False
    """Tell where a step's time went: profile.txt, profile.json and trace.json (Chrome's format) in the run."""
    profile_steps: int = 5
    """With --profile: steps after the warm-up whose operators the trace holds, from 0 to 100."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True)
class Resume:
    """Options of `siamscope resume`."""

    run: Annotated[Path, Positional]
    """Run directory."""
    device: str | None = None
    """Another device than the run's (then the continuation is not bit-equal)."""
    on_collapse: OnCollapse | None = None
    """What an alarm does from here on; by default as the run's recipe says."""
    profile: bool = False
    """Tell where the time of the steps from here on went, as for `siamscope train`."""
    profile_steps: int = 5
    """With --profile: steps after the warm-up whose operators the trace holds, from 0 to 100."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print the figures as JSON."""


def profiled(given: Train | Resume) -> int | None:
    """The number of steps whose operators are recorded; None without --profile.

    Raises:
        RecipeError: it is out of range.
    """
    if not 0 <= given.profile_steps <= 100:
        raise RecipeError(
            f"--profile-steps must be from 0 to 100 (a step's operators take about 1 MB); got {given.profile_steps}"
        )
    return given.profile_steps if given.profile else None


@dataclass(frozen=True)
class Evaluate:
    """Options of `siamscope evaluate`."""

    encoder: Annotated[Path, Positional, arg(metavar="RUN|ENCODER")]
    """Run directory, encoder.json or encoder.safetensors."""
    data: DataConfig = field(default_factory=lambda: DataConfig(source=NOT_GIVEN))
    """Images (`--data X` for `--data.source X`); without it those of the run."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0
    """Seed of the untrained encoder and of what is drawn from larger data."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True)
class Embed:
    """Options of `siamscope embed`."""

    encoder: Annotated[Path, Positional, arg(metavar="RUN|ENCODER")]
    """Run directory, encoder.json or encoder.safetensors."""
    source: Annotated[str, Positional, arg(metavar="DATA")]
    """shapes, fashion-mnist, a folder of images, or a file of arrays."""
    out: Path = Path("features.npz")
    """File to write: features, names, split, and labels if there are any."""
    data: DataConfig = field(default_factory=DataConfig)
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True)
class Report:
    """Options of `siamscope report`."""

    runs: Annotated[tuple[Path, ...], Positional]
    """Run directories; several are shown side by side."""
    out: Path | None = None
    """Page to write; by default report.html in the run, or here for several runs."""
    figure: Path | None = None
    """Also write one picture (PNG) of the first run: views, curve and map."""


@dataclass(frozen=True)
class Methods:
    """Options of `siamscope methods`."""

    pattern: Annotated[str, Positional] = "*"
    """Show only the methods that match."""
    verbose: bool = False
    """Also parameters and multiply-accumulates of the default recipe's network for each method."""
    markdown: bool = False
    """Print the table as Markdown (docs/methods.md is made by it)."""
    json: bool = False
    """Print the table as JSON."""


@dataclass(frozen=True)
class Data(Recipe):
    """Options of `siamscope data`."""

    source: Annotated[str, Positional, arg(metavar="NAME")] = ""
    """shapes, fashion-mnist, a folder of images, or a file of arrays."""
    show: bool = False
    """Also write a picture of samples and of their augmented views."""
    out: Path = Path("data.png")
    """File of the picture."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True)
class Compare(Recipe):
    """Options of `siamscope compare`.

    The recipe is that of every run, but for its method: of the method's cells only the projector's widths are shared,
    and cells that are given here by name (as `--normalise l2`) are put into every row.
    """

    source: Annotated[str, Positional, arg(metavar="DATA")] = ""
    """shapes, fashion-mnist, a folder of images, tar files, hf:NAME, or a file of arrays (as --data.source)."""
    methods: str = "all"
    """Names or patterns of methods with commas between them, or all."""
    seeds: str = "0,1,2"
    """Seeds with commas between them; every method runs once with each."""
    out: Path = Path("runs/compare")
    """Directory of the comparison; run again, it goes on where it was."""
    recipe: str | None = None
    """TOML file, or name of a shipped recipe, with the shared settings (default: `compare`, for small images)."""
    momentum_variants: bool = False
    """Every method with and without a momentum target, and spectral rows also with the batch's own F (rho 0)."""
    jobs: str = "auto"
    """Runs at once; auto = processor cores / threads of a run (one on a GPU)."""
    retry: bool = False
    """Run again what had failed."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True)
class Gradients(Recipe):
    """Options of `siamscope gradients`.

    The recipe gives images, views, the encoder at initialisation and the embeddings' dimension; that of a run directory
    is its own. Cells of the method that are given by name (as `--temperature 0.1`) are put into every row.
    """

    source: Annotated[str, Positional, arg(metavar="DATA|RUN")] = "random"
    """random (embeddings without images), a data source as for `train`, or a run directory."""
    methods: str = "all"
    """Names or patterns of methods with commas between them, or all."""
    reference: str = "unigrad"
    """Method whose gradient the others' are compared with."""
    pairs: int = 256
    """Positive pairs: two views of so many images (or random samples)."""
    as_trained: bool = False
    """Of a run: rows with a momentum target get the momentum network's embeddings as targets, and the run's own row its
    running statistics and bank. Otherwise all get the online embeddings, and statistics of this batch."""
    out: Path = Path("gradients")
    """Folder to write: gradients.csv, cosines.csv, gradients.json, gradients.png, gradients.html."""
    recipe: str | None = None
    """TOML file, or name of a shipped recipe (default: that of the small default)."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print the figures as JSON."""


def gradients_default(path: str | None, recipe: Recipe) -> Gradients:
    """Defaults of `gradients`: a run directory's own recipe, else the one given."""
    out: Gradients = with_recipe(Gradients, _recipe_at(path) or recipe)
    return out


def evaluate_default(path: str | None, source: str | None) -> Evaluate | None:
    """Defaults of `evaluate`: the run's own data, evaluation and seed; for other data, what the encoder takes."""
    found = _recipe_at(path)
    if path is None:
        return None
    if found is None:
        return Evaluate(Path(path), _as_taken(path, source or NOT_GIVEN))
    data = _as_taken(path, source) if source else found.data
    return Evaluate(Path(path), data, found.evaluation, found.train.seed)


def embed_default(path: str | None) -> Any:
    """Defaults of `embed`: images as the encoder takes them."""
    return None if path is None else Embed(Path(path), MISSING, data=_as_taken(path, NOT_GIVEN))


def _recipe_at(path: str | None) -> Recipe | None:
    """The recipe of a run directory, or None."""
    file = Path(path or "") / "recipe.toml"
    return recipes.load(file) if path and file.is_file() else None


def _as_taken(path: str, source: str) -> DataConfig:
    """Other images in the size and with the channels of the run or the encoder file at `path`."""
    found = _recipe_at(path)
    if found is not None:
        old = found.data
        return DataConfig(
            source, size=old.size, channels=old.channels, max_pixels=old.max_pixels, min_side=old.min_side,
            cache_dir=old.cache_dir,
        )  # fmt: skip
    file = Path(path) / "encoder.json" if Path(path).is_dir() else Path(path).with_suffix(".json")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        return DataConfig(source, size=int(about["input_size"]), channels=int(about["in_channels"]))
    except (OSError, ValueError, KeyError, TypeError):  # loading the encoder itself will say what is wrong
        return DataConfig(source)


def layered(args: list[str], usual: str | None = None) -> Recipe:
    """The recipe under the command line: the shipped one of the method, then the user's file (or the `usual` one)."""
    file, method = peek(args, "--recipe") or usual, peek(args, "--method", "--method.name")
    return recipes.layered(file, method)


def peek(args: list[str], *names: str) -> str | None:
    """The value of an option before the parser runs, since the defaults of the others depend on it."""
    for i, word in enumerate(args):
        key, equals, value = word.partition("=")
        if key in names:
            return value if equals else args[i + 1] if i + 1 < len(args) else None
    return None


def positional(args: list[str]) -> str | None:
    """The first word, if it is no option: the encoder or run, whose own settings are the defaults."""
    return args[0] if args and not args[0].startswith("-") else None


def with_recipe(kind: type[Any], recipe: Recipe) -> Any:
    """Defaults of a command that inherits the recipe's fields."""
    return kind(**{item.name: getattr(recipe, item.name) for item in fields(Recipe)})


def recipe_of(options: Recipe) -> Recipe:
    """The recipe inside such options."""
    return Recipe(**{item.name: getattr(options, item.name) for item in fields(Recipe)})


def cells_named(args: list[str]) -> tuple[str, ...]:
    """The method's cells that a command line names, dotted: ("normalise", "predictor_options.rho")."""
    hints = get_type_hints(Method, include_extras=True)
    short = {_plain(alias): name for name, hint in hints.items() for e in get_args(hint) for alias in _aliases(e)}
    named = []
    for word in args:
        key = _plain(word)
        if word.startswith("--") and (key in short or key.startswith("method.")):
            *above, last = short.get(key, key.removeprefix("method.")).split(".")
            named.append(".".join([*above, last.removeprefix("no_")]))
    return tuple(dict.fromkeys(named))


def _plain(option: str) -> str:
    return option.partition("=")[0].removeprefix("--").replace("-", "_")


def _aliases(extra: Any) -> tuple[str, ...]:
    return getattr(extra, "aliases", None) or ()
