"""Methods with ResNet-18 on CIFAR-10 on a GPU: images a second, and k-NN after a given number of epochs.

    python benchmarks/gpu.py CIFAR_FOLDER --epochs 20 --out benchmarks/results/gpu.json
    python benchmarks/gpu.py CIFAR_FOLDER --epochs 15 --methods all

The recipes are the published ones (`NAME-cifar10`) with their cosine shortened to `--epochs`. A run that fails is
reported in its line. Other options go to `siamscope train` (a trial without a GPU: `--device cpu --steps 2 --samples
1024 --batch-size 64`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from siamscope.methods import METHODS
from siamscope.rundir import read_jsonl


def train(method: str, data: Path, epochs: float, run: Path, more: list[str]) -> dict[str, Any]:
    """One run: figures, speed after the first tenth of the steps, and the machine as the run describes it."""
    command = [sys.executable, "-m", "siamscope", "train", str(data), "--recipe", f"{method}-cifar10"]
    command += ["--epochs", str(epochs), "--device", "cuda", "--out", str(run), "--quiet", "--json", *more]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"method": method, "error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    figures = json.loads(done.stdout)
    speeds = [line["images_per_second"] for line in read_jsonl(run / "metrics.jsonl") if line["kind"] == "step"]
    return {
        "method": method,
        "seconds": round(time.monotonic() - start, 1),
        "images_per_second": statistics.median(speeds[len(speeds) // 10 :]),
        "verdict": figures["verdict"]["status"],
        "knn": figures["knn"],
        "linear": {name: found["top1"] for name, found in figures["probe"].items()},
        "machine": json.loads((run / "environment.json").read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--methods", default="simsiam,byol", help="comma-separated names, or all")
    args, more = parser.parse_known_args()
    names = list(METHODS) if args.methods == "all" else args.methods.split(",")
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for method in names:
            rows.append(train(method, args.data, args.epochs, Path(folder) / method, more))
            args.out.write_text(json.dumps({"command": " ".join(sys.argv), "runs": rows}, indent=1) + "\n")
            row = rows[-1]
            said = row.get("error") or f"{row['images_per_second']:,.0f} images/s, k-NN {row['knn']['trained']}"
            print(f"{method}: {said}", flush=True)


if __name__ == "__main__":
    main()
