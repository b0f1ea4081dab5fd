"""Solvers: agreement with each other, scipy and diffrax; ends and early ends; errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from siamscope.dynamics import (
    STATUSES,
    Adaptive,
    DynamicsError,
    EMAModes,
    Euler,
    MatrixFlow,
    Modes,
    ScalarNetwork,
    SetModes,
    SetRule,
    Settled,
    Steady,
    solve,
    solve_many,
    subspace,
)


def starts(rng, n, size):
    return rng.uniform(0.05, 1.0, (n, size))


SYSTEMS = [
    Modes(2.0, 0.04, 0.1),
    Modes(0.5, 0.04, 0.1, tau=lambda t: 1 - 0.9 * np.exp(-0.2 * np.asarray(t))),
    EMAModes(1.0, 0.03, 0.2, beta=0.4),
    ScalarNetwork(eta=0.02, sigma2=0.3, signal=0.7),
    SetModes(3, 0.05, np.array([0.0, 0.3, 1.0]), rule=SetRule(eps=0.1)),
]


@pytest.mark.parametrize("system", SYSTEMS)
def test_many_agree_with_scipy_one_by_one(system):
    """30 trajectories, saved at 5 times, in blocks that are smaller: to ten times the tolerance asked for."""
    y0 = starts(np.random.default_rng(0), 30, system.layout.size)
    times = np.array([0.5, 3.0, 10.0, 25.0, 40.0])
    errors = []
    for rtol in (1e-5, 1e-8):
        run = solve_many(system, y0, 40.0, times=times, rtol=rtol, atol=rtol / 1e3, block=7, threads=2)
        gaps = []
        for i, y in enumerate(y0):
            want = solve_ivp(system.rhs, (0, 40), y, "DOP853", times, rtol=1e-11, atol=1e-13).y.T
            gaps.append(np.abs(run.path[:, i] - want).max())
        assert max(gaps) < 30 * rtol
        errors.append(max(gaps))
        assert (run.code == STATUSES.index("done")).all() and (run.t == 40).all()
        np.testing.assert_array_equal(run.path[-1], run.y)
    assert errors[1] < errors[0] / 10


def test_each_trajectory_may_have_parameters_of_its_own():
    rng = np.random.default_rng(1)
    n = 40
    values = {"alpha_p": rng.uniform(0.2, 5, n), "eta": rng.uniform(0, 0.1, n), "sigma2": rng.uniform(0, 1, n)}
    y0 = starts(rng, n, 2)
    run = solve_many(Modes(**values), y0, 20.0, rtol=1e-8, atol=1e-11, block=6)
    for i in range(n):
        one = Modes(**{name: float(v[i]) for name, v in values.items()})
        want = solve(one, y0[i], 20.0, save="ends", solver=Adaptive(rtol=1e-11, atol=1e-13)).y[-1]
        np.testing.assert_allclose(run.y[i], want, atol=3e-7)


def test_blocks_and_threads_do_not_change_results():
    y0 = starts(np.random.default_rng(2), 100, 2)
    runs = [
        solve_many(SYSTEMS[0], y0, 1e4, stop=Steady(), block=block, threads=threads)
        for block, threads in ((100, 1), (13, 1), (9, 3))
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run.y, runs[0].y, rtol=1e-5, atol=1e-8)
    assert all(run.count("stopped") == 100 for run in runs)
    stats = runs[0].stats
    assert stats.evaluations >= 6 * (stats.steps + stats.rejected) > 0 and stats.steps > stats.rejected


def test_matrix_flows_in_a_batch():
    flow = MatrixFlow(*subspace(3, 0, 0.1), 2, eta=0.05)
    y0 = np.random.default_rng(3).standard_normal((5, flow.layout.size))
    run = solve_many(flow, y0, 15.0, rtol=1e-8, atol=1e-10)
    for i in range(5):
        want = solve(flow, y0[i], 15.0, save="ends", solver=Adaptive(rtol=1e-11, atol=1e-13))
        np.testing.assert_allclose(run["W"][i], want.final["W"], atol=1e-6)


def test_stiff_trajectories_are_seen_to_rest():
    """Steps at the edge of stability make the rate flicker above what counts as rest; it must not run on."""
    modes = Modes(alpha_p=1000.0, eta=0.0, sigma2=0.1)
    run = solve_many(modes, {"p": [0.0, -0.5], "s": [0.5, 0.7]}, 1e6, stop=Steady(1e-7, 1e-10))
    assert run.count("stopped") == 2 and run.steps.max() < 5000
    np.testing.assert_allclose(run["s"], modes.limit_without_decay([0.0, -0.5], [0.5, 0.7])[1], rtol=1e-4)


@pytest.mark.parametrize("method", ["DOP853", "RK45", "LSODA", "Radau", "BDF"])
def test_scipys_methods(method):
    y0, times = {"p": 0.3, "s": 0.2}, np.linspace(0, 20, 9)
    path = solve(SYSTEMS[0], y0, 20.0, save=times, solver=Adaptive(method, 1e-9, 1e-11))
    want = solve_ivp(SYSTEMS[0].rhs, (0, 20), [0.3, 0.2], "DOP853", times, rtol=1e-12, atol=1e-13).y.T
    assert np.abs(path.y - want).max() < 1e-5
    np.testing.assert_array_equal(path.t, times)
    assert path.status == "done" and path.stats.evaluations > path.stats.steps > 0


def test_what_is_saved():
    flow, y0 = SYSTEMS[0], {"p": 0.3, "s": 0.2}
    ends = solve(flow, y0, 5.0, save="ends")
    assert list(ends.t) == [0.0, 5.0]
    steps = solve(flow, y0, 5.0)
    assert steps.t[0] == 0 and steps.t[-1] == 5 and len(steps.t) == steps.stats.steps + 1
    np.testing.assert_array_equal(steps.y[-1], ends.y[-1])
    euler = solve(flow, y0, 1.0, save=[0.0, 0.25, 1.0], solver=Euler(0.5))
    first = np.array([0.3, 0.2]) + 0.5 * flow.rhs(0.0, np.array([0.3, 0.2]))
    np.testing.assert_allclose(euler.y[1], (np.array([0.3, 0.2]) + first) / 2, rtol=1e-14)
    np.testing.assert_allclose(euler.y[2], first + 0.5 * flow.rhs(0.5, first), rtol=1e-14)
    back = solve(flow, steps.y[-1], 0.0, t0=5.0, save="ends", solver=Adaptive(rtol=1e-11, atol=1e-13))
    np.testing.assert_allclose(back.y[-1], [0.3, 0.2], atol=1e-6)
    nothing = solve(flow, y0, 0.0, save="ends")
    assert nothing.status == "done" and nothing.stats.steps == 0 and list(nothing.t) == [0.0]


def test_early_ends():
    """Rest, divergence, a spent budget: a status, not an endless run; the last state is there."""
    flow = Modes(1.0, 0.04, 0.1)
    rest = solve(flow, {"p": 0.5, "s": 0.3}, 1e9, stop=Steady(), save="ends")
    assert rest.status == "stopped" and rest.t[-1] < 1e3
    assert rest["p"][-1] == pytest.approx(float(flow.roots()[1]), rel=1e-5)
    settled = solve(flow, {"p": 0.5, "s": 0.3}, 1e9, stop=Settled(), save="ends")
    assert settled.status == "stopped" and settled.stats.steps == 0
    spent = solve(flow, {"p": 0.5, "s": 0.3}, 1e9, max_steps=5)
    assert spent.status == "too many steps" and spent.stats.steps == 5 and len(spent.t) == 6
    for solver in (Adaptive(), Euler(0.1)):  # tau of a dead mode grows as exp((eta - beta) t)
        path = solve(EMAModes(eta=0.4, beta=0.1), {"p": 0.01, "s": 1e-4, "tau": 0.5}, 1e9, solver=solver, limit=1e3)
        assert path.status == "diverged" and path.t[-1] < 100
    big = solve(flow, {"p": 50.0, "s": 50.0}, 100.0, solver=Euler(0.1))
    assert big.status == "diverged" and big.stats.steps < 20


def test_early_ends_of_many():
    flow = EMAModes(eta=0.4, beta=np.array([0.1, 1.0]))
    run = solve_many(flow, np.array([[0.01, 1e-4, 0.5], [0.01, 1e-4, 0.5]]), 80.0, limit=1e3)
    assert [STATUSES[c] for c in run.code] == ["diverged", "done"]
    assert run.t[0] < 50 and run.t[1] == 80
    spent = solve_many(SYSTEMS[0], starts(np.random.default_rng(0), 5, 2), 1e9, max_steps=8)
    assert spent.count("too many steps") == 5 and (spent.steps == 8).all()
    explosive = solve_many(_Explosion(1.0), np.array([[1.0], [2.0], [-1.0]]), 10.0)
    assert set(explosive.code[:2]) <= {STATUSES.index("diverged"), STATUSES.index("too small steps")}
    assert explosive.t[0] == pytest.approx(1.0, rel=1e-3) and explosive.t[1] == pytest.approx(0.5, rel=1e-3)
    assert explosive.y[2, 0] == pytest.approx(-1 / 11, rel=1e-5)
    assert solve(_Explosion(1.0), np.array([1.0]), 10.0).status in ("diverged", "too small steps")


class _Explosion(SetModes):
    """dy/dt = y^2: infinite at t = 1 / y0."""

    def __init__(self, _):
        super().__init__()

    def check_start(self, parts):
        pass

    def rhs(self, t, y):
        return y**2


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda f: solve(f, {"p": 1.0}, 1.0), "parts of a Modes are p, s"),
        (lambda f: solve(f, np.ones(3), 1.0), "start must have shape"),
        (lambda f: solve(f, np.ones((4, 2)), 1.0), "solve_many"),
        (lambda f: solve(f, {"p": np.nan, "s": 1.0}, 1.0), "p holds NaN"),
        (lambda f: solve(f, np.ones(2), np.inf), "t1"),
        (lambda f: solve(f, np.ones(2), 1.0, save="all"), "save"),
        (lambda f: solve(f, np.ones(2), 1.0, save=[0.5, 0.2]), "save"),
        (lambda f: solve(f, np.ones(2), 1.0, save=[0.5, 1.2]), "save"),
        (lambda f: solve(f, np.ones(2), 1.0, max_steps=0), "max_steps"),
        (lambda f: Adaptive("RK4"), "method"),
        (lambda f: Adaptive(rtol=0.0), "rtol"),
        (lambda f: Euler(0.0), "step"),
        (lambda f: Steady(-1.0), "rtol"),
        (lambda f: solve_many(f, np.ones(2), 1.0), r"start must be states \(N, 2\)"),
        (lambda f: solve_many(f, {"p": np.ones(3), "s": np.ones(2)}, 1.0), "batch axes"),
        (lambda f: solve_many(Modes(eta=np.ones(3)), np.ones((2, 2)), 1.0), "eta has 3 values for 2"),
        (lambda f: solve_many(f, np.ones((2, 2)), -1.0), "t1"),
        (lambda f: solve_many(f, np.ones((2, 2)), 1.0, times=[0.5, 0.5]), "times"),
        (lambda f: solve_many(f, np.ones((2, 2)), 1.0, atol=0.0), "atol"),
        (lambda f: solve_many(f, np.ones((2, 2)), 1.0, threads=0), "threads"),
        (lambda f: solve_many(ScalarNetwork(), np.ones((2, 3)), 1.0, stop=Settled()), "Settled"),
    ],
)
def test_bad_settings_are_named(call, word):
    with pytest.raises(DynamicsError, match=word):
        call(SYSTEMS[0])


def test_agreement_with_diffrax():
    """The same pair of formulas elsewhere: Dopri5 of diffrax in double precision, 64 modes to rest."""
    diffrax = pytest.importorskip("diffrax")
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    y0 = starts(np.random.default_rng(4), 64, 2)

    def field(t, y, args):
        gain = 1.0 - 1.1 * y[0]
        return jax.numpy.stack([2.0 * y[1] * gain - 0.04 * y[0], 2 * y[1] * (y[0] * gain - 0.04)])

    def one(y):
        control = diffrax.PIDController(rtol=1e-9, atol=1e-12)
        saved = diffrax.SaveAt(ts=jax.numpy.array([1.0, 10.0, 100.0]))
        term, solver = diffrax.ODETerm(field), diffrax.Dopri5()
        return diffrax.diffeqsolve(term, solver, 0.0, 100.0, None, y, saveat=saved, stepsize_controller=control).ys

    want = np.asarray(jax.vmap(one)(jax.numpy.asarray(y0))).swapaxes(0, 1)
    run = solve_many(Modes(2.0, 0.04, 0.1), y0, 100.0, times=[1.0, 10.0, 100.0], rtol=1e-9, atol=1e-12)
    assert np.abs(run.path - want).max() < 1e-7
