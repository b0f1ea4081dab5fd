"""Training on samples: where it ends, ablations, the rescue of a small start, weight decay's conventions, labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from siamscope.dynamics.checks.common import Rng, basis, path, t
from siamscope.dynamics.checks.registry import Claim, Experiment, experiment
from siamscope.dynamics.directset import SetModes, SetRule, SubspaceTheorem
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.modes import Modes
from siamscope.dynamics.sgd import Decay, LinearSGD, train_on_subspace
from siamscope.dynamics.solve import Adaptive

_WIDTH = 20


def _train(
    rng: Rng, rank: int, sigma2: float, steps: int, w: Float | None = None, **options: Any
) -> tuple[Float, Float]:
    """(W, W_p) after training; `rank` of 20 features without noise. A run that diverges fails the check."""
    start = rng.standard_normal((_WIDTH, _WIDTH)) / np.sqrt(_WIDTH) if w is None else w
    out = train_on_subspace(start, rank, sigma2, steps, (int(rng.integers(1 << 31)),), **options)
    if out.diverged:
        raise DynamicsError("training diverged")
    return out.w[-1, 0], out.w_p[-1, 0]


def _norm(a: Float) -> float:
    return float(np.linalg.norm(a))


@experiment(
    Claim("A21", "SGD ends at |W P_S| = sqrt(rank) p_+ (tau = 1)", 0.03),
    Claim("A21.noise", "and loses the noise: |W P_B| / |W P_S|", 0.02),
    Claim("A21.rank", "W W^T has the rank of P_S: difference", 0.5),
    Claim("A21.balance", "and |W W^T - W_p^T W_p|, theorem 1", 1e-3),
    Claim("A21.alpha", "alpha_p = 5 divides |W P_S| by sqrt(5), with decay of the flow's convention", 0.03),
    Claim("A21.coupled", "with one coupled weight decay for both it does not: difference", 0.3, "erratum", above=True),
)
def trained(rng: Rng) -> Sequence[float]:
    rank, sigma2, eta = int(rng.integers(3, 6)), rng.uniform(1.9, 2.3), rng.uniform(0.115, 0.13)
    want = rank**0.5 * float(Modes(eta=eta).roots()[1])
    w, w_p = _train(rng, rank, sigma2, 4000, batch=256, weight_decay=eta)
    loud, quiet = _norm(w[:, rank:]), _norm(w[:, :rank])
    off = abs(int(np.linalg.matrix_rank(w @ w.T, 0.01)) - rank)
    five, coupled = (
        _norm(_train(rng, rank, sigma2, 3000, alpha_p=5.0, weight_decay=eta, weight_decay_p=decay)[0][:, :rank])
        for decay in (None, eta)
    )
    least = want / 5**0.5
    return abs(quiet - want), loud / quiet, off, _norm(w @ t(w) - t(w_p) @ w_p), abs(five - least), abs(coupled - least)


@experiment(
    Claim("A21.predictor", "SGD without predictor collapses: |W|", 1e-3),
    Claim("A21.gradient", "SGD without stop-gradient collapses: |W|", 1e-3),
    Claim("A21.decay", "SGD with eta = 0.3 > 1/4 collapses: |W|", 1e-3),
    Claim("A21.keeps", "with eta = 0.02 the noise stays: |W P_B|", 0.3, "observation", above=True),
)
def ablations(rng: Rng) -> Sequence[float]:
    short: dict[str, Any] = {"lr": 0.05, "batch": 32}
    eta, sigma2 = rng.uniform(0.115, 0.13), rng.uniform(1.9, 2.3)
    return (
        _norm(_train(rng, 4, sigma2, 1500, weight_decay=eta, predictor="none", **short)[0]),
        _norm(_train(rng, 4, sigma2, 1500, weight_decay=eta, stop_gradient=False, **short)[0]),
        _norm(_train(rng, 4, sigma2, 1500, weight_decay=0.3, **short)[0]),
        _norm(_train(rng, 4, sigma2, 1500, weight_decay=0.02)[0][:, 4:]),
    )


@experiment(
    Claim("A21.set", "SGD with DirectSet(1) ends at |W P_S| = sqrt(rank) u_+^(1/2)", 0.03),
    Claim("A21.bias", "with F of one batch alone it ends lower: difference", 0.03, "observation", above=True),
)
def directset(rng: Rng) -> Sequence[float]:
    rank, eta = int(rng.integers(3, 6)), rng.uniform(0.115, 0.13)
    want = rank**0.5 * SubspaceTheorem(eta, 2.0, 1.0).scale
    rule, w = SetRule(1.0, boost="plain"), rng.uniform(0.65, 0.75) * np.eye(_WIDTH)
    smooth, rough = (
        _norm(_train(rng, rank, 2.0, 1500, w, weight_decay=eta, predictor=rule, rho=rho)[0][:, :rank])
        for rho in (0.99, 0.0)
    )
    return abs(smooth - want), want - rough


@experiment(
    Claim("A22", "a trained predictor collapses from below its threshold (nearly all above DirectSet's): |W P_S|",
          1e-2, "observation"),
    Claim("A22.set", "from that start DirectSet(1/2) does not: |W P_S|", 1.0, "observation", above=True),
    Claim("A22.boost", "and eps = 0.1 keeps as much or more: the difference", 0.0, "observation", above=True),
)  # fmt: skip
def small_start(rng: Rng) -> Sequence[float]:
    # all but one singular value between p_- = 0.14 and what a trained predictor needs, one below p_-
    values = np.where(np.arange(_WIDTH) == 0, 0.1, rng.uniform(0.17, 0.19))
    w = basis(rng, _WIDTH) * values
    w_p = 0.002 * rng.standard_normal((_WIDTH, _WIDTH))
    lost = _train(rng, 4, 2.0, 1500, w, w_p=w_p, lr=0.05, weight_decay=0.12)[0]
    rules = (SetRule(0.5, eps, boost="plain") for eps in (0.0, 0.1))
    kept = [_norm(_train(rng, 4, 2.0, 2500, w, weight_decay=0.12, predictor=rule, rho=0.9)[0][:, :4]) for rule in rules]
    return _norm(lost[:, :4]), kept[0], kept[1] - kept[0]


@experiment(
    Claim("A27", "1000 steps without data: weights shrink by exp(-eta t), t and eta of `rates`, relative", 1e-3),
    Claim("A27.paper", "the paper's eta-bar = alpha eta applied to torch's coupled decay: does not hold", 0.1,
          "erratum", above=True),
)  # fmt: skip
def decay_conventions(rng: Rng) -> Sequence[float]:
    lr, decay, nothing = rng.uniform(0.02, 0.05), rng.uniform(3e-4, 6e-4), np.zeros((1, 1))
    left, worst = {}, 0.0
    conventions: tuple[Decay, ...] = ("coupled", "per step")
    for convention in conventions:
        run = LinearSGD(nothing, nothing, 1, lr=lr, weight_decay=decay, decay=convention, predictor="none")
        left[convention] = float(run.train({"W": [[1.0]]}, 1000).w[-1, 0, 0, 0])
        worst = max(worst, abs(left[convention] / float(np.exp(-run.rates.eta * 1000 * run.rates.time)) - 1))
    return worst, abs(left["coupled"] - (1 - decay) ** 1000)


@experiment(
    Claim("A20", "300 labels, 200 features of which 5 matter: excess risk on the learnt P_S", 0.01),
    Claim("A20.raw", "over that on the raw features", 0.05),
)
def labels(rng: Rng) -> Sequence[float]:
    d, rank, n, noise = 200, 5, 300, 0.5
    modes = SetModes(d, 0.12, np.where(np.arange(d) < rank, 0.0, 2.0), rule=SetRule(0.5, boost="plain"))
    s = path(modes, {"s": np.full(d, rng.uniform(0.3, 0.6))}, 300.0, "ends", Adaptive()).final["s"]
    learnt, raw = np.zeros(8), np.zeros(8)
    for k in range(8):  # the risk is a mean over draws of the labels
        truth = np.where(np.arange(d) < rank, rng.standard_normal(d), 0.0)
        x = rng.standard_normal((n, d))
        y = x @ truth + noise * rng.standard_normal(n)
        scale = np.sqrt(np.maximum(s, 0.0))  # the integrator leaves a dead mode at some -1e-14
        on_features = scale * np.linalg.lstsq(x * scale, y, rcond=1e-6)[0]
        learnt[k], raw[k] = ((on_features - truth) ** 2).sum(), ((np.linalg.lstsq(x, y)[0] - truth) ** 2).sum()
    return float(learnt.mean()), float(learnt.mean() / raw.mean())


EXPERIMENTS: tuple[Experiment, ...] = (trained, ablations, directset, small_start, decay_conventions, labels)
