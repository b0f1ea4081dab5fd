"""The figures of a comparison: collected from its runs, averaged over seeds, written as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from siamscope.rundir import RunDir, read_jsonl
from siamscope.workflow.compare_plan import Cell, shared_digest
from siamscope.workflow.jobs import Run, outcome

FIGURES = {
    "knn": "k-NN accuracy",
    "linear": "linear probe accuracy",
    "auc": "AUC of the spectrum of the features",
    "effective_rank": "effective rank of the features",
    "embedding_auc": "AUC of the spectrum of the embeddings",
    "embedding_effective_rank": "effective rank of the embeddings",
    "images_per_second": "training speed, median over the steps",
    "peak_memory_mib": "peak memory of the run's process, MiB",
    "seconds": "wall time of the run with its evaluation",
}
"""What is averaged, and what it is."""

_MONITORED = {
    "auc": "feature_auc", "effective_rank": "feature_effective_rank",
    "embedding_auc": "auc", "embedding_effective_rank": "effective_rank",
}  # fmt: skip


def mean_sd(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1; None for a single value) and count of the values that are there."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return {
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


# ------------------------------------------------------------------------------------------ collecting


def collect(run: Run, digest: str, fingerprint: str) -> dict[str, Any]:
    """What a run gave, or why it gave nothing.

    A run by another shared recipe, or on other images, than the comparison's does not count.
    """
    status, reason = outcome(run)
    state = run.state()
    line: dict[str, Any] = {"cell": run.key, "seed": run.seed, "status": status, "reason": reason}
    line |= {"path": str(run.dir.path), "shared_digest": None}
    if status == "finished":
        line["shared_digest"] = shared_digest(run.dir.recipe())
        about = _object(run.dir.environment)
        if line["shared_digest"] != digest:
            return line | {"status": "failed", "reason": "its shared recipe is not the comparison's"}
        if about.get("data_fingerprint") != fingerprint:
            return line | {"status": "failed", "reason": "its images are not the comparison's (the data changed)"}
        line |= figures(run.dir)
    return line | {key: state.get(key) for key in ("seconds", "peak_memory_mib")}


def figures(run: RunDir) -> dict[str, Any]:
    """The figures of a finished run; None for what it does not have (without labels: the accuracies)."""
    found, lines = _object(run.evaluation), read_jsonl(run.metrics) if run.metrics.is_file() else []
    monitors = [line for line in lines if line.get("kind") == "monitor"]
    speeds = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    last = monitors[-1] if monitors else {}
    out: dict[str, Any] = {key: last.get(name) for key, name in _MONITORED.items()}
    out["images_per_second"] = statistics.median(speeds) if speeds else None
    out["health"] = found.get("verdict", {}).get("status", "unknown")
    out["labels"], out["split"] = bool(found.get("labels")), found.get("split", "")
    out["k"], out["n_queries"], out["n_bank"] = found.get("k"), found.get("n_queries"), found.get("n_bank")
    k = str(found.get("k"))
    for encoder, prefix in (("trained", ""), ("untrained", "untrained_"), ("raw_pixels", "raw_pixels_")):
        out[f"{prefix}knn"] = found.get("knn", {}).get(encoder, {}).get(k)
        out[f"{prefix}linear"] = found.get("probe", {}).get(encoder, {}).get("top1")
    return out


def _object(path: Any) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


# ------------------------------------------------------------------------------------------ averaging


def summary(cell: Cell, runs: Sequence[Mapping[str, Any]], seeds: int) -> dict[str, Any]:
    """One line of the table: a cell with its figures averaged over the seeds that finished."""
    done = [run for run in runs if run["status"] == "finished"]
    reasons = dict.fromkeys(f"{run['status']}: {run['reason']}" for run in runs if run["status"] != "finished")
    health = Counter(str(run["health"]) for run in done)
    return {
        "key": cell.key, "label": cell.label, "method": cell.method, "target": cell.target, "rho": cell.rho,
        "published": cell.published, "problems": [f"refused: {cell.problem}"] if cell.problem else list(reasons),
        "finished": len(done), "seeds": seeds, "health": dict(health.most_common()),
        "figures": {name: mean_sd(run.get(name) for run in done) for name in FIGURES},
        "row": asdict(cell.row) if cell.row else None,
    }  # fmt: skip


def baselines(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Untrained encoder and raw pixels: one value a seed, since all methods start from the same encoder."""
    by_seed = {run["seed"]: run for run in runs if run["status"] == "finished"}
    return {
        name: {figure: mean_sd(run.get(f"{name}_{figure}") for run in by_seed.values()) for figure in ("knn", "linear")}
        for name in ("untrained", "raw_pixels")
    }


def paired(runs: Sequence[Mapping[str, Any]], cells: Sequence[Cell], figure: str) -> list[dict[str, Any]]:
    """What a momentum target changes: for each method (and rho) the difference with - without, seed by seed."""
    value = {(run["cell"], run["seed"]): run.get(figure) for run in runs if run["status"] == "finished"}
    seeds = list(dict.fromkeys(run["seed"] for run in runs))
    out = []
    for method, rho in dict.fromkeys((cell.method, cell.rho) for cell in cells):
        both = [cell for cell in cells if (cell.method, cell.rho) == (method, rho)]
        with_, without = ([c for c in both if (c.target == "momentum") is wanted] for wanted in (True, False))
        if not with_ or not without:
            continue
        pairs = [(value.get((with_[0].key, seed)), value.get((without[0].key, seed))) for seed in seeds]
        out.append({
            "method": method, "rho": rho, "with": with_[0].key, "without": without[0].key,
            "without_target": without[0].target,
            "difference": mean_sd(a - b for a, b in pairs if a is not None and b is not None),
        })  # fmt: skip
    return out


def ranked(lines: Sequence[dict[str, Any]], figure: str) -> list[dict[str, Any]]:
    """Best mean first; those without a figure last, in the table's order."""
    return sorted(lines, key=lambda line: _descending(line["figures"][figure]["mean"]))


def _descending(value: float | None) -> tuple[bool, float]:
    return value is None, -(value or 0.0)


# ------------------------------------------------------------------------------------------ writing


def as_csv(lines: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> str:
    """One line a cell (and a baseline), mean and standard deviation of every figure."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [f"{figure}_{part}" for figure in FIGURES for part in ("mean", "sd")]
    writer.writerow(["cell", "method", "target", "rho", "finished", "seeds", *names, "health", "problem"])
    for line in lines:
        values = [_plain(line["figures"][figure][part]) for figure in FIGURES for part in ("mean", "sd")]
        health = "; ".join(f"{word} {count}" for word, count in line["health"].items())
        problem = " | ".join(line["problems"]).replace("\n", " ")
        first = [line["key"], line["method"], line["target"], _plain(line["rho"]), line["finished"], line["seeds"]]
        writer.writerow([*first, *values, health, problem])
    for name, found in base.items():
        filled = {f"{f}_{part}": _plain(found[f][part]) for f in ("knn", "linear") for part in ("mean", "sd")}
        n = found["knn"]["n"]
        writer.writerow([name, "", "", "", n, n, *(filled.get(column, "") for column in names), "", ""])
    return stream.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def spread(value: Mapping[str, Any], scale: float = 1.0, digits: int = 1) -> str:
    """`45.2 ± 0.8`; without a standard deviation the mean alone, and a dash for nothing."""
    if value["mean"] is None:
        return "–"
    text = f"{scale * value['mean']:,.{digits}f}"
    return text if value["sd"] is None else f"{text} ± {scale * value['sd']:,.{digits}f}"


_COLUMNS = (
    ("k-NN %", "knn", 100.0, 1), ("linear %", "linear", 100.0, 1), ("AUC", "auc", 1.0, 3),
    ("effective rank", "effective_rank", 1.0, 1), ("images/s", "images_per_second", 1.0, 0),
    ("memory MiB", "peak_memory_mib", 1.0, 0),
)  # fmt: skip


def markdown(facts: Mapping[str, Any]) -> str:
    """The table with what one must know to read it."""
    head = ["method", *(title for title, *_ in _COLUMNS), "health", "seeds"]
    rows = [head, ["---", *["---:"] * len(_COLUMNS), "---", "---:"]]
    for line in facts["cells"]:
        cells = [spread(line["figures"][key], scale, digits) for _, key, scale, digits in _COLUMNS]
        health = ", ".join(f"{word} ({n})" if len(line["health"]) > 1 else word for word, n in line["health"].items())
        failed = _first_line(line["problems"][0]) if line["problems"] else ""
        rows.append([line["label"], *cells, health or failed, f"{line['finished']}/{line['seeds']}"])
    for name, found in facts["baselines"].items():
        cells = [spread(found[key], 100) if key in found else "" for _, key, *_ in _COLUMNS]
        rows.append([name.replace("_", " "), *cells, "", str(found["knn"]["n"] or "")])
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    failures = [f"- {line['label']}: {_first_line(p)}" for line in facts["cells"] for p in line["problems"]]
    parts = ["# Methods under one recipe", text, *_momentum(facts), "\n".join(f"- {note}" for note in facts["notes"])]
    if failures:
        parts += ["## Runs without figures", "\n".join(failures)]
    return "\n\n".join(parts) + "\n"


def _momentum(facts: Mapping[str, Any]) -> list[str]:
    if not facts["momentum"]:
        return []
    title, scale = ("k-NN, points", 100.0) if facts["figure"] == "knn" else ("effective rank", 1.0)
    rows = [f"| method | rho | target without | difference in {title} |", "|---|---:|---|---:|"]
    for pair in facts["momentum"]:
        rho = "" if pair["rho"] is None else f"{pair['rho']:g}"
        gap = spread(pair["difference"], scale)
        gap = gap if gap.startswith(("-", "–")) else f"+{gap}"
        rows.append(f"| {pair['method']} | {rho} | {pair['without_target']} | {gap} |")
    return ["## What a momentum target changes (with − without, seed by seed)", "\n".join(rows)]


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
