"""A recipe's optimiser and a run's linear predictor in the units of the theory of learning dynamics, while training.

Source: Tian, Chen & Ganguli 2021 (arXiv:2102.06810), whose loss is J = E|W_p f1 - f_a2|^2 / 2 and whose flow is
dW_p/dt = -alpha_p dJ/dW_p - eta_p W_p, dW/dt = -dJ/dW - eta W.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siamscope import collapse, dynamics
from siamscope.networks.flat import Flat
from siamscope.recipe import Recipe
from siamscope.training.optim import peak_rate, predictor_weight_decay
from siamscope.training.siamese import Siamese

Float = NDArray[np.float64]
Lag = Callable[[], tuple[Tensor, Tensor] | None]


LOSS = {"euclidean": 2.0, "cosine": 1.0}
"""How many times J the loss is: minus the cosine is half the squared distance of unit vectors."""


def flow_rates(recipe: Recipe) -> dynamics.Rates:
    """The flow's rates for a recipe whose objective is asymmetric; of another optimiser than SGD, as if it were SGD.

    The loss is c J. A step of rate lr is a time of c lr / (1 - momentum). Coupled decay, which goes with the gradient
    of c J, makes eta = weight_decay / c and, with the predictor's rate, eta_p = alpha_p weight_decay_p / c. Decay per
    step is over that time, at the rate after warm-up.

    Raises:
        DynamicsError: a rate of 0.
    """
    config, row = recipe.optim, recipe.method
    scale = LOSS[row.distance]
    share = 1.0 if config.decay == "per-step" else 1 / scale
    return dynamics.rates(
        scale * peak_rate(config, recipe.train.batch_size),
        config.weight_decay * share,
        decay="per step" if config.decay == "per-step" else "coupled",
        momentum=0.0 if config.name == "adamw" else config.momentum,
        ema=row.momentum if row.target == "momentum" else 0.0,
        alpha_p=config.predictor_lr,
        weight_decay_p=predictor_weight_decay(config) * share,
    )


@dataclass(frozen=True)
class Rates:
    """What the monitor needs of them: weight decays of encoder and predictor, and the predictor's rate."""

    eta: float
    eta_p: float
    alpha_p: float


def rates(recipe: Recipe) -> Rates | None:
    """The same; None where there is no such flow: another optimiser than SGD, negatives, a teacher, no rate."""
    config = recipe.optim
    lr = peak_rate(config, recipe.train.batch_size) * config.predictor_lr
    if (
        recipe.method.objective != "asymmetric"
        or recipe.method.target == "teacher"
        or config.name != "sgd"
        or config.momentum >= 1
        or not lr
    ):
        return None
    flow = flow_rates(recipe)
    return Rates(flow.eta, flow.eta_p, config.predictor_lr)


def figures(model: Siamese, found: Rates | None, first: Tensor, second: Tensor, lag: Lag) -> dict[str, float]:
    """What the theory speaks of, for a predictor that is a matrix; see `siamscope.collapse` for the formulas.

    - target_share (tau) and noise_ratio (sigma2);
    - of a predictor that gradients train, with rates: k_smallest, the least eigenvalue of K (theorem 3): above 0,
      predictor and correlation align; and balance (theorem 1);
    - of a linear encoder without projector: weight_balance, theorem 1's own, of W W^T in place of F.

    With L2 normalisation F, tau and sigma2 are those of the unit vectors that the loss compares. The theory is of
    embeddings as they come: then k_smallest is a heuristic, whose sign and trend say more than its size, and balance
    has a scale of W_p in it that the loss does not see. Without normalisation and with data far from X = I, K takes the
    mean strength of the data in the embedding, tr(W X W^T) / tr(W W^T), where the encoder is linear, and 1 elsewhere.

    Args:
        first, second: embeddings (n, d) of two views of the same images.
        lag: gives embeddings of the same images by the online network and by the momentum target, if there is one.
    """
    matrix = getattr(model.predictor, "matrix", None)
    if matrix is None or matrix.ndim != 2:
        return {}
    views = [_seen(model, z) for z in (first, second)]
    both = [_seen(model, z) for z in lag() or ()]
    if not all(bool(torch.isfinite(z).all()) and bool(z.any()) for z in (*views, *both[:1])):
        return {}  # the assessment of the embeddings says so
    tau, sigma2 = collapse.target_share(*both) if both else 1.0, collapse.noise_ratio(*views)
    out = {"target_share": tau, "noise_ratio": sigma2}
    if found is not None and matrix.requires_grad and math.isfinite(sigma2):
        w = matrix.detach().double().cpu().numpy()
        out |= _of_trained(model, found, collapse.common_correlation(*views), w, tau, sigma2)
    return {name: value for name, value in out.items() if math.isfinite(value)}


def _of_trained(
    model: Siamese, found: Rates, correlation: Float, w: Float, tau: float, sigma2: float
) -> dict[str, float]:
    """What theorems 1 and 3 say of a predictor W that gradients train."""
    out, signal = {"balance": collapse.balance(correlation, w, found.alpha_p)}, 1.0
    encoder = _linear_encoder(model)
    if encoder is not None:
        gram = encoder @ encoder.T
        signal = float(np.trace(correlation) / np.trace(gram))
        out["weight_balance"] = collapse.balance(gram, w, found.alpha_p)
    k = collapse.k_matrix(
        correlation, w, tau=tau, sigma2=sigma2, eta=found.eta, eta_p=found.eta_p, alpha_p=found.alpha_p, signal=signal
    )
    return out | {"k_smallest": collapse.smallest_eigenvalue(k)}


def _seen(model: Siamese, z: Tensor) -> Tensor:
    """Embeddings as the theory's f: unit vectors if the loss normalises to those."""
    z = z.double()
    return F.normalize(z, dim=1) if model.row.normalise == "l2" else z


def _linear_encoder(model: Siamese) -> Float | None:
    """W (d, n), where embeddings are W x and nothing else."""
    backbone = model.online.backbone
    w = backbone.matrix if isinstance(backbone, Flat) else None
    if w is None or model.row.projector.layers or model.row.normalise != "none":
        return None
    out: Float = w.detach().double().cpu().numpy()
    return out
