"""Measure the `shapes` data set: drawing speed, and how far raw pixels, untrained networks and (on demand) labels get.

    python benchmarks/shapes.py [--supervised] [--out benchmarks/results/shapes.json]

Times are CPU seconds of one thread (time.process_time), so other programs on the machine hardly disturb them.
k-NN: bank of 10,000 images, 2,000 queries, k = 1, 5, 20, 200; the best of them is the one to quote. Raw pixels are
centred by each image's own mean, the stronger form.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamscope import networks
from siamscope.data.shapes import ShapesSpec, generate
from siamscope.evaluation.baselines import raw_pixels
from siamscope.evaluation.knn import knn

QUERIES_FROM = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supervised", action="store_true", help="also train a ResNet-8 with labels (minutes)")
    parser.add_argument("--epochs", type=int, default=15, help="of the supervised training")
    parser.add_argument("--train", type=int, default=10_000, help="images of the supervised training")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shapes.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine(), "command": "python " + " ".join(sys.argv)}
    result["images_per_second_per_core"] = {str(size): speed(size) for size in (32, 64, 128, 224)}
    bank, bank_labels = generate(np.arange(10_000), ShapesSpec())
    queries, query_labels = generate(np.arange(QUERIES_FROM, QUERIES_FROM + 2_000), ShapesSpec())

    def neighbours(encode: Callable[[np.ndarray], Tensor]) -> dict[str, float]:
        found = knn(encode(bank), bank_labels, encode(queries), query_labels)
        return {str(k): round(100 * accuracy, 2) for k, accuracy in found.accuracy.items()}

    result["knn_raw_pixels"] = neighbours(raw_pixels)
    result["knn_untrained_resnet8"] = [neighbours(partial(features, untrained(seed))) for seed in range(3)]
    if options.supervised:
        result["supervised_resnet8"] = supervised(options.train, options.epochs)
    print(json.dumps(result, indent=2))
    options.out.write_text(json.dumps(result, indent=2) + "\n")


def machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    return {"cpu": cpu, "cores": str(os.cpu_count()), "system": platform.system(), **versions}


def speed(size: int) -> float:
    """Images drawn in a CPU second, best of five."""
    count = max(64, 4_000_000 // size**2)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        generate(np.arange(count), ShapesSpec(size=size))
        best = min(best, time.process_time() - start)
    return round(count / best, 1)


def tensors(start: int, count: int) -> tuple[Tensor, Tensor]:
    images, labels = generate(np.arange(start, start + count), ShapesSpec())
    return torch.from_numpy(images).float() / 255, torch.from_numpy(labels)


def untrained(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return networks.create("resnet8", zero_init_residual=False).eval()


@torch.no_grad()
def features(net: nn.Module, images: np.ndarray) -> Tensor:
    centred = (torch.from_numpy(images).float() / 255 - 0.38) / 0.14
    return torch.cat([net(part) for part in centred.split(500)])


def supervised(count: int, epochs: int) -> dict[str, float | int]:
    """SGD, one-cycle rate, random flips; accuracy on images no index of which was trained on."""
    torch.manual_seed(0)
    images, labels = tensors(0, count)
    held_out, held_out_labels = tensors(QUERIES_FROM, 5_000)
    backbone = networks.create("resnet8")
    net = nn.Sequential(nn.BatchNorm2d(3, affine=False), backbone, nn.Linear(backbone.feature_dim, 10))
    net = net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = count // 128 * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=steps)
    start = time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(count)[: count // 128 * 128].split(128):
            batch = images[rows]
            flip = torch.rand(len(batch), 1, 1, 1) < 0.5
            batch = torch.where(flip, batch.flip(3), batch).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(net(batch).float(), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    seconds = time.process_time() - start
    net.eval()
    with torch.no_grad():
        predicted = torch.cat([net(part) for part in held_out.split(500)]).argmax(1)
    accuracy = round((predicted == held_out_labels).float().mean().item() * 100, 2)
    return {"accuracy": accuracy, "images": count, "epochs": epochs, "cpu_seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
