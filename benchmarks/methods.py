"""Every method with its shipped recipe on shapes and on Fashion-MNIST: the evidence for the default method.

    python benchmarks/methods.py --out benchmarks/results/methods.json

Chosen by k-NN on the validation split (drawn from the training images); the test figures stand beside it and choose
nothing. Runs go two at a time, one thread each; `minutes` is the wall time of such a run with its judgement.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from siamscope.methods import METHODS
from siamscope.rundir import read_jsonl
from siamscope.workflow import environment

DATA = ("shapes", "fashion-mnist")


def train(job: tuple[str, str, int], folder: Path) -> dict[str, Any]:
    """One run as a user starts it."""
    method, data, seed = job
    run = folder / f"{method}-{data}-{seed}"
    command = [sys.executable, "-m", "siamscope", "train", data, "--method", method, "--samples", "10000"]
    command += ["--seed", str(seed), "--precision", "bf16", "--train.channels-last", "on", "--device", "cpu"]
    command += ["--out", str(run), "--quiet", "--json"]
    start = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    row: dict[str, Any] = {
        "method": method,
        "data": data,
        "seed": seed,
        "minutes": round((time.monotonic() - start) / 60, 2),
    }
    if done.returncode:
        return row | {"error": done.stderr.strip().splitlines()[-1]}
    figures = json.loads(done.stdout)
    lines = read_jsonl(run / "metrics.jsonl")
    rates = sorted(line["images_per_second"] for line in lines if line["kind"] == "step")
    last = [line for line in lines if line["kind"] == "monitor"][-1]
    row |= {"verdict": figures["verdict"]["status"], "validation_knn": last["knn"], "auc": last["feature_auc"]}
    row |= {"effective_rank": last["feature_effective_rank"], "images_per_second": rates[len(rates) // 2]}
    row["test_knn"] = {name: max(found.values()) for name, found in figures["knn"].items()}
    row["test_linear"] = {name: found["top1"] for name, found in figures["probe"].items()}
    print(
        f"{method:<8} {data:<14} seed {seed}  validation k-NN {100 * last['knn']:.1f} %  {row['minutes']} min",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/methods.json"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    args = parser.parse_args()
    jobs = [(method, data, seed) for seed in range(args.seeds) for data in DATA for method in METHODS]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda job: train(job, Path(folder)), jobs))
    about = environment.describe(torch.device("cpu")) | {"date": environment.now()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": about, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
