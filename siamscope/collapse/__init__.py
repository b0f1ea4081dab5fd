"""Collapse of a representation: its spectrum, label-free scores and a verdict in words.

Works on numpy arrays and torch tensors alike; knows no other room and does not import torch.
"""

from siamscope.collapse.alignment import Alignment, alignment
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
    "cumulative_explained",
    "effective_rank",
    "embedding_std",
    "measure",
    "positive_similarity",
    "spectrum",
]
