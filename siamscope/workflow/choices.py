"""What a run decides by measuring on its machine, and writes into its recipe: number format, layout, compiling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from siamscope.recipe import Recipe
from siamscope.training import compile as compiling
from siamscope.training.build import build_model, choose_precision
from siamscope.training.compile import Choice
from siamscope.training.distributed import World
from siamscope.training.progress import Reporter
from siamscope.training.step import Trainer


def with_number_format(recipe: Recipe, channels: int, here: World) -> tuple[Recipe, dict[str, float]]:
    """The recipe with number format and layout decided by a timed probe, so that a resumed run computes in the same."""
    config = recipe.train
    if config.deterministic:  # a timed choice is not
        precision, last = config.precision.replace("auto", "fp32"), config.channels_last.replace("auto", "off")
        config = replace(config, precision=cast("Any", precision), channels_last=cast("Any", last))
        recipe = replace(recipe, train=config)
    if config.precision != "auto" and config.channels_last != "auto":
        return recipe, {}
    alone = build_model(recipe, channels, World(device=here.device))
    found, timings = choose_precision(recipe, alone, channels, here)
    chosen = replace(
        recipe.train,
        precision="bf16" if found.bf16 else "fp32",
        channels_last="on" if found.channels_last else "off",
    )
    return replace(recipe, train=chosen), timings


def compiled_step(trainer: Trainer, left: int, reporter: Reporter) -> tuple[Recipe, Choice]:
    """Compile the trainer's step if that pays in the `left` steps to go, and say why; the recipe with the choice."""
    config = trainer.recipe.train
    if not left:
        return trainer.recipe, compiling.NOT_NEEDED
    # A choice by the clock would not be deterministic.
    setting = "off" if config.deterministic and config.compile == "auto" else config.compile
    found = compiling.choose(setting, trainer, left)
    if setting != "off":
        reporter.say(found.reason)
    if config.compile == "auto":
        trainer.recipe = replace(trainer.recipe, train=replace(config, compile="on" if found.compiled else "off"))
    return trainer.recipe, found
