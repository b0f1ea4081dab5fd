"""Opening data with the progress that a person expects to see."""

from __future__ import annotations

from siamscope.data import Dataset, console_progress, open_dataset
from siamscope.data.config import DataConfig
from siamscope.training.progress import Reporter, Silent


def opened(config: DataConfig, reporter: Reporter) -> Dataset:
    """The data set; progress of decoding is shown unless the reporter is silent."""
    if type(reporter) is Silent:
        return open_dataset(config)
    with console_progress() as progress:
        dataset = open_dataset(config, progress)
    if dataset.rejected:
        reporter.say(f"{len(dataset.rejected)} unreadable files were set aside (first: {dataset.rejected[0].path})")
    if dataset.hint:
        reporter.say(dataset.hint)
    return dataset
