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
from siamscope.collapse.health import Health, Vitals, assess, measure
from siamscope.collapse.scores import auc, cumulative_explained, effective_rank, embedding_std, positive_similarity
from siamscope.collapse.spectrum import CovarianceState, Spectrum, TooFewSamples, spectrum

__all__ = [
    "Alignment",
    "CollapseError",
    "CovarianceState",
    "Health",
    "Spectrum",
    "TooFewSamples",
    "Vitals",
    "alignment",
    "assess",
    "auc",
    "balance",
    "common_correlation",
    "cumulative_explained",
    "effective_rank",
    "embedding_std",
    "k_matrix",
    "measure",
    "noise_ratio",
    "positive_similarity",
    "smallest_eigenvalue",
    "spectrum",
    "target_share",
]
