"""The decoupled modes: integral, fixed points, stability, basins, limits (11), (12), (14), (16)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siamscope.dynamics.checks.common import STIFF, Rng, largest, path, size, spread
from siamscope.dynamics.checks.registry import Claim, Experiment, experiment
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.matrix import MatrixFlow, subspace
from siamscope.dynamics.modes import Modes, Parabola
from siamscope.dynamics.solution import Ensemble
from siamscope.dynamics.solve import Steady
from siamscope.dynamics.vectorised import Settled, solve_many


def _values(rng: Rng, n: int, top: float = 0.9) -> dict[str, Float]:
    """Parameters of n modes, eta up to `top` of the limit."""
    alpha_p, sigma2, tau = rng.uniform(0.2, 8, n), rng.uniform(0, 2, n), rng.uniform(0.3, 1.5, n)
    return {
        "alpha_p": alpha_p, "sigma2": sigma2, "tau": tau, "eta": rng.uniform(0.05, top, n) * tau**2 / (4 * (1 + sigma2))
    }  # fmt: skip


def _rest(ends: Ensemble) -> Ensemble:
    """All have come to rest, or to the end of a long time."""
    if ends.count("stopped") + ends.count("done") != len(ends.t):
        raise DynamicsError("a mode's trajectory broke off")
    return ends


@experiment(
    Claim("A7", "s = p^2 / alpha_p + c exp(-2 eta t) with c = s(0) - p(0)^2 / alpha_p (14)", 1e-7),
    Claim("A7.sign", "c as printed, with the other sign: does not hold", 0.1, "erratum", above=True),
)
def integral(rng: Rng) -> Sequence[float]:
    modes = Modes(**{name: float(value[0]) for name, value in _values(rng, 1).items()})
    p, c = rng.uniform(0.3, 0.9), rng.uniform(0.1, 0.5)  # c is clear of 0
    run = path(modes, {"p": p, "s": p**2 / modes.alpha_p + c}, 30.0)
    base, fall = run["p"] ** 2 / modes.alpha_p, np.exp(-2 * modes.eta * run.t)
    excess = float(modes.excess(p, p**2 / modes.alpha_p + c))
    return largest(run["s"] - base - excess * fall), largest(run["s"] - base + excess * fall)


@experiment(
    Claim("A8", "p_+ and p_- with s = p^2 / alpha_p are at rest: |rhs|", 1e-12),
    Claim("A8.stability", "eigenvalues there -2 eta and -+(1 + sigma2) p (p_+ - p_-); at 0 -eta and -2 eta", 1e-8),
    Claim("A8.none", "eta above tau^2 / (4 (1 + sigma2)): no mode can grow anywhere, largest Delta", 0.0),
)
def fixed_points(rng: Rng) -> Sequence[float]:
    values = _values(rng, 40)
    modes = Modes(**values)
    low, high = modes.roots()
    rest, gap = 0.0, 0.0
    for p, sign in ((low, 1), (high, -1)):
        s = p**2 / modes.alpha_p
        rest = max(rest, largest(modes.rhs(0.0, np.stack([p, s], 1))))
        found = np.sort(np.linalg.eigvals(modes.jacobian(p, s)).real, axis=1)
        want = np.stack([-2 * modes.eta, sign * (1 + modes.sigma2) * p * (high - low)], 1)
        gap = max(gap, largest(found - np.sort(want, axis=1)))
    origin = np.sort(np.linalg.eigvals(modes.jacobian(np.zeros(40), np.zeros(40))).real, axis=1)
    gap = max(gap, largest(origin - np.stack([-2 * values["eta"], -values["eta"]], 1)))
    above = Modes(**(values | {"eta": modes.eta_limit * 1.001}))
    tops = [float(above.delta(np.full(40, p)).max()) for p in np.linspace(-1, 2, 301)]
    return rest, gap, max(tops) if np.isnan(above.roots()).all() else np.inf


@experiment(
    Claim("A8.eta", "p_- rises with eta: the basin of collapse grows; smallest step, negated (observation 4)", 0.0,
          "observation"),
    Claim("A8.tau", "p_- falls with tau: largest step (observation 10)", 0.0, "observation"),
)  # fmt: skip
def moves(rng: Rng) -> Sequence[float]:
    sigma2, tau = rng.uniform(0, 2), rng.uniform(0.3, 1.5)
    limit = tau**2 / (4 * (1 + sigma2))
    by_eta = Modes(eta=np.linspace(0.01, 0.99, 50) * limit, sigma2=sigma2, tau=tau).roots()[0]
    by_tau = Modes(eta=limit / 2, sigma2=sigma2, tau=tau * np.linspace(0.75, 2, 50)).roots()[0]
    return -float(np.diff(by_eta).min()), float(np.diff(by_tau).max())


@experiment(
    Claim("A9", "on the parabola p < p_- collapses and p > p_- ends at p_+: wrong of 120 draws (16)", 0.5),
    Claim("A9.flow", "the same of the flow of p alone, in which alpha_p does not occur", 0.5),
)
def basins(rng: Rng) -> Sequence[float]:
    n = 240
    values = _values(rng, n, top=1.3)
    p0 = rng.uniform(-0.2, 1.5, n)
    low, high = Modes(**values).roots()
    # not on the edge, and clear of the tangent case, whose slow passage outlasts any horizon
    clear = (np.abs(p0 - low) > 0.02 * values["tau"]) & (high - low > 0.1 * values["tau"])
    clear |= values["eta"] > 1.02 * Modes(**values).eta_limit
    rows = np.flatnonzero(clear)[:120]
    values, p0, low, high = {k: v[rows] for k, v in values.items()}, p0[rows], low[rows], high[rows]
    modes, calm = Modes(**values), Steady(1e-8, 1e-11)
    want = np.where(p0 > low, high, 0.0)  # NaN > is False: no fixed point, collapse
    ends = _rest(solve_many(modes, {"p": p0, "s": p0**2 / modes.alpha_p}, 2e4, stop=calm))
    line = _rest(solve_many(Parabola(**values), {"p": p0}, 2e4, stop=calm))
    return float((np.abs(ends["p"] - want) > 1e-4).sum()), float((np.abs(line["p"] - want) > 1e-4).sum())


@experiment(
    Claim("A9.exact", "eta = 0: learns exactly if c > 0, or p > 0 and -alpha_p c < p*^2: wrong of 400 draws", 0.5),
    Claim("A9.paper", "the paper's condition, c > 0, is sufficient", 0.5),
    Claim("A9.control", "but not necessary: modes that learn without it", 0.5, "negative control", above=True),
    Claim("A10.limit", "eta = 0: s ends at s(0) + (p*^2 - p(0)^2) / alpha_p", 1e-4),
)
def without_decay(rng: Rng) -> Sequence[float]:
    n = 800
    modes = Modes(alpha_p=rng.uniform(0.1, 10, n), sigma2=rng.uniform(0, 2, n), tau=rng.uniform(0.2, 1.5, n))
    p0, s0 = rng.uniform(-1.5, 1.5, n), rng.uniform(0.01, 1.0, n)
    square = np.square(np.asarray(modes.constant_tau) / modes.total)
    # a quarter of the draws starts within 1 % of the edge, -alpha_p c = p*^2, on both sides of it
    edge = np.arange(n) % 4 == 0
    share = 1 + rng.choice([-1.0, 1.0], n) * rng.uniform(3e-3, 1e-2, n)
    p0 = np.where(edge, np.sqrt(square) * rng.uniform(1.1, 3, n), p0)
    s0 = np.where(edge, (p0**2 - share * square) / modes.alpha_p, s0)
    clear = np.abs(-modes.alpha_p * modes.excess(p0, s0) / square - 1) > 2e-3  # on it, rest is never reached
    rows = np.flatnonzero(clear)[:400]
    modes, p0, s0, square = modes.take(rows), p0[rows], s0[rows], square[rows]
    ends = _rest(solve_many(modes, {"p": p0, "s": s0}, 1e7, rtol=1e-9, atol=1e-13, stop=Steady(1e-9, 1e-13)))
    lives, learns = ends["s"] > 1e-3 * square / modes.alpha_p, modes.learns_without_decay(p0, s0)
    enough = modes.excess(p0, s0) > 0
    limit = modes.limit_without_decay(p0, s0)[1]
    return (
        float((lives != learns).sum()), float((enough & ~lives).sum()), float((lives & ~enough).sum()),
        largest(ends["s"] - limit),
    )  # fmt: skip


@experiment(
    Claim("A10", "larger alpha_p (0.25, 1, 4, 16), smaller share of starts that collapse: largest step (observation 1)",
          0.0, "observation"),
    Claim("A10.fast", "alpha_p = 1000: s does not grow, |s / s(0) - 1| (observation 2)", 0.1, "observation"),
)  # fmt: skip
def faster_predictor(rng: Rng) -> Sequence[float]:
    p, s = (a.ravel() for a in np.meshgrid(np.linspace(-0.5, 1, 16), np.linspace(0.01, 0.5, 10)))
    eta, sigma2, shares = rng.uniform(0.015, 0.05), rng.uniform(0, 0.3), []
    for alpha_p in (0.25, 1.0, 4.0, 16.0):
        modes = Modes(alpha_p=alpha_p, eta=eta, sigma2=sigma2)
        ends = solve_many(modes, {"p": p, "s": s}, 1e5, stop=Settled())
        shares.append(float((modes.verdict(ends["p"], ends["s"]) < 0).mean()))
    s0 = rng.uniform(0.05, 0.5)
    end = path(Modes(alpha_p=1000.0, sigma2=sigma2), {"p": 0.0, "s": s0}, 400.0, "ends", STIFF).final["s"]
    return float(np.diff(shares).max()), abs(float(end) / s0 - 1)


@experiment(
    Claim("A9.decay", "eta above tau^2 / (4 (1 + sigma2)): every mode collapses, largest s (observation 5)", 1e-6,
          "observation"),
    Claim("A9.matrix", "and so does the network: |W| at t = 200", 1e-6, "observation"),
)  # fmt: skip
def too_much_decay(rng: Rng) -> Sequence[float]:
    n = 60
    values = _values(rng, n)
    values["eta"] = rng.uniform(1.1, 2, n) * Modes(**values).eta_limit
    start = {"p": rng.uniform(-1, 2, n), "s": rng.uniform(0.01, 2, n)}
    ends = _rest(solve_many(Modes(**values), start, 2e4, stop=Steady(1e-8, 1e-11)))
    sigma2 = rng.uniform(0, 0.5)
    flow = MatrixFlow(*subspace(5, 0, sigma2), 4, eta=rng.uniform(1.2, 2) / (4 * (1 + sigma2)), target="online")
    start = {"W": rng.standard_normal((4, 5)) / 2, "W_p": np.eye(4) + 0.1 * rng.standard_normal((4, 4))}
    return float(ends["s"].max()), float(size(path(flow, start, 200.0, "ends").final["W"]))


@experiment(
    Claim("A12", "decay of the predictor alone: s grows at 2 eta_p tau^2 / (alpha_p (1 + sigma2)^2), relative", 1e-2,
          "observation"),
)  # fmt: skip
def predictor_decay(rng: Rng) -> Sequence[float]:
    alpha_p, sigma2, tau = spread(rng, 0.5, 4), rng.uniform(0, 0.5), rng.uniform(0.7, 1.2)
    eta_p = rng.uniform(0.02, 0.06)
    modes = Modes(alpha_p=alpha_p, eta=0.0, eta_p=eta_p, sigma2=sigma2, tau=tau)
    run = path(modes, {"p": 0.5, "s": 0.5}, 6000.0, [5000.0, 6000.0], STIFF)
    slope = float(run["s"][-1] - run["s"][-2]) / 1000
    return [abs(slope / (2 * eta_p * tau**2 / (alpha_p * (1 + sigma2) ** 2)) - 1)]


EXPERIMENTS: tuple[Experiment, ...] = (
    integral, fixed_points, moves, basins, without_decay, faster_predictor, too_much_decay, predictor_decay,
)  # fmt: skip
