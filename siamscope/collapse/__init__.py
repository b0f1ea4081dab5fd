"""Collapse of a representation: its spectrum, label-free scores and a verdict in words.

Works on numpy arrays and torch tensors alike; knows no other room and does not import torch.
"""

from siamscope.collapse.alignment import (
    Alignment,
    alignment,
    balance,
    common_correlation,
    k_matrix,
    noise_ratio,
    smallest_eigenvalue,
    target_share,
)
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.geometry import coherence, self_cluster, uniformity, view_alignment
from siamscope.collapse.health import Health, Vitals, assess, measure
from siamscope.collapse.intrinsic import TwoNN, clid_learnability, intrinsic_dimension, twonn
from siamscope.collapse.lidar import group_views, lidar
from siamscope.collapse.scores import auc, cumulative_explained, effective_rank, embedding_std, positive_similarity
from siamscope.collapse.spectrum import CovarianceState, Spectrum, TooFewSamples, spectrum

__all__ = [
    "Alignment",
    "CollapseError",
    "CovarianceState",
    "Health",
    "Spectrum",
    "TooFewSamples",
    "TwoNN",
    "Vitals",
    "alignment",
    "assess",
    "auc",
    "balance",
    "clid_learnability",
    "coherence",
    "common_correlation",
    "cumulative_explained",
    "effective_rank",
    "embedding_std",
    "group_views",
    "intrinsic_dimension",
    "k_matrix",
    "lidar",
    "measure",
    "noise_ratio",
    "positive_similarity",
    "self_cluster",
    "smallest_eigenvalue",
    "spectrum",
    "target_share",
    "twonn",
    "uniformity",
    "view_alignment",
]
