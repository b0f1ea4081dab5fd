"""Courses in time, sweeps, alignment of matrices, thresholds: what the figures draw (A5, A10, A11, A14, A17, A18)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from siamscope.dynamics import Adaptive, DynamicsError, EMAModes, Modes, largest_decay, solve
from siamscope.dynamics.alignment import Study, asymmetries, commutators, followings, peaks
from siamscope.dynamics.courses import courses, flow_line
from siamscope.dynamics.sweeps import Setting, Starts, sweep
from siamscope.dynamics.thresholds import expected_size, spectrum, start_sizes, survivors

REFERENCE = Starts(grid=(16, 10))


# -- one mode ----------------------------------------------------------------------------------------------------------


def test_flow_lines_below_at_and_above_the_limit():
    limit = 1 / 4.4
    kinds = [[point.kind for point in flow_line(Modes(eta=x * limit, sigma2=0.1)).points] for x in (0.5, 1, 1.25)]
    assert kinds == [["stable", "unstable", "stable"], ["stable", "degenerate"], ["stable"]]
    for alpha_p in (0.3, 5.0):
        flow = flow_line(Modes(alpha_p=alpha_p, eta=0.1, sigma2=0.1))
        # alpha_p cancels: the flow is that of dp/dt of the plane, on the parabola
        plane = Modes(alpha_p=alpha_p, eta=0.1, sigma2=0.1).rhs(0.0, np.stack([flow.p, flow.p**2 / alpha_p], -1))
        assert np.abs(flow.dp - plane[:, 0]).max() < 1e-14
        for point in flow.points:
            slope = np.gradient(flow.dp, flow.p)[np.abs(flow.p - point.at[0]).argmin()]
            assert point.eigenvalues[0].real == pytest.approx(slope, abs=5e-3)
    with pytest.raises(DynamicsError):
        flow_line(Modes(eta=0.1), (1.0, 0.0))


def test_courses_against_the_equations_of_tau():
    for beta, tau in ((0.4, 0.3), (0.05, 1.0)):
        mine = courses([0.3], [0.2], eta=0.04, beta=beta, tau=tau, end=40.0, count=41)
        solver = Adaptive(rtol=1e-11, atol=1e-13)
        flow = EMAModes(eta=0.04, sigma2=0.1, beta=beta)
        other = solve(flow, {"p": 0.3, "s": 0.2, "tau": tau}, 40.0, save=mine.times, solver=solver)
        for name in ("p", "s", "tau"):
            assert np.abs(getattr(mine, name)[:, 0] - other[name]).max() < 1e-6
    plain = courses([0.3], [0.2], eta=0.04, beta=math.inf, end=40.0, count=41)
    other = solve(Modes(eta=0.04, sigma2=0.1), {"p": 0.3, "s": 0.2}, 40.0, save=plain.times)
    assert np.abs(plain.s[:, 0] - other["s"]).max() < 1e-6 and (plain.tau == 1).all()


def test_a_course_through_the_pole_of_tau():
    """p < 0: w passes through 0, where tau = w_a / w has a pole; the network's flow is regular there."""
    equations = solve(EMAModes(eta=0.02, sigma2=0.1, beta=1.0), {"p": -0.5, "s": 0.01, "tau": 0.0}, 20.0)
    assert equations.status != "done"
    run = courses([-0.5], [0.01], eta=0.02, beta=1.0, end=20.0)
    assert np.isfinite(run.p).all() and run.tau.max() > 10


def test_tau_of_a_dead_mode_and_a_slow_average():
    """beta / (beta - eta) (1.7); observation 9: small beta slows training."""
    run = courses([0.3], [0.1], eta=0.3, beta=0.4, end=100.0)
    assert run.s[-1, 0] < 1e-12 and run.tau[-1, 0] == pytest.approx(run.tau_when_dead, rel=1e-3)
    assert run.tau_when_dead == pytest.approx(4.0)
    assert courses([0.3], [0.1], eta=0.3, beta=0.2, end=1.0).tau_when_dead == math.inf
    slow, fast = (courses([0.4], [0.2], eta=0.04, beta=beta).s[-1, 0] for beta in (0.04, 0.4))
    assert slow < 0.6 * fast


@pytest.mark.parametrize(
    ("words", "p", "s", "options"),
    [
        ("as many", [0.1], [0.1, 0.2], {}),
        ("above 0", [0.1], [0.0], {}),
        ("end", [0.1], [0.1], {"end": 0.0}),
        ("eta", [0.1], [0.1], {"eta": -0.1}),
        ("beta", [0.1], [0.1], {"beta": math.nan}),
    ],
)
def test_bad_courses(words, p, s, options):
    with pytest.raises(DynamicsError, match=words):
        courses(p, s, **({"eta": 0.04, "beta": 0.4} | options))


# -- sweeps ------------------------------------------------------------------------------------------------------------


def test_observation_1_as_a_sweep():
    found = sweep("alpha_p", [0.25, 1.0, 4.0, 16.0], Setting(), REFERENCE)
    assert found.collapse == pytest.approx([0.194, 0.075, 0.025, 0.013], abs=6e-4)
    assert (np.diff(found.collapse) < 0).all() and (found.unknown == 0).all()
    assert found.late == pytest.approx(found.rest, rel=1e-3)
    assert found.rest == pytest.approx(found.high**2 / found.values)


def test_observations_4_5_and_10():
    eta = sweep("eta", [0.02, 0.06, 0.1, 0.2, 0.25], Setting(), REFERENCE)
    assert (np.diff(eta.low[:4]) > 0).all() and np.isnan(eta.low[4]) and eta.collapse[4] == 1
    assert (np.diff(eta.collapse) > 0).all() and eta.late[4] < 1e-9 and eta.early[4] < 1e-6
    tau = sweep("tau", [0.25, 0.4, 0.7, 1.0], Setting(), REFERENCE)
    assert tau.collapse[0] == 1 and (np.diff(tau.low[1:]) < 0).all()
    sigma2 = sweep("sigma2", [0.0, 5.0, 11.0, 12.0], Setting(), REFERENCE)
    assert sigma2.collapse[3] == 1 and sigma2.collapse[2] < 1  # 1 / (4 eta) - 1 = 11.5


def test_a_little_weight_decay_shrinks_the_basin_in_the_plane():
    """Observation 4 is of the parabola. In the plane, decay also brings back modes of large p and small s."""
    found = sweep("eta", [0.0, 0.01, 0.1], Setting(), REFERENCE)
    assert found.collapse[1] < found.collapse[0] < found.collapse[2]
    assert found.low[0] < found.low[1] < found.low[2]


def test_beta_as_a_sweep():
    """A fast average is a target that is the online network; a slow one is late."""
    found = sweep("beta", [0.02, 0.2, 10.0], Setting(eta=0.05, tau=0.0, beta=1.0), Starts(grid=(6, 5)))
    plain = sweep("eta", [0.05], Setting(), Starts(grid=(6, 5)))
    assert found.collapse[2] == plain.collapse[0] and (found.unknown == 0).all()
    assert found.early[2] == pytest.approx(plain.early[0], rel=1e-2)
    assert (np.diff(found.early) > 0).all() and found.late == pytest.approx(found.rest, rel=1e-3)
    assert found.early[0] < 0.2 * found.early[2]


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("over", lambda: sweep("gamma", [1.0])),
        ("one value", lambda: sweep("eta", [])),
        ("NaN", lambda: sweep("eta", [0.1, math.nan])),
        ("finite", lambda: sweep("eta", [math.inf])),
        ("at least 0", lambda: sweep("eta", [-0.1])),
        ("together", lambda: sweep("eta", [0.1] * 3, Setting(), Starts(grid=(400, 400)))),
        ("increase", lambda: sweep("eta", [0.1], Setting(), Starts(p=(1.0, 0.0)))),
        ("range of s", lambda: sweep("eta", [0.1], Setting(), Starts(s=(-0.1, 0.5)))),
        ("tau", lambda: sweep("tau", [0.0])),
    ],
)
def test_bad_sweeps(words, call):
    with pytest.raises(DynamicsError, match=words):
        call()


# -- matrices ----------------------------------------------------------------------------------------------------------


def test_commutators_stay_below_their_bound():
    study = Study(width=4, seeds=4, end=40.0)
    for eta, traces in zip((0.02, 0.1), commutators(study, (0.02, 0.1)), strict=True):
        clear = traces.values > 1e-7
        assert (traces.values / traces.bound)[clear].max() < 1 + 1e-4
        assert traces.values[:, 0] == pytest.approx(1) and traces.bound[:, 0] == pytest.approx(1)
        # negative control: K with twice its weight decay
        assert (traces.values / (traces.bound * np.exp(-3 * eta * traces.times)))[clear].max() > 1.01


def test_growth_falls_with_eta_alpha_p_and_an_average():
    """A5b: observations 6, 7 and 8, for each seed."""
    study = Study(seeds=4)
    by_eta = peaks(study, (0.01, 0.04, 0.1, 0.12), (1.0,) * 4)
    assert (np.diff(by_eta[:3], axis=0) < 0).all() and by_eta[2:] == pytest.approx(1)
    by_alpha_p = peaks(study, (0.04,) * 3, (1.0, 5.0, 20.0))
    assert (np.diff(by_alpha_p, axis=0) < 0).all()
    assert (peaks(study, (0.01, 0.04), (1.0, 1.0), beta=0.4) < by_eta[:2]).all()


def test_each_value_and_seed_is_what_it_would_be_alone():
    few, many = Study(width=3, seeds=2, end=20.0), Study(width=3, seeds=3, end=20.0)
    alone, among = commutators(few, (0.04,))[0], commutators(many, (0.01, 0.04))[1]
    assert np.abs(alone.values - among.values[:2]).max() < 1e-5
    low, middle, high = among.middle()
    assert (low <= middle).all() and (middle <= high).all() and (high > low).any()


def test_a_predictor_becomes_symmetric():
    """A14, figure 8: |B| / |B0| below 1e-2 at t = 400, for each seed."""
    middle, strong = asymmetries(Study(width=3, seeds=6, end=400.0), (0.04, 0.1))
    assert middle.values[:, -1].max() < 1e-2 and strong.values[:, -1].max() < 1e-2
    assert middle.values[:, :5].min() > 0.1  # and it was not so from the start


def test_the_target_follows():
    """A14, figure 7: mean cos(W_a, W) above 0.9 for gamma <= 0.996 and eta <= 0.1; a slow target of its own is not."""
    study = Study(seeds=3, end=60.0)
    pairs = [(gamma, eta) for gamma in (0.9, 0.996) for eta in (0.0, 0.1)]
    gamma, eta = zip(*pairs, strict=True)
    for start in ("zero", "copy"):
        for traces in followings(study, eta, gamma, start=start):
            assert traces.values.mean(1).min() > 0.9
    other, quick = followings(study, (0.01, 0.01), (0.999, 0.99), start="random")
    same = followings(study, (0.01,), (0.99,), rate=0.3, start="random")[0]  # beta = (1 - momentum) / rate
    assert np.abs(same.values - other.values).max() < 1e-6
    assert (quick.values.mean(1) > other.values.mean(1)).all()
    assert other.values.mean(1).max() < 0.95 and np.abs(other.values[:, 0]).max() < 0.6


def test_bad_studies():
    for options in ({"width": 1}, {"seeds": 0}, {"end": 0.0}, {"sigma2": -1.0}, {"width": 100}, {"seed": -1}):
        with pytest.raises(DynamicsError):
            Study(**options)
    with pytest.raises(DynamicsError, match="momentum"):
        followings(Study(seeds=1), (0.01,), (1.5,))
    with pytest.raises(DynamicsError, match="start"):
        followings(Study(seeds=1), (0.01,), (0.9,), start="one")
    with pytest.raises(DynamicsError, match="eta"):
        commutators(Study(seeds=1), (-0.1,))


# -- thresholds --------------------------------------------------------------------------------------------------------

VARIANCES = [0.0, 0.1, 0.3, 0.6, 0.9, 1.2, 2.0, 4.0]


@pytest.mark.parametrize("predictor", [0.5, 1.0, "trained"])
def test_weight_decay_is_a_threshold(predictor):
    """A18: the features kept are those of sigma2 < 1 / (4 eta) - 1, exactly; equality has no verdict."""
    etas = [0.05, 0.1, 0.15, 0.2]
    found = survivors(predictor, etas, VARIANCES)
    want = np.array([[s < 1 / (4 * eta) - 1 for s in VARIANCES] for eta in etas])
    equal = np.array([[abs(eta * 4 * (1 + s) - 1) < 1e-9 for s in VARIANCES] for eta in etas])
    assert equal.sum() == 1 and (found.lives[equal] == -1).all() and (found.expected[equal] == -1).all()
    assert np.array_equal(found.lives[~equal] == 1, want[~equal]) and found.wrong == 0
    # negative control: half the weight decay in the inequality
    half = np.array([[eta < largest_decay(s) / 2 for s in VARIANCES] for eta in etas])
    assert (half != (found.lives == 1)).any()


def test_a_start_below_p_minus_dies_whatever_the_inequality_says():
    found = survivors(1.0, [0.2], [0.0], delta=0.3)
    assert found.lives[0, 0] == 0 and found.expected[0, 0] == 1 and found.wrong == 1


@pytest.mark.parametrize("predictor", [0.5, 1.0, 2.0, "trained"])
def test_spectra_of_trained_networks(predictor):
    found = spectrum(predictor, 0.12, VARIANCES, seed=3)
    assert np.abs(found.size - found.expected).max() < 1e-6
    assert (found.expected[:5] > 0.3).all() and (found.expected[5:] == 0).all()
    noise, curve = found.curve
    assert curve[0] == pytest.approx(found.expected[0]) and noise[-1] == 4.0
    u = expected_size(predictor, 0.12, np.array([0.3]))[0] ** (1 if predictor == "trained" else 2 * predictor)
    assert 1.3 * u**2 - u + 0.12 == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_starts_above_and_below_the_threshold(power):
    """A17: W -> scale P_S from delta above the threshold, 0 from below."""
    found = start_sizes(0.2, 1.0, power, np.geomspace(0.1, 1.5, 40).tolist())
    above = found.delta > found.theorem.threshold
    assert np.abs(found.size[above] - found.theorem.scale).max() < 1e-5 and found.size[~above].max() < 1e-5
    assert above.any() and not above.all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: survivors(0.5, [], [0.1]),
        lambda: survivors(0.5, [0.0], [0.1]),
        lambda: survivors(0.5, [0.1], [-0.1]),
        lambda: survivors(0.5, [math.nan], [0.1]),
        lambda: survivors(0.5, [0.1], [0.1], delta=0.0),
        lambda: survivors(0.0, [0.1], [0.1]),
        lambda: survivors(0.5, [0.1] * 200, [0.1] * 200),
        lambda: spectrum(0.5, 0.1, []),
        lambda: spectrum(0.5, -0.1, [0.1]),
        lambda: start_sizes(0.2, 1.0, 0.5, [0.0]),
        lambda: start_sizes(0.2, 1.0, 0.5, ["a"]),
        lambda: survivors("foo", [0.1], [0.1]),
        lambda: survivors(None, [0.1], [0.1]),
        lambda: survivors(0.5, ["a"], [0.1]),
        lambda: survivors(0.5, [[0.1]], [0.1]),
        lambda: spectrum("foo", 0.1, [0.1]),
        lambda: spectrum(-1.0, 0.1, [0.1]),
        lambda: spectrum(0.5, 0.1, ["a"]),
        lambda: spectrum(0.5, 0.1, [0.1], seed=-1),
        lambda: expected_size("foo", 0.1, np.ones(2)),
        lambda: expected_size(0.0, 0.1, np.ones(2)),
        lambda: expected_size(math.nan, 0.1, np.ones(2)),
        lambda: expected_size(0.5, [0.1, 0.2], np.ones(2)),
    ],
)
def test_bad_thresholds(call):
    with pytest.raises(DynamicsError):
        call()
