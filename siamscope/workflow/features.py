"""Images that a figure is computed on, and their features by an encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamscope import views
from siamscope.data.source import Source
from siamscope.evaluation.features import extract
from siamscope.training.build import Normalisation


@dataclass(frozen=True)
class Split:
    """Images that a figure is computed on, at most as many as the recipe says."""

    source: Source
    indices: NDArray[np.int64]

    @classmethod
    def of(cls, source: Source, most: int, seed: int = 0) -> Split:
        order = np.random.Generator(np.random.PCG64([seed, 11])).permutation(len(source))[:most]
        return cls(source, np.sort(order).astype(np.int64))

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.source.read(self.indices[rows])

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return None if self.source.labels is None else self.source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)


class Encode:
    """Features of a split by one encoder, in float32, with the run's normalisation."""

    def __init__(self, size: int, norm: Normalisation, device: torch.device) -> None:
        self.size, self.norm, self.device = size, norm, device

    def __call__(self, encoder: nn.Module, split: Split) -> Tensor:
        return extract(encoder, split.read, len(split), transform=self._clean, device=self.device)

    def _clean(self, images: Tensor) -> Tensor:
        return views.eval_view(images, self.size, self.norm.mean, self.norm.std)
