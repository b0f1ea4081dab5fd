"""A toy on which methods learn or collapse in two seconds: content that views share, style that they do not.

Twenty classes are points in a content space; a sample is a point near its class, and a view adds a fresh style. What
the network sees is a fixed random non-linear mixture of both, in which style dominates. Encoder: an MLP; projector:
an MLP with batch norm. Every method trains from the closed form of its gradient (`siamscope.gradients.surrogate`),
and is judged by a weighted k-NN on encoder features of views it has not seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamscope.gradients import compare, surrogate
from siamscope.gradients.predictor import directpred_terms
from siamscope.objectives import GradientTerms, Objective, ObjectiveError, create

CLASSES, CONTENT, STYLE, PIXELS, FEATURES, WIDTH = 20, 16, 16, 64, 128, 64


@dataclass(frozen=True)
class Settings:
    """What a run costs, and its optimiser."""

    steps: int = 300
    batch: int = 256
    rate: float = 0.2
    samples: int = 4096
    spread: float = 0.4
    style: float = 2.3


@dataclass(frozen=True)
class Outcome:
    """k-NN accuracy on encoder features, effective rank and mean positive similarity of embeddings."""

    knn: float
    rank: float
    similarity: float


class World:
    """The data: contents with labels, and views of them."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.style = settings.style
        fixed = torch.Generator().manual_seed(1234)
        width = CONTENT + STYLE
        self.first = torch.randn(width, 2 * PIXELS, generator=fixed) / math.sqrt(width)
        self.second = torch.randn(2 * PIXELS, PIXELS, generator=fixed) / math.sqrt(2 * PIXELS)
        centres = torch.randn(CLASSES, CONTENT, generator=fixed)
        self.labels = torch.randint(CLASSES, (settings.samples,), generator=self.random)
        noise = torch.randn(settings.samples, CONTENT, generator=self.random)
        self.contents = centres[self.labels] + settings.spread * noise

    def view(self, rows: Tensor) -> Tensor:
        """A fresh view of these samples, (n, PIXELS)."""
        style = self.style * torch.randn(len(rows), STYLE, generator=self.random)
        return torch.tanh(torch.cat([self.contents[rows], style], 1) @ self.first) @ self.second

    def batch(self, size: int) -> list[Tensor]:
        """Two views of random samples from the training half."""
        rows = torch.randint(len(self.labels) // 2, (size,), generator=self.random)
        return [self.view(rows), self.view(rows)]


class DirectPredForm(Objective):
    """The asymmetric gradient with DirectPred's predictor, exact; F is an EMA of the target's embeddings."""

    has_loss = False

    def __init__(self, eps: float = 0.3, rho: float = 0.99) -> None:
        super().__init__()
        self.eps, self.rho, self.correlation = eps, rho, None

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        raise ObjectiveError("this gradient has no loss")

    def prepare(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        now = sum(t.T @ t for t in target) / (len(target) * len(target[0]))
        self.correlation = now if self.correlation is None else self.rho * self.correlation + (1 - self.rho) * now

    def gradient_terms(self, online, target, view=0, *, shared=False) -> GradientTerms:
        terms = directpred_terms(online[view], target[1 - view], self.correlation, self.eps)
        return GradientTerms(terms.positive, terms.negative, terms.balance, terms.scale / 2)


class CentredForm(Objective):
    """VICReg's gradient on unit-length embeddings without its variance term: the covariance is centred."""

    has_loss = False

    def __init__(self, balance: float, centred: bool = True) -> None:
        super().__init__()
        self.balance, self.centred = balance, centred

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        raise ObjectiveError("this gradient has no loss")

    def gradient_terms(self, online, target, view=0, *, shared=False) -> GradientTerms:
        u = online[view]
        offset = u - u.mean(0) if self.centred else u
        n = len(u)
        return GradientTerms(target[1 - view], offset @ (offset.T @ offset) / n, torch.tensor(self.balance), 1 / n)


def forms() -> dict[str, Callable[[], Objective]]:
    """The methods of the toy."""
    return {
        "none": lambda: create("asymmetric", {}, WIDTH),
        "contrastive": lambda: create("contrastive", {"temperature": 0.2, "negatives": "bank", "bank": 2048}, WIDTH),
        "asymmetric": DirectPredForm,
        "barlow": lambda: create("decorrelation", {"form": "trace", "balance": 3.0}, WIDTH),
        "vicreg-centred": lambda: CentredForm(3.0),
        "vicreg-uncentred": lambda: CentredForm(3.0, centred=False),
        "vicreg": lambda: create("covariance", {}, WIDTH),
        "unigrad": lambda: unigrad(0.99),
        "unigrad-rho0.9": lambda: unigrad(0.9),
        "unigrad-rho0": lambda: unigrad(0.0),
    }


def unigrad(rho: float, balance: float = 6.0) -> Objective:
    return create("spectral", {"balance": balance, "rho": rho}, WIDTH)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES), nn.ReLU())
        self.projector = nn.Sequential(
            nn.Linear(FEATURES, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU(), nn.Linear(FEATURES, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))


def run(
    method: str | Objective,
    *,
    momentum: bool,
    seed: int = 0,
    settings: Settings | None = None,
    watch: Callable[[int, list[Tensor], list[Tensor]], None] | None = None,
) -> Outcome:
    """Train one method from its gradient; deterministic in `seed`. `watch(step, u, t)` sees each step's embeddings."""
    settings = settings or Settings()
    world = World(settings, seed)
    torch.manual_seed(seed)
    net = Net()
    momentum_net = copy.deepcopy(net).requires_grad_(False) if momentum else None
    objective = forms()[method]() if isinstance(method, str) else method
    normalise = (lambda z: z) if method == "vicreg" else (lambda z: F.normalize(z, dim=1))
    optimizer = torch.optim.SGD(net.parameters(), settings.rate, momentum=0.9, weight_decay=1e-4)
    for step in range(settings.steps):
        fade = (1 + math.cos(math.pi * step / settings.steps)) / 2
        optimizer.param_groups[0]["lr"] = settings.rate * fade
        views = world.batch(settings.batch)
        u = [normalise(net(x)) for x in views]
        fixed = [z.detach() for z in u]
        with torch.no_grad():
            t = [normalise(momentum_net(x)) for x in views] if momentum_net else fixed
        if watch:
            watch(step, fixed, t)
        objective.prepare(fixed, t)
        optimizer.zero_grad(set_to_none=True)
        surrogate(objective, u, t).backward()
        optimizer.step()
        objective.commit(fixed, t)
        if momentum_net:
            follow(momentum_net, net, 1 - 0.01 * fade)  # .99 to 1
    return judge(net, world)


@torch.no_grad()
def follow(target: nn.Module, net: nn.Module, momentum: float) -> None:
    for a, b in zip(target.parameters(), net.parameters(), strict=True):
        a.lerp_(b, 1 - momentum)


Cosines = dict[str, dict[str, float]]


def alignment(*, momentum: bool, seed: int = 0, at: Sequence[int] = (0, 30, 100, 299)) -> dict[int, Cosines]:
    """A UniGrad run, and at some steps the tangent cosines of other methods' negatives and totals with UniGrad's."""
    found: dict[int, Cosines] = {}
    methods = {name: forms()[name]() for name in ("unigrad", "asymmetric", "barlow", "vicreg-centred")}
    methods["contrastive"] = create("contrastive", {"temperature": 0.2, "negatives": "other-view"}, WIDTH)

    def watch(step: int, u: list[Tensor], t: list[Tensor]) -> None:
        for objective in methods.values():
            objective.prepare(u, t)
        if step in at:
            found[step] = cosines({name: m.gradient_terms(u, t) for name, m in methods.items()}, u[0])

    run("unigrad", momentum=momentum, seed=seed, watch=watch)
    return found


def cosines(terms: dict[str, GradientTerms], u: Tensor) -> Cosines:
    result = compare(terms, u)
    row = result.names.index("unigrad")
    matrices = {"negative": result.negative_cosines, "total": result.total_cosines}
    return {which: dict(zip(result.names, matrix[row].tolist(), strict=True)) for which, matrix in matrices.items()}


@torch.no_grad()
def judge(net: Net, world: World) -> Outcome:
    """Bank: the training half. Queries: the other half, seen in new views."""
    net.eval()
    half = len(world.labels) // 2
    rows = torch.arange(len(world.labels))
    x = world.view(rows)
    features = F.normalize(net.encoder(x), dim=1)
    similarity, nearest = (features[half:] @ features[:half].T).topk(20, dim=1)
    votes = torch.zeros(half, CLASSES).scatter_add_(1, world.labels[nearest], (similarity / 0.1).exp())
    knn = (votes.argmax(1) == world.labels[half:]).float().mean()
    net.train()
    z = F.normalize(net(x[:1024]), dim=1)
    other = F.normalize(net(world.view(rows[:1024])), dim=1)
    s = torch.linalg.svdvals(z)
    share = s / s.sum()
    rank = float((-(share * (share + 1e-12).log()).sum()).exp())
    return Outcome(float(knn), rank, float((z * other).sum(1).mean()))
