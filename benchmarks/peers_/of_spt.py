"""stable-pretraining as its documentation uses it: its transforms, dataset, Module and DataModule under Lightning.

Its `methods.SimSiam` gives the heads; `spt.Module` with a forward function trains them, as its examples do.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peers_ import plain
from peers_.clock import now, peak_mb, timed, warm

plain.define_vision_operators()

import lightning.pytorch as pl  # noqa: E402
import stable_pretraining as spt  # noqa: E402
from lightning.fabric.utilities import move_data_to_device  # noqa: E402
from stable_pretraining.callbacks import OnlineKNN  # noqa: E402
from stable_pretraining.data import transforms  # noqa: E402
from stable_pretraining.losses import BarlowTwinsLoss, NTXEntLoss, VICRegLoss  # noqa: E402
from stable_pretraining.losses.utils import NegativeCosineSimilarity  # noqa: E402
from stable_pretraining.methods.simsiam import _predictor, _projector  # noqa: E402


def simsiam(self: Any, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
    x0, x1 = (view["image"] for view in batch["views"])
    z0, z1 = (self.projector(self.backbone(x)) for x in (x0, x1))
    p0, p1 = self.predictor(z0), self.predictor(z1)
    return {"loss": (self.loss(p0, z1.detach()) + self.loss(p1, z0.detach())) / 2}


class Span(pl.Callback):
    """From the end of one batch (1-based) to the end of another: what Lightning takes to start and stop is left out,
    and so are the batches that loader workers made ahead."""

    def __init__(self, device: str, first: int, last: int) -> None:
        self.device, self.ends, self.done = device, (first, last), 0
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.done += 1
        if self.done in self.ends:  # a GPU is waited for at these only
            self.times.append(now(self.device))


class Side:
    """The tasks; see `peers_.worker`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings.get("threads", 1))
        torch.manual_seed(settings.get("seed", 0))
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self.settings, self.device = settings, settings.get("device", "cpu")

    def start(self) -> dict[str, Any]:
        s = self.settings
        view = transforms.Compose(
            transforms.RandomResizedCrop(32, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(p=0.5),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToImage(mean=s["mean"], std=s["std"]),
        )
        self.transform = transforms.MultiViewTransform([view, view])
        self.dataset = spt.data.FromTorchDataset(
            plain.Pictures(s["data"]), names=["image", "label"], transform=self.transform
        )
        self.backbone = plain.backbone(s)
        self.fixed = move_data_to_device(next(iter(plain.batches(self.dataset, s | {"workers": 0}))), self.device)
        self.module = self._module(1000)
        self._fit(self.module, [self.fixed], 1)
        return {}

    def _module(self, steps: int) -> Any:
        optimizer = {"type": "SGD", "lr": plain.rate(self.settings), "momentum": plain.MOMENTUM}
        return spt.Module(
            forward=simsiam, backbone=self.backbone, projector=_projector(self.backbone.feature_dim, 2048, 2048),
            predictor=_predictor(2048, 512), loss=NegativeCosineSimilarity(),
            optim={
                "optimizer": optimizer | {"weight_decay": plain.DECAY},
                "scheduler": {"type": "CosineAnnealingLR", "T_max": steps}, "interval": "step",
            },
        )  # fmt: skip

    def _fit(self, module: Any, batches: Any, steps: int, before: int = 1) -> float:
        """Train by Lightning for `steps` steps; the seconds of all but the `before` first."""
        span = Span(self.device, before, steps)
        trainer = pl.Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu" if self.device == "cpu" else "gpu", devices=1,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, limit_val_batches=0, callbacks=[span],
        )  # fmt: skip
        loader = batches
        if isinstance(batches, list):  # the same batch again and again
            loader = torch.utils.data.DataLoader(batches * (steps + 1), batch_size=None)
        trainer.fit(module, datamodule=spt.data.DataModule(train=loader))
        if trainer.global_step != steps:
            raise RuntimeError(f"Lightning did {trainer.global_step} steps of {steps}")
        return span.times[-1] - span.times[0]

    def views(self, count: int) -> dict[str, float]:
        if self.device != "cpu":
            return plain.views(
                self.dataset, self.settings, count, lambda batch: [view["image"] for view in batch["views"]]
            )

        def make(count: int) -> None:
            for index in range(count):
                self.dataset[index % len(self.dataset)]

        return warm(make, count, self.device) | {"images": count}

    def step(self, steps: int) -> dict[str, float]:
        return {"seconds": self._fit(self.module, [self.fixed], steps + 1), "images": steps * self.settings["batch"]}

    def end(self, steps: int) -> dict[str, float]:
        before = plain.ahead(self.settings)
        loader = plain.batches(self.dataset, self.settings, plain.ENDLESS)  # Lightning ends its workers with the fit
        seconds = self._fit(self.module, loader, steps + before, before)
        images = steps * self.settings["batch"]
        return {"seconds": seconds, "images": images, "peak_mb": peak_mb(self.device)}

    def train(self, epochs: int, out: str) -> dict[str, float]:
        torch.manual_seed(self.settings["seed"])
        loader = plain.batches(self.dataset, self.settings)
        steps = epochs * len(loader)
        module = self._module(steps)
        taken = timed(lambda: self._fit(module, loader, steps), self.device)[0]
        plain.save_features(module.backbone.to(self.device), self.settings, out)
        return taken | {"steps": steps}

    def knn(self, features: str, out: str, k: int, temperature: float) -> dict[str, float]:
        """Its online k-NN on the whole bank, by cosine; neighbours vote by 1 / (distance + temperature)."""
        with np.load(features) as found:
            bank, queries = (torch.from_numpy(found[f"x_{name}"]).to(self.device) for name in ("train", "test"))
            labels = torch.from_numpy(found["y_train"]).to(self.device)
        online = OnlineKNN(
            "knn", "embedding", "label", len(bank), {}, num_classes=int(labels.max()) + 1, k=k,
            temperature=temperature, distance_metric="cosine",
        )  # fmt: skip

        def predict() -> Tensor:
            parts = [online._compute_knn_predictions(part, bank, labels) for part in queries.split(256)]
            return torch.cat([part.argmax(1) for part in parts if part is not None])

        taken, predicted = timed(predict, self.device)
        np.save(out, predicted.cpu().numpy())
        return taken | {"images": len(queries)}

    def losses(self, embeddings: str) -> dict[str, float]:
        losses = {
            "negative cosine": NegativeCosineSimilarity(),
            "NT-Xent": NTXEntLoss(temperature=0.5),
            "Barlow Twins": BarlowTwinsLoss(lambd=5e-3),
            "VICReg": VICRegLoss(),
        }
        return plain.values(losses, embeddings)
