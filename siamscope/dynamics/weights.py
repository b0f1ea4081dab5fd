"""The network of one weight a layer in three planes: figure 10 of Tian, Chen & Ganguli 2021 (arXiv:2102.06810, app. D).

frozen     the target stands still: (w_p, w) move fast, and the origin is a saddle
tied       w_p = sqrt(alpha_p) w, which the flow keeps: (w, w_a) move to a rest away from 0
none       no predictor, w_p = 1: (w, w_a) move to 0
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from siamscope.dynamics.anisotropic import ScalarNetwork
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.plane import FixedPoint, axis, check_grid, fixed_point, inside
from siamscope.dynamics.solution import Solution
from siamscope.dynamics.solve import Adaptive, Steady, solve

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class WeightPlane:
    """One plane. axes: names of its coordinates, x first.  dx, dy (Y, X): the field.

    rest: a curve of fixed points, (K, 2), empty if there is none.  edge: the line on which a frozen target leads to 0.
    paths: trajectories (T, 2).
    """

    name: str
    axes: tuple[str, str]
    x: Float
    y: Float
    dx: Float
    dy: Float
    points: tuple[FixedPoint, ...]
    rest: Float
    edge: Float
    paths: tuple[Float, ...]


def weight_planes(
    network: ScalarNetwork,
    w_range: Range = (-1.0, 1.0),
    *,
    w_a: float = 1.0,
    grid: tuple[int, int] = (81, 81),
    starts: int = 8,
) -> tuple[WeightPlane, WeightPlane, WeightPlane]:
    """(frozen at w_a, tied, none) for one network's numbers; weights in `w_range` on both axes.

    Args:
        network: its `target` and `predictor` are set for each plane; numbers, equal weight decay, beta and signal
            above 0.
        starts: trajectories that begin on a circle near the box's edge.

    Raises:
        DynamicsError: parameters outside the above, a range that does not increase, too large a grid.
    """
    _check(network)
    check_grid(grid)
    axis("w_range", w_range, grid[0])
    build = _Build(network, w_range, grid, starts)
    return build.frozen(w_a), build.tied(), build.none()


def balanced_run(network: ScalarNetwork, w: float = 0.9, w_a: float = 0.2, end: float = 600.0) -> Solution:
    """The whole network (w_p, w, w_a) from w_p = sqrt(alpha_p) w: it ends where `tied` says, w_p = w throughout if
    alpha_p = 1."""
    _check(network)
    whole = _variant(network)
    return solve(
        whole, {"w_p": _root(network) * w, "w": w, "w_a": w_a}, end, solver=Adaptive("LSODA", rtol=1e-10, atol=1e-12)
    )


@dataclass(frozen=True)
class _Build:
    network: ScalarNetwork
    span: Range
    grid: tuple[int, int]
    starts: int

    def frozen(self, w_a: float) -> WeightPlane:
        flow, root = _variant(self.network, target="frozen", frozen=w_a), _root(self.network)
        alpha_p, eta, signal, total = _numbers(self.network)
        pull = signal * w_a

        def jacobian(w_p: float, w: float) -> list[list[float]]:
            bend = pull - 2 * total * w_p * w
            return [[-alpha_p * total * w * w - eta, alpha_p * bend], [bend, -total * w_p**2 - eta]]

        points = [(0.0, 0.0)]
        square = (root * pull - eta) / total
        if eta > 0 and square > 0:
            points += [(sign * square**0.5, sign * square**0.5 / root) for sign in (-1.0, 1.0)]
        line = np.linspace(*self.span, 400)
        with np.errstate(divide="ignore"):
            hyperbola = np.stack([line, pull / (total * line)], -1) if eta == 0 else np.empty((0, 2))
        edge = np.stack([-root * line, line], -1) if root * pull > eta else np.empty((0, 2))
        return self._plane(
            "frozen", ("w_p", "w"), flow, [fixed_point(at, jacobian(*at)) for at in points], hyperbola, edge
        )

    def tied(self) -> WeightPlane:
        flow, root = _variant(self.network), _root(self.network)
        _, eta, signal, total = _numbers(self.network)
        beta = float(self.network.beta)

        def jacobian(w: float, w_a: float) -> list[list[float]]:
            own = root * signal * w_a - 3 * root**2 * total * w * w - eta
            return [[own, root * signal * w], [beta, -beta]]

        spread = signal**2 - 4 * eta * total
        sizes = [0.0]
        if spread >= 0:
            roots = [(signal + sign * spread**0.5) / (2 * total) for sign in ((-1, 1) if eta else (1,))]
            sizes += [u / root for u in roots]
        points = [fixed_point((w, w), jacobian(w, w)) for w in sizes]
        return self._plane("tied", ("w", "w_a"), flow, points, tie=root)

    def none(self) -> WeightPlane:
        _, eta, signal, total = _numbers(self.network)
        beta = float(self.network.beta)
        origin = fixed_point((0.0, 0.0), [[-(total + eta), signal], [beta, -beta]])
        return self._plane("none", ("w", "w_a"), _variant(self.network, predictor=False), [origin])

    def _plane(
        self,
        name: str,
        axes: tuple[str, str],
        flow: ScalarNetwork,
        points: list[FixedPoint],
        rest: Float | None = None,
        edge: Float | None = None,
        tie: float | None = None,
    ) -> WeightPlane:
        """The plane of the last two parts of the flow's state; `tie`: w_p = tie * w goes before them."""

        def state(y: Float) -> Float:
            return y if tie is None else np.concatenate([tie * y[..., :1], y], -1)

        x, y = axis("w_range", self.span, self.grid[0]), axis("w_range", self.span, self.grid[1])
        moves = flow.rhs(0.0, state(np.stack(np.meshgrid(x, y), -1)))[..., -2:]
        line, parting = (np.empty((0, 2)) if c is None else inside(c, self.span, self.span) for c in (rest, edge))
        stop, solver = Steady(1e-4, 1e-5), Adaptive("LSODA", rtol=1e-8, atol=1e-10, max_step=0.5)
        runs = [solve(flow, state(start), 150.0, stop=stop, solver=solver) for start in self._circle()]
        paths = tuple(run.y[:, -2:] for run in runs)
        return WeightPlane(name, axes, x, y, moves[..., 0], moves[..., 1], tuple(points), line, parting, paths)

    def _circle(self) -> list[Float]:
        """Starts around the middle of the box, a little off the axes."""
        middle, radius = np.mean(self.span), 0.46 * (self.span[1] - self.span[0])
        angles = 2 * np.pi * (np.arange(self.starts) + 0.3) / max(self.starts, 1)
        return [np.array([middle + radius * np.cos(a), middle + radius * np.sin(a)]) for a in angles]


def _variant(network: ScalarNetwork, **changed: object) -> ScalarNetwork:
    return replace(network, **({"target": "ema", "predictor": True} | changed))  # type: ignore[arg-type]


def _root(network: ScalarNetwork) -> float:
    return math.sqrt(float(network.alpha_p))


def _numbers(network: ScalarNetwork) -> tuple[float, float, float, float]:
    """alpha_p, eta, signal, signal + sigma2."""
    alpha_p, eta, signal = float(network.alpha_p), float(network.eta), float(network.signal)
    return alpha_p, eta, signal, signal + float(network.sigma2)


def _check(network: ScalarNetwork) -> None:
    if network.vectors():
        raise DynamicsError(f"{network.vectors()[0]} must be one number: a portrait shows one set of parameters.")
    if network.eta_p is not None and float(network.eta_p) != float(network.eta):
        raise DynamicsError("eta_p differs from eta: the portrait is for equal weight decay. Leave eta_p out.")
    if float(network.beta) <= 0 or float(network.signal) <= 0:
        raise DynamicsError("beta and signal must be above 0 for the planes of the weights.")
