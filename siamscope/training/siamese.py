"""The network of a method's row: two branches, a predictor and an objective."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamscope import methods, objectives
from siamscope.gradients.composed import Composed
from siamscope.gradients.surrogate import regularised, surrogate
from siamscope.networks.heads import mlp
from siamscope.networks.heads_spec import LayerSpec
from siamscope.networks.predictors import Predictor, create_predictor
from siamscope.objectives import Group, Objective
from siamscope.objectives.base import full
from siamscope.objectives.regularisers import create_regulariser
from siamscope.row import Head, Method, MethodError, projector_of, reads_of_objective
from siamscope.training.target import update_target
from siamscope.training.teacher import Teacher, as_taught
from siamscope.views.cutmix import Mix, apply_mix, partners

TARGET_VIEWS = 2
"""The first views of an image, which have a target; the others are local crops."""


class Branch(nn.Module):
    """Backbone and projector: images (n, C, H, W) to embeddings (n, d)."""

    def __init__(self, backbone: nn.Module, projector: nn.Sequential) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.compiled: Callable[[Tensor], Tensor] | None = None  # `plain`, compiled: in training only

    def forward(self, images: Tensor) -> Tensor:
        return self.compiled(images) if self.compiled is not None and self.training else self.plain(images)

    def plain(self, images: Tensor) -> Tensor:
        out: Tensor = self.projector(self.backbone(images))
        return out

    def in_two(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the projector's last module is given, and what it makes of it: the embeddings."""
        before: Tensor = self.projector[:-1](self.backbone(images))
        embeddings: Tensor = self.projector[-1](before)
        return before, embeddings


class Siamese(nn.Module):
    """A method's row as a module; `forward(views)` is the loss of a batch.

    The first two views have a target; further ones (local crops) only follow it. The stop-gradient of the target is the
    one `detach` (or `no_grad`) in `targets`.

    `another` makes a second backbone, which the momentum target has with target_init 'random'; `teacher` is the target
    of a row that has one, and the projector's output gets its width.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        row: Method,
        group: Group | None = None,
        another: Callable[[], nn.Module] | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        row = as_taught(row, teacher, feature_dim)
        self.row = row
        self.group = group or Group()
        self.online = Branch(backbone, mlp(feature_dim, layers(projector_of(row))))
        width = projector_of(row).out if row.projector.layers else feature_dim
        self.predictor = _predictor(row, width, self.group)
        self.objective = build_objective(row, width, self.group)
        self.regulariser = create_regulariser(row.regulariser, self.group)
        self.teacher = teacher
        self.target = _target(self.online, feature_dim, row, another) if row.target == "momentum" else None
        self.normalise = _normaliser(row, self.objective.unit_length, width)
        self.pending: tuple[list[Tensor], list[Tensor]] | None = None

    def forward(self, views: Sequence[Tensor], mix: Mix | None = None) -> Tensor:
        """The loss of one random view an image for each element of `views`, (n, C, H, W); statistics follow the batch.

        With `mix` the online branch sees the mixed views and the target whole ones, and the loss is the mean of those
        against the two images' targets, weighted by their shares of the pixels.
        """
        whole = views[:TARGET_VIEWS]
        shown = [apply_mix(view, mix) for view in whole] if mix else list(whole)
        z, raw = self._embedded(shown)
        z = [*z, *(self.online(view) for view in views[TARGET_VIEWS:])]
        t = self.targets(whole, None if mix else z)
        with torch.autocast(views[0].device.type, enabled=False):  # statistics and softmax in float32
            if self.training:
                self.predictor.prepare([full(x.detach()) for x in z[: len(t)]], [full(x.detach()) for x in t])
        p = [self.predictor(embedding) for embedding in z]
        with torch.autocast(views[0].device.type, enabled=False):
            online = [self.normalise(full(x)) for x in p]
            same = self.row.target == "shared" and self.row.predictor == "none" and not mix
            target = online[: len(t)] if same else [self.normalise(full(x)) for x in t]
            loss = self._loss(online, target, mix)
            return loss if self.regulariser is None else loss + self._regularised([full(x) for x in raw])

    @property
    def looks_inside(self) -> bool:
        """Whether the regulariser is of what the projector's last norm is given, not of the embeddings."""
        head = self.row.projector
        before = self.regulariser is not None and self.regulariser.before_norm
        return before and bool(head.layers) and head.last_norm != "none"

    def _embedded(self, views: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Embeddings, and what the regulariser is of: these, or what the projector's last norm is given."""
        if not self.looks_inside:
            z = [self.online(view) for view in views]
            return z, z
        both = [self.online.in_two(view) for view in views]
        return [z for _, z in both], [before for before, _ in both]

    def _regularised(self, raw: list[Tensor]) -> Tensor:
        assert self.regulariser is not None
        by_loss = self.row.objective_form == "loss"
        value: Tensor = self.regulariser(raw) if by_loss else regularised(self.regulariser, raw, self.group)
        return self.row.regulariser_weight * value

    def _loss(self, online: list[Tensor], target: list[Tensor], mix: Mix | None) -> Tensor:
        fixed = [u.detach() for u in online], [t.detach() for t in target]
        if self.training:
            self.objective.prepare(*fixed)
        loss = self._value(online, target)
        if mix and mix.weight < 1:
            other = partners(len(target[0])).to(target[0].device)
            loss = mix.weight * loss + (1 - mix.weight) * self._value(online, [t[other] for t in target])
        self.pending = fixed if self.training else None
        return loss

    def commit(self) -> None:
        """Let the objective keep what later batches use (bank, centre); after each backward, which needs the old."""
        if self.pending is not None:
            self.objective.commit(*self.pending)
            self.pending = None

    def _value(self, online: list[Tensor], target: list[Tensor]) -> Tensor:
        if self.row.objective_form == "loss":
            value: Tensor = self.objective(online, target)
            return value
        return surrogate(self.objective, online, target, shared=self.row.target == "shared", group=self.group)

    def targets(self, views: Sequence[Tensor], z: Sequence[Tensor] | None) -> list[Tensor]:
        """The target branch's embeddings: shared weights, the same detached, the momentum network's or the teacher's.

        `z`: the online embeddings of these views, if the online branch has seen them.
        """
        if self.target is not None:
            with torch.no_grad():
                return [self.target(view) for view in views]
        if self.teacher is not None:
            taught: list[Tensor] = self.teacher(views)
            return taught
        if self.row.target == "shared":
            return [self.online(view) for view in views] if z is None else list(z[: len(views)])
        if z is None:
            with torch.no_grad():
                return [self.online(view) for view in views]
        return [embedding.detach() for embedding in z[: len(views)]]

    def follow(self, momentum: float) -> None:
        """Move the momentum target, and the target's copy of the objective's own weights, towards the online ones."""
        if self.target is not None:
            update_target(self.target, self.online, momentum, self.row.momentum_buffers)
            self.objective.update_target(momentum)


def build_objective(row: Method, width: int, group: Group | None = None) -> Objective:
    """The row's objective for embeddings of `width` dimensions."""
    if row.objective != "composed":
        return objectives.create(row.objective, asdict(row), width, group)
    positive, negative = methods.parts(row)
    push = objectives.create(negative.objective, asdict(negative), width, group)
    same = row.positive == row.negative
    pull = push if same else objectives.create(positive.objective, asdict(positive), width, group)
    # Where the negative's row has a balance of its own, the composed row's stands in its place already.
    return Composed(pull, push, 1.0 if "balance" in reads_of_objective(negative) else row.balance)


def layers(head: Head) -> tuple[LayerSpec, ...]:
    """A head of the table as the layers of an MLP; a bias before a batch norm is left out: the norm removes it."""
    hidden = LayerSpec(head.hidden, bias=head.norm == "none", norm=head.norm, activation="relu")
    last = LayerSpec(head.out, bias=head.last_bias and head.last_norm == "none", norm=head.last_norm, activation="none")
    return (hidden,) * (head.layers - 1) + (last,) if head.layers else ()


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


def _target(online: Branch, feature_dim: int, row: Method, another: Callable[[], nn.Module] | None) -> nn.Module:
    """The momentum target at step 0; drawn last, so that the other weights are those of target_init 'copy'."""
    if row.target_init == "copy":
        return frozen_copy(online)
    if another is None:
        raise MethodError(f"method {row.name!r}: target_init 'random' needs `another`, which makes a second backbone")
    return Branch(another(), mlp(feature_dim, layers(projector_of(row)))).requires_grad_(False)


def _predictor(row: Method, width: int, group: Group) -> Predictor:
    head = row.predictor_head
    *hidden, last = layers(head)
    spec = (*hidden, LayerSpec(width, bias=last.bias, norm=last.norm, activation="none"))
    return create_predictor(
        row.predictor,
        width,
        hidden_layers=spec,
        bias=row.predictor_bias,
        options=asdict(row.predictor_options),
        mean=group.mean,
    )


class _UnitLength(nn.Module):
    """To unit length; a vector shorter than 1e-6 is divided by that, so that the gradient at 0 stays bounded."""

    def forward(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1, eps=1e-6)


def _normaliser(row: Method, unit_length: bool, width: int) -> nn.Module:
    if row.normalise == "l2":
        return _UnitLength()
    if row.normalise == "none":
        return nn.Identity()
    norm = nn.BatchNorm1d(width, eps=1e-5, affine=False, track_running_stats=False)
    # Divided by sqrt(d), a product of two embeddings is a correlation between -1 and 1, as for unit vectors.
    return nn.Sequential(norm, _Scale(width**-0.5)) if unit_length else nn.Sequential(norm)


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return z * self.factor
