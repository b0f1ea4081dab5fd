"""What each method's objective and statistics cost beside a step of the network: ResNet-18, 32 pixels, batch 256.

    OMP_NUM_THREADS=2 python benchmarks/objectives.py --out benchmarks/results/objectives.json
    python benchmarks/objectives.py --device cuda

Step: forward and backward of two views through ResNet-18 (CIFAR stem), in the number format that the machine computes
fastest. Objective: everything between the embeddings and their gradient: statistics, a predictor that is set from them,
normalisation, loss, backward, memory bank; 2,048 dimensions (W-MSE: 64, because it needs fewer dimensions than
samples). Banks and prototypes of 4,096 as in the recipes for CIFAR-10, and as published. Median of the repetitions;
predictors set from statistics at every step and at every tenth. Memory: what autograd keeps for the backward plus
statistics and weights, less the same for SimSiam.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from siamscope import methods, networks
from siamscope.row import SET_BY_STATISTICS, Head, Method
from siamscope.training import precision as precisions
from siamscope.training.siamese import Siamese
from siamscope.workflow import environment

BATCH, WIDTH = 256, 2048
SMALL = 4096  # keys in a bank, prototypes: the settings of the CIFAR-10 recipes


def rows() -> dict[str, Method]:
    """Every row at the benchmark's width; DirectPred and its relatives also with rarer settings."""
    out: dict[str, Method] = {}
    for name, row in methods.METHODS.items():
        width = row.projector.out if row.objective == "whitening" else WIDTH
        full = replace(row, projector=Head(layers=1, out=width), predictor_head=Head(hidden=512))
        small = replace(full, bank=min(row.bank, SMALL), prototypes=min(row.prototypes, SMALL))
        out[name] = small
        if small != full:
            out[f"{name}, as published"] = full
        if row.predictor in SET_BY_STATISTICS:
            rarely = replace(row.predictor_options, every=10)
            out[f"{name}, every 10"] = replace(out[name], predictor_options=rarely)
    return out


def median_seconds(work: Callable[[], None], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def network_step(device: torch.device) -> tuple[Callable[[], None], str]:
    """Two views through ResNet-18, forward and backward, in the fastest format of this machine."""
    backbone = networks.create("resnet18", input_size=32).to(device)
    timer = precisions.step_timer(backbone, (64, 3, 32, 32), device)
    chosen, _ = precisions.choose("auto", "auto", timer)
    if chosen.channels_last:
        backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = [chosen.layout(torch.randn(BATCH, 3, 32, 32, device=device)) for _ in range(2)]

    def step() -> None:
        backbone.zero_grad()
        with chosen.autocast(device):
            loss = sum(backbone(view).float().square().mean() for view in views)
        torch.autograd.backward(loss)

    return step, f"bf16 {chosen.bf16}, channels_last {chosen.channels_last}"


class Part:
    """A method's step from embeddings to their gradient."""

    def __init__(self, row: Method, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = Siamese(nn.Flatten(), 8, row).to(device).train()
        z = torch.randn(2, BATCH, row.projector.out, device=device)
        self.z = [(z[0] + 0.3 * noise).requires_grad_() for noise in z]

    def step(self) -> None:
        for leaf in self.z:
            leaf.grad = None
        torch.autograd.backward(self.loss())
        self.model.commit()

    def loss(self) -> Tensor:
        model = self.model
        detached = [leaf.detach() for leaf in self.z]
        set_by_statistics = model.row.predictor in SET_BY_STATISTICS
        if set_by_statistics:
            model.predictor.prepare(detached, detached)
        p = [model.predictor(leaf) for leaf in self.z] if set_by_statistics else self.z
        online = [model.normalise(x) for x in p]
        shared = model.row.target == "shared"
        return model._loss(online, online if shared else [model.normalise(x) for x in detached], None)

    def megabytes(self) -> float:
        """Tensors that autograd keeps (each storage once, the embeddings left out), buffers and own weights."""
        known = {leaf.untyped_storage().data_ptr() for leaf in self.z}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        own = [*self.model.objective.buffers(), *self.model.objective.parameters()]
        if self.model.row.predictor in SET_BY_STATISTICS:
            own += [*self.model.predictor.buffers(), *self.model.predictor.parameters()]
        for tensor in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        del loss
        return sum(kept.values()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated names")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/objectives.json"))
    args = parser.parse_args()
    device = torch.device(args.device)
    work, fastest = network_step(device)
    step = median_seconds(work, device, args.repeats)
    print(f"ResNet-18 step: {step:.3f} s ({fastest})", flush=True)
    results: list[dict[str, Any]] = []
    reference = Part(rows()["simsiam"], device).megabytes()
    for name, row in rows().items():
        if args.only and name.split(",")[0] not in args.only.split(","):
            continue
        part = Part(row, device)
        if name.endswith("every 10"):  # the mean of ten steps, since one in ten does the work
            seconds = median_seconds(lambda part=part: [part.step() for _ in range(10)], device, 1) / 10  # type: ignore[misc]
        else:
            seconds = median_seconds(part.step, device, args.repeats)
        line = {
            "method": name, "width": row.projector.out, "seconds": round(seconds, 5), "share": round(seconds / step, 4),
            "extra_megabytes": round(part.megabytes() - reference, 1),
        }  # fmt: skip
        results.append(line)
        print(
            f"{name:<22} {1000 * seconds:9.2f} ms  {100 * seconds / step:6.2f} % of the step  "
            f"{line['extra_megabytes']:8.1f} MB",
            flush=True,
        )
    report = {
        "command": " ".join(["python", *sys.argv]), "machine": environment.describe(device, 1),
        "date": environment.now(), "batch": BATCH, "step_seconds": step, "format": fastest, "rows": results,
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
