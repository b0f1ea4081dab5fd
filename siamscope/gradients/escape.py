"""How fast a gradient leaves complete collapse.

All samples sit at one point m of the unit sphere but for small centred perturbations that both views share. A method
escapes if those perturbations grow when the samples follow minus its gradient on the sphere; the rate is that of the
linear growth, in units of 1 / (learning rate), for the gradient of a sample's own loss (n times that of the mean).

Source: theory notes, 1.6.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from siamscope.gradients.predictor import directpred_terms
from siamscope.objectives import Objective, ObjectiveError, tangent

Gradient = Callable[[Tensor, Tensor], Tensor]
"""(u1, u2), both (n, d) of unit length, to the gradient (n, d), w.r.t. u1, of the mean loss of the pair."""


@dataclass(frozen=True)
class Escape:
    """A row of the table: the growth rate from the closed form, and measured (1 / learning rate)."""

    name: str
    predicted: float
    measured: float


def escape_rate(
    gradient: Objective | Gradient,
    eps: float = 1e-4,
    *,
    samples: int = 256,
    dimensions: int = 16,
    seed: int = 0,
    shared: bool = False,
) -> float:
    """The growth rate of perturbations of length about `eps` around collapse, in float64.

    `gradient`: a function of the two views, or an objective in its initial state; a copy of it sees the collapsed batch
    first (`prepare`, `commit`, `prepare`), so its statistics and its memory bank are collapsed too. `shared`: as for
    `gradient_terms`.

    Raises:
        ObjectiveError: eps is not above 0, fewer than 3 samples or 2 dimensions, or the objective refuses the batch.
    """
    if not 0 < eps < math.inf:
        raise ObjectiveError(f"eps must be above 0, got {eps}")
    if samples < 3 or dimensions < 2:
        raise ObjectiveError(f"need at least 3 samples in 2 dimensions, got {samples} and {dimensions}")
    u, offset = _collapsed(eps, samples, dimensions, seed)
    total = _of_objective(gradient, u, shared) if isinstance(gradient, Objective) else samples * gradient(u, u)
    velocity = -tangent(total, u)
    return float((velocity * offset).sum() / offset.square().sum())


def _collapsed(eps: float, n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples around a point m, (n, d), and their centred offsets in the tangent space at m."""
    g = torch.Generator().manual_seed(seed)
    m = torch.nn.functional.normalize(torch.randn(1, d, generator=g, dtype=torch.float64))
    offset = torch.randn(n, d, generator=g, dtype=torch.float64) / math.sqrt(d)
    offset = offset - (offset @ m.T) * m
    offset = eps * (offset - offset.mean(0))
    return torch.nn.functional.normalize(m + offset), offset


@torch.no_grad()
def _of_objective(objective: Objective, u: Tensor, shared: bool) -> Tensor:
    own = copy.deepcopy(objective).double()
    views = [u, u.clone()]
    own.prepare(views, views)
    own.commit(views, views)
    own.prepare(views, views)
    return 2 * len(u) * own.gradient_terms(views, views, 0, shared=shared).total


def spectral_rate(
    balance: float,
    phi: Literal["identity", "inverse", "inverse-sqrt", "log"] = "identity",
    eps: float = 0.0,
    centred: bool = False,
) -> float:
    """The predicted rate of -u2 + balance * phi(F) u: balance * (phi(1) - phi(0)), for phi see the table's cell.

    At collapse F = m m' has one eigenvalue 1 and the rest 0. Centred, F is 0 and so is u but for the offset, and the
    rate is -balance * phi(0): with phi the identity no escape (the push is of the order of eps cubed).

    Raises:
        ObjectiveError: an unknown phi, or eps 0 where phi(0) is infinite.
    """
    functions: dict[str, Callable[[float], float]] = {
        "identity": lambda s: s,
        "inverse": lambda s: -1 / (s + eps),
        "inverse-sqrt": lambda s: -1 / math.sqrt(s + eps),
        "log": lambda s: math.log(s + eps) + 1,
    }
    if phi not in functions:
        raise ObjectiveError(f"phi must be one of {', '.join(functions)}, got {phi!r}")
    if phi != "identity" and not eps > 0:
        raise ObjectiveError(f"eps must be above 0 for phi {phi!r}, got {eps}")
    f = functions[phi]
    return -balance * f(0) if centred else balance * (f(1) - f(0))


def directpred_rate(eps: float = 0.3, form: Literal["exact", "paper"] = "exact") -> float:
    """The predicted rate of DirectPred, whose predictor is set from the F of the collapsed batch.

    Exact: r (1 - r), r = eps / (1 + eps). With Q = F + eps^2 I (`paper`, as the released code trains):
    1 / (1 + eps^2) - 1 / (1 + eps). Both are what the negative adds, (1 - r^2) or 1 / (1 + eps^2), less what the
    positive takes, 1 - r, as its predictor shrinks offsets by r. Up to a term of the order of the perturbation.
    """
    if form == "exact":
        r = eps / (1 + eps)
        return r * (1 - r)
    return 1 / (1 + eps**2) - 1 / (1 + eps)


def escape_table(
    eps: float = 1e-4, *, temperature: float = 0.2, balance: float = 100.0, predictor_eps: float = 0.3, seed: int = 0
) -> list[Escape]:
    """Predicted and measured rates of the forms of the theory notes, 1.6, on plain tensors."""

    def directpred(form: Literal["exact", "paper"]) -> Gradient:
        return lambda u1, u2: directpred_terms(u1, u2, u2.T @ u2 / len(u2), predictor_eps, form).total

    forms: Sequence[tuple[str, float, Gradient]] = [
        ("no negative", 0.0, lambda u1, u2: -u2 / len(u1)),
        ("contrastive", 1 / temperature, lambda u1, u2: _contrastive(u1, u2, temperature)),
        ("unigrad", spectral_rate(balance), lambda u1, u2: (balance * u1 @ _second_moment(u2) - u2) / len(u1)),
        ("barlow l2", 2 * balance, lambda u1, u2: 2 * (balance * u2 @ (u2.T @ u1) / len(u1) - u2) / len(u1)),
        ("vicreg l2 centred", 0.0, lambda u1, u2: _centred(u1, u2, balance)),
        ("directpred", directpred_rate(predictor_eps), directpred("exact")),
        ("directpred (paper's Q)", directpred_rate(predictor_eps, "paper"), directpred("paper")),
    ]
    return [Escape(name, predicted, escape_rate(form, eps, seed=seed)) for name, predicted, form in forms]


def _second_moment(v: Tensor) -> Tensor:
    return v.T @ v / len(v)


def _contrastive(u1: Tensor, u2: Tensor, temperature: float) -> Tensor:
    """InfoNCE against the keys of the other view."""
    return ((u1 @ u2.T / temperature).softmax(1) @ u2 - u2) / (temperature * len(u1))


def _centred(u1: Tensor, u2: Tensor, balance: float) -> Tensor:
    """VICReg's covariance term alone, on unit-length embeddings."""
    offset = u1 - u1.mean(0)
    return (balance * offset @ _second_moment(offset) - u2) / len(u1)
