"""Predictors: what stands between the projector and the objective on the online branch.

>>> from siamscope.networks.predictors import create_predictor
>>> predictor = create_predictor("directcopy", 128, options={"rho": 0.5, "eps": 0.3})  # doctest: +SKIP
>>> predictor.prepare([z1, z2], [t1, t2])  # doctest: +SKIP
>>> p1, p2 = predictor(z1), predictor(z2)  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamscope.networks import set_predictor as rules
from siamscope.networks.errors import NetworkError
from siamscope.networks.heads import mlp
from siamscope.networks.heads_spec import LayerSpec
from siamscope.networks.set_predictor import Moments, Norm, Reduce

SetKind = Literal["directpred", "directset", "directcopy", "optimal"]
_POWERS_BY_PRODUCT = range(1, 17)  # cheaper than an eigendecomposition
KINDS = ("none", "linear", "mlp", "symmetric", "symmetric-mlp", *get_args(SetKind))
"""Names that `create_predictor` takes."""


def _identity(x: Tensor) -> Tensor:
    return x


class Predictor(nn.Module):
    """`forward` maps embeddings z (n, d) to predictions p (n, d); `prepare` comes before it, once a step.

    `straight_through`: p is the same, but its gradient reaches z as if p were z (the predictor's own weights take their
    usual one). With a symmetric predictor that is IsoLoss in both its forms, Euclidean and cosine: the gradient with
    respect to p without the factor W^T.
    Source: Halvagal, Laborieux & Zenke 2023 (arXiv:2212.04858) and their code, whose gradients this equals (tests).
    """

    def __init__(self, *, straight_through: bool = False) -> None:
        super().__init__()
        self.straight_through = straight_through

    def prepare(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """Update statistics from the projector's outputs of the global views, before any normalisation. No gradient."""

    def predict(self, z: Tensor) -> Tensor:
        return z

    def forward(self, z: Tensor) -> Tensor:
        if self.straight_through:
            return self.predict(z.detach()) + (z - z.detach())
        return self.predict(z)


class MLPPredictor(Predictor):
    """(B, width) -> (B, width) by `layers`; the last one always has `width` outputs and no activation."""

    def __init__(self, width: int, layers: Sequence[LayerSpec], *, straight_through: bool = False) -> None:
        super().__init__(straight_through=straight_through)
        if not layers:
            raise NetworkError("hidden_layers: an mlp predictor needs one layer or more; use kind 'none' for none")
        last = replace(layers[-1], out=width, activation="none")
        for name, module in mlp(width, (*layers[:-1], last)).named_children():
            self.add_module(name, module)

    def predict(self, z: Tensor) -> Tensor:
        for module in self.children():
            z = module(z)
        return z


class SymmetricMLPPredictor(Predictor):
    """Two layers whose weights are each other's transpose: p = act(norm(z W^T)) W, with W = (V + U^T) / 2.

    V and U are both trained and start equal; each takes half of W's gradient, so they stay equal, and a step is that of
    two free layers of which W^T and its partner are averaged after it.
    Source: Tian, Chen & Ganguli 2021 (arXiv:2102.06810), table 3, "2-layer", "sym"; their code averages after the step.
    """

    def __init__(self, width: int, layers: Sequence[LayerSpec], *, straight_through: bool = False) -> None:
        super().__init__(straight_through=straight_through)
        if len(layers) != 2 or layers[1].norm != "none":
            raise NetworkError("hidden_layers: 'symmetric-mlp' needs two layers, and no norm after the last one")
        head = mlp(width, layers[:1])
        self.first, self.between = cast("nn.Linear", head[0]), head[1:]
        self.second = nn.Linear(layers[0].out, width, bias=layers[1].bias)
        with torch.no_grad():
            self.second.weight.copy_(self.first.weight.T)

    def predict(self, z: Tensor) -> Tensor:
        w = (self.first.weight + self.second.weight.T) / 2
        return F.linear(self.between(F.linear(z, w, self.first.bias)), w.T, self.second.bias)


class LinearPredictor(Predictor):
    """p = z W^T, with a bias if asked for. Both start as torch's linear layers do."""

    def __init__(self, width: int, *, bias: bool = False, straight_through: bool = False) -> None:
        super().__init__(straight_through=straight_through)
        self.weight = nn.Parameter(torch.empty(_whole("width", width), width))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-1, 1) / math.sqrt(width)) if bias else None

    @property
    def matrix(self) -> Tensor:
        """W (width, width)."""
        return self.weight

    def predict(self, z: Tensor) -> Tensor:
        return F.linear(z, self.matrix, self.bias)


class SymmetricPredictor(LinearPredictor):
    """A linear predictor with W = (V + V^T) / 2, V being trained.

    The gradient of V is the symmetric part of that of W, so V itself stays symmetric, to the last bit, under any
    optimiser that treats its entries alike. W starts positive semi-definite, as B B^T of a linear layer's B, scaled to
    about that layer's Frobenius norm: of a random symmetric W half the eigenvalues are negative, and those modes die.
    """

    def __init__(self, width: int, *, bias: bool = False, straight_through: bool = False) -> None:
        super().__init__(width, bias=bias, straight_through=straight_through)
        with torch.no_grad():
            product = self.weight @ self.weight.T * math.sqrt(1.5)
            self.weight.copy_((product + product.T) / 2)

    @property
    def matrix(self) -> Tensor:
        """W (width, width), symmetric."""
        return (self.weight + self.weight.T) / 2


class SetPredictor(Predictor):
    """A linear predictor W set from running moments of the embeddings: DirectPred, DirectSet, DirectCopy, optimal.

    `prepare` updates F on every step and sets W on steps 0, every, 2 * every, ...; with `every` = 1, W is no trained
    parameter, else it takes gradient steps in between. Before the first step W is the identity. Local crops go through
    `forward` only. In eval mode `prepare` does nothing.

    Args:
        width: d, the dimension of the embeddings.
        kind: the rule; see `set_predictor.directpred`, `directset` (DirectCopy is power 1), `optimal`.
        rho: share of the old F that every step keeps, in [0, 1]. F_0 is that of the first batch.
        eps: boost of small eigenvalues, at least 0; for `optimal` the ridge, relative to F's mean eigenvalue.
        rule, shift: DirectPred's boost and shift of eigenvalues.
        every: steps between two settings of W.
        centred: F of the embeddings less their running mean. Off in the papers: centring hurts.
        power, norm: DirectSet's exponent, and the norm that divides; the latter for DirectCopy too.
        partitions: DirectPred: hyperplanes that split the samples; each side of each has an F and a W of its own, and
            a prediction is the sum over the planes. 1 = no split.
        straight_through: see `Predictor`.
        mean: averages a tensor over all processes.

    Results are finite for F = 0 (all embeddings zero): W is 0 for DirectPred and optimal, eps I for the other two.
    NaN in the embeddings makes W NaN.

    Raises:
        NetworkError: an argument out of its range, or embeddings of the wrong shape; the message names it.
    """

    steps: Tensor

    def __init__(
        self,
        width: int,
        kind: SetKind = "directpred",
        *,
        rho: float = 0.3,
        eps: float = 0.1,
        rule: Literal["paper", "code"] = "code",
        every: int = 1,
        centred: bool = False,
        shift: float = 0.0,
        power: float = 0.5,
        norm: Norm = "spectral",
        partitions: int = 1,
        straight_through: bool = False,
        mean: Reduce = _identity,
    ) -> None:
        super().__init__(straight_through=straight_through)
        self.width, self.kind = _whole("width", width), _one_of("kind", kind, get_args(SetKind))
        self.rho, self.eps = _within("rho", rho, 0, 1), _within("eps", eps, 0)
        self.rule, self.norm = (
            _one_of("rule", rule, ("paper", "code")),
            _one_of("norm", norm, ("spectral", "frobenius")),
        )
        self.every, self.partitions = _whole("every", every), _whole("partitions", partitions)
        self.power, self.shift = _within("power", power, 0), _within("shift", shift, -math.inf)
        if not power > 0:
            raise NetworkError(f"power must be above 0, got {power}")
        if partitions > 1 and kind != "directpred":
            raise NetworkError(f"partitions splits DirectPred's statistics; kind is {kind!r}, so it must be 1")
        self.moments = Moments(width, rho, centred=centred, partitions=partitions, cross=kind == "optimal", mean=mean)
        one = torch.eye(width)
        start = one.expand(partitions, 2, width, width) / partitions if partitions > 1 else one
        self.weight = nn.Parameter(start.clone(), requires_grad=every > 1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._step = 0  # the same on the host, so that no step waits for the device

    @property
    def matrix(self) -> Tensor:
        """W (width, width); with partitions (partitions, 2, width, width)."""
        return self.weight

    @property
    def correlation(self) -> Tensor:
        """F (width, width); with partitions (partitions, 2, width, width)."""
        return self.moments.correlation.view_as(self.weight)

    @torch.no_grad()
    def prepare(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """Update F (and E[t f^T]) with this batch and set W if it is due.

        Args:
            online: projector outputs (n, width) of the online branch, one a global view, not normalised.
            target: those of the target branch; only `optimal` uses them. Its pairs are (f, t) of different views.
        """
        if not self.training:
            return
        self._check(online, target)
        with torch.autocast(online[0].device.type, enabled=False):
            self.moments.update(torch.cat(list(online)), _partners(target) if self.kind == "optimal" else None)
            if self._step % self.every == 0:
                self.weight.copy_(self._rule().view_as(self.weight))
        self._step += 1
        self.steps += 1

    def predict(self, z: Tensor) -> Tensor:
        if self.partitions == 1:
            return F.linear(z, self.weight)
        sides = self.moments.sides(z)[:, :, None]
        chosen = [
            torch.where(side, F.linear(z, pair[1]), F.linear(z, pair[0]))
            for side, pair in zip(sides, self.weight, strict=True)
        ]
        return torch.stack(chosen).sum(0)

    def _rule(self) -> Tensor:
        f = self.moments.correlation
        if self.kind == "directpred":
            return rules.directpred(f, eps=self.eps, rule=self.rule, shift=self.shift)
        if self.kind == "optimal":
            return rules.optimal(f[0], self.moments.cross, eps=self.eps)
        power = self.power if self.kind == "directset" else 1
        if power in _POWERS_BY_PRODUCT:
            return rules.directcopy(f[0], self._size(f[0]), power=int(power), eps=self.eps, norm=self.norm)
        return rules.directset(f[0], power=power, eps=self.eps, norm=self.norm)

    def _size(self, f: Tensor) -> Tensor:
        if self.norm == "frobenius":
            size: Tensor = f.norm()
            return size
        value, top = rules.spectral_norm(f, self.moments.top, cold=self._step == 0)
        self.moments.top.copy_(top)
        return value

    def _check(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        needs_pairs = self.kind == "optimal"
        if not online or (needs_pairs and (len(online) < 2 or len(target) != len(online))):
            wanted = "two or more views and a target of each" if needs_pairs else "one view or more"
            raise NetworkError(f"online: kind {self.kind!r} needs {wanted}; got {len(online)} and {len(target)}")
        rows = len(online[0])
        for name, views in (("online", online), ("target", target if needs_pairs else ())):
            for i, z in enumerate(views):
                if z.ndim != 2 or z.shape != (rows, self.width) or rows == 0:
                    raise NetworkError(
                        f"{name}[{i}] must be (n, {self.width}) with the n >= 1 of online[0], got {tuple(z.shape)}"
                    )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._step = int(self.steps)

    def extra_repr(self) -> str:
        shown = ("width", "kind", "rho", "eps", "rule", "every", "shift", "power", "norm", "partitions")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in (*shown, "straight_through"))


def create_predictor(
    kind: str,
    width: int,
    *,
    hidden_layers: Sequence[LayerSpec] | None = None,
    bias: bool = False,
    options: Mapping[str, Any] | None = None,
    mean: Reduce = _identity,
) -> Predictor:
    """The predictor called `kind` on embeddings of `width` dimensions.

    Args:
        kind: one of `KINDS`; 'none' passes z on.
        hidden_layers: all layers of an 'mlp' or 'symmetric-mlp', the last one included (its `out` becomes `width`).
        bias: of 'linear' and 'symmetric'; others do not use it.
        options: arguments of `SetPredictor` by name; the kinds that are trained use `straight_through` only.
        mean: averages a tensor over all processes.

    Raises:
        NetworkError: an unknown kind or option, or a value out of range.
    """
    given = dict(options or {})
    unknown = set(given) - set(_OPTIONS)
    if unknown:
        raise NetworkError(f"options: unknown {', '.join(sorted(unknown))}; there are {', '.join(_OPTIONS)}")
    straight_through = bool(given.get("straight_through", False))
    match _one_of("kind", kind, KINDS):
        case "none":
            if straight_through:
                raise NetworkError("straight_through needs a predictor; kind is 'none'")
            return Predictor()
        case "linear":
            return LinearPredictor(width, bias=bias, straight_through=straight_through)
        case "symmetric":
            return SymmetricPredictor(width, bias=bias, straight_through=straight_through)
        case "symmetric-mlp":
            return SymmetricMLPPredictor(width, hidden_layers or (), straight_through=straight_through)
        case "mlp":
            return MLPPredictor(width, hidden_layers or (), straight_through=straight_through)
    return SetPredictor(width, kind, **given, mean=mean)  # type: ignore[arg-type]


_OPTIONS = (
    "rho", "eps", "rule", "every", "centred", "shift", "power", "norm", "partitions", "straight_through",
)  # fmt: skip


def _partners(target: Sequence[Tensor]) -> Tensor:
    """For online view i the mean of the other views' targets, all views in one (V n, d)."""
    views = [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in target]
    total = torch.stack(views).sum(0)
    return torch.cat([(total - t) / (len(views) - 1) for t in views])


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise NetworkError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _within(name: str, value: float, low: float, high: float = math.inf) -> float:
    if not low <= value <= high or math.isinf(value):
        limits = (
            f"in [{low}, {high}]" if high < math.inf else "finite" if low == -math.inf else f"at least {low}, finite"
        )
        raise NetworkError(f"{name} must be {limits}, got {value!r}")
    return value


def _one_of(name: str, value: Any, valid: Sequence[str]) -> Any:
    if value not in valid:
        raise NetworkError(f"{name} must be one of {', '.join(valid)}; got {value!r}")
    return value
