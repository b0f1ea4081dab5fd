"""One run as candidates: what its monitor measured while it trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamscope.rundir import RunDir, RunError, read_jsonl
from siamscope.workflow.facts import Facts
from siamscope.workflow.fleet import Member

MEASURED = {
    "auc_sigma": "feature_auc",
    "effective_rank": "feature_effective_rank",
    "rankme": "feature_rankme",
    "lidar": "feature_lidar",
    "embedding_std": "feature_std",
}
"""Scores of the features by the names that the monitor gives them."""


def of_course(run: Facts) -> list[Member]:
    """A candidate for each measurement after the first step.

    Before it the network is untrained, and has a spectrum that training can only narrow. The loss of a candidate is the
    mean over the steps since the measurement before, that of one step being noise; its accuracy is the online k-NN on
    validation images.

    Raises:
        RunError: nothing was measured.
    """
    losses = {
        int(line["step"]): float(line["loss"])
        for line in read_jsonl(RunDir(run.run).metrics)
        if line.get("kind") == "step" and line.get("loss") is not None
    }
    out: list[Member] = []
    before = 0
    for line in run.course:
        step = int(line.get("step", 0))
        if step == 0:
            continue
        since = [loss for at, loss in losses.items() if before < at <= step]
        measured = {name: line.get(key, math.nan) for name, key in MEASURED.items()}
        scores = {name: float(value) for name, value in measured.items() if _is_number(value)}
        if since:
            scores["loss"] = sum(since) / len(since)
        knn = line.get("knn", math.nan)
        out.append(
            Member(
                name=f"step {step}",
                scores=scores,
                accuracy={"knn": float(knn)} if _is_number(knn) else {},
                method=run.recipe.method.name,
                data=run.data,
                data_name=run.data_name,
                split="validation" if _is_number(knn) else "",
                health=str(line.get("health", "")),
                n=run.recipe.monitor.samples,
                d=int(line.get("feature_dim", 0)),
                fields={"step": step},
            )
        )
        before = step
    if not out:
        raise RunError(
            f"{run.run} has no measurement after its first step; monitor.interval sets how often there is one"
        )
    return out


def kept(run: Path, chosen: Member, candidates: Sequence[Member]) -> str:
    """What there is of the weights at a measurement, in words."""
    step = int(chosen.fields["step"])
    if chosen is candidates[-1]:
        return f"these are the weights of the exported encoder, {run / 'encoder.safetensors'}"
    folder = RunDir(run).checkpoints
    files = [file for file in (sorted(folder.glob("step-*.pt")) if folder.is_dir() else []) if _step_of(file) == step]
    if files:
        return f"its weights are {files[0]}"
    return (
        f"no checkpoint of step {step} is left; checkpoints at the measurements need train.checkpoint_steps equal to "
        "monitor.interval, and a large train.keep"
    )


def _step_of(file: Path) -> float:
    digits = file.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
