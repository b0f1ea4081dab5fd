"""The gradient through a predictor, in closed form: why an asymmetric method without negatives has negatives.

For one ordered pair of views: L = -mean over samples of cos(h(u1), u2), u2 held fixed. u1 and u2 are (n, d), u2 of unit
length; SimSiam is this, BYOL's 2 - 2 cos twice it. For the mean over V ordered pairs of one anchor view divide by V.

Source: Tao et al. 2022 (arXiv:2112.05141), section on asymmetric methods; theory notes, 1.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from siamscope.objectives import GradientTerms, ObjectiveError

Form = Literal["exact", "paper", "radial", "simplified"]


def linear_predictor_terms(u1: Tensor, u2: Tensor, weight: Tensor) -> GradientTerms:
    """Through p = W u1, `weight` W (d, d): positive W'u2 / |p|, negative W'W u1 / |p|, balance (n, 1).

    The balance is lambda = (u1'W'u2) / (u1'W'W u1); with it the gradient is orthogonal to u1. Exact. A prediction of
    length zero counts as one of 1e-12 (a finite gradient that pushes nowhere).

    Raises:
        ObjectiveError: the shapes do not fit.
    """
    _check(u1, u2)
    _check_square(u1, weight, "weight")
    p = u1 @ weight.T
    length = _length(p)
    balance = (p * u2).sum(1, keepdim=True) / length.square()
    return GradientTerms((u2 @ weight) / length, (p @ weight) / length, balance, 1 / len(u1))


def predictor_terms(u1: Tensor, u2: Tensor, predictor: Callable[[Tensor], Tensor]) -> GradientTerms:
    """Through any differentiable predictor that treats samples alone, with its Jacobian J at each sample.

    Positive J'u2 / |p|, negative J'p / |p|, balance (n, 1) = (p.u2) / (p.p). Exact. `predictor` maps (d,) to (d,), as a
    `torch.nn.Sequential` of linear layers and activations does. With batch norm in training mode J couples samples and
    has no such form: use `coupled_predictor_terms`.

    Raises:
        ObjectiveError: the shapes do not fit, or the predictor needs the whole batch.
    """
    _check(u1, u2)

    def one(u: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, pull_back = torch.func.vjp(predictor, u)[:2]
        length = p.norm().clamp_min(1e-12)
        return pull_back(t / length)[0], pull_back(p / length)[0], (p @ t) / length.square()

    try:
        positive, negative, balance = torch.func.vmap(one)(u1, u2)
    except (RuntimeError, ValueError) as error:
        hint = "it must map one sample (d,) to (d,); one that couples samples needs coupled_predictor_terms"
        raise ObjectiveError(f"predictor: {hint} ({error})") from error
    return GradientTerms(positive.detach(), negative.detach(), balance.detach()[:, None], 1 / len(u1))


def coupled_predictor_terms(u1: Tensor, u2: Tensor, predictor: Callable[[Tensor], Tensor]) -> GradientTerms:
    """Through a predictor of the whole batch, (n, d) to (n, d), as one with batch norm is.

    With J the Jacobian of the batch: positive J'(u2 / |p|), negative J'(lambda p / |p|), lambda = (p.u2) / (p.p) a
    sample. The balances stand inside the Jacobian, so `balance` is 1. Exact. Calls the predictor once, so one in
    training mode updates its running statistics.

    Raises:
        ObjectiveError: the shapes do not fit.
    """
    _check(u1, u2)
    leaf = u1.detach().requires_grad_()
    with torch.enable_grad():
        prediction = predictor(leaf)
    _check(prediction, u2)
    p = prediction.detach()
    length = _length(p)
    share = (p * u2).sum(1, keepdim=True) / length.pow(3)
    (positive,) = torch.autograd.grad(prediction, leaf, u2 / length, retain_graph=True)
    (negative,) = torch.autograd.grad(prediction, leaf, share * p)
    return GradientTerms(positive, negative, torch.ones_like(p[0, 0]), 1 / len(u1))


def directpred_weight(correlation: Tensor, eps: float = 0.3) -> Tensor:
    """W_h = U diag(sqrt(s / s_max) + eps) U', (d, d), from the correlation F = U diag(s) U' of the embeddings.

    The same predictor up to scale as DirectPred's code, sqrt(s) + eps * sqrt(s_max); the gradient of a cosine does not
    depend on the scale. Where F is zero, W_h = eps I.

    Raises:
        ObjectiveError: F is not square, or eps is below 0.
    """
    return _spectral(correlation, lambda s: s.sqrt() + eps, eps)


def directpred_terms(
    u1: Tensor, u2: Tensor, correlation: Tensor, eps: float = 0.3, form: Form = "exact"
) -> GradientTerms:
    """Through DirectPred's predictor set from `correlation` F (d, d), with F / s_max for F below.

    Positive W_h u2 / |W_h u1|, negative Q u1 / |W_h u1|, balance (u1'W_h u2) / (u1'Q u1).

    - `exact`: Q = W_h'W_h = F + 2 eps F^(1/2) + eps^2 I. With eps = 0, Q = F.
    - `paper`: Q = F + eps^2 I, as printed and as the released code trains; drops 2 eps F^(1/2).
    - `radial`: `paper` with negative F u1; the rest, eps^2 u1, is along u1 and lost in the normaliser.
    - `simplified`: `paper` with positive u2 / |W_h u1| (W_h -> I), on the way to UniGrad.

    Raises:
        ObjectiveError: the shapes do not fit, eps is below 0, or an unknown form.
    """
    _check(u1, u2)
    _check_square(u1, correlation, "correlation")
    weight = directpred_weight(correlation, eps)
    if form == "exact":
        return linear_predictor_terms(u1, u2, weight)
    if form not in ("paper", "radial", "simplified"):
        raise ObjectiveError(f"form must be 'exact', 'paper', 'radial' or 'simplified', got {form!r}")
    length = _length(u1 @ weight)
    q = _spectral(correlation, lambda s: s + eps**2, eps)
    balance = (u1 @ weight * u2).sum(1, keepdim=True) / (u1 @ q * u1).sum(1, keepdim=True).clamp_min(1e-24)
    positive = u2 if form == "simplified" else u2 @ weight
    negative = u1 @ (_spectral(correlation, lambda s: s, eps) if form == "radial" else q)
    return GradientTerms(positive / length, negative / length, balance, 1 / len(u1))


def _spectral(correlation: Tensor, function: Callable[[Tensor], Tensor], eps: float) -> Tensor:
    """U diag(function(s / s_max)) U'."""
    if correlation.ndim != 2 or correlation.shape[0] != correlation.shape[1]:
        raise ObjectiveError(f"correlation must be a (d, d) matrix, got {tuple(correlation.shape)}")
    if not eps >= 0:
        raise ObjectiveError(f"eps must be at least 0, got {eps}")
    s, vectors = torch.linalg.eigh(correlation)
    s = s.clamp_min(0)
    matrix: Tensor = (vectors * function(s / s[-1].clamp_min(torch.finfo(s.dtype).tiny))) @ vectors.T
    return matrix


def _length(p: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(p, dim=1, keepdim=True)
    return norm.clamp_min(1e-12)


def _check(u1: Tensor, u2: Tensor) -> None:
    if u1.ndim != 2 or u1.shape != u2.shape or not len(u1):
        raise ObjectiveError(f"u1 and u2 must both be (n, d), got {tuple(u1.shape)} and {tuple(u2.shape)}")


def _check_square(u: Tensor, matrix: Tensor, name: str) -> None:
    if matrix.shape != (u.shape[1], u.shape[1]):
        raise ObjectiveError(f"{name} must be {(u.shape[1], u.shape[1])} as the embeddings, got {tuple(matrix.shape)}")
