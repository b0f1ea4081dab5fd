"""tau, sigma2, K and balance of the learning dynamics, from embeddings: closed forms, and `siamscope.dynamics`."""

import numpy as np
import pytest

from siamscope.collapse import (
    CollapseError,
    balance,
    common_correlation,
    k_matrix,
    noise_ratio,
    smallest_eigenvalue,
    target_share,
)
from siamscope.dynamics import MatrixFlow, ReducedFlow


def symmetric(rng, d, psd=False):
    a = rng.standard_normal((d, d)) / d**0.5
    return a @ a.T if psd else (a + a.T) / 2


def test_the_targets_share():
    rng = np.random.default_rng(0)
    f, other = rng.standard_normal((2, 50, 6))
    assert target_share(f, f) == 1
    assert target_share(f, 0.3 * f) == pytest.approx(0.3, abs=1e-15)
    across = other - (other * f).sum() / (f * f).sum() * f  # nothing along f on the whole
    assert target_share(f, 0.7 * f + 5 * across) == pytest.approx(0.7, abs=1e-13)
    assert target_share(f, -f) == -1


def test_the_noise_ratio_of_opposite_views():
    """f1, f2 = m + n, m - n: |f1 - f2|^2 / 2 = 2 |n|^2 and <f1, f2> = |m|^2 - |n|^2."""
    rng = np.random.default_rng(1)
    m, n = rng.standard_normal((40, 5)), 0.4 * rng.standard_normal((40, 5))
    expected = 2 * (n**2).sum() / ((m**2).sum() - (n**2).sum())
    assert noise_ratio(m + n, m - n) == pytest.approx(expected, rel=1e-13)
    assert noise_ratio(m, m) == 0
    assert noise_ratio(n, -n) == float("inf")
    assert noise_ratio(0 * m, 0 * m) == 0


def test_sampled_views_give_the_datas_moments():
    """f = W x with mean correlation X and augmentation covariance X': F = W X W^T, and the ratio of the two traces."""
    rng = np.random.default_rng(2)
    w, x, noise = rng.standard_normal((3, 5)), symmetric(rng, 5, psd=True), 0.3 * symmetric(rng, 5, psd=True)
    mean = rng.multivariate_normal(np.zeros(5), x, 200_000)
    f1, f2 = ((mean + rng.multivariate_normal(np.zeros(5), noise, len(mean))) @ w.T for _ in range(2))
    f = w @ x @ w.T
    assert np.abs(common_correlation(f1, f2) - f).max() < 0.02 * np.abs(f).max()
    expected = np.trace(w @ noise @ w.T) / np.trace(f)
    assert noise_ratio(f1, f2) == pytest.approx(expected, rel=0.02)
    one_view = f1.T @ f1 / len(f1)  # what F is not: it has X' in it
    assert np.abs(one_view - f).max() > 0.05 * np.abs(f).max()


def test_k_is_that_of_the_reduced_flow():
    rng = np.random.default_rng(3)
    for _ in range(5):
        d = int(rng.integers(2, 9))
        f, w = symmetric(rng, d, psd=True), symmetric(rng, d)
        tau, sigma2, eta, eta_p, alpha_p = rng.uniform(0.1, 2, 5)
        flow = ReducedFlow(width=d, alpha_p=alpha_p, eta=eta, eta_p=eta_p, sigma2=sigma2, tau=tau)
        expected = flow.k(0.0, flow.layout.pack({"F": f, "W_p": w}))
        given = {"tau": tau, "sigma2": sigma2, "eta": eta, "eta_p": eta_p, "alpha_p": alpha_p}
        found = k_matrix(f, w, **given)
        np.testing.assert_allclose(found, expected, atol=1e-13)
        assert smallest_eigenvalue(found) == pytest.approx(np.linalg.eigvalsh(expected)[0], abs=1e-12)
        for name in given:  # every number counts
            assert np.abs(k_matrix(f, w, **given | {name: 2 * given[name]}) - expected).max() > 1e-3
        equal = ReducedFlow(width=d, alpha_p=alpha_p, eta=eta, sigma2=sigma2, tau=tau)
        np.testing.assert_allclose(
            k_matrix(f, w, tau=tau, sigma2=sigma2, eta=eta, alpha_p=alpha_p),
            equal.k(0.0, equal.layout.pack({"F": f, "W_p": w})),
            atol=1e-13,
        )


@pytest.mark.parametrize("signal", [1.0, 0.05, 3.0])
def test_the_commutator_obeys_k_whatever_the_datas_strength(signal):
    """dL/dt + L K + K L = 0 in the matrix flow with X = signal I; with signal left at 1 it is not, unless it is 1."""
    rng = np.random.default_rng(4)
    d, sigma2, eta, eta_p, alpha_p = 5, 0.4, 0.03, 0.07, 2.5
    x = signal * np.eye(d)
    flow = MatrixFlow(x, sigma2 * x, d, alpha_p=alpha_p, eta=eta, eta_p=eta_p, target="online", predictor="symmetric")
    w, w_p = rng.standard_normal((d, d)) / 2, symmetric(rng, d)
    start = flow.layout.pack({"W": w, "W_p": w_p})
    change = flow.layout.unpack(flow.rhs(0.0, start))
    f = signal * w @ w.T
    d_f = signal * (change["W"] @ w.T + w @ change["W"].T)
    d_p = change["W_p"]
    commutator = f @ w_p - w_p @ f
    growth = d_f @ w_p + f @ d_p - d_p @ f - w_p @ d_f
    given = {"tau": 1.0, "sigma2": sigma2, "eta": eta, "eta_p": eta_p, "alpha_p": alpha_p}

    def residual(k):
        return np.abs(growth + commutator @ k + k @ commutator).max() / np.abs(growth).max()

    assert residual(k_matrix(f, w_p, signal=signal, **given)) < 1e-12
    if signal != 1:
        assert residual(k_matrix(f, w_p, **given)) > 1e-2


def test_on_the_parabola_k_turns_at_the_safe_window():
    """Aligned modes with s = p^2 / alpha_p: the least K_j is 3 eta / 2 - tau^2 / (6 (1 + sigma2))."""
    sigma2, tau, alpha_p = 0.1, 1.0, 4.0
    p = np.linspace(0, 1, 34)  # 10 / 33 is the lowest point
    for eta in (0.09, 0.1005, 0.1015, 0.12):
        k = k_matrix(np.diag(p**2 / alpha_p), np.diag(p), tau=tau, sigma2=sigma2, eta=eta, alpha_p=alpha_p)
        assert smallest_eigenvalue(k) == pytest.approx(1.5 * eta - tau**2 / (6 * (1 + sigma2)), abs=1e-6)
        assert (smallest_eigenvalue(k) > 0) == (eta > tau**2 / (9 * (1 + sigma2)))


def test_a_predictor_that_is_not_symmetric_counts_by_its_symmetric_part():
    rng = np.random.default_rng(5)
    f, w = symmetric(rng, 4, psd=True), rng.standard_normal((4, 4))
    given = {"tau": 0.8, "sigma2": 0.2, "eta": 0.01}
    np.testing.assert_allclose(k_matrix(f, w, **given), k_matrix(f, (w + w.T) / 2, **given))


def test_balance():
    rng = np.random.default_rng(6)
    w = rng.standard_normal((4, 4))
    assert balance(w.T @ w / 3, w, alpha_p=3) < 1e-15
    assert balance(w.T @ w, w, alpha_p=3) == pytest.approx(2 / 3)  # without 1 / alpha_p
    assert balance(w @ w.T, w) > 0.1  # W W^T is not W^T W
    assert balance(np.diag([3.0, 4]), np.zeros((2, 2))) == 1
    assert (balance(np.zeros((2, 2)), np.eye(2)), balance(np.zeros((2, 2)), np.zeros((2, 2)))) == (float("inf"), 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: target_share(np.ones((3, 2)), np.ones((2, 2))), "one shape"),
        (lambda: target_share(np.zeros((3, 2)), np.ones((3, 2))), "all 0"),
        (lambda: target_share(np.ones(3), np.ones(3)), "online has shape"),
        (lambda: noise_ratio(np.full((3, 2), np.nan), np.ones((3, 2))), "first holds NaN"),
        (lambda: noise_ratio(np.zeros((0, 2)), np.zeros((0, 2))), "one shape|no rows"),
        (lambda: common_correlation(np.ones((3, 2)), np.ones((3, 3))), "one shape"),
        (lambda: k_matrix(np.eye(2), np.eye(3), tau=1, sigma2=0, eta=0), "one size"),
        (lambda: k_matrix(np.eye(2), np.eye(2), tau=1, sigma2=float("inf"), eta=0), "sigma2 must be finite"),
        (lambda: balance(np.eye(2), np.eye(3)), "one size"),
        (lambda: balance(np.eye(2), np.eye(2), alpha_p=0), "alpha_p must be above 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(CollapseError, match=message):
        call()
