"""Data and judgements, in siamscope's environment: the same images and features for all, votes compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation import problem
from PIL import Image
from torch import Tensor

from peers_.clock import timed
from siamscope.data import DataConfig, channel_stats, open_dataset
from siamscope.evaluation import knn


class Side:
    """The tasks; see `peers_.worker`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings.get("threads", 1))

    def prepare(self, source: str, cache: str, samples: int, out: str) -> dict[str, Any]:
        """Images of `source` as (N, 32, 32, 3) uint8 with labels, in one .npz; their mean and deviation."""
        # A folder is read as it is: a sample of its images is drawn below.
        asked = samples + 64 if source == "shapes" else 0
        dataset = open_dataset(DataConfig(source=source, size=32, samples=asked, cache_dir=cache))
        test = dataset.test or dataset.val
        found, rng = {}, np.random.default_rng(0)
        for name, part, most in (("train", dataset.train, samples), ("val", dataset.val, 64), ("test", test, 2000)):
            rows = np.sort(rng.permutation(len(part))[:most])
            if part.labels is None:
                raise ValueError("the data need labels: CLASS/ folders")
            found |= {f"x_{name}": part.read(rows).transpose(0, 2, 3, 1), f"y_{name}": part.labels[rows]}
        np.savez(out, **found)
        mean, std = channel_stats(dataset.train)
        return {"mean": list(mean), "std": list(std), "images": len(found["x_train"]), "name": dataset.name}

    def features(self, bank: int, queries: int, dim: int, decay: float, out: str) -> dict[str, int]:
        """Features like an encoder's (`evaluation.problem`), and embeddings for the losses."""
        sizes = {"train": (bank, 1), "test": (queries, 2), "val": (max(queries // 2, 100), 3)}
        found = {}
        for split, (count, seed) in sizes.items():
            x, y = problem(count, dim, seed, decay)
            found |= {f"x_{split}": x.numpy(), f"y_{split}": y.numpy()}
        np.savez(out, **found)
        return {"bank": bank, "queries": queries, "dim": dim}

    def embeddings(self, out: str) -> dict[str, int]:
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(256, 128, generator=generator)
        b = a + 0.5 * torch.randn(256, 128, generator=generator)
        np.savez(out, a=a.numpy(), b=b.numpy())
        return {"batch": 256, "dim": 128}

    def votes(self, features: str, one: str, other: str, k: int, temperature: float) -> dict[str, Any]:
        """How many predictions differ, and how many of those are no ties.

        A tie: in float64, the two classes' votes differ by less than 1e-4 of the larger, or neighbours k and k + 1 by
        less than 1e-6, which float32 similarities cannot tell apart. Beside it, how many of those that differ have
        float64's prediction on either side.
        """
        with np.load(features) as found:
            bank, queries = (torch.from_numpy(found[f"x_{s}"]).double() for s in ("train", "test"))
            labels = torch.from_numpy(found["y_train"])
        first, second = (torch.from_numpy(np.load(path)) for path in (one, other))
        unlike = (first != second).nonzero()[:, 0]
        if not len(unlike):
            return {"queries": len(first), "differ": 0, "no_ties": 0, "first_as_float64": 0, "second_as_float64": 0}
        bank, chosen = (torch.nn.functional.normalize(x) for x in (bank, queries[unlike]))
        values, nearest = (chosen @ bank.T).topk(k + 1)
        edge, values, nearest = values[:, k - 1] - values[:, k], values[:, :k], nearest[:, :k]
        votes = torch.zeros(len(unlike), int(labels.max()) + 1, dtype=torch.float64)
        votes.scatter_add_(1, labels[nearest], (values / temperature).exp())
        a, b = (votes.gather(1, p[unlike][:, None])[:, 0] for p in (first, second))
        gap: Tensor = (a - b).abs() / torch.maximum(a, b)
        best = votes.argmax(1)
        return {
            "queries": len(first),
            "differ": len(unlike),
            "no_ties": int(((gap > 1e-4) & (edge > 1e-6)).sum()),
            "first_as_float64": int((first[unlike] == best).sum()),
            "second_as_float64": int((second[unlike] == best).sum()),
        }

    def judge(self, features: str, k: int) -> dict[str, float]:
        """k-NN accuracy of stored features, the same judge for all."""
        with np.load(features) as found:
            parts = [torch.from_numpy(found[f"{axis}_{split}"]) for split in ("train", "test") for axis in "xy"]
        return {"knn": knn(*parts, ks=(k,)).accuracy[k]}

    def untrained(self, data: str, mean: list[float], std: list[float], weights: str, out: str) -> dict[str, float]:
        from peers_ import plain

        settings = {"backbone": "resnet8", "weights": weights, "data": data, "mean": mean, "std": std, "device": "cpu"}
        plain.save_features(plain.backbone(settings), settings, out)
        return {}

    def files(self, data: str, folder: str, count: int) -> dict[str, int]:
        """`count` JPEG files of the images, in CLASS/ folders, unless they are there."""
        root = Path(folder)
        done = root / "done"
        if not done.exists():
            with np.load(data) as found:
                images, labels = found["x_train"], found["y_train"]
            for number in range(count):
                row = number % len(images)
                path = root / "images" / str(labels[row]) / f"{number:06}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[row]).save(path, quality=80)
            done.touch()
        return {"files": count}

    def open(self, folder: str, cache: str) -> dict[str, Any]:
        """Open a folder of image files, as a run does when it starts."""
        taken, dataset = timed(lambda: open_dataset(DataConfig(source=folder, size=32, cache_dir=cache)), "cpu")
        parts = (dataset.train, dataset.val, dataset.test)
        return taken | {"images": sum(len(part) for part in parts if part), "fingerprint": dataset.fingerprint}
