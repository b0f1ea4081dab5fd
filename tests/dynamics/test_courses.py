"""Courses of stiff modes: as the equations in p, s and tau, by another solver; and never endless."""

from __future__ import annotations

import math

import numpy as np
import pytest

from siamscope.dynamics import Adaptive, DynamicsError, EMAModes, Modes, ScalarNetwork, solve
from siamscope.dynamics import courses as room
from siamscope.dynamics.alignment import Study, asymmetries
from siamscope.dynamics.courses import courses
from siamscope.dynamics.weights import balanced_run

RADAU = Adaptive("Radau", rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("alpha_p", "beta", "eta"), [(1e6, 0.4, 0.04), (1.0, 1e5, 0.04), (1e6, math.inf, 0.04), (1e4, 0.4, 0.3)]
)
def test_stiff_courses_against_the_equations(alpha_p, beta, eta, monkeypatch):
    stiff = []
    monkeypatch.setattr(room, "solve", lambda *a, **b: stiff.append(solve(*a, **b)) or stiff[-1])
    mine = courses([0.3, 0.5], [0.05, 0.3], eta=eta, beta=beta, alpha_p=alpha_p, tau=1.0, end=30.0, count=31)
    assert len(stiff) == 2  # or the explicit solver has done it
    start = {"p": 0.3, "s": 0.05}
    if math.isinf(beta):
        other = solve(Modes(alpha_p, eta, 0.1), start, 30.0, save=mine.times, solver=RADAU)
    else:
        flow = EMAModes(alpha_p=alpha_p, eta=eta, sigma2=0.1, beta=beta)
        other = solve(flow, start | {"tau": 1.0}, 30.0, save=mine.times, solver=RADAU)
        assert mine.tau[:, 0] == pytest.approx(other["tau"], rel=1e-5)
    assert mine.s[:, 0] == pytest.approx(other["s"], rel=1e-5) and mine.p[:, 0] == pytest.approx(other["p"], rel=1e-5)


def test_the_implicit_solver_gives_what_the_explicit_one_does(monkeypatch):
    options = {"eta": 0.04, "beta": 0.4, "end": 30.0, "count": 31}
    plain = courses([-0.3, 0.3], [0.4, 0.2], **options)
    monkeypatch.setattr(room, "_FEW", 1)
    other = courses([-0.3, 0.3], [0.4, 0.2], **options)
    for name in ("p", "s", "tau"):
        gap = np.abs(getattr(plain, name) - getattr(other, name)).max()
        assert 0 < gap < 1e-5


def test_tau_is_a_gap_where_nothing_is_left():
    run = courses([0.3], [0.2], eta=1e6, beta=0.4, end=60.0)
    assert run.s[-1, 0] == 0 and np.isnan(run.tau[1:]).all() and run.tau[0, 0] == 0
    faint = courses([0.3], [0.2], eta=0.3, beta=0.4, end=150.0)
    assert faint.s[-1, 0] < 1e-35 and faint.tau[-1, 0] == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "p", "options"),
    [
        ("beta=1e\\+300", 0.3, {"beta": 1e300}),
        ("eta=1e\\+300", 0.3, {"eta": 1e300}),
        ("tau=1e\\+12", 0.3, {"tau": 1e12}),
        ("time=1e\\+300", 0.3, {"end": 1e300}),
        ("a start's p=1e\\+100", -1e100, {}),
    ],
)
def test_what_is_too_stiff_is_named(words, p, options):
    with pytest.raises(DynamicsError, match=words):
        courses([p], [0.2], **({"eta": 0.04, "beta": 0.4} | options))


def test_a_stiff_network_of_one_weight_a_layer_comes_to_its_rest():
    """w_p = p* = signal / total = 0.5 and w = p* / sqrt(alpha_p), without weight decay."""
    end = balanced_run(ScalarNetwork(alpha_p=1e8, signal=0.5, sigma2=0.5))
    assert end.status == "done" and end.y[-1] == pytest.approx([0.5, 5e-5, 5e-5], rel=1e-5)


def test_a_study_too_long_for_its_steps_says_so():
    with pytest.raises(DynamicsError, match="end sooner"):
        asymmetries(Study(width=2, seeds=1, end=1e7), (0.04,))
