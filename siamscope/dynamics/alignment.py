"""Studies of whole matrices over time and several seeds: figures 7, 8 and 9 of Tian, Chen & Ganguli 2021.

commutators   |[F, W_p]| and the bound of theorem 3 (arXiv:2102.06810, eqs 7 to 10)
asymmetries   |W_p - W_p^T| of a predictor that is not held symmetric (eq. 62)
followings    cos(W_a, W): how well a moving average is tau times the online network (assumption 1)
peaks         how far the commutator grows before it falls (observations 6 to 8)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import integrate

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float, transposed
from siamscope.dynamics.matrix import MatrixFlow
from siamscope.dynamics.reduced import ReducedFlow
from siamscope.dynamics.systems import System
from siamscope.dynamics.vectorised import solve_many

TargetStart = Literal["zero", "copy", "random"]
_COARSE, _FINE = 81, 161  # times; each costs a few steps of the solver at least
_STEPS = 300  # between two of these times at most, so that a study ends within a minute or says why not


@dataclass(frozen=True, eq=False)
class Traces:
    """times (T,) and values (N, T), a row for each seed. bound (N, T): what theory allows, where it says something."""

    times: Float
    values: Float
    bound: Float | None = None

    def middle(self) -> tuple[Float, Float, Float]:
        """Smallest, median and largest over the seeds, (T,) each."""
        return self.values.min(0), np.median(self.values, 0), self.values.max(0)


@dataclass(frozen=True)
class Study:
    """What all studies share. width: of W_p.  seeds: configurations, from `seed` on.  end: time."""

    width: int = 5
    seeds: int = 8
    seed: int = 0
    sigma2: float = 0.1
    end: float = 80.0

    def __post_init__(self) -> None:
        errors.whole("width", self.width, low=2)
        errors.whole("seeds", self.seeds)
        errors.whole("seed", self.seed, low=0)
        errors.number("sigma2", self.sigma2, low=0)
        errors.number("end", self.end, low=0, above=True)
        if self.width > 64 or self.seeds > 200:
            raise DynamicsError(f"width={self.width}, seeds={self.seeds}: at most 64 and 200, or it takes minutes.")

    def rngs(self) -> list[np.random.Generator]:
        """One stream a seed; the same whatever their number."""
        return [np.random.default_rng([self.seed, i]) for i in range(self.seeds)]

    def misaligned(self) -> dict[str, Float]:
        """F and W_p (N, width, width), small, symmetric, a little misaligned: where K has negative eigenvalues."""
        parts = [_misaligned(rng, self.width) for rng in self.rngs()]
        return {"F": np.stack([f for f, _ in parts]), "W_p": np.stack([w_p for _, w_p in parts])}

    def spread(self, values: Sequence[float], start: dict[str, Float]) -> tuple[Float, dict[str, Float]]:
        """(V * N,) each value once for each seed, and the starts (N, ...) repeated for each value."""
        each = np.repeat(np.asarray(values, dtype=np.float64), self.seeds)
        return each, {name: np.tile(part, (len(values), *[1] * (part.ndim - 1))) for name, part in start.items()}

    def traces(self, times: Float, values: Float, bound: Float | None = None) -> tuple[Traces, ...]:
        """One for each value, of curves (T, V * N)."""
        curves = np.split(values.T, values.shape[1] // self.seeds)
        if bound is None:
            return tuple(Traces(times, curve) for curve in curves)
        bounds = np.split(bound.T, len(curves))
        return tuple(Traces(times, curve, above) for curve, above in zip(curves, bounds, strict=True))


def commutators(study: Study, eta: Sequence[float], *, alpha_p: float = 1.0, tau: float = 1.0) -> tuple[Traces, ...]:
    """For each eta |L(t)| / |L(0)|, L = [F, W_p], of the reduced flow, and exp(-2 int lambda_min(K)), its bound."""
    rates, start = study.spread(eta, study.misaligned())
    flow = ReducedFlow(study.width, alpha_p=alpha_p, eta=rates, sigma2=study.sigma2, tau=tau)
    times, y = _run(flow, start, study.end, _FINE)
    sizes = _size(flow.commutator(y))
    lowest = np.linalg.eigvalsh(flow.k(times[:, None], y))[..., 0]
    area = integrate.cumulative_simpson(lowest, x=times, axis=0, initial=0)
    return study.traces(times, sizes / sizes[0], np.exp(-2 * area))


def peaks(
    study: Study, eta: Sequence[float], alpha_p: Sequence[float], *, beta: float = math.inf, tau: float = 0.1
) -> Float:
    """(V, N) the largest |L(t)| / |L(0)| for V pairs of eta and alpha_p.

    beta: tau follows a moving average, from `tau` on; infinity: tau = 1.
    """
    rates, start = study.spread(eta, study.misaligned())
    fast, noise = study.spread(alpha_p, {})[0], study.sigma2
    if math.isinf(beta):
        flow = ReducedFlow(study.width, alpha_p=fast, eta=rates, sigma2=noise)
    else:
        flow = ReducedFlow(study.width, alpha_p=fast, eta=rates, sigma2=noise, tau="ema", beta=beta)
        start |= {"tau": np.full(len(rates), errors.number("tau", tau))}
    _, y = _run(flow, start, study.end, _COARSE)
    sizes = _size(flow.commutator(y))
    return _crest(sizes / sizes[0]).reshape(-1, study.seeds)


def asymmetries(study: Study, eta: Sequence[float], *, alpha_p: float = 1.0) -> tuple[Traces, ...]:
    """For each eta |W_p - W_p^T| over its value at 0, from W_p = 1 + 0.5 times a Gaussian matrix."""
    draws = [0.5 * rng.standard_normal((2, study.width, study.width)) for rng in study.rngs()]
    rates, start = study.spread(
        eta,
        {"F": np.stack([w @ w.T for w, _ in draws]), "W_p": np.stack([np.eye(study.width) + a for _, a in draws])},
    )
    flow = ReducedFlow(study.width, alpha_p=alpha_p, eta=rates, sigma2=study.sigma2, symmetric=False)
    times, y = _run(flow, start, study.end, _COARSE)
    w_p = flow.layout.unpack(y)["W_p"]
    sizes = _size(w_p - transposed(w_p))
    return study.traces(times, sizes / sizes[0])


def followings(
    study: Study, eta: Sequence[float], momentum: Sequence[float], *, rate: float = 0.03, start: TargetStart = "zero"
) -> tuple[Traces, ...]:
    """For each of V pairs cos(W_a, W) = <W_a, W> / (|W_a| |W|) in the flow of W, W_p, W_a.

    It is 1 where assumption 1, W_a = tau W, holds.

    Args:
        momentum: gamma of the target's average; beta = (1 - gamma) / rate in the time of the flow.
        start: W_a begins at 0 (the paper; the cosine then begins at 1, its limit), as W, or as another draw.
    """
    errors.choice("start", start, ("zero", "copy", "random"))
    errors.number("rate", rate, low=0, above=True)
    for gamma in momentum:
        errors.number("momentum", gamma, low=0, high=1)
    one = np.eye(study.width)
    draws = [0.5 * rng.standard_normal((3, study.width, study.width)) for rng in study.rngs()]
    w, w_p = np.stack([d[0] for d in draws]), np.stack([one + 0.5 * d[1] for d in draws])
    w_a = {"zero": 0 * w, "copy": w, "random": np.stack([d[2] for d in draws])}[start]
    rates, state = study.spread(eta, {"W": w, "W_p": w_p, "W_a": w_a})
    beta = study.spread([(1 - gamma) / rate for gamma in momentum], {})[0]
    flow = MatrixFlow(one, study.sigma2 * one, study.width, eta=rates, beta=beta)
    times, y = _run(flow, state, study.end, _COARSE)
    parts = flow.layout.unpack(y)
    inner, sizes = (parts["W"] * parts["W_a"]).sum((-2, -1)), _size(parts["W"]) * _size(parts["W_a"])
    cosine = np.where(sizes > 0, inner / np.where(sizes > 0, sizes, 1), 1.0)
    return study.traces(times, cosine)


def _run(flow: System, start: dict[str, Float], end: float, count: int) -> tuple[Float, Float]:
    """times (T,) and states (T, N, size)."""
    times = np.linspace(0.0, end, count)
    run = solve_many(flow, start, end, times=times, rtol=1e-7, atol=1e-11, max_steps=_STEPS)
    if run.path is None or run.count("done") < len(run.y):
        raise DynamicsError(
            f"a trajectory did not reach t={end:g}: it is stiff, or it diverges; use smaller rates, or end sooner."
        )
    return times, run.path


def _crest(values: Float) -> Float:
    """(N,) the largest of curves (T, N): of the parabola through the highest point and its neighbours."""
    top = values.argmax(0)
    columns = np.arange(values.shape[1])
    left, middle, right = (values[np.clip(top + i, 0, len(values) - 1), columns] for i in (-1, 0, 1))
    bend = left - 2 * middle + right
    inner = (top > 0) & (top < len(values) - 1) & (bend < 0)
    return np.asarray(np.where(inner, middle - (right - left) ** 2 / (8 * np.where(inner, bend, 1)), middle))


def _misaligned(rng: np.random.Generator, width: int) -> tuple[Float, Float]:
    """W_p = U diag(p) U^T, F = V diag(p^2 / 5) V^T with V a little turned from U, p in (0.1, 0.3)."""
    u, v = (np.linalg.qr(rng.standard_normal((width, width)))[0] for _ in range(2))
    p = rng.uniform(0.1, 0.3, width)
    turned = u @ np.linalg.qr(np.eye(width) + 0.05 * (v - v.T))[0]
    f, w_p = (0.2 * turned * p**2) @ turned.T, (u * p) @ u.T
    return (f + f.T) / 2, (w_p + w_p.T) / 2


def _size(a: Float) -> Float:
    return np.asarray(np.linalg.norm(a, axis=(-2, -1)), dtype=np.float64)
