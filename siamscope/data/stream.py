"""Images that never end: every drawn image is seen once, the true continual case."""

import numpy as np

from siamscope.data.chunks import Pace, Positions
from siamscope.data.errors import DataError
from siamscope.data.replay import Replay
from siamscope.data.shapes import ShapesSpec, class_names
from siamscope.data.source import Images, Numbered, Source, digest


class EndlessShapes(Source):
    """The procedural images from index 0 to `end`, for training only: labels are not drawn."""

    def __init__(self, spec: ShapesSpec, end: int) -> None:
        self.spec, self.end = spec, end
        self.channels, self.size = spec.channels, spec.size
        self.labels, self.class_names = None, class_names(spec)
        self.names = Numbered(end)
        self.fingerprint = digest(repr((spec, end)).encode())

    def __len__(self) -> int:
        return self.end

    def read(self, indices: Positions) -> Images:
        from siamscope.data.shapes import generate

        return generate(indices, self.spec)[0]


class EndlessOrder:
    """The images 0, 1, 2, ... of a source, each new one once; `chunks` equal parts of the run say what is earlier.

    steps_per_epoch: of the finite data that stand for the stream elsewhere. With replay the first chunk has new images
    alone, and later ones as many as the replayed rows leave. Raises DataError if the source ends before the run.
    """

    def __init__(
        self, end: int, batch_size: int, steps: int, chunks: int, steps_per_epoch: int, replay: Replay | None = None
    ) -> None:
        self.batch_size, self.steps_per_epoch = batch_size, steps_per_epoch
        self.pace, self._replay = Pace(steps, chunks), replay
        self._second = self.pace.first(1)  # the first step that can replay
        self._fresh = batch_size - (replay.count(self._second * batch_size) if replay else 0)
        if self.seen(steps) > end:
            raise DataError(f"a run of {steps} steps sees {self.seen(steps)} new images; the source ends after {end}")

    def seen(self, step: int) -> int:
        """New images presented before a step."""
        early = min(step, self._second)
        return early * self.batch_size + (step - early) * self._fresh

    def batch(self, step: int) -> Positions:
        """Indices of the global batch of a step (from 0), int64 (batch_size,)."""
        start = self.pace.first(self.pace.segment(step))
        fresh = np.arange(self.seen(step), self.seen(step + 1), dtype=np.int64)
        if self._replay is None or not start:
            return fresh
        return self._replay.mixed(step, fresh, self._replay.draw(step, self.seen(start)))
