"""The reduced flow of F and W_p: it is the matrix flow's, its commutator (theorem 3), its balance."""

from __future__ import annotations

import numpy as np
import pytest

from siamscope.dynamics import (
    Adaptive,
    DynamicsError,
    EMAModes,
    MatrixFlow,
    Modes,
    ReducedFlow,
    solve,
    solve_many,
    subspace,
)

FINE = Adaptive(rtol=1e-11, atol=1e-13)
CONFIGS = [
    {"alpha_p": 1.0, "eta": 0.04, "sigma2": 0.1},
    {"alpha_p": 5.0, "eta": 0.01, "sigma2": 0.3},
    {"alpha_p": 0.5, "eta": 0.1, "sigma2": 0.0, "tau": 0.8},
    {"alpha_p": 2.0, "eta": 0.02, "sigma2": 0.2, "tau": lambda t: 1 - np.exp(-0.3 * np.asarray(t))},
    {"alpha_p": 1.0, "eta": 0.03, "sigma2": 0.1, "tau": "ema", "beta": 0.4},
    {"alpha_p": 1.5, "eta": 0.02, "eta_p": 0.09, "sigma2": 0.1},
    {"alpha_p": 1.0, "eta": 0.12, "sigma2": 0.1},
]


def start(rng, flow, size=0.3):
    d = flow.width
    w, a = size * rng.standard_normal((2, d, d)) / np.sqrt(d) * 3
    parts = {"F": w @ w.T, "W_p": a @ a.T, "tau": 0.1}
    return flow.start({name: parts[name] for name in flow.layout.names})


def integral(values, t):
    return np.concatenate([[0.0], np.cumsum(np.diff(t) * (values[1:] + values[:-1]) / 2)])


@pytest.mark.parametrize("options", CONFIGS)
def test_commutator(options):
    """A5 (theorem 3): dL/dt = -L K - K L, for any tau(t) and for unequal decay; |L| below both its bounds."""
    flow = ReducedFlow(5, **options)
    path = solve(flow, start(np.random.default_rng(0), flow), 40.0, solver=FINE, save=np.linspace(0, 40, 4001))
    lowest = []
    for t, y in zip(path.t, path.y, strict=True):
        parts, moves = flow.layout.unpack(y), flow.layout.unpack(flow.rhs(t, y))
        k, bracket = flow.k(t, y), flow.commutator(y)
        lowest.append(np.linalg.eigvalsh(k)[0])
        if t in (0, 0.5, 2, 10):
            rate = moves["F"] @ parts["W_p"] - parts["W_p"] @ moves["F"]
            rate += parts["F"] @ moves["W_p"] - moves["W_p"] @ parts["F"]
            assert np.linalg.norm(rate + bracket @ k + k @ bracket) < 1e-6 * np.linalg.norm(rate)
            wrong = k + 0.5 * flow.eta * np.eye(5)  # 2 eta for 3 eta / 2
            assert np.linalg.norm(rate + bracket @ wrong + wrong @ bracket) > 1e-4 * np.linalg.norm(rate)
    sizes = np.linalg.norm(flow.commutator(path.y), axis=(1, 2))
    clear = sizes > 1e-9 * sizes[0]
    bound = sizes[0] * np.exp(-2 * integral(np.array(lowest), path.t))
    assert (sizes[clear] <= bound[clear] * (1 + 1e-5)).all()  # the integral is a trapezoid sum
    signed = sizes[0] * np.exp(-2 * min(lowest) * path.t)
    assert (sizes <= signed * (1 + 1e-6) + 1e-12).all()


def test_alignment_is_certain_only_in_the_window():
    """K stays positive for eta above tau^2 / (9 (1 + sigma2)) on the parabola, not below."""
    signs = {}
    for eta in (0.04, 0.12):
        flow = ReducedFlow(4, eta=eta, sigma2=0.1)
        a = np.random.default_rng(1).standard_normal((4, 4)) / 3
        w_p = a @ a.T
        path = solve(flow, {"F": w_p @ w_p, "W_p": w_p}, 30.0, solver=FINE)
        signs[eta] = min(np.linalg.eigvalsh(flow.k(0.0, y))[0] for y in path.y)
    assert signs[0.04] < 0 < signs[0.12]


def peak(**options):
    """Largest |L| over that at the start, from a small start below the parabola of alpha_p = 1."""
    rng = np.random.default_rng(0)
    flow = ReducedFlow(6, sigma2=0.1, **options)
    u, v = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
    p = rng.uniform(0.1, 0.3, 6)
    turned = u @ np.linalg.qr(np.eye(6) + 0.05 * (v - v.T))[0]
    parts = {"F": (0.2 * turned * p**2) @ turned.T, "W_p": (u * p) @ u.T, "tau": 0.1}
    parts["F"] = (parts["F"] + parts["F"].T) / 2
    parts["W_p"] = (parts["W_p"] + parts["W_p"].T) / 2
    path = solve(flow, {name: parts[name] for name in flow.layout.names}, 150.0, solver=Adaptive(rtol=1e-9))
    sizes = np.linalg.norm(flow.commutator(path.y), axis=(1, 2))
    return sizes.max() / sizes[0]


def test_growth_of_misalignment():
    """A5b, observations 6, 7 and 8: less with more weight decay, a faster predictor, an EMA."""
    by_alpha = [peak(eta=0.04, alpha_p=alpha_p) for alpha_p in (1.0, 5.0, 20.0)]
    assert by_alpha[0] > by_alpha[1] > by_alpha[2]
    by_eta = [peak(eta=eta) for eta in (0.01, 0.04, 0.10)]
    assert by_eta[0] > by_eta[1] > by_eta[2]
    assert by_eta[1] > peak(eta=0.04, tau="ema", beta=0.4)


@pytest.mark.parametrize("options", CONFIGS[:3])
def test_balance_of_the_reduced_flow(options):
    """A3b: dD/dt + 2 eta D = -(1 + sigma2) / 2 [W_p, [W_p, F]] exactly; so theorem 1 holds for the trace alone."""
    flow = ReducedFlow(5, **options)
    y = start(np.random.default_rng(2), flow)
    parts, moves = flow.layout.unpack(y), flow.layout.unpack(flow.rhs(0.0, y))
    square = moves["W_p"] @ parts["W_p"] + parts["W_p"] @ moves["W_p"]
    left = moves["F"] - square / flow.alpha_p + 2 * flow.eta * flow.balance(y)
    assert np.abs(left - flow.balance_source(y)).max() < 1e-10
    assert np.abs(left).max() > 1e-3
    path = solve(flow, y, 20.0, solver=FINE)
    rest = flow.balance(path.y) - np.exp(-2 * flow.eta * path.t)[:, None, None] * flow.balance(path.y[0])
    assert np.linalg.norm(rest, axis=(1, 2)).max() > 1e-3
    assert np.abs(np.trace(rest, axis1=1, axis2=2)).max() < 1e-8


def test_it_is_the_matrix_flow():
    """F = W W^T of the matrix flow with X = I, X' = sigma2 I and target W, predictor symmetric or not (eq. 62)."""
    rng = np.random.default_rng(3)
    w, a = 0.5 * rng.standard_normal((2, 4, 4))
    for predictor in ("symmetric", "trained"):
        w_p = (a + a.T) / 2 if predictor == "symmetric" else a
        matrix = MatrixFlow(*subspace(4, 0, 0.2), 4, alpha_p=2, eta=0.05, target="online", predictor=predictor)
        reduced = ReducedFlow(4, alpha_p=2, eta=0.05, sigma2=0.2, symmetric=predictor == "symmetric")
        long = solve(matrix, {"W": w, "W_p": w_p}, 10.0, save="ends", solver=FINE).final
        short = solve(reduced, {"F": w @ w.T, "W_p": w_p}, 10.0, save="ends", solver=FINE).final
        np.testing.assert_allclose(long["W"] @ long["W"].T, short["F"], atol=1e-9)
        np.testing.assert_allclose(long["W_p"], short["W_p"], atol=1e-9)


def test_a_predictor_without_symmetry_becomes_symmetric():
    """Eq. (62), figure 8: |B| / |B(0)| < 1e-2 at t = 400."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        flow = ReducedFlow(4, eta=0.04, sigma2=0.1, symmetric=False)
        w, a = 0.5 * rng.standard_normal((2, 4, 4))
        path = solve(flow, {"F": w @ w.T, "W_p": np.eye(4) + a}, 400.0, solver=Adaptive(rtol=1e-9))
        skew = np.linalg.norm(path["W_p"] - np.swapaxes(path["W_p"], 1, 2), axis=(1, 2))
        assert skew[-1] < 1e-2 * skew[0] and skew[0] > 0.1
        bracket = np.linalg.norm(flow.commutator(path.y), axis=(1, 2))
        assert bracket[-1] < 1e-2 * bracket[0]


def test_aligned_matrices_are_modes():
    rng = np.random.default_rng(4)
    u, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    p, s = rng.uniform(0.1, 1, (2, 4))
    flow, modes = ReducedFlow(4, alpha_p=2, eta=0.05, sigma2=0.1), Modes(2, 0.05, 0.1)
    f, w_p = ((u * s) @ u.T, (u * p) @ u.T)
    move = flow.layout.unpack(flow.rhs(0.0, flow.start({"F": (f + f.T) / 2, "W_p": (w_p + w_p.T) / 2})))
    rates = modes.rhs(0.0, np.stack([p, s], 1))
    np.testing.assert_allclose(move["W_p"], (u * rates[:, 0]) @ u.T, atol=1e-12)
    np.testing.assert_allclose(move["F"], (u * rates[:, 1]) @ u.T, atol=1e-12)
    k = flow.k(0.0, flow.layout.pack({"F": f, "W_p": w_p}))
    np.testing.assert_allclose(np.diag(u.T @ k @ u), modes.aligned_k(p, s), atol=1e-12)


def test_k_on_a_diagonal_state_with_unequal_decay():
    """Its eigenvalues are each mode's `aligned_k`; the two decays exchanged would give others."""
    rng = np.random.default_rng(5)
    p, s = rng.uniform(0.1, 1, (2, 4))
    for eta, eta_p in ((0.02, 0.11), (0.2, 0.0)):
        flow = ReducedFlow(4, alpha_p=1.7, eta=eta, eta_p=eta_p, sigma2=0.3, tau=0.8)
        k = flow.k(0.0, flow.layout.pack({"F": np.diag(s), "W_p": np.diag(p)}))
        modes = Modes(1.7, eta, 0.3, 0.8, eta_p)
        np.testing.assert_allclose(np.linalg.eigvalsh(k), np.sort(modes.aligned_k(p, s)), atol=1e-13)
        swapped = Modes(1.7, eta_p, 0.3, 0.8, eta)
        assert np.abs(np.linalg.eigvalsh(k) - np.sort(swapped.aligned_k(p, s))).min() > 0.04


def test_tau_of_the_trace_is_that_of_a_mode():
    """Width 1: F, W_p, tau are s, p, tau of eq. (13). Equal modes: the same; others: their mean, weighted by s."""
    rng = np.random.default_rng(6)
    options = {"alpha_p": 1.6, "eta": 0.07, "sigma2": 0.2, "beta": 0.4, "eta_p": 0.03}
    for width, equal in ((1, True), (4, True), (4, False)):
        u = np.linalg.qr(rng.standard_normal((width, width)))[0]
        p, s = rng.uniform(0.2, 1, (2, 1 if equal else width)) * np.ones(width)
        f, w_p = (u * s) @ u.T, (u * p) @ u.T
        start = {"F": (f + f.T) / 2, "W_p": (w_p + w_p.T) / 2, "tau": 0.3}
        flow = ReducedFlow(width, tau="ema", **options)
        got = flow.rhs(0.0, flow.start(start))[-1]
        each = EMAModes(**options).rhs(0.0, np.stack([p, s, np.full(width, 0.3)], 1))
        assert got == pytest.approx((s * each[:, 2]).sum() / s.sum(), rel=1e-12)
        assert abs(each[0, 2] - 0.4 * 0.7) > 0.02  # the term of growth is not small here
        if equal:
            mode = solve(EMAModes(**options), {"p": p[0], "s": s[0], "tau": 0.3}, 20.0, save="ends", solver=FINE)
            whole = solve(flow, start, 20.0, save="ends", solver=FINE)
            assert whole.final["tau"] == pytest.approx(mode.final["tau"], abs=1e-8)
            np.testing.assert_allclose(np.diag(u.T @ whole.final["F"] @ u), mode.final["s"], atol=1e-8)


def test_each_trajectory_may_have_rates_of_its_own():
    rng = np.random.default_rng(9)
    rates = {name: rng.uniform(0.05, 1, 4) for name in ("alpha_p", "eta", "sigma2", "tau", "eta_p")}
    for extra in ({}, {"symmetric": False}, {"tau": "ema", "beta": rng.uniform(0.1, 1, 4)}):
        values = rates | extra
        flow = ReducedFlow(3, **values)
        each = [
            ReducedFlow(3, **{name: float(v[i]) if isinstance(v, np.ndarray) else v for name, v in values.items()})
            for i in range(4)
        ]
        y = np.stack([start(rng, flow) for _ in range(4)])
        for ask in (
            lambda f, y: f.rhs(0.0, y), lambda f, y: f.k(0.0, y), lambda f, y: f.balance(y),
            lambda f, y: f.balance_source(y),
        ):  # fmt: skip
            np.testing.assert_allclose(ask(flow, y), [ask(f, z) for f, z in zip(each, y, strict=True)], atol=1e-13)
        ends = solve_many(flow, y, 3.0, rtol=1e-8, atol=1e-11, block=3).y
        want = [solve(f, z, 3.0, save="ends", solver=FINE).y[-1] for f, z in zip(each, y, strict=True)]
        np.testing.assert_allclose(ends, want, atol=1e-6)


def test_a_batch_is_its_members():
    for options in CONFIGS:
        flow = ReducedFlow(3, **options)
        states = np.stack([start(np.random.default_rng(seed), flow) for seed in range(4)])
        times = np.linspace(0, 1, 4)
        together = flow.rhs(times, states)
        alone = [flow.rhs(float(t), y) for t, y in zip(times, states, strict=True)]
        np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "parts", "word"),
    [
        ({"sigma2": -0.1}, {}, "sigma2"),
        ({"tau": "byol"}, {}, "tau"),
        ({"tau": np.nan}, {}, "tau"),
        ({"width": 0}, {}, "width"),
        ({}, {"F": -np.eye(2)}, "F must be positive"),
        ({}, {"W_p": np.array([[0.0, 1.0], [0.0, 0.0]])}, "W_p must be symmetric"),
        ({}, {"F": np.eye(3)}, "F must have shape"),
    ],
)
def test_bad_input_is_named(options, parts, word):
    with pytest.raises(DynamicsError, match=word):
        ReducedFlow(**({"width": 2} | options)).start({"F": np.eye(2), "W_p": np.eye(2)} | parts)
