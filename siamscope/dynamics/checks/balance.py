"""Lemma 1 and theorem 1: the objective, its gradients, and W W^T against W_p^T W_p."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siamscope.dynamics.checks.common import (
    FINE,
    Rng,
    data,
    differences,
    largest,
    path,
    size,
    spread,
    symmetrised,
    t,
    weights,
    widths,
)  # fmt: skip
from siamscope.dynamics.checks.registry import Claim, Experiment, experiment
from siamscope.dynamics.errors import Float, Rate
from siamscope.dynamics.matrix import MatrixFlow, gradients, objective, subspace
from siamscope.dynamics.reduced import ReducedFlow
from siamscope.dynamics.sgd import rates
from siamscope.dynamics.solution import Solution
from siamscope.dynamics.solve import Adaptive, Euler


@experiment(
    Claim("A1", "the flow is minus the gradient of J, less weight decay: finite differences (1)-(4)", 1e-7),
)
def lemma_1(rng: Rng) -> Sequence[float]:
    n1, n2 = widths(rng)
    x, noise = data(rng, n1)
    (w, w_p), (w_a, _) = weights(rng, n1, n2), weights(rng, n1, n2)
    alpha_p, eta, eta_p, beta = spread(rng, 0.3, 5), rng.uniform(0, 0.3), rng.uniform(0, 0.3), rng.uniform(0.1, 1)
    flow = MatrixFlow(x, noise, n2, alpha_p=alpha_p, eta=eta, eta_p=eta_p, beta=beta)
    moves = flow.layout.unpack(flow.rhs(0.0, flow.start({"W": w, "W_p": w_p, "W_a": w_a})))
    by_w = differences(lambda a: objective(a, w_p, w_a, x, noise), w)
    by_p = differences(lambda a: objective(w, a, w_a, x, noise), w_p)
    gaps = (moves["W"] + by_w + eta * w, moves["W_p"] / alpha_p + by_p + eta_p / alpha_p * w_p)
    return [max(*(largest(gap) for gap in gaps), largest(moves["W_a"] - beta * (w - w_a)))]


@experiment(
    Claim("A1.samples", "J and its gradients are those of 400,000 sampled pairs of views (relative)", 1e-2),
)
def sampled(rng: Rng) -> Sequence[float]:
    n1, n2, n = 4, 3, 400_000
    x, noise = data(rng, n1)
    x += np.eye(n1) / 2
    (w, w_p), (w_a, _) = weights(rng, n1, n2), weights(rng, n1, n2)
    centre = rng.standard_normal((n, n1)) @ np.linalg.cholesky(x).T
    root = np.linalg.cholesky(noise + 1e-12 * np.eye(n1)).T
    x1, x2 = centre + rng.standard_normal((n, n1)) @ root, centre + rng.standard_normal((n, n1)) @ root
    gap = x1 @ (w_p @ w).T - x2 @ w_a.T
    exact = float(objective(w, w_p, w_a, x, noise))
    worst = abs(float((gap**2).sum()) / (2 * n) / exact - 1)
    means = w_p.T @ (gap.T @ x1) / n, gap.T @ x1 @ w.T / n, -gap.T @ x2 / n
    for got, want in zip(means, gradients(w, w_p, w_a, x, noise), strict=True):
        worst = max(worst, float(size(got - want) / size(want)))
    return [worst]


def _trajectory(rng: Rng, t1: float, solver: Adaptive | Euler = FINE, **options: float) -> tuple[MatrixFlow, Solution]:
    n1, n2 = widths(rng)
    x, noise = data(rng, n1)
    w, w_p = weights(rng, n1, n2)
    target_first = weights(rng, n1, n2)[0]
    if rng.random() < 0.5:
        flow = MatrixFlow(x, noise, n2, **options)  # type: ignore[arg-type]  # floats only
        return flow, path(flow, {"W": w, "W_p": w_p, "W_a": target_first}, t1, solver=solver)
    flow = MatrixFlow(x, noise, n2, target="online", **options)  # type: ignore[arg-type]
    return flow, path(flow, {"W": w, "W_p": w_p}, t1, solver=solver)


def _rest(balance: Float, times: Float, eta: Rate) -> Float:
    """What is left of a balance (T, n, n) that should decay as exp(-2 eta t)."""
    return np.asarray(balance - np.exp(-2 * eta * times)[:, None, None] * balance[0], dtype=np.float64)


@experiment(
    Claim("A3", "theorem 1: W W^T - W_p^T W_p / alpha_p decays as exp(-2 eta t), any data and widths (5)", 1e-8),
    Claim("A3b.alpha", "appendix's theorem 1, without 1 / alpha_p: does not hold", 0.1, "erratum", above=True),
)
def theorem_1(rng: Rng) -> Sequence[float]:
    alpha_p = spread(rng, 2, 5) ** (1 if rng.random() < 0.5 else -1)
    flow, run = _trajectory(rng, 20.0, alpha_p=alpha_p, eta=rng.uniform(0, 0.2), beta=rng.uniform(0.05, 1))
    w, w_p = run["W"], run["W_p"]
    printed = w @ t(w) - t(w_p) @ w_p
    right = _rest(flow.balance(run.y), run.t, flow.eta)
    return float(size(right).max()), float(size(_rest(printed, run.t, flow.eta)).max())


@experiment(
    Claim("A3.decays", "unequal decay: d(W W^T) + 2 eta W W^T = [d(W_p^T W_p) + 2 eta_p W_p^T W_p] / alpha_p", 1e-10),
    Claim("A3.control", "theorem 1 needs equal decay: eta_p = eta + 0.1 breaks it", 1e-2, "negative control", True),
)
def unequal_decay(rng: Rng) -> Sequence[float]:
    eta = rng.uniform(0.01, 0.05)
    flow, run = _trajectory(rng, 20.0, alpha_p=spread(rng, 0.3, 5), eta=eta, eta_p=eta + 0.1, beta=0.5)
    parts, moves = flow.layout.unpack(run.y[0]), flow.layout.unpack(flow.rhs(0.0, run.y[0]))
    w, w_p = parts["W"], parts["W_p"]
    left = moves["W"] @ t(w) + w @ t(moves["W"]) + 2 * eta * w @ t(w)
    right = t(moves["W_p"]) @ w_p + t(w_p) @ moves["W_p"] + 2 * flow.decay_p * t(w_p) @ w_p
    return largest(left - right / flow.alpha_p), float(size(_rest(flow.balance(run.y), run.t, eta)).max())


@experiment(
    Claim("A3b.trace", "assumption 3 (symmetrised flow): the trace of theorem 1 holds", 1e-8),
    Claim("A3b.flow", "assumption 3: theorem 1 as a matrix identity does not hold", 1e-2, "erratum", above=True),
    Claim("A3b.source", "instead: dD/dt + 2 eta D = -(1 + sigma2) / 2 [W_p, [W_p, F]], D = F - W_p^2 / alpha_p", 1e-10),
)
def symmetrised_flow(rng: Rng) -> Sequence[float]:
    n1, sigma2 = 6, rng.uniform(0.1, 0.5)
    flow = MatrixFlow(
        *subspace(n1, 0, sigma2), 4, alpha_p=spread(rng, 0.5, 3), eta=rng.uniform(0.01, 0.05), predictor="symmetric"
    )
    w, w_p = weights(rng, n1, 4)
    w_p = symmetrised(w_p)
    run = path(flow, {"W": w, "W_p": w_p, "W_a": 0.3 * w}, 20.0)
    rest = _rest(flow.balance(run.y), run.t, flow.eta)
    reduced = ReducedFlow(4, alpha_p=flow.alpha_p, eta=flow.eta, sigma2=sigma2, tau=rng.uniform(0.3, 1))
    y = reduced.start({"F": w @ w.T, "W_p": w_p})
    moves = reduced.layout.unpack(reduced.rhs(0.0, y))
    square = moves["W_p"] @ w_p + w_p @ moves["W_p"]
    left = moves["F"] - square / flow.alpha_p + 2 * flow.eta * reduced.balance(y)
    source = largest(left - reduced.balance_source(y))
    return largest(np.trace(rest, axis1=1, axis2=2)), float(size(rest).max()), source


@experiment(
    Claim("A2", "Euler's residual in theorem 1 is of first order in the step: |order - 1|", 0.3),
)
def euler(rng: Rng) -> Sequence[float]:
    n1, n2 = widths(rng)
    x, noise = data(rng, n1)
    w, w_p = weights(rng, n1, n2, 0.4)
    flow = MatrixFlow(x, noise, n2, alpha_p=rng.uniform(0.5, 1.5), eta=0.05, target="online")
    found = []
    for step in (0.02, 0.01, 0.005):
        run = path(flow, {"W": w, "W_p": w_p}, 6.0, solver=Euler(step))
        found.append(float(size(_rest(flow.balance(run.y), run.t, flow.eta)).max()))
    return [largest(np.log2(np.array(found[:-1]) / found[1:]) - 1)]


@experiment(
    Claim(
        "A27.right", "torch's coupled decay with weight_decay / alpha_p on a faster predictor: theorem 1 holds", 1e-8
    ),
    Claim("A27.alpha", "one coupled weight decay for both is eta_p = alpha_p eta: it does not", 1e-2, "erratum", True),
)
def coupled_decay(rng: Rng) -> Sequence[float]:
    alpha_p, decay = rng.uniform(3, 8), rng.uniform(0.03, 0.06)
    state, out = rng.bit_generator.state, []
    for decay_p in (None, decay):
        rng.bit_generator.state = state  # the same network twice
        speed = rates(0.01, decay, alpha_p=alpha_p, weight_decay_p=decay_p)
        flow, run = _trajectory(rng, 15.0, alpha_p=alpha_p, eta=speed.eta, eta_p=speed.eta_p, beta=0.5)
        out.append(float(size(_rest(flow.balance(run.y), run.t, flow.eta)).max()))
    return out


EXPERIMENTS: tuple[Experiment, ...] = (
    lemma_1, sampled, euler, theorem_1, unequal_decay, symmetrised_flow, coupled_decay,
)  # fmt: skip
