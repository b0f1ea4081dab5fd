"""What is known of a finished run, read from its directory: the input of forecast, selection, sweeps and studies.

Torch-free. A figure that a run does not have is missing from its table; nothing is filled in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, RunError, read_jsonl

LOSS_SHARE = 0.05
"""The loss of a run is the mean over this last share of its steps: that of one step is noise."""


@dataclass(frozen=True)
class Facts:
    """One run.

    Attributes:
        scores: label-free, of the backbone's features of validation images at the end (`evaluation.json`), by the names
            of `siamscope.collapse.DEFINITIONS`; and `loss`.
        accuracy: needs labels: `knn` and, if it was fitted, `linear`; fractions, on the run's own evaluation split.
        untrained: the same of the untrained encoder.
        split: which images gave the accuracy ("test" or "validation"); empty without labels.
        data: fingerprint of the images.
        n, d: samples and dimensions behind the scores; 0 if unknown.  viewed: images behind LiDAR and alignment.
        course: the lines of metrics.jsonl of kind "monitor".
    """

    run: Path
    recipe: Recipe
    steps: int
    scores: dict[str, float]
    accuracy: dict[str, float]
    untrained: dict[str, float]
    split: str
    data: str
    data_name: str
    health: str
    n: int
    d: int
    course: list[dict[str, Any]]
    viewed: int = 0

    @property
    def name(self) -> str:
        return str(self.run)


def read(path: str | Path) -> Facts:
    """The facts of a run that was trained to its end.

    Raises:
        RunError: no run there, one that is not finished, or one with a damaged judgement; the message says what to do.
    """
    run = RunDir.open(path)
    found = _json(run.evaluation)
    if not found:
        raise RunError(f"{run.path} is not finished (no evaluation.json); 'siamscope resume {run.path}' goes on")
    recipe = run.recipe()
    try:
        return _facts(run, recipe, found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run.evaluation} cannot be read ({error!r}); 'siamscope resume {run.path}' judges the run again"
        ) from error


def _facts(run: RunDir, recipe: Recipe, found: dict[str, Any]) -> Facts:
    about = _json(run.environment)
    lines = read_jsonl(run.metrics) if run.metrics.is_file() else []
    course = [line for line in lines if line.get("kind") == "monitor"]
    losses = [float(line["loss"]) for line in lines if line.get("kind") == "step" and line.get("loss") is not None]
    scores = {name: float(value) for name, value in found.get("scores", {}).items() if _is_number(value)}
    if losses:
        tail = losses[-max(int(LOSS_SHARE * len(losses)), 1) :]
        scores["loss"] = sum(tail) / len(tail)
    sample = found.get("scored", {})
    return Facts(
        run=run.path,
        recipe=recipe,
        steps=max((int(line["step"]) for line in lines if line.get("kind") == "step"), default=0),
        scores=scores,
        accuracy=accuracy(found, "trained"),
        untrained=accuracy(found, "untrained"),
        split=str(found["split"]) if found.get("labels") else "",
        data=str(about.get("data_fingerprint", "")),
        data_name=str(about.get("data", "")),
        health=str(found.get("verdict", {}).get("status", "")),
        n=int(sample.get("n", 0)),
        d=int(sample.get("d", 0)),
        course=course,
        viewed=int(sample.get("views", {}).get("images", 0)),
    )


def accuracy(judged: Mapping[str, Any], encoder: str) -> dict[str, float]:
    """`knn` and, where it was fitted, `linear` of the trained or untrained encoder, or of raw_pixels; empty without
    labels. `judged`: what evaluation.json holds."""
    if not judged.get("labels"):
        return {}
    out = {"knn": float(judged["knn"][encoder][str(judged["k"])])}
    probe = judged.get("probe", {}).get(encoder)
    return out | ({"linear": float(probe["top1"])} if probe else {})


def _json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; empty if there is none or it is torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
