"""Phase portraits: nullclines, fixed points, basins and their edge, the planes of the weights (A8, A9, A10, A14)."""

from __future__ import annotations

import numpy as np
import pytest

from siamscope.dynamics import Adaptive, DynamicsError, EMAModes, Modes, ScalarNetwork, Steady, jacobian, solve
from siamscope.dynamics.plane import axis, check_grid, kind
from siamscope.dynamics.portrait import (
    edge,
    nullclines,
    outcomes,
    parabola,
    portrait,
    resting_lines,
    resting_points,
)
from siamscope.dynamics.weights import balanced_run, weight_planes

BOX = (-0.5, 1.0), (0.0, 0.5)
NETWORK = ScalarNetwork(signal=0.5, sigma2=0.5)


def draws(count, top=0.9, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        sigma2, tau, signal = rng.uniform(0, 2), rng.uniform(0.4, 1.5), rng.uniform(0.5, 1.5)
        limit = (signal * tau) ** 2 / (4 * (signal + sigma2))
        eta = rng.uniform(0.05, top) * limit
        yield Modes(alpha_p=np.exp(rng.uniform(-1.5, 2)), eta=eta, sigma2=sigma2, tau=tau, signal=signal)


def field(modes, curve):
    shown = curve[np.isfinite(curve).all(1)]
    assert len(shown)
    return modes.rhs(0.0, shown), shown


def test_the_rate_of_p_is_0_on_its_nullcline_and_the_rate_of_s_on_its_own():
    for modes in [*draws(20), Modes(sigma2=0.3, alpha_p=2.0)]:
        of_p, of_s = nullclines(modes, *BOX)
        for curve in of_p:
            assert np.abs(field(modes, curve)[0][:, 0]).max() < 1e-12
        for curve in of_s:
            assert np.abs(field(modes, curve)[0][:, 1]).max() < 1e-12


def test_a_shifted_nullcline_is_none():
    modes = Modes(eta=0.1, sigma2=0.1)
    of_p, of_s = nullclines(modes, *BOX)
    assert np.abs(field(modes, of_p[0] * [1.02, 1])[0][1:, 0]).max() > 1e-3
    assert np.abs(field(modes, of_s[1] + [0.02, 0])[0][:, 1]).max() > 1e-3


def test_nullclines_cross_at_the_fixed_points():
    modes = Modes(eta=0.1, sigma2=0.1)
    width = modes.alpha_p * (s := modes.roots()[0] ** 2) / (modes.eta + s * modes.total)
    assert width == pytest.approx(float(modes.roots()[0]), rel=1e-12)


def test_kinds_against_differences_and_the_closed_eigenvalues():
    for modes in draws(20):
        points = resting_points(modes)
        low, high = (float(root) for root in modes.roots())
        gap = float(modes.total) * (high - low)
        expected = [(-2 * modes.eta, -modes.eta), (-2 * modes.eta, gap * low), (-2 * modes.eta, -gap * high)]
        assert [point.kind for point in points] == ["stable", "saddle", "stable"]
        for point, values in zip(points, expected, strict=True):
            assert np.abs(modes.rhs(0.0, np.array(point.at))).max() < 1e-14
            found = np.array([value.real for value in point.eigenvalues])
            assert found == pytest.approx(sorted(values), abs=1e-9)
            numeric = np.linalg.eigvals(jacobian(modes, np.array(point.at))).real
            assert found == pytest.approx(np.sort(numeric), abs=1e-7)


def test_a_kind_for_every_pair_of_signs():
    assert kind([-1, -2]) == "stable" and kind([1, 2]) == "unstable" and kind([-1, 1]) == "saddle"
    assert kind([-1 + 2j, -1 - 2j]) == "stable" and kind([1e-12, -1]) == "degenerate" and kind([0, 0]) == "degenerate"


def test_at_the_limit_one_degenerate_point_and_above_it_collapse_only():
    limit = 1 / 4.4
    at = resting_points(Modes(eta=limit, sigma2=0.1))
    assert [point.kind for point in at] == ["stable", "degenerate"]
    assert at[1].at[0] == pytest.approx(1 / 2.2, abs=1e-7)
    above = portrait(Modes(eta=1.01 * limit, sigma2=0.1), *BOX, grid=(16, 12))
    assert not above.learns and above.collapse == 1 and not len(above.edge)
    assert [point.at for point in above.points] == [(0.0, 0.0)]
    below = portrait(Modes(eta=0.99 * limit, sigma2=0.1), *BOX, grid=(16, 12))
    assert below.learns and below.collapse < 1 and len(below.points) == 3


def final_s(modes, p, s):
    """Of one trajectory, by scipy."""
    solver = Adaptive("LSODA", rtol=1e-10, atol=1e-13)
    return float(solve(modes, {"p": p, "s": s}, 2e4, save="ends", solver=solver, stop=Steady(1e-9, 1e-12))["s"][-1])


def test_the_basin_map_against_single_trajectories():
    rng = np.random.default_rng(1)
    for modes in [*draws(4, seed=2), Modes(alpha_p=0.5, sigma2=0.2)]:
        p, s = rng.uniform(-0.5, rng.choice([1, 3]), 12), rng.uniform(0.01, rng.choice([0.5, 2]), 12)
        assert np.array_equal(
            outcomes(modes, p, s) > 0, [final_s(modes, *start) > 1e-6 for start in zip(p, s, strict=True)]
        )


def test_outcomes_of_vector_parameters_are_those_of_each():
    rng = np.random.default_rng(3)
    p, s, eta = rng.uniform(-0.5, 1, 60), rng.uniform(0.01, 0.5, 60), rng.choice([0.0, 0.05, 0.15, 0.3], 60)
    together = outcomes(Modes(eta=eta, sigma2=0.1), p, s)
    alone = [outcomes(Modes(eta=float(rate), sigma2=0.1), *start)[0] for rate, *start in zip(eta, p, s, strict=True)]
    assert np.array_equal(together, alone)
    assert {-1, 1} == set(together.tolist())


@pytest.mark.parametrize("eta", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("alpha_p", [0.25, 1.0, 4.0])
def test_the_edge_parts_learning_from_collapse(eta, alpha_p):
    modes = Modes(alpha_p=alpha_p, eta=eta, sigma2=0.1)
    curve = edge(modes, *BOX)
    curve = curve[np.isfinite(curve).all(1)]
    curve = curve[(curve[:, 1] > 2e-3) & (np.abs(curve[:, 0] - modes.roots()[0]) > 1e-2)]
    assert len(curve) > 10
    assert (outcomes(modes, curve[:, 0], curve[:, 1] * 1.01) == 1).all()
    assert (outcomes(modes, curve[:, 0], curve[:, 1] * 0.99) == -1).all()


def test_an_edge_whose_saddle_lies_outside_the_box():
    modes = Modes(eta=0.1, sigma2=0.1)
    assert float(modes.roots()[0]) > 0
    curve = edge(modes, (-0.5, -0.1), (0.05, 0.4))
    shown = curve[np.isfinite(curve).all(1)]
    assert len(shown) > 10 and (shown[:, 0] <= -0.1).all() and (shown[:, 1] >= 0.05).all()


def test_an_edge_far_below_its_saddle():
    """alpha_p = 0.05 lifts the saddle to s = p_-^2 / alpha_p, ten times the top of the box."""
    modes = Modes(alpha_p=0.05, eta=0.1, sigma2=0.1)
    curve = edge(modes, (0.2, 1.0), (0.0, 0.02))
    curve = curve[np.isfinite(curve).all(1) & (curve[:, 1] > 1e-3)]
    assert len(curve) > 10
    assert (outcomes(modes, curve[:, 0], curve[:, 1] * 1.02) == 1).all()
    assert (outcomes(modes, curve[:, 0], curve[:, 1] * 0.98) == -1).all()


def test_the_share_is_the_area_below_the_exact_edge():
    """Without decay: s = p^2 / alpha_p for p < 0, and (p^2 - p*^2) / alpha_p for p > p*."""
    found = portrait(Modes(alpha_p=1.0, sigma2=0.1), *BOX, grid=(300, 300))
    top = 1 / 1.1
    area = 0.5**3 / 3 + (1 - top**3) / 3 - top**2 * (1 - top)
    assert found.collapse == pytest.approx(area / (1.5 * 0.5), abs=1e-3)
    assert found.unknown == 0


def test_observation_1_on_the_grid_of_the_reference():
    p, s = (a.ravel() for a in np.meshgrid(np.linspace(-0.5, 1, 16), np.linspace(0.01, 0.5, 10)))
    shares = [(outcomes(Modes(alpha_p=a, eta=0.02, sigma2=0.1), p, s) < 0).mean() for a in (0.25, 1, 4, 16)]
    assert shares == pytest.approx([0.194, 0.075, 0.025, 0.013], abs=6e-4)


def test_the_parabola_is_invariant_and_other_curves_are_not():
    for modes in draws(8, seed=4):
        rates, curve = field(modes, parabola(modes, *BOX))
        assert np.abs(rates[:, 1] - 2 * curve[:, 0] / modes.alpha_p * rates[:, 0]).max() < 1e-12
        rates, curve = field(modes, parabola(modes, *BOX) * [1, 1.1])
        assert np.abs(rates[:, 1] - 2.2 * curve[:, 0] / modes.alpha_p * rates[:, 0]).max() > 1e-4


def test_without_decay_whole_lines_are_at_rest():
    modes = Modes(alpha_p=2.0, sigma2=0.1)
    lines = resting_lines(modes, *BOX)
    assert resting_points(modes) == () and [attracts for attracts, _ in lines] == [True, True, False, True]
    for attracts, line in lines:
        rates, shown = field(modes, line)
        assert np.abs(rates).max() < 1e-14
        inner = shown[5:-5]
        growth = np.array([np.linalg.eigvals(modes.jacobian(*at)).real for at in inner])
        assert (growth.max(1) <= 1e-12).all() == attracts
    assert resting_lines(Modes(eta=0.01), *BOX) == ()


def test_the_field_and_the_paths():
    modes = Modes(alpha_p=0.5, eta=0.05, sigma2=0.1)
    found = portrait(modes, *BOX, grid=(30, 20), starts=[(0.3, 0.4), (-0.45, 0.1)])
    assert found.dp.shape == (20, 30)
    at = np.array([found.p[7], found.s[11]])
    assert [found.dp[11, 7], found.ds[11, 7]] == modes.rhs(0.0, at).tolist()
    good, bad = found.paths
    assert [good.p[-1], good.s[-1]] == pytest.approx([float(modes.roots()[1]), modes.roots()[1] ** 2 / 0.5], abs=1e-3)
    assert bad.s[-1] < 1e-6 and found.outcome.dtype == np.int8


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("p_range", {"p_range": (1.0, -0.5)}),
        ("p_range", {"p_range": (0.0, float("nan"))}),
        ("s_range", {"s_range": (-0.1, 0.5)}),
        ("s_range", {"s_range": (0.2, 0.2)}),
        ("1,000,000", {"grid": (2000, 2000)}),
        ("2 points", {"grid": (1, 20)}),
        ("negative", {"starts": [(0.1, -0.1)]}),
    ],
)
def test_bad_boxes(words, options):
    with pytest.raises(DynamicsError, match=words):
        portrait(Modes(eta=0.1), **({"grid": (8, 8)} | options))


@pytest.mark.parametrize(
    ("words", "modes"),
    [
        ("tau must be above 0", lambda: Modes(eta=0.1, tau=0.0)),
        ("one number", lambda: Modes(eta=np.array([0.1, 0.2]))),
        ("equal weight decay", lambda: Modes(eta=0.1, eta_p=0.2)),
        ("function of time", lambda: Modes(eta=0.1, tau=lambda t: 1.0)),
        ("another plane", lambda: EMAModes(eta=0.1)),
        ("NaN", lambda: Modes(eta=float("nan"))),
    ],
)
def test_bad_parameters(words, modes):
    with pytest.raises(DynamicsError, match=words):
        portrait(modes(), grid=(8, 8))


def test_a_grid_stands_for_equal_areas():
    assert axis("p", (0.0, 1.0), 4).tolist() == [0.125, 0.375, 0.625, 0.875]
    check_grid((1000, 1000))
    with pytest.raises(DynamicsError):
        check_grid((1001, 1000))


# -- the planes of the weights -----------------------------------------------------------------------------------------


def test_figure_10():
    """A14: a saddle of +-1/2 with the target at rest, a rest at 1/2 with a predictor, stable collapse without."""
    frozen, tied, none = weight_planes(NETWORK, grid=(21, 21), starts=2)
    assert [v.real for v in frozen.points[0].eigenvalues] == pytest.approx([-0.5, 0.5], abs=1e-12)
    assert frozen.points[0].kind == "saddle"
    assert tied.points[1].at == pytest.approx((0.5, 0.5), abs=1e-12) and tied.points[1].kind == "stable"
    assert [v.real for v in none.points[0].eigenvalues] == pytest.approx([-1 - 0.5**0.5, -1 + 0.5**0.5], abs=1e-12)
    assert none.points[0].kind == "stable"
    run = balanced_run(NETWORK)
    assert run.y[-1] == pytest.approx([0.5, 0.5, 0.5], abs=1e-9)
    assert np.abs(run["w_p"] - run["w"]).max() < 1e-9
    for path in none.paths:
        assert np.abs(path[-1]).max() < 1e-3


def test_another_signal_has_another_figure_10():
    """Negative control: the half is signal / (signal + sigma2), and the saddle's rate the signal."""
    frozen, tied, _ = weight_planes(ScalarNetwork(signal=0.3, sigma2=0.7), grid=(21, 21), starts=2)
    assert frozen.points[0].eigenvalues[1].real == pytest.approx(0.3)
    assert tied.points[1].at == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize(("eta", "alpha_p", "beta"), [(0.0, 1.0, 1.0), (0.03, 2.0, 0.4), (0.06, 0.5, 3.0)])
def test_points_of_the_planes_are_at_rest_with_the_eigenvalues_of_differences(eta, alpha_p, beta):
    network = ScalarNetwork(alpha_p, eta, beta, signal=0.6, sigma2=0.4)
    root = alpha_p**0.5
    frozen, tied, none = weight_planes(network, grid=(21, 21), w_a=0.8, starts=2)
    flows = {
        "frozen": ScalarNetwork(alpha_p, eta, beta, signal=0.6, sigma2=0.4, target="frozen", frozen=0.8),
        "none": ScalarNetwork(alpha_p, eta, beta, signal=0.6, sigma2=0.4, predictor=False),
    }
    for plane in (frozen, none):
        for point in plane.points:
            at = np.array(point.at)
            assert np.abs(flows[plane.name].rhs(0.0, at)).max() < 1e-14
            numeric = np.sort(np.linalg.eigvals(jacobian(flows[plane.name], at)).real)
            assert [v.real for v in point.eigenvalues] == pytest.approx(numeric, abs=1e-8)
    for point in tied.points:
        w, w_a = point.at
        assert np.abs(network.rhs(0.0, np.array([root * w, w, w_a]))).max() < 1e-14
        whole = np.linalg.eigvals(
            jacobian(network, np.array([root * w, w, w_a]))
        ).real  # of three; two stay in the plane
        assert all(np.abs(whole - value.real).min() < 1e-7 for value in point.eigenvalues)
    assert len(frozen.points) == (1 if eta == 0 else 3) and len(tied.points) == (2 if eta == 0 else 3)


def test_the_curves_of_the_frozen_plane():
    """At rest on w_p w = w_a signal / total; the way into the saddle keeps w_p = -sqrt(alpha_p) w."""
    network = ScalarNetwork(2.0, signal=0.5, sigma2=0.5)
    frozen = weight_planes(network, grid=(21, 21), starts=2)[0]
    flow = ScalarNetwork(2.0, signal=0.5, sigma2=0.5, target="frozen")
    rest, line = (curve[np.isfinite(curve).all(1)] for curve in (frozen.rest, frozen.edge))
    assert np.abs(flow.rhs(0.0, rest)).max() < 1e-12 and len(rest) > 50
    rates = flow.rhs(0.0, line)
    assert np.abs(rates[:, 0] + 2**0.5 * rates[:, 1]).max() < 1e-12
    assert (np.einsum("ij,ij->i", rates, line)[np.abs(line[:, 0]) > 1e-9] < 0).all()
    assert np.abs(flow.rhs(0.0, 1.05 * rest)).max() > 1e-3


def test_bad_networks():
    for network in (ScalarNetwork(beta=0.0), ScalarNetwork(signal=0.0), ScalarNetwork(eta=0.1, eta_p=0.2)):
        with pytest.raises(DynamicsError):
            weight_planes(network)
    with pytest.raises(DynamicsError, match="increase"):
        weight_planes(NETWORK, (1.0, -1.0))
    with pytest.raises(DynamicsError, match="one number"):
        weight_planes(ScalarNetwork(eta=np.array([0.1, 0.2])))
