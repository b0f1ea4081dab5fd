"""Closed forms refuse matrices and modes that make no sense; what a user's function of time raises."""

from __future__ import annotations

import numpy as np
import pytest

from siamscope.dynamics import (
    Adaptive,
    DynamicsError,
    Euler,
    MatrixFlow,
    Modes,
    ema_share,
    gradients,
    hessian,
    objective,
    optimal_predictor,
    solve,
    solve_many,
)

EYE, ONE, TWO = np.eye(2), np.ones(2), np.ones((2, 2))
NAN, SKEW, INDEFINITE = np.full((2, 2), np.nan), np.array([[1.0, 0.5], [0.0, 1.0]]), np.diag([1.0, -0.1])
FUNCTIONS = {
    "objective": lambda w=EYE, w_p=EYE, w_a=EYE, x=EYE, x_noise=EYE: objective(w, w_p, w_a, x, x_noise),
    "gradients": lambda w=EYE, w_p=EYE, w_a=EYE, x=EYE, x_noise=EYE: gradients(w, w_p, w_a, x, x_noise)[0],
    "optimal_predictor": lambda w=EYE, w_a=EYE, x=EYE, x_noise=EYE: optimal_predictor(w, w_a, x, x_noise),
    "hessian": lambda w_p=EYE, x=EYE, x_noise=EYE: hessian(w_p, x, x_noise),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_matrices_of_the_closed_forms_are_finite_and_symmetric(name):
    """`hessian` needs positive semi-definite ones too; the others take a sample's estimates, which may not be."""
    call = FUNCTIONS[name]
    for argument in call.__code__.co_varnames[: call.__code__.co_argcount]:
        assert f"{argument} holds NaN" in refusal(lambda one=argument: call(**{one: NAN}))
    for argument in ("x", "x_noise"):
        assert f"{argument} must be symmetric" in refusal(lambda one=argument: call(**{one: SKEW}))
        taken = refusal(lambda one=argument: call(**{one: INDEFINITE})) is None
        assert taken == (name != "hessian")
    assert np.isfinite(call()).all()


def test_the_objective_of_a_state_that_diverged_is_nan():
    flow = MatrixFlow(EYE, EYE, 2, target="online", predictor="none")
    assert np.isnan(flow.objective(np.full(4, np.nan)))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: objective(np.ones((2, 2, 2)), None, np.ones((3, 2, 2)), EYE, EYE), "batch axes that do not fit"),
        (lambda: gradients(EYE, None, EYE, EYE, EYE), "w_p must be a matrix"),
        (lambda: Modes(eta=0.1).verdict(np.ones(2), np.ones(3)), "do not fit together: p has shape .2,., s .3,."),
        (lambda: Modes(eta=np.full(2, 0.1)).verdict(np.ones(3), 1.0), "do not fit together.*parameters .2,."),
        (lambda: Modes().learns_without_decay(np.ones(2), np.ones(3)), "do not fit together"),
        (lambda: Modes().limit_without_decay(np.ones(2), np.ones(3)), "do not fit together"),
        (lambda: Modes(eta=0.1).excess(np.ones(2), np.ones(3)), "do not fit together"),
        (lambda: Modes(eta=0.1).jacobian(np.ones(2), np.ones(3)), "do not fit together"),
        (lambda: Modes(eta=0.1).aligned_k(np.ones(2), np.ones(3)), "do not fit together"),
        (lambda: Modes(eta=np.full(2, 0.1)).delta(np.ones(3)), "do not fit together"),
        (lambda: ema_share([0.0], [1.0], 0.1), "two times or more"),
        (lambda: ema_share([0.0, 1.0], [1.0, 0.0], 0.1), "p must not be 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, word):
    with pytest.raises(DynamicsError, match=word):
        call()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, OSError])
@pytest.mark.parametrize("solver", [Adaptive(), Adaptive("LSODA"), Euler(0.1)])
def test_a_fault_inside_of_tau_goes_through(error, solver):
    """As it is: only the exceptions of a function that does not take arrays become a DynamicsError."""

    def tau(t):
        raise error("inside")

    with pytest.raises(error, match="inside"):
        solve(Modes(tau=tau), ONE, 1.0, solver=solver)
    for threads in (1, 2):
        with pytest.raises(error, match="inside"):
            solve_many(Modes(tau=tau), TWO, 1.0, threads=threads, block=1)


def refusal(call):
    """The message of the DynamicsError; None without one."""
    try:
        call()
    except DynamicsError as error:
        return str(error)
    return None
