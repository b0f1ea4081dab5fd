"""What each process of test_traffic.py runs: a step of every row, in small, while its calls are written down.

Usage: traffic_world.py RANK OUT. Four processes, then the first two of them alone; rank 0 writes the calls.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from worlds import rows

from siamscope import networks
from siamscope.recipe import Recipe
from siamscope.training import distributed, traffic
from siamscope.training.build import Normalisation, build_trainer
from siamscope.training.build import distributed as parallel
from siamscope.training.distributed import World
from siamscope.training.precision import Precision
from siamscope.training.siamese import Siamese

BATCH = 16
CROPS = {2: 1, 4: 0}
"""Local crops of an image, by the number of processes."""
CALLS: list[list] = []


def cases(size: int) -> dict:
    """All rows among two processes; among four, only those that train from their loss."""
    return {name: row for name, row in rows().items() if size == 2 or row.objective_form == "loss"}


def record() -> None:
    """Write down the calls of siamscope's own modules: where from, what, and the bytes that this process gives."""
    all_reduce, all_gather = dist.all_reduce, dist.all_gather

    def source() -> str:
        return Path(sys._getframe(2).f_code.co_filename).stem

    def reduce(tensor, *args, **more):
        CALLS.append([source(), "all_reduce", tensor.nbytes])
        return all_reduce(tensor, *args, **more)

    def gather(parts, tensor, *args, **more):
        CALLS.append([source(), "all_gather", tensor.nbytes])
        return all_gather(parts, tensor, *args, **more)

    dist.all_reduce, dist.all_gather = reduce, gather


def gradients(_state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A hook of DistributedDataParallel that sums as it would, and writes the bytes down."""
    tensor = bucket.buffer()
    CALLS.append(["gradients", "all_reduce", tensor.nbytes])
    future = dist.distributed_c10d._get_default_group().allreduce([tensor / dist.get_world_size()]).get_future()
    return future.then(lambda done: done.value()[0])


def small(row, world: World, local: int) -> tuple[Siamese, list[torch.Tensor]]:
    """The row on a backbone with a batch norm, and views of this process's images."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10))
    model = Siamese(body, 10, row, world.group()).train()
    generator = torch.Generator().manual_seed(world.rank)
    images = torch.randn(2 + local, BATCH // world.size, 3, 2, 2, generator=generator)
    return model, list(images)


def one(row, world: World, local: int, deep: bool = False) -> list[list]:
    """The calls of a step; of the second one where it matters, because then buckets have their final order."""
    model, views = small(row, world, local)
    if deep:  # gradients of several buckets
        model.online.backbone.append(nn.Sequential(*[nn.Linear(10, 10) for _ in range(2)], nn.Linear(10, 300_000)))
        model.online.backbone.append(nn.Linear(300_000, 10))
    networks.convert_sync_batchnorm(model)
    wrapped = parallel(model, world)
    assert isinstance(wrapped, DistributedDataParallel)
    wrapped.register_comm_hook(None, gradients)
    for _ in range(1 + deep):
        CALLS.clear()
        model.zero_grad()
        wrapped(views).backward()
        model.commit()
        model.follow(0.9)
    return list(CALLS)


def counted(row, world: int, local: int) -> list[list]:
    """What `one` wrote down, by the count."""
    model, _ = small(row, World(), local)
    found = traffic.exchanges(traffic.size_of(model, local), world, BATCH // world)
    names = {"gradients": "gradients", "batch norm": "sync_bn"}
    return [[names.get(e.purpose, "distributed"), e.kind, e.size] for e in found for _ in range(e.times)]


def accumulated(world: World, parts: int) -> list[list]:
    """The calls of a step of the trainer, whose batch comes in parts."""
    base = Recipe(method=rows()["simsiam"])
    recipe = replace(
        base,
        data=replace(base.data, size=16),
        network=replace(base.network, width=0.25),
        train=replace(base.train, batch_size=BATCH, accumulate=parts, device="cpu"),
    )
    trainer = build_trainer(recipe, 3, 1, Normalisation((0.5,) * 3, (0.25,) * 3), world, Precision())
    assert isinstance(trainer.wrapped, DistributedDataParallel)
    trainer.wrapped.register_comm_hook(None, gradients)
    CALLS.clear()
    trainer.step(1, torch.randint(0, 256, (BATCH // world.size, 3, 16, 16), dtype=torch.uint8))
    return list(CALLS)


def two_ways(world: World) -> float:
    """The largest difference between the two gradients of a gather."""
    gradient = torch.randn(4 * world.size, 3, generator=torch.Generator().manual_seed(world.rank))
    ways = distributed.scattered(gradient), distributed.reduced(gradient)
    assert ways[0].shape == (4, 3)
    return float((ways[0] - ways[1]).abs().max())


def main(rank: int, out: Path) -> None:
    torch.set_num_threads(1)
    found = {}
    for size in (4, 2):
        if rank < size:
            dist.init_process_group("gloo", init_method=f"file://{out}.{size}", rank=rank, world_size=size)
            world = World(rank, size)
            apart = two_ways(world)
            calls = {name: one(row, world, CROPS[size]) for name, row in cases(size).items()}
            deep = one(rows()["simsiam"], world, 0, deep=True) if size == 2 else []
            parts = {parts: accumulated(world, parts) for parts in (1, 2, 4)} if size == 2 else {}
            found[size] = {"calls": calls, "deep": deep, "apart": apart, "parts": parts}
            dist.barrier()
            dist.destroy_process_group()
    if rank == 0:
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    record()
    main(int(sys.argv[1]), Path(sys.argv[2]))
