"""How fast each row's gradient leaves collapse: predicted where there is a closed form, and measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from siamscope.gradients.escape import escape_rate, spectral_rate
from siamscope.networks import NetworkError
from siamscope.objectives import ObjectiveError
from siamscope.row import Method
from siamscope.workflow.gradients_rows import Embeddings, Views, gradient_of, ready

EPS = 1e-4
"""Size of the perturbation; the rate is measured at ten times it as well, to see whether it depends on it."""


@dataclass(frozen=True)
class Rate:
    """Growth rate of a perturbation of collapse, in 1 / learning rate; None where it has no closed form, or no value.

    `linear`: ten times the perturbation grows at the same rate within 5 % (or both not at all).
    """

    predicted: float | None
    measured: float | None
    linear: bool
    problem: str = ""


def rate(row: Method, seed: int = 0) -> Rate:
    """Predicted and measured; a row that cannot be used at collapse says why."""
    try:
        small, large = (_measured(row, eps, seed) for eps in (EPS, 10 * EPS))
    except (ObjectiveError, NetworkError) as error:
        return Rate(predicted(row), None, False, str(error))
    linear = abs(small - large) <= 0.05 * max(abs(small), abs(large), 0.02)
    return Rate(predicted(row), small, linear)


def _measured(row: Method, eps: float, seed: int) -> float:
    """With all state set on the collapsed samples: F, predictors, banks, centres. z has length one."""

    def gradient(u1: Tensor, u2: Tensor) -> Tensor:
        given = Views((u1, u2))
        subject = ready(replace(row, bank=min(row.bank, 4 * len(u1))), Embeddings(given, (given, given)), seed)
        return 2 * gradient_of(subject, given).terms.total  # of one pair of the two in the mean

    return escape_rate(gradient, eps, seed=seed)


def predicted(row: Method) -> float | None:
    """The closed form, for unit-length embeddings without a trained predictor (reference: `gradients.escape`).

    None with a regulariser, which adds a rate of its own, and with a teacher, whose targets do not collapse.
    """
    if row.normalise != "l2" or row.regulariser != "none" or row.target == "teacher":
        return None
    if row.objective == "asymmetric":
        return _asymmetric(row)
    if row.predictor != "none":
        return None
    roles = 2 if row.target == "shared" else 1
    if row.objective == "contrastive" and not row.neighbour:
        return roles / row.temperature
    if row.objective == "spectral":
        return spectral_rate(row.balance, row.phi, row.eps, row.centred)
    if row.objective == "decorrelation" and row.form == "trace":
        return 2 * roles * row.balance
    return None


def _asymmetric(row: Method) -> float | None:
    """0 without a predictor; with one set from the collapsed F (one eigenvalue 1), r (1 - r) with r = p(0) / p(1).

    The squared distance has twice the gradient. Past the predictor unchanged (IsoLoss): (1 - r) / p(1).
    """
    if row.predictor == "none":
        return 0.0
    ends = _ends(row)
    if ends is None or row.target == "shared":
        return None
    low, high = ends
    r = low / high
    factor = 2 if row.distance == "euclidean" else 1
    return factor * ((1 - r) / high if row.predictor_options.straight_through else r * (1 - r))


def _ends(row: Method) -> tuple[float, float] | None:
    """What the predictor makes of eigenvalues 0 and 1; None where that is not a function of the eigenvalue."""
    options = row.predictor_options
    if options.centred or options.partitions > 1:
        return None
    if row.predictor == "directpred":
        return max(-options.shift, 0.0) ** 0.5 + options.eps, max(1 - options.shift, 0.0) ** 0.5 + options.eps
    if row.predictor in ("directset", "directcopy"):
        return options.eps, 1 + options.eps
    return None
