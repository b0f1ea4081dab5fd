"""A recipe's optimiser and loss in the units of the theory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siamscope.dynamics import Rates
from siamscope.dynamics.errors import Float
from siamscope.recipe import Recipe
from siamscope.training.optim import rate_factor
from siamscope.training.theory import LOSS, flow_rates


class PredictError(ValueError):
    """A recipe or run about which the theory says nothing; the message says why and what to do."""


@dataclass(frozen=True)
class Units:
    """rates: of the flow, at the optimiser's peak rate.  alpha_p: the predictor's rate over the encoder's.

    loss: how many times the theory's J the loss is.  weight_decay: the recipe's.  per_step: whether that is the share
    by which a step shrinks weights, and not coupled to the learning rate.
    notes: where the recipe leaves the theory's ground; empty if it does not.
    """

    rates: Rates
    alpha_p: float
    loss: float
    weight_decay: float
    per_step: bool
    notes: tuple[str, ...]

    def as_weight_decay(self, eta: Float) -> Float:
        """eta in the recipe's own unit of weight decay."""
        return eta * (self.rates.time if self.per_step else self.loss)


def units(recipe: Recipe) -> Units:
    """The theory's rates for a recipe.

    See `siamscope.training.theory.flow_rates`.

    Raises:
        PredictError: an objective that is not the squared distance or the cosine of prediction and target, or a target
            that another encoder gives.
    """
    optim, row = recipe.optim, recipe.method
    if row.target == "teacher":
        raise PredictError("with a teacher as target there is no collapse to predict: its features stay as they are")
    if row.objective != "asymmetric":
        raise PredictError(
            f"method {row.name!r} has the objective {row.objective!r}; the theory is of methods without negatives, "
            "which pull a prediction to a target (objective 'asymmetric': SimSiam, BYOL, DirectPred, ...)"
        )
    loss, per_step = LOSS[row.distance], optim.decay == "per-step"
    found = flow_rates(recipe)
    return Units(found, optim.predictor_lr, loss, optim.weight_decay, per_step, tuple(_notes(recipe)))


def times(found: Units, recipe: Recipe, steps_per_epoch: int, steps: int) -> Float:
    """(steps + 1,) the flow's time after each step, with warm-up and schedule."""
    total = recipe.train.steps or max(round(recipe.train.epochs * steps_per_epoch), 1)
    warmup = round(recipe.optim.warmup_epochs * steps_per_epoch)
    factors = [rate_factor(k, total, warmup, recipe.optim.final_lr) for k in range(1, steps + 1)]
    return np.concatenate([[0.0], np.cumsum(factors) * found.rates.time])


def _notes(recipe: Recipe) -> list[str]:
    optim, row = recipe.optim, recipe.method
    said = []
    if optim.name != "sgd":
        said.append(f"{optim.name} rescales gradients; time and weight decay are those that SGD would have at its rate")
    if row.normalise != "none" or row.distance == "cosine":
        said.append("embeddings are normalised; the theory's are not, and its scale and thresholds need not hold")
    if optim.final_lr != 1 or optim.warmup_epochs:
        said.append("the rate has a schedule: time follows it, beta (and a decay per step) are taken at the peak")
    if row.regulariser != "none":
        said.append("the theory has no regulariser")
    if row.target == "momentum" and row.momentum_end != row.momentum:
        said.append("the target's momentum has a schedule; beta is taken at its start")
    if optim.exclude_norm_and_bias:
        said.append("biases and normalisation layers have no weight decay; the theory has neither")
    if recipe.views.local_crops or recipe.views.cutmix:
        said.append("local crops and CutMix are not in the theory; the two global views are used")
    return said
