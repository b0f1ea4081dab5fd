"""The linear network trained on samples: it follows the flow; the ablations; weight decay's conventions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from siamscope.dynamics import Adaptive, DynamicsError, LinearSGD, MatrixFlow, SetRule, rates, solve, subspace

RANK, WIDTH = 4, 20
X, NOISE = subspace(WIDTH, RANK, 2.0)
SEEDS = (0, 1)


def train(steps=3000, w=None, w_p=None, **options):
    """(W (seeds, 20, 20), W_p) of the reference's network: 4 of 20 features without noise, sigma2 = 2, eta = 0.12."""
    rng = np.random.default_rng(7)
    run = LinearSGD(X, NOISE, WIDTH, **({"lr": 0.02, "batch": 64, "weight_decay": 0.12} | options))
    start = {"W": rng.standard_normal((len(SEEDS), WIDTH, WIDTH)) / np.sqrt(WIDTH) if w is None else w}
    if run.predictor == "trained":
        start["W_p"] = np.eye(WIDTH) * np.sqrt(run.alpha_p) if w_p is None else w_p
    out = run.train(start, steps, seeds=SEEDS)
    assert not out.diverged
    return out.w[-1], out.w_p[-1]


def size(a):
    return np.linalg.norm(a, axis=(1, 2))


def test_what_training_ends_at():
    """A21: rank 4, |W P_S| = 2 p_+, noise gone, theorem 1 to 1e-3."""
    w, w_p = train(6000)
    assert (np.linalg.matrix_rank(w @ np.swapaxes(w, 1, 2), 0.01) == RANK).all()
    assert size(w[..., :RANK]) == pytest.approx(1.721, abs=0.03)
    assert (size(w[..., RANK:]) < 0.02 * size(w[..., :RANK])).all()
    assert (size(w @ np.swapaxes(w, 1, 2) - np.swapaxes(w_p, 1, 2) @ w_p) < 1e-3).all()


def test_faster_predictor():
    """A21: alpha_p = 5 makes |W P_S| 1.721 / sqrt(5) = 0.770, if the predictor's weight decay is eta in the flow.

    With one coupled weight decay for both, as optimisers have it, eta_p = alpha_p eta, and |W P_S| stays as it was.
    """
    assert size(train(alpha_p=5.0)[0][..., :RANK]) == pytest.approx(0.770, abs=0.02)
    assert size(train(alpha_p=5.0, weight_decay_p=0.12)[0][..., :RANK]) == pytest.approx(1.721, abs=0.03)


def test_directset():
    """A21: power 1 has w = sqrt(u_+), |W P_S| = 2 sqrt(0.8606) = 1.855; F of few samples biases it down."""
    rule = SetRule(1.0, boost="plain")
    w = 0.7 * np.eye(WIDTH)
    assert size(train(1500, w, predictor=rule, rho=0.99)[0][..., :RANK]) == pytest.approx(1.855, abs=0.03)
    assert (size(train(1500, w, predictor=rule, rho=0.0)[0][..., :RANK]) < 1.80).all()


@pytest.mark.parametrize("change", [{"predictor": "none"}, {"stop_gradient": False}, {"weight_decay": 0.3}])
def test_ablations_collapse(change):
    """A21: no predictor, no stop-gradient, too much weight decay."""
    assert (size(train(1500, lr=0.05, batch=32, **change)[0]) < 1e-3).all()


def test_too_little_weight_decay_keeps_noise():
    assert (size(train(1500, weight_decay=0.02)[0][..., RANK:]) > 0.3).all()


def test_small_start():
    """A22: from a small start a trained predictor collapses, one that is set does not, and a boost rescues more modes.

    Three of the four singular values lie between p_- = 0.139 and what a trained predictor needs, one below p_-.
    """
    rng = np.random.default_rng(0)
    w = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0] * np.where(np.arange(WIDTH) == 0, 0.1, 0.18)
    lost = size(train(1500, w, 0.002 * rng.standard_normal((WIDTH, WIDTH)), lr=0.05)[0][..., :RANK])
    kept = {}
    for eps in (0.0, 0.1):
        rule = SetRule(0.5, eps, boost="plain")
        kept[eps] = size(train(2500, w, predictor=rule, rho=0.9)[0][..., :RANK])
    assert (lost < 1e-2).all() and (kept[0.0] > 1.0).all() and (kept[0.1] >= kept[0.0]).all()


OPTIONS = [
    {"target": "ema", "ema": 0.99},
    {"alpha_p": 3.0, "weight_decay_p": 0.1},
    {"momentum": 0.8, "decay": "per step", "weight_decay": 0.1 * 0.01},
    {"predictor": "none"},
    {"predictor": "symmetric", "momentum": 0.5},
    {"stop_gradient": False},
    {"predictor": SetRule(0.5, boost="plain"), "rho": 0.9},
    {"predictor": SetRule(0.5, boost="plain"), "rho": 0.9, "target": "ema", "ema": 0.99},
    {"predictor": "optimal", "rho": 0.9},
    {"predictor": "optimal", "rho": 0.9, "target": "ema", "ema": 0.99},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_training_follows_the_flow(options):
    """At a small learning rate and a large batch the weights are those of `flow()` at time steps * rates.time.

    Noise and step leave a few per cent. The flow at 0.8 of the time is clearly farther.
    """
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4, 4)) / 2
    lr = 0.002 if "momentum" not in options else 0.002 * (1 - options["momentum"])
    run = LinearSGD(a @ a.T, 0.3 * b @ b.T, 3, **({"lr": lr, "batch": 512, "weight_decay": 0.1} | options))
    if run.decay == "per step":
        run = LinearSGD(run.x, run.x_noise, 3, **(options | {"lr": lr, "batch": 512, "weight_decay": 0.1 * 0.002}))
    start = {"W": rng.standard_normal((3, 4))}
    if run.predictor in ("trained", "symmetric"):
        start["W_p"] = 0.8 * np.eye(3)
    steps = 1000
    got = run.train(start, steps, seeds=(1,)).w[-1, 0]
    flow = run.flow()
    assert flow.eta == pytest.approx(0.1)
    full = start | ({"W_a": start["W"]} if "W_a" in flow.layout.names else {})
    time = steps * run.rates.time
    want = solve(flow, full, time, save="ends", solver=Adaptive(rtol=1e-9)).final["W"]
    off = np.linalg.norm(got - want)
    assert off < 0.03 * np.linalg.norm(want)
    wrong = solve(flow, full, 0.8 * time, save="ends").final["W"]
    assert off < 0.5 * np.linalg.norm(got - wrong)


def test_a_momentum_target_is_not_the_online_weights():
    """Negative control of the above: the flow with the other target is far from what SGD with a rule does."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4, 4)) / 2
    run = LinearSGD(
        a @ a.T, 0.3 * b @ b.T, 3, lr=0.002, batch=512, weight_decay=0.1, predictor=SetRule(0.5, boost="plain"),
        rho=0.9, target="ema", ema=0.999,
    )  # fmt: skip
    start = {"W": rng.standard_normal((3, 4)), "W_a": np.zeros((3, 4))}
    got = run.train(start, 1000, seeds=(1,))
    ends = {
        target: solve(dataclasses.replace(run.flow(), target=target), parts, 2.0, save="ends").final
        for target, parts in (("ema", start), ("online", {"W": start["W"]}))
    }
    off = {target: np.linalg.norm(got.w[-1, 0] - end["W"]) for target, end in ends.items()}
    assert off["ema"] < 0.04 * np.linalg.norm(got.w[-1, 0]) and off["online"] > 10 * off["ema"]
    assert np.linalg.norm(got.w_a[-1, 0] - ends["ema"]["W_a"]) < 0.05 * np.linalg.norm(ends["ema"]["W_a"])


def test_the_target_is_the_average_of_the_weights_it_has_seen():
    """W_a(n) = g^n W_a(0) + (1 - g) sum g^(n - k) W(k), of the weights after each step; without data in closed form."""
    g, steps = 0.9, 7
    rng = np.random.default_rng(2)
    run = LinearSGD(X, NOISE, 3, lr=0.02, weight_decay=0.1, target="ema", ema=g)
    start = {"W": 0.3 * rng.standard_normal((3, WIDTH)), "W_p": np.eye(3), "W_a": rng.standard_normal((3, WIDTH))}
    out = run.train(start, steps, every=1)
    share = (1 - g) * g ** np.arange(steps - 1, -1, -1)
    want = g**steps * start["W_a"] + np.tensordot(share, out.w[1:, 0], 1)
    np.testing.assert_allclose(out.w_a[-1, 0], want, rtol=1e-12, atol=1e-14)
    assert np.abs(out.w[-1] - out.w[0]).max() > 0.1

    nothing, kept = np.zeros((1, 1)), 1 - 0.1 * 0.3
    run = LinearSGD(nothing, nothing, 1, lr=0.1, weight_decay=0.3, predictor="none", target="ema", ema=g)
    last = run.train({"W": [[2.0]], "W_a": [[-1.0]]}, steps).w_a[-1, 0, 0, 0]
    assert last == pytest.approx(-(g**steps) + 2 * (1 - g) * kept * (kept**steps - g**steps) / (kept - g), rel=1e-12)


def test_the_optimal_predictor_of_a_batch_is_least_squares():
    """rho = 0: no step has a gradient along W, so that W W^T stays (A13), up to the step; with a lagging F it grows."""
    w = np.random.default_rng(3).standard_normal((3, WIDTH)) / 3
    grown = {}
    for lr, rho in ((0.01, 0.0), (0.005, 0.0), (0.01, 0.9)):
        run = LinearSGD(X, NOISE, 3, lr=lr, batch=256, predictor="optimal", rho=rho)
        out = run.train({"W": w}, round(5 / lr), seeds=(0,))
        last = out.w[-1, 0]
        grown[lr, rho] = np.linalg.norm(last @ last.T - w @ w.T) / np.linalg.norm(w @ w.T)
        assert np.linalg.norm(last - w) > 0.5 * np.linalg.norm(w)  # although W moves
        want = run.flow().predictor_at(out.w[-1].reshape(1, -1))[0]
        assert np.linalg.norm(out.w_p[-1, 0] - want) < 0.1 * np.linalg.norm(want)
        assert np.linalg.norm(out.w_p[-1, 0] - np.eye(3)) > 0.3
    assert grown[0.01, 0.0] < 0.01 < 0.05 < grown[0.01, 0.9]
    assert grown[0.005, 0.0] == pytest.approx(grown[0.01, 0.0] / 2, rel=0.2)


def test_conventions_of_weight_decay():
    """A27: 1000 steps without data at lr 0.03: coupled 4e-4 leaves 0.98807, 4e-4 per step 0.670."""
    nothing = np.zeros((1, 1))
    left = {}
    for decay in ("coupled", "per step"):
        run = LinearSGD(nothing, nothing, 1, lr=0.03, weight_decay=4e-4, decay=decay, predictor="none")
        left[decay] = run.train({"W": [[1.0]]}, 1000).w[-1, 0, 0, 0]
        assert left[decay] == pytest.approx(np.exp(-run.rates.eta * 1000 * run.rates.time), rel=1e-3)
    assert left["coupled"] == pytest.approx(0.98807, abs=1e-5)
    assert left["per step"] == pytest.approx(0.67032, abs=1e-3)


def test_rates():
    """gamma = 0.996 at lr 0.03 is beta = 0.133; at 0.01, 0.4, and eta-bar = 4e-4 is eta = 0.04 (figure 5)."""
    assert rates(0.03, ema=0.996).beta == pytest.approx(0.1333, abs=1e-4)
    five = rates(0.01, 4e-4, decay="per step", ema=0.996)
    assert (five.beta, five.eta, five.eta_p) == pytest.approx((0.4, 0.04, 0.04))
    assert rates(0.03, 4e-4, momentum=0.9).time == pytest.approx(0.3)
    assert rates(0.03, 4e-4, alpha_p=10, weight_decay_p=4e-4).eta_p == pytest.approx(4e-3)
    assert rates(0.03, 4e-4, decay="per step", alpha_p=10, weight_decay_p=4e-4).eta_p == pytest.approx(4e-4 / 0.03)


def test_torch_sgd_is_coupled_with_the_same_momentum():
    torch = pytest.importorskip("torch")
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([weight], lr=0.03, momentum=0.9, weight_decay=0.1)
    nothing = np.zeros((1, 1))
    run = LinearSGD(nothing, nothing, 1, lr=0.03, weight_decay=0.1, momentum=0.9, predictor="none")
    for _ in range(20):
        weight.grad = torch.zeros_like(weight)
        optimiser.step()
    got = run.train({"W": [[1.0]]}, 20).w[-1, 0, 0, 0]
    assert got == pytest.approx(weight.item(), rel=1e-12)


def test_runs_are_repeatable_and_seeds_independent():
    run = LinearSGD(X, NOISE, 3, weight_decay=0.1)
    start = {"W": 0.3 * np.ones((3, WIDTH)), "W_p": np.eye(3)}
    both = run.train(start, 10, seeds=(3, 4), every=4)
    alone = run.train(start, 10, seeds=(4,), every=4)
    np.testing.assert_allclose(both.w[:, 1], alone.w[:, 0], rtol=1e-12)
    assert list(both.steps) == [0, 4, 8, 10] and both.w.shape == (4, 2, 3, WIDTH)
    assert np.abs(both.w[-1, 0] - both.w[-1, 1]).max() > 1e-3


def test_divergence_stops_a_run():
    run = LinearSGD(X, NOISE, WIDTH, lr=5.0)
    out = run.train({"W": np.eye(WIDTH), "W_p": np.eye(WIDTH)}, 100_000)
    assert out.diverged and out.steps[-1] <= 64


@pytest.mark.parametrize(
    ("options", "start", "word"),
    [
        ({"lr": 0.0}, {}, "lr"),
        ({"weight_decay": -1.0}, {}, "weight_decay"),
        ({"weight_decay_p": -1.0}, {}, "weight_decay_p"),
        ({"momentum": 1.0}, {}, "momentum"),
        ({"decay": "adamw"}, {}, "decay"),
        ({"batch": 0}, {}, "batch"),
        ({"ema": 1.5}, {}, "ema"),
        ({"rho": -0.1}, {}, "rho"),
        ({"predictor": "mlp"}, {}, "predictor"),
        ({"stop_gradient": 0}, {}, "stop_gradient"),
        ({"predictor": SetRule(), "stop_gradient": False}, {}, "stop_gradient"),
        ({}, {"W": np.ones((3, 2))}, "W must have shape"),
        ({}, {"W_a": np.ones((2, 2))}, "start must hold"),
        ({}, {"W": np.ones((3, 2, 2))}, "seeds"),
        ({"predictor": "symmetric"}, {"W_p": np.array([[0.0, 1.0], [0.0, 0.0]])}, "W_p must be symmetric"),
    ],
)
def test_bad_input_is_named(options, start, word):
    with pytest.raises(DynamicsError, match=word):
        LinearSGD(np.eye(2), np.eye(2), 2, **options).train({"W": np.eye(2), "W_p": np.eye(2)} | start, 1)


def test_flow_has_both_decays():
    flow = LinearSGD(X, NOISE, 3, lr=0.1, alpha_p=2.0, weight_decay=0.1, weight_decay_p=0.1, target="ema").flow()
    assert isinstance(flow, MatrixFlow)
    assert (flow.eta, flow.decay_p, flow.beta) == pytest.approx((0.1, 0.2, 0.1))
