"""Predictors set from F: rules, modes, the subspace theorem, weight decay as a threshold; appendix D."""

from __future__ import annotations

import numpy as np
import pytest

from siamscope.dynamics import (
    Adaptive,
    DynamicsError,
    MatrixFlow,
    Modes,
    ScalarNetwork,
    SetFlow,
    SetModes,
    SetRule,
    Steady,
    SubspaceTheorem,
    apply_rule,
    fixed_points,
    jacobian,
    largest_decay,
    largest_noise,
    multiplicative,
    solve,
    solve_many,
    subspace,
)

FINE = Adaptive(rtol=1e-10, atol=1e-12)
NUMBERS = {"alpha_p": 1.7, "eta": 0.06, "eta_p": 0.11, "signal": 0.6, "sigma2": 0.3}


def end(system, parts, t1=3000.0):
    return solve(system, parts, t1, save="ends", solver=FINE).final


def test_rules():
    """Eq. 18, the code's rule (in proportion to sqrt(s) + eps sqrt(max s), not eq. 18), DirectSet's."""
    s = np.random.default_rng(0).uniform(0, 3, (5, 6))
    top = s.max(1, keepdims=True)
    np.testing.assert_allclose(SetRule(eps=0.1)(s), np.sqrt(s) + 0.1 * top, rtol=1e-12)
    code = SetRule(eps=0.1, boost="code")(s)
    np.testing.assert_allclose(code * np.sqrt(top), np.sqrt(s) + 0.1 * np.sqrt(top), rtol=1e-12)
    assert np.abs(code * np.sqrt(top) - SetRule(eps=0.1)(s)).max() > 0.01
    np.testing.assert_allclose(SetRule(1.0, 0.2, boost="plain")(s), s + 0.2, rtol=1e-12)
    np.testing.assert_allclose(SetRule(shift=0.5)(s), np.sqrt(np.maximum(s - 0.5, 0)), rtol=1e-12)
    np.testing.assert_allclose(SetRule(eps=0.1, largest=2.0)(s), np.sqrt(s) + 0.2, rtol=1e-12)
    w = np.random.default_rng(1).standard_normal((3, 4, 6))
    f = w @ np.swapaxes(w, 1, 2)
    w_p = apply_rule(SetRule(), f)
    np.testing.assert_allclose(w_p @ w_p, f, atol=1e-12)
    assert np.abs(f @ w_p - w_p @ f).max() < 1e-10


def test_directpred_has_the_rests_of_a_trained_predictor():
    """A16: p_-, p_+ of `Modes` with alpha_p = 1, and collapse below."""
    low, high = (float(p) for p in Modes(eta=0.04, sigma2=0.1).roots())
    flow = SetModes(eta=0.04, sigma2=0.1)
    for start, limit in ((0.9 * low, 0.0), (1.1 * low, high), (1.5, high)):
        assert end(flow, {"s": [start**2]})["s"][0] == pytest.approx(limit**2, abs=1e-6)
    assert np.abs(flow.rhs(0.0, np.array([high**2]))).max() < 1e-12


def test_shift_of_the_eigenvalues():
    """A16: c = -0.05 leaves no collapse; c = 0.05 kills what is at or below it."""
    below = SetModes(eta=0.04, sigma2=0.1, rule=SetRule(shift=-0.05))
    for start in (1e-6, 0.02, 1.0):
        assert end(below, {"s": [start]})["s"][0] == pytest.approx(0.702, abs=0.01)
    above = SetModes(eta=0.04, sigma2=0.1, rule=SetRule(shift=0.05))
    assert end(above, {"s": [0.02]})["s"][0] < 1e-6
    assert end(above, {"s": [0.2]})["s"][0] > 0.5


def test_boost_of_small_eigenvalues():
    """A16: a mode near 0 grows if eps max(s) is above p_- = 0.0419: 0.05 dies, 0.1 ends at 0.627, 0.5 at 0.241."""
    for eps, limit in ((0.05, 0.0), (0.1, 0.627), (0.5, 0.241)):
        flow = SetModes(eta=0.04, sigma2=0.1, rule=SetRule(eps=eps, largest=0.752))
        assert end(flow, {"s": [1e-8]})["s"][0] == pytest.approx(limit, abs=0.01)
    coupled = SetModes(2, eta=0.04, sigma2=0.1, rule=SetRule(eps=0.1))
    assert end(coupled, {"s": [0.5, 1e-8]})["s"] == pytest.approx([0.6445, 0.6445], abs=1e-3)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("sigma2", "eta"), [(2.0, 0.12), (1.0, 0.2), (4.0, 0.07)])
def test_subspace_theorem(power, sigma2, eta):
    """A17: W -> scale P_S from above the threshold, 0 from below; F of the weights or of the views."""
    theorem = SubspaceTheorem(eta, sigma2, power)
    assert theorem.inside
    x, noise = subspace(6, 3, sigma2)
    keep = np.diag((np.arange(6) < 3).astype(float))
    for correlation in ("weights", "views"):
        flow = SetFlow(x, noise, 6, eta, SetRule(power, boost="plain"), correlation)
        got = end(flow, {"W": 1.1 * theorem.threshold * np.eye(6)}, 600.0)["W"]
        assert np.linalg.norm(got - theorem.scale * keep) < 1e-6
        gone = end(flow, {"W": 0.9 * theorem.threshold * np.eye(6)}, 600.0)["W"]
        assert np.linalg.norm(gone) < 1e-6


def test_outside_the_theorem_noise_is_kept():
    """Below the window of eta the noisy half stays too; above it the theorem has no numbers."""
    x, noise = subspace(6, 3, 0.5)
    low = SubspaceTheorem(0.1, 0.5, 1.0)
    assert not low.inside
    got = end(SetFlow(x, noise, 6, 0.1, SetRule(1.0, boost="plain")), {"W": 0.9 * np.eye(6)}, 600.0)["W"]
    assert np.linalg.norm(got[:, 3:]) > 0.5
    assert np.isnan(SubspaceTheorem(0.26, 3.0).scale)


@pytest.mark.parametrize("power", [0.5, 1.0, None])
def test_weight_decay_is_a_threshold(power):
    """A18: what survives is exactly sigma2 < 1 / (4 eta) - 1, for DirectSet and (None) a trained predictor."""
    sigma2 = np.array([0, 0.1, 0.3, 0.6, 0.9, 1.2, 2.0, 4.0])
    for eta in (0.04, 0.07, 0.1, 0.15, 0.2):
        if power is None:
            flow = Modes(eta=eta, sigma2=sigma2)
            ends = solve_many(flow, {"p": np.full(8, 0.6), "s": np.full(8, 0.36)}, 1e5, stop=Steady())["s"]
        else:
            flow = SetModes(8, eta, sigma2, rule=SetRule(power, boost="plain"))
            ends = end(flow, {"s": np.full(8, 0.6 ** (1 / power))}, 4000.0)["s"]
        assert np.array_equal(ends > 1e-4, sigma2 < largest_noise(eta))
        assert np.array_equal(ends > 1e-4, eta < largest_decay(sigma2))
        assert (ends > 1e-4).sum() > 0
    assert largest_noise(0.1, signal=0.5) == pytest.approx(0.125)
    assert largest_decay(0.125, signal=0.5) == pytest.approx(0.1)


def test_modes_of_a_set_flow():
    """SetModes is what SetFlow does to W's singular values when everything commutes."""
    s = np.array([0.2, 0.5, 0.9])
    noise = np.diag([0.0, 0.4, 1.0])
    for rule in (SetRule(eps=0.1), SetRule(1.0, 0.1, boost="plain"), SetRule(eps=0.1, shift=0.05, boost="code")):
        flow, modes = SetFlow(np.eye(3), noise, 3, 0.05, rule), SetModes(3, 0.05, np.diag(noise), rule=rule)
        w = np.diag(np.sqrt(s))
        move = flow.layout.unpack(flow.rhs(0.0, flow.start({"W": w})))["W"]
        np.testing.assert_allclose(2 * np.diag(move) * np.sqrt(s), modes.rhs(0.0, s), atol=1e-12)


RULES = [SetRule(eps=0.1), SetRule(1.0, 0.1, boost="plain"), SetRule(eps=0.1, shift=0.05, boost="code")]


@pytest.mark.parametrize("rule", RULES)
def test_modes_of_a_set_flow_with_a_momentum_target(rule):
    """W_a part of the state: singular values and tau_j of the flow are those of SetModes(tau="ema")."""
    u, v = (np.linalg.qr(np.random.default_rng(k).standard_normal((3, 3)))[0] for k in (0, 1))
    signal, sigma2 = np.array([1.0, 0.8, 1.3]), np.array([0.0, 0.4, 1.0])
    s, tau = np.array([0.2, 0.5, 0.9]), np.array([0.1, 0.6, 1.0])
    x, noise = ((u * d) @ u.T for d in (signal, sigma2))
    flow = SetFlow((x + x.T) / 2, (noise + noise.T) / 2, 3, 0.05, rule, target="ema", beta=0.3)
    modes = SetModes(3, 0.05, sigma2, signal, "ema", rule, beta=0.3)
    w = (v * np.sqrt(s)) @ u.T
    times = np.array([1.0, 6.0, 30.0])
    path = solve(flow, {"W": w, "W_a": (v * (tau * np.sqrt(s))) @ u.T}, 30.0, save=times, solver=FINE)
    want = solve(modes, {"s": s, "tau": tau}, 30.0, save=times, solver=FINE)
    inside, behind = (np.diagonal(v.T @ path[name] @ u, axis1=1, axis2=2) for name in ("W", "W_a"))
    np.testing.assert_allclose(inside**2, want["s"], atol=1e-8)
    np.testing.assert_allclose(behind, want["tau"] * np.sqrt(want["s"]), atol=1e-8)
    online = solve(SetModes(3, 0.05, sigma2, signal, 1.0, rule), {"s": s}, 30.0, save=times, solver=FINE)
    assert np.abs(online["s"] - want["s"]).max() > 0.01


def test_a_momentum_target_changes_the_way_and_not_the_rest():
    """DirectPred, one mode: tau -> 1, s -> p_+^2; below p_- also tau = 1 does not help; beta = 0 holds W_a still."""
    low, high = (float(p) for p in Modes(eta=0.04, sigma2=0.1).roots())
    flow = SetModes(eta=0.04, sigma2=0.1, tau="ema", beta=0.4)
    got = end(flow, {"s": [(3 * low) ** 2], "tau": [1.0]})
    assert (got["s"][0], got["tau"][0]) == (pytest.approx(high**2, abs=1e-6), pytest.approx(1.0, abs=1e-6))
    gone = end(flow, {"s": [(0.9 * low) ** 2], "tau": [1.0]}, 200.0)
    assert gone["s"][0] < 1e-5 and gone["tau"][0] == pytest.approx(0.4 / 0.36, rel=0.02)  # as of a trained predictor
    still = solve(SetModes(eta=0.0, tau="ema", beta=0.0), {"s": [0.25], "tau": [0.6]}, 30.0, solver=FINE)
    np.testing.assert_allclose(still["tau"] * np.sqrt(still["s"]), 0.3, rtol=1e-8)
    fast = SetFlow(np.eye(2), 0.1 * np.eye(2), 2, 0.04, SetRule(), target="ema", beta=1e4)
    slow = SetFlow(np.eye(2), 0.1 * np.eye(2), 2, 0.04, SetRule())
    w = np.array([[0.5, 0.1], [-0.2, 0.4]])
    ends = [
        solve(f, dict.fromkeys(f.layout.names, w), 3.0, save="ends", solver=Adaptive("LSODA", 1e-9, 1e-11)).final
        for f in (fast, slow)
    ]
    np.testing.assert_allclose(ends[0]["W"], ends[1]["W"], atol=1e-3)


def test_each_trajectory_may_have_rates_of_its_own():
    rng = np.random.default_rng(3)
    eta, beta, tau = rng.uniform(0.01, 0.1, 4), rng.uniform(0.1, 1, 4), rng.uniform(0.5, 1, 4)
    x, noise = np.diag([1.0, 2, 0.5]), np.diag([0.1, 0.0, 0.4])
    flows = [
        (SetModes(3, eta, np.diag(noise), np.diag(x), tau), lambda i: (eta[i], np.diag(noise), np.diag(x), tau[i])),
        (
            SetModes(3, eta, np.diag(noise), np.diag(x), "ema", beta=beta),
            lambda i: (eta[i], np.diag(noise), np.diag(x), "ema", SetRule(), beta[i]),
        ),
    ]
    cases = [(many, [SetModes(3, *options(i)) for i in range(4)]) for many, options in flows]
    both = {"rule": SetRule(eps=0.1), "correlation": "views", "target": "ema"}
    alone = [SetFlow(x, noise, 3, eta[i], beta=beta[i], **both) for i in range(4)]
    cases.append((SetFlow(x, noise, 3, eta, beta=beta, **both), alone))
    for many, each in cases:
        y = rng.uniform(0.1, 1, (4, many.layout.size))
        np.testing.assert_allclose(many.rhs(0.0, y), [f.rhs(0.0, z) for f, z in zip(each, y, strict=True)], atol=1e-13)
        ends = solve_many(many, y, 5.0, rtol=1e-8, atol=1e-11, block=3).y
        want = [solve(f, z, 5.0, save="ends", solver=FINE).y[-1] for f, z in zip(each, y, strict=True)]
        np.testing.assert_allclose(ends, want, atol=1e-6)


def test_one_bad_state_of_a_batch_does_not_spoil_the_others():
    f = np.stack([np.eye(2), np.full((2, 2), np.nan), 4 * np.eye(2)])
    w_p = apply_rule(SetRule(), f)
    np.testing.assert_allclose(w_p[[0, 2]], [np.eye(2), 2 * np.eye(2)])
    assert np.isnan(w_p[1]).all()


def test_what_f_is_measured_on():
    rng = np.random.default_rng(2)
    w, x, noise = rng.standard_normal((3, 5)), np.diag([1.0, 2, 3, 4, 5]), np.diag([0.5, 0.1, 0.0, 2.0, 1.0])
    for correlation, middle in (("weights", np.eye(5)), ("means", x), ("views", x + noise)):
        w_p = SetFlow(x, noise, 3, 0.0, SetRule(), correlation).predictor_at(w.ravel())
        np.testing.assert_allclose(w_p @ w_p, w @ middle @ w.T, atol=1e-10)


# -- appendix D --------------------------------------------------------------------------------------------------------


def test_figure_10():
    """signal 1/2, total 1, alpha_p = beta = 1: the three planes of figure 10, and the limit (1/2, 1/2, 1/2)."""
    half = {"signal": 0.5, "sigma2": 0.5}
    saddle = jacobian(ScalarNetwork(**half, target="frozen", frozen=1.0), [0.0, 0.0])
    assert np.sort(np.linalg.eigvals(saddle)) == pytest.approx([-0.5, 0.5], abs=1e-8)
    dead = jacobian(ScalarNetwork(**half, predictor=False), [0.0, 0.0])
    assert np.sort(np.linalg.eigvals(dead)) == pytest.approx([-1.7071, -0.2929], abs=1e-4)
    full = solve(ScalarNetwork(**half), {"w_p": 0.8, "w": 0.8, "w_a": 0.1}, 400.0, solver=FINE)
    assert list(full.y[-1]) == pytest.approx([0.5, 0.5, 0.5], abs=1e-6)
    assert np.abs(full["w_p"] - full["w"]).max() < 1e-9
    gone = solve(ScalarNetwork(**half, predictor=False), {"w": 0.8, "w_a": 0.9}, 200.0, solver=FINE)
    assert np.abs(gone.y[-1]).max() < 1e-6


def test_fixed_points_of_unequal_data():
    """Rows of W are left eigenvectors of X (X + X')^-1; S W, S W_p S^-1 is at rest too; others are not."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        a, b = rng.standard_normal((2, 5, 5))
        x, noise = a @ a.T, b @ b.T
        w, w_p = fixed_points(x, noise, [0, 2, 3])
        flow = MatrixFlow(x, noise, 3)
        mix = rng.standard_normal((3, 3))
        for left in (np.eye(3), mix):
            parts = {"W": left @ w, "W_p": left @ w_p @ np.linalg.inv(left), "W_a": left @ w}
            assert np.abs(flow.rhs(0.0, flow.start(parts))).max() < 1e-10
        assert np.abs(flow.rhs(0.0, flow.start({"W": w, "W_p": 0.9 * w_p, "W_a": w}))).max() > 1e-3
        assert (np.diff(np.diag(w_p)) < 0).all() and 0 < w_p[2, 2] < w_p[0, 0] < 1


def test_without_predictor_only_an_eigenvalue_of_one_lives():
    """A feature without augmentation noise survives without predictor and weight decay; the others die."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    sx = (basis * [1.0, 2.0, 1.5, 0.8, 0.5]) @ basis.T
    x, noise = multiplicative((sx + sx.T) / 2, basis[:, :2], basis[:, 2:])
    w = np.random.default_rng(1).standard_normal((3, 5))
    got = end(MatrixFlow(x, noise, 3, target="online", predictor="none"), {"W": w}, 200.0)["W"]
    np.testing.assert_allclose(got, w @ basis[:, :2] @ basis[:, :2].T, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: SetRule(power=0.0), "power"),
        (lambda: SetRule(eps=-0.1), "eps"),
        (lambda: SetRule(boost="scale"), "boost"),
        (lambda: SetModes(3, sigma2=np.zeros(2)), "sigma2"),
        (lambda: SetModes(eta=-1.0), "eta"),
        (lambda: SetModes(2).start({"s": [0.1, -0.1]}), "negative"),
        (lambda: SetFlow(np.eye(3), np.eye(2), 3), "x_noise"),
        (lambda: SetFlow(np.eye(2), np.eye(2), 2, correlation="all"), "correlation"),
        (lambda: SetFlow(np.eye(2), np.eye(2), 2, target="frozen"), "target"),
        (lambda: SetFlow(np.eye(2), np.eye(2), 2, beta=-1.0), "beta"),
        (lambda: SetModes(tau="byol"), "tau"),
        (lambda: SetModes(rule=np.sqrt), "rule"),
        (lambda: apply_rule(SetRule(), np.ones((2, 3))), "f must be square"),
        (lambda: largest_decay(-1.0), "sigma2"),
        (lambda: SubspaceTheorem(-0.1, 1.0), "eta"),
        (lambda: subspace(3, 4, 1.0), "rank"),
        (lambda: fixed_points(np.eye(2), np.eye(2), [2]), "rows"),
        (lambda: fixed_points(np.diag([1.0, 0.0]), np.zeros((2, 2)), [0]), "invertible"),
        (lambda: multiplicative(np.eye(3), np.eye(3)[:, :1], np.eye(3)[:, :2]), "orthonormal"),
        (lambda: ScalarNetwork(target="byol"), "target"),
        (lambda: jacobian(Modes(), np.zeros((2, 2))), "y must be one state"),
    ],
)
def test_bad_input_is_named(make, word):
    with pytest.raises(DynamicsError, match=word):
        make()


def test_nan_in_nan_out():
    flow = SetFlow(np.eye(2), np.eye(2), 2)
    assert np.isnan(flow.rhs(0.0, np.full(4, np.nan))).all()


@pytest.mark.parametrize("target", ["ema", "online"])
@pytest.mark.parametrize("predictor", [True, False])
def test_the_scalar_network_is_the_matrix_flow_of_width_1(target, predictor):
    """In both decays and every other rate."""
    kind = "trained" if predictor else "none"
    matrix = MatrixFlow([[0.6]], [[0.3]], 1, 1.7, 0.06, 0.4, 0.11, target=target, predictor=kind)
    scalar = ScalarNetwork(beta=0.4, target=target, predictor=predictor, **NUMBERS)
    names = {"W_p": "w_p", "W": "w", "W_a": "w_a"}
    for values in np.random.default_rng(0).uniform(-1, 1, (5, 3)):
        parts = dict(zip(names, values, strict=True))
        y = matrix.start({name: [[parts[name]]] for name in matrix.layout.names})
        want = matrix.layout.unpack(matrix.rhs(0.0, y))
        mine = scalar.start({name: parts[old] for old, name in names.items() if name in scalar.layout.names})
        got = scalar.layout.unpack(scalar.rhs(0.0, mine))
        assert {names[old] for old in want} == set(got)
        for old, part in want.items():
            assert float(got[names[old]]) == pytest.approx(part[0, 0], rel=1e-12)


def test_a_frozen_target_in_closed_form():
    """Without predictor w goes to signal w_a / (total + eta) at that rate; where nothing is seen both weights decay."""
    flow = ScalarNetwork(target="frozen", frozen=0.8, predictor=False, **NUMBERS)
    rest, rate = 0.6 * 0.8 / (0.9 + 0.06), 0.9 + 0.06
    w = end(flow, {"w": 2.0}, 3.0)["w"]
    assert w == pytest.approx(rest + (2.0 - rest) * np.exp(-3 * rate), abs=1e-9)
    dead = end(ScalarNetwork(target="frozen", frozen=0.0, **NUMBERS), {"w_p": 0.0, "w": 0.5}, 10.0)
    assert dead["w"] == pytest.approx(0.5 * np.exp(-0.6), rel=1e-9) and dead["w_p"] == 0
    dead = end(ScalarNetwork(target="frozen", frozen=0.0, **NUMBERS), {"w_p": 0.5, "w": 0.0}, 10.0)
    assert dead["w_p"] == pytest.approx(0.5 * np.exp(-1.1), rel=1e-9) and dead["w"] == 0
