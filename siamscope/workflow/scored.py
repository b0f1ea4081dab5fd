"""Label-free scores of a backbone's features on validation images, as every run's judgement holds them."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

import siamscope
from siamscope import collapse
from siamscope.data import Dataset
from siamscope.workflow.features import Encode, Split

SCORED = 10_000
"""Validation images at most."""


def of_encoders(encoders: dict[str, nn.Module], encode: Encode, dataset: Dataset, seed: int) -> dict[str, Any]:
    """`scores` of the trained and `scores_untrained` of the untrained encoder, and `scored`: what they were taken of.

    Pooled features in eval mode, of whole validation images without augmentation; none where there is one image only.
    """
    part = Split.of(dataset.val, SCORED, seed)
    if len(part) < 2:
        return {}
    features = {name: encode(encoder, part) for name, encoder in encoders.items()}
    n, d = features["trained"].shape
    about = {
        "n": n,
        "d": d,
        "split": "validation",
        "center": True,
        "row_norm": False,
        "layer": "backbone, after pooling",
        "augmented": False,
        "dtype": "float32",
        "seed": seed,
        "siamscope": siamscope.__version__,
    }
    return {
        "scores": of_features(features["trained"]),
        "scores_untrained": of_features(features["untrained"]),
        "scored": about,
    }


def of_features(features: Tensor) -> dict[str, float]:
    """Scores by their canonical names. Features with NaN or infinity have none: the verdict says that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", collapse.TooFewSamples)
        try:
            sigma = collapse.spectrum(features).singular_values
            std = collapse.embedding_std(features)
        except collapse.CollapseError:
            return {}
    return {
        "auc_sigma": collapse.auc(sigma),
        "auc_lambda": collapse.auc(sigma, of="lambda"),
        "effective_rank": collapse.effective_rank(sigma),
        "embedding_std": std,
    }
