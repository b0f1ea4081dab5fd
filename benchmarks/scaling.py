"""How near the simulator of `siamscope scaling` comes to two processes: gloo's latency and bandwidth, then real steps.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

Two processes time all-reduce and all-gather of 16 bytes to 16 MB; latency and bandwidth are fitted on the logarithm of
the times; and what a small call adds between two computations, where a process has to be woken. Then both take, in
turn, a step in silence (the same computation, every call answered by the process itself) and a step with its exchange.
The difference of the medians is what the exchange costs, beside what the simulator says from the count, the fitted link
and the silent step. The load of the machine stands in the result: on a busy one the waits for the other process exceed
every model.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from siamscope import methods, networks
from siamscope.training import traffic
from siamscope.training.build import distributed
from siamscope.training.distributed import World
from siamscope.training.scaling import Cluster, Exchange, Link, step
from siamscope.training.siamese import Siamese
from siamscope.workflow import environment

SILENT = False
"""Whether the calls of a step are answered at once by the process itself."""
SIZES = tuple(4**k for k in range(2, 13))
METHODS = ("simsiam", "simclr", "unigrad", "barlow", "vicreg")
BACKBONE, PIXELS = "resnet8", 32


def hushable() -> None:
    """Let `all_reduce` and `all_gather` do nothing of note while SILENT."""
    all_reduce, all_gather = dist.all_reduce, dist.all_gather

    def reduce(tensor: torch.Tensor, *args: Any, **more: Any) -> Any:
        return None if SILENT else all_reduce(tensor, *args, **more)

    def gather(parts: list[torch.Tensor], tensor: torch.Tensor, *args: Any, **more: Any) -> Any:
        return [part.copy_(tensor) for part in parts] if SILENT else all_gather(parts, tensor, *args, **more)

    dist.all_reduce, dist.all_gather = reduce, gather


def gradients(_state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The mean over processes of a bucket of gradients, or the bucket itself while SILENT."""
    if SILENT:
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done
    group = dist.distributed_c10d._get_default_group()
    return group.allreduce([bucket.buffer().div_(2)]).get_future().then(lambda found: found.value()[0])


def seconds(work: Callable[[], Any], repeats: int, of: int = 1) -> float:
    """Median of `repeats` times of a call, `of` calls each, started by both processes together."""
    found = []
    for _ in range(repeats):
        dist.barrier()
        started = time.perf_counter()
        for _ in range(of):
            work()
        found.append((time.perf_counter() - started) / of)
    return statistics.median(found)


def collectives(repeats: int) -> list[dict[str, Any]]:
    """Seconds of a call by kind and bytes that a process gives."""
    out = []
    for size in SIZES:
        tensor = torch.zeros(size // 4)
        parts = [torch.empty_like(tensor) for _ in range(2)]
        several = 20 if size < 2**20 else 2
        reduce = seconds(lambda t=tensor: dist.all_reduce(t), repeats, several)
        gather = seconds(lambda t=tensor, p=parts: dist.all_gather(p, t), repeats, several)
        out += [{"kind": "all_reduce", "bytes": size, "seconds": reduce}]
        out += [{"kind": "all_gather", "bytes": size, "seconds": gather}]
    return out


def latency_at_work(repeats: int) -> float:
    """Seconds that a small all-reduce adds where both processes compute for some milliseconds between two calls."""
    matrix, small = torch.randn(384, 384), torch.zeros(64)

    def work() -> None:
        matrix @ matrix

    def both() -> None:
        work()
        dist.all_reduce(small)

    found = [seconds(both, 1, 20) - seconds(work, 1, 20) for _ in range(repeats)]
    return max(statistics.median(found) / 2, 1e-6)  # an all-reduce of two is two messages


def fitted(measured: list[dict[str, Any]]) -> Link:
    """Latency and bandwidth with the least squares of relative errors, over a grid of both."""

    def error(latency: float, bandwidth: float) -> float:
        cluster = Cluster(Link(latency, bandwidth), Link(latency, bandwidth), 2)
        says = [cluster.seconds(Exchange("embeddings", m["kind"], "forward", m["bytes"]), 2) for m in measured]
        return sum(np.log(s / m["seconds"]) ** 2 for s, m in zip(says, measured, strict=True))

    grid = ((a, b) for a in np.geomspace(1e-6, 1e-2, 161) for b in np.geomspace(1e7, 1e11, 161))
    latency, bandwidth = min(grid, key=lambda pair: error(*pair))
    return Link(float(latency), float(bandwidth))


def stepper(name: str, world: World, batch: int, dim: int) -> tuple[Callable[[], None], traffic.NetworkSize]:
    """A step of a method, forward, backward and what it keeps."""
    row = replace(methods.get(name), projector=methods.Head(layers=2, hidden=512, out=dim))
    torch.manual_seed(0)
    body = networks.create(BACKBONE, stem="cifar", input_size=PIXELS)
    model = Siamese(body, body.feature_dim, row, world.group()).train()
    size = traffic.size_of(model)
    networks.convert_sync_batchnorm(model)
    called = distributed(model, world)
    called.register_comm_hook(None, gradients)
    views = list(torch.randn(2, batch, 3, PIXELS, PIXELS))

    def once() -> None:
        model.zero_grad()
        called(views).backward()
        model.commit()
        model.follow(0.99)

    return once, size


def steps(name: str, pair: World, batch: int, dim: int, repeats: int, by: Link, at_work: Link) -> dict[str, Any]:
    """A step in silence and with its exchange, in turn, and what the simulator says of the difference."""
    global SILENT
    once, size = stepper(name, pair, batch, dim)
    once()
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for SILENT in times:
            times[SILENT].append(seconds(once, 1))
    SILENT = False
    compute, both = (statistics.median(times[key]) for key in (True, False))
    found = traffic.exchanges(size, 2, batch)
    said, busy = (step(found, 2, compute, Cluster(link, link, 2)).seconds - compute for link in (by, at_work))
    return {
        "method": name, "batch": batch, "dim": dim, "calls": sum(e.times for e in found),
        "sent_bytes": sum(traffic.total(found, 2).values()), "silent_ms": 1e3 * compute, "step_ms": 1e3 * both,
        "exchange_ms": 1e3 * (both - compute), "simulated_exchange_ms": 1e3 * said,
        "simulated_at_work_ms": 1e3 * busy, "step_error": (compute + said) / both - 1,
        "step_error_at_work": (compute + busy) / both - 1,
    }  # fmt: skip


def of_rank(rank: int, store: Path, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    hushable()
    measured = collectives(options.repeats)
    by = fitted(measured)
    at_work = Link(latency_at_work(options.repeats), by.bandwidth)
    cases = [(name, options.batch, dim) for name in METHODS for dim in options.dims]
    found = [steps(name, World(rank, 2), batch, dim, options.repeats, by, at_work) for name, batch, dim in cases]
    if rank == 0:
        worst = max(abs(np.log(_said(by, m) / m["seconds"])) for m in measured)
        result = {
            "machine": environment.describe(torch.device("cpu"), 2) | {"load": os.getloadavg()[0]},
            "latency_us": 1e6 * by.latency, "latency_at_work_us": 1e6 * at_work.latency,
            "bandwidth_GB_s": by.bandwidth / 1e9,
            "worst_factor_of_a_call": float(np.exp(worst)), "calls": measured, "steps": found,
        }  # fmt: skip
        store.with_suffix(".json").write_text(json.dumps(result, indent=1))
    dist.barrier()
    dist.destroy_process_group()


def _said(by: Link, m: dict[str, Any]) -> float:
    return Cluster(by, by, 2).seconds(Exchange("embeddings", m["kind"], "forward", m["bytes"]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 2048])
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        of_rank(options.rank, options.store, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "pair"
        more = ["--store", str(store), "--repeats", str(options.repeats), "--batch", str(options.batch), "--dims"]
        command = [sys.executable, __file__, *more, *map(str, options.dims), "--rank"]
        ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
        if sum(rank.wait() for rank in ranks):
            raise SystemExit("a process failed")
        result = json.loads(store.with_suffix(".json").read_text())
    result["machine"]["command"] = " ".join(["scaling.py", *sys.argv[1:]])
    print(
        f"latency {result['latency_us']:.0f} us ({result['latency_at_work_us']:.0f} us between computations), "
        f"{result['bandwidth_GB_s']:.2f} GB/s, a call within a factor "
        f"{result['worst_factor_of_a_call']:.2f}, load {result['machine']['load']:.1f}"
    )
    for s in result["steps"]:
        print(
            f"{s['method']:<8} d={s['dim']:<5} silent {s['silent_ms']:7.1f} ms, step {s['step_ms']:7.1f} ms: "
            f"exchange {s['exchange_ms']:6.1f} ms, simulated {s['simulated_exchange_ms']:6.1f} ms, "
            f"step {100 * s['step_error']:+.0f} %; with the latency between computations "
            f"{s['simulated_at_work_ms']:6.1f} ms, {100 * s['step_error_at_work']:+.0f} %"
        )
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
