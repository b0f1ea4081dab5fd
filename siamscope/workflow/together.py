"""The judgement's features by all processes: rank 0 asks, everyone does its share, rank 0 has the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from siamscope.data import Dataset, Source
from siamscope.training.build import Normalisation
from siamscope.training.distributed import World
from siamscope.views.policies import ViewSpec
from siamscope.workflow.features import Encode, Split, share_of_views


@dataclass(frozen=True)
class _Job:
    """What rank 0 asks for: features of these images by that encoder; with `views`, of so many views of `most`."""

    encoder: str
    source: int
    indices: NDArray[np.int64]
    specs: tuple[ViewSpec, ...] = ()
    views: int = 0
    most: int = 0
    seed: int = 0


class Together(Encode):
    """`Encode` over all processes. Rank 0 calls it as if it were alone while the others `serve`; then `dismiss`."""

    def __init__(
        self, size: int, norm: Normalisation, world: World, encoders: Mapping[str, nn.Module], dataset: Dataset
    ) -> None:
        super().__init__(size, norm, world.device)
        self.world, self.encoders = world, dict(encoders)
        self.sources: list[Source] = [dataset.train, dataset.val, *([dataset.test] if dataset.test else [])]

    def __call__(self, encoder: nn.Module, split: Split) -> Tensor:
        if self.world.size == 1:
            return super().__call__(encoder, split)
        return self._asked(_Job(self._name(encoder), self._source(split), split.indices))

    def views(
        self, encoder: nn.Module, parts: Sequence[Split], specs: Sequence[ViewSpec], q: int, most: int, seed: int
    ) -> Tensor:
        if self.world.size == 1:
            return super().views(encoder, parts, specs, q, most, seed)
        (part,) = parts
        return self._asked(_Job(self._name(encoder), self._source(part), part.indices, tuple(specs), q, most, seed))

    def serve(self) -> None:
        """Do what rank 0 asks for until it dismisses."""
        while (job := self.world.broadcast(None)) is not None:
            self._do(job)

    def dismiss(self) -> None:
        """Let the others go. Called by rank 0, also when it fails."""
        self.world.broadcast(None)

    def _asked(self, job: _Job) -> Tensor:
        self.world.broadcast(job)
        found = self._do(job)
        assert found is not None  # rank 0, and a split has an image
        return found.cpu()

    def _do(self, job: _Job) -> Tensor | None:
        encoder, split = self.encoders[job.encoder], Split(self.sources[job.source], job.indices)
        if job.views:
            mine = share_of_views(encoder, self, [split], job.specs, job.views, job.most, job.seed, world=self.world)
        else:
            part = Split(split.source, split.indices[self.world.share(len(split))])
            mine = super().__call__(encoder, part) if len(part) else None
        return self.world.gathered(mine)

    def _name(self, encoder: nn.Module) -> str:
        return next(name for name, known in self.encoders.items() if known is encoder)

    def _source(self, split: Split) -> int:
        return next(place for place, known in enumerate(self.sources) if known is split.source)
