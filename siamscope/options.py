"""What each command takes, as dataclasses. Those that take a recipe inherit its fields."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from siamscope.data.config import DataConfig
from siamscope.recipe import EvaluationConfig, Recipe


@dataclass(frozen=True)
class Train(Recipe):
    """Options of `siamscope train`."""

    source: Annotated[str, Positional, arg(metavar="DATA")] = ""
    """shapes, fashion-mnist, a folder of images, or a file of arrays (as --data.source)."""
    out: Path = Path("runs/latest")
    """Run directory to make."""
    recipe: str | None = None
    """TOML file, or name of a shipped recipe, whose fields come before the method's defaults."""
    overwrite: bool = False
    """Replace a run that is there already."""
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
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True)
class Evaluate:
    """Options of `siamscope evaluate`."""

    encoder: Annotated[Path, Positional, arg(metavar="RUN|ENCODER")]
    """Run directory, encoder.json or encoder.safetensors."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images; without --data those of the run."""
    evaluation: OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
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


def with_recipe(kind: type[Any], recipe: Recipe) -> Any:
    """Defaults of a command that inherits the recipe's fields."""
    return kind(**{item.name: getattr(recipe, item.name) for item in fields(Recipe)})


def recipe_of(options: Recipe) -> Recipe:
    """The recipe inside such options."""
    return Recipe(**{item.name: getattr(options, item.name) for item in fields(Recipe)})
