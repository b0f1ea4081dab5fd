"""How well the theory predicts training: `siamscope dynamics predict` on runs that are trained here.

    python benchmarks/predict.py --seeds 3

linear: the recipe `linear` on shapes and Fashion-MNIST. decay: on shapes over weight decay, through the predicted
    collapse of all modes. rate: over the learning rate, at equal time of the flow. deep: SimSiam with a linear
    predictor on a ResNet-8 over weight decay, where the theory is a heuristic.
Every run is judged by the same command that a user has.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from siamscope import cli
from siamscope.workflow import environment

KINDS = ["linear", "decay", "rate", "deep"]
QUICK = ["--evaluation.bank", "2000", "--evaluation.queries", "1000", "--evaluation.no-probe", "--quiet"]
DECAYS = (0.002, 0.004, 0.008, 0.016, 0.024, 0.032, 0.04, 0.06)
RATES = (0.05, 0.2, 0.5, 1.0)
DEEP_DECAYS = (5e-4, 5e-3, 0.05, 0.5)
DEEP = ["--recipe", "simsiam", "--predictor", "linear", "--epochs", "6"]


def command(*words: object) -> str:
    """Run a command of the program; what it printed.

    Raises:
        SystemExit: it failed.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = cli.run([str(word) for word in words])
    if code:
        raise SystemExit(f"siamscope {shlex.join(map(str, words))} ended with {code}")
    return printed.getvalue()


def predicted(folder: Path, data: str, *train: object) -> dict[str, Any]:
    """Train, predict, and what `prediction.json` says, with the k-NN of the encoder."""
    run = folder / "run"
    judged = json.loads(command("train", data, *train, *QUICK, "--overwrite", "--out", run, "--json"))
    command("dynamics", "predict", run, "--quiet", "--out", folder / "prediction")
    facts: dict[str, Any] = json.loads((folder / "prediction" / "prediction.json").read_text())
    return facts | {"knn": judged}


def linear(folder: Path, data: str, seed: int, *more: object) -> dict[str, Any]:
    facts = predicted(folder, data, "--recipe", "linear", "--seed", seed, *more)
    kept = (
        "weight_decay",
        "eta",
        "kept",
        "mixing",
        "can_survive",
        "weight_decay_limits",
        "alive",
        "agreement",
        "notes",
    )
    return {"data": data, "seed": seed} | {name: facts[name] for name in kept}


def deep(folder: Path, decay: float, seed: int) -> dict[str, Any]:
    facts = predicted(folder, "shapes", *DEEP, "--weight-decay", decay, "--seed", seed)
    return {
        "weight_decay": decay,
        "seed": seed,
        "eta": facts["eta"],
        "moments": facts["moments"],
        "notes": facts["notes"],
    }


def rows(kinds: list[str], seeds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "linear" in kinds:
            for data in ("shapes", "fashion-mnist"):
                for seed in range(seeds):
                    yield "linear", linear(folder, data, seed)
        if "decay" in kinds:
            for decay in DECAYS:
                yield "decay", linear(folder, "shapes", 0, "--weight-decay", decay)
        if "rate" in kinds:
            for rate in RATES:
                steps = round(3000 * RATES[0] / rate)
                words = ("--lr", rate, "--steps", steps, "--train.checkpoint-steps", steps // 30)
                yield "rate", {"lr": rate, "steps": steps} | linear(folder, "shapes", 0, *words)
        if "deep" in kinds:
            for decay in DEEP_DECAYS:
                yield "deep", deep(folder, decay, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/predict.json"))
    args = parser.parse_args()
    start = time.monotonic()
    found: dict[str, list[dict[str, Any]]] = {}
    if args.out.is_file():  # kinds that are not asked for stay
        found = {k: v for k, v in json.loads(args.out.read_text()).items() if k in KINDS}
    found = {kind: rows_ for kind, rows_ in found.items() if kind not in args.kinds}
    for kind, row in rows(args.kinds, args.seeds):
        found.setdefault(kind, []).append(row)
        print(kind, json.dumps(row), flush=True)
        about = environment.describe(torch.device("cpu")) | {"date": environment.now()}
        head = {"machine": about, "seeds": args.seeds, "minutes": round((time.monotonic() - start) / 60, 1)}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(head | found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
