"""Who is trained on, who validates, who is kept for the end. Every draw depends on the seed alone."""

from dataclasses import dataclass

import numpy as np

from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError
from siamscope.data.source import Indices, Source, Subset

MOST_VALIDATION = 5000
_TRAIN, _TEST = 1, 2  # separate streams of random numbers


@dataclass(frozen=True)
class Split:
    """Indices of the training and the validation images among the training data, ascending, without a common one."""

    train: Indices
    val: Indices
    note: str | None = None


def validation_count(count: int, config: DataConfig) -> int:
    """Validation images to set aside from `count`: val_samples, or val_fraction of them, 2 (of three, 1) to 5,000."""
    least = 2 if count >= 4 else 1  # a spectrum needs two
    return config.val_samples or min(MOST_VALIDATION, max(least, round(count * config.val_fraction)))


def draw_split(count: int, config: DataConfig) -> Split:
    """Split `count` images. The validation images do not depend on `samples`.

    Raises:
        DataError: fewer than two images, or more asked for than there are.
    """
    if count < 2:
        raise DataError(
            f"the data hold {count} image{'s' * (count != 1)}; at least 2 are needed, one of them for validation"
        )
    held = validation_count(count, config)
    if held >= count:
        raise DataError(f"data.val_samples = {held} leaves nothing of {count} images to train on: choose fewer")
    order = np.random.default_rng([config.seed, _TRAIN]).permutation(count).astype(np.int64)
    if config.samples > count:
        raise DataError(f"data.samples = {config.samples}, but there are only {count} training images")
    train = order[held : held + config.samples] if config.samples else order[held:]
    note = None
    if config.samples > count - held:
        note = f"{len(train)} of the {config.samples} samples asked for are trained on: {held} are set aside"
    return Split(np.sort(train), np.sort(order[:held]), note)


def drawn(source: Source, count: int, seed: int, what: str) -> Source:
    """`count` images of a source drawn by the seed, in ascending order; the source itself for 0 or all.

    Raises:
        DataError: more asked for than there are; the message calls them `what`.
    """
    if count > len(source):
        raise DataError(f"data.{what} = {count}, but there are only {len(source)} images")
    if count in (0, len(source)):
        return source
    order = np.random.default_rng([seed, _TEST]).permutation(len(source)).astype(np.int64)
    return Subset(source, np.sort(order[:count]))


def three_way(
    train: Source, val: Source | None, test: Source | None, config: DataConfig
) -> tuple[Source, Source, Source | None, str | None]:
    """Training, validation and test images, and a note for the user or None.

    Given validation images are used as they are; otherwise they are drawn from the training data.
    """
    if test is not None:
        test = drawn(test, config.test_samples, config.seed, "test_samples")
    if val is not None:
        val = drawn(val, config.val_samples, config.seed, "val_samples")
        return drawn(train, config.samples, config.seed, "samples"), val, test, None
    split = draw_split(len(train), config)
    return Subset(train, split.train), Subset(train, split.val), test, split.note
