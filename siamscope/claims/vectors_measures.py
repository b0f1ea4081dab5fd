"""What the claims on synthetic vectors compare, one value a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from siamscope.claims import vectors
from siamscope.claims.collapse import SIZES, WIDTHS
from siamscope.claims.vectors import Trial
from siamscope.collapse.least_squares import spearman

STEPS, CONTROL_STEPS = 4000, 1500
CONTROL_WIDTH, CONTROL_SIZE = 32, 4096

Measures = Mapping[str, tuple[float, ...]]


def sizes(seeds: Sequence[int]) -> Measures:
    """Differences of AUC: data.WIDTH.N from the size before N, data.WIDTH over all sizes, network.N between the widths;
    accuracy: rank correlation of AUC and probe over all runs of all seeds, one value.
    """
    trials = [Trial(n, seed) for n in SIZES for seed in seeds]
    found = {width: vectors.train(width, trials, STEPS) for width in WIDTHS}
    shape = (len(SIZES), len(seeds))
    auc = {width: np.array([run.auc for run in runs]).reshape(shape) for width, runs in found.items()}
    out = {}
    for width in WIDTHS:
        for i, n in enumerate(SIZES[1:]):
            out[f"data.{width}.{n}"] = auc[width][i + 1] - auc[width][i]
        out[f"data.{width}"] = auc[width][-1] - auc[width][0]
    small, large = WIDTHS
    for i, n in enumerate(SIZES):
        out[f"network.{n}"] = auc[small][i] - auc[large][i]
    probe = np.array([[run.probe for run in found[width]] for width in WIDTHS])
    every = np.array([auc[width].ravel() for width in WIDTHS])
    out["accuracy"] = np.array([spearman(every.ravel(), probe.ravel())])
    return {name: tuple(values.tolist()) for name, values in out.items()}


def controls(seeds: Sequence[int]) -> Measures:
    """std and auc of the projector's outputs of SimSiam, and the same without one of its parts."""
    changes = {"": (True, True), "no-stop-gradient.": (False, True), "no-predictor.": (True, False)}
    trials = [
        Trial(CONTROL_SIZE, seed, stop_gradient=stops, predictor=predicts)
        for stops, predicts in changes.values()
        for seed in seeds
    ]
    runs = vectors.train(CONTROL_WIDTH, trials, CONTROL_STEPS)
    out = {}
    for i, name in enumerate(changes):
        own = runs[i * len(seeds) : (i + 1) * len(seeds)]
        out[f"{name}std"], out[f"{name}auc"] = tuple(run.std for run in own), tuple(run.auc_z for run in own)
    return out


EXPERIMENTS: dict[str, Callable[[Sequence[int]], Measures]] = {"vectors.sizes": sizes, "vectors.controls": controls}
"""By name: seeds to measures."""
