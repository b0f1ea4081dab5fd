"""The verdict in words on one input: the rules of `siamscope.collapse.assess`, and what the run's history adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from siamscope import collapse
from siamscope.collapse import Health, Vitals
from siamscope.workflow.diagnose.loaded import Loaded

ONE_DIRECTION = 0.01
"""Embedding std of features below which all images have the same ones. Measured: untrained encoders, whose features are
the most alike of all that are not collapsed, .05-.16."""
ALIKE = 0.3
"""Below this, embeddings would count as collapsed; features may share so large a common part and be healthy."""
FALLEN = 0.5
"""Effective rank over its highest in training, below which the fall is worth a word."""


def vitals(scores: Mapping[str, float], n: int, d: int) -> Vitals:
    """What the rules look at, from scores by their names."""
    return Vitals(scores["embedding_std"], scores["effective_rank"], scores["auc_sigma"], n, d)


def judge(loaded: Loaded, measured: Vitals, embeddings: Vitals | None, untrained: Vitals | None) -> Health:
    """The verdict on `measured`, the vitals of `loaded.features`.

    A projector's embeddings are judged by their spread and rank, features by their rank alone (and by both, where a run
    has both), and against the untrained encoder where there is one.
    """
    if loaded.about.get("layer") == "projector's output":
        return _with_history(loaded, collapse.assess(measured, step=loaded.steps), measured)
    found = collapse.assess(embeddings, measured, untrained_features=untrained, step=loaded.steps)
    if loaded.about.get("kind") == "file":  # nobody knows of which layer
        found = _renamed(found)
    if embeddings is not None and found.status == "healthy":
        before = f"; {untrained.effective_rank:.1f} before training" if untrained is not None else ""
        reason = (
            f"backbone features vary along {measured.effective_rank:.1f} of {measured.d} directions (AUC "
            f"{measured.auc:.3f}{before})"
        )
        found = replace(found, reasons=(*found.reasons, reason))
    if embeddings is None and found.status != "too early":
        found = _spread(found, measured)
    return _with_history(loaded, found, measured)


def _spread(found: Health, measured: Vitals) -> Health:
    std = measured.embedding_std
    if std < ONE_DIRECTION:
        reason = f"all images have nearly the same features: std x sqrt(d) is {std:.2g}, below {ONE_DIRECTION}"
        advice = collapse.assess(replace(measured, embedding_std=0.0)).advice
        return Health("collapse", (reason, *found.reasons), tuple(dict.fromkeys((*advice, *found.advice))), found.notes)
    if std < ALIKE:
        note = (
            f"features share a large common part (std x sqrt(d) is {std:.2f}): usual after a ReLU and in untrained "
            "encoders; if these are a projector's embeddings, say --embeddings, and it counts as collapse"
        )
        return replace(found, notes=(*found.notes, note))
    return found


def _renamed(found: Health) -> Health:
    reasons = tuple(reason.replace("backbone features", "features") for reason in found.reasons)
    return replace(found, reasons=reasons, notes=tuple(n.replace("backbone features", "features") for n in found.notes))


def _with_history(loaded: Loaded, found: Health, measured: Vitals) -> Health:
    """A note where the rank has fallen far below its highest in training."""
    key = "effective_rank" if loaded.about.get("layer") == "projector's output" else "feature_effective_rank"
    course = [(line[key], line["step"]) for line in loaded.course if line.get(key) is not None and line["step"] > 0]
    if not course:
        return found
    highest, step = max(course)
    last = course[-1][0]
    if last >= FALLEN * highest:
        return found
    note = (
        f"in training the effective rank was {highest:.1f} at step {step:,} and {last:.1f} at the last measurement: "
        "an earlier checkpoint may be better"
    )
    return replace(found, notes=(*found.notes, note))
