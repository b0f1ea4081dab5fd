"""The alarm's eyes: now and then a few fixed validation images, in eval mode, through backbone and projector."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from siamscope import collapse, views
from siamscope.collapse import Vitals
from siamscope.collapse.alarm import Alarm, Look, Watching, advance
from siamscope.evaluation.features import evaluating
from siamscope.recipe import Recipe
from siamscope.training.precision import Precision
from siamscope.training.siamese import Siamese

SPACING = {"cpu": 25, "cuda": 100}
"""Steps between two looks at least. A GPU is asked less often: every answer stalls it."""


def every(recipe: Recipe, device: str) -> int:
    """Steps between two looks; 0 = never.

    By count, since a timed rule would look at other steps when a run is resumed: a look is a forward pass of
    `watch_samples` images, a step one forward and one backward pass, of twice the cost, of two views of a batch. With
    25 batches' worth of images between two looks that is 1/150 of the training and the spectra's cost
    (benchmarks/monitor_cost.py measures both together).
    """
    config = recipe.monitor
    if config.watch:
        return max(config.watch, 0)
    return math.ceil(SPACING.get(device, 25) * max(1.0, config.watch_samples / recipe.train.batch_size))


class Watch:
    """Looks at `images` (n, C, H, W) uint8 every `every` steps and keeps the alarm's state."""

    def __init__(
        self,
        images: Tensor,
        every: int,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        precision: Precision,
    ) -> None:
        self.images, self.every, self.size, self.mean, self.std = images, every, size, mean, std
        self.precision = precision
        self.watching = Watching()

    @property
    def alarm(self) -> Alarm:
        return self.watching.alarm

    @property
    def healthy(self) -> bool:
        """Whether to go back to here: quiet, with nothing found at the last look, and that look could judge.

        What has not settled may be past help, and a first finding is no alarm yet.
        """
        return self.alarm.state == "quiet" and self.watching.severities[-1:] == (0,)

    def due(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def look(self, model: Siamese, step: int) -> dict[str, Any]:
        """Measure after `step` steps and let the alarm judge; the line for the log.

        Raises:
            CollapseError: embeddings that are not finite.
        """
        with evaluating(model), torch.inference_mode(), self.precision.autocast(self.images.device):
            batch = self.precision.layout(views.eval_view(self.images, self.size, self.mean, self.std))
            features = model.online.backbone(batch)
            embeddings = model.online.projector(features)
        line = to_line(Look(step, collapse.measure(embeddings.float()), collapse.measure(features.float())))
        self.watching = advance(self.watching, to_look(line))
        return line | {"state": self.alarm.state, "collapse": self.alarm.kind}

    def rebuild(self, lines: Iterable[dict[str, Any]]) -> None:
        """The state after the looks that a log holds."""
        self.watching = Watching()
        for line in lines:
            if line.get("kind") == "watch":
                self.watching = advance(self.watching, to_look(line))


def to_line(look: Look) -> dict[str, Any]:
    """A look as a line of metrics.jsonl."""
    of_embeddings, of_features = look.embeddings, look.features
    return {
        "kind": "watch",
        "step": look.step,
        "embedding_std": of_embeddings.embedding_std,
        "effective_rank": of_embeddings.effective_rank,
        "auc": of_embeddings.auc,
        "feature_std": of_features.embedding_std,
        "feature_effective_rank": of_features.effective_rank,
        "feature_auc": of_features.auc,
        "embedding_dim": of_embeddings.d,
        "feature_dim": of_features.d,
        "samples": of_embeddings.n,
    }


def to_look(line: dict[str, Any]) -> Look:
    """The look that such a line holds."""
    n = int(line["samples"])
    return Look(
        int(line["step"]),
        Vitals(line["embedding_std"], line["effective_rank"], line["auc"], n, int(line["embedding_dim"])),
        Vitals(line["feature_std"], line["feature_effective_rank"], line["feature_auc"], n, int(line["feature_dim"])),
    )
