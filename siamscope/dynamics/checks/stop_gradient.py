"""Theorem 2, the network without predictor, and the predictor that is always optimal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import expm

from siamscope.dynamics.checks.common import (
    Rng,
    basis,
    data,
    differences,
    largest,
    path,
    size,
    symmetrised,
    t,
    weights,
    widths,
)  # fmt: skip
from siamscope.dynamics.checks.registry import Claim, Experiment, experiment
from siamscope.dynamics.errors import Float
from siamscope.dynamics.matrix import MatrixFlow, hessian, objective, subspace
from siamscope.dynamics.solve import Adaptive


@experiment(
    Claim("A4", "theorem 2: without stop-gradient dJ/dW + eta W = H vec W, column-major (6)", 1e-7),
    Claim("A4.bound", "|W(t)| <= exp(-t inf lambda_min(H)) |W(0)|: largest excess", 1e-6),
    Claim("A4.control", "H with row-major vec does not fit", 1e-3, "negative control", above=True),
)
def theorem_2(rng: Rng) -> Sequence[float]:
    n1, n2 = widths(rng)
    x, noise = data(rng, n1)
    noise += 0.05 * np.eye(n1)
    (w, w_p), eta = weights(rng, n1, n2), rng.uniform(0.01, 0.1)
    h = hessian(w_p, x, noise, eta)
    total = differences(lambda a: objective(a, w_p, a, x, noise), w) + eta * w
    flow = MatrixFlow(x, noise, n2, eta=eta, target="online", stop_gradient=False)
    move = flow.layout.unpack(flow.rhs(0.0, flow.start({"W": w, "W_p": w_p})))["W"]
    gap = max(largest(total.ravel("F") - h @ w.ravel("F")), largest(move.ravel("F") + h @ w.ravel("F")))
    run = path(flow, {"W": w, "W_p": w_p}, 30.0)
    lowest = min(float(np.linalg.eigvalsh(hessian(p, x, noise, eta))[0]) for p in run["W_p"])
    sizes = size(run["W"])
    excess = float((sizes / (np.exp(-lowest * run.t) * sizes[0])).max()) - 1
    return gap, excess, largest(move.ravel("C") + h @ w.ravel("C"))


@experiment(
    Claim("A4.collapse", "without stop-gradient the network collapses: |W| at t = 150", 1e-6),
    Claim("A4.keeps", "with stop-gradient the same network does not: |W| at t = 150", 0.5, "observation", above=True),
)
def essential(rng: Rng) -> Sequence[float]:
    x, noise = subspace(5, 0, rng.uniform(0.05, 0.2))
    w, eta = rng.standard_normal((4, 5)), rng.uniform(0.04, 0.06)
    sizes = []
    for stop in (False, True):
        flow = MatrixFlow(x, noise, 4, eta=eta, target="online", stop_gradient=stop)
        sizes.append(float(size(path(flow, {"W": w, "W_p": np.eye(4)}, 150.0, "ends").final["W"])))
    return sizes


@experiment(
    Claim("A4b", "no predictor: W(t) = W(0) exp(-(X' + eta) t)", 1e-8),
    Claim("A4b.gradient", "no predictor, no stop-gradient: W(t) = W(0) exp(-(2 X' + eta) t)", 1e-8),
    Claim("A4b.order", "appendix's order of factors, exp(-(X' + eta) t) W(0): does not hold", 1e-2, "erratum", True),
    Claim("A4b.control", "X' in place of 2 X' without stop-gradient: does not hold", 1e-2, "negative control", True),
)
def no_predictor(rng: Rng) -> Sequence[float]:
    n = int(rng.integers(4, 7))
    x, noise = data(rng, n, 0.6)
    w, eta = weights(rng, n, n)[0], rng.uniform(0.01, 0.1)
    runs = {}
    for stop in (True, False):
        flow = MatrixFlow(x, noise, n, eta=eta, target="online", stop_gradient=stop, predictor="none")
        runs[stop] = path(flow, {"W": w}, 5.0, np.linspace(0, 5, 26))
    one, two = (np.stack([expm(-(k * noise + eta * np.eye(n)) * at) for at in runs[True].t]) for k in (1, 2))
    with_stop, without = runs[True]["W"], runs[False]["W"]
    right = largest(with_stop - w @ one), largest(without - w @ two)
    return *right, largest(with_stop - one @ w), largest(without - w @ one)


@experiment(
    Claim("A4b.quiet", "no predictor, eta = 0: what augmentation leaves alone does not collapse", 1e-8),
    Claim("A4b.noisy", "the rest does: |W P_B| at t = 100", 1e-6),
)
def quiet_directions(rng: Rng) -> Sequence[float]:
    u, rank = basis(rng, 6), int(rng.integers(1, 4))
    noise = (u[:, rank:] * rng.uniform(0.3, 1, 6 - rank)) @ u[:, rank:].T
    w = weights(rng, 6, 4)[0]
    flow = MatrixFlow(np.eye(6), (noise + noise.T) / 2, 4, target="online", predictor="none")
    end = path(flow, {"W": w}, 100.0, "ends").final["W"]
    return largest((end - w) @ u[:, :rank]), largest(end @ u[:, rank:])


@experiment(
    Claim("A13", "an optimal predictor at all times: W W^T = exp(-2 eta t) W(0) W(0)^T (observation 2)", 1e-8),
)
def optimal(rng: Rng) -> Sequence[float]:
    n1, n2 = widths(rng)
    x, noise = data(rng, n1)
    flow = MatrixFlow(x, noise, n2, predictor="optimal", eta=rng.uniform(0, 0.1), beta=rng.uniform(0.2, 1))
    w = weights(rng, n1, n2)[0]
    run = path(flow, {"W": w, "W_a": weights(rng, n1, n2)[0]}, 10.0)
    gram = run["W"] @ t(run["W"])
    return [largest(gram - np.exp(-2 * flow.eta * run.t)[:, None, None] * gram[0])]


def _optimal_trace(flow: MatrixFlow, w: Float) -> float:
    """tr W_p at the end over the sum of the largest eigenvalues of X (X + X')^-1."""
    end = path(flow, {"W": w}, 2000.0, "ends", Adaptive("LSODA", 1e-9, 1e-11)).y[-1]
    best = np.sort(np.linalg.eigvals(flow.x @ np.linalg.inv(flow.moment)).real)[-flow.width :].sum()
    return float(np.trace(flow.predictor_at(end)) / best)


@experiment(
    Claim(
        "A13.trace", "X = I, W W^T = c I, eta = 0: tr W_p goes to the sum of the top eigenvalues of X (X + X')^-1", 1e-3
    ),
)
def optimal_trace(rng: Rng) -> Sequence[float]:
    # with N = W (X + X') W^T and S = W X W^T, d/dt tr W_p = 2 tr[G^T N^-2 S G]; S = c I here, so that it cannot fall
    n1, n2 = int(rng.integers(4, 7)), int(rng.integers(2, 4))
    m = np.concatenate([rng.uniform(0.6, 0.95, n2), rng.uniform(0.1, 0.4, n1 - n2)])  # apart: the flow's rate is m - m'
    u = basis(rng, n1)
    flow = MatrixFlow(np.eye(n1), symmetrised((u * (1 / m - 1)) @ u.T), n2, predictor="optimal", target="online")
    return [abs(_optimal_trace(flow, rng.uniform(0.5, 1) * basis(rng, n1)[:n2]) - 1)]


@experiment(
    Claim("A13.rest", "for other X and W a rest with smaller tr W_p may attract: how far below it ends, relative", 0.1,
          "negative control", above=True),
)  # fmt: skip
def lower_rest(rng: Rng) -> Sequence[float]:
    # any X, X' are X = A diag(m) A^T, X + X' = A A^T; rows of A^-1 are the left eigenvectors of X (X + X')^-1. A rest
    # W = R (two of them), W_p = R diag(d) R^-1, yields to a third one if W_p^T (m - W_p) has an eigenvalue above 0. For
    # both d below m its determinant is positive, so that it has none if its trace, m tr W_p - |W_p|^2, is negative.
    m = np.array([rng.uniform(low, high) for low, high in ((0.8, 0.95), (0.6, 0.7), (0.25, 0.35), (0.05, 0.15))])
    a = (basis(rng, 4) * rng.uniform(0.5, 1.5, 4)) @ basis(rng, 4)
    x, noise = symmetrised((a * m) @ a.T), symmetrised((a * (1 - m)) @ a.T)
    top, d = m[0], m[1:3]
    least = np.sqrt(top * d.sum() - np.square(d).sum()) / (d[0] - d[1])
    w = np.array([[1, rng.uniform(1.3, 2) * least], [0, 1]]) @ np.linalg.inv(a)[1:3]
    w += 1e-2 * size(w) * basis(rng, 4)[:2]
    return [1 - _optimal_trace(MatrixFlow(x, noise, 2, predictor="optimal", target="online"), w)]


EXPERIMENTS: tuple[Experiment, ...] = (
    theorem_2, essential, no_predictor, quiet_directions, optimal, optimal_trace, lower_rest,
)  # fmt: skip
