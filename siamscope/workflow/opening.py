"""Opening data with the progress that a person expects to see."""

from __future__ import annotations

from collections.abc import Mapping

from siamscope.data import Dataset, console_progress, open_dataset
from siamscope.data.config import DataConfig
from siamscope.data.open import help_decode
from siamscope.recipe import Recipe
from siamscope.training.distributed import World
from siamscope.training.progress import Reporter, Silent


def opened(
    config: DataConfig, reporter: Reporter, known: Mapping[str, list[str]] | None = None, fixed: bool = False
) -> Dataset:
    """The data set; progress of decoding is shown unless the reporter is silent. known, fixed: see `open_dataset`."""
    if type(reporter) is Silent:
        return open_dataset(config, known=known, fixed=fixed)
    with console_progress() as progress:
        dataset = open_dataset(config, progress, known, fixed)
    if dataset.rejected:
        reporter.say(f"{len(dataset.rejected)} unreadable files were set aside (first: {dataset.rejected[0].path})")
    if dataset.hint:
        reporter.say(dataset.hint)
    return dataset


def opened_once(config: DataConfig, reporter: Reporter, known: Mapping[str, list[str]] | None) -> Dataset:
    """The data of a run on a folder that may grow. Files that cannot be used at its start are as if they were not
    there: one that was half written then is new when it is whole, and the others stay what they were. The images are
    decoded once; the cache keeps them with and without the places of what cannot be used, for a new run and this one's
    resuming."""
    return opened(config, reporter, known, fixed=known is None)


def shared_dataset(recipe: Recipe, here: World, reporter: Reporter, known: Mapping[str, list[str]] | None) -> Dataset:
    """The data, decoded by the processes of every host together: hosts may have a cache each. Of a folder that grows,
    all see the files that rank 0 saw."""
    if recipe.order.name != "stream":
        if here.local_rank:
            help_decode(recipe.data)
        return here.on_each_host(lambda: opened(recipe.data, reporter)) or opened(recipe.data, Silent())
    mine = here.on_first(lambda: opened_once(recipe.data, reporter, known))
    files = here.broadcast(mine.files if mine else None)
    return mine or opened(recipe.data, Silent(), files)
