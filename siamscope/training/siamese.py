"""The network of a method's row: two branches, a predictor and an objective."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamscope import objectives
from siamscope.methods import Head, Method
from siamscope.networks.heads import mlp
from siamscope.networks.heads_spec import LayerSpec
from siamscope.objectives import Group


class Branch(nn.Module):
    """Backbone and projector: images (n, C, H, W) to embeddings (n, d)."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.projector(self.backbone(images))
        return out


class Siamese(nn.Module):
    """A method's row as a module; `forward(views)` is the loss of a batch.

    The stop-gradient of the target is the one `detach` (or `no_grad`) in `targets`.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, row: Method, group: Group | None = None) -> None:
        super().__init__()
        self.row = row
        self.online = Branch(backbone, mlp(feature_dim, layers(row.projector)))
        width = row.projector.out
        self.predictor = _predictor(row, width)
        self.target = frozen_copy(self.online) if row.target == "momentum" else None
        self.normalise = _normaliser(row)
        self.objective = objectives.create(row.objective, asdict(row), group)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        z = [self.online(view) for view in views]
        p = [self.predictor(embedding) for embedding in z]
        t = self.targets(views, z)
        with torch.autocast(views[0].device.type, enabled=False):  # statistics and softmax in float32
            loss: Tensor = self.objective([self.normalise(_full(x)) for x in p], [self.normalise(_full(x)) for x in t])
        return loss

    def targets(self, views: Sequence[Tensor], z: Sequence[Tensor]) -> list[Tensor]:
        """The target branch's embeddings: shared weights, the same detached, or the momentum network's."""
        if self.row.target == "shared":
            return list(z)
        if self.target is None:
            return [embedding.detach() for embedding in z]
        with torch.no_grad():
            return [self.target(view) for view in views]


def layers(head: Head) -> tuple[LayerSpec, ...]:
    """A head of the table as the layers of an MLP; a bias before a batch norm is left out: the norm removes it."""
    hidden = LayerSpec(head.hidden, bias=head.norm == "none", norm=head.norm, activation="relu")
    last = LayerSpec(head.out, bias=head.last_bias and head.last_norm == "none", norm=head.last_norm, activation="none")
    return (hidden,) * (head.layers - 1) + (last,)


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


def _predictor(row: Method, width: int) -> nn.Module:
    if row.predictor == "none":
        return nn.Identity()
    if row.predictor == "linear":
        return nn.Linear(width, width, bias=False)
    head = row.predictor_head
    *hidden, last = layers(head)
    return mlp(width, (*hidden, LayerSpec(width, bias=last.bias, norm=last.norm, activation="none")))


class _UnitLength(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1)


def _full(z: Tensor) -> Tensor:
    """At least float32."""
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def _normaliser(row: Method) -> nn.Module:
    if row.normalise == "l2":
        return _UnitLength()
    if row.normalise == "batch":  # divided by sqrt(d), so that a product of two embeddings is a correlation
        width = row.projector.out
        return nn.Sequential(
            nn.BatchNorm1d(width, eps=1e-5, affine=False, track_running_stats=False), _Scale(width**-0.5)
        )
    return nn.Identity()


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return z * self.factor
