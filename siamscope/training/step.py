"""One step of training, from uint8 images to new weights, on one screen."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from siamscope import views
from siamscope.recipe import Recipe
from siamscope.training.distributed import World
from siamscope.training.optim import rate_factor, set_rates
from siamscope.training.precision import Precision
from siamscope.training.profile import Spans
from siamscope.training.siamese import Siamese
from siamscope.training.target import momentum_at
from siamscope.views.cutmix import Mix
from siamscope.views.policies import ViewSpec


@dataclass
class Trainer:
    """The state of a run, and `step`, which advances it."""

    recipe: Recipe
    model: Siamese
    optimizer: Optimizer
    specs: tuple[ViewSpec, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: int
    warmup: int
    world: World
    precision: Precision
    wrapped: nn.Module | None = None  # the model inside DistributedDataParallel, when there are several processes
    before_clipping: Tensor | None = None  # the last gradient's norm, when it is clipped
    spans: Spans = field(default_factory=Spans)  # where the time goes, when somebody asks

    def step(self, number: int, images: Tensor) -> Tensor:
        """Do step `number` (1-based) on this process's rows (n, C, H, W) uint8 of the global batch; its loss.

        All randomness comes from (seed, number), so a resumed run repeats it exactly.
        """
        with self.spans("setting up"):
            self.model.train()
            set_rates(self.optimizer, self.rate_factor(number))
            self.optimizer.zero_grad(set_to_none=True)
            generator = seeded(self.recipe.train.seed, number, self.world.rank)
        parts = images.chunk(self.recipe.train.accumulate)
        losses = []
        for index, part in enumerate(parts):
            with self.spans("views"):
                batch = self.make_views(part, generator)
                mix = self.draw_mix(batch[0].shape[-1], generator)
            last = index == len(parts) - 1
            with self.spans("forward"), self.synchronised(last), self.precision.autocast(images.device):
                loss: Tensor = (self.wrapped or self.model)(batch, mix)
            with self.spans("backward"):
                torch.autograd.backward(loss / len(parts))
            with self.spans("statistics"):
                self.model.commit()
            losses.append(loss.detach())
        with self.spans("optimiser"):
            if self.recipe.optim.clip_norm:
                self.before_clipping = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip_norm)
            self.optimizer.step()
        with self.spans("target"):
            self.model.follow(self.momentum(number))
        return torch.stack(losses).mean()

    def make_views(self, images: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Random views; parameters are drawn for the global batch, so they do not depend on the number of processes."""
        n, rank = len(images), self.world.rank
        batch = views.make_views(
            images,
            self.specs,
            generator,
            colour=self.recipe.views.colour,
            mean=self.mean,
            std=self.std,
            rows=slice(rank * n, (rank + 1) * n),
            global_batch=n * self.world.size,
        )
        return [self.precision.layout(view) for view in batch]

    def draw_mix(self, size: int, generator: torch.Generator) -> Mix | None:
        """The box that this step's online views exchange with their neighbours in the batch, if CutMix is on."""
        config = self.recipe.views
        if not config.cutmix:
            return None
        return views.draw_mix(size, generator, probability=config.cutmix, alpha=config.cutmix_alpha)

    def rate_factor(self, number: int) -> float:
        return rate_factor(number, self.steps, self.warmup, self.recipe.optim.final_lr)

    def momentum(self, number: int) -> float:
        row = self.model.row
        return momentum_at(number, self.steps, row.momentum, row.momentum_end)

    def gradient_norm(self) -> float:
        """Norm of the last step's gradient, before clipping."""
        if self.before_clipping is not None:
            return float(self.before_clipping)
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))

    def synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel between processes with the last part of an accumulated batch only."""
        if last or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        return cast("AbstractContextManager[Any]", self.wrapped.no_sync())


def seeded(seed: int, step: int, rank: int) -> torch.Generator:
    """The generator of a step's views, the same on every process; torch's own stream (dropout) differs by rank."""
    mixed = (seed * 1_000_003 + step) % 2**63
    torch.manual_seed((mixed * 65_537 + rank) % 2**63)
    return torch.Generator().manual_seed(mixed)
