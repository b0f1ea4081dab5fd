"""The moving-average target, tau (13), (15), and data of unequal variances (appendix D)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from siamscope.dynamics import anisotropic
from siamscope.dynamics.anisotropic import ScalarNetwork
from siamscope.dynamics.checks.common import Rng, largest, path, spread
from siamscope.dynamics.checks.registry import Claim, Experiment, experiment
from siamscope.dynamics.matrix import MatrixFlow
from siamscope.dynamics.modes import EMAModes, ema_share


@experiment(
    Claim("A11", "(p, s, tau) is the network of one weight a layer: s = w^2, p = w_p, tau = w_a / w (11)-(13)", 1e-6),
)
def scalar_network(rng: Rng) -> Sequence[float]:
    options: dict[str, Any] = {
        "alpha_p": spread(rng, 0.3, 4), "eta": rng.uniform(0, 0.05), "sigma2": rng.uniform(0, 0.5),
        "beta": rng.uniform(0.1, 1), "signal": rng.uniform(0.5, 1.5),
    }  # fmt: skip
    w_p, w, w_a = rng.uniform(0.2, 0.9, 3)
    times = np.linspace(0, 30, 31)
    scalar = path(ScalarNetwork(**options), {"w_p": w_p, "w": w, "w_a": w_a}, 30.0, times)
    mode = path(EMAModes(**options), {"p": w_p, "s": w**2, "tau": w_a / w}, 30.0, times)
    gaps = (mode["p"] - scalar["w_p"], mode["s"] - scalar["w"] ** 2, mode["tau"] - scalar["w_a"] / scalar["w"])
    return [max(largest(gap) for gap in gaps)]


@experiment(
    Claim("A11.closed", "on the parabola tau = [p(0) tau(0) + beta int p exp(beta t')] exp(-beta t) / p (15)", 1e-5),
    Claim("A11.control", "with twice the beta it does not fit", 1e-2, "negative control", above=True),
)
def share(rng: Rng) -> Sequence[float]:
    beta, alpha_p, p, first = rng.uniform(0.1, 1), spread(rng, 0.5, 3), rng.uniform(0.4, 0.8), rng.uniform(0, 0.5)
    modes = EMAModes(alpha_p=alpha_p, eta=rng.uniform(0.005, 0.03), sigma2=rng.uniform(0, 0.3), beta=beta)
    times = np.linspace(0, 20, 4001)
    run = path(modes, {"p": p, "s": p**2 / alpha_p, "tau": first}, 20.0, times)
    one, two = (ema_share(run.t, run["p"], k * beta, first) for k in (1, 2))
    return largest(one - run["tau"]), largest(two - run["tau"])


@experiment(
    Claim("A11.limit", "a mode that collapses: tau goes to beta / (beta - eta) if beta > eta, relative", 1e-2),
    Claim("A11.grows", "and without bound if beta <= eta: tau at t = 60", 100.0, "observation", above=True),
)
def collapsing(rng: Rng) -> Sequence[float]:
    eta, start = rng.uniform(0.03, 0.08), {"p": 0.01, "s": 1e-4, "tau": rng.uniform(0.1, 1)}
    beta = rng.uniform(4, 10) * eta
    run = path(EMAModes(eta=eta, sigma2=rng.uniform(0, 0.3), beta=beta), start, 300.0, "ends")
    off = abs(float(run.final["tau"]) * (beta - eta) / beta - 1)
    fast = EMAModes(eta=rng.uniform(0.35, 0.5), sigma2=0.1, beta=rng.uniform(0.05, 0.15))
    return off if float(run.final["s"]) < 1e-8 else np.inf, float(path(fast, start, 60.0, "ends").final["tau"])


@experiment(
    Claim("A11.slow", "a slow average delays growth: s(60) at beta 0.04 over that at 0.4 (observation 9)", 1.0,
          "observation"),
)  # fmt: skip
def slow_average(rng: Rng) -> Sequence[float]:
    eta, sigma2, p = rng.uniform(0.01, 0.04), rng.uniform(0.05, 0.2), rng.uniform(0.4, 0.6)
    slow, fast = (
        path(EMAModes(eta=eta, sigma2=sigma2, beta=beta), {"p": p, "s": p**2, "tau": 0.5}, 60.0, "ends").final["s"]
        for beta in (0.04, 0.4)
    )
    return [float(slow / fast)]


@experiment(
    Claim("A14.points", "appendix D: left eigenvectors of X (X + X')^-1 are at rest, and S W, S W_p S^-1 too: |rhs|",
          1e-9),
    Claim("A14.control", "with 0.9 W_p they are not", 1e-3, "negative control", above=True),
)  # fmt: skip
def unequal_data(rng: Rng) -> Sequence[float]:
    a, b = rng.standard_normal((2, 5, 5))
    x, noise = a @ a.T + 0.1 * np.eye(5), b @ b.T + 0.1 * np.eye(5)
    w, w_p = anisotropic.fixed_points(x, noise, [0, 2, 3])
    flow, worst = MatrixFlow(x, noise, 3), 0.0
    for left in (np.eye(3), np.eye(3) + 0.3 * rng.standard_normal((3, 3))):
        parts = {"W": left @ w, "W_p": left @ w_p @ np.linalg.inv(left), "W_a": left @ w}
        worst = max(worst, largest(flow.rhs(0.0, flow.start(parts))))
    return worst, largest(flow.rhs(0.0, flow.start({"W": w, "W_p": 0.9 * w_p, "W_a": w})))


@experiment(
    Claim("A14.saddle", "figure 10: frozen target, eigenvalues +-signal at the origin (+-1/2)", 1e-7),
    Claim("A14.limit", "w_p = w ends at w = w_a = w_p = signal / total = 1/2 and w_p = w throughout", 1e-6),
    Claim("A14.none", "without predictor the origin is stable: its largest eigenvalue", 0.0),
)
def figure_10(rng: Rng) -> Sequence[float]:
    signal = rng.uniform(0.3, 0.7)
    options: dict[str, Any] = {"signal": signal, "sigma2": 1 - signal}
    frozen = anisotropic.jacobian(ScalarNetwork(**options, target="frozen"), [0.0, 0.0])
    gap = largest(np.sort(np.linalg.eigvals(frozen).real) - np.array([-signal, signal]))
    dead = anisotropic.jacobian(ScalarNetwork(**options, predictor=False), [0.0, 0.0])
    w = rng.uniform(0.6, 1)
    run = path(ScalarNetwork(**options), {"w_p": w, "w": w, "w_a": rng.uniform(0.1, 1)}, 600.0)
    limit = max(largest(run.y[-1] - signal), largest(run["w_p"] - run["w"]))
    return gap, limit, float(np.linalg.eigvals(dead).real.max())


EXPERIMENTS: tuple[Experiment, ...] = (scalar_network, share, collapsing, slow_average, unequal_data, figure_10)
