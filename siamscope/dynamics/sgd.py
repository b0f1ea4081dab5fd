"""The same linear network trained on samples: minibatches, momentum, and weight decay in either convention.

Data: a sample's mean m ~ N(0, X), its views x1, x2 = m + N(0, X'). Loss: 1/2 |W_p f1 - f2|^2, mean over both orders
of the views; lengths are not normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.directset import SetFlow, SetRule, apply_rule
from siamscope.dynamics.errors import DynamicsError, Float
from siamscope.dynamics.errors import transposed as _t
from siamscope.dynamics.matrix import MatrixFlow, Predictor, Target, least_squares, subspace

Decay = Literal["coupled", "per step"]


@dataclass(frozen=True)
class Rates:
    """An optimiser's settings in the theory's units.

    time: of the flow, for one step.  eta, eta_p: weight decay of encoder and predictor.  beta: the target's rate.
    """

    time: float
    eta: float
    eta_p: float
    beta: float


def rates(
    lr: float,
    weight_decay: float = 0.0,
    *,
    decay: Decay = "coupled",
    momentum: float = 0.0,
    ema: float = 0.0,
    alpha_p: float = 1.0,
    weight_decay_p: float | None = None,
) -> Rates:
    """The gradient flow that an optimiser follows at a small learning rate.

    decay: "coupled", torch's SGD, which adds weight_decay * W to the gradient: eta = weight_decay. "per step",
        W <- (1 - weight_decay) W: eta = weight_decay / time, and weight_decay is the paper's eta-bar = alpha eta. The
        paper states its settings in the second; its code passes them to the first. (torch's AdamW shrinks by
        lr * weight_decay a step.)
    momentum: heavy ball without dampening; a step is worth lr / (1 - momentum) of time.
    ema: the share gamma of the target that a step keeps; beta = (1 - gamma) / time.
    alpha_p: the predictor's learning rate over lr. Coupled decay goes with the learning rate, so that one and the same
        weight_decay on both makes eta_p = alpha_p eta, for which theorem 1 does not hold.
    weight_decay_p: the predictor's own; None is the one that makes eta_p = eta (coupled: weight_decay / alpha_p).
    """
    errors.choice("decay", decay, ("coupled", "per step"))
    errors.number("lr", lr, low=0, above=True)
    errors.number("weight_decay", weight_decay, low=0)
    errors.number("alpha_p", alpha_p, low=0, above=True)
    errors.number("ema", ema, low=0, high=1)
    if errors.number("momentum", momentum, low=0, high=1) == 1:
        raise DynamicsError("momentum must be below 1.")
    time = lr / (1 - momentum)
    unit, unit_p = (1.0, alpha_p) if decay == "coupled" else (1 / time, 1 / time)
    eta = weight_decay * unit
    eta_p = eta if weight_decay_p is None else errors.number("weight_decay_p", weight_decay_p, low=0) * unit_p
    return Rates(time, eta, eta_p, (1 - ema) / time)


@dataclass(frozen=True, eq=False)
class Trained:
    """Weights over training. steps (T,); W, W_p, W_a (T, seeds, n2, .); W_p is what the predictor was at that step.

    diverged: a weight was not finite or above 1e6, and training stopped there.
    """

    steps: npt.NDArray[np.int64]
    w: Float
    w_p: Float
    w_a: Float
    diverged: bool


@dataclass(frozen=True, eq=False)
class LinearSGD:
    """Settings of a run. x, x_noise, width, target, stop_gradient: as in `MatrixFlow`; the optimiser: see `rates`.

    predictor: "trained", "symmetric", "none", "optimal" or a `SetRule`. The last two are set at every step: a rule from
        F <- rho F + (1 - rho) E[f f^T] of the batch's embeddings, "optimal" as C F^-1 with C the same average of
        E[f_a f^T]. A small rho biases a rule: W_p then follows the batch's noise; a large one lets
        "optimal" lag behind.
    alpha_p: the predictor's learning rate over lr.  batch: samples a step, fresh ones each time.
    """

    x: Float
    x_noise: Float
    width: int
    lr: float = 0.05
    alpha_p: float = 1.0
    weight_decay: float = 0.0
    weight_decay_p: float | None = None
    decay: Decay = "coupled"
    momentum: float = 0.0
    batch: int = 64
    target: Target = "online"
    ema: float = 0.99
    stop_gradient: bool = True
    predictor: Predictor | SetRule = "trained"
    rho: float = 0.3

    def __post_init__(self) -> None:
        errors.whole("batch", self.batch)
        errors.number("rho", self.rho, low=0, high=1)
        errors.flag("stop_gradient", self.stop_gradient)
        if not isinstance(self.predictor, SetRule):
            errors.choice("predictor", self.predictor, ("trained", "symmetric", "none", "optimal"))
        flow = self.flow()  # checks the rest
        object.__setattr__(self, "x", flow.x)
        object.__setattr__(self, "x_noise", flow.x_noise)

    @property
    def rates(self) -> Rates:
        return rates(
            self.lr,
            self.weight_decay,
            decay=self.decay,
            momentum=self.momentum,
            ema=self.ema,
            alpha_p=self.alpha_p,
            weight_decay_p=self.weight_decay_p,
        )

    def flow(self) -> MatrixFlow | SetFlow:
        """The gradient flow that training follows: step k is at time k * rates.time. A rule's F is of the views."""
        speed = self.rates
        if isinstance(self.predictor, SetRule):
            if not self.stop_gradient:
                raise DynamicsError("stop_gradient=False is not offered with a predictor that is set.")
            return SetFlow(
                self.x, self.x_noise, self.width, speed.eta, self.predictor, "views", self.target, speed.beta
            )
        return MatrixFlow(
            self.x,
            self.x_noise,
            self.width,
            alpha_p=self.alpha_p,
            eta=speed.eta,
            beta=speed.beta,
            eta_p=None if speed.eta_p == speed.eta else speed.eta_p,
            target=self.target,
            stop_gradient=self.stop_gradient,
            predictor=self.predictor,
        )

    def train(
        self, start: Mapping[str, npt.ArrayLike], steps: int, *, seeds: Sequence[int] = (0,), every: int | None = None
    ) -> Trained:
        """Train `len(seeds)` networks, each on a stream of data of its own.

        Args:
            start: W (n2, n1), or one for each seed (seeds, n2, n1); W_p too if it is trained; W_a, if the target is
                "ema", else or without it a copy of W.
            every: keep the weights every so many steps, the first and the last in any case; default: only those two.

        Raises:
            DynamicsError: bad arguments. A run that diverges is stopped: see `Trained.diverged`.
        """
        errors.whole("steps", steps, low=0)
        if every is not None:
            errors.whole("every", every)
        if not isinstance(seeds, Sequence) or not seeds:
            raise DynamicsError(f"seeds must be a list of one whole number or more; it is {errors.shown(seeds)}.")
        run = _Run(self, start, [np.random.default_rng(errors.whole("seeds", seed, low=0)) for seed in seeds])
        kept, diverged = [(0, run.weights())], False
        for step in range(1, steps + 1):
            run.step()
            if step == steps or (every and step % every == 0) or step % 64 == 0:
                diverged = not float(max(np.abs(run.w).max(), np.abs(run.w_p).max())) < 1e6
                if diverged or step == steps or (every and step % every == 0):
                    kept.append((step, run.weights()))
            if diverged:
                break
        w, w_p, w_a = (np.stack([weights[i] for _, weights in kept]) for i in range(3))
        return Trained(np.array([step for step, _ in kept]), w, w_p, w_a, diverged)

    @cached_property
    def factors(self) -> tuple[Float, Float]:
        """A, B of m = A z and noise = B z for standard normal z; columns of no variance are left out."""
        return _root(self.x), _root(self.x_noise)


def train_on_subspace(
    w: Float, rank: int, sigma2: float, steps: int, seeds: Sequence[int], w_p: Float | None = None, **options: Any
) -> Trained:
    """Train W from (d, d), or (seeds, d, d), on d features of which `rank` have no noise: see `subspace`.

    w_p: the start of a predictor that is trained; None: sqrt(alpha_p) I. options: of `LinearSGD`; here lr is 0.02.
    """
    d = np.shape(w)[-1]
    run = LinearSGD(*subspace(d, rank, sigma2), d, **({"lr": 0.02} | options))
    start = {"W": w}
    if run.predictor == "trained":
        start["W_p"] = np.eye(d) * np.sqrt(run.alpha_p) if w_p is None else w_p
    return run.train(start, steps, seeds=list(seeds))


class _Run:
    """Weights under training, (seeds, n2, .)."""

    def __init__(self, config: LinearSGD, start: Mapping[str, npt.ArrayLike], rngs: list[np.random.Generator]) -> None:
        self.config, self.rngs = config, rngs
        n1, n2 = len(config.x), config.width
        trained = config.predictor in ("trained", "symmetric")
        needed = {"W", "W_p"} if trained else {"W"}
        allowed = needed | ({"W_a"} if config.target == "ema" else set())
        if not needed <= set(start) <= allowed:
            raise DynamicsError(f"start must hold {', '.join(sorted(needed))}; got {list(start)}.")
        self.w = self._each(errors.array("W", start["W"], (n2, n1)))
        self.w_p = self._each(errors.array("W_p", start["W_p"], (n2, n2)) if trained else np.eye(n2))
        if config.predictor == "symmetric":
            errors.symmetric("W_p", self.w_p)
        self.w_a = self._each(errors.array("W_a", start["W_a"], (n2, n1))) if "W_a" in start else self.w.copy()
        self.trained = trained
        unit_p = config.alpha_p if config.decay == "coupled" else 1 / config.rates.time
        self.weight_decay_p = config.rates.eta_p / unit_p
        self.f: Float | None = None  # E[f f^T], averaged
        self.cross: Float | None = None  # E[f_a f^T]
        self.speed, self.speed_p = np.zeros_like(self.w), np.zeros_like(self.w_p)

    def _each(self, value: Float) -> Float:
        if value.ndim > 3 or (value.ndim == 3 and len(value) != len(self.rngs)):
            raise DynamicsError(f"start: a weight has shape {value.shape} for {len(self.rngs)} seeds.")
        return np.array(np.broadcast_to(value, (len(self.rngs), *value.shape[-2:])))

    def weights(self) -> tuple[Float, Float, Float]:
        return self.w.copy(), self.w_p.copy(), self.w_a.copy()

    def step(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            self._step()

    def _step(self) -> None:
        config = self.config
        x1, x2 = self._views()
        f1, f2 = x1 @ _t(self.w), x2 @ _t(self.w)
        online = config.target == "online"
        a1, a2 = (f1, f2) if online else (x1 @ _t(self.w_a), x2 @ _t(self.w_a))
        self._set(f1, f2, a1, a2)
        grad, grad_p = self._gradients(x1, x2, f1, f2, a1, a2)
        self.w = self._descend(self.w, grad, self.speed, config.lr, config.weight_decay)
        if self.trained:
            if config.predictor == "symmetric":
                grad_p = (grad_p + _t(grad_p)) / 2
            lr_p = config.lr * config.alpha_p
            self.w_p = self._descend(self.w_p, grad_p, self.speed_p, lr_p, self.weight_decay_p)
        self.w_a = self.w if config.target == "online" else config.ema * self.w_a + (1 - config.ema) * self.w

    def _views(self) -> tuple[Float, Float]:
        """Two views (seeds, batch, n1)."""
        mean, noise = self.config.factors
        k, j = mean.shape[1], noise.shape[1]
        z = np.stack([rng.standard_normal((self.config.batch, k + 2 * j)) for rng in self.rngs])
        centre = z[..., :k] @ mean.T
        return centre + z[..., k : k + j] @ noise.T, centre + z[..., k + j :] @ noise.T

    def _set(self, f1: Float, f2: Float, a1: Float, a2: Float) -> None:
        """W_p of the kinds that are not trained."""
        rule = self.config.predictor
        if isinstance(rule, SetRule):
            self.f = self._average(self.f, f1, f2, f1, f2)
            self.w_p = apply_rule(rule, self.f)
        elif rule == "optimal":
            self.f = self._average(self.f, f1, f2, f1, f2)
            self.cross = self._average(self.cross, a2, a1, f1, f2)
            self.w_p = least_squares(self.f, self.cross)

    def _average(self, old: Float | None, a1: Float, a2: Float, b1: Float, b2: Float) -> Float:
        """rho of the old, and the rest E[a b^T] over both views of the batch; the first batch counts whole."""
        new = (_t(a1) @ b1 + _t(a2) @ b2) / (2 * self.config.batch)
        return new if old is None else self.config.rho * old + (1 - self.config.rho) * new

    def _gradients(self, x1: Float, x2: Float, f1: Float, f2: Float, a1: Float, a2: Float) -> tuple[Float, Float]:
        """Of the mean over the batch and over both orders of the views: with respect to W and W_p."""
        config = self.config
        weight = 1 / (2 * config.batch)
        gap1, gap2 = (f1 @ _t(self.w_p) - a2) * weight, (f2 @ _t(self.w_p) - a1) * weight
        grad = _t(self.w_p) @ (_t(gap1) @ x1 + _t(gap2) @ x2)
        if not config.stop_gradient:
            grad -= _t(gap1) @ x2 + _t(gap2) @ x1
        return grad, _t(gap1) @ f1 + _t(gap2) @ f2

    def _descend(self, w: Float, grad: Float, speed: Float, lr: float, weight_decay: float) -> Float:
        """One step of SGD; `speed`, the momentum's memory, is updated in place."""
        coupled = self.config.decay == "coupled"
        speed *= self.config.momentum
        speed += grad + weight_decay * w if coupled else grad
        return (1.0 if coupled else 1 - weight_decay) * w - lr * speed


def _root(matrix: Float) -> Float:
    values, vectors = np.linalg.eigh(matrix)
    real = values > 1e-12 * max(float(values[-1]), 0.0)
    return np.asarray(vectors[:, real] * np.sqrt(values[real]), dtype=np.float64)
