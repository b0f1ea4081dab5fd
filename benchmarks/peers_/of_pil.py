"""The usual loop in plain torch: a DataLoader whose dataset makes each view through Pillow, and torch's SGD."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from throughput import pillow_view
from torch import Tensor, nn
from torch.nn import functional as F

from peers_ import plain
from peers_.clock import peak_mb, warm
from siamscope.views import get_policy


class SimSiam(nn.Module):
    """Heads of 2048, as the other sides have them."""

    def __init__(self, backbone: plain.ResNet) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.feature_dim, 2048, bias=False), nn.BatchNorm1d(2048), nn.ReLU(inplace=True),
            nn.Linear(2048, 2048, bias=False), nn.BatchNorm1d(2048), nn.ReLU(inplace=True),
            nn.Linear(2048, 2048, bias=False), nn.BatchNorm1d(2048, affine=False),
        )  # fmt: skip
        self.predictor = nn.Sequential(
            nn.Linear(2048, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, 2048)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.projector(self.backbone(x))
        return z.detach(), self.predictor(z)


class Side:
    """The tasks; see `peers_.worker`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings.get("threads", 1))
        torch.manual_seed(settings.get("seed", 0))
        self.settings, self.device = settings, settings.get("device", "cpu")

    def start(self) -> dict[str, Any]:
        """Build everything and do one step, which no figure counts."""
        s, self.rng = self.settings, np.random.default_rng(0)
        spec = get_policy("simsiam", 32)[0]
        self.pictures = plain.Pictures(s["data"])
        self.pictures.transform = lambda image: [pillow_view(image, spec, self.rng) for _ in range(2)]
        self.model = SimSiam(plain.backbone(s)).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=plain.rate(s), momentum=plain.MOMENTUM, weight_decay=plain.DECAY
        )
        self._loop(islice(plain.batches(self.pictures, s | {"workers": 0}), 1))
        return {}

    def _begin(self, number: int) -> None:
        """A loader worker draws its own views."""
        self.rng = np.random.default_rng((self.settings["seed"], number))

    def end(self, steps: int) -> dict[str, float]:
        batches = iter(plain.batches(self.pictures, self.settings, plain.ENDLESS, self._begin))
        taken = warm(lambda n: self._loop(islice(batches, n)), steps, self.device, plain.ahead(self.settings))
        return taken | {"images": steps * self.settings["batch"], "peak_mb": peak_mb(self.device)}

    def _loop(self, batches: Iterable[Any]) -> None:
        for (x0, x1), _ in batches:
            (z0, p0), (z1, p1) = (self.model(x.to(self.device)) for x in (x0, x1))
            loss = -0.5 * (F.cosine_similarity(p1, z0).mean() + F.cosine_similarity(p0, z1).mean())
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
