"""The toy of `tests/gradients/toy.py`, the whole grid: which gradients learn, which collapse, and what decides it.

    python benchmarks/toy.py --seeds 5

Every method with and without momentum target; UniGrad over rho and over the balance; the alignment of other methods'
gradients with UniGrad's along its run. Mean and standard deviation over the seeds (of data, weights and views).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from siamscope.workflow import environment

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "gradients"))
import toy

RHO = (0.0, 0.9, 0.99)
SHARES = (0.02, 0.05, 0.094, 0.19, 0.39, 1.0)
STEPS = (0, 30, 100, 299)


def one(job: tuple[str, Any, bool, int]) -> Any:
    torch.set_num_threads(1)
    kind, what, momentum, seed = job
    if kind == "alignment":
        return toy.alignment(momentum=momentum, seed=seed, at=STEPS)
    if kind == "init":
        found = toy.run("none", momentum=False, seed=seed, settings=replace(toy.Settings(), steps=0))
    elif kind == "method":
        found = toy.run(what, momentum=momentum, seed=seed)
    else:
        rho, share = what
        found = toy.run(toy.unigrad(rho, share * toy.WIDTH), momentum=momentum, seed=seed)
    return [found.knn, found.rank, found.similarity]


def summary(values: Sequence[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    figures = {"mean": statistics.fmean(values), "sd": spread, "low": min(values), "high": max(values)}
    return {name: round(value, 4) for name, value in figures.items()}


def table(run: Callable[[list[Any]], list[Any]], kind: str, whats: Sequence[Any], seeds: int) -> list[dict[str, Any]]:
    """A row for every setting, with and without momentum."""
    rows = []
    for what in whats:
        for momentum in (False, True):
            found = run([(kind, what, momentum, seed) for seed in range(seeds)])
            names = ("knn", "effective_rank", "positive_similarity")
            figures = {name: summary(column) for name, column in zip(names, zip(*found, strict=True), strict=True)}
            rows.append({kind: what, "momentum": momentum} | figures)
            print(kind, what, "momentum" if momentum else "-", figures["knn"], flush=True)
    return rows


def aligned(run: Callable[[list[Any]], list[Any]], seeds: int) -> list[dict[str, Any]]:
    rows = []
    for momentum in (False, True):
        found = run([("alignment", None, momentum, seed) for seed in range(seeds)])
        for step in STEPS:
            for part in ("negative", "total"):
                cosines = {name: summary([f[step][part][name] for f in found]) for name in found[0][step][part]}
                rows.append({"momentum": momentum, "step": step, "part": part} | cosines)
                print("alignment", momentum, step, part, {n: (c["low"], c["high"]) for n, c in cosines.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/toy.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    args = parser.parse_args()
    start = time.monotonic()
    with ProcessPoolExecutor(args.jobs) as pool:

        def run(jobs: list[Any]) -> list[Any]:
            return list(pool.map(one, jobs))

        result = {
            "init_knn": summary([knn for knn, _, _ in run([("init", None, False, s) for s in range(args.seeds)])]),
            "methods": table(run, "method", list(toy.forms()), args.seeds),
            "alignment": aligned(run, args.seeds),
            "rho_and_lambda_over_d": table(
                run,
                "unigrad",
                [(rho, 0.094) for rho in RHO] + [(0.99, share) for share in SHARES if share != 0.094],
                args.seeds,
            ),
        }
    about = environment.describe(torch.device("cpu")) | {"date": environment.now()}
    head = {"machine": about, "seeds": args.seeds, "minutes": round((time.monotonic() - start) / 60, 1)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(head | {"settings": vars(toy.Settings())} | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
