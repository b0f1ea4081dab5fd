"""What frozen features are worth: k-NN, linear probe, raw-pixel baseline and intervals.

Works on plain tensors or arrays; knows no other room.
"""

from siamscope.evaluation.baselines import raw_pixels
from siamscope.evaluation.bootstrap import accuracy_interval
from siamscope.evaluation.errors import EvaluationError
from siamscope.evaluation.features import evaluating, extract, pooled
from siamscope.evaluation.knn import KnnResult, knn
from siamscope.evaluation.linear import LinearClassifier, LogisticFit
from siamscope.evaluation.probe import L2_GRID, ProbeResult, linear_probe

__all__ = [
    "L2_GRID",
    "EvaluationError",
    "KnnResult",
    "LinearClassifier",
    "LogisticFit",
    "ProbeResult",
    "accuracy_interval",
    "evaluating",
    "extract",
    "knn",
    "linear_probe",
    "pooled",
    "raw_pixels",
]
