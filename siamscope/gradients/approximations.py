"""Approximations of gradients that the literature uses, each beside its exact counterpart, with the error measured.

>>> from siamscope.gradients.approximations import measure
>>> 0.02 < measure("directpred-q", seeds=range(2)).error < 0.5
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from siamscope.gradients import pairs
from siamscope.gradients.pairs import Pair
from siamscope.gradients.predictor import directpred_terms
from siamscope.objectives import ObjectiveError, tangent
from siamscope.objectives.slices import integral_gradient, slice_gradient

Features = Literal["l2", "batch", "none"]


@dataclass(frozen=True)
class Approximation:
    """An approximation: two functions of a pair of views to the gradient w.r.t. the first, (n, d)."""

    name: str
    summary: str
    """What is left out."""
    exact: Callable[[Pair], Tensor]
    approximate: Callable[[Pair], Tensor]
    features: Features = "l2"
    """How the embeddings are normalised; the error is that of what passes the normaliser."""


@dataclass(frozen=True)
class Measured:
    """Errors over the seeds: mean, lowest and highest. `cosine` is that of the two gradients of the batch."""

    name: str
    summary: str
    error: float
    error_low: float
    error_high: float
    cosine: float
    cosine_low: float
    seeds: int


def measure(
    name: str, seeds: Iterable[int] = range(5), *, samples: int = 256, dimensions: int = 64, decay: float = 0.5
) -> Measured:
    """The relative error of an approximation and its cosine to the exact gradient, over random batches, in float64.

    The error is |approximate - exact| / |exact| of the parts that the normaliser lets pass (`l2`: tangent). Batches:
    `pairs.draw`; standard deviations fall as k^-`decay` over the dimensions, positives differ by noise of a third.

    Raises:
        ObjectiveError: unknown name, or no seed.
    """
    if name not in APPROXIMATIONS:
        raise ObjectiveError(f"unknown approximation {name!r} (known: {', '.join(APPROXIMATIONS)})")
    approximation = APPROXIMATIONS[name]
    found = [errors(approximation, pairs.draw(s, samples, dimensions, decay, approximation.features)) for s in seeds]
    if not found:
        raise ObjectiveError("seeds must hold at least one seed")
    relative, cosines = zip(*found, strict=True)
    n = len(found)
    return Measured(
        name, approximation.summary, sum(relative) / n, min(relative), max(relative), sum(cosines) / n, min(cosines), n
    )


def errors(approximation: Approximation, pair: Pair) -> tuple[float, float]:
    """(relative error, cosine) of an approximation on one batch."""
    exact, approximate = (
        _felt(f(pair), pair.u1, approximation.features) for f in (approximation.exact, approximation.approximate)
    )
    size = torch.linalg.vector_norm(exact)
    error = torch.linalg.vector_norm(approximate - exact) / size
    cosine = (approximate * exact).sum() / (size * torch.linalg.vector_norm(approximate))
    return float(error), float(cosine)


def _felt(gradient: Tensor, u: Tensor, features: Features) -> Tensor:
    """What the normaliser's backward lets pass, up to its scale."""
    if features == "l2":
        return tangent(gradient, u)
    if features == "batch":
        centred = gradient - gradient.mean(0)
        return centred - u * (centred * u).mean(0)
    return gradient


# ------------------------------------------------------------------------------------------------------------ the forms


def _directpred(form: Literal["exact", "paper", "simplified"], eps: float = 0.3) -> Callable[[Pair], Tensor]:
    return lambda b: directpred_terms(b.u1, b.u2, b.correlation, eps, form).total


def _barlow(balance: float, identity: bool) -> Callable[[Pair], Tensor]:
    """(2/n) (-A u2 + balance W u2), W = u1'u2 / n, A = I - (1 - balance) diag W, or A = I."""

    def gradient(b: Pair) -> Tensor:
        w = b.u1.T @ b.u2 / b.size
        a = torch.ones_like(w[0]) if identity else 1 - (1 - balance) * w.diagonal()
        return 2 / b.size * (balance * b.u2 @ w.T - a * b.u2)

    return gradient


def _vicreg(variance: bool) -> Callable[[Pair], Tensor]:
    """The official loss (25/25/1) over 25 on unit-length embeddings; without the variance term and C's diagonal."""

    def gradient(b: Pair) -> Tensor:
        n, d = b.u1.shape
        l1, l2, gamma = d / 25, d / 2, 1.0
        balance = 2 * l1 * n**2 / (d * (n - 1) ** 2)
        offset = b.u1 - b.u1.mean(0)
        c = offset.T @ offset / (n - 1)
        main = balance * offset @ (offset.T @ offset) / n - b.u2
        if not variance:
            return 2 / n * main
        std = (c.diagonal() + 1e-4).sqrt()
        hinge = (std < gamma) / std
        bracket = n / (d * balance * (n - 1)) * (2 * l1 * c.diagonal() + l2 / 2 * hinge)
        return 2 / n * (main + b.u1 - balance * bracket * offset)

    return gradient


def _simclr(second: bool, temperature: float = 0.2) -> Callable[[Pair], Tensor]:
    """NT-Xent, of its two brackets (own row, other rows) the first or both."""

    def gradient(b: Pair) -> Tensor:
        everyone = torch.cat([b.u1, b.u2])
        share = (everyone @ everyone.T / temperature).fill_diagonal_(-math.inf).softmax(1)
        total = share @ everyone - everyone.roll(b.size, 0)
        if second:
            total = total + share.T @ everyone - everyone.roll(b.size, 0)
        return total[: b.size] / (temperature * 2 * b.size)

    return gradient


def _keys(own: bool, temperature: float = 0.2) -> Callable[[Pair], Tensor]:
    """Contrastive against a momentum network's keys of both views, with or without the sample's own-view key."""

    def gradient(b: Pair) -> Tensor:
        keys = torch.cat([b.u2, b.key1])
        logits = b.u1 @ keys.T / temperature
        if not own:
            logits[:, b.size :].fill_diagonal_(-math.inf)
        return (logits.softmax(1) @ keys - b.u2) / (temperature * b.size)

    return gradient


def _softmax(linear: bool, temperature: float = 1.0) -> Callable[[Pair], Tensor]:
    """The softmax-weighted mean of the other view's embeddings, or mean + covariance u / temperature."""

    def gradient(b: Pair) -> Tensor:
        if not linear:
            return ((b.u1 @ b.u2.T / temperature).softmax(1) @ b.u2 - b.u2) / b.size
        mean = b.u2.mean(0)
        offset = b.u2 - mean
        return (mean + b.u1 @ (offset.T @ offset) / (b.size * temperature) - b.u2) / b.size

    return gradient


def _gaussian_slices(knots: int | None, slices: int = 16) -> Callable[[Pair], Tensor]:
    """The distance of projections to a standard Gaussian: its integral over the line, or on knots in [0, 3]."""

    def gradient(b: Pair) -> Tensor:
        g = torch.Generator().manual_seed(0)
        random = torch.randn(b.u1.shape[1], slices, generator=g, dtype=b.u1.dtype)
        directions = torch.nn.functional.normalize(random, dim=0)
        x = b.u1 @ directions
        repulsion, confinement = integral_gradient(x) if knots is None else slice_gradient(x, knots)
        return (repulsion + confinement) @ directions.T / slices

    return gradient


_TABLE = (
    Approximation(
        "directpred-q", "DirectPred (eps .3): Q = F + eps^2 I, without 2 eps F^(1/2)",
        _directpred("exact"), _directpred("paper"),
    ),
    Approximation(
        "directpred-identity", "DirectPred (eps .3) as simplified on the way to UniGrad: also W_h -> I in the positive",
        _directpred("exact"), _directpred("simplified"),
    ),
    Approximation(
        "barlow-identity", "Barlow Twins on unit-length embeddings (lambda 3): A -> I",
        _barlow(3.0, False), _barlow(3.0, True),
    ),
    Approximation(
        "barlow-identity-batch", "Barlow Twins on batch-normalised embeddings (lambda .0051): A -> I",
        _barlow(0.0051, False), _barlow(0.0051, True), "batch",
    ),
    Approximation(
        "vicreg-centred", "VICReg (25/25/1) on unit-length embeddings: centred, without the variance term",
        _vicreg(True), _vicreg(False),
    ),
    Approximation(
        "simclr-first-bracket", "SimCLR (tau .2), shared target: only the sample's own row",
        _simclr(True), _simclr(False),
    ),
    Approximation(
        "own-key", "SimCLR with a momentum target (tau .2): the sample's own-view key counts as a negative",
        _keys(False), _keys(True),
    ),
    Approximation(
        "softmax-linear", "Contrastive (tau 1) to UniGrad: softmax mean -> mean + covariance u / tau",
        _softmax(False), _softmax(True),
    ),
    Approximation(
        "sigreg-knots", "SIGReg: 17 knots on [0, 3] in place of the integral",
        _gaussian_slices(None), _gaussian_slices(17), "none",
    ),
)  # fmt: skip

APPROXIMATIONS: dict[str, Approximation] = {a.name: a for a in _TABLE}
