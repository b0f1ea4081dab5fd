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
from siamscope.collapse.baseline import Baseline, isotropic
from siamscope.collapse.card import Diagnosis, Score
from siamscope.collapse.definitions import DEFINITIONS, Definition
from siamscope.collapse.diagnose import diagnose
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.forecast import Expected, Forecaster
from siamscope.collapse.forecast_quality import Quality
from siamscope.collapse.geometry import coherence, self_cluster, uniformity, view_alignment, views_alignment
from siamscope.collapse.health import Health, Vitals, assess, measure
from siamscope.collapse.intervals import Interval
from siamscope.collapse.intrinsic import TwoNN, clid_learnability, intrinsic_dimension, twonn
from siamscope.collapse.lidar import group_views, lidar
from siamscope.collapse.moments import Conventions, Moments, moment_scores, moments, quick
from siamscope.collapse.monitor import CollapseCallback, CollapseMonitor, CollapseWarning
from siamscope.collapse.scores import auc, cumulative_explained, effective_rank, embedding_std, positive_similarity
from siamscope.collapse.selection import Regret, rank_sum, regret
from siamscope.collapse.spectral import (
    PowerLaw,
    alpha_req,
    dead_directions,
    nesum,
    participation_ratio,
    participation_ratio_corrected,
    pseudo_condition,
    rankme,
    stable_rank,
)
from siamscope.collapse.spectrum import CovarianceState, Spectrum, TooFewSamples, spectrum

__all__ = [
    "DEFINITIONS",
    "Alignment",
    "Baseline",
    "CollapseCallback",
    "CollapseError",
    "CollapseMonitor",
    "CollapseWarning",
    "Conventions",
    "CovarianceState",
    "Definition",
    "Diagnosis",
    "Expected",
    "Forecaster",
    "Health",
    "Interval",
    "Moments",
    "PowerLaw",
    "Quality",
    "Regret",
    "Score",
    "Spectrum",
    "TooFewSamples",
    "TwoNN",
    "Vitals",
    "alignment",
    "alpha_req",
    "assess",
    "auc",
    "balance",
    "clid_learnability",
    "coherence",
    "common_correlation",
    "cumulative_explained",
    "dead_directions",
    "diagnose",
    "effective_rank",
    "embedding_std",
    "group_views",
    "intrinsic_dimension",
    "isotropic",
    "k_matrix",
    "lidar",
    "measure",
    "moment_scores",
    "moments",
    "nesum",
    "noise_ratio",
    "participation_ratio",
    "participation_ratio_corrected",
    "positive_similarity",
    "pseudo_condition",
    "quick",
    "rank_sum",
    "rankme",
    "regret",
    "self_cluster",
    "smallest_eigenvalue",
    "spectrum",
    "stable_rank",
    "target_share",
    "twonn",
    "uniformity",
    "view_alignment",
    "views_alignment",
]
