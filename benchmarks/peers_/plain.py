"""What the sides share that is no library's: the network in plain torch, the images, the training's figures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import library as operators

from peers_.clock import warm

NETWORKS = {"resnet8": (16, (1, 1, 1)), "resnet18": (64, (2, 2, 2, 2))}
MOMENTUM, DECAY = 0.9, 5e-4
Loss = Callable[[Tensor, Tensor], Tensor]


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return torch.relu_(self.bn2(self.conv2(out)).add_(shortcut))


class ResNet(nn.Module):
    """A ResNet with the stem for small images, (B, 3, H, W) -> (B, width); torchvision's key names, as siamscope's."""

    def __init__(self, name: str) -> None:
        super().__init__()
        width, depths = NETWORKS[name]
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        cin = width
        self.stages = len(depths)
        for stage, depth in enumerate(depths):
            cout, blocks = width * 2**stage, []
            for index in range(depth):
                blocks.append(Block(cin, cout, 2 if stage and index == 0 else 1))
                cin = cout
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.feature_dim = cin

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean(dim=(2, 3))


def backbone(settings: dict[str, Any]) -> ResNet:
    """The network with the weights that siamscope drew, so that all sides start alike."""
    network = ResNet(settings["backbone"])
    network.load_state_dict(torch.load(settings["weights"], weights_only=True))
    return network


def rate(settings: dict[str, Any]) -> float:
    """The learning rate: 0.06 for 256 images."""
    return 0.06 * float(settings["batch"]) / 256


Data = torch.utils.data.Dataset[Any]
Batches = torch.utils.data.DataLoader[Any]


def batches(
    data: Data, settings: dict[str, Any], epochs: int = 1, begin: Callable[[int], None] | None = None
) -> Batches:
    """Shuffled batches of `epochs` passes over the data in one iteration, so that loader workers do not start anew in
    between; those of a loader of one pass stay for the next. `begin`: called in each worker with its number."""
    workers = settings.get("workers", 0)
    return torch.utils.data.DataLoader(
        data, batch_size=settings["batch"], drop_last=True, num_workers=workers, worker_init_fn=begin,
        sampler=torch.utils.data.RandomSampler(data, num_samples=epochs * len(data)),  # type: ignore[arg-type]
        persistent_workers=workers > 0 and epochs == 1, pin_memory=settings.get("device") == "cuda",
    )  # fmt: skip


ENDLESS = 10_000
"""Passes of the loader that a speed is taken from."""


def ahead(settings: dict[str, Any]) -> int:
    """Steps before the clock starts: one, and as many as the loader workers are batches ahead, for what they made
    before the clock started would count."""
    return 1 + 2 * int(settings.get("workers", 0))


def views(data: Data, settings: dict[str, Any], count: int, of: Callable[[Any], list[Tensor]]) -> dict[str, float]:
    """What it takes to have both views of so many images on the GPU, by loader workers; `of`: the views of a batch."""
    loader, steps = iter(batches(data, settings, ENDLESS)), max(count // settings["batch"], 1)

    def make(steps: int) -> None:
        for batch in islice(loader, steps):
            for view in of(batch):
                view.to(settings["device"])

    return warm(make, steps, settings["device"], ahead(settings)) | {"images": steps * settings["batch"]}


class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Images as torchvision's CIFAR-10 hands them out: (Pillow image, or what `transform` makes of it, label)."""

    def __init__(self, path: str, split: str = "train") -> None:
        self.transform: Callable[[Any], Any] | None = None
        from PIL import Image

        with np.load(path) as found:
            self.images: NDArray[np.uint8] = found[f"x_{split}"]
            self.labels: NDArray[np.int64] = found[f"y_{split}"]
        self._open = Image.fromarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self._open(self.images[index])
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])


@torch.no_grad()
def save_features(network: nn.Module, settings: dict[str, Any], out: str) -> None:
    """Features of the normalised images of both splits, float32, into an .npz file."""
    device = settings["device"]
    network.eval()
    found = {}
    with np.load(settings["data"]) as data:
        for split in ("train", "test"):
            x = torch.from_numpy(data[f"x_{split}"]).permute(0, 3, 1, 2)
            mean, std = (torch.tensor(settings[key])[:, None, None] for key in ("mean", "std"))
            parts = [network(((part.float() / 255 - mean) / std).to(device)).float().cpu() for part in x.split(256)]
            found[f"x_{split}"], found[f"y_{split}"] = torch.cat(parts).numpy(), data[f"y_{split}"]
    np.savez(out, **found)


def define_vision_operators() -> None:
    """Let torchvision's wheel, which is linked to CUDA, import beside a CPU-only torch."""
    if torch.version.cuda:
        return
    for name in ("nms", "qnms"):
        operators.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def values(losses: dict[str, Loss], embeddings: str) -> dict[str, float]:
    """Every loss of the two views' embeddings in an .npz file."""
    with np.load(embeddings) as found:
        a, b = (torch.from_numpy(found[name]) for name in ("a", "b"))
    return {name: float(loss(a, b)) for name, loss in losses.items()}
