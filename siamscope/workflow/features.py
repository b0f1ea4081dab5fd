"""Images that a figure is computed on, and their features by an encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamscope import views
from siamscope.data.source import Source
from siamscope.evaluation.features import evaluating, extract
from siamscope.training.build import Normalisation
from siamscope.training.distributed import World
from siamscope.training.siamese import TARGET_VIEWS
from siamscope.views.policies import ViewSpec

CHUNK = 512


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

    def views(
        self, encoder: nn.Module, parts: Sequence[Split], specs: Sequence[ViewSpec], q: int, most: int, seed: int
    ) -> Tensor:
        """See `of_views`."""
        return of_views(encoder, self, parts, specs, q, most, seed)

    def _clean(self, images: Tensor) -> Tensor:
        return views.eval_view(images, self.size, self.norm.mean, self.norm.std)


def transform_hash(size: int, norm: Normalisation) -> str:
    """Hash of what is done to an image before the network sees it."""
    facts = {"view": "eval_view", "size": size, "mean": list(norm.mean), "std": list(norm.std)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def of_views(
    encoder: nn.Module,
    encode: Encode,
    parts: Sequence[Split],
    specs: Sequence[ViewSpec],
    q: int,
    most: int,
    seed: int,
    head: nn.Module | None = None,
) -> Tensor:
    """(n, q, d) features, float32 on the CPU, of q random views of each of at most `most` images.

    The images are evenly spread over the parts. The views are drawn from the first two of `specs` in turn. `head`: a
    projector, whose output is then given. Both modules must be on the device of `encode`; they are in eval mode
    meanwhile.
    """
    found = share_of_views(encoder, encode, parts, specs, q, most, seed, head)
    assert found is not None  # alone, and there is an image
    return found


@torch.inference_mode()
def share_of_views(
    encoder: nn.Module,
    encode: Encode,
    parts: Sequence[Split],
    specs: Sequence[ViewSpec],
    q: int,
    most: int,
    seed: int,
    head: nn.Module | None = None,
    world: World | None = None,
) -> Tensor | None:
    """The rows of `of_views` that this process of `world` does; None for none."""
    world, done, total = world or World(), 0, min(most, sum(map(len, parts)))
    chosen = [specs[k % min(len(specs), TARGET_VIEWS)] for k in range(q)]
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    with evaluating(encoder), evaluating(head or nn.Identity()):
        for images in _blocks(parts, most, max(CHUNK // q, 1)):
            n, mine = len(images), world.within(total, done, done + len(images))
            done += n
            if mine.start == mine.stop:
                views.skip_views(n, images.shape[-2:], chosen, generator)
                continue
            batch = torch.from_numpy(images[mine]).to(encode.device)
            drawn = views.make_views(
                batch, chosen, generator, mean=encode.norm.mean, std=encode.norm.std, rows=mine, global_batch=n
            )
            rows = [encoder(view) for view in drawn]
            rows = rows if head is None else [head(row) for row in rows]
            found.append(torch.stack(rows, dim=1).float().cpu())
    return torch.cat(found) if found else None


def _blocks(parts: Sequence[Split], most: int, step: int) -> Iterator[NDArray[np.uint8]]:
    """Blocks of at most `step` images, `most` in all, evenly spread over the parts."""
    total = sum(map(len, parts))
    kept = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(np.int64))
    start = 0
    for part in parts:
        rows = kept[(kept >= start) & (kept < start + len(part))] - start
        for at in range(0, len(rows), step):
            yield part.read(rows[at : at + step])
        start += len(part)
