"""Nonsense gives a DynamicsError; a flow that cannot be followed gives a status, within its budget of steps."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from siamscope.dynamics import (
    STATUSES,
    Adaptive,
    DynamicsError,
    EMAModes,
    Euler,
    LinearSGD,
    MatrixFlow,
    Modes,
    Parabola,
    ReducedFlow,
    ScalarNetwork,
    SetFlow,
    SetModes,
    SetRule,
    Settled,
    Steady,
    SubspaceTheorem,
    apply_rule,
    ema_share,
    fixed_points,
    gradients,
    hessian,
    jacobian,
    largest_decay,
    largest_noise,
    multiplicative,
    objective,
    optimal_predictor,
    rates,
    separatrix,
    solve,
    solve_many,
    subspace,
)

EYE = np.eye(2)
PAIR = {"x": EYE, "x_noise": EYE, "width": 2}
MAKE = {
    Modes: {}, EMAModes: {}, Parabola: {}, ScalarNetwork: {}, SetRule: {}, SetModes: {"modes": 2}, SetFlow: PAIR,
    MatrixFlow: PAIR, ReducedFlow: {"width": 2}, LinearSGD: PAIR, SubspaceTheorem: {"eta": 0.1, "sigma2": 0.1},
    Adaptive: {}, Euler: {"step": 0.1}, Steady: {},
}  # fmt: skip
NONSENSE = {
    "NaN": np.nan, "minus infinity": -np.inf, "text": "a", "complex": 1j, "an object": object(), "a dict": {},
    "NaN among others": np.array([np.nan, 1.0]), "objects": np.array([object()]), "texts": np.array(["a"]),
    "nothing": np.zeros(0), "too large an integer": 10**400, "three axes": np.ones((2, 2, 2)),
    "complex numbers": np.ones(2) * 1j,
}  # fmt: skip
FIELDS = [(kind, field.name) for kind in MAKE for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_no_parameter_takes_nonsense(kind, name):
    for what, value in NONSENSE.items():
        message = refusal(lambda value=value: kind(**(MAKE[kind] | {name: value})))
        assert message, f"{kind.__name__}({name}={what}) was taken"
        assert "\n" not in message and len(message) < 250


def refusal(call):
    """The message of the DynamicsError; None without one. Any other exception goes through."""
    try:
        call()
    except DynamicsError as error:
        return str(error)
    return None


RATES = ["alpha_p", "eta", "eta_p", "beta", "sigma2", "signal", "lr", "weight_decay", "weight_decay_p", "eps", "step"]


@pytest.mark.parametrize(
    ("kind", "name"), [f for f in FIELDS if f[1] in RATES], ids=lambda value: getattr(value, "__name__", value)
)
def test_no_rate_is_negative(kind, name):
    with pytest.raises(DynamicsError, match=rf"^{name} must be .*; it is -0\.1\.$"):
        kind(**(MAKE[kind] | {name: -0.1}))


@pytest.mark.parametrize("kind", [Modes, EMAModes, Parabola, ScalarNetwork, MatrixFlow, ReducedFlow, LinearSGD])
def test_a_predictor_that_does_not_move_is_no_alpha_p(kind):
    with pytest.raises(DynamicsError, match=r"^alpha_p must be more than 0; it is 0\."):
        kind(**(MAKE[kind] | {"alpha_p": 0.0}))


MATRICES = {
    "not symmetric": (np.array([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
    "indefinite": (np.diag([1.0, -0.1]), "positive semi-definite"),
    "not square": (np.ones((2, 3)), "square"),
    "of another size": (np.eye(3), "shape"),
    "a vector": (np.ones(2), "square"),
    "not finite": (np.array([[1.0, 0.0], [0.0, np.inf]]), "NaN or infinity"),
    "of booleans": (np.eye(2, dtype=bool), "real numbers"),
    "ragged": ([[1.0, 2.0], [1.0]], "real numbers"),
}


@pytest.mark.parametrize("what", MATRICES)
@pytest.mark.parametrize("name", ["x", "x_noise"])
@pytest.mark.parametrize("kind", [MatrixFlow, SetFlow, LinearSGD])
def test_correlations_are_symmetric_positive_and_fit(kind, name, what):
    value, word = MATRICES[what]
    with pytest.raises(DynamicsError, match=word):
        kind(**(PAIR | {name: value}))


def test_integers_and_short_floats_are_numbers():
    """And are used in double precision."""
    whole = MatrixFlow(np.eye(2, dtype=int), np.eye(2, dtype=np.float32), 2, eta=1)
    assert whole.x.dtype == whole.x_noise.dtype == np.float64
    y = whole.start({"W": [[1, 0], [0, 1]], "W_p": np.eye(2, dtype=np.float16), "W_a": np.zeros((2, 2), dtype=np.int8)})
    assert y.dtype == np.float64
    path = solve(Modes(alpha_p=1, eta=np.float32(0.5)), np.array([1, 1]), 1)
    assert path.y.dtype == np.float64 and path.status == "done"


def test_a_parameter_is_not_changed_from_outside():
    eta = np.array([0.1, 0.2])
    modes = Modes(eta=eta)
    eta[:] = -1
    assert list(modes.eta) == [0.1, 0.2]


W = {"W": EYE}
SGD = LinearSGD(EYE, EYE, 2, predictor="none")
ONE, TWO = np.ones(2), np.ones((2, 2))
CALLS = {
    "solve: system": lambda bad: solve(bad, ONE, 1.0),
    "solve: start": lambda bad: solve(Modes(), bad, 1.0),
    "solve: part": lambda bad: solve(Modes(), {"p": bad, "s": 1.0}, 1.0),
    "solve: t1": lambda bad: solve(Modes(), ONE, bad),
    "solve: t0": lambda bad: solve(Modes(), ONE, 1.0, t0=bad),
    "solve: save": lambda bad: solve(Modes(), ONE, 1.0, save=bad),
    "solve: stop": lambda bad: solve(Modes(), ONE, 1.0, stop=bad),
    "solve: limit": lambda bad: solve(Modes(), ONE, 1.0, limit=bad),
    "solve: max_steps": lambda bad: solve(Modes(), ONE, 1.0, max_steps=bad),
    "solve: solver": lambda bad: solve(Modes(), ONE, 1.0, solver=bad),
    "many: system": lambda bad: solve_many(bad, TWO, 1.0),
    "many: start": lambda bad: solve_many(Modes(), bad, 1.0),
    "many: part": lambda bad: solve_many(Modes(), {"p": bad, "s": ONE}, 1.0),
    "many: t1": lambda bad: solve_many(Modes(), TWO, bad),
    "many: t0": lambda bad: solve_many(Modes(), TWO, 1.0, t0=bad),
    "many: times": lambda bad: solve_many(Modes(), TWO, 1.0, times=bad),
    "many: rtol": lambda bad: solve_many(Modes(), TWO, 1.0, rtol=bad),
    "many: atol": lambda bad: solve_many(Modes(), TWO, 1.0, atol=bad),
    "many: stop": lambda bad: solve_many(Modes(), TWO, 1.0, stop=bad),
    "many: limit": lambda bad: solve_many(Modes(), TWO, 1.0, limit=bad),
    "many: max_steps": lambda bad: solve_many(Modes(), TWO, 1.0, max_steps=bad),
    "many: threads": lambda bad: solve_many(Modes(), TWO, 1.0, threads=bad),
    "many: block": lambda bad: solve_many(Modes(), TWO, 1.0, block=bad),
    "train: W": lambda bad: SGD.train({"W": bad}, 1),
    "train: steps": lambda bad: SGD.train(W, bad),
    "train: seeds": lambda bad: SGD.train(W, 1, seeds=bad),
    "train: a seed": lambda bad: SGD.train(W, 1, seeds=[bad]),
    "train: every": lambda bad: SGD.train(W, 1, every=bad),
    "rates": lambda bad: rates(0.1, bad),
    "subspace": lambda bad: subspace(2, 1, bad),
    "subspace: dimension": lambda bad: subspace(bad, 1, 0.1),
    "hessian": lambda bad: hessian(bad, EYE, EYE),
    "hessian: x": lambda bad: hessian(EYE, bad, EYE),
    "hessian: x_noise": lambda bad: hessian(EYE, EYE, bad),
    "objective": lambda bad: objective(EYE, EYE, EYE, bad, EYE),
    "objective: w": lambda bad: objective(bad, EYE, EYE, EYE, EYE),
    "objective: w_p": lambda bad: objective(EYE, bad, EYE, EYE, EYE),
    "gradients": lambda bad: gradients(EYE, EYE, EYE, EYE, bad),
    "gradients: w_p": lambda bad: gradients(EYE, bad, EYE, EYE, EYE),
    "gradients: w_a": lambda bad: gradients(EYE, EYE, bad, EYE, EYE),
    "optimal_predictor": lambda bad: optimal_predictor(EYE, EYE, bad, EYE),
    "optimal_predictor: w": lambda bad: optimal_predictor(bad, EYE, EYE, EYE),
    "largest_decay": lambda bad: largest_decay(0.1, tau=bad),
    "largest_noise": lambda bad: largest_noise(0.1, tau=bad),
    "fixed_points": lambda bad: fixed_points(bad, EYE, [0]),
    "fixed_points: rows": lambda bad: fixed_points(EYE, EYE, bad),
    "multiplicative": lambda bad: multiplicative(bad, EYE[:, :1], EYE[:, 1:]),
    "multiplicative: kept": lambda bad: multiplicative(EYE, bad, EYE[:, 1:]),
    "jacobian": lambda bad: jacobian(Modes(), bad),
    "separatrix": lambda bad: separatrix(Modes(eta=0.04), bad, (0, 1)),
    "separatrix: an end": lambda bad: separatrix(Modes(eta=0.04), (0, 1), (0, bad)),
    "ema_share": lambda bad: ema_share(np.arange(3.0), np.ones(3), bad),
    "ema_share: p": lambda bad: ema_share(np.arange(3.0), bad, 0.1),
    "ema_share: t": lambda bad: ema_share(bad, np.ones(3), 0.1),
    "ema_share: start": lambda bad: ema_share(np.arange(3.0), np.ones(3), 0.1, bad),
}

WEIGHTS = ("objective: w", "objective: w_p", "gradients: w_p", "gradients: w_a", "optimal_predictor: w")


@pytest.mark.parametrize("call", CALLS)
def test_no_question_takes_nonsense(call):
    fine = {"solve: limit": "too large an integer", "many: limit": "too large an integer"}
    fine |= dict.fromkeys(WEIGHTS, "three axes")  # a batch
    for what, value in NONSENSE.items():
        if fine.get(call) == what:
            continue
        message = refusal(lambda value=value: CALLS[call](value))
        assert message, f"{call} took {what}"
        assert "\n" not in message


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: solve_many(Modes(), np.ones((0, 2)), 1.0), "N at least 1"),
        (lambda: solve_many(Modes(), {"p": [], "s": []}, 1.0), "N at least 1"),
        (lambda: solve_many(Modes(), TWO, 1.0, rtol=0.0), "rtol"),
        (lambda: solve_many(Modes(), TWO, 1.0, atol=0.0), "atol"),
        (lambda: solve_many(Modes(), TWO, 1.0, block=0), "block"),
        (lambda: solve_many(Modes(), TWO, 1.0, times=[0.2, 0.1]), "times must increase"),
        (lambda: solve_many(Modes(), TWO, 1.0, times=[]), "times"),
        (lambda: solve_many(Modes(), TWO, 1.0, times=[0.5, 2.0]), "times must increase, from t0=0 or later to t1=1"),
        (lambda: solve_many(Modes(eta=np.ones(3)), TWO, 1.0), "eta has 3 values for 2 trajectories"),
        (lambda: solve(Modes(eta=ONE), ONE, 1.0), "eta must be one number"),
        (lambda: solve(MatrixFlow(**PAIR, beta=ONE), np.ones(12), 1.0), "beta must be one number"),
        (lambda: solve(Modes(), ONE, 1.0, save=[0.5, 0.2]), "in order"),
        (lambda: solve(Modes(), ONE, 1e308, t0=-1e308), "t1 - t0"),
        (lambda: solve(Modes(), ONE, 1.0, limit=-1.0), "limit"),
        (lambda: Adaptive(rtol=0.0), "rtol"),
        (lambda: Adaptive(max_step=-1.0), "max_step"),
        (lambda: Modes().start({"p": 1.0, "s": -1e-9}), "cannot be negative"),
        (lambda: ReducedFlow(2).start({"F": np.diag([1.0, -1.0]), "W_p": EYE}), "F must be positive semi-definite"),
        (lambda: solve(EMAModes(eta=0.1), np.ones(3), 1.0, stop=Settled()), "Settled is for Modes"),
        (lambda: solve(Parabola(eta=0.1), np.ones(1), 1.0, stop=Settled()), "Settled is for Modes"),
        (lambda: EMAModes(eta=0.1).verdict(0.5, 0.5), "tau moves"),
        (lambda: EMAModes().learns_without_decay(0.5, 0.5), "tau moves"),
        (lambda: Modes(eta=0.1, tau=-1.0).verdict(0.5, 0.5), "eta and tau must be above 0"),
        (lambda: Modes(tau=-1.0).limit_without_decay(0.5, 0.5), "tau must be above 0"),
        (lambda: Modes(eta=0.1).verdict("a", 0.5), "p must hold real numbers"),
        (lambda: gradients(np.ones((2, 3)), np.eye(3), np.ones((2, 3)), np.eye(3), np.eye(3)), "w, w_p, w_a must be"),
        (lambda: objective(EYE, None, np.ones((2, 3)), EYE, EYE), "w, w_p, w_a must be"),
        (lambda: apply_rule(SetRule(), ONE), "f must be square"),
        (lambda: largest_noise(-0.1), "eta"),
        (lambda: SGD.train(W, 1, seeds=()), "seeds"),
        (lambda: SGD.train(W, 1, every=0), "every"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, word):
    with pytest.raises(DynamicsError, match=word):
        call()


# -- tau as the user's function ----------------------------------------------------------------------------------------

FLOWS = [Modes, Parabola, SetModes, lambda tau: ReducedFlow(2, tau=tau)]
WRONG = {
    "a function of one number": (lambda t: [0.5] * int(t + 1) and __import__("math").exp(-t), "tau"),
    "complex": (lambda t: 1j, "tau.t. must hold real numbers"),
    "nothing": (lambda t: None, "tau.t. must hold real numbers"),
    "two numbers for one time": (lambda t: np.ones(2 + np.size(t)), "one number for each t"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("flow", FLOWS)
def test_a_tau_of_the_wrong_kind_is_an_error(flow, what):
    tau, word = WRONG[what]
    system = flow(tau=tau)
    many = np.abs(np.random.default_rng(0).standard_normal((3, system.layout.size)))
    if isinstance(system, ReducedFlow):
        many = np.tile(np.eye(2).ravel(), (3, 2))
    with pytest.raises(DynamicsError, match=word):
        solve_many(system, many, 1.0)
    if what != "a function of one number":
        with pytest.raises(DynamicsError, match=word):
            solve(system, many[0], 1.0)


METHODS = ["DOP853", "RK45", "LSODA", "Radau", "BDF", "Euler", "many"]
BAD_ENDS = {"diverged", "too many steps", "too small steps"}


def ends(system, y0, t1, method, max_steps, atol=1e-10):
    """The statuses, and the steps taken."""
    if method == "many":
        run = solve_many(system, np.stack([y0, y0]), t1, max_steps=max_steps)
        return {STATUSES[code] for code in run.code}, int(run.steps.max()), run.y
    solver = Euler(1e-3) if method == "Euler" else Adaptive(method, atol=atol)
    path = solve(system, y0, t1, save="ends", solver=solver, max_steps=max_steps)
    return {path.status}, path.stats.steps, path.y


@pytest.mark.parametrize("method", METHODS)
def test_nan_from_tau_ends_a_run(method):
    """At once, or when the time comes; the last state is from before."""
    at_once, steps, y = ends(Modes(tau=lambda t: np.nan), ONE, 10.0, method, 3000)
    assert at_once == {"diverged"} and steps <= 4
    later = Modes(eta=0.1, tau=lambda t: np.where(np.asarray(t) < 1, 1.0, np.nan))
    status, _, y = ends(later, ONE, 10.0, method, 3000)
    assert status <= BAD_ENDS - {"too many steps"}
    if method not in ("Euler", "LSODA"):  # these take the step and look at it afterwards
        assert np.isfinite(y).all()
    with np.errstate(over="ignore"):
        assert ends(Modes(tau=lambda t: np.inf), ONE, 10.0, method, 3000)[0] == {"diverged"}


HARD = {
    "stiff decay": (Modes(eta=1e6, sigma2=0.1), [0.5, 0.3], 1e12),
    "stiff predictor": (Modes(alpha_p=1e8, eta=0.01), [0.5, 0.3], 1e12),
    "rates that overflow": (Modes(alpha_p=1e300, eta=1e300, sigma2=1e300), [0.5, 0.3], 1.0),
    "a state near the limit": (Modes(eta=0.04), [1e11, 1e11], 10.0),
    "a huge time": (Modes(eta=0.04), [0.5, 0.3], 1e308),
    "the smallest time": (Modes(eta=0.04), [0.5, 0.3], 5e-324),
    "growth without end": (EMAModes(eta=0.4, beta=0.1), [0.01, 1e-4, 0.5], 1e12),
    "a dead mode": (Modes(eta=0.04), [0.0, 0.0], 1e9),
    "a negative tau": (Modes(eta=0.01, tau=-1.0), [0.5, 0.3], 1e9),
    "fast oscillation": (Modes(tau=lambda t: 1 + np.sin(1e9 * np.asarray(t))), [0.5, 0.3], 1e6),
    "jumps": (Modes(tau=lambda t: np.sign(np.sin(1e3 * np.asarray(t)))), [0.5, 0.3], 1e6),
    "large data": (MatrixFlow(1e6 * EYE, 1e6 * EYE, 2), np.ones(12), 1e12),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("what", HARD)
def test_nothing_is_endless(what, method):
    """Every method, also with no absolute tolerance at all: a status, within the budget of steps."""
    system, y0, t1 = HARD[what]
    for atol in (1e-10, 0.0) if method not in ("Euler", "many") else (1e-10,):
        status, steps, y = ends(system, np.array(y0), t1, method, 200, atol)
        assert status <= BAD_ENDS | {"done"} and steps <= 200
        assert status != {"done"} or np.isfinite(y).all()


def test_what_is_too_stiff_says_so_and_the_stiff_methods_do_it():
    """Controls: the budget is what ends RK45; LSODA gets through the same flow, to the right end."""
    system, y0 = Modes(eta=1e6, sigma2=0.1), np.array([0.5, 0.3])
    assert ends(system, y0, 1e12, "RK45", 400)[:2] == ({"too many steps"}, 400)
    status, _, y = ends(system, y0, 1e12, "LSODA", 400)
    assert status == {"done"} and np.abs(y[-1]).max() < 1e-6


def test_a_stiff_trajectory_does_not_hold_up_the_others():
    modes = Modes(eta=np.array([0.04, 1e6, 0.04]), sigma2=0.1)
    run = solve_many(modes, {"p": [0.5] * 3, "s": [0.3] * 3}, 1e9, stop=Steady(), max_steps=500)
    assert [STATUSES[code] for code in run.code] == ["stopped", "too many steps", "stopped"]


def test_memory_has_a_limit_too(monkeypatch):
    """save="steps" of a large state ends before it fills the memory."""
    monkeypatch.setattr(sys.modules["siamscope.dynamics.solve"], "_LARGEST", 1000)  # the package's `solve` hides it
    flow = Modes(eta=0.04)
    for solver in (Adaptive(max_step=0.01), Euler(0.01)):
        path = solve(flow, np.array([0.5, 0.3]), 1e3, solver=solver)
        assert path.status == "too many steps" and path.y.size <= 1004
    assert solve(flow, np.array([0.5, 0.3]), 20.0, save="ends", solver=Euler(0.01)).status == "done"


def test_a_run_of_no_time_is_where_it_started():
    for path in (solve(Modes(), ONE, 0.0), solve(Modes(), ONE, 3.0, t0=3.0, solver=Euler(0.1))):
        assert path.status == "done" and (path.y == 1).all()
    run = solve_many(Modes(), TWO, 0.0)
    assert run.count("done") == 2 and (run.y == 1).all()


def test_a_step_too_small_to_count():
    path = solve(Modes(), ONE, 1.0, solver=Euler(1e-320), max_steps=10, save="ends")
    assert path.status == "too many steps" and path.stats.steps == 10


def test_settings_that_make_training_diverge_stop_it():
    for options in ({"lr": 50.0}, {"momentum": 0.99, "lr": 1.0}, {"predictor": SetRule(2.0, boost="plain"), "lr": 1.0}):
        run = LinearSGD(1e3 * EYE, EYE, 2, **options)
        start = {"W": EYE} | ({"W_p": EYE} if run.predictor == "trained" else {})
        out = run.train(start, 10**6)
        assert out.diverged and out.steps[-1] <= 128
