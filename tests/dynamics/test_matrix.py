"""Lemma 1 and theorems 1 and 2 as properties of the matrix flow; the printed forms that do not hold fail."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from siamscope.dynamics import (
    Adaptive,
    DynamicsError,
    EMAModes,
    Euler,
    MatrixFlow,
    gradients,
    hessian,
    objective,
    solve,
    solve_many,
    subspace,
)

FINE = Adaptive(rtol=1e-11, atol=1e-13)
SHAPES = [(6, 4), (5, 5), (4, 6), (7, 3), (3, 2)]  # n1, n2


def data(rng, n1, noise=0.3):
    a, b = rng.standard_normal((2, n1, n1)) / np.sqrt(n1)
    return a @ a.T, noise * b @ b.T


def weights(rng, n1, n2, size=0.6):
    return size * rng.standard_normal((n2, n1)), size * rng.standard_normal((n2, n2))


def differences(function, at, step=1e-5):
    out = np.empty_like(at)
    for i in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[i] = step
        out[i] = (function(at + move) - function(at - move)) / (2 * step)
    return out


@pytest.mark.parametrize(("n1", "n2"), SHAPES)
def test_gradients_of_the_objective(n1, n2):
    """A1: against finite differences; the flow's right-hand side is minus them, less weight decay."""
    rng = np.random.default_rng(n1)
    x, noise = data(rng, n1)
    (w, w_p), (w_a, _) = weights(rng, n1, n2), weights(rng, n1, n2)
    exact = gradients(w, w_p, w_a, x, noise)
    assert np.abs(exact[0] - differences(lambda a: objective(a, w_p, w_a, x, noise), w)).max() < 1e-7
    assert np.abs(exact[1] - differences(lambda a: objective(w, a, w_a, x, noise), w_p)).max() < 1e-7
    assert np.abs(exact[2] - differences(lambda a: objective(w, w_p, a, x, noise), w_a)).max() < 1e-7
    flow = MatrixFlow(x, noise, n2, alpha_p=1.7, eta=0.1, eta_p=0.3, beta=0.4)
    y = flow.start({"W": w, "W_p": w_p, "W_a": w_a})
    moves = flow.layout.unpack(flow.rhs(0.0, y))
    np.testing.assert_allclose(moves["W"], -exact[0] - 0.1 * w, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(moves["W_p"], -1.7 * exact[1] - 0.3 * w_p, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(moves["W_a"], 0.4 * (w - w_a), rtol=1e-12)
    assert flow.objective(y) == pytest.approx(objective(w, w_p, w_a, x, noise))


def test_objective_and_gradients_are_those_of_samples():
    """A1: Monte Carlo with 400,000 pairs of views, to 1 %."""
    rng = np.random.default_rng(1)
    x, noise = data(rng, 4)
    (w, w_p), (w_a, _) = weights(rng, 4, 3), weights(rng, 4, 3)
    n = 400_000
    centre = rng.multivariate_normal(np.zeros(4), x, n)
    x1, x2 = (centre + rng.multivariate_normal(np.zeros(4), noise, n) for _ in range(2))
    gap = x1 @ w.T @ w_p.T - x2 @ w_a.T
    assert (gap**2).sum(1).mean() / 2 == pytest.approx(float(objective(w, w_p, w_a, x, noise)), rel=0.01)
    sampled = w_p.T @ gap.T @ x1 / n, gap.T @ (x1 @ w.T) / n, -gap.T @ x2 / n
    for got, want in zip(sampled, gradients(w, w_p, w_a, x, noise), strict=True):
        assert np.linalg.norm(got - want) < 0.01 * np.linalg.norm(want)


CONFIGS = [
    {"alpha_p": 0.4, "eta": 0.02, "beta": 0.4},
    {"alpha_p": 2.0, "eta": 0.1, "beta": 1.0},
    {"alpha_p": 5.0, "eta": 0.05, "target": "online"},
    {"alpha_p": 0.5, "eta": 0.0, "beta": 0.05},
    {"alpha_p": 3.0, "eta": 0.3, "target": "online"},
]


def run(rng, n1, n2, t1=20.0, save=None, solver=FINE, **options):
    x, noise = data(rng, n1)
    flow = MatrixFlow(x, noise, n2, **options)
    w, w_p = weights(rng, n1, n2)
    parts = {"W": w, "W_p": (w_p + w_p.T) / 2 if flow.predictor == "symmetric" else w_p, "W_a": weights(rng, n1, n2)[0]}
    parts = {name: parts[name] for name in flow.layout.names}
    return flow, solve(flow, parts, t1, save="steps" if save is None else save, solver=solver)


@pytest.mark.parametrize(("shape", "options"), list(zip(SHAPES, CONFIGS, strict=True)))
def test_balance(shape, options):
    """A3, A3b (theorem 1): any data, any widths, W_p not symmetric; not without 1 / alpha_p (appendix)."""
    flow, path = run(np.random.default_rng(3), *shape, **options)
    start, fall = flow.balance(path.y[0]), np.exp(-2 * flow.eta * path.t)[:, None, None]
    assert np.linalg.norm(flow.balance(path.y) - fall * start, axis=(1, 2)).max() < 1e-8
    w, w_p = path["W"], path["W_p"]
    printed = w @ np.swapaxes(w, 1, 2) - np.swapaxes(w_p, 1, 2) @ w_p
    assert np.linalg.norm(printed - fall * printed[0], axis=(1, 2)).max() > 0.1


def test_balance_of_the_symmetric_flow_holds_for_its_trace_only():
    """A3b: assumption 3 breaks theorem 1 as a matrix identity."""
    rng = np.random.default_rng(4)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        flow = MatrixFlow(*subspace(6, 0, 0.3), 4, alpha_p=2.0, eta=0.03, beta=0.5, predictor="symmetric")
        w, w_p = weights(rng, 6, 4)
        path = solve(flow, {"W": w, "W_p": (w_p + w_p.T) / 2, "W_a": 0.3 * w}, 20.0, solver=FINE)
        rest = flow.balance(path.y) - np.exp(-2 * flow.eta * path.t)[:, None, None] * flow.balance(path.y[0])
        assert np.linalg.norm(rest, axis=(1, 2)).max() > 1e-2
        assert np.abs(np.trace(rest, axis1=1, axis2=2)).max() < 1e-8
        assert np.abs(path["W_p"] - np.swapaxes(path["W_p"], 1, 2)).max() == 0


def test_unequal_decay_breaks_balance():
    flow, path = run(np.random.default_rng(5), 5, 4, eta=0.02, eta_p=0.1)
    rest = flow.balance(path.y) - np.exp(-2 * flow.eta * path.t)[:, None, None] * flow.balance(path.y[0])
    assert np.linalg.norm(rest, axis=(1, 2)).max() > 1e-2


def test_euler_is_of_first_order():
    """A2: theorem 1's residual halves with the step."""
    residuals = []
    for step in (0.025, 0.0125, 0.00625):
        flow, path = run(np.random.default_rng(6), 5, 3, 10.0, solver=Euler(step), eta=0.05, beta=0.4)
        rest = flow.balance(path.y) - np.exp(-2 * flow.eta * path.t)[:, None, None] * flow.balance(path.y[0])
        residuals.append(np.linalg.norm(rest, axis=(1, 2)).max())
    ratios = np.array(residuals[:-1]) / residuals[1:]
    assert ((ratios > 1.8) & (ratios < 2.6)).all()


@pytest.mark.parametrize(("n1", "n2"), SHAPES)
def test_hessian_without_stop_gradient(n1, n2):
    """A4 (theorem 2): H is column-major; the bound on |W|. Row-major raveling must not fit."""
    rng = np.random.default_rng(n2)
    x, noise = data(rng, n1)
    noise += 0.05 * np.eye(n1)
    w, w_p = weights(rng, n1, n2)
    flow = MatrixFlow(x, noise, n2, eta=0.03, target="online", stop_gradient=False)
    h = hessian(w_p, x, noise, 0.03)
    move = flow.layout.unpack(flow.rhs(0.0, flow.start({"W": w, "W_p": w_p})))["W"]
    assert np.abs(move.ravel("F") + h @ w.ravel("F")).max() < 1e-12
    assert np.abs(move.ravel("C") + h @ w.ravel("C")).max() > 1e-3
    total = differences(lambda a: objective(a, w_p, a, x, noise), w) + 0.03 * w
    assert np.abs(total.ravel("F") - h @ w.ravel("F")).max() < 1e-7
    path = solve(flow, {"W": w, "W_p": w_p}, 60.0, solver=FINE)
    lowest = min(np.linalg.eigvalsh(hessian(p, x, noise, 0.03))[0] for p in path["W_p"])
    sizes = np.linalg.norm(path["W"], axis=(1, 2))
    assert (sizes <= np.exp(-lowest * path.t) * sizes[0] * (1 + 1e-6)).all()


def test_stop_gradient_is_what_keeps_the_weights():
    """A4: the same network without it goes to 0, with it does not."""
    sizes = {}
    for stop in (True, False):
        flow = MatrixFlow(*subspace(5, 0, 0.1), 4, eta=0.05, target="online", stop_gradient=stop)
        w = np.random.default_rng(0).standard_normal((4, 5))
        path = solve(flow, {"W": w, "W_p": np.eye(4)}, 150.0, save="ends", solver=FINE)
        sizes[stop] = np.linalg.norm(path.final["W"])
    assert sizes[True] > 0.5
    assert sizes[False] < 1e-6


@pytest.mark.parametrize("stop", [True, False])
def test_without_predictor(stop):
    """A4b: W(t) = W0 exp(-(X' + eta) t) with stop-gradient, with 2 X' without; not the other way round."""
    rng = np.random.default_rng(8)
    for n1, n2 in SHAPES:
        x, noise = data(rng, n1)
        w = weights(rng, n1, n2)[0]
        flow = MatrixFlow(x, noise, n2, eta=0.05, target="online", stop_gradient=stop, predictor="none")
        path = solve(flow, {"W": w}, 7.0, solver=FINE)
        for factor in (1, 2):
            want = np.stack([w @ expm(-(factor * noise + 0.05 * np.eye(n1)) * t) for t in path.t])
            gap = np.abs(path["W"] - want).max()
            assert gap < 1e-8 if factor == (1 if stop else 2) else gap > 1e-2


def test_optimal_predictor_keeps_the_weights_from_growing():
    """A13: W W^T = exp(-2 eta t) W0 W0^T; without decay tr W_p goes from this start to the largest eigenvalues' sum."""
    for seed, (n1, n2) in enumerate([(6, 3), (5, 2), (7, 4), (4, 2), (5, 3)]):
        rng = np.random.default_rng(seed)
        flow, path = run(rng, n1, n2, 15.0, predictor="optimal", eta=0.04, beta=0.7)
        gram = path["W"] @ np.swapaxes(path["W"], 1, 2)
        assert np.abs(gram - np.exp(-0.08 * path.t)[:, None, None] * gram[0]).max() < 1e-8
    flow, path = run(np.random.default_rng(1), 6, 3, 4000.0, save="ends", predictor="optimal", target="online")
    best = np.sort(np.linalg.eigvals(flow.x @ np.linalg.inv(flow.moment)).real)[-3:].sum()
    assert np.trace(flow.predictor_at(path.y[-1])) == pytest.approx(best, rel=1e-3)
    assert np.trace(flow.predictor_at(path.y[0])) < best - 0.1


def test_the_trace_of_an_optimal_predictor_cannot_fall_for_white_data_and_weights():
    """X = I, W W^T = c I: d/dt tr W_p = 2 c |N^-1 G|^2, N = W (X + X') W^T; with W W^T of another shape it can fall."""
    rng = np.random.default_rng(13)
    fell = []
    for shape in (np.eye(3), np.diag([1.0, 0.3, 0.1])):
        for _ in range(5):
            noise = data(rng, 6, 1.0)[1]
            flow = MatrixFlow(np.eye(6), noise, 3, predictor="optimal", target="online")
            w = shape @ np.linalg.qr(rng.standard_normal((6, 6)))[0][:3]
            path = solve(flow, {"W": w}, 50.0, solver=FINE)
            fell.append(np.diff(np.trace(flow.predictor_at(path.y), axis1=1, axis2=2)).min())
    assert min(fell[:5]) > -1e-9 and min(fell[5:]) < -1e-6


@pytest.mark.parametrize("isotropic", [True, False])
def test_a_rest_of_smaller_trace_may_attract(isotropic):
    """A13: for other W, tr W_p need not go to the largest sum; exactly if |W_p|^2 > m tr W_p at a rest of two modes
    below m."""
    rng, m = np.random.default_rng(14), np.array([0.9, 0.65, 0.3, 0.1])
    u = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    a = u / np.sqrt(m) if isotropic else u * [0.6, 1.4, 0.9, 1.1] @ np.linalg.qr(rng.standard_normal((4, 4)))[0]
    x, noise = (a * m) @ a.T, (a * (1 - m)) @ a.T
    flow = MatrixFlow((x + x.T) / 2, (noise + noise.T) / 2, 2, predictor="optimal", target="online")
    assert not isotropic or np.allclose(x, np.eye(4))
    edge = np.sqrt(0.9 * 0.95 - 0.65**2 - 0.3**2) / 0.35
    for share, trace in ((0.8, 0.9 + 0.65), (1.2, 0.65 + 0.3)):
        rest = np.array([[1.0, share * edge], [0.0, 1.0]]) @ np.linalg.inv(a)[1:3]
        assert np.abs(flow.rhs(0.0, rest.ravel())).max() < 1e-12
        near = rest + 1e-3 * rng.standard_normal(rest.shape)
        end = solve(flow, {"W": near}, 2000.0, save="ends", solver=Adaptive("LSODA", 1e-9, 1e-12)).y[-1]
        assert np.trace(flow.predictor_at(end)) == pytest.approx(trace, abs=1e-3)


def test_a_batch_of_states_is_the_states_one_by_one():
    rng = np.random.default_rng(10)
    x, noise = data(rng, 5)
    for predictor in ("trained", "none", "optimal"):
        flow = MatrixFlow(x, noise, 3, eta=0.1, predictor=predictor)
        states = rng.standard_normal((4, flow.layout.size))
        together = flow.rhs(0.0, states)
        np.testing.assert_allclose(together, [flow.rhs(0.0, y) for y in states], rtol=1e-12, atol=1e-13)


def test_each_trajectory_may_have_rates_of_its_own():
    rng = np.random.default_rng(11)
    x, noise = data(rng, 5)
    rates = {name: rng.uniform(0.1, 1, 4) for name in ("alpha_p", "eta", "eta_p", "beta")}
    flow = MatrixFlow(x, noise, 3, **rates)
    states = rng.standard_normal((4, flow.layout.size))
    alone = [MatrixFlow(x, noise, 3, **{name: float(v[i]) for name, v in rates.items()}) for i in range(4)]
    want = [one.rhs(0.0, y) for one, y in zip(alone, states, strict=True)]
    np.testing.assert_allclose(flow.rhs(0.0, states), want, rtol=1e-12, atol=1e-13)
    balances = [one.balance(y) for one, y in zip(alone, states, strict=True)]
    np.testing.assert_allclose(flow.balance(states), balances, rtol=1e-12)
    runs = solve_many(flow, states, 5.0, rtol=1e-8, atol=1e-11, block=3)
    ends = [solve(one, y, 5.0, save="ends", solver=FINE).y[-1] for one, y in zip(alone, states, strict=True)]
    np.testing.assert_allclose(runs.y, ends, atol=1e-6)


@pytest.mark.parametrize("equal", [True, False])
def test_commuting_data_part_into_modes(equal):
    """Appendix D: where X, X', W^T W, W_p commute, (p, s, tau) of each mode follow eqs (11) to (13) with its variances.

    The singular vectors stay put and a mode's numbers can be read off; with the variances of X' left out they are
    wrong.
    """
    rng = np.random.default_rng(12)
    n1, n2 = 6, 4
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (n1, n2))
    signal, sigma2 = (np.ones(n1), np.full(n1, 0.1)) if equal else (rng.uniform(0.5, 2, n1), rng.uniform(0, 0.5, n1))
    x, noise = (u * signal) @ u.T, (u * sigma2) @ u.T
    p, w, tau = rng.uniform(0.2, 1, n2), rng.uniform(0.3, 1, n2), rng.uniform(0.2, 1, n2)
    flow = MatrixFlow((x + x.T) / 2, (noise + noise.T) / 2, n2, alpha_p=1.7, eta=0.05, beta=0.4)
    weights = (v * w) @ u[:, :n2].T
    start = {"W": weights, "W_p": (v * p) @ v.T, "W_a": (v * (tau * w)) @ u[:, :n2].T}
    times = np.array([1.0, 5.0, 20.0])
    path = solve(flow, start, 20.0, save=times, solver=FINE)
    inside = v.T @ path["W"] @ u
    assert np.abs(inside * (1 - np.eye(n2, n1))).max() < 1e-9
    diagonals = [np.diagonal(m, axis1=1, axis2=2) for m in (v.T @ path["W_p"] @ v, inside, v.T @ path["W_a"] @ u)]
    got = np.stack([diagonals[0], diagonals[1] ** 2, diagonals[2] / diagonals[1]], axis=-1)
    y0 = np.stack([p, w**2, tau], axis=-1)
    options = {"alpha_p": 1.7, "eta": 0.05, "beta": 0.4, "signal": signal[:n2]}
    run = solve_many(EMAModes(sigma2=sigma2[:n2], **options), y0, 20.0, times=times, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got, run.path, atol=1e-6)
    wrong = solve_many(EMAModes(sigma2=0.0, **options), y0, 20.0, times=times, rtol=1e-9, atol=1e-12)
    assert np.abs(got - wrong.path).max() > 0.01


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"x": np.eye(3)[:2]}, "x"),
        ({"x": np.array([[1.0, 0.5], [0.0, 1.0]])}, "symmetric"),
        ({"x": np.diag([1.0, -0.1])}, "semi-definite"),
        ({"x_noise": np.eye(3)}, "x_noise"),
        ({"x_noise": np.full((2, 2), np.nan)}, "x_noise"),
        ({"x": [["a", "b"], ["c", "d"]]}, "x"),
        ({"eta": -0.1}, "eta"),
        ({"eta_p": -0.1}, "eta_p"),
        ({"beta": np.nan}, "beta"),
        ({"alpha_p": 0.0}, "alpha_p"),
        ({"width": 0}, "width"),
        ({"width": 2.5}, "width"),
        ({"target": "byol"}, "target"),
        ({"predictor": "mlp"}, "predictor"),
        ({"stop_gradient": False}, "stop_gradient"),
    ],
)
def test_bad_parameters_are_named(change, word):
    good = {"x": np.eye(2), "x_noise": np.eye(2), "width": 2}
    with pytest.raises(DynamicsError, match=word):
        MatrixFlow(**(good | change))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"W": np.ones((2, 3))}, "W must have shape"),
        ({"W": np.full((2, 2), np.inf)}, "W holds"),
        ({"W_p": np.array([[1.0, 2.0], [0.0, 1.0]])}, "W_p must be symmetric"),
        ({"V": np.eye(2)}, "parts of a MatrixFlow are W, W_p"),
    ],
)
def test_bad_starts_are_named(change, word):
    flow = MatrixFlow(np.eye(2), np.eye(2), 2, target="online", predictor="symmetric")
    with pytest.raises(DynamicsError, match=word):
        flow.start({"W": np.eye(2), "W_p": np.eye(2)} | change)
