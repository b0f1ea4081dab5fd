"""The alarm on runs that collapse by design and on healthy ones: how early, how often in vain, how often not at all.

    python benchmarks/alarm.py --work ~/alarm-runs --jobs 2

Each run is a process of its own in --work, and a finished one is not run again. The alarm only warns, so that every run
reaches its end and the k-NN curve (labels, which the alarm does not see) can tell what happened; what the alarm says is
replayed from the looks in the log. Definitions, fixed before the runs that are reported:

- suspect, alarm: the first look with that state.
- collapsed, partly collapsed: the verdict of `siamscope.collapse.assess` on 512 images at the last step is "collapse",
  "partial collapse".
- shown by k-NN: the first measurement from which to the end k-NN lies below the run's own best so far, or below that of
  the healthy twin (same seed, data, method and step), by more than two standard errors of a difference, that is
  2 sqrt(2 p (1 - p) / n) with p the higher one and n queries; the earlier of the two.
- false alarm: an alarm in a run that is not collapsed, not partly, and where k-NN shows nothing.
- miss: a run that is collapsed or partly collapsed, without an alarm.
- lead: k-NN's step less the alarm's.

The alarm's limits were set on seed 0; "held_out" counts the other seeds alone.
"""

from __future__ import annotations

import argparse
import functools
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
from siamscope.data import DataConfig
from siamscope.recipe import Recipe
from siamscope.rundir import read_jsonl
from siamscope.training.progress import Silent
from siamscope.training.watch import to_look
from siamscope.workflow import environment
from siamscope.workflow.jobs import Run, complete, execute
from siamscope.workflow.opening import opened

CALIBRATION = (0,)
STEPS, BATCH, INTERVAL, QUERIES, BANK = 400, 128, 20, 512, 1024


@dataclass(frozen=True)
class Setting:
    """A run's method and what is changed in its shipped recipe. `twin`: the healthy setting it is compared with.

    rate, decay: times the shipped recipe's. warmup: steps.
    """

    method: str
    twin: str = ""
    source: str = "fashion-mnist"
    row: tuple[tuple[str, Any], ...] = ()
    rate: float = 1.0
    decay: float = 1.0
    width: float = 0.5
    warmup: int = 45


NO_STOP = (("target", "shared"),)
NO_PREDICTOR = (("predictor", "none"),)
SETTINGS = {
    # healthy
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
    # meant to collapse
    "no stop-gradient": Setting("simsiam", "simsiam", row=NO_STOP),
    "no predictor": Setting("simsiam", "simsiam", row=NO_PREDICTOR),
    "neither": Setting("simsiam", "simsiam", row=NO_STOP + NO_PREDICTOR),
    "byol, no predictor": Setting("byol", "byol", row=NO_PREDICTOR),
    "decay too high": Setting("simsiam", "simsiam", decay=20.0),
    "decay far too high": Setting("simsiam", "simsiam", decay=60.0),
    "rate too high": Setting("simsiam", "simsiam", rate=10.0),
    "rate far too high": Setting("simsiam", "simsiam", rate=40.0),
    "decay rather high": Setting("simsiam", "simsiam", decay=6.0),
    "rate too high, slow start": Setting("simsiam", "simsiam", rate=20.0, warmup=360),
    "too small a model": Setting("simsiam", width=0.125),  # no twin: the twin's untrained encoder is better already
    "no stop-gradient, shapes": Setting("simsiam", "simsiam, shapes", source="shapes", row=NO_STOP),
    "decay too high, shapes": Setting("simsiam", "simsiam, shapes", source="shapes", decay=30.0),
}


ROLLED_BACK = ("rate too high", "rate far too high", "decay too high", "decay far too high")
INDUCED = tuple(SETTINGS)[tuple(SETTINGS).index("no stop-gradient") :]


@functools.cache
def data_of(source: str) -> tuple[DataConfig, int]:
    """The images of a source with everything decided, and how many there are to train on."""
    base = replace(recipes.for_method("simsiam").data, source=source, size=16, val_samples=2000)
    dataset = opened(replace(base, samples=10_000, test_samples=1000) if source == "shapes" else base, Silent())
    return replace(dataset.config, cache_dir=base.cache_dir), len(dataset.train)


def recipe_of(setting: Setting, seed: int) -> Recipe:
    """The complete recipe of a run."""
    base = recipes.for_method(setting.method)
    data, images = data_of(setting.source)
    return replace(
        base,
        data=data,
        method=replace(base.method, **dict(setting.row)),
        network=replace(base.network, width=setting.width),
        optim=replace(
            base.optim, lr=base.optim.lr * setting.rate, weight_decay=base.optim.weight_decay * setting.decay,
            warmup_epochs=setting.warmup * BATCH / images,
        ),
        train=replace(
            base.train, steps=STEPS, batch_size=BATCH, seed=seed, device="cpu", precision="fp32", channels_last="off",
            threads=1, checkpoint_minutes=60.0, keep=1,
        ),
        monitor=replace(base.monitor, interval=INTERVAL, samples=QUERIES, bank=BANK),
        evaluation=replace(base.evaluation, bank=2000, queries=1000, probe=False),
    )  # fmt: skip


def runs(work: Path, names: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
    for seed in seeds:
        for name in names:
            folder = work / name.replace(", ", "-").replace(" ", "-")
            yield Run(name, name, seed, recipe_of(SETTINGS[name], seed), folder)


def rollbacks(work: Path, seeds: Sequence[int]) -> Iterator[Run]:
    """The same runs with monitor.on_collapse = "rollback"."""
    for run in runs(work, ROLLED_BACK, seeds):
        recipe = replace(run.recipe, monitor=replace(run.recipe.monitor, on_collapse="rollback"))
        yield replace(run, recipe=recipe, folder=run.folder.with_name(f"{run.folder.name}-rollback"))


def after_rollback(run: Run, without: dict[str, Any]) -> dict[str, Any]:
    """How a run with rollbacks ended, beside the same run without (`without`: its figures)."""
    last = lines(run, "monitor")[-1]
    events = lines(run, "event")
    return {
        "setting": run.key, "seed": run.seed, "to_its_end": complete(run.dir), "steps": last["step"],
        "rollbacks": [
            {"alarm": event["abandoned"]["to"], "back_to": event["step"]} for event in events if "rollback" in event
        ],
        "verdict": last["health"], "rank": last["effective_rank"], "knn": last["knn"],
        "without": {name: without[name] for name in ("verdict", "rank", "knn_end", "knn_twin_end")},
    }  # fmt: skip


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
        "setting": run.key, "seed": run.seed, "induced": run.key in INDUCED, "verdict": verdict,
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
        "miss": alarm is None and verdict in ("collapse", "partial collapse"),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over some runs."""
    bad = [row for row in rows if row["verdict"] in ("collapse", "partial collapse")]
    fine = [row for row in rows if row["verdict"] == "healthy" and row["knn_shows"] is None]
    leads = sorted(row["lead"] for row in rows if row["lead"] is not None)
    return {
        "runs": len(rows),
        "collapsed": sum(row["verdict"] == "collapse" for row in rows),
        "partly_collapsed": sum(row["verdict"] == "partial collapse" for row in rows),
        "alarms_in_these": sum(row["alarm"] is not None for row in bad),
        "misses": sum(row["miss"] for row in rows),
        "healthy": len(fine),
        "false_alarms": sum(row["false_alarm"] for row in rows),
        "of_these_meant_to_collapse": sum(row["false_alarm"] and row["induced"] for row in rows),
        "false_suspicions": sum(row["suspect"] is not None for row in fine),
        "shown_by_knn": sum(row["knn_shows"] is not None for row in rows),
        "shown_by_knn_without_alarm": sum(row["knn_shows"] is not None and row["alarm"] is None for row in rows),
        "alarm_and_never_shown_by_knn": sum(row["alarm"] is not None and row["knn_shows"] is None for row in bad),
        "leads": leads,
        "median_lead": statistics.median(leads) if leads else None,
        "alarm_earlier": sum(lead > 0 for lead in leads),
        "alarm_later": sum(lead < 0 for lead in leads),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs, outside the repository")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rollback", action="store_true", help="also train some of them with rollbacks")
    parser.add_argument("--only-read", action="store_true", help="report the runs that are there, start none")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "alarm.json")
    given = parser.parse_args()
    planned = list(runs(given.work, given.settings, given.seeds))
    if not given.only_read:
        due = [run for run in planned if not complete(run.dir)]
        execute(due, given.jobs, 1, lambda run, status, why: print(run.label, run.seed, status, why, flush=True))
    again = list(rollbacks(given.work, given.seeds)) if given.rollback else []
    if not given.only_read:
        due = [run for run in again if not complete(run.dir) and run.state().get("exit_code") != 4]
        execute(
            due, given.jobs, 1, lambda run, status, why: print(run.label, "rollback", run.seed, status, why, flush=True)
        )
    rows, levels = [], []
    plain = {(run.key, run.seed): run for run in planned}
    for run in planned:
        if complete(run.dir):
            twin = plain.get((SETTINGS[run.key].twin, run.seed))
            rows.append(figures(run, twin))
            levels.append(figures(run, twin, Limits(ahead=0)))
    by_key = {(row["setting"], row["seed"]): row for row in rows}
    held_out = [row for row in rows if row["seed"] not in CALIBRATION]
    report = {
        "machine": environment.describe(torch.device("cpu")) | {"command": "alarm.py --work WORK --rollback"},
        "steps": STEPS, "batch": BATCH, "k-NN queries": QUERIES, "k-NN bank": BANK,
        "unfinished": [f"{run.key}, seed {run.seed}" for run in planned if not complete(run.dir)],
        "held_out": summary(held_out),
        "held_out_levels_only": summary([row for row in levels if row["seed"] not in CALIBRATION]),
        "all": summary(rows),
        "rollback": [
            after_rollback(run, by_key[run.key, run.seed])
            for run in again
            if (complete(run.dir) or run.state().get("exit_code") == 4) and (run.key, run.seed) in by_key
        ],
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
