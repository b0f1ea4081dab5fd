"""One rank of the synchronised batch norm test; also the cases, which the test runs again on one process.

Usage: python sync_bn_worker.py RANK WORLD FOLDER
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from siamscope import networks

CHANNELS, STEPS = 5, 2


@dataclass(frozen=True)
class Case:
    split: tuple[int, int]  # local batch sizes
    tail: tuple[int, ...] = (3, 4)
    affine: bool = True
    momentum: float | None = 0.1
    dtype: torch.dtype = torch.float64
    offset: float = 0.0


CASES = {
    "maps, equal batches": Case((4, 4)),
    "maps, unequal batches": Case((3, 8)),
    "vectors, a rank of one": Case((1, 8), ()),
    "sequences, cumulative average": Case((3, 1), (6,), momentum=None),
    "no affine": Case((5, 2), affine=False),
    "an empty rank": Case((0, 6)),
    "float32 far from zero": Case((6, 3), dtype=torch.float32, offset=1e4),
}


def data(case: Case, step: int) -> tuple[Tensor, Tensor]:
    """Whole batch and the loss's gradient with respect to the output; ranks differ in mean and scale."""
    rng = torch.Generator().manual_seed(step)
    shape = (sum(case.split), CHANNELS, *case.tail)
    x = torch.randn(shape, generator=rng, dtype=torch.float64)
    x[: case.split[0]] = 3 * x[: case.split[0]] + 2
    return (x + case.offset).to(case.dtype), torch.randn(shape, generator=rng, dtype=torch.float64).to(case.dtype)


def plain_norm(case: Case) -> nn.Module:
    kind = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[len(case.tail)]
    norm = kind(CHANNELS, momentum=case.momentum, affine=case.affine).to(case.dtype)
    if case.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2.0, CHANNELS))
            norm.bias.copy_(torch.linspace(-1.0, 1.0, CHANNELS))
    return norm


def train(norm: nn.Module, case: Case, rows: slice) -> dict[str, Any]:
    """Outputs, gradients and buffers after `STEPS` steps on those rows of each batch, and one output in eval mode."""
    out: dict[str, Any] = {"y": [], "dx": []}
    for step in range(STEPS):
        x, g = (t[rows] for t in data(case, step))
        x.requires_grad_()
        y = norm(x)
        (y * g).sum().backward()
        out["y"].append(y.detach())
        out["dx"].append(x.grad)
    out["grads"] = [p.grad for p in norm.parameters()]
    out["buffers"] = dict(norm.state_dict())
    norm.eval()
    out["eval"] = norm(data(case, 0)[0]).detach()
    return out


def backbone_step(backbone: nn.Module, rows: slice) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(7)
    x = torch.randn(7, 3, 8, 8, generator=rng, dtype=torch.float64)[rows].requires_grad_()
    g = torch.randn(7, 64, generator=rng, dtype=torch.float64)[rows]
    y = backbone(x)
    (y * g).sum().backward()
    return {"y": y.detach(), "dx": x.grad, "grads": {n: p.grad for n, p in backbone.named_parameters()}}


def low_precision_step(norm: nn.Module, rows: slice, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    x, g = (torch.randn(8, CHANNELS, 4, 4, generator=rng).bfloat16()[rows].to(dtype) for _ in range(2))
    y = norm(x.requires_grad_())
    y.backward(g)
    return {"y": y.detach(), "dx": x.grad}


def make_backbone() -> nn.Module:
    torch.manual_seed(0)
    return networks.create("resnet8", zero_init_residual=False).double()


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        rows = slice(0, case.split[0]) if rank == 0 else slice(case.split[0], None)
        found[name] = train(networks.convert_sync_batchnorm(plain_norm(case)), case, rows)
    backbone = networks.convert_sync_batchnorm(make_backbone())
    found["backbone"] = backbone_step(backbone, slice(0, 2) if rank == 0 else slice(2, None))

    alone = [dist.new_group([r]) for r in range(world)][rank]
    case = CASES["maps, equal batches"]
    rows = slice(0, 4) if rank == 0 else slice(4, None)
    found["group of one"] = train(networks.convert_sync_batchnorm(plain_norm(case), alone), case, rows)

    found["bfloat16"] = low_precision_step(networks.SyncBatchNorm(CHANNELS), slice(4 * rank, 4 * rank + 4))
    norm = networks.SyncBatchNorm(CHANNELS)
    x, g = (t[4 * rank : 4 * rank + 4].float() for t in data(case, 0))
    (norm(x) * g).sum().backward()
    found["constant input"] = norm.weight.grad
    try:
        networks.SyncBatchNorm(CHANNELS)(torch.zeros(1 - rank, CHANNELS))
    except networks.NetworkError as error:
        found["one value"] = str(error)
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
