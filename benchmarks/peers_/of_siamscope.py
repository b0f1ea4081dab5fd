"""siamscope as `siamscope train` builds it: the recipe's probe of number formats, its loader and trainer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from throughput import pillow_view
from torch import Tensor
from torch.nn import functional as F

from peers_ import plain
from peers_.clock import peak_mb, timed, warm
from siamscope import methods
from siamscope.data import DataConfig, Loader, open_dataset
from siamscope.evaluation import knn, linear_probe
from siamscope.objectives import create
from siamscope.recipe import Recipe
from siamscope.training import compile as compiling
from siamscope.training import machine
from siamscope.training.build import Normalisation, build_trainer
from siamscope.training.distributed import World
from siamscope.training.precision import Precision
from siamscope.training.step import seeded
from siamscope.views import make_views
from siamscope.workflow.choices import with_number_format
from siamscope.workflow.ordering import build_order, steps_per_epoch

Colour = Literal["exact", "fast"]


def recipe_of(settings: dict[str, Any], epochs: float) -> Recipe:
    """SimSiam as the table has it (heads of 2048), SGD with rate 0.06 for 256 images, a cosine, decay 5e-4."""
    base = Recipe(method=methods.get("simsiam"))
    data = DataConfig(source=settings["data"], size=32)
    train = replace(base.train, batch_size=settings["batch"], seed=settings["seed"], epochs=epochs)
    if settings.get("plain"):  # as the libraries' own loops
        train = replace(train, precision="fp32", channels_last="off")
    return replace(
        base,
        data=data,
        network=replace(base.network, backbone=settings["backbone"], zero_init_residual=True),
        train=replace(train, device=settings["device"], compile=settings.get("compile", "off")),
    )


class Side:
    """The tasks; see `peers_.worker`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings.get("threads", 1))
        machine.keep_memory()
        self.settings, self.device = settings, settings.get("device", "cpu")

    def start(self, epochs: float = 200) -> dict[str, Any]:
        """Build everything; what was chosen for this machine."""
        world = World(device=torch.device(self.device))
        dataset = open_dataset(DataConfig(source=self.settings["data"], size=32))
        norm = Normalisation(tuple(self.settings["mean"]), tuple(self.settings["std"]))
        recipe, timings = with_number_format(recipe_of(self.settings, epochs), 3, world)
        precision = Precision(recipe.train.precision == "bf16", recipe.train.channels_last == "on")
        per_epoch = steps_per_epoch(recipe, dataset)
        self.trainer = build_trainer(recipe, 3, per_epoch, norm, world, precision)
        choice = compiling.choose(recipe.train.compile, self.trainer, self.trainer.steps)
        order, source = build_order(recipe, dataset, self.trainer.steps)
        self.loader = Loader(source, order, device=world.device)
        self.done = 0
        if self.settings.get("pillow"):
            self._through_pillow()
        self._steps(1)
        about = {"precision": precision.name, "channels_last": precision.channels_last, "probe_seconds": timings}
        return about | {"compiled": choice.compiled, "compile": choice.reason, "compile_seconds": choice.seconds}

    def _through_pillow(self) -> None:
        """Views one at a time, as in `of_pil`, with the rest as it is."""
        rng, specs = np.random.default_rng(0), self.trainer.specs

        def one_by_one(images: Tensor, _: torch.Generator) -> list[Tensor]:
            pillow = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.cpu()]
            return [torch.stack([pillow_view(i, spec, rng) for i in pillow]).to(images.device) for spec in specs]

        self.trainer.make_views = one_by_one  # type: ignore[method-assign]

    def draw(self, out: str) -> dict[str, float]:
        """The first weights of the backbone to `out`; how far the plain network's features are from siamscope's."""
        from siamscope.training.build import build_backbone

        drawn = build_backbone(recipe_of(self.settings, 1), 3).eval()
        torch.save(drawn.state_dict(), out)
        same = plain.backbone(self.settings | {"weights": out}).eval()
        images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return {"largest_difference": float((drawn(images) - same(images)).abs().max())}

    def views(self, count: int, colour: Colour = "exact") -> dict[str, float]:
        """Batches of 256, as the issue's other figures; in buffers that are kept, as in a loop."""
        images = self.loader.batch(0)[0]
        images = images.repeat(math.ceil(256 / len(images)), 1, 1, 1)[:256]
        trainer, rounds = self.trainer, max(1, count // 256)
        kept = [torch.empty(images.shape, device=images.device) for _ in trainer.specs]

        def make(rounds: int) -> None:
            for number in range(rounds):
                generator = seeded(0, number, 0)
                make_views(
                    images, trainer.specs, generator, colour=colour, mean=trainer.mean, std=trainer.std, out=kept
                )

        return warm(make, rounds, self.device) | {"images": rounds * 256}

    def step(self, steps: int) -> dict[str, float]:
        trainer, images = self.trainer, self.loader.batch(0)[0]
        batch = trainer.make_views(images, torch.Generator().manual_seed(0))
        trainer.make_views = lambda *_: batch  # type: ignore[method-assign]

        def train(steps: int) -> None:
            for number in range(1, steps + 1):
                trainer.step(number, images)

        taken = warm(train, steps, self.device)
        del trainer.make_views
        return taken | {"images": steps * len(images)}

    def end(self, steps: int) -> dict[str, float]:
        taken = warm(self._steps, steps, self.device)
        return taken | {"images": steps * self.settings["batch"], "peak_mb": peak_mb(self.device)}

    def _steps(self, steps: int) -> None:
        losses = []
        for images, _ in self.loader.batches(self.done, self.done + steps):
            self.done += 1
            losses.append(self.trainer.step(self.done, images))
        if not torch.isfinite(torch.stack(losses)).all():
            raise RuntimeError("the loss is not finite")

    def train(self, epochs: int, out: str) -> dict[str, float]:
        torch.manual_seed(self.settings["seed"])
        self.start(epochs)
        self.done = 0
        taken = timed(lambda: self._steps(self.trainer.steps), self.device)[0]
        plain.save_features(self.trainer.model.online.backbone, self.settings, out)
        return taken | {"steps": self.trainer.steps}

    def knn(self, features: str, out: str, k: int, temperature: float) -> dict[str, float]:
        (x, y), (queries, truth) = self._features(features, "train", "test")

        def predict() -> Tensor:
            found = knn(x, y, queries, truth, ks=(k,), temperature=temperature, return_predictions=True)
            return found.predictions[k]

        taken, predicted = timed(predict, self.device)
        np.save(out, predicted.cpu().numpy())
        return taken | {"images": len(queries)}

    def probe(self, features: str) -> dict[str, Any]:
        train, val, test = self._features(features, "train", "val", "test")
        taken, found = timed(lambda: linear_probe(*train, *val, *test), self.device)
        return taken | {
            "top1": found.top1, "l2": found.l2, "converged": found.converged, "validation": list(found.validation),
        }  # fmt: skip

    def _features(self, path: str, *splits: str) -> list[tuple[Tensor, Tensor]]:
        with np.load(path) as found:
            return [
                tuple(torch.from_numpy(found[f"{axis}_{split}"]).to(self.device) for axis in "xy")  # type: ignore[misc]
                for split in splits
            ]

    def losses(self, embeddings: str) -> dict[str, float]:
        """The objectives on the same embeddings; where a library standardises otherwise, its way beside ours."""
        with np.load(embeddings) as found:
            a, b = (torch.from_numpy(found[name]) for name in ("a", "b"))
        unit = [F.normalize(x, dim=1) for x in (a, b)]
        batch = [F.batch_norm(x, None, None, training=True, eps=1e-5) for x in (a, b)]
        unbiased = [(x - x.mean(0)) / (x.std(0) + 1e-5) for x in (a, b)]

        def value(name: str, inputs: list[Tensor], **cells: Any) -> float:
            return float(create(name, cells, a.shape[1])(inputs, inputs))

        return {
            "negative cosine": value("asymmetric", unit),
            "NT-Xent": value("contrastive", unit, temperature=0.5),
            "DCL": value("contrastive", unit, temperature=0.5, decoupled=True),
            "Barlow Twins": value("decorrelation", batch, balance=5e-3),
            "Barlow Twins, unbiased": value("decorrelation", unbiased, balance=5e-3),
            "VICReg": value("covariance", [a, b]),
        }
