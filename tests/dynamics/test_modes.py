"""The decoupled modes: integral, fixed points, stability, basins, limits, tau."""

from __future__ import annotations

import numpy as np
import pytest

from siamscope.dynamics import (
    Adaptive,
    DynamicsError,
    EMAModes,
    Modes,
    Parabola,
    ScalarNetwork,
    Settled,
    Steady,
    ema_share,
    jacobian,
    separatrix,
    solve,
    solve_many,
)

FINE = Adaptive(rtol=1e-11, atol=1e-13)


def cases(rng, n, top=0.9):
    """Random parameters with two fixed points: eta up to `top` of the limit."""
    alpha_p, sigma2, tau = rng.uniform(0.2, 8, n), rng.uniform(0, 2, n), rng.uniform(0.3, 1.5, n)
    eta = rng.uniform(0.05, top, n) * tau**2 / (4 * (1 + sigma2))
    return {"alpha_p": alpha_p, "sigma2": sigma2, "tau": tau, "eta": eta}


def each(values):
    return [{name: float(v[i]) for name, v in values.items()} for i in range(len(values["eta"]))]


def test_integral_of_motion_and_its_printed_sign():
    """A7: s = p^2 / alpha_p + c exp(-2 eta t) with c = s0 - p0^2 / alpha_p; the paper's c fails."""
    worst, printed = 0.0, []
    for options in each(cases(np.random.default_rng(0), 6)):
        modes = Modes(**options)
        path = solve(modes, {"p": 0.6, "s": 0.5}, 30.0, solver=FINE)
        c = modes.excess(0.6, 0.5)
        base, fall = path["p"] ** 2 / modes.alpha_p, np.exp(-2 * modes.eta * path.t)
        worst = max(worst, np.abs(path["s"] - base - c * fall).max())
        printed.append(np.abs(path["s"] - base + c * fall).max())
    assert worst < 1e-7
    assert min(printed) > 0.1


def test_integral_needs_equal_decay():
    with pytest.raises(DynamicsError, match="eta_p"):
        Modes(eta=0.1, eta_p=0.2).excess(0.1, 0.1)
    modes = Modes(eta=0.02, eta_p=0.1)
    path = solve(modes, {"p": 0.6, "s": 0.5}, 30.0, solver=FINE)
    assert np.abs(path["s"] - path["p"] ** 2 - (0.5 - 0.36) * np.exp(-0.04 * path.t)).max() > 0.01


def test_fixed_points_and_their_stability():
    """A8: closed forms of roots, Jacobian and eigenvalues; none above the limit of eta."""
    values = cases(np.random.default_rng(1), 50)
    modes = Modes(**values)
    low, high = modes.roots()
    for p in (low, high):
        s = p**2 / modes.alpha_p
        rhs = modes.rhs(0.0, np.stack([p, s], 1))
        assert np.abs(rhs).max() < 1e-12
        eigenvalues = np.sort(np.linalg.eigvals(modes.jacobian(p, s)).real, axis=1)
        slope = (1 + modes.sigma2) * p * (high - low) * (1 if p is low else -1)
        np.testing.assert_allclose(eigenvalues, np.sort(np.stack([-2 * modes.eta, slope], 1), axis=1), atol=1e-8)
    assert (low < high).all()
    origin = np.linalg.eigvals(modes.jacobian(np.zeros(50), np.zeros(50)))
    np.testing.assert_allclose(np.sort(origin, axis=1), np.stack([-2 * modes.eta, -modes.eta], 1), atol=1e-12)
    for options in each(cases(np.random.default_rng(2), 5)):
        one = Modes(**options)
        np.testing.assert_allclose(jacobian(one, [0.4, 0.3]), one.jacobian(0.4, 0.3), atol=1e-8)
    above = Modes(**(values | {"eta": modes.eta_limit * 1.001}))
    assert np.isnan(above.roots()).all()
    grid = np.linspace(-1, 2, 3001)
    assert max(Modes(**options).delta(grid).max() for options in each(values | {"eta": above.eta})) < 0


def test_roots_move_as_the_paper_says():
    """Observations 4 and 10: p_- rises with eta and falls with tau; small eta loses no digits."""
    assert (np.diff(Modes(eta=np.linspace(0.001, 0.2, 50), sigma2=0.1).roots()[0]) > 0).all()
    assert (np.diff(Modes(eta=0.02, sigma2=0.1, tau=np.linspace(0.4, 1.5, 50)).roots()[0]) < 0).all()
    assert float(Modes(eta=1e-14).roots()[0]) == pytest.approx(1e-14, rel=1e-10)


def test_basins_on_the_parabola():
    """A9: below p_- collapse, above it p_+, 600 random draws with a margin of 0.02 tau, up to 1.3 of the eta limit."""
    rng = np.random.default_rng(3)
    values = cases(rng, 900, top=1.3)
    p0 = rng.uniform(-0.2, 1.5, 900)
    low, high = Modes(**values).roots()
    clear = (np.abs(p0 - low) > 0.02 * values["tau"]) & ~(high - low < 0.1 * values["tau"]) & (p0 != 0)
    clear |= values["eta"] > 1.02 * Modes(**values).eta_limit
    values, p0, low, high = ({k: v[clear] for k, v in values.items()}, p0[clear], low[clear], high[clear])
    assert clear.sum() >= 600
    modes = Modes(**values)
    ends = solve_many(modes, {"p": p0, "s": p0**2 / modes.alpha_p}, 2e4, stop=Steady(1e-8, 1e-11))
    want = np.where(p0 > low, high, 0.0)  # NaN > is False: no fixed point, collapse
    assert ends.count("stopped") + ends.count("done") == len(p0)
    assert np.abs(ends["p"] - want).max() < 1e-4
    flow = solve_many(Parabola(**values), {"p": p0}, 2e4, stop=Steady(1e-8, 1e-11))
    assert np.abs(flow["p"] - want).max() < 1e-4


def test_exact_criterion_without_decay():
    """A9: eta = 0, 400 random cases, none wrong; the paper's sufficient condition misses some. The limits too (A10)."""
    rng = np.random.default_rng(4)
    n = 400
    modes = Modes(alpha_p=rng.uniform(0.1, 10, n), sigma2=rng.uniform(0, 2, n), tau=rng.uniform(0.2, 1.5, n))
    p0, s0 = rng.uniform(-1.5, 1.5, n), rng.uniform(0.01, 1.0, n)
    ends = solve_many(modes, {"p": p0, "s": s0}, 1e5, rtol=1e-8, atol=1e-11, stop=Steady(1e-8, 1e-11))
    lives = modes.learns_without_decay(p0, s0)
    assert np.array_equal(lives, ends["s"] > 1e-5)
    p, s = modes.limit_without_decay(p0, s0)
    assert np.abs(ends["s"] - s).max() < 1e-4
    assert np.abs(ends["p"] - p).max() < 1e-3  # a dying mode approaches its line of rest as 1 / t where p is near p*
    sufficient = modes.excess(p0, s0) > 0
    assert (lives & ~sufficient).sum() >= 10 and not (sufficient & ~lives).any()


def test_exact_criterion_at_its_edge():
    """-alpha_p c within 1 % of p*^2, on both sides: a p*^2 that is 1 % off is wrong of half of them."""
    rng = np.random.default_rng(9)
    n = 200
    modes = Modes(alpha_p=rng.uniform(0.1, 10, n), sigma2=rng.uniform(0, 2, n), tau=rng.uniform(0.2, 1.5, n))
    square = (modes.tau / (1 + modes.sigma2)) ** 2
    below = np.arange(n) % 2 == 0
    share = np.where(below, -1, 1) * rng.uniform(2e-3, 1e-2, n) + 1
    p0 = np.sqrt(square) * rng.uniform(1.1, 3, n)
    s0 = (p0**2 - share * square) / modes.alpha_p
    assert np.array_equal(modes.learns_without_decay(p0, s0), below)
    ends = solve_many(modes, {"p": p0, "s": s0}, 1e7, rtol=1e-9, atol=1e-13, stop=Steady(1e-9, 1e-13))
    assert np.array_equal(ends["s"] > 1e-3 * square / modes.alpha_p, below) and ends.count("stopped") == n
    p, s = modes.limit_without_decay(p0, s0)
    assert np.abs(ends["s"] - s).max() < 1e-6 and np.abs(ends["p"] - p).max() < 1e-4


def test_larger_alpha_p_shrinks_the_basin_of_collapse():
    """A10, observation 1: 0.194, 0.075, 0.025, 0.013 for alpha_p = 0.25, 1, 4, 16; two ways to tell."""
    p, s = (a.ravel() for a in np.meshgrid(np.linspace(-0.5, 1, 16), np.linspace(0.01, 0.5, 10)))
    shares = []
    for alpha_p in (0.25, 1.0, 4.0, 16.0):
        modes = Modes(alpha_p=alpha_p, eta=0.02, sigma2=0.1)
        settled = solve_many(modes, {"p": p, "s": s}, 1e5, stop=Settled())
        rest = solve_many(modes, {"p": p, "s": s}, 1e5, stop=Steady())
        collapsed = modes.verdict(settled["p"], settled["s"]) < 0
        assert np.array_equal(collapsed, rest["s"] < 1e-6)
        shares.append(collapsed.mean())
    assert (np.diff(shares) < 0).all()
    assert shares == pytest.approx([0.194, 0.075, 0.025, 0.013], abs=6e-4)


def test_limits_of_a_faster_predictor():
    """A10, observation 2: s stays near s0 as alpha_p grows."""
    ends = []
    for alpha_p in (0.1, 1.0, 10.0, 100.0, 1000.0):
        modes = Modes(alpha_p=alpha_p, sigma2=0.1)
        path = solve(modes, {"p": 0.0, "s": 0.05}, 4000.0, save="ends", solver=Adaptive("LSODA", 1e-10, 1e-12))
        assert path["s"][-1] == pytest.approx(float(modes.limit_without_decay(0.0, 0.05)[1]), abs=1e-4)
        ends.append(path["s"][-1])
    assert ends == pytest.approx([8.3145, 0.8764, 0.1326, 0.0583, 0.0508], abs=1e-4)


def test_verdicts_are_never_taken_back():
    """`verdict` along trajectories off the parabola: once certain, it stays, and the end agrees."""
    rng = np.random.default_rng(5)
    values = cases(rng, 400, top=0.8)
    modes = Modes(**values)
    start = {"p": rng.uniform(-1, 2, 400), "s": rng.uniform(0.001, 2, 400)}
    run = solve_many(modes, start, 2000.0, times=np.linspace(0, 2000, 60) ** 2 / 2000, stop=Steady())
    verdicts = modes.verdict(run.paths["p"], run.paths["s"])
    assert (np.abs(np.diff(verdicts, axis=0)) <= 1).all() and not ((verdicts[1:] == 0) & (verdicts[:-1] != 0)).any()
    assert (verdicts[-1] != 0).all() and {-1, 1} <= set(verdicts[-1]) and (verdicts[0] == 0).any()
    assert np.array_equal(verdicts[-1] > 0, run["s"] > 1e-5)


def test_a_mode_that_learns_from_above_is_seen_to():
    """With p > p_+ and c < 0 it creeps towards p_+ for ever: certain once s cannot fall below the corner."""
    rng = np.random.default_rng(8)
    values = cases(rng, 500, top=0.95)
    modes = Modes(**values)
    low, high = modes.roots()
    depth = rng.uniform(0, 1, 500)  # of alpha_p c between 0 and p_-^2 - p_+^2
    p = high * rng.uniform(1, 2, 500)
    s = (p**2 - depth * (high**2 - low**2)) / values["alpha_p"]
    inside = s >= low**2 / values["alpha_p"]
    assert (modes.verdict(p, s)[inside] == 1).all() and (modes.excess(p, s) < 0).all()
    ends = solve_many(modes, {"p": p, "s": s}, 3e4, stop=Steady())
    assert (ends["s"][inside] > 0.5 * (high**2 / values["alpha_p"])[inside]).all()
    run = solve_many(modes, {"p": rng.uniform(-0.5, 2, 500), "s": rng.uniform(0.01, 1, 500)}, 1e6, stop=Settled())
    assert run.count("stopped") == 500 and run.steps.max() < 500


def test_separatrix():
    """2 % below it collapse, 2 % above it learn; it is not the parabola, and beyond p_+ it rises."""
    for options in each(cases(np.random.default_rng(8), 6)):
        modes = Modes(**options)
        low, high = (float(root) for root in modes.roots())
        top = 3 * high**2 / modes.alpha_p
        curve = separatrix(modes, (-1.0, 2 * high), (0.0, top))
        assert (np.diff(curve[:, 0]) > 0).all()
        p, s = curve[:: max(len(curve) // 25, 1)].T
        for factor, want in ((0.98, -1), (1.02, 1)):
            ends = solve_many(modes, {"p": p, "s": factor * s}, 1e5, stop=Settled(), rtol=1e-9, atol=1e-16)
            assert (modes.verdict(ends["p"], ends["s"]) == want).all()
        assert (np.diff(curve[curve[:, 0] < 0.99 * high, 1]) < 0).all()
        assert curve[:, 0].min() < low - 0.02 * high
        edges = np.array([-1.0, 2 * high, 0.0, top])
        for p, s in curve[[0, -1]]:
            assert np.abs(edges - [p, p, s, s]).min() < 1e-12
    assert separatrix(Modes(eta=0.3), (-1, 1), (0, 1)).shape == (0, 2)
    assert separatrix(Modes(eta=0.04), (0.5, 1), (0, 1)).shape == (0, 2)
    for modes, box in ((Modes(), (0, 1)), (Modes(eta=np.array([0.1])), (0, 1)), (Modes(eta=0.1), (1, 0))):
        with pytest.raises(DynamicsError):
            separatrix(modes, (-1, 1), box)


def test_alignment_window():
    """(17) and the window of eta: K > 0 on the whole parabola above tau^2 / (9 (1 + sigma2)); alpha_p cancels."""
    for sigma2, tau, alpha_p in [(0.1, 1.0, 1.0), (0.5, 0.7, 3.0), (0.0, 1.3, 0.2)]:
        base = Modes(alpha_p=alpha_p, sigma2=sigma2, tau=tau)
        p = np.linspace(0, 2, 200_001)
        for factor, positive in ((0.999, False), (1.001, True)):
            modes = Modes(alpha_p=alpha_p, sigma2=sigma2, tau=tau, eta=float(base.alignment_limit) * factor)
            k = modes.aligned_k(p, p**2 / alpha_p)
            assert (k.min() > 0) == positive
            s = p**2 / alpha_p
            assert np.array_equal(k > 0, modes.delta(p) < (alpha_p * (1 + sigma2) * s + modes.eta) / 2)
    assert float(Modes(sigma2=0.1).alignment_limit) == pytest.approx(0.1010, abs=5e-5)


@pytest.mark.parametrize("signal", [1.0, 0.6])
def test_scalar_network_is_the_mode(signal):
    """A11: (w_p, w, w_a) and (p, s, tau) under s = w^2, tau = w_a / w, also for unequal variances."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        options = {"alpha_p": rng.uniform(0.3, 4), "eta": rng.uniform(0, 0.05), "sigma2": rng.uniform(0, 0.5)}
        options |= {"beta": rng.uniform(0.1, 1), "signal": signal}
        times = np.linspace(0, 30, 31)
        scalar = solve(ScalarNetwork(**options), {"w_p": 0.4, "w": 0.7, "w_a": 0.2}, 30.0, save=times, solver=FINE)
        mode = solve(EMAModes(**options), {"p": 0.4, "s": 0.49, "tau": 0.2 / 0.7}, 30.0, save=times, solver=FINE)
        np.testing.assert_allclose(mode["p"], scalar["w_p"], atol=1e-6)
        np.testing.assert_allclose(mode["s"], scalar["w"] ** 2, atol=1e-6)
        np.testing.assert_allclose(mode["tau"], scalar["w_a"] / scalar["w"], atol=1e-6)


def test_tau_in_closed_form():
    """A11: eq. (15) on the parabola, to 1e-5; with the sign of beta or the start wrong it is far off."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        beta, eta, start = rng.uniform(0.1, 1), rng.uniform(0.005, 0.03), (0.0, 0.5)[seed % 2]
        modes = EMAModes(eta=eta, sigma2=0.1, beta=beta)
        times = np.linspace(0, 20, 4001)
        path = solve(modes, {"p": 0.5, "s": 0.25, "tau": start}, 20.0, save=times, solver=FINE)
        gap = np.abs(ema_share(path.t, path["p"], beta, start) - path["tau"])
        assert gap.max() < 1e-5
        assert np.abs(ema_share(path.t, path["p"], 2 * beta, start) - path["tau"]).max() > 1e-2


@pytest.mark.parametrize("beta", [0.0, 0.4, 3.0, 50.0])
def test_tau_over_a_long_time(beta):
    """Exponents of beta t in the thousands, and steps of many times 1 / beta; p constant, and p falling."""
    t = np.concatenate([np.linspace(0, 10, 101), np.geomspace(11, 4000, 60)])
    fall, gone = 0.001, np.exp(-beta * t)
    np.testing.assert_allclose(ema_share(t, np.full(len(t), 0.7), beta, 0.3), 1 - 0.7 * gone, rtol=1e-12)
    limit, gone = beta / (beta - fall), np.exp(-(beta - fall) * t)
    assert np.abs(ema_share(t, np.exp(-fall * t), beta, 0.3) / (limit * (1 - gone) + 0.3 * gone) - 1).max() < 1e-4


def test_tau_of_a_mode_that_collapses():
    """A11: beta / (beta - eta) for beta > eta, else without bound."""
    flow = EMAModes(eta=0.04, sigma2=0.1, beta=0.4)
    path = solve(flow, {"p": 0.01, "s": 1e-4, "tau": 0.5}, 300.0, solver=FINE)
    assert path["tau"][-1] == pytest.approx(0.4 / 0.36, rel=0.01) and path["s"][-1] < 1e-8
    path = solve(EMAModes(eta=0.4, sigma2=0.1, beta=0.1), {"p": 0.01, "s": 1e-4, "tau": 0.5}, 40.0, solver=FINE)
    assert path["tau"][-1] > 100


def test_decay_of_the_predictor_alone():
    """A12: s grows linearly, at 2 eta_p tau^2 / (alpha_p (1 + sigma2)^2)."""
    modes = Modes(alpha_p=1.0, eta=0.0, eta_p=0.04, sigma2=0.1)
    path = solve(modes, {"p": 0.5, "s": 0.5}, 4000.0, save=[3000.0, 4000.0], solver=Adaptive("LSODA", 1e-10, 1e-12))
    assert np.diff(path["s"])[0] / 1000 == pytest.approx(2 * 0.04 / 1.21, rel=0.01)


def test_parameters_may_differ_between_trajectories():
    values = cases(np.random.default_rng(6), 20)
    start = np.random.default_rng(7).uniform(0.1, 1, (20, 2))
    together = Modes(**values).rhs(0.0, start)
    alone = [Modes(**options).rhs(0.0, y) for options, y in zip(each(values), start, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-13)
    some = Modes(**values).take(np.array([3, 5]))
    np.testing.assert_allclose(some.rhs(0.0, start[[3, 5]]), together[[3, 5]], rtol=1e-13)
    assert some.roots()[0][1] == Modes(**values).roots()[0][5]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"alpha_p": 0.0}, "alpha_p"),
        ({"eta": -0.01}, "eta"),
        ({"eta": np.nan}, "eta"),
        ({"sigma2": -1.0}, "sigma2"),
        ({"signal": 0.0}, "signal"),
        ({"eta_p": -1.0}, "eta_p"),
        ({"tau": np.inf}, "tau"),
        ({"eta": np.ones((2, 2))}, "eta"),
        ({"eta": "much"}, "eta"),
    ],
)
def test_bad_parameters_are_named(options, word):
    with pytest.raises(DynamicsError, match=f"^{word}"):
        Modes(**options)


def test_bad_questions_are_answered_so():
    with pytest.raises(DynamicsError, match="s is an eigenvalue"):
        Modes().start({"p": 0.1, "s": -0.1})
    with pytest.raises(DynamicsError, match="tau is a function"):
        Modes(tau=lambda t: 1 - np.exp(-t)).roots()
    with pytest.raises(DynamicsError, match="eta must be 0"):
        Modes(eta=0.1).learns_without_decay(0.1, 0.1)
    with pytest.raises(DynamicsError, match="eta and tau"):
        Modes().verdict(0.1, 0.1)
    with pytest.raises(DynamicsError, match="part of the state"):
        EMAModes(tau=0.5)
