"""A linear encoder on real images: what the theory says of each mode of its pixels, and what training made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamscope import views
from siamscope.data.order import IidOrder
from siamscope.dynamics import Adaptive, EMAModes, MatrixFlow, Modes, SetFlow, SetRule, solve, solve_many
from siamscope.dynamics.errors import Float
from siamscope.dynamics.joint import InputModes, input_modes, joint_forecast
from siamscope.dynamics.matrix import Target
from siamscope.dynamics.prediction import ModeForecast, NetworkModes, network_modes, starts
from siamscope.networks.flat import Flat
from siamscope.recipe import Recipe
from siamscope.row import SET_BY_STATISTICS
from siamscope.rundir import RunDir
from siamscope.training import checkpoint
from siamscope.training.build import build_model, specs_of
from siamscope.training.progress import Reporter
from siamscope.training.siamese import Siamese
from siamscope.workflow.dynamics.units import Units, times
from siamscope.workflow.gradients_embed import Images
from siamscope.workflow.points import readable

CHUNK = 512
ENOUGH = 3.0
"""Times 1 / eta that a run should have for its modes to be near rest."""
COARSE = 0.5
"""Rate times curvature above which training was seen to end elsewhere: by 5 % at 0.3, 15 % at 0.9, 33 % at 1.7."""


def is_linear(recipe: Recipe) -> bool:
    """Whether encoder and predictor are single matrices and the loss is the theory's: then nothing is a heuristic."""
    row = recipe.method
    return (
        recipe.network.backbone == "linear"
        and row.projector.layers == 0
        and row.predictor not in ("mlp", "symmetric-mlp")
        and not row.predictor_bias
        and row.objective == "asymmetric"
        and row.distance == "euclidean"
        and row.normalise == "none"
    )


@dataclass(frozen=True, eq=False)
class Course:
    """Weights of a run. steps (T,), W (T, n2, n), W_p (T, n2, n2); the first is step 0."""

    steps: Float
    w: Float
    w_p: Float


@dataclass(frozen=True, eq=False)
class Linear:
    """The data's modes, what the theory says of each, and the network's course as predicted and, of a run, as trained.

    forecast, directions (k, m): of the data's modes; rests are NaN where there is none, see `rests`.
    flow: the network's modes at each time by the flow of the matrices; `trained`: of the run.
    alone: p and s (T, m) of each data mode by itself from its own start; None where that is not the question.
    """

    data: InputModes
    forecast: ModeForecast
    directions: Float
    steps: Float
    times: Float
    flow: NetworkModes
    alone: tuple[Float, Float] | None
    trained: NetworkModes | None
    images: int


def examine(recipe: Recipe, found: Units, images: Images, run: RunDir | None, keep: int, reporter: Reporter) -> Linear:
    """Modes from the images' views, the theory's courses from the weights at step 0, and those of a run.

    Without a run the courses go to the recipe's last step.

    Raises:
        DynamicsError: no weight decay, or views that share nothing.
    """
    model = build_model(recipe, images.channels)
    reporter.say("estimating X and X' from the images' views")
    data = input_modes(*view_moments(recipe, images, model), keep)
    expected, directions = joint_forecast(data, found.rates.eta, alpha_p=found.alpha_p, eta_p=found.rates.eta_p)
    per_epoch = IidOrder(images.total, min(recipe.train.batch_size, images.total), recipe.train.seed).steps_per_epoch
    expected = rests(recipe, expected)
    w, w_p = weights(model)
    course = None
    steps = np.unique(np.linspace(0, recipe.train.steps or max(round(recipe.train.epochs * per_epoch), 1), 61).round())
    if run is not None:
        course = of_run(run, recipe, images.channels, reporter)
        steps = course.steps
    at = times(found, recipe, per_epoch, int(steps[-1]))[steps.astype(int)]
    reporter.say("solving the flow")
    return Linear(
        data, expected, directions, steps, at,
        flow(recipe, found, data, w, w_p, at),
        alone(recipe, found, expected, starts(w @ data.basis, w_p, directions), at),
        None if course is None else network_modes(course.w @ data.basis, course.w_p),
        images.count,
    )  # fmt: skip


def rests(recipe: Recipe, expected: ModeForecast) -> ModeForecast:
    """The forecast, which is of a trained predictor with stop-gradient, for the recipe's kind.

    Without predictor or stop-gradient, or with an optimal predictor, no mode rests but at 0, whatever the decay. A
    predictor that is set has other rests, which the flow finds: p and s are NaN.
    """
    none = np.full_like(expected.p_high, np.nan)
    if dies(recipe):
        nothing = np.zeros_like(none)
        return replace(expected, p_low=none, p_high=none, strength=nothing, eta_limit=nothing)
    return expected if set_rule(recipe) is None else replace(expected, p_low=none, p_high=none, strength=none)


def dies(recipe: Recipe) -> bool:
    """Whether nothing is learnt whatever the numbers: theorem 2, or a predictor that is optimal at all times."""
    return recipe.method.predictor in ("none", "optimal") or recipe.method.target == "shared"


def weights(model: Siamese) -> tuple[Float, Float]:
    """W (n2, n) and W_p (n2, n2) as float64."""
    assert isinstance(model.online.backbone, Flat)  # is_linear
    w = model.online.backbone.matrix
    assert w is not None
    p = getattr(model.predictor, "matrix", None)
    matrix = torch.eye(len(w)) if p is None else p
    return _array(w), _array(matrix)


def _array(a: Tensor) -> Float:
    return np.asarray(a.detach().cpu().double().numpy(), dtype=np.float64)


@torch.no_grad()
def view_moments(recipe: Recipe, images: Images, model: Siamese) -> tuple[Float, Float]:
    """X and X' (n, n) of the encoder's input: over pairs of views, X = E[x1 x2^T], X' = E[(x1 - x2)(x1 - x2)^T] / 2."""
    flat = model.online.backbone
    assert isinstance(flat, Flat)
    size = int(np.prod(flat.shape))
    total, gap = torch.zeros(2, size, size)  # float32: rounding is far below the error of sampling
    count = 0
    for number, batch in enumerate(part for many in images.batches for part in torch.split(many, CHUNK)):
        generator = torch.Generator().manual_seed(recipe.train.seed * 1_000_003 + 500_009 + number)
        pair = views.make_views(
            batch, specs_of(recipe)[:2], generator,
            colour=recipe.views.colour, mean=images.norm.mean, std=images.norm.std,
        )  # fmt: skip
        a, b = (flat.flattened(view) for view in pair)
        gap.addmm_((a - b).T, a - b)
        total.addmm_((a + b).T, a + b)
        count += len(batch)
    noise = _array(gap) / (2 * count)
    mean = _array(total) / (4 * count) - noise / 2  # E[(x1 + x2)(x1 + x2)^T] / 4 = X + X' / 2
    return (mean + mean.T) / 2, (noise + noise.T) / 2


def of_run(run: RunDir, recipe: Recipe, channels: int, reporter: Reporter) -> Course:
    """The weights at step 0, which the seed gives, and at every checkpoint that is kept."""
    model = build_model(recipe, channels)
    steps, every = [0], [weights(model)]
    for step, _, path in readable(run, recipe, reporter):
        model.load_state_dict(checkpoint.load(path, recipe).model)
        steps.append(step)
        every.append(weights(model))
    w, w_p = (np.stack([pair[k] for pair in every]) for k in (0, 1))
    return Course(np.array(steps, dtype=np.float64), w, w_p)


def flow(recipe: Recipe, found: Units, data: InputModes, w: Float, w_p: Float, at: Float) -> NetworkModes:
    """The network's modes at these times by the flow of the matrices; directions outside `data` are left out.

    NaN after the time at which the solver gave up.
    """
    row, speed = recipe.method, found.rates
    start: dict[str, Float] = {"W": w @ data.basis}
    target: Target = "ema" if row.target == "momentum" else "online"
    system: MatrixFlow | SetFlow
    if (rule := set_rule(recipe)) is not None:
        system = SetFlow(data.x, data.x_noise, len(w), speed.eta, rule, "views", target, speed.beta)
    else:
        kinds: dict[str, Any] = {"none": "none", "linear": "trained", "symmetric": "symmetric", "optimal": "optimal"}
        system = MatrixFlow(
            data.x, data.x_noise, len(w), alpha_p=found.alpha_p, eta=speed.eta, beta=speed.beta, eta_p=speed.eta_p,
            target=target, stop_gradient=row.target != "shared",
            predictor=kinds[row.predictor],
        )  # fmt: skip
    start |= {name: part for name, part in (("W_p", w_p), ("W_a", start["W"])) if name in system.layout.names}
    path = solve(system, start, float(at[-1]), save=at, solver=Adaptive(rtol=1e-6, atol=1e-9))
    modes = network_modes(path["W"], system.predictor_at(path.y))
    lost = len(at) - len(path.t) + (path.status != "done")  # where it gave up, the last state is not one asked for
    if lost <= 0:
        return modes
    p, rows = np.full((len(at), len(w)), np.nan), np.full((len(at), *modes.rows.shape[1:]), np.nan)
    p[: len(at) - lost], rows[: len(at) - lost] = modes.p[: len(at) - lost], modes.rows[: len(at) - lost]
    return NetworkModes(p, rows)


def alone(
    recipe: Recipe, found: Units, expected: ModeForecast, start: tuple[Float, Float], at: Float
) -> tuple[Float, Float] | None:
    """p and s (T, m) of each data mode by itself; None if the predictor is not trained, or without stop-gradient."""
    row, speed = recipe.method, found.rates
    if row.predictor not in ("linear", "symmetric") or row.target == "shared":
        return None
    p, s = start
    signal = np.maximum(expected.signal, 1e-12 * expected.signal.max())
    about: dict[str, Any] = {"alpha_p": found.alpha_p, "eta": speed.eta, "eta_p": speed.eta_p, "signal": signal}
    parts = {"p": p, "s": s}
    if row.target == "momentum":
        system: Modes = EMAModes(sigma2=expected.sigma2, beta=speed.beta, **about)
        parts["tau"] = np.ones_like(s)
    else:
        system = Modes(sigma2=expected.sigma2, **about)
    if len(at) == 1:
        return p[None], s[None]
    paths = solve_many(system, parts, float(at[-1]), times=at[1:]).paths
    return np.concatenate([p[None], paths["p"]]), np.concatenate([s[None], paths["s"]])


def set_rule(recipe: Recipe) -> SetRule | None:
    """The rule of a predictor that is set from F, or None."""
    row, o = recipe.method, recipe.method.predictor_options
    if row.predictor not in SET_BY_STATISTICS or row.predictor == "optimal":
        return None
    if row.predictor == "directpred":
        return SetRule(0.5, o.eps, o.shift, o.rule)
    return SetRule(o.power if row.predictor == "directset" else 1.0, o.eps, 0.0, "code")


def further(recipe: Recipe, found: Units, seen: Linear) -> list[str]:
    """The notes on the recipe, and those on this encoder's prediction."""
    o, said = recipe.method.predictor_options, list(found.notes)
    if set_rule(recipe) is not None:
        said.append("limits are those of a trained predictor; where this one, which is set, rests, the flow tells")
        if o.every > 1 or o.centred or o.partitions > 1 or o.norm != "spectral":
            said.append("the flow's predictor is set at all times from the whole F, uncentred, over its spectral norm")
    width, living = seen.flow.p.shape[1], int(seen.forecast.can_survive.sum())
    if living > width:
        said.append(f"{living} modes could live, but the embedding has {width} dimensions: the start decides which do")
    if found.rates.eta > 0 and seen.times[-1] < ENOUGH / found.rates.eta:
        needed = ENOUGH / found.rates.eta / found.rates.time
        said.append(
            f"the run is short: rest is {needed:.0f} steps away or more, and it has {int(seen.steps[-1])}; what can "
            "survive is said of the rest, flow and alone of the run's last step"
        )
    coarse = coarseness(found, seen.forecast)
    if coarse > COARSE:
        said.append(
            f"steps are coarse: rate times curvature reaches {coarse:.1f} (the flow is a guide below {COARSE:g}); "
            "lower the learning rate, or expect modes to end elsewhere"
        )
    return said


def coarseness(found: Units, expected: ModeForecast) -> float:
    """The flow's time of a step times the largest curvature of J at rest, (signal + sigma2) (p^2 + alpha_p s)."""
    p, s = np.nan_to_num(expected.p_high), np.where(np.isfinite(expected.strength), expected.strength, 0.0)
    return float((found.rates.time * (expected.signal + expected.sigma2) * (p**2 + found.alpha_p * s)).max())
