"""From the features of one input to what is shown and written: scores, spectrum, verdict, conventions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from siamscope import collapse
from siamscope.collapse.baseline import isotropic_spectrum
from siamscope.collapse.card import Diagnosis, Score
from siamscope.collapse.definitions import DEFINITIONS
from siamscope.collapse.diagnose import IntervalBy, diagnose
from siamscope.collapse.moments import Conventions, moment_scores, moments
from siamscope.collapse.spectral import DEAD_SHARE
from siamscope.workflow.diagnose.loaded import Array, DiagnoseError, Loaded
from siamscope.workflow.diagnose.text import convention
from siamscope.workflow.diagnose.verdict import judge

BIASED = "biased by the size of the sample"
"""How the flag of a score begins that has its own column here."""
FIRST = ("auc_sigma", "effective_rank", "embedding_std")
"""What verdict and figure rest on: always shown."""


def wanted(loaded: Loaded, only: Sequence[str], limited: Sequence[str], slow: bool) -> list[str]:
    """The scores to compute: those asked for, or all that are not slow, and LiDAR and alignment where there are views.

    Those that have a limit always are.

    Raises:
        DiagnoseError: a score that needs views was asked for by name and there are none.
    """
    viewed = loaded.views is not None
    for name in (*only, *limited):
        if DEFINITIONS[name].needs == "views" and not viewed:
            raise DiagnoseError(
                f"{name} needs several views of each image, and {loaded.name} has none: of a network ask for "
                "--views 8, of a file give an array (n, q, d), or 'groups' beside the features"
            )
    chosen = set(limited)
    chosen |= {*only, *FIRST} if only else {name for name, one in DEFINITIONS.items() if slow or not one.slow}
    if viewed and not only:
        chosen |= {"lidar", "alignment"}
    return [name for name, one in DEFINITIONS.items() if name in chosen and (viewed or one.needs != "views")]


def measure(
    loaded: Loaded, names: Sequence[str], *, interval: IntervalBy, center: bool, row_norm: bool, seed: int
) -> dict[str, Any]:
    """All facts on one input, as they are written to JSON.

    Raises:
        DiagnoseError: NaN, infinity, or too few rows; the message names the input.
    """
    conventions = Conventions(center=center)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", collapse.TooFewSamples)  # said in the notes
            card = diagnose(
                loaded.features, views=loaded.views, only=list(names), interval=interval, row_norm=row_norm,
                seed=seed, conventions=conventions,
            )  # fmt: skip
            embeddings = None if loaded.embeddings is None else collapse.measure(loaded.embeddings)
            before = None if loaded.untrained is None else collapse.measure(loaded.untrained)
            untrained = {} if loaded.untrained is None else _plain(loaded.untrained, conventions, row_norm)
    except collapse.CollapseError as error:
        raise DiagnoseError(f"{loaded.name}: {error}") from error
    health = judge(loaded, card, embeddings, before)
    verdict = {
        "status": "complete collapse" if card.status == "complete collapse" else health.status,
        "reasons": list(health.reasons),
        "advice": list(health.advice),
        "notes": [note for note in health.notes if f"on {card.n} samples in {card.d} dimensions" not in note],
    }
    return {
        "name": loaded.name,
        "n": card.n,
        "d": card.d,
        "about": loaded.about,
        "verdict": verdict,
        "scores": {name: _facts(score) for name, score in card.scores.items()},
        "untrained": {name: value for name, value in untrained.items() if name in card.scores},
        "embeddings": None if embeddings is None else vars(embeddings),
        "baseline": _baseline(card),
        "spectrum": _spectrum(card, center),
        "conventions": card.to_dict(spectrum=False)["conventions"],
        "notes": [*loaded.notes, *(note for note in card.notes if note not in card.health.notes)],
    }


def definitions(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """What each score is, in words, for JSON and page."""
    return {
        name: {
            "title": one.title,
            "formula": one.formula,
            "source": one.source,
            "convention": convention(name),
            "collapsed": one.collapsed,
            "advice": one.advice,
        }
        for name, one in DEFINITIONS.items()
        if name in names
    }


def compared(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What forbids reading several inputs side by side as better and worse."""
    if len(inputs) < 2:
        return []
    out = []
    for key, what in (("d", "dimensions"), ("n", "numbers of samples")):
        values = sorted({one[key] for one in inputs})
        if len(values) > 1:
            shown = ", ".join(f"{value:,}" for value in values)
            out.append(f"the inputs have different {what} ({shown}): AUC and ranks compare at equal N and d only")
    for key, what in (
        ("layer", "layers"), ("split", "splits"), ("data_fingerprint", "images"), ("method", "methods"),
        ("transform_hash", "preprocessing"),
    ):  # fmt: skip
        known = {str(one["about"][key]) for one in inputs if one["about"].get(key)}
        if len(known) > 1:
            shown = "" if "hash" in key or "fingerprint" in key else f" ({', '.join(sorted(known))})"
            out.append(f"the inputs are of different {what}{shown}: a difference in scores may come from that alone")
    return out


def _plain(features: Array, conventions: Conventions, row_norm: bool) -> dict[str, float]:
    found = moment_scores(moments(features, row_norm=row_norm), conventions)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _facts(score: Score) -> dict[str, Any]:
    """The score for JSON; `more_rows`: what many more would give, where the bias shows above the noise."""
    found = score.to_dict()
    ends = found.get("interval") or {}
    biased = any(flag.startswith(BIASED) for flag in score.flags)
    more = score.value - ends["bias"] if biased and score.value is not None else None
    flags = [flag for flag in score.flags if not flag.startswith(BIASED)]
    return found | {"low": ends.get("low"), "high": ends.get("high"), "more_rows": more, "flags": flags}


def _baseline(card: Diagnosis) -> dict[str, float]:
    found = {k: float(v) for k, v in vars(card.baseline).items() if k not in ("n", "d")}
    found |= {"rankme": found["effective_rank"], "participation_ratio_corrected": float(card.d)}
    found |= {"stable_rank": found["nesum"]}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _spectrum(card: Diagnosis, center: bool) -> dict[str, Any]:
    sigma = card.spectrum.singular_values
    explained = collapse.cumulative_explained(sigma)
    return {
        "sigma": [float(f"{value:.9g}") for value in sigma],
        "isotropic": [float(f"{value:.6g}") for value in isotropic_spectrum(card.n, card.d, center=center)],
        **{f"k{share}": int(np.searchsorted(explained, share / 100) + 1) for share in (50, 90, 99)},
        "dead_share": DEAD_SHARE,
        "dead_directions": card.dead_directions,
        "dead_dimensions": len(card.dead_columns),
        "dead_columns": [int(k) for k in card.dead_columns[:1000]],
        "mean_norm": card.spectrum.mean_norm,
    }
