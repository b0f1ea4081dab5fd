"""Which features live under a weight decay: Wang, Chen, Du & Tian 2021 (arXiv:2110.04947), by simulation.

A feature whose augmentation variance is sigma2 lives if eta < 1 / (4 (1 + sigma2)), whatever the predictor's rule, if
it starts large enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.directset import SetFlow, SetModes, SetRule, SubspaceTheorem, largest_decay
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.matrix import MatrixFlow
from siamscope.dynamics.modes import Modes
from siamscope.dynamics.solve import Adaptive, Steady, solve
from siamscope.dynamics.vectorised import solve_many

Predictor = float | Literal["trained"]
"""The power of DirectSet(alpha), or a predictor that is trained."""
MOST_FEATURES = 20_000
_MARGIN = (
    1e-3  # closer to the threshold, relative, nothing is said: a mode passes its rest that is gone ever more slowly
)
_LIVES = 1e-6


@dataclass(frozen=True, eq=False)
class Survivors:
    """Of features (E, F): etas by variances. lives: 1 kept, 0 lost, -1 at the threshold, or its end was not seen.

    size: |w| in the end.  expected: what the inequality says, 1 or 0; -1 at the threshold.
    """

    predictor: Predictor
    eta: Float
    sigma2: Float
    lives: npt.NDArray[np.int8]
    expected: npt.NDArray[np.int8]
    size: Float

    @property
    def wrong(self) -> int:
        """Features away from the threshold that did not end as the inequality says."""
        return int(((self.expected >= 0) & (self.lives != self.expected)).sum())


def survivors(predictor: Predictor, eta: Sequence[float], sigma2: Sequence[float], *, delta: float = 1.0) -> Survivors:
    """Simulate each feature under each weight decay from w = delta, with W_p as its rule says (trained: delta).

    Raises:
        DynamicsError: an unknown predictor, a negative or non-finite rate, a start of 0, too many features.
    """
    _check(predictor)
    rates, noise = _vector("eta", eta), _vector("sigma2", sigma2)
    if len(rates) * len(noise) > MOST_FEATURES:
        raise DynamicsError(f"give eta and sigma2, together at most {MOST_FEATURES:,} pairs.")
    errors.number("delta", delta, low=0, above=True)
    if (rates <= 0).any() or (noise < 0).any():
        worst = f"eta of {rates.min():g}, sigma2 of {noise.min():g}"
        raise DynamicsError(f"eta must be above 0 and sigma2 at least 0; the smallest are {worst}.")
    limit = largest_decay(noise)
    near = np.abs(rates[:, None] / limit - 1) < _MARGIN
    expected = np.where(near, -1, rates[:, None] < limit).astype(np.int8)
    size = _trained(rates, noise, delta) if isinstance(predictor, str) else _set(predictor, rates, noise, delta)
    lives = np.where(near | np.isnan(size), -1, size > _LIVES).astype(np.int8)
    return Survivors(predictor, rates, noise, lives, expected, size)


def _trained(eta: Float, sigma2: Float, delta: float) -> Float:
    grid = np.stack(np.meshgrid(eta, sigma2, indexing="ij"), -1).reshape(-1, 2)
    modes = Modes(eta=grid[:, 0], sigma2=grid[:, 1])
    start = np.tile([delta, delta**2], (len(grid), 1))
    run = solve_many(modes, start, 1e5, stop=Steady(1e-8, 1e-14), atol=1e-14, max_steps=20_000)
    return np.where(run.is_("stopped"), np.sqrt(run["s"]), np.nan).reshape(len(eta), len(sigma2))


def _set(power: float, eta: Float, sigma2: Float, delta: float) -> Float:
    rule, start = SetRule(power, boost="plain"), np.full(len(sigma2), delta**2)
    solver, rows = Adaptive("LSODA", rtol=1e-8, atol=1e-14), []
    for rate in eta:
        modes = SetModes(len(sigma2), eta=float(rate), sigma2=sigma2, rule=rule)
        run = solve(modes, start, 1e5, save="ends", solver=solver, stop=Steady(1e-8, 1e-14))
        seen = run.status in ("done", "stopped")
        rows.append(np.sqrt(np.maximum(run.y[-1], 0)) if seen else np.full(len(sigma2), np.nan))
    return np.stack(rows)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A network's features at the end: |W e_j| (F,) for features of variance sigma2 (F,), and what theory says."""

    predictor: Predictor
    eta: float
    sigma2: Float
    size: Float
    expected: Float

    @property
    def curve(self) -> tuple[Float, Float]:
        """sigma2 and the expected size, (400,) each, over the range of the features."""
        noise = np.linspace(self.sigma2.min(), self.sigma2.max(), 400)
        return noise, expected_size(self.predictor, self.eta, noise)


def expected_size(predictor: Predictor, eta: float, sigma2: Float) -> Float:
    """Where |W e_j| ends from a large start: u_+^(1 / 2 alpha), u_+ the larger root of (1 + sigma2) u^2 - u + eta = 0.

    u_+ itself for a trained predictor of alpha_p = 1, as for power 1/2; 0 above the threshold. sigma2 (F,) -> (F,).

    Raises:
        DynamicsError: an unknown predictor, a negative or non-finite rate.
    """
    _check(predictor)
    power = 0.5 if isinstance(predictor, str) else predictor
    rate = errors.number("eta", eta, low=0)
    return np.nan_to_num(Modes(eta=rate, sigma2=sigma2).roots()[1] ** (1 / (2 * power)), nan=0.0)


def spectrum(
    predictor: Predictor, eta: float, sigma2: Sequence[float], *, delta: float = 1.0, seed: int = 0, end: float = 400.0
) -> Spectrum:
    """Train W (d, d) on X = I, X' = diag(sigma2) from delta times a random rotation to t = `end`.

    A predictor that is trained starts as delta I. Expected: `expected_size`.

    Raises:
        DynamicsError: an unknown predictor, a negative or non-finite rate, more than 64 features, seed below 0.
    """
    _check(predictor)
    noise = _vector("sigma2", sigma2)
    if len(noise) > 64:
        raise DynamicsError(f"sigma2 must hold 1 to 64 numbers, one for each feature; it has {len(noise)}.")
    d, eta = len(noise), errors.number("eta", eta, low=0)
    turn = np.linalg.qr(np.random.default_rng(errors.whole("seed", seed, low=0)).standard_normal((d, d)))[0]
    w = errors.number("delta", delta, low=0, above=True) * turn
    if isinstance(predictor, str):
        flow: MatrixFlow | SetFlow = MatrixFlow(np.eye(d), np.diag(noise), d, eta=eta, target="online")
        start = {"W": w[None], "W_p": delta * np.eye(d)[None]}
    else:
        flow = SetFlow(np.eye(d), np.diag(noise), d, eta=eta, rule=SetRule(predictor, boost="plain"))
        start = {"W": w[None]}
    run = solve_many(flow, start, errors.number("end", end, low=0, above=True), rtol=1e-8, atol=1e-12)
    size = np.linalg.norm(run["W"][0], axis=0)
    return Spectrum(predictor, eta, noise, size, expected_size(predictor, eta, noise))


@dataclass(frozen=True, eq=False)
class StartSizes:
    """Where W ends on the features without noise, from W = delta I: size (N,) for delta (N,)."""

    theorem: SubspaceTheorem
    delta: Float
    size: Float


def start_sizes(eta: float, sigma2: float, power: float, delta: Sequence[float]) -> StartSizes:
    """DirectSet(power) from each delta; the theorem says `theorem.scale` above `theorem.threshold`, else 0."""
    theorem = SubspaceTheorem(eta, sigma2, power)
    sizes = _vector("delta", delta)
    if (sizes <= 0).any():
        raise DynamicsError(f"delta must be above 0; it is {sizes.min():g}.")
    modes = SetModes(1, eta=eta, rule=SetRule(power, boost="plain"))
    run = solve_many(modes, sizes[:, None] ** 2, 1e4, stop=Steady(1e-8, 1e-14), atol=1e-14)
    return StartSizes(theorem, sizes, np.sqrt(np.maximum(run.y[:, 0], 0)))


def _check(predictor: object) -> None:
    """Raise unless it is a `Predictor`."""
    if isinstance(predictor, str):
        errors.choice("predictor", predictor, ("trained",))
    else:
        errors.number("predictor (the power of DirectSet, or 'trained')", predictor, low=0, above=True)


def _vector(name: str, values: object) -> Float:
    """(n,) finite numbers, n at least 1."""
    out = errors.array(name, values, ())
    if out.ndim != 1 or not len(out):
        raise DynamicsError(f"{name} must hold one number or more, in one row; it has shape {out.shape}.")
    return out
