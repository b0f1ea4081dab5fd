"""What the runs of a study gave: one record a run, one summary a line, read from the run directories."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from siamscope.recipe import digest
from siamscope.rundir import RunError
from siamscope.workflow import facts
from siamscope.workflow.compare_table import mean_sd
from siamscope.workflow.fleet import relative_auc
from siamscope.workflow.jobs import Run, outcome
from siamscope.workflow.study.plan import Line

Record = dict[str, Any]

JUDGED = "the images that AUC is of"
MEASURED = "the monitor's sample at the last measurement"
"""Of which images a spectrum is."""
ALWAYS = ("auc_sigma", "auc_relative", "effective_rank", "loss", "knn", "linear")
"""Figures that every table has."""


def collect(run: Run, line: Line, fingerprint: str) -> Record:
    """What a run gave, or why it gave nothing. A run on other images than the study's does not count."""
    status, reason = outcome(run)
    out: Record = {
        "line": run.key, "model": line.model, "variant": line.variant, "seed": run.seed, "status": status,
        "reason": reason, "path": str(run.dir.path), "control": line.control, "images": line.images,
    }  # fmt: skip
    if status == "finished":
        try:
            out |= figures(run, fingerprint)
        except RunError as error:
            out |= {"status": "failed", "reason": str(error)}
    return out | {key: run.state().get(key) for key in ("seconds", "peak_memory_mib")}


def figures(run: Run, fingerprint: str) -> Record:
    """The figures of a finished run.

    Raises:
        RunError: it was made with other images, or its judgement cannot be read.
    """
    known = facts.read(run.dir.path)
    if known.data != fingerprint:
        raise RunError("its images are not the study's (the data changed)")
    scores: dict[str, float | None] = {**known.scores}
    if "auc_sigma" in known.scores:
        scores["auc_relative"] = relative_auc(known.scores["auc_sigma"], known.d)
    judged = json.loads(run.dir.evaluation.read_text(encoding="utf-8"))
    raw = facts.accuracy(judged, "raw_pixels")
    untrained = {"auc_sigma": judged.get("scores_untrained", {}).get("auc_sigma"), **known.untrained}
    return {
        "method": known.recipe.method.name, "recipe": digest(known.recipe), "steps": known.steps, "d": known.d,
        "n_scored": known.n, "split": known.split, "health": known.health, "scores": scores,
        "accuracy": known.accuracy, "untrained": untrained, "raw_pixels": raw,
        "spectrum": _spectrum(judged, known.course),
    }  # fmt: skip


def _spectrum(judged: Mapping[str, Any], course: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Singular values of the features with their 1-based places, and `of`: whose they are.

    Those of the judgement, which AUC is of; of runs of older versions those of the last measurement in training, of
    which wide features have a part.
    """
    values, places, of = judged.get("spectrum", []), None, JUDGED
    if not values and course:
        values, places = course[-1].get("spectrum_features", []), course[-1].get("spectrum_features_index")
        of = MEASURED
    return {"sigma": list(values), "place": places or list(range(1, len(values) + 1)), "of": of}


# ------------------------------------------------------------------------------------------ over seeds


def value(record: Mapping[str, Any], figure: str) -> float | None:
    """A score or accuracy of a record; None if it has none."""
    found = record.get("scores", {}).get(figure, record.get("accuracy", {}).get(figure, record.get(figure)))
    return None if found is None else float(found)


def summary(line: Line, records: Sequence[Record], seeds: int) -> dict[str, Any]:
    """One line of the table: mean and spread over the seeds that finished."""
    done = [record for record in records if record["status"] == "finished"]
    named = dict.fromkeys(name for record in done for name in (*record["scores"], *record["accuracy"]))
    reasons = dict.fromkeys(f"{record['status']}: {record['reason']}" for record in records if record not in done)
    return {
        "key": line.key, "label": line.label, "model": line.model, "variant": line.variant, "images": line.images,
        "control": line.control, "d": done[0]["d"] if done else None,
        "problems": [f"refused: {line.problem}"] if line.problem else list(reasons),
        "finished": len(done), "seeds": seeds,
        "health": dict(Counter(str(record["health"]) for record in done).most_common()),
        "figures": {
            name: mean_sd(value(record, name) for record in done)
            for name in dict.fromkeys((*ALWAYS, *named, "seconds"))
        },
        "spectrum": _mean_spectrum(done),
    }  # fmt: skip


def _mean_spectrum(records: Sequence[Record]) -> dict[str, Any]:
    """Mean over the runs of sigma, of sigma / sigma_1 and of the explained share, for runs of one dimension."""
    places = [record["spectrum"]["place"] for record in records]
    if not places or not places[0] or any(other != places[0] for other in places):
        return {}
    sigma = np.array([record["spectrum"]["sigma"] for record in records], dtype=np.float64)
    first, whole = sigma[:, :1], sigma.sum(axis=1, keepdims=True)
    out: dict[str, Any] = {"place": [float(place) for place in places[0]], "sigma": _short(sigma.mean(axis=0))}
    out["of"] = ", ".join(dict.fromkeys(record["spectrum"].get("of", MEASURED) for record in records))
    if (first > 0).all():
        out["ratio"] = _short((sigma / first).mean(axis=0))
        if len(places[0]) == places[0][-1]:  # every value is there, so that they can be summed
            out["cev"] = _short((sigma.cumsum(axis=1) / whole).mean(axis=0))
    return out


def _short(values: Any) -> list[float]:
    return [float(f"{item:.5g}") for item in values]


def baselines(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Untrained encoder of every model, and raw pixels: one value a seed, since lines start from the same weights."""
    done = [record for record in records if record["status"] == "finished" and not record["control"]]
    out = []
    for model in dict.fromkeys(record["model"] for record in done):
        of_seed = {record["seed"]: record["untrained"] for record in done if record["model"] == model}
        names = ("auc_sigma", "knn", "linear")
        found = {name: mean_sd(item.get(name) for item in of_seed.values()) for name in names}
        out.append({"label": f"untrained, {model}", "model": model, "figures": found})
    pixels = {record["seed"]: record["raw_pixels"] for record in done}
    if any(item.get("knn") is not None for item in pixels.values()):
        found = {name: mean_sd(item.get(name) for item in pixels.values()) for name in ("knn", "linear")}
        out.append({"label": "raw pixels", "model": "", "figures": found})
    return out
