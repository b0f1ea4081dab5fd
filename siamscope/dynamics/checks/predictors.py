"""Predictors that are set from F: DirectPred's modes, DirectSet's theorem, weight decay as a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siamscope.dynamics.checks.common import Rng, basis, largest, path, size
from siamscope.dynamics.checks.registry import Claim, Experiment, experiment
from siamscope.dynamics.directset import SetFlow, SetModes, SetRule, SubspaceTheorem, apply_rule, largest_noise
from siamscope.dynamics.matrix import subspace
from siamscope.dynamics.modes import Modes
from siamscope.dynamics.solve import Adaptive, Steady
from siamscope.dynamics.vectorised import solve_many

_SOLVER = Adaptive(rtol=1e-10, atol=1e-12)


def _end(
    flow: SetModes, start: Sequence[float], t1: float = 3000.0
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return path(flow, {"s": np.asarray(start)}, t1, "ends", _SOLVER).final["s"]


@experiment(
    Claim("A15", "DirectPred: W_p has F's eigenvectors and p = sqrt(s) + eps max(s) (18)", 1e-10),
    Claim(
        "A15.code", "the released code's rule, sqrt(s / max s) + eps, is not (18) up to scale", 1e-3, "erratum", True
    ),
)
def rules(rng: Rng) -> Sequence[float]:
    w, eps = rng.standard_normal((4, 6)), rng.uniform(0.05, 0.3)
    f = w @ w.T
    s, u = np.linalg.eigh(f)
    paper, code = apply_rule(SetRule(eps=eps), f), apply_rule(SetRule(eps=eps, boost="code"), f)
    gap = max(largest(u.T @ paper @ u - np.diag(np.sqrt(s) + eps * s[-1])), largest(f @ paper - paper @ f))
    return gap, largest(paper / np.linalg.norm(paper) - code / np.linalg.norm(code))


@experiment(
    Claim("A16", "DirectPred has the rests of a trained predictor: below p_-^2 to 0, above it to p_+^2", 1e-6),
    Claim(
        "A16.negative",
        "c_j < 0 with sqrt|c_j| in (p_-, p_+): no collapse, smallest s from s(0) = 1e-6",
        0.1,
        above=True,
    ),
    Claim("A16.positive", "c_j > 0: a mode with s(0) <= c_j dies", 1e-6),
    Claim("A16.boost", "a mode near 0 dies for eps max(s) below p_-", 1e-6),
    Claim("A16.grows", "and grows for eps max(s) above p_-", 0.1, above=True),
)
def directpred(rng: Rng) -> Sequence[float]:
    eta, sigma2 = rng.uniform(0.03, 0.06), rng.uniform(0.05, 0.2)
    low, high = (float(p) for p in Modes(eta=eta, sigma2=sigma2).roots())
    flow = SetModes(eta=eta, sigma2=sigma2)
    rest = max(
        abs(float(_end(flow, [start**2])[0]) - limit**2) for start, limit in ((0.8 * low, 0.0), (1.2 * low, high))
    )
    top = high**2

    def last(rule: SetRule, start: float) -> float:
        return float(_end(SetModes(eta=eta, sigma2=sigma2, rule=rule), [start])[0])

    shift = rng.uniform(0.03, 0.06)
    return (
        rest,
        last(SetRule(shift=-((rng.uniform(1.5, 3) * low) ** 2)), 1e-6),
        last(SetRule(shift=shift), rng.uniform(0.2, 1) * shift),
        last(SetRule(eps=rng.uniform(0.5, 0.8) * low / top, largest=top), 1e-8),
        last(SetRule(eps=rng.uniform(1.3, 2) * low / top, largest=top), 1e-8),
    )


@experiment(
    Claim("A16.figures", "eta 0.04, sigma2 0.1: 0.702 for c -0.05; 0, 0.627, 0.241 for eps 0.05, 0.1, 0.5", 0.01,
          "observation"),
)  # fmt: skip
def figures(rng: Rng) -> Sequence[float]:
    worst = abs(float(_end(_figures(SetRule(shift=-0.05)), [10 ** rng.uniform(-6, 0)])[0]) - 0.702)
    for eps, limit in ((0.05, 0.0), (0.1, 0.627), (0.5, 0.241)):
        end = _end(_figures(SetRule(eps=eps, largest=0.752)), [10 ** rng.uniform(-8, -6)])
        worst = max(worst, abs(float(end[0]) - limit))
    return [worst]


def _figures(rule: SetRule) -> SetModes:
    return SetModes(eta=0.04, sigma2=0.1, rule=rule)


@experiment(
    Claim("A17", "DirectSet: W -> u_+^(1 / (2 alpha)) P_S from delta I above the threshold, alpha 1/2, 1, 2", 1e-6),
    Claim("A17.below", "below the threshold W -> 0", 1e-6),
    Claim("A17.control", "with less weight decay than 1 / (4 (1 + sigma2)) the noise stays: |W P_B|", 0.1,
          "negative control", above=True),
)  # fmt: skip
def subspace_theorem(rng: Rng) -> Sequence[float]:
    sigma2 = rng.uniform(1, 4)
    least = 1 / (4 * (1 + sigma2))
    eta = least + rng.uniform(0.3, 0.7) * (0.22 - least)
    u, above, below = basis(rng, 4), 0.0, 0.0
    noise = sigma2 * (u[:, 2:] @ u[:, 2:].T)
    for power in (0.5, 1.0, 2.0):
        theorem = SubspaceTheorem(eta, sigma2, power)
        flow = SetFlow(np.eye(4), noise, 4, eta, SetRule(power, boost="plain"), ("weights", "views")[int(power == 1)])
        ends = [
            path(flow, {"W": share * theorem.threshold * np.eye(4)}, 600.0, "ends", _SOLVER).final["W"]
            for share in (1.15, 0.85)
        ]
        above = max(above, float(size(ends[0] - theorem.scale * u[:, :2] @ u[:, :2].T)))
        below = max(below, float(size(ends[1])))
    low = SetFlow(*subspace(4, 2, sigma2), 4, 0.6 * least, SetRule(1.0, boost="plain"))
    kept = path(low, {"W": 0.8 * np.eye(4)}, 600.0, "ends", _SOLVER).final["W"]
    return above, below, float(size(kept[:, 2:]))


@experiment(
    Claim("A18", "a mode survives exactly if sigma2 < 1 / (4 eta) - 1, predictor trained: wrong of 40", 0.5),
    Claim("A18.set", "the same with DirectSet, alpha 1/2 and 1: wrong of 80", 0.5),
)
def threshold(rng: Rng) -> Sequence[float]:
    trained = fixed = 0
    for eta in rng.uniform(0.04, 0.2, 4):
        limit = float(largest_noise(eta))
        share = np.concatenate([rng.uniform(0, 0.93, 5), rng.uniform(1.07, 2, 5)])  # equality is slow
        sigma2 = limit * share
        ends = solve_many(
            Modes(eta=eta, sigma2=sigma2), {"p": np.full(10, 0.6), "s": np.full(10, 0.36)}, 1e5, stop=Steady()
        )
        trained += int(((ends["s"] > 1e-4) != (share < 1)).sum())
        for power in (0.5, 1.0):
            flow = SetModes(10, eta, sigma2, rule=SetRule(power, boost="plain"))
            fixed += int(((_end(flow, [0.6 ** (1 / power)] * 10, 4000.0) > 1e-4) != (share < 1)).sum())
    return float(trained), float(fixed)


EXPERIMENTS: tuple[Experiment, ...] = (rules, directpred, figures, subspace_theorem, threshold)
