"""The whole configuration of a run as frozen dataclasses; TOML in and out; every error names the field.

A recipe is layered: the shipped recipe of the method, then the user's TOML file, then the command line. What is written
into a run directory is complete: it needs no layer below it. This file imports neither torch nor numpy.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from siamscope import methods
from siamscope.data.config import NAMED_SOURCES, DataConfig
from siamscope.networks.catalogue import FLAT
from siamscope.row import Method
from siamscope.sections import (
    EvaluationConfig,
    MonitorConfig,
    NetworkConfig,
    OptimConfig,
    OrderConfig,
    TrainConfig,
    ViewsConfig,
)


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the field and what it may be."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: Method = field(default_factory=Method)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


DEFAULT_METHOD = "simclr"
_ENDS = tuple(name for name in NAMED_SOURCES if name != "shapes")


# ---------------------------------------------------------------------------------------------- layers


def shipped_folder() -> Path:
    """Where the shipped recipes lie: beside the package when installed, at the repository's root in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def shipped() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in shipped_folder().glob("*.toml"))


def for_method(name: str = DEFAULT_METHOD) -> Recipe:
    """The shipped recipe of a method (its small, 32-pixel default)."""
    row = methods.get(name)
    path = shipped_folder() / f"{row.name}.toml"
    return load(path) if path.is_file() else Recipe(method=row)


def layered(file: str | None, method: str | None) -> Recipe:
    """The recipe that a command line starts from: the method's shipped recipe, then the user's file on top.

    A method named on the command line replaces the file's cells by the cells of that method's shipped recipe.
    """
    if file is None:
        return for_method(method or DEFAULT_METHOD)
    cells = _read(file).get("method", {})
    named = cells.get("name") if isinstance(cells, Mapping) else None
    base = (
        for_method(named)
        if isinstance(named, str) and named in methods.METHODS
        else for_method(method or DEFAULT_METHOD)
    )
    recipe = load(file, base)
    if method and method != recipe.method.name:
        recipe = dataclasses.replace(recipe, method=for_method(method).method)
    return recipe


def load(source: str | Path, base: Recipe | None = None) -> Recipe:
    """Read a recipe from a TOML file, or by the name of a shipped one.

    Fields that the file leaves out come from `base`; without a base, from the row of the file's method and the
    dataclass defaults.

    Raises:
        RecipeError: no such file or recipe, not TOML, an unknown field, a value of the wrong type or out of range.
    """
    try:
        return from_dict(_read(source), base)
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from error


def _read(source: str | Path) -> dict[str, Any]:
    """The tables of a TOML file or shipped recipe."""
    path = Path(source)
    if not path.is_file() and (shipped_folder() / f"{source}.toml").is_file():
        path = shipped_folder() / f"{source}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        raise RecipeError(
            f"no recipe at {str(source)!r}{_nearest(str(source), shipped())} (shipped: {', '.join(shipped())})"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {str(path)!r}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error


def from_dict(table: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """A recipe from nested tables (see `load`)."""
    start = base or Recipe()
    cells = table.get("method", {})
    named = cells.get("name") if isinstance(cells, Mapping) else None
    if isinstance(named, str) and (base is None or named != base.method.name):
        try:
            start = dataclasses.replace(start, method=methods.get(named))
        except methods.MethodError as error:
            raise RecipeError(f"method.name: {error}") from error
    recipe: Recipe = _replace(start, table, "")
    validate(recipe)
    return recipe


def _replace(instance: Any, table: Mapping[str, Any], prefix: str) -> Any:
    """`instance` with the fields that `table` names, types checked."""
    hints = typing.get_type_hints(type(instance))
    changes: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise RecipeError(f"unknown field {name!r}{_nearest(key, hints)} (known: {', '.join(hints)})")
        current = getattr(instance, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise RecipeError(f"{name} must be a table, got {value!r}")
            changes[key] = _replace(current, value, f"{name}.")
        else:
            changes[key] = _checked(value, hints[key], name)
    try:
        return dataclasses.replace(instance, **changes)
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"{prefix}{error}" if prefix else str(error)) from error


def _checked(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint` asks; an integer may stand for a float."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            near = _nearest(str(value), [str(a) for a in allowed])
            raise RecipeError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}{near}")
        return value
    if origin in (typing.Union, types.UnionType):
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{name} must be an array, got {value!r}")
        inner = typing.get_args(hint)[0]
        return tuple(_checked(item, inner, f"{name}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise RecipeError(f"{name} must be {_article(hint.__name__)}, got {value!r}")
    return value


def _article(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}.get(kind, kind)


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


# ---------------------------------------------------------------------------------------------- checks


def validate(recipe: Recipe) -> None:
    """Check every range, and what only several fields together decide.

    Raises:
        RecipeError: with one line a problem.
    """
    problems = list(_out_of_range(recipe, ""))
    if recipe.train.batch_size % recipe.train.accumulate:
        problems.append(
            f"train.accumulate must divide train.batch_size ({recipe.train.batch_size}), got {recipe.train.accumulate}"
        )
    if recipe.train.steps == 0 and recipe.train.epochs <= 0:
        problems.append("train.epochs must be above 0 (or give train.steps)")
    if not recipe.evaluation.ks or min(recipe.evaluation.ks) < 1:
        problems.append(f"evaluation.ks must be whole numbers from 1, got {list(recipe.evaluation.ks)}")
    problems += _views(recipe)
    problems += _decay(recipe.optim)
    problems += _order(recipe)
    if recipe.monitor.watch == -1 and recipe.monitor.on_collapse != "warn":
        problems.append(
            f"monitor.on_collapse {recipe.monitor.on_collapse!r} needs the alarm, which monitor.watch -1 switches off"
        )
    device = recipe.train.device
    if device not in ("auto", "cpu", "cuda") and not device.startswith("cuda:"):
        problems.append(f"train.device must be auto, cpu, cuda or cuda:N, got {device!r}")
    if problems:
        raise RecipeError("\n".join(problems))


def _views(recipe: Recipe) -> typing.Iterator[str]:
    """What CutMix and multi-crop do not go with."""
    config = recipe.views
    if config.local_crops and recipe.network.backbone in FLAT:
        yield (
            f"views.local_crops must be 0 with network.backbone {recipe.network.backbone!r}, which takes one image size"
        )
    if config.local_crops and config.local_min > config.local_max:
        yield f"views.local_min must be at most views.local_max, got {config.local_min} and {config.local_max}"
    if not config.cutmix:
        return
    if config.local_crops:
        yield "views.cutmix and views.local_crops exclude each other: a local crop shows one image only"
    if recipe.train.batch_size // recipe.train.accumulate % 2:
        yield (
            f"views.cutmix pairs neighbours: an even part of a batch is needed, got {recipe.train.batch_size} images"
            + (f" in {recipe.train.accumulate} parts" if recipe.train.accumulate > 1 else "")
        )


_READS = {  # which orders read a field of the section `order` that is off by default
    "rounds": ("current", "cumulative", "hybrid"),
    "subset": ("last",),
    "replay": ("current", "hybrid", "stream"),
    "buffer": ("current", "hybrid", "stream"),
    "shift": ("current", "cumulative", "last", "hybrid"),
}


def _order(recipe: Recipe) -> typing.Iterator[str]:
    """Fields that the order does not read, and what it cannot be."""
    config, default = recipe.order, OrderConfig()
    for name, readers in _READS.items():
        value = getattr(config, name)
        if value != getattr(default, name) and config.name not in readers:
            yield f"order.{name} goes with order.name {' or '.join(map(repr, readers))}, not with {config.name!r}"
    if config.buffer and not config.replay:
        yield "order.buffer needs order.replay, the share of a batch that is drawn from the buffer"
    if config.replay and round(config.replay * recipe.train.batch_size) in (0, recipe.train.batch_size):
        yield (
            f"order.replay must leave at least one row of a batch of {recipe.train.batch_size} images on either side, "
            f"got {config.replay:g}"
        )
    if config.name == "hybrid" and config.switch in (0, 1):
        other = "'current'" if config.switch else "'iid'"
        yield f"order.switch must be above 0 and below 1, got {config.switch:g}: that is order.name {other}"
    if config.shift == "domain" and not recipe.data.domains:
        yield "order.shift 'domain' needs data.domains: a folder whose images lie in DOMAIN/CLASS/"
    if config.name == "stream" and (recipe.data.kind in ("idx", "npz", "npy") or recipe.data.source in _ENDS):
        yield "order.name 'stream' needs images that never end: data.source shapes, or a folder of image files"


def _decay(config: OptimConfig) -> typing.Iterator[str]:
    """What the two decays may be."""
    if -1 < config.predictor_weight_decay < 0:
        yield (
            "optim.predictor_weight_decay must be at least 0, or -1 for that of the encoder, "
            f"got {config.predictor_weight_decay:g}"
        )
    if config.decay == "coupled":
        return
    if config.name != "sgd":
        yield f"optim.decay 'per-step' goes with optim.name 'sgd' only, got {config.name!r}"
    for name in ("weight_decay", "predictor_weight_decay"):
        if getattr(config, name) > 1:
            yield f"optim.{name} must be at most 1 with optim.decay 'per-step', got {getattr(config, name):g}"


def _out_of_range(instance: Any, prefix: str) -> typing.Iterator[str]:
    for item in dataclasses.fields(instance):
        value = getattr(instance, item.name)
        name = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from _out_of_range(value, f"{name}.")
        elif "low" in item.metadata and isinstance(value, int | float):
            low, high = item.metadata["low"], item.metadata["high"]
            inside = value == value and (low is None or value >= low) and (high is None or value <= high)
            if not inside or value in (float("inf"), float("-inf")):
                bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
                yield f"{name} must be {bounds}, got {value}"


# ---------------------------------------------------------------------------------------------- out


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested tables, complete."""
    return dataclasses.asdict(recipe)


def to_toml(recipe: Recipe) -> str:
    """The complete recipe as TOML text; `from_dict(tomllib.loads(text))` gives it back."""
    lines: list[str] = []
    _write_table(to_dict(recipe), "", lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _write_table(table: Mapping[str, Any], prefix: str, lines: list[str]) -> None:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if prefix and plain:
        lines += ["", f"[{prefix}]"]
    lines += [f"{key} = {_toml_value(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            _write_table(value, f"{prefix}.{key}" if prefix else key, lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def digest(recipe: Recipe) -> str:
    """A short hash of everything in the recipe."""
    text = json.dumps(to_dict(recipe), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
