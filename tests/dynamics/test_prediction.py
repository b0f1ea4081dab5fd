"""The forecast of modes: independent ones in closed form, those of data that do not commute against the flow."""

import numpy as np
import pytest

from siamscope.dynamics import DynamicsError, MatrixFlow, Modes, fixed_points, solve
from siamscope.dynamics.joint import InputModes, input_modes, joint_forecast
from siamscope.dynamics.prediction import (
    NetworkModes,
    agreement,
    forecast,
    matched,
    network_modes,
    starts,
)

ETA = 0.04


def rotation(rng, d):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def noisy(rng, d, mixing):
    """(X, X') with X' = diag + mixing * a matrix that does not commute with X."""
    x = np.diag(np.sort(rng.uniform(0.3, 1.5, d))[::-1])
    b = rng.standard_normal((d, d)) / np.sqrt(d)
    return x, np.diag(rng.uniform(0.05, 0.4, d)) + mixing * (b @ b.T)


@pytest.mark.parametrize("seed", range(8))
def test_where_x_and_noise_commute_the_modes_are_independent(seed):
    rng = np.random.default_rng(seed)
    signal, sigma2 = rng.uniform(0.02, 1.5, 9), rng.uniform(0, 1, 9)
    q = rotation(rng, 9)
    data = input_modes((q * signal) @ q.T, (q * sigma2) @ q.T, 9)
    assert data.kept == pytest.approx(1) and data.mixing < 1e-12
    alone = forecast(signal, sigma2, ETA, alpha_p=3.0)
    found, directions = joint_forecast(data, ETA, alpha_p=3.0)
    lives = alone.can_survive
    np.testing.assert_array_equal(lives, signal**2 / (4 * (signal + sigma2)) > ETA)
    count = lives.sum()
    assert found.can_survive.sum() == count and found.can_survive[:count].all()
    order = np.argsort(-alone.p_high[lives])
    for name in ("p_high", "p_low", "strength", "signal", "sigma2", "eta_limit"):
        expected = getattr(alone, name)[lives][order]
        np.testing.assert_allclose(getattr(found, name)[:count], expected, rtol=1e-5 if name == "eta_limit" else 1e-8)
    np.testing.assert_allclose(found.signal[count:], np.sort(signal[~lives])[::-1], rtol=1e-8)
    assert (found.margin[count:] < 1).all() and (found.strength[count:] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1)


def test_a_mode_is_found_although_another_ends_before_it_begins():
    """p_+ of the noisy mode lies below p_- of the quiet one: sorted eigenvalues of p X - p^2 (X + X') would miss it."""
    signal, sigma2, eta = np.array([1.0, 0.25]), np.array([11.0, 0.0]), 0.05 / 4
    alone = forecast(signal, sigma2, eta)
    assert alone.p_high[0] < 0.1 < 0.9 < alone.p_high[1]
    low = forecast(signal, sigma2, 0.02)
    assert low.p_high[0] < low.p_low[1]
    found, _ = joint_forecast(InputModes(np.eye(2), np.diag(signal), np.diag(sigma2), 1.0), 0.0156)
    assert found.can_survive.sum() == 2


@pytest.mark.parametrize("seed", range(5))
def test_rows_at_rest_solve_the_quadratic_problem(seed):
    rng = np.random.default_rng(seed)
    x, noise = noisy(rng, 7, 0.2)
    found, w = joint_forecast(InputModes(np.eye(7), x, noise, 1.0), ETA)
    count = found.can_survive.sum()
    assert count >= 2
    for k in range(count):
        for p in (found.p_low[k], found.p_high[k]):
            a = p * x - p**2 * (x + noise) - ETA * np.eye(7)
            assert np.abs(np.linalg.eigvalsh(a)).min() < 1e-10
            assert np.abs(np.linalg.eigvalsh(a + 0.01 * np.eye(7))).min() > 1e-5  # another decay: no solution
        p = found.p_high[k]
        residual = p * x @ w[:, k] - p**2 * (x + noise) @ w[:, k] - ETA * w[:, k]
        assert np.linalg.norm(residual) < 1e-9
        other = 1.1 * p
        control = other * x @ w[:, k] - other**2 * (x + noise) @ w[:, k] - ETA * w[:, k]
        assert np.linalg.norm(control) > 1e-3
    assert (found.p_low[:count] < found.p_high[:count]).all()


@pytest.mark.parametrize(("seed", "kind"), [(0, "symmetric"), (1, "symmetric"), (2, "trained"), (3, "trained")])
def test_the_flow_of_the_matrices_ends_near_the_forecast(seed, kind):
    """The rest is exact where X and X' commute, and the error falls at least as fast as what keeps them from it."""
    rng = np.random.default_rng(seed)
    x, quiet = noisy(rng, 5, 0.0)
    x += 0.3 * np.eye(5)
    b = rng.standard_normal((5, 5)) / np.sqrt(5)
    start = {"W": 0.9 * rotation(rng, 6)[:, :5] @ rotation(rng, 5), "W_p": 0.8 * np.eye(6)}  # above every p_-

    def error(mixing, eta):
        """Largest relative error of p at rest, with a forecast for weight decay eta."""
        noise = quiet + mixing * (b + b.T) / 4
        flow = MatrixFlow(x, noise, 6, eta=ETA, target="online", predictor=kind)
        path = solve(flow, start, 1500.0, save="ends")
        ends = network_modes(path["W"][-1], path["W_p"][-1])
        found, _ = joint_forecast(InputModes(np.eye(5), x, noise, 1.0), eta)
        assert found.can_survive.sum() == (ends.p > 0.05).sum() == 5
        return np.abs(ends.p[:5] / found.p_high - 1).max()

    assert error(0.0, ETA) < 1e-6
    assert error(0.05, ETA) < 0.02
    assert error(0.025, ETA) < 0.6 * error(0.05, ETA)
    assert error(0.0, 1.2 * ETA) > 0.005  # another weight decay is told


def test_the_limit_of_a_mode_whose_direction_turns():
    """Two modes by hand: neither limit is signal^2 / (4 (signal + sigma2)) of its direction at eta = 0.01."""
    data = InputModes(np.eye(2), np.diag([1.0, 0.6]), np.array([[0.3, 0.25], [0.25, 0.3]]), 1.0)
    found, _ = joint_forecast(data, 0.01)
    np.testing.assert_allclose(found.eta_limit, [0.20812, 0.09335], atol=2e-5)
    alone = found.signal**2 / (4 * (found.signal + found.sigma2))
    assert (np.abs(found.eta_limit / alone - 1) > 0.05).all()


@pytest.mark.parametrize("seed", range(6))
def test_modes_fall_one_by_one_at_their_limits(seed):
    rng = np.random.default_rng(seed)
    x, noise = noisy(rng, 6, 0.1)
    data = InputModes(np.eye(6), x, noise, 1.0)
    found, _ = joint_forecast(data, 0.02)
    limits = np.sort(found.eta_limit[found.can_survive])
    assert len(limits) >= 4
    for k, limit in enumerate(limits):
        for factor, left in ((0.999, len(limits) - k), (1.001, len(limits) - k - 1)):
            assert joint_forecast(data, factor * limit)[0].can_survive.sum() == left


def test_without_decay_the_modes_are_those_of_appendix_d():
    rng = np.random.default_rng(0)
    x, noise = noisy(rng, 5, 0.3)
    found, w = joint_forecast(InputModes(np.eye(5), x, noise, 1.0), 0.0)
    rows, values = fixed_points(x, noise, range(5))
    np.testing.assert_allclose(found.p_high, np.diag(values), rtol=1e-9)
    np.testing.assert_allclose(np.abs((rows / np.linalg.norm(rows, axis=1, keepdims=True) * w.T).sum(1)), 1, rtol=1e-9)
    near, _ = joint_forecast(InputModes(np.eye(5), x, noise, 1.0), 1e-9)
    np.testing.assert_allclose(near.p_high, found.p_high, rtol=1e-6)


def test_unequal_decay_scales_the_strength():
    flow = Modes(alpha_p=2.0, eta=0.03, eta_p=0.12, sigma2=0.2, signal=0.9)
    path = solve(flow, {"p": 0.5, "s": 0.4}, 2000.0, save="ends")
    found = forecast(0.9, 0.2, 0.03, alpha_p=2.0, eta_p=0.12)
    assert path["p"][-1] == pytest.approx(found.p_high[0], rel=1e-6)
    assert path["s"][-1] == pytest.approx(found.strength[0], rel=1e-6)
    assert forecast(0.9, 0.2, 0.03, alpha_p=2.0).strength[0] == pytest.approx(found.strength[0] / 4)


def test_decay_of_the_encoder_alone_leaves_no_rest():
    path = solve(Modes(eta=0.04, eta_p=0.0, sigma2=0.1), {"p": 0.8, "s": 0.7}, 3000.0, save="ends")
    assert path["s"][-1] < 1e-6 and path["p"][-1] > 0.5
    found = forecast(1.0, 0.1, 0.04, eta_p=0.0)
    assert not found.can_survive[0] and found.strength[0] == found.margin[0] == 0
    joint, _ = joint_forecast(InputModes(np.eye(1), np.eye(1), 0.1 * np.eye(1), 1.0), 0.04, eta_p=0.0)
    assert not joint.can_survive.any()


def test_no_decay_and_no_signal():
    free = forecast([1.0, 0.0], [0.5, 0.5], 0.0)
    assert free.p_high[0] == pytest.approx(1 / 1.5) and np.isnan(free.p_high[1])
    assert np.isnan(free.strength[0]) and free.strength[1] == 0
    assert free.margin[0] == np.inf and free.margin[1] == 0
    assert forecast([1.0], [0.5], 0.0, eta_p=0.1).strength[0] == np.inf


def test_the_first_eigenvectors_of_x_and_their_share():
    rng = np.random.default_rng(0)
    q = rotation(rng, 6)
    signal, sigma2 = np.array([3.0, 2.0, 1.0, 0.5, 0.1, -1e-3]), np.arange(6) / 10
    data = input_modes((q * signal) @ q.T, (q * sigma2) @ q.T, 3)
    np.testing.assert_allclose(np.abs(data.basis.T @ q[:, :3]), np.eye(3), atol=1e-10)
    np.testing.assert_allclose(np.diag(data.x), signal[:3])
    assert data.kept == pytest.approx((6 + 0.3) / (signal.sum() + 1.5))


def test_a_networks_modes_are_matched_whatever_its_basis():
    rng = np.random.default_rng(1)
    directions = rotation(rng, 5)[:, :3]
    p, s = np.array([0.9, 0.6, 0.3, 0.0]), np.array([0.8, 0.4, 0.1, 0.0])
    rows = np.zeros((4, 5))
    rows[:3] = np.sqrt(s[:3, None]) * directions[:, [2, 0, 1]].T
    u = rotation(rng, 4)
    network = network_modes(u @ rows, (u * p) @ u.T)
    np.testing.assert_allclose(network.p, p, atol=1e-12)
    np.testing.assert_allclose(network.strength, s, atol=1e-12)
    found, cosine = matched(directions, network)
    assert found.tolist() == [1, 2, 0]
    np.testing.assert_allclose(cosine, 1)
    few, angle = matched(directions, NetworkModes(network.p[:2], network.rows[:2]))
    assert sorted(few.tolist()) == [-1, 0, 1] and np.isnan(angle[few < 0]).all()


def test_starts_are_read_along_the_modes():
    rng = np.random.default_rng(2)
    w, w_p, d = rng.standard_normal((4, 3)), rng.standard_normal((4, 4)), rotation(rng, 3)
    p, s = starts(w, w_p, d)
    for k in range(3):
        u = w @ d[:, k]
        assert s[k] == pytest.approx(u @ u)
        assert p[k] == pytest.approx(u @ w_p @ u / (u @ u))
    assert starts(np.zeros((4, 3)), w_p, d)[0].tolist() == [0, 0, 0]


def test_agreement_by_hand():
    found = agreement([1.0, 0.5, 0.4, 0.0], [0.8, 0.5, 0.0, 0.0], 0.1)
    assert (found.modes, found.predicted, found.measured, found.agree) == (4, 3, 2, 3)
    assert found.error == pytest.approx((0.25 + 0) / 2)
    assert found.correlation == pytest.approx(1)
    dead = agreement([0.0, 0.0], [0.0, 0.0], [0.1, 0.2])
    assert dead.agree == 2 and np.isnan(dead.error) and np.isnan(dead.correlation)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: input_modes(np.ones((2, 3)), np.ones((2, 3)), 1), "square"),
        (lambda: input_modes(np.array([[1.0, 2.0], [0.0, 1.0]]), np.eye(2), 1), "symmetric"),
        (lambda: input_modes(-np.eye(2), np.eye(2), 1), "share nothing"),
        (lambda: input_modes(np.eye(2), np.full((2, 2), np.nan), 1), "NaN"),
        (lambda: input_modes(np.eye(2), np.eye(2), 0), "keep"),
        (lambda: forecast([-1.0], [0.0], 0.1), "negative"),
        (lambda: forecast([1.0], [0.0], -0.1), "eta"),
        (lambda: joint_forecast(InputModes(np.eye(2), np.eye(2), np.eye(2), 1.0), -0.1), "eta"),
        (lambda: joint_forecast(InputModes(np.eye(2), np.eye(2), np.eye(2), 1.0), 0.1, alpha_p=0.0), "alpha_p"),
        (lambda: joint_forecast(InputModes(np.eye(2), np.full((2, 2), np.nan), np.eye(2), 1.0), 0.1), "NaN"),
        (lambda: forecast([1.0], [0.1, 0.2], 0.1), "sigma2"),
        (lambda: forecast([1.0], [0.1], 0.0, eta_p=-1.0), "eta_p"),
        (lambda: agreement([1.0], [1.0, 2.0], 0.1), "one length"),
        (lambda: agreement([1.0, 2.0], [1.0, 2.0], [0.1, 0.2, 0.3]), "floor"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(DynamicsError, match=says):
        call()
