"""What a comparison must settle once, before its runs: the data, the number format, the device.

A process of its own (`python -m`, recipe as TOML on standard input, JSON on standard output), because it needs torch
and the images in memory: the peak memory of a child counts what its parent held when the child was started.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from siamscope import recipe as recipes
from siamscope.recipe import Recipe
from siamscope.rundir import finite
from siamscope.training import progress
from siamscope.training.distributed import World, choose_device
from siamscope.workflow import environment
from siamscope.workflow.choices import with_number_format
from siamscope.workflow.opening import opened


@dataclass(frozen=True)
class Prepared:
    """The shared recipe with everything decided, and what the machine and the data are."""

    recipe: Recipe
    environment: dict[str, Any]
    data: dict[str, Any]


def prepare(recipe: Recipe, threads: int, reporter: progress.Reporter) -> Prepared:
    """Decode the images (into the cache, if there is one); decide device, threads, number format and compiling for all.

    Raises:
        RecipeError, DataError, ...: as `siamscope train` would, before any run starts.
    """
    device = choose_device(recipe.train.device)
    if device.type == "cpu":
        torch.set_num_threads(threads)
        recipe = replace(recipe, train=replace(recipe.train, threads=threads))
    dataset = opened(recipe.data, reporter)
    recipe = replace(recipe, data=replace(dataset.config, cache_dir=recipe.data.cache_dir))
    found = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "train_images": len(dataset.train),
        "validation_images": len(dataset.val),
        "test_images": len(dataset.test) if dataset.test else 0,
    }
    recipe, _ = with_number_format(recipe, dataset.train.channels, World(device=device))
    if recipe.train.compile == "auto":  # runs of one comparison compute alike, and several at once time nothing well
        recipe = replace(recipe, train=replace(recipe.train, compile="off"))
    return Prepared(recipe, environment.describe(device), found)


def main(threads: str, quiet: str) -> None:
    """Read a recipe, prepare, write what was found; an error made for the user is written as one."""
    import tomllib

    recipe = recipes.from_dict(tomllib.loads(sys.stdin.buffer.read().decode("utf-8", "surrogateescape")))
    try:
        found = prepare(recipe, int(threads), progress.Silent() if quiet == "1" else progress.reporter())
    except ValueError as error:
        if not type(error).__module__.startswith("siamscope."):
            raise
        print(json.dumps({"error": str(error)}))
        return
    print(json.dumps(finite(asdict(found))))


if __name__ == "__main__":
    main(*sys.argv[1:])
