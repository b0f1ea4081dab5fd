"""The objectives, each with cells that exercise it, and a small network to differentiate through."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamscope.objectives import Group, Objective, create


@dataclass(frozen=True)
class Case:
    """An objective with its cells, and how embeddings are normalised for it."""

    name: str
    objective: str
    normalise: str = "l2"
    cells: dict[str, Any] = field(default_factory=dict)
    shared: bool = True  # whether a target with gradient has a meaning

    def make(self, width: int, group: Group | None = None) -> Objective:
        torch.manual_seed(0)
        return create(self.objective, self.cells, width, group).double()


CASES = [
    Case("cosine", "asymmetric"),
    Case("euclidean", "asymmetric", cells={"distance": "euclidean"}),
    Case("simclr", "contrastive", cells={"temperature": 0.3}),
    Case("mocov3", "contrastive", cells={"temperature": 0.3, "negatives": "other-view"}),
    Case("mocov2", "contrastive", cells={"temperature": 0.3, "negatives": "bank", "bank": 48}),
    Case("nnclr", "contrastive", cells={"temperature": 0.3, "negatives": "other-view", "neighbour": True, "bank": 48}),
    Case("unigrad", "spectral", cells={"balance": 5.0, "rho": 0.9}),
    Case("tico", "spectral", cells={"balance": 5.0, "rho": 0.9, "statistics": "online"}),
    Case(
        "corinfomax",
        "spectral",
        cells={"balance": 0.1, "rho": 0.5, "phi": "inverse", "statistics": "online", "centred": True, "eps": 1e-3},
    ),
    Case("inverse-sqrt", "spectral", cells={"balance": 0.1, "rho": 0.5, "phi": "inverse-sqrt", "eps": 1e-3}),
    Case("log", "spectral", cells={"balance": 0.5, "rho": 0.5, "phi": "log", "eps": 1e-3}),
    Case("barlow", "decorrelation", "batch", {"balance": 0.05}),
    Case("barlow-trace", "decorrelation", "l2", {"balance": 3.0, "form": "trace"}),
    Case("vicreg", "covariance", "none"),
    Case("dino", "prototypes", cells={"prototypes": 9, "temperature": 0.1, "target_temperature": 0.04}, shared=False),
    Case("swav", "prototypes", cells={"prototypes": 9, "assignment": "sinkhorn"}, shared=False),
    Case("wmse", "whitening", "none", {"eps": 1e-3}),
    Case("mmcr", "centroids"),
    Case("lejepa", "slices", "none", {"balance": 0.5, "slices": 8}),
]


class Net(nn.Module):
    """MLP with batch norm, a normaliser and an optional MLP predictor, in float64."""

    def __init__(self, case: Case, width: int, predictor: bool, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(7, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, width)).double()
        layers = [nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, width)] if predictor else []
        self.predictor = nn.Sequential(*layers).double()
        self.case = case

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The online embedding (after the predictor) and the target embedding, both normalised."""
        z = self.body(x)
        t = self.normalise(z)
        return (self.normalise(self.predictor(z)) if len(self.predictor) else t), t

    def normalise(self, z: Tensor) -> Tensor:
        if self.case.normalise == "l2":
            return F.normalize(z, dim=1)
        if self.case.normalise == "batch":
            return (z - z.mean(0)) / z.std(0, correction=0)
        return z


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def error(a: Tensor, b: Tensor) -> float:
    """Relative distance of a from b."""
    return float((torch.linalg.norm(a - b) / torch.linalg.norm(b)).detach())
