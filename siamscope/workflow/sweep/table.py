"""What a sweep found: the choice, its table, and what the choice cost where labels are known. Neither torch nor Optuna.

Labels choose nothing: they are read after the choice.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from siamscope.collapse.selection import regret
from siamscope.workflow import preference
from siamscope.workflow.sweep.score import Objective
from siamscope.workflow.sweep.space import Dimension, plain

ACCURACIES = ("linear", "knn")
ADVICE = (
    "Train longer, narrow the rates to those that learn, give --forecast, or compare with 'siamscope select OUT/trials'"
)
NAMES = {"linear": "linear probe", "knn": "k-NN"}


def ordered(rows: Sequence[dict[str, Any]], goal: Objective) -> list[dict[str, Any]]:
    """Finished trials from the best to the worst, then the pruned, the failed and those in progress."""
    sign = 1 if goal.direction == "minimize" else -1
    last = {"complete": 0, "pruned": 1, "fail": 2, "running": 3}
    return sorted(
        rows, key=lambda row: (last[row["state"]], sign * row["value"] if row["value"] is not None else 0, row["trial"])
    )


def chosen(rows: Sequence[dict[str, Any]], goal: Objective) -> dict[str, Any] | None:
    """The finished trial with the best score."""
    done = [row for row in rows if row["state"] == "complete"]
    return done[goal.better([row["value"] for row in done])] if done else None


def cost(rows: Sequence[dict[str, Any]], goal: Objective, choice: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the choice costs in accuracy against the labelled one; None without labels or with fewer than two trials."""
    done = [row for row in rows if row["state"] == "complete"]
    if choice is None:
        return None
    sign = 1 if goal.direction == "maximize" else -1
    liked = np.array([sign * row["value"] for row in done])
    for name in ACCURACIES:
        accuracy = [_number(row.get("accuracy", {}).get(name)) for row in done]
        validation = [_number(row.get("validation")) for row in done]
        found = regret(liked, accuracy, done.index(choice), validation)
        if found is not None and found.n == len(done):
            return {"accuracy_of": name, "split": choice.get("split", "")} | asdict(found)
    return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def with_loss(rows: Sequence[dict[str, Any]], goal: Objective) -> float:
    """`preference.with_loss` over the finished trials; NaN where the loss itself is the score."""
    done = [row for row in rows if row["state"] == "complete" and "loss" in row.get("scores", {})]
    sign = 1 if goal.direction == "maximize" else -1
    if goal.name == "loss":
        return math.nan
    return preference.with_loss([sign * row["value"] for row in done], [row["scores"]["loss"] for row in done])


def saved(rows: Sequence[dict[str, Any]], steps: int) -> float:
    """The share of the training that ending trials early saved."""
    ended = [row for row in rows if row["state"] in ("complete", "pruned")]
    left = sum(max(1 - row.get("step", 0) / steps, 0) for row in ended if row["state"] == "pruned" and steps)
    return left / len(ended) if ended else 0.0


# ------------------------------------------------------------------------------------------ writing


def text(facts: Mapping[str, Any], goal: Objective, space: Sequence[Dimension]) -> str:
    """The table, the choice, what it cost, and the notes."""
    rows = facts["trials"]
    fields = [dimension.field for dimension in space]
    labels = any(row.get("accuracy") for row in rows)
    final = next((name for name in ACCURACIES if any(name in row.get("accuracy", {}) for row in rows)), "")
    split = next((row["split"] for row in rows if row.get("split")), "")
    head = ["trial", *(name.removeprefix("optim.").removeprefix("network.") for name in fields), goal.name, "loss"]
    head += ["k-NN, validation", f"{NAMES[final]}, {split}"] if labels else []
    lines = [[*head, "verdict"]]
    for row in rows:
        values = [plain(row["params"][name]) if name in row["params"] else "-" for name in fields]
        score = f"{row['value']:.4g}" if row["value"] is not None else "-"
        loss = row.get("scores", {}).get("loss")
        found = [str(row["trial"]), *values, score, "-" if loss is None else f"{loss:.4g}"]
        if labels:
            found += [_percent(row.get("validation")), _percent(row.get("accuracy", {}).get(final))]
        lines.append([*found, _verdict(row)])
    wide = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    out = ["  ".join([*(f"{c:>{w}}" for c, w in zip(line, wide, strict=False)), line[-1]]) for line in lines]
    return "\n".join([*out, "", *_choice(facts), *(f"note: {note}" for note in facts["notes"])])


def _verdict(row: Mapping[str, Any]) -> str:
    reason = str(row.get("reason") or "").splitlines()
    if row["state"] == "complete":
        return str(row["health"])
    if row["state"] == "running":
        return f"in progress on {row.get('host', 'another machine')}"
    return f"{'pruned' if row['state'] == 'pruned' else 'failed'}: {reason[0] if reason else ''}"[:110]


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else "-"


def _choice(facts: Mapping[str, Any]) -> list[str]:
    choice, found = facts["chosen"], facts["labels"]
    if choice is None:
        return ["no trial has finished: nothing is chosen"]
    values = ", ".join(f"{name} {plain(value)}" for name, value in choice["params"].items())
    out = [
        f"chosen  trial {choice['trial']}: {values}; {facts['score']} {choice['value']:.4g}",
        f"run     {choice['path']}",
    ]
    against = facts["with_loss"]
    said = preference.warning(facts["score"], "trials", math.nan if against is None else against, ADVICE)
    if said:
        out.append(f"WARNING {said}")
    if found is not None:
        name = NAMES[found["accuracy_of"]]
        out.append(
            f"labels  (they chose nothing) {name} on {found['split']} images {100 * found['accuracy']:.1f} %, best of "
            f"{found['n']} finished trials {100 * found['best']:.1f} %, worst {100 * found['worst']:.1f} %: regret "
            f"{100 * found['regret']:.1f} points"
        )
        if math.isfinite(found["labelled"]):
            out[-1] += f"; labels of validation images would have chosen one with {100 * found['labelled']:.1f} %"
        if math.isfinite(found["spearman"]):
            out[-1] += f"; rank correlation with accuracy {found['spearman']:.2f}"
    return out


def as_csv(rows: Sequence[dict[str, Any]], space: Sequence[Dimension]) -> str:
    """One line a trial: its parameters, score, all label-free scores, accuracies and how it ended."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    fields = [dimension.field for dimension in space]
    scores = sorted({name for row in rows for name in row.get("scores", {})})
    head = ["trial", "state", *fields, "value", *scores, "validation_knn", *ACCURACIES, "health", "step", "seconds"]
    writer.writerow([*head, "host", "run", "reason"])
    for row in rows:
        accuracy, found = row.get("accuracy", {}), row.get("scores", {})
        values = [
            row["trial"], row["state"], *(row["params"].get(name) for name in fields), row["value"],
            *(found.get(name) for name in scores), row.get("validation"), *(accuracy.get(name) for name in ACCURACIES),
            row.get("health"), row.get("step"), row.get("seconds"), row.get("host"), row.get("path"),
            " ".join(str(row.get("reason") or "").split()),
        ]  # fmt: skip
        writer.writerow(["" if v is None else f"{v:.10g}" if isinstance(v, float) else v for v in values])
    return stream.getvalue()
