"""Whether a choice without labels prefers what has learnt least. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from siamscope.collapse.least_squares import spearman

LEAST = 5
AGAINST = -0.5
"""A preference that goes so far against the loss is warned of (measured: Fashion-MNIST, 200 steps of SimSiam, 11 rates
and decays: -0.87, and the choice was the worst of all in k-NN accuracy)."""


def with_loss(preference: Sequence[float], losses: Sequence[float]) -> float:
    """Rank correlation of a preference (more is better) with a low loss; NaN if fewer than five candidates have both.

    Near -1 the choice prefers what has learnt least: scores of a spectrum start healthy and fall as a network learns.
    """
    liked, loss = np.asarray(preference, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    known = np.isfinite(liked) & np.isfinite(loss)
    return spearman(liked[known], -loss[known]) if known.sum() >= LEAST else math.nan


def warning(rule: str, kind: str, correlation: float, advice: str) -> str:
    """What is said where `correlation`, as `with_loss` gives it, is below `AGAINST`; else nothing."""
    if not correlation < AGAINST:
        return ""
    return (
        f"{rule} prefers {kind} with a high loss (rank correlation {correlation:.2f}): they have learnt less, which is "
        f"not better. {advice}"
    )
