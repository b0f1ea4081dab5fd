"""What the regularisers do to SimSiam on synthetic vectors, healthy and ill, and what the CollapseMonitor costs.

    python benchmarks/remedies.py --seeds 2

The vectors, views and encoder are those of the collapse reference, section 6.1 (width 32, 4,096 vectors, batch 256), at
800 steps. Healthy: rate 0.1, weight decay 5e-4. Ill: rate 0.3, weight decay 4e-3. Figures of the backbone's features
and of the projector's output, in eval mode, on 4,000 new vectors. One thread.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamscope import collapse, methods
from siamscope.collapse.monitor import CollapseMonitor
from siamscope.row import Head
from siamscope.training.siamese import Siamese
from siamscope.workflow import environment

DIM, CLASSES, FEATURES, STEPS, BATCH, NOISE = 32, 10, 64, 800, 256, 0.35
RATES = {"healthy": (0.1, 5e-4), "ill": (0.3, 4e-3)}
TERMS = (("none", 0.0), ("variance", 0.1), ("variance", 1.0), ("isotropic", 0.03), ("isotropic", 0.1))
SCALE = torch.arange(1, DIM + 1).float().pow(-0.5)


def vectors(seed: int, n: int) -> Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed)) * SCALE


def classes(u: Tensor) -> Tensor:
    """The teacher's classes: a fixed random tanh network on whitened vectors."""
    g = torch.Generator().manual_seed(77)
    first, second = torch.randn(DIM, 64, generator=g), torch.randn(64, CLASSES, generator=g)
    return (torch.tanh(u / SCALE @ first / DIM**0.5) @ second).argmax(1)


def network(term: str, weight: float, width: int = 32) -> Siamese:
    layers: list[nn.Module] = []
    for inner, outer in ((DIM, width), (width, width), (width, FEATURES)):
        layers += [nn.Linear(inner, outer, bias=False), nn.BatchNorm1d(outer), nn.ReLU()]
    row = replace(
        methods.get("simsiam"), regulariser=term, regulariser_weight=weight,
        projector=Head(layers=3, hidden=64, out=64, last_norm="batch-no-affine", last_bias=False),
        predictor_head=Head(layers=2, hidden=16),
    )  # fmt: skip
    return Siamese(nn.Sequential(*layers), FEATURES, row)


def trained(kind: str, term: str, weight: float, seed: int) -> Siamese:
    torch.manual_seed(seed)
    (rate, decay), model = RATES[kind], network(term, weight)
    groups = [{"params": list(model.online.parameters())}, {"params": list(model.predictor.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=decay, foreach=True)
    data, g = vectors(seed + 1, 4096), torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / STEPS)) / 2  # the predictor's stays
        batch = data[torch.randint(0, len(data), (BATCH,), generator=g)]
        loss = model([batch + NOISE * torch.randn(batch.shape, generator=g) for _ in range(2)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def figures(model: Siamese) -> dict[str, float]:
    test = vectors(10**6, 4000)
    features = model.online.backbone(test)
    f, z = collapse.measure(features), collapse.measure(model.online.projector(features))
    return {
        "auc": f.auc, "effective_rank": f.effective_rank, "embedding_auc": z.auc,
        "embedding_rank": z.effective_rank, "embedding_std": z.embedding_std, "probe": probe(features, classes(test)),
    }  # fmt: skip


def probe(features: Tensor, labels: Tensor) -> float:
    """Ridge regression on 3,000 samples, accuracy on the others."""
    x = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    y = F.one_hot(labels, CLASSES).double()
    fit, rest = x[:3000], x[3000:]
    w = torch.linalg.solve(fit.T @ fit + 1e-2 * torch.eye(x.shape[1], dtype=torch.float64), fit.T @ y[:3000])
    return float(((rest @ w).argmax(1) == labels[3000:]).double().mean())


def monitor_cost(rows: int = 256, d: int = 512, rounds: int = 300) -> dict[str, float]:
    """Milliseconds of an update, least and median, and of a report."""
    z = torch.randn(rows, d)
    out: dict[str, float] = {}
    for dtype in ("float32", "float64"):
        monitor, spent = CollapseMonitor(d, dtype=dtype), []
        for _ in range(rounds):
            start = time.perf_counter()
            monitor.update(z)
            spent.append(1e3 * (time.perf_counter() - start))
        out |= {f"{dtype}_least_ms": min(spent), f"{dtype}_median_ms": statistics.median(spent)}
    start = time.perf_counter()
    monitor.vitals()
    return out | {"vitals_ms": 1e3 * (time.perf_counter() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("remedies.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", collapse.TooFewSamples)
    found: dict[str, Any] = {"machine": environment.describe(torch.device("cpu")), "monitor": monitor_cost()}
    print({name: round(value, 2) for name, value in found["monitor"].items()}, flush=True)
    found["regularisers"] = []
    for kind in RATES:
        for term, weight in TERMS:
            runs = [figures(trained(kind, term, weight, seed)) for seed in range(given.seeds)]
            line: dict[str, Any] = {"kind": kind, "term": term, "weight": weight, "runs": runs}
            line |= {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
            found["regularisers"].append(line)
            shown = "  ".join(f"{name} {line[name]:.3f}" for name in runs[0])
            print(f"{kind:<8} {term:<10} {weight:<5} {shown}", flush=True)
            given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
