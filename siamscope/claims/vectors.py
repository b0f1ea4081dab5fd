"""Collapse of SimSiam on synthetic vectors: size of the data and of the model, order of presentation, at equal steps.

The toy for the claims of Li, Efros & Pathak 2022 (arXiv 2209.15007): u in R^32 with u_k ~ k^-1/2 N(0, 1), views
u + 0.35 eps, an encoder 32-w-w-64 (batch norm and ReLU after every layer), a projector 64-64-64-64 (no affine at its
end), a predictor 64-16-64. Classes are the argmax of a fixed random network of whitened u. It can show that a network
collapses, not that what it learns is good: SimSiam discards what the classes need, and the untrained encoder of width
128 is better than the trained ones.

Many trials of one width are one computation: a leading dimension holds the trials, and activations lie as (trials,
features, batch), so that a layer is one batched product and batch norm sees trials x features channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siamscope import collapse
from siamscope.claims.base import ClaimError
from siamscope.data.order import IidOrder, Order
from siamscope.data.orders import ChunkOrder, HybridOrder

INPUTS, FEATURES, BOTTLENECK, CLASSES = 32, 64, 16, 10
NOISE = 0.35
PERIODS = 100
"""Epochs that the schedule counts, and chunks of the orders that go by them."""
FRESH = 8000
_MOMENTUM, _EPS = 0.9, 1e-5
_HIDDEN = 64  # units of the network that gives the classes

OrderName = Literal["iid", "current", "cumulative", "hybrid"]


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        n: training vectors, the first of those of its seed: subsets are nested.
        seed: of vectors, weights, order and noise; the classes are the same for all.
        switch: hybrid: share of the steps before iid.
        stop_gradient, predictor: False takes them away, and the run collapses completely.
    """

    n: int
    seed: int
    order: OrderName = "iid"
    switch: float = 0.4
    lr: float = 0.1
    weight_decay: float = 5e-4
    stop_gradient: bool = True
    predictor: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a trial ends with, in eval mode on fresh vectors.

    Attributes:
        auc, rankme, probe: of the encoder's features: AUC of singular values, RankMe, accuracy of a ridge probe.
        std, auc_z, rankme_z: of the projector's outputs; std is that of unit vectors, times sqrt(d).
        loss: mean over the last twentieth of the steps.
    """

    trial: Trial
    width: int
    auc: float
    rankme: float
    probe: float
    std: float
    auc_z: float
    rankme_z: float
    loss: float


def vectors(count: int, seed: int) -> Tensor:
    """(count, 32) float32; the first rows are the same whatever the count."""
    z = np.random.Generator(np.random.PCG64([seed, 1])).standard_normal((count, INPUTS), dtype=np.float32)
    return torch.from_numpy(z) * torch.arange(1, INPUTS + 1).float() ** -0.5


def classes(u: Tensor) -> NDArray[np.int64]:
    """(n,) labels of vectors (n, 32)."""
    generator = torch.Generator().manual_seed(2209)
    first = torch.randn(INPUTS, _HIDDEN, generator=generator) * INPUTS**-0.5
    last = torch.randn(_HIDDEN, CLASSES, generator=generator)
    whitened = u * torch.arange(1, INPUTS + 1).float() ** 0.5
    labels: NDArray[np.int64] = (torch.tanh(whitened @ first) @ last).argmax(1).numpy()
    return labels


# ------------------------------------------------------------------------------------------ the network


class _Norm:
    """Batch norm of (T, C, V * B): every trial, channel and view its own statistics; running ones for evaluation."""

    def __init__(self, trials: int, channels: int, affine: bool) -> None:
        self.mean, self.variance = torch.zeros(trials, channels), torch.ones(trials, channels)
        self.scale = torch.ones(trials, channels, requires_grad=affine)
        self.shift = torch.zeros(trials, channels, requires_grad=affine)

    def __call__(self, x: Tensor, views: int) -> Tensor:
        each = max(views, 1)
        scale, shift, mean, variance = (
            tensor.repeat_interleave(each, 1).flatten() for tensor in (self.scale, self.shift, self.mean, self.variance)
        )
        flat = x.reshape(1, len(mean), -1)
        y = F.batch_norm(flat, mean, variance, scale, shift, training=bool(views), eps=_EPS)
        if views:
            self.mean, self.variance = (tensor.view(*self.mean.shape, each).mean(2) for tensor in (mean, variance))
        return y.view(x.shape)


class _Layers:
    """Linear layers with batch norm, for many trials at once. norms: what follows each layer."""

    def __init__(self, sizes: Sequence[int], seeds: Sequence[int], salt: int, norms: Sequence[str]) -> None:
        self.norms = norms
        self.weights, self.biases, self.batch_norms = [], [], []
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            drawn = [
                torch.empty(outputs, inputs).uniform_(generator=torch.Generator().manual_seed(1000 * seed + salt + i))
                for seed in seeds
            ]
            weight = (2 * torch.stack(drawn) - 1) * inputs**-0.5  # as torch's linear layers start
            self.weights.append(weight.requires_grad_())
            bias = torch.zeros(len(seeds), outputs, 1, requires_grad=norms[i] == "none")
            self.biases.append(bias)
            self.batch_norms.append(_Norm(len(seeds), outputs, norms[i] == "relu"))

    def __call__(self, x: Tensor, views: int) -> Tensor:
        for weight, bias, norm, batch_norm in zip(self.weights, self.biases, self.norms, self.batch_norms, strict=True):
            if norm == "none":
                x = torch.baddbmm(bias, weight, x)
                continue
            x = batch_norm(torch.bmm(weight, x), views)
            x = torch.relu_(x) if norm == "relu" else x
        return x

    def parameters(self) -> list[Tensor]:
        norms = [tensor for norm in self.batch_norms for tensor in (norm.scale, norm.shift)]
        return [tensor for tensor in (*self.weights, *self.biases, *norms) if tensor.requires_grad]


class _Network:
    """Encoder, projector and predictor of all trials."""

    def __init__(self, width: int, seeds: Sequence[int]) -> None:
        self.encoder = _Layers([INPUTS, width, width, FEATURES], seeds, 0, ["relu"] * 3)
        self.projector = _Layers([FEATURES] * 4, seeds, 10, ["relu", "relu", "plain"])
        self.predictor = _Layers([FEATURES, BOTTLENECK, FEATURES], seeds, 20, ["relu", "none"])


# ------------------------------------------------------------------------------------------ training


def train(width: int, trials: Sequence[Trial], steps: int = 4000, batch: int = 256) -> list[Outcome]:
    """Train networks of one width, all for the same number of steps, and measure them.

    SGD with momentum 0.9; the rate of encoder and projector falls as a cosine over 100 epochs, that of the predictor
    stays (SimSiam).

    Raises:
        ClaimError: no trial, or fewer steps than epochs.
        DataError: fewer vectors than a batch.
    """
    if not trials or steps < PERIODS:
        raise ClaimError(f"at least one trial and {PERIODS} steps are needed, got {len(trials)} and {steps}")
    network = _Network(width, [trial.seed for trial in trials])
    orders = [order_of(trial, steps, batch) for trial in trials]
    most = max(trial.n for trial in trials)
    data = {seed: vectors(most, seed) for seed in {trial.seed for trial in trials}}
    noise = {seed: torch.Generator().manual_seed(seed) for seed in data}
    optimiser = _Sgd(network, trials, steps)
    losses: list[Tensor] = []
    for step in range(steps):
        eps = {seed: NOISE * torch.randn(INPUTS, 2 * batch, generator=generator) for seed, generator in noise.items()}
        x = torch.stack([
            data[trial.seed][torch.from_numpy(order.batch(step))].T.repeat(1, 2) + eps[trial.seed]
            for trial, order in zip(trials, orders, strict=True)
        ])  # fmt: skip
        found = loss(network, x, trials)
        found.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step(step)
        if step >= steps - max(steps // 20, 1):
            losses.append(found.detach())
    return _measured(network, width, trials, torch.stack(losses).mean(0))


def order_of(trial: Trial, steps: int, batch: int) -> Order:
    """In which order a trial sees its vectors."""
    if trial.order == "iid":
        return IidOrder(trial.n, batch, trial.seed)
    kind: Literal["current", "cumulative"] = "cumulative" if trial.order == "cumulative" else "current"
    chunks = ChunkOrder(kind, trial.n, batch, trial.seed, steps, PERIODS)
    return HybridOrder(chunks, trial.seed, trial.switch) if trial.order == "hybrid" else chunks


def loss(network: _Network, x: Tensor, trials: Sequence[Trial]) -> Tensor:
    """(T,) -1/2 [cos(p1, sg z2) + cos(p2, sg z1)] of views (T, 32, 2 B), the second behind the first."""
    z = network.projector(network.encoder(x, 2), 2)
    p = network.predictor(z, 2)
    without = torch.tensor([[[float(not trial.predictor)]] for trial in trials])
    if without.any():
        p = torch.lerp(p, z, without)
    half = x.shape[-1] // 2
    other = torch.cat([z[..., half:], z[..., :half]], dim=-1)
    flows = torch.tensor([[[float(not trial.stop_gradient)]] for trial in trials])
    target = torch.lerp(other.detach(), other, flows) if flows.any() else other.detach()
    return -F.cosine_similarity(p, target, dim=1).mean(-1)


class _Sgd:
    """SGD with momentum, every trial with a rate and a decay of its own."""

    def __init__(self, network: _Network, trials: Sequence[Trial], steps: int) -> None:
        falling = network.encoder.parameters() + network.projector.parameters()
        self.parameters, self.falling = falling + network.predictor.parameters(), len(falling)
        self.speed = [torch.zeros_like(tensor) for tensor in self.parameters]
        self.rate = torch.tensor([trial.lr for trial in trials])
        self.decay = torch.tensor([trial.weight_decay for trial in trials])
        self.period = steps / PERIODS

    @torch.no_grad()
    def step(self, number: int) -> None:
        """Move, and forget the gradients."""
        factor = 0.5 * (1 + math.cos(math.pi * (number // self.period) / PERIODS))
        for i, (tensor, speed) in enumerate(zip(self.parameters, self.speed, strict=True)):
            shape = (-1, *[1] * (tensor.ndim - 1))
            speed.mul_(_MOMENTUM).addcmul_(tensor, self.decay.view(shape))
            if tensor.grad is not None:  # the predictor's, if no trial has one
                speed.add_(tensor.grad)
            tensor.addcmul_(speed, self.rate.view(shape), value=-factor if i < self.falling else -1.0)
            tensor.grad = None


# ------------------------------------------------------------------------------------------ measuring


@torch.no_grad()
def _measured(network: _Network, width: int, trials: Sequence[Trial], losses: Tensor) -> list[Outcome]:
    u = vectors(FRESH, 10**6)
    labels = classes(u)
    features = network.encoder(u.T.expand(len(trials), INPUTS, FRESH), 0)
    z = network.projector(features, 0)
    out = []
    for i, trial in enumerate(trials):
        of_features, of_z = _scores(features[i].T), _scores(z[i].T)
        std = float(F.normalize(z[i].T.double(), dim=1).std(0).mean()) * math.sqrt(FEATURES)
        accuracy = probe(features[i].T, labels)
        out.append(Outcome(trial, width, *of_features, accuracy, std, *of_z, float(losses[i])))
    return out


def _scores(x: Tensor) -> tuple[float, float]:
    """AUC of the centred and RankMe of the raw features (n, d)."""
    raw = collapse.spectrum(x.contiguous(), center=False)
    return collapse.auc(collapse.spectrum(x.contiguous()).singular_values), collapse.rankme(raw)


def probe(x: Tensor, labels: NDArray[np.int64], penalty: float = 1e-3) -> float:
    """Accuracy of ridge regression on classes, fitted to the first half of the rows and judged on the second."""
    half = len(x) // 2
    mean, scale = x[:half].double().mean(0), x[:half].double().std(0).clamp_min(1e-8)
    whole = torch.cat([(x.double() - mean) / scale, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    known, targets = whole[:half], F.one_hot(torch.from_numpy(labels[:half]), CLASSES).double()
    gram = known.T @ known + penalty * half * torch.eye(known.shape[1], dtype=torch.float64)
    guessed = (whole[half:] @ torch.linalg.solve(gram, known.T @ targets)).argmax(1).numpy()
    return float((guessed == labels[half:]).mean())


def baselines(width: int, seeds: Sequence[int]) -> dict[str, float]:
    """Accuracy of the probe on an untrained encoder (mean over seeds, batch norm set by the vectors), on vectors."""
    u = vectors(FRESH, 10**6)
    labels = classes(u)
    network = _Network(width, seeds)
    with torch.no_grad():
        features = network.encoder(u.T.expand(len(seeds), INPUTS, FRESH), 1)
    return {
        "untrained": sum(probe(item.T, labels) for item in features) / len(seeds),
        "vectors": probe(u, labels),
    }
