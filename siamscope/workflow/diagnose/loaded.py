"""What every kind of input becomes before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Array = Any  # numpy array (also a memory map) or torch tensor
EMBEDDINGS = "projector's output"
"""What `about["layer"]` says of embeddings, which are judged by their spread as well."""


class DiagnoseError(ValueError):
    """Input that cannot be diagnosed, or a limit that cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Ask:
    """What the user wants of inputs that are networks; see `command.Options` for the words."""

    data: str = ""
    size: int = 0
    split: str = "auto"
    samples: int = 10_000
    embeddings: bool = False
    views: int = 0
    view_images: int = 1000
    seed: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Loaded:
    """Features of one input, and what is known about them.

    Attributes:
        name: as the user gave it.
        features: (N, d), one row an image.
        views: (n, q, d) features of q views of each of n images, for LiDAR and alignment; None if there are none.
        embeddings: (N, d') the projector's output for the same images, where the input has a projector.
        untrained: (N, d) features of the same images before training, where they can be made.
        about: what the features are, for the record: kind, split, layer, transform, dtype, ...
        steps: training steps behind them; None if unknown.
        course: what the run measured while training: lines of metrics.jsonl of kind "monitor".
        notes: what the reader should know.
    """

    name: str
    features: Array
    views: Array | None = None
    embeddings: Array | None = None
    untrained: Array | None = None
    about: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    course: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
