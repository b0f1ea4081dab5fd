"""Measure the `shapes` data set: drawing speed, and how far raw pixels, untrained networks and (on demand) labels get.

    python benchmarks/shapes.py [--supervised] [--out benchmarks/shapes.json]

Times are CPU seconds of one thread (time.process_time), so other programs on the machine hardly disturb them.
k-NN: cosine similarity, votes weighted by exp(similarity / 0.1), bank of 10,000 images, 2,000 queries; the best of
k = 5, 20 and 200 is the one to quote.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamscope.data.shapes import ShapesSpec, generate

QUERIES_FROM = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supervised", action="store_true", help="also train a ResNet-8 with labels (minutes)")
    parser.add_argument("--epochs", type=int, default=15, help="of the supervised training")
    parser.add_argument("--train", type=int, default=10_000, help="images of the supervised training")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/shapes.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine(), "command": "python " + " ".join(sys.argv)}
    result["images_per_second_per_core"] = {str(size): speed(size) for size in (32, 64, 128, 224)}
    bank, bank_labels = tensors(0, 10_000)
    queries, query_labels = tensors(QUERIES_FROM, 2_000)
    result["knn_raw_pixels"] = knn(bank.flatten(1), bank_labels, queries.flatten(1), query_labels)
    result["knn_untrained_resnet8"] = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = resnet8().eval()
        result["knn_untrained_resnet8"].append(
            knn(features(net, bank), bank_labels, features(net, queries), query_labels)
        )
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


def knn(bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor) -> dict[str, float]:
    """Accuracy in per cent for each k."""
    similarity, index = (F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T).topk(200, dim=1)
    votes, accuracy = bank_labels[index], {}
    for k in (5, 20, 200):
        weight = (similarity[:, :k] / 0.1).exp()
        score = torch.zeros(len(queries), 10).scatter_add_(1, votes[:, :k], weight)
        accuracy[str(k)] = round((score.argmax(1) == query_labels).float().mean().item() * 100, 2)
    return accuracy


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.down(x))


def resnet8() -> nn.Sequential:
    """Three stages of 16, 32 and 64 channels, one block each; inputs in 0..1 are centred first."""
    centre = nn.BatchNorm2d(3, affine=False, momentum=0.0)  # in training it centres by the batch, else by these
    centre.load_state_dict(
        {"running_mean": torch.full((3,), 0.38), "running_var": torch.full((3,), 0.02)}, strict=False
    )
    stem = [centre, nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    stages = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    net = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net.to(memory_format=torch.channels_last)


@torch.no_grad()
def features(net: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([net(part.contiguous(memory_format=torch.channels_last)) for part in images.split(500)])


def supervised(count: int, epochs: int) -> dict[str, float | int]:
    """SGD, one-cycle rate, random flips; accuracy on images no index of which was trained on."""
    torch.manual_seed(0)
    images, labels = tensors(0, count)
    held_out, held_out_labels = tensors(QUERIES_FROM, 5_000)
    net = nn.Sequential(resnet8(), nn.Linear(64, 10))
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
    predicted = features(net.eval(), held_out).argmax(1)
    accuracy = round((predicted == held_out_labels).float().mean().item() * 100, 2)
    return {"accuracy": accuracy, "images": count, "epochs": epochs, "cpu_seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
