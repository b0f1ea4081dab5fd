"""Label-free scores of a backbone's features on validation images, as every run's judgement holds them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

import siamscope
from siamscope import collapse
from siamscope.collapse.geometry import views_alignment
from siamscope.collapse.lidar import DELTA
from siamscope.collapse.moments import moment_scores, moments
from siamscope.collapse.spectral import ALPHA_RANGE, RANKME_EPS
from siamscope.data import Dataset
from siamscope.views.policies import ViewSpec
from siamscope.workflow.features import Encode, Split, transform_hash

SCORED = 10_000
"""Validation images at most."""
SPECTRUM = 4096
"""Dimensions at most for which the judgement holds the singular values themselves."""
VIEWS, VIEWED = 8, 256
"""Views of each of so many of these images, for LiDAR and alignment: 2,048 passes, and more for wide features."""


def of_encoders(
    encoders: Mapping[str, nn.Module], encode: Encode, dataset: Dataset, specs: Sequence[ViewSpec], seed: int
) -> dict[str, Any]:
    """`scores` of the trained and `scores_untrained` of the untrained encoder, and `scored`: what they were taken of;
    `spectrum`: the singular values of the trained encoder's centred features, to six digits.

    Pooled features in eval mode, of whole validation images without augmentation (LiDAR and alignment: of random views
    by `specs`); nothing where there is one image only.
    """
    part = Split.of(dataset.val, SCORED, seed)
    if len(part) < 2:
        return {}
    features = {name: encode(encoder, part) for name, encoder in encoders.items()}
    n, d = features["trained"].shape
    viewed = max(VIEWED, 2 * d)  # LiDAR of m images is at most m - 1, whatever the features are
    views = {name: encode.views(encoder, [part], specs, VIEWS, viewed, seed) for name, encoder in encoders.items()}
    about = {
        "n": n,
        "d": d,
        "split": "validation",
        "center": True,
        "row_norm": False,
        "rankme_eps": RANKME_EPS,
        "alpha_range": list(ALPHA_RANGE),
        "lidar_delta": DELTA,
        "transform_hash": transform_hash(encode.size, encode.norm),
        "layer": "backbone, after pooling",
        "augmented": False,
        "views": {"images": len(views["trained"]), "per_image": VIEWS},
        "dtype": "float32",
        "seed": seed,
        "siamscope": siamscope.__version__,
    }
    return {
        "scores": scores(features["trained"], views["trained"]),
        "scores_untrained": scores(features["untrained"], views["untrained"]),
        "scored": about,
    } | ({"spectrum": found} if d <= SPECTRUM and (found := singular_values(features["trained"])) else {})


def singular_values(features: Tensor) -> list[float]:
    """(d,) of the centred features (N, d), falling, to six digits; none for features with NaN or infinity."""
    try:
        centred, _ = moments(features).spectra()
    except collapse.CollapseError:
        return []
    return [float(f"{value:.6g}") for value in centred.singular_values]


def scores(features: Tensor, views: Tensor) -> dict[str, float]:
    """Scores of features (N, d) and of views (n, q, d) by their names, as far as they have a value.

    Features with NaN or infinity have none: the verdict says what is wrong with them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", collapse.TooFewSamples)  # `scored` holds n and d
        try:
            found = moment_scores(moments(features)) | {
                "uniformity": collapse.uniformity(features),
                "lidar": collapse.lidar(views),
                "alignment": views_alignment(views),
            }
        except collapse.CollapseError:
            return {}
    return {name: value for name, value in found.items() if math.isfinite(value)}
