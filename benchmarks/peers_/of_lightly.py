"""lightly as its SimSiam example uses it: its transform, heads, loss and k-NN, a plain loop around a DataLoader."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peers_ import plain
from peers_.clock import peak_mb, timed, warm

plain.define_vision_operators()

from lightly.data import LightlyDataset  # noqa: E402
from lightly.loss import (  # noqa: E402
    BarlowTwinsLoss,
    DCLLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    VICRegLoss,
)
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead  # noqa: E402
from lightly.transforms import SimSiamTransform  # noqa: E402
from lightly.utils.benchmarking import knn_predict  # noqa: E402


class SimSiam(nn.Module):
    def __init__(self, backbone: plain.ResNet) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = SimSiamProjectionHead(backbone.feature_dim, 2048, 2048)
        self.prediction_head = SimSiamPredictionHead(2048, 512, 2048)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.backbone(x).flatten(start_dim=1)
        z = self.projection_head(f)
        p = self.prediction_head(z)
        return z.detach(), p


class Side:
    """The tasks; see `peers_.worker`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings.get("threads", 1))
        torch.manual_seed(settings.get("seed", 0))
        self.settings, self.device = settings, settings.get("device", "cpu")
        self.model: SimSiam | None = None

    def start(self) -> dict[str, Any]:
        """Build everything and do one step, which no figure counts."""
        s = self.settings
        normalize = {"mean": s["mean"], "std": s["std"]}
        transform = SimSiamTransform(input_size=32, gaussian_blur=0.0, normalize=normalize)
        self.dataset = LightlyDataset.from_torch_dataset(plain.Pictures(s["data"]), transform=transform)
        self.model = SimSiam(plain.backbone(s)).to(self.device)
        self.criterion = NegativeCosineSimilarity()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=plain.rate(s), momentum=plain.MOMENTUM, weight_decay=plain.DECAY
        )
        self.fixed = next(iter(plain.batches(self.dataset, s | {"workers": 0})))[0]
        self._update(*(view.to(self.device) for view in self.fixed))
        return {}

    def views(self, count: int) -> dict[str, float]:
        if self.device != "cpu":
            return plain.views(self.dataset, self.settings, count, lambda batch: batch[0])

        def make(count: int) -> None:
            for index in range(count):
                self.dataset[index % len(self.dataset)]

        return warm(make, count, self.device) | {"images": count}

    def step(self, steps: int) -> dict[str, float]:
        x0, x1 = (view.to(self.device) for view in self.fixed)

        def train(steps: int) -> None:
            for _ in range(steps):
                self._update(x0, x1)

        return warm(train, steps, self.device) | {"images": steps * len(x0)}

    def end(self, steps: int) -> dict[str, float]:
        batches = iter(plain.batches(self.dataset, self.settings, plain.ENDLESS))  # its workers end with this turn
        taken = warm(lambda n: self._loop(islice(batches, n)), steps, self.device, plain.ahead(self.settings))
        return taken | {"images": steps * self.settings["batch"], "peak_mb": peak_mb(self.device)}

    def _loop(self, batches: Iterable[Any], schedule: Any = None) -> None:
        """The inner loop of the example."""
        total_loss: Tensor | float = 0.0
        for batch in batches:
            x0, x1 = batch[0]
            total_loss = total_loss + self._update(x0.to(self.device), x1.to(self.device))
            if schedule is not None:
                schedule.step()

    def _update(self, x0: Tensor, x1: Tensor) -> Tensor:
        assert self.model is not None
        z0, p0 = self.model(x0)
        z1, p1 = self.model(x1)
        loss = 0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        found: Tensor = loss.detach()
        return found

    def train(self, epochs: int, out: str) -> dict[str, float]:
        """From the first weights on for so many epochs with a cosine; features to `out`."""
        assert self.model is not None
        torch.manual_seed(self.settings["seed"])
        loader = plain.batches(self.dataset, self.settings)
        steps = epochs * len(loader)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.model.train()
        taken = timed(lambda: [self._loop(loader, schedule) for _ in range(epochs)], self.device)[0]
        plain.save_features(self.model.backbone, self.settings, out)
        return taken | {"steps": steps}

    def knn(self, features: str, out: str, k: int, temperature: float) -> dict[str, float]:
        """The time of classifying all queries in pieces of 256, as a validation epoch does."""
        with np.load(features) as found:
            bank, queries = (
                torch.nn.functional.normalize(torch.from_numpy(found[f"x_{name}"])).to(self.device)
                for name in ("train", "test")
            )
            labels = torch.from_numpy(found["y_train"]).to(self.device)
        bank = bank.t().contiguous()
        classes = int(labels.max()) + 1

        def predict() -> Tensor:
            parts = queries.split(256)
            return torch.cat([knn_predict(part, bank, labels, classes, k, temperature)[:, 0] for part in parts])

        taken, predicted = timed(predict, self.device)
        np.save(out, predicted.cpu().numpy())
        return taken | {"images": len(queries)}

    def losses(self, embeddings: str) -> dict[str, float]:
        losses = {
            "negative cosine": NegativeCosineSimilarity(),
            "NT-Xent": NTXentLoss(temperature=0.5),
            "DCL": DCLLoss(temperature=0.5),
            "Barlow Twins": BarlowTwinsLoss(lambda_param=5e-3),
            "VICReg": VICRegLoss(),
        }
        return plain.values(losses, embeddings)
