"""The alarm on runs that collapse by design and on healthy ones: how early, how often in vain, how often not at all.

    python benchmarks/alarm.py --work ~/alarm-runs --seeds 0 1 2 3 --jobs 2

Each run is a process of its own in --work and goes on where it was stopped; the alarm only warns, so that every run
reaches its end and the k-NN curve (labels, which the alarm does not see) can tell what happened. Definitions, fixed
before the runs that are reported:

- alarm: the first look at which the state is "alarm"; suspect: the same for "suspect" or "alarm".
- collapsed: the monitor's verdict on 512 images at the last step is "collapse"; partly: "partial collapse".
- shown by k-NN, at the earlier of two steps: the first measurement from which to the end k-NN lies below the run's own
  best so far, or below that of the healthy twin (the same seed, data, method and step), by more than two standard errors
  of a difference, 2 sqrt(2 p (1 - p) / n), p the higher one and n the number of queries.
- hurt: k-NN shows it.
- false alarm: an alarm in a run whose verdict is healthy and which is not hurt. miss: a collapsed run without an alarm.
- lead: k-NN's step less the alarm's.

The alarm's limits were set on seeds 0 and 1; "held_out" counts the other seeds alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from siamscope import recipe as recipes
from siamscope.collapse.alarm import Limits, replay
from siamscope.recipe import Recipe
from siamscope.rundir import read_jsonl
from siamscope.training.watch import to_look
from siamscope.workflow import environment
from siamscope.workflow.jobs import Run, complete, execute

CALIBRATION = (0, 1)
STEPS, BATCH, INTERVAL, QUERIES, BANK = 400, 128, 20, 512, 1024


@dataclass(frozen=True)
class Setting:
    """A run's method and what is changed in its shipped recipe. `twin`: the healthy setting it is compared with.

    rate, decay: times the shipped recipe's.
    """

    method: str
    twin: str = ""
    source: str = "fashion-mnist"
    row: tuple[tuple[str, Any], ...] = ()
    rate: float = 1.0
    decay: float = 1.0
    width: float = 0.5

    @property
    def induced(self) -> bool:
        return bool(self.twin)


NO_STOP = (("target", "shared"),)
NO_PREDICTOR = (("predictor", "none"),)
SETTINGS = {
    "simsiam": Setting("simsiam"),
    "simsiam, low rate": Setting("simsiam", rate=0.25),
    "simsiam, high rate": Setting("simsiam", rate=2.0),
    "byol": Setting("byol"),
    "simclr": Setting("simclr"),
    "simclr, high rate": Setting("simclr", rate=3.0),
    "vicreg": Setting("vicreg"),
    "barlow": Setting("barlow"),
    "simsiam, shapes": Setting("simsiam", source="shapes"),
    "simclr, shapes": Setting("simclr", source="shapes"),
    "no stop-gradient": Setting("simsiam", "simsiam", row=NO_STOP),
    "no predictor": Setting("simsiam", "simsiam", row=NO_PREDICTOR),
    "neither": Setting("simsiam", "simsiam", row=NO_STOP + NO_PREDICTOR),
    "byol, no predictor": Setting("byol", "byol", row=NO_PREDICTOR),
    "decay too high": Setting("simsiam", "simsiam", decay=20.0),
    "decay far too high": Setting("simsiam", "simsiam", decay=60.0),
    "rate too high": Setting("simsiam", "simsiam", rate=10.0),
    "rate far too high": Setting("simsiam", "simsiam", rate=40.0),
    "too small a model": Setting("simsiam", "simsiam", width=0.125),
    "no stop-gradient, shapes": Setting("simsiam", "simsiam, shapes", source="shapes", row=NO_STOP),
    "decay too high, shapes": Setting("simsiam", "simsiam, shapes", source="shapes", decay=30.0),
}


def recipe_of(setting: Setting, seed: int) -> Recipe:
    """The complete recipe of a run."""
    base = recipes.layered(None, setting.method)
    return replace(
        base,
        data=replace(base.data, source=setting.source, size=16, val_samples=2000, **_shapes(setting)),
        method=replace(base.method, **dict(setting.row)),
        network=replace(base.network, width=setting.width),
        optim=replace(
            base.optim, lr=base.optim.lr * setting.rate, weight_decay=base.optim.weight_decay * setting.decay,
            warmup_epochs=0.5 if setting.source == "shapes" else 0.1,
        ),
        train=replace(
            base.train, steps=STEPS, batch_size=BATCH, seed=seed, device="cpu", precision="fp32", channels_last="off",
            threads=1, checkpoint_minutes=60.0, keep=1,
        ),
        monitor=replace(base.monitor, interval=INTERVAL, samples=QUERIES, bank=BANK),
        evaluation=replace(base.evaluation, bank=2000, queries=1000, probe=False),
    )  # fmt: skip


def _shapes(setting: Setting) -> dict[str, int]:
    return {"samples": 10_000, "test_samples": 1000} if setting.source == "shapes" else {}


def runs(work: Path, names: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
    for seed in seeds:
        for name in names:
            folder = work / name.replace(", ", "-").replace(" ", "-")
            yield Run(name, name, seed, recipe_of(SETTINGS[name], seed), folder)


def lines(run: Run, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_jsonl(run.dir.metrics) if line["kind"] == kind]


def falls(curve: list[tuple[int, float]], above: list[float]) -> int | None:
    """The first step from which to the end the curve lies below `above` by more than two standard errors."""
    since = None
    for (step, value), other in zip(curve, above, strict=True):
        margin = 2 * math.sqrt(2 * other * (1 - other) / QUERIES)
        below = value < other - margin
        since = (step if since is None else since) if below else None
    return since


def shown(run: Run, twin: Run | None) -> dict[str, int | None]:
    """When k-NN shows that the representation gets worse."""
    curve = [(line["step"], line["knn"]) for line in lines(run, "monitor")]
    best = [max(value for _, value in curve[: i + 1]) for i in range(len(curve))]
    out = {"own": falls(curve, best), "twin": None}
    if twin is not None and complete(twin.dir):
        others = {line["step"]: line["knn"] for line in lines(twin, "monitor")}
        out["twin"] = falls(curve, [others[step] for step, _ in curve])
    return out


def first(states: list[Any], wanted: tuple[str, ...]) -> Any:
    return next((alarm for alarm in states if alarm.state in wanted), None)


def figures(run: Run, twin: Run | None, limits: Limits | None = None) -> dict[str, Any]:
    """What happened in a run and what the alarm said of it."""
    measured = lines(run, "monitor")
    states = replay((to_look(line) for line in lines(run, "watch")), limits)
    alarm, suspect = first(states, ("alarm",)), first(states, ("suspect", "alarm"))
    by_knn = shown(run, twin)
    seen = min((step for step in by_knn.values() if step is not None), default=None)
    last = measured[-1]
    verdict = last["health"]
    return {
        "setting": run.key, "seed": run.seed, "induced": SETTINGS[run.key].induced, "verdict": verdict,
        "std": last["embedding_std"], "rank": last["effective_rank"], "feature_rank": last["feature_effective_rank"],
        "knn_start": measured[0]["knn"], "knn_best": max(m["knn"] for m in measured), "knn_end": last["knn"],
        "knn_twin_end": lines(twin, "monitor")[-1]["knn"] if twin is not None and complete(twin.dir) else None,
        "loss": last["loss"],
        "suspect": suspect.step if suspect else None,
        "alarm": alarm.step if alarm else None, "kind": alarm.kind if alarm else "",
        "kind_at_end": states[-1].kind, "state_at_end": states[-1].state,
        "reasons": list(alarm.reasons) if alarm else [],
        "knn_shows": seen, "by": by_knn,
        "lead": seen - alarm.step if alarm and seen is not None else None,
        "false_alarm": bool(alarm) and verdict == "healthy" and seen is None,
        "miss": alarm is None and verdict == "collapse",
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over some runs."""
    collapsed = [row for row in rows if row["verdict"] == "collapse"]
    fine = [row for row in rows if row["verdict"] == "healthy" and row["knn_shows"] is None]
    leads = [row["lead"] for row in rows if row["lead"] is not None]
    return {
        "runs": len(rows),
        "collapsed": len(collapsed),
        "of_these_alarmed": sum(row["alarm"] is not None for row in collapsed),
        "misses": sum(row["miss"] for row in rows),
        "partly_collapsed": sum(row["verdict"] == "partial collapse" for row in rows),
        "of_these_alarmed_partly": sum(row["verdict"] == "partial collapse" and row["alarm"] is not None for row in rows),
        "healthy_and_unhurt": len(fine),
        "false_alarms": sum(row["false_alarm"] for row in rows),
        "of_these_suspected": sum(row["suspect"] is not None for row in fine),
        "collapsed_but_never_shown_by_knn": sum(row["knn_shows"] is None for row in collapsed),
        "leads": sorted(leads),
        "median_lead": statistics.median(leads) if leads else None,
        "alarm_first": sum(lead > 0 for lead in leads),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs, outside the repository")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only-read", action="store_true", help="report the runs that are there, start none")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "alarm.json")
    given = parser.parse_args()
    planned = list(runs(given.work, given.settings, given.seeds))
    if not given.only_read:
        due = [run for run in planned if not complete(run.dir)]
        execute(due, given.jobs, 1, lambda run, status, why: print(run.label, run.seed, status, why, flush=True))
    rows, levels = [], []
    twins = {(run.key, run.seed): run for run in planned}
    for run in planned:
        if complete(run.dir):
            twin = twins.get((SETTINGS[run.key].twin, run.seed))
            rows.append(figures(run, twin))
            levels.append(figures(run, twin, Limits(ahead=0)))
    held_out = [row for row in rows if row["seed"] not in CALIBRATION]
    report = {
        "machine": environment.describe(torch.device("cpu")),
        "steps": STEPS, "batch": BATCH, "k-NN queries": QUERIES, "k-NN bank": BANK,
        "unfinished": [f"{run.key}, seed {run.seed}" for run in planned if not complete(run.dir)],
        "held_out": summary(held_out),
        "held_out_levels_only": summary([row for row in levels if row["seed"] not in CALIBRATION]),
        "all": summary(rows),
        "runs": rows,
    }  # fmt: skip
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    for row in rows:
        print(
            f"{row['setting']:<26}{row['seed']:>2}  {row['verdict']:<17} std {row['std']:.2f} rank {row['rank']:5.1f} "
            f"({row['feature_rank']:4.1f})  k-NN {row['knn_best']:.3f} {row['knn_end']:.3f}  suspect {row['suspect']}  "
            f"alarm {row['alarm']} {row['kind']:<11}  k-NN shows {row['knn_shows']}"
        )
    print(json.dumps(report["held_out"], indent=1))


if __name__ == "__main__":
    main()
