"""Forecast and label-free choice on a fleet of small runs on Fashion-MNIST that differ in all that a user turns.

    python benchmarks/forecast_fleet.py --work FOLDER

42 runs: six methods, and for each seven settings of width, size of the training subset, rate and decay, drawn once by a
fixed seed, rates and decays up to 10 and 100 times the shipped ones. 20,000 images of 16 pixels, ResNet-8 with 64
features at every width, 200 steps of 64 images each. The runs lie in FOLDER; a second call goes on where the first one
stopped. Then: the forecast of the probe's accuracy (as `siamscope forecast fit`) from several scores, pooled, by
method, and with whole methods and widths left out; and what the choice by each rule costs (as `siamscope select`).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siamscope import recipe as recipes
from siamscope.collapse import CollapseError
from siamscope.collapse.forecast_quality import Quality, quality
from siamscope.collapse.selection import rank_sum, regret
from siamscope.data.config import DataConfig
from siamscope.evaluation.probe import linear_probe
from siamscope.recipe import Recipe
from siamscope.rundir import finite
from siamscope.training.loop import NonFiniteLossError
from siamscope.training.progress import Silent
from siamscope.workflow import environment, fleet
from siamscope.workflow.encoder import Trained
from siamscope.workflow.features import Split
from siamscope.workflow.fleet import Member
from siamscope.workflow.jobs import Run, complete
from siamscope.workflow.opening import opened
from siamscope.workflow.train import train

METHODS = ("simsiam", "byol", "simclr", "vicreg", "barlow", "directcopy")
WIDTHS = (0.25, 0.5, 1.0)
SUBSETS = (0.01, 0.03, 0.1, 0.3, 1.0)
RATES = (0.03, 10.0)
DECAYS = (0.1, 100.0)
EACH = 7
BANK = 1500
IMAGES = {"train": 20_000, "val": 2500, "test": 4000}
SETS: tuple[tuple[str, ...], ...] = (
    (), ("loss",), ("auc_sigma",), ("auc_sigma", "loss"), ("auc_sigma", "loss_in_method"), ("loss_in_method",),
    ("rankme",), ("rankme", "loss"), ("effective_rank",), ("effective_rank", "loss"), ("auc_lambda",), ("alpha_req",),
    ("lidar",), ("alignment",), ("auc_sigma", "alignment"), ("uniformity",), ("auc_sigma", "uniformity"),
)  # fmt: skip
RULES = ("auc", "loss", "auc+loss", "rankme", "effective_rank", "lidar", "alpha_req", "rankme+loss")


def settings(method: str) -> Iterator[dict[str, float]]:
    """The settings of a method: the shipped one, and draws."""
    rng = np.random.default_rng([METHODS.index(method), 42])
    widths = rng.permutation(np.resize(WIDTHS, EACH))
    subsets = rng.permutation(np.resize(SUBSETS, EACH))
    rates = np.exp(rng.permutation(np.linspace(*np.log(RATES), EACH)))
    decays = np.exp(rng.permutation(np.linspace(*np.log(DECAYS), EACH)))
    yield {"width": 0.5, "subset": 1.0, "rate": 1.0, "decay": 1.0}
    for width, subset, rate, decay in zip(widths[1:], subsets[1:], rates[1:], decays[1:], strict=True):
        yield {"width": float(width), "subset": float(subset), "rate": float(rate), "decay": float(decay)}


def recipe_of(method: str, chosen: dict[str, float], steps: int, data: DataConfig) -> Recipe:
    """The shipped recipe of a method, made small, with these settings."""
    base = recipes.for_method(method)
    whole = chosen["subset"] == 1
    return replace(
        base,
        data=data,
        network=replace(base.network, width=chosen["width"], features=64),
        order=replace(base.order, name="iid") if whole else replace(base.order, name="last", subset=chosen["subset"]),
        optim=replace(
            base.optim, lr=round(base.optim.lr * chosen["rate"], 8), warmup_epochs=0.1,
            weight_decay=round(base.optim.weight_decay * chosen["decay"], 8),
        ),
        train=replace(base.train, steps=steps, batch_size=64, seed=0, device="cpu", threads=1, precision="fp32",
                      channels_last="off", checkpoint_minutes=60.0),
        monitor=replace(base.monitor, interval=steps, samples=512, bank=512, watch=-1),
        evaluation=replace(base.evaluation, bank=BANK, queries=4000, ks=(20,), probe=False),
    )  # fmt: skip


def small_images(work: Path) -> Path:
    """Images of Fashion-MNIST in 16 pixels as an array file: every run would read and shrink all 70,000 again."""
    path = work / "fashion-mnist-16.npz"
    if not path.is_file():
        whole = opened(DataConfig("fashion-mnist", size=16), Silent())
        assert whole.test is not None
        arrays = {}
        for name, source, most in zip(IMAGES, (whole.train, whole.val, whole.test), IMAGES.values(), strict=True):
            assert source.labels is not None
            chosen = np.sort(np.random.default_rng(0).permutation(len(source))[:most])
            arrays[f"x_{name}"], arrays[f"y_{name}"] = source.read(chosen)[:, 0], source.labels[chosen]
        work.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
    return path


def plan(work: Path, steps: int) -> list[Run]:
    """All runs, in the order in which every method comes first."""
    data = opened(DataConfig(str(small_images(work)), size=16, channels=3), Silent()).config
    out = []
    for i in range(EACH):
        for method in METHODS:
            chosen = list(settings(method))[i]
            number = EACH * METHODS.index(method) + i
            key = f"{number:02d}-{method}"
            out.append(Run(key, key, 0, recipe_of(method, chosen, steps, data), work / key))
    return out


def train_share(runs: Sequence[Run], share: int, of: int) -> None:
    """Train every `of`-th run that is not complete, in this process, and fit its probe.

    A process for each run would spend as long on its start. The probe is fitted here, on the trained encoder only: the
    judgement of a run would fit those of the untrained encoder and of raw pixels too, alike for every run. A run that
    diverges leaves a file `failed`.
    """
    for run in runs[share::of]:
        failed = run.folder / "failed"
        if not complete(run.dir) and not failed.is_file():
            try:
                train(run.recipe, run.dir.path, overwrite=run.dir.recipe_file.is_file())
            except NonFiniteLossError as error:
                failed.write_text(f"{error}\n")
        if complete(run.dir):
            add_probe(run)
            print(f"{run.key}: finished", flush=True)


def add_probe(run: Run) -> None:
    """The linear probe of the trained encoder into the run's evaluation.json, as its judgement would have it."""
    found = json.loads(run.dir.evaluation.read_text())
    if found["probe"]:
        return
    encoder = Trained.load(run.dir.path)
    dataset, encode, seed = encoder.open(None, Silent()), encoder.encode(torch.device("cpu")), run.recipe.train.seed
    assert dataset.test is not None
    most = run.recipe.evaluation.queries
    parts = [Split.of(dataset.train, BANK, seed), Split.of(dataset.val, most, seed), Split.of(dataset.test, most, seed)]
    sets = [item for part in parts for item in (encode(encoder.backbone, part), part.labels)]
    probe = linear_probe(*sets, seed=seed)
    run.dir.write_json(run.dir.evaluation, found | {"probe": {"trained": {"top1": probe.top1, "l2": probe.l2}}})


def fits(members: Sequence[Member], y: np.ndarray, groups: Sequence[str] | None) -> list[dict[str, Any]]:
    """Quality of every set of features that these runs have."""
    columns = {name: np.array([member.value(name) for member in members]) for name in fleet.SCORES}
    found: list[Quality] = []
    for names in SETS:
        try:
            found.append(quality(columns, y, names, groups))
        except CollapseError as error:
            print(f"  {' + '.join(names)}: {error}")
    for item in found:
        print(
            f"  {item.name:<28} R2 {item.r2:6.3f}  LOO R2 {item.loo_r2:6.3f}  RMSE {item.loo_rmse:.4f}  "
            f"chance {item.p_value:.3f}  group rank {item.group_spearman:.2f}"
        )
    return [asdict(item) | {"name": item.name} for item in found]


def choices(members: Sequence[Member], target: str) -> list[dict[str, Any]]:
    """Regret of each rule within each method, collapsed runs not competing."""
    out = []
    for rule in RULES:
        for method in METHODS:
            own = [member for member in members if member.method == method]
            columns = {name: np.array([member.value(name) for member in own]) for name in fleet.SCORES}
            alive = np.array([member.health != "collapse" for member in own])
            try:
                preference = np.where(alive, rank_sum(columns, rule), math.nan)
            except CollapseError:
                continue
            if np.isfinite(preference).any():
                accuracy, known = [member.accuracy[target] for member in own], [member.validation for member in own]
                lost = regret(preference, accuracy, int(np.nanargmax(preference)), known)
                if lost is not None:
                    out.append({"rule": rule, "method": method, **asdict(lost)})
    for rule in RULES:
        shares = [row["share"] for row in out if row["rule"] == rule]
        if shares:
            print(f"  {rule:<16} mean regret {100 * np.mean(shares):.0f} % of the range, by method "
                  + " ".join(f"{share:.2f}" for share in shares))  # fmt: skip
    return out


def analyse(members: Sequence[Member], target: str) -> dict[str, Any]:
    """Forecasts of one accuracy, and regrets."""
    y = np.array([member.accuracy[target] for member in members])
    methods = [member.method for member in members]
    widths = [fleet.group_of(member, "width") for member in members]
    print(f"{target}, {len(y)} runs, {y.min():.3f} to {y.max():.3f}; whole methods left out")
    pooled = fits(members, y, methods)
    print(f"{target}; whole widths left out")
    by_width = fits(members, y, widths)
    alone = {}
    for method in METHODS:
        own = [i for i, name in enumerate(methods) if name == method]
        print(f"{target}, {method} alone")
        alone[method] = fits([members[i] for i in own], y[own], None) if own else []
    healthy = [i for i, member in enumerate(members) if member.health != "collapse"]
    print(f"{target}, the {len(healthy)} runs that are not collapsed")
    return {
        "methods_left_out": pooled, "widths_left_out": by_width, "within_method": alone,
        "not_collapsed": fits([members[i] for i in healthy], y[healthy], [methods[i] for i in healthy]),
        "regret": choices(members, target),
    }  # fmt: skip


def table(members: Sequence[Member], path: Path) -> None:
    """One line a run: settings, scores, accuracies; `siamscope forecast fit` reads it."""
    scores = [name for name in fleet.SCORES if any(name in member.scores for member in members)]
    header = ["run", "method", "width", "subset", "lr", "weight_decay", "n", "d", "split", "health", "validation"]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*header, "linear", "knn", *scores])
        for member in members:
            known = member.fields
            share = known["order.subset"] if known["order.name"] == "last" else 1.0
            figures = [member.validation, *(member.accuracy[name] for name in ("linear", "knn"))]
            figures += [member.value(name) for name in scores]
            about = [Path(member.name).parent.name, member.method, known["network.width"], share, known["optim.lr"]]
            about += [known["optim.weight_decay"], member.n, member.d, member.split, member.health]
            writer.writerow([*about, *(f"{value:.6g}" if math.isfinite(value) else "" for value in figures)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2, help="processes that train; 0 = only analyse what is there")
    parser.add_argument("--share", type=int, help="train only this share of the runs; for the processes themselves")
    given = parser.parse_args()
    runs = plan(given.work, given.steps)
    if given.share is not None:
        train_share(runs, given.share, given.jobs)
        return
    words = [sys.executable, __file__, "--work", str(given.work), "--steps", str(given.steps)]
    words += ["--jobs", str(given.jobs)]
    workers = [subprocess.Popen([*words, "--share", str(share)]) for share in range(given.jobs)]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit("a worker failed; run the command again, it goes on where this one stopped")
    failed = {run.key: (run.folder / "failed").read_text().strip() for run in runs if (run.folder / "failed").is_file()}
    known, _ = fleet.read([run.dir.path for run in runs if complete(run.dir)])
    members = [member for member in known if "linear" in member.accuracy]
    result = {
        "machine": {key: value for key, value in environment.describe(torch.device("cpu")).items() if key != "command"},
        "steps": given.steps, "runs": len(members), "diverged": failed, "data": Path(members[0].data_name).name,
        "n": members[0].n, "d": members[0].d, "split": members[0].split,
        "linear": analyse(members, "linear"), "knn": analyse(members, "knn"),
    }  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "forecast.json").write_text(json.dumps(finite(_rounded(result)), separators=(",", ":")) + "\n")
    table(members, given.out / "forecast.csv")


def _rounded(value: Any) -> Any:
    """Floats to six digits: the file is small and a repeated analysis gives the same."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


if __name__ == "__main__":
    main()
