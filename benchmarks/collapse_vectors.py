"""Collapse of SimSiam on synthetic vectors: size of data and model, order, learning rate and weight decay, controls.

    OMP_NUM_THREADS=1 python benchmarks/collapse_vectors.py --out benchmarks/results/collapse-vectors.json

Reference runs: 4,000 steps of 256 vectors for every run, 3 seeds (`siamscope.claims.vectors`). Every width is one
batched computation. Parts can be chosen (--parts size,order,rates,controls), and made cheaper (--steps, --batch,
--seeds); steps and batch are part of the result, so compare equal ones only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siamscope.claims.vectors import Outcome, Trial, baselines, train
from siamscope.collapse.forecast_quality import compare
from siamscope.collapse.least_squares import spearman
from siamscope.workflow import environment

WIDTHS = (8, 32, 128)
SIZES = (256, 1024, 4096, 16384, 65536)
ORDERS = (("iid", 0.4), ("current", 0.4), ("cumulative", 0.4), ("hybrid", 0.4), ("hybrid", 0.8))
RATES, DECAYS = (0.03, 0.1, 0.3), (1e-4, 5e-4, 2e-3)
PASSES = 100
FIGURES = ("auc", "rankme", "probe", "std", "auc_z", "rankme_z", "loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="size,order,rates,controls")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    widths = [int(word) for word in given.widths.split(",")]
    result: dict[str, Any] = {
        "environment": environment.describe(torch.device("cpu")), "steps": given.steps, "batch": given.batch,
        "seeds": given.seeds, "baselines": {width: baselines(width, range(given.seeds)) for width in widths},
    }  # fmt: skip
    parts: dict[str, Callable[[Any, list[int]], dict[str, Any]]] = {
        "size": size, "order": order, "rates": rates, "controls": controls,
    }  # fmt: skip
    for name in given.parts.split(","):
        started = time.process_time()
        result[name] = parts[name](given, widths)
        result[name]["processor_seconds"] = round(time.process_time() - started, 1)
        print(f"\n## {name} ({result[name]['processor_seconds']:.0f} s of processor time)\n\n{result[name]['table']}")
        if given.out:
            given.out.write_text(json.dumps(result, indent=1) + "\n")
    print("\nbaselines (accuracy of the probe):", result["baselines"], file=sys.stderr)


def size(given: Any, widths: list[int]) -> dict[str, Any]:
    """Widths against numbers of vectors, rank correlations, and what AUC and loss forecast."""
    trials = [Trial(n, seed) for seed in range(given.seeds) for n in SIZES]
    found = [outcome for width in widths for outcome in train(width, trials, given.steps, given.batch)]
    column = {name: np.array([getattr(o, name) for o in found]) for name in FIGURES}
    n, w = np.array([float(o.trial.n) for o in found]), np.array([float(o.width) for o in found])
    table = {"auc_sigma": column["auc"], "loss": column["loss"], "rankme": column["rankme"]}
    sets = ((), ("loss",), ("rankme",), ("auc_sigma",), ("auc_sigma", "loss"))
    forecast = compare(table, column["probe"], sets, [o.width for o in found])
    return {
        "table": _table(found, SIZES, lambda o: o.trial.n, "w \\ n"),
        "spearman_n_auc": {width: spearman(n[w == width], column["auc"][w == width]) for width in widths},
        "spearman_w_auc": {size: spearman(w[n == size], column["auc"][n == size]) for size in SIZES},
        "spearman_auc_probe": spearman(column["auc"], column["probe"]),
        "forecast": [asdict(item) for item in forecast],
        "runs": [_plain(o) for o in found],
    }


def order(given: Any, widths: list[int]) -> dict[str, Any]:
    """Orders of presentation; so many vectors that each is seen 100 times, as the paper's images."""
    count = given.steps * given.batch // PASSES
    trials = [Trial(count, seed, name, switch) for seed in range(given.seeds) for name, switch in ORDERS]  # type: ignore[arg-type]
    found = [outcome for width in widths for outcome in train(width, trials, given.steps, given.batch)]
    names = [_named(Trial(count, 0, name, switch)) for name, switch in ORDERS]  # type: ignore[arg-type]
    paired = {
        width: {name: _difference(found, width, name, names[0]) for name in names[1:]} for width in widths
    }  # fmt: skip
    return {
        "table": _table(found, names, lambda o: _named(o.trial), "w \\ order"),
        "vectors": count,
        "less_iid": paired,
        "runs": [_plain(o) for o in found],
    }


def rates(given: Any, widths: list[int]) -> dict[str, Any]:
    """Learning rate and weight decay at 4,096 vectors: AUC sees the collapse that the loss does not show."""
    trials = [Trial(4096, seed, lr=lr, weight_decay=wd) for seed in range(given.seeds) for lr in RATES for wd in DECAYS]
    found = train(32, trials, given.steps, given.batch)
    pairs = [f"lr {lr:g}, decay {wd:g}" for lr in RATES for wd in DECAYS]
    return {
        "table": _table(found, pairs, lambda o: f"lr {o.trial.lr:g}, decay {o.trial.weight_decay:g}", "w \\ rates"),
        "runs": [_plain(o) for o in found],
    }


def controls(given: Any, widths: list[int]) -> dict[str, Any]:
    """Stop-gradient and predictor taken away: complete collapse."""
    kinds = {"SimSiam": (True, True), "no stop-gradient": (False, True), "no predictor": (True, False),
             "neither": (False, False)}  # fmt: skip
    trials = [
        Trial(4096, seed, stop_gradient=stop, predictor=predictor)
        for seed in range(given.seeds) for stop, predictor in kinds.values()
    ]  # fmt: skip
    found = train(32, trials, min(given.steps, 1500), given.batch)
    rows = ["| | std × √d | AUC of z | RankMe of z | loss |", "|---|---:|---:|---:|---:|"]
    for name, (stop, predictor) in kinds.items():
        mine = [o for o in found if (o.trial.stop_gradient, o.trial.predictor) == (stop, predictor)]
        mean = {key: statistics.fmean(getattr(o, key) for o in mine) for key in ("std", "auc_z", "rankme_z", "loss")}
        rows.append("| " + " | ".join([name, *(f"{mean[key]:.3f}" for key in mean)]) + " |")
    return {"table": "\n".join(rows), "runs": [_plain(o) for o in found]}


def _named(trial: Trial) -> str:
    return f"hybrid@{trial.switch:g}" if trial.order == "hybrid" else trial.order


def _difference(found: Sequence[Outcome], width: int, name: str, base: str) -> dict[str, float]:
    """Mean and standard deviation over seeds of AUC and probe, less those of `base` with the same seed."""
    out = {}
    for figure in ("auc", "probe"):
        of = {(_named(o.trial), o.trial.seed): getattr(o, figure) for o in found if o.width == width}
        gaps = [of[name, seed] - of[base, seed] for seed in sorted({seed for _, seed in of})]
        out[figure] = statistics.fmean(gaps)
        out[f"{figure}_sd"] = statistics.stdev(gaps) if len(gaps) > 1 else float("nan")
    return out


def _table(found: Sequence[Outcome], columns: Sequence[Any], of: Callable[[Outcome], Any], corner: str) -> str:
    """Mean over seeds of AUC (RankMe) [accuracy of the probe], and the standard deviation of AUC."""
    rows = ["| " + " | ".join([corner, *map(str, columns)]) + " |", "|---" * (len(columns) + 1) + "|"]
    for width in dict.fromkeys(o.width for o in found):
        cells = []
        for column in columns:
            mine = [o for o in found if o.width == width and of(o) == column]
            auc, rankme, probe = (statistics.fmean(getattr(o, key) for o in mine) for key in ("auc", "rankme", "probe"))
            sd = f" ± {statistics.stdev(o.auc for o in mine):.3f}" if len(mine) > 1 else ""
            cells.append(f"{auc:.3f}{sd} ({rankme:.1f}) [{probe:.3f}]")
        rows.append("| " + " | ".join([str(width), *cells]) + " |")
    return "\n".join(rows)


def _plain(outcome: Outcome) -> dict[str, Any]:
    """For JSON: five digits are more than the machine repeats."""
    values = {name: float(f"{getattr(outcome, name):.5g}") for name in FIGURES}
    return asdict(outcome.trial) | {"width": outcome.width} | values


if __name__ == "__main__":
    main()
