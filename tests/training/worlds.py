"""What each process of test_world_sizes.py runs: a few steps of every method in float64 on its rows of fixed views.

Usage: torchrun --nproc-per-node=W worlds.py OUT. Rank 0 writes losses, averaged gradients and final buffers.
"""

import dataclasses
import os
import sys

import torch
import torch.distributed as dist
from torch import nn

from siamscope import methods, networks
from siamscope.row import Head, Method
from siamscope.training.distributed import World
from siamscope.training.siamese import Siamese

BATCH, STEPS = 16, 3


def rows() -> dict[str, Method]:
    """Every row in small, from its loss and from its gradient, and some changed cells."""
    out = {}
    for name, row in methods.METHODS.items():
        small = dataclasses.replace(
            row, projector=Head(layers=2, hidden=12, out=6), predictor_head=Head(layers=2, hidden=5),
            bank=64 if row.bank else 0, prototypes=10, slices=7,
            predictor_options=dataclasses.replace(row.predictor_options, every=2),
        )  # fmt: skip
        out[name] = small
    for name in list(out):
        out[f"{name}-gradient"] = dataclasses.replace(out[name], objective_form="gradient")
    out["composed"] = dataclasses.replace(
        out["unigrad"], objective="composed", objective_form="gradient", positive="byol", negative="simclr"
    )
    out["simsiam-optimal"] = dataclasses.replace(out["simsiam"], predictor="optimal")
    out["simsiam-symmetric"] = dataclasses.replace(out["simsiam"], predictor="symmetric")
    out["simsiam-bias"] = dataclasses.replace(out["simsiam"], predictor="linear", predictor_bias=True)
    out["byol-symmetric-mlp"] = dataclasses.replace(out["byol"], predictor="symmetric-mlp")
    out["unigrad-batch"] = dataclasses.replace(out["unigrad"], normalise="batch", rho=0.0)
    for name, method, kind in (
        ("simsiam-isotropic", "simsiam", "isotropic"),
        ("simclr-variance", "simclr", "variance"),
    ):
        head = Head(layers=2, hidden=12, out=6, last_norm="batch-no-affine")
        out[name] = dataclasses.replace(out[method], projector=head, regulariser=kind, regulariser_weight=0.5)
        out[f"{name}-gradient"] = dataclasses.replace(out[name], objective_form="gradient")
    return out


def views(step: int) -> list[torch.Tensor]:
    """Two global views and a local one of the whole batch."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 2, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, BATCH, 3, 2, 2, generator=generator, dtype=torch.float64)
    return [images + 0.3 * n for n in noise]


def run(row: Method, world: World) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = Siamese(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), 10, row, world.group()).double().train()
    if world.size > 1:
        networks.convert_sync_batchnorm(model)
    share = BATCH // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    out = {}
    for step in range(STEPS):
        model.zero_grad()
        loss = model([view[mine] for view in views(step)])
        loss.backward()
        model.commit()
        out[f"loss {step}"] = world.mean(loss.detach())
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.grad is not None:
                    p.grad = world.mean(p.grad)
                    out[f"{step} {name}"] = p.grad.clone()
                    p -= 0.05 * p.grad
        model.follow(0.9)
    return out | {f"state {name}": value.clone() for name, value in model.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    world = World()
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        world = World(dist.get_rank(), dist.get_world_size())
    found = {name: run(row, world) for name, row in rows().items()}
    if world.first:
        torch.save(found, sys.argv[1])
    if dist.is_initialized():
        dist.destroy_process_group()
