"""Any other encoder: the theory of a linear network read off its embeddings. A heuristic, and judged as one.

The projector's outputs stand for W x of whitened data (X = I): of two views f1, f2, E[f1 f2^T] is F, and along each of
its eigenvectors u the views' own variance gives (1 + sigma2) s. So each mode has its relative noise sigma2, the theory
its rest p_+ and its limit of weight decay, and a predictor that is a matrix a measured p = u^T W_p u beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from siamscope.dynamics.errors import Float
from siamscope.dynamics.prediction import ModeForecast, forecast
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir
from siamscope.training import checkpoint
from siamscope.training.build import build_model
from siamscope.training.progress import Reporter
from siamscope.training.siamese import Siamese
from siamscope.workflow.dynamics.units import Units
from siamscope.workflow.gradients_embed import Images
from siamscope.workflow.points import readable

FLOOR = 1e-4
"""Modes with a smaller share of the largest eigenvalue of F are left out: their noise cannot be told."""


@dataclass(frozen=True, eq=False)
class Moment:
    """The embeddings' modes after `step` steps.

    strength (k,): eigenvalues of F, largest first.  forecast: of each.  p (k,): u^T W_p u, None without a matrix.
    rank: effective rank of F, exp of the entropy of its normalised eigenvalues.  dimension: of the embeddings.
    """

    step: int
    strength: Float
    forecast: ModeForecast
    p: Float | None
    rank: float
    dimension: int


def examine(recipe: Recipe, found: Units, images: Images, run: RunDir | None, reporter: Reporter) -> list[Moment]:
    """The untrained network and, of a run, its last checkpoint."""
    model = build_model(recipe, images.channels)
    out = [moment(0, found, images, model)]
    points = readable(run, recipe, reporter) if run is not None else []
    if points:
        step, _, path = points[-1]
        model.load_state_dict(checkpoint.load(path, recipe).model)
        out.append(moment(step, found, images, model))
    return out


@torch.no_grad()
def moment(step: int, found: Units, images: Images, model: Siamese) -> Moment:
    """The modes of the network's embeddings on these images."""
    embedded = images.embedded(model)
    first, second = (
        np.concatenate([views.online[k].numpy() for views in (embedded.pairs, *embedded.others)]) for k in (0, 1)
    )
    if model.row.normalise == "l2":  # what the loss compares
        first, second = (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-6) for z in (first, second))
    matrix = getattr(model.predictor, "matrix", None)
    w_p = None if matrix is None or matrix.ndim != 2 else matrix.detach().cpu().double().numpy()
    return of_embeddings(step, first, second, found, w_p)


def of_embeddings(step: int, first: Float, second: Float, found: Units, w_p: Float | None) -> Moment:
    """Modes of two views' embeddings (n, d), not centred, as the theory has it."""
    cross = first.T @ second / len(first)
    moment_ = (first.T @ first + second.T @ second) / (2 * len(first))
    values, vectors = np.linalg.eigh((cross + cross.T) / 2)
    kept = values > FLOOR * max(float(values[-1]), 0.0)
    s, u = values[kept][::-1], vectors[:, kept][:, ::-1]
    noise = np.maximum((u * (moment_ @ u)).sum(0) / s - 1, 0.0)
    expected = forecast(np.ones_like(s), noise, found.rates.eta, alpha_p=found.alpha_p, eta_p=found.rates.eta_p)
    p = None if w_p is None else np.asarray((u * (w_p @ u)).sum(0), dtype=np.float64)
    return Moment(step, s, expected, p, _effective_rank(s), len(values))


def _effective_rank(s: Float) -> float:
    share = s / s.sum()
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum()))
