"""The verdict in words on one input: the rules of `siamscope.collapse.assess`, and what the run's history adds."""

from __future__ import annotations

import math
from dataclasses import replace

from siamscope import collapse
from siamscope.collapse import Health, Vitals
from siamscope.collapse.card import Diagnosis
from siamscope.collapse.spectral import DEAD_SHARE
from siamscope.workflow.diagnose.loaded import EMBEDDINGS, Loaded

ONE_POINT = 1 - 1e-4
"""Share of the features' mean square in their common offset, above which all images have the same features: they
differ by less than 1 % of their size. Measured: untrained encoders, the most alike of all that are not collapsed,
differ by 5 to 16 %."""
OFFSET = 0.9
"""Above this, the offset is worth a word: as embeddings (std x sqrt(d) below .3) these would count as collapsed."""
DEAD = 0.05
"""Share of dead directions from which they are worth a word."""
FALLEN = 0.5
"""Effective rank over its highest in training, below which the fall is worth a word."""


def judge(loaded: Loaded, card: Diagnosis, embeddings: Vitals | None, untrained: Vitals | None) -> Health:
    """The verdict on `card`, the scores of `loaded.features`.

    A projector's embeddings are judged by their spread and rank, features by their rank alone (and by both, where a run
    has both), and against the untrained encoder where there is one.
    """
    measured = card.vitals
    if loaded.about.get("layer") == EMBEDDINGS:
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
        found = _spread(found, measured, common_offset(card))
    if card.dead_directions >= DEAD * card.d and card.n > card.d and found.status == "healthy":
        note = (
            f"{card.dead_directions} of {card.d} directions are dead (below {DEAD_SHARE:g} of the largest): along them "
            "the representation has collapsed"
        )
        found = replace(found, notes=(*found.notes, note))
    return _with_history(loaded, found, measured)


def common_offset(card: Diagnosis) -> float:
    """Share of the mean square of the features that their common offset holds: 1 if all rows are one point."""
    offset = card.spectrum.mean_norm**2
    total = float(card.spectrum.eigenvalues.sum()) + (offset if card.spectrum.center else 0.0)
    return offset / total if total > 0 else 1.0


def _spread(found: Health, measured: Vitals, common: float) -> Health:
    if common > ONE_POINT:
        advice = collapse.assess(replace(measured, embedding_std=0.0)).advice
        share = 100 * math.sqrt(max(1 - common, 0.0))
        alike = (
            f"nearly the same features: they differ by {share:.2g} % of their size" if share else "the same features"
        )
        reason = f"all images have {alike}"
        advice = tuple(dict.fromkeys((*advice, *found.advice)))
        return Health("collapse", (reason, *found.reasons), advice, found.notes)
    if common > OFFSET:
        note = (
            f"{100 * common:.0f} % of the features' mean square is a common offset: usual after a ReLU and in "
            "untrained encoders; if these are a projector's embeddings, say --embeddings, and it counts as collapse"
        )
        return replace(found, notes=(*found.notes, note))
    return found


def _renamed(found: Health) -> Health:
    reasons = tuple(reason.replace("backbone features", "features") for reason in found.reasons)
    return replace(found, reasons=reasons, notes=tuple(n.replace("backbone features", "features") for n in found.notes))


def _with_history(loaded: Loaded, found: Health, measured: Vitals) -> Health:
    """A note where the rank has fallen far below its highest in training."""
    key = "effective_rank" if loaded.about.get("layer") == EMBEDDINGS else "feature_effective_rank"
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
