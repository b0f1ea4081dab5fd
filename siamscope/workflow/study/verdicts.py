"""Directions that the literature claims, held against the runs of a study; what does not replicate is said so.

A claim about a difference replicates when the mean over seeds of the paired differences (same seed, same first weights)
has the claimed sign and is more than twice their standard deviation, is contradicted when it is as clear the other way,
and is undecided between. One seed has no spread and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from siamscope.collapse.least_squares import spearman
from siamscope.workflow.compare_table import mean_sd
from siamscope.workflow.study.collect import Record, value

CLEAR = 2.0
"""Standard deviations over seeds that a mean difference must exceed."""
RANKED, FEWEST = 0.5, 5
"""|rank correlation| that counts as a direction, and the fewest runs of which one is judged."""

Outcome = Literal["replicates", "contradicted", "undecided", "not judged"]


@dataclass(frozen=True)
class Verdict:
    """What became of a claim: in a word, and with its numbers in words."""

    claim: str
    about: str
    outcome: Outcome
    text: str


def pairs(records: Sequence[Record], first: str, second: str, figure: str) -> list[float]:
    """figure(first) - figure(second) for every seed that both lines finished with."""
    of = {
        (record["line"], record["seed"]): value(record, figure) for record in records if record["status"] == "finished"
    }
    seeds = sorted({seed for line, seed in of if line == first} & {seed for line, seed in of if line == second})
    both = [(of[first, seed], of[second, seed]) for seed in seeds]
    return [a - b for a, b in both if a is not None and b is not None]


def difference(claim: str, about: str, found: Sequence[float], sign: int, unit: str, scale: float = 1.0) -> Verdict:
    """The verdict on paired differences of which the claim says that they have this sign."""
    if not found:
        return Verdict(claim, about, "not judged", "no seed has both figures")
    spread = mean_sd(scale * item for item in found)
    text = f"{spread['mean']:+.{3 if scale == 1 else 1}f}".replace("-", "−")
    if spread["sd"] is None:
        return Verdict(claim, about, "not judged", f"{text} {unit} with one seed: no spread to judge it by")
    text += f" ± {spread['sd']:.{3 if scale == 1 else 1}f} {unit} over {spread['n']} seeds"
    clear = abs(spread["mean"]) > CLEAR * spread["sd"]
    if not clear:
        return Verdict(claim, about, "undecided", f"{text}: within twice the spread of the seeds")
    held = spread["mean"] * sign > 0
    return Verdict(claim, about, "replicates" if held else "contradicted", text)


def correlation(claim: str, about: str, x: Sequence[float], y: Sequence[float], sign: int) -> Verdict:
    """The verdict on a rank correlation of which the claim says that it is at least 0.5 with this sign."""
    rho = spearman(np.array(x, dtype=np.float64), np.array(y, dtype=np.float64))
    if not np.isfinite(rho) or len(x) < FEWEST:
        why = f"{len(x)} runs: fewer than {FEWEST}" if len(x) < FEWEST else "a figure that does not vary"
        return Verdict(claim, about, "not judged", f"{why}, no rank correlation")
    text = f"Spearman {rho:+.2f} over {len(x)} runs".replace("-", "−")
    if abs(rho) < RANKED:
        return Verdict(claim, about, "undecided", f"{text}: weaker than ±{RANKED:g}")
    return Verdict(claim, about, "replicates" if rho * sign > 0 else "contradicted", text)


def labelled(records: Sequence[Record]) -> str:
    """The accuracy that verdicts speak of: of the linear probe if it was fitted, else of k-NN; empty without labels."""
    for name in ("linear", "knn"):
        if any(value(record, name) is not None for record in records):
            return name
    return ""


def accuracy_falls_with_auc(claim: str, records: Sequence[Record]) -> list[Verdict]:
    """Rank correlation of AUC and accuracy over all runs of the largest group of one dimension, without controls."""
    name = labelled(records)
    if not name:
        return []
    done = [record for record in records if record["status"] == "finished" and not record["control"]]
    points = [(record["d"], value(record, "auc_sigma"), value(record, name)) for record in done]
    known = [(d, auc, accuracy) for d, auc, accuracy in points if auc is not None and accuracy is not None]
    dimensions = [d for d, _, _ in known]
    most = max(set(dimensions), key=dimensions.count) if known else 0
    same = [point for point in known if point[0] == most]
    about = f"AUC against {_NAMES[name]} at {most} features"
    return [correlation(claim, about, [p[1] for p in same], [p[2] for p in same], -1)] if same else []


_NAMES = {"linear": "accuracy of the linear probe", "knn": "k-NN accuracy"}


def as_facts(found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"claim": v.claim, "about": v.about, "outcome": v.outcome, "text": v.text} for v in found]
