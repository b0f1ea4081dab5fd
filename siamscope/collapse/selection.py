"""The best of several representations without labels, and what that costs where labels are known.

Scores compare representations of one kind: of one method, one dimension of the features, one sample of images. None of
them is safe alone (a network before training has a low AUC; a collapsed one has a low loss), so the choice is among
trained runs that are not collapsed, and AUC with loss is offered beside AUC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siamscope.collapse.arrays import Float64
from siamscope.collapse.definitions import ALIASES as ALIASES
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.least_squares import ranks, spearman

DIRECTIONS: dict[str, int] = {
    "auc_sigma": -1,
    "auc_lambda": -1,
    "auc_relative": -1,
    "effective_rank": 1,
    "rankme": 1,
    "nesum": 1,
    "stable_rank": 1,
    "participation_ratio": 1,
    "participation_ratio_corrected": 1,
    "lidar": 1,
    "clid_learnability": 1,
    "embedding_std": 1,
    "self_cluster": -1,
    "pseudo_condition": 1,
    "uniformity": -1,
    "alignment": -1,
    "loss": -1,
    "loss_in_method": -1,
    "alpha_req": 0,
}
"""1: more is better; -1: less is better; 0: best near 1 (alpha-ReQ: its authors' claim). The intrinsic dimension
(twonn) and the coherence are not here: which way is better is not agreed, or changes from study to study."""

WITHOUT_DIMENSION = frozenset(
    {
        "auc_relative",
        "embedding_std",
        "self_cluster",
        "uniformity",
        "alignment",
        "loss",
        "loss_in_method",
        "clid_learnability",
    }
)
"""Scores that may be compared across dimensions of the features; the others may only at one dimension."""


def parts(by: str) -> tuple[str, ...]:
    """The scores that a rule such as `auc`, `rankme` or `auc+loss` is made of, by their canonical names.

    Raises:
        CollapseError: an unknown score, or none.
    """
    names = [ALIASES.get(word.strip(), word.strip()) for word in by.split("+")]
    unknown = [name for name in names if name not in DIRECTIONS]
    if unknown:
        raise CollapseError(
            f"cannot choose by {unknown[0] or by!r}; there are {', '.join(DIRECTIONS)}, auc for auc_sigma, and sums of "
            "ranks as auc+loss."
        )
    return tuple(dict.fromkeys(names))


def merit(name: str, values: Float64) -> Float64:
    """`values` of a score such that more is better."""
    way = DIRECTIONS[name]
    return way * values if way else -abs(values - 1)


def rank_sum(scores: Mapping[str, Float64], by: str) -> Float64:
    """(n,) how much speaks for each candidate, more is better; NaN where a score is missing.

    One score: the score itself, turned so that more is better. Several: the mean of its ranks by each of them among the
    candidates that have all, from 1 (worst) to n, each score counting the same; no fit and no labels are needed.

    Raises:
        CollapseError: an unknown score, or one that no candidate has.
    """
    names = parts(by)
    for name in names:
        if name not in scores or not np.isfinite(scores[name]).any():
            raise CollapseError(f"none of these runs has {name}; there are {', '.join(sorted(scores)) or 'none'}.")
    table = np.stack([merit(name, np.asarray(scores[name], dtype=np.float64)) for name in names])
    out = np.full(table.shape[1], math.nan)
    complete = np.isfinite(table).all(0)
    chosen = table[:, complete]
    out[complete] = chosen[0] if len(names) == 1 else np.mean([ranks(row) for row in chosen], axis=0)
    return out


@dataclass(frozen=True)
class Regret:
    """What a label-free choice costs, in accuracy.

    Attributes:
        accuracy: of the choice.  best: of the best candidate.  worst: of the worst.
        regret: best - accuracy.  share: regret / (best - worst), 0 if all are equal; chance gives about .5.
        labelled: accuracy of the candidate that the labels of other images choose; NaN if there are none.
        to_labelled: labelled - accuracy; may be negative.
        spearman: rank correlation of the rule with accuracy over the candidates.
        n: candidates whose accuracy is known.
    """

    accuracy: float
    best: float
    worst: float
    regret: float
    share: float
    labelled: float
    to_labelled: float
    spearman: float
    n: int


def regret(
    preference: Float64, accuracy: Sequence[float], chosen: int, validation: Sequence[float] | None = None
) -> Regret | None:
    """What choosing candidate `chosen` costs; None if its accuracy or all others' are unknown.

    Args:
        preference: (n,) as `rank_sum` gives it; NaN for candidates that do not compete. They count for best and worst.
        accuracy: (n,) NaN where unknown.
        validation: (n,) accuracy on images other than those of `accuracy`, by which labels would choose.
    """
    known = np.asarray(accuracy, dtype=np.float64)
    seen = np.isfinite(known)
    if not seen[chosen] or seen.sum() < 2:
        return None
    best, worst = float(known[seen].max()), float(known[seen].min())
    lost, spread = best - float(known[chosen]), best - worst
    labelled = math.nan
    if validation is not None:
        by = np.where(seen, np.asarray(validation, dtype=np.float64), math.nan)
        labelled = float(known[int(np.nanargmax(by))]) if np.isfinite(by).any() else math.nan
    both = seen & np.isfinite(preference)
    return Regret(
        accuracy=float(known[chosen]),
        best=best,
        worst=worst,
        regret=lost,
        share=lost / spread if spread > 0 else 0.0,
        labelled=labelled,
        to_labelled=labelled - float(known[chosen]),
        spearman=spearman(np.asarray(preference)[both], known[both]),
        n=int(seen.sum()),
    )
