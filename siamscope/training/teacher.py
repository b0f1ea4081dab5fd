"""A trained encoder as the target: distillation.

The student is to put out the teacher's features (after pooling), standardised dimension by dimension with an
exponentially weighted mean and variance, by the squared distance (Li, Efros & Pathak 2022, whose code distils a
SimSiam ResNet-50 into a ResNet-18 to tell whether a small model collapses for want of capacity or of optimisation).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamscope import networks
from siamscope.networks import NetworkError
from siamscope.networks.backbone import Backbone
from siamscope.objectives import Group
from siamscope.objectives.base import full
from siamscope.row import Method, projector_of

EPS = 1e-6
"""Added to the variance of a feature: a dead one stays at 0."""


class TeacherError(ValueError):
    """A teacher that cannot be used; the message names it and what to do."""


class Teacher(nn.Module):
    """A frozen encoder, always in eval mode, whose standardised features are targets: views (n, C, H, W) to (n, d).

    Views come with the student's size and normalisation; they are brought to the teacher's (`sees`). In training mode a
    call first takes its batch into the statistics: mean and variance are those of all batches so far, the newest with
    weight 1 - rho and each older one with rho times that of the next, the first with the rest. Batches of all
    processes count as one.

    The state holds the statistics, how views are converted, and a digest of the encoder, but not its weights: those
    are on the disk. `load_state_dict` refuses a state of another teacher with a TeacherError.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    digest: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self, encoder: nn.Module, width: int, meta: Mapping[str, Any], rho: float = 0.99, group: Group | None = None
    ) -> None:
        """`meta`: what `networks.load_encoder` gives beside the encoder: normalisation, input_size, in_channels."""
        super().__init__()
        # In a tuple, so that it is no part of the module: not trained, not saved, never in training mode.
        self._encoder = (encoder.eval().requires_grad_(False),)
        self.width, self.rho, self.group = width, rho, group or Group()
        self.size = meta.get("input_size")
        channels = int(meta["in_channels"])
        norm = meta.get("normalisation") or {"mean": [0.0] * channels, "std": [1.0] * channels}
        self._norm = torch.tensor(norm["mean"], dtype=torch.float64), torch.tensor(norm["std"], dtype=torch.float64)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("digest", torch.tensor(list(_digest(encoder, meta)), dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    @property
    def encoder(self) -> nn.Module:
        return self._encoder[0]

    def sees(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Views will come as (x - mean) / std, one number a channel, x in [0, 1]. Returns self.

        Raises:
            TeacherError: another number of channels than the teacher's.
        """
        if len(mean) != len(self.scale):
            raise TeacherError(
                f"the teacher takes images of {len(self.scale)} channels, these have {len(mean)}; "
                f"set --data.channels {len(self.scale)}"
            )
        centre, spread = (torch.tensor(list(values), dtype=torch.float64) for values in (mean, std))
        own_centre, own_spread = self._norm
        self.scale.copy_(spread / own_spread)
        self.shift.copy_((centre - own_centre) / own_spread)
        return self

    @torch.no_grad()
    def forward(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Standardised features of each view, in at least float32 and without gradient."""
        features = [full(self.encoder(self.converted(view))) for view in views]
        with torch.autocast(views[0].device.type, enabled=False):
            if self.training:
                self._follow(torch.cat(features))
            deviation = (self.variance + EPS).sqrt()
            return [(f - self.mean) / deviation for f in features]

    def converted(self, view: Tensor) -> Tensor:
        """A view as the teacher was trained on: its normalisation, and its size (antialiased bilinear)."""
        view = view * self.scale[:, None, None] + self.shift[:, None, None]
        if self.size is None or view.shape[-2:] == (self.size, self.size):
            return view
        return F.interpolate(view, size=(self.size, self.size), mode="bilinear", antialias=True)

    def _follow(self, features: Tensor) -> None:
        """Take a batch into mean and variance: those of the mixture of old and new, so that no digits cancel."""
        centre = self.group.mean(features.mean(0))
        spread = self.group.mean((features - centre).square().mean(0))
        new = 1 - self.rho * (self.count > 0).to(self.mean.dtype)  # on the device: no wait for `count`
        gap = centre - self.mean
        self.variance.copy_((1 - new) * (self.variance + new * gap.square()) + new * spread)
        self.mean.add_(new * gap)
        self.count += 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the encoder as well; statistics never fall below float32."""
        self.encoder._apply(fn, recurse)  # type: ignore[no-untyped-call]
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, before[name].to(buffer.device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        known = state_dict.get(f"{prefix}digest")
        if known is not None and not torch.equal(known.cpu(), self.digest.cpu()):
            raise TeacherError(
                "the teacher is not the one that this run was started with: its weights or its description have "
                "changed; put the old files back, or start a new run"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def load_teacher(row: Method, channels: int, group: Group | None = None) -> Teacher | None:
    """The teacher of a row whose target it is, else None. Nothing is drawn from torch's generator.

    Raises:
        TeacherError: no path, nothing there, a run that is not complete, a damaged encoder, or other channels.
    """
    if row.target != "teacher":
        return None
    if not row.teacher:
        raise TeacherError("target 'teacher' needs a trained encoder: give --teacher, a run directory or encoder file")
    path = Path(row.teacher)
    if not path.exists():
        raise TeacherError(f"no teacher at {row.teacher!r} (--teacher: a run directory or encoder file)")
    if (path / "recipe.toml").is_file() and not (path / "encoder.json").is_file():
        raise TeacherError(
            f"the teacher {row.teacher} has no encoder yet: the run is not complete; continue it with "
            f"'siamscope resume {row.teacher}'"
        )
    try:
        encoder, meta = networks.load_encoder(path)
    except NetworkError as error:
        raise TeacherError(f"the teacher cannot be read: {error}") from error
    if meta["in_channels"] != channels:
        raise TeacherError(
            f"the teacher {row.teacher} takes images of {meta['in_channels']} channels, these have {channels}; "
            f"set --data.channels {meta['in_channels']}"
        )
    return Teacher(encoder, encoder.feature_dim, meta, row.rho, group)


def as_taught(row: Method, teacher: Teacher | None, feature_dim: int) -> Method:
    """The row with the width that its teacher gives the projector's output.

    Raises:
        TeacherError: the row has a teacher and none is given, or no projector and features of another width.
    """
    if row.target != "teacher":
        return row
    if teacher is None:
        raise TeacherError(f"method {row.name!r}: target 'teacher' needs one (siamscope.training.teacher.load_teacher)")
    if not row.projector.layers:
        if feature_dim != teacher.width:
            raise TeacherError(
                f"the student has {feature_dim} features and no projector, the teacher {teacher.width} features; "
                "give the student a projector (--method.projector.layers 1 or more)"
            )
        return row
    return replace(row, projector=replace(projector_of(row), out=teacher.width), projector_scale=1.0)


def _digest(encoder: nn.Module, meta: Mapping[str, Any]) -> bytes:
    """SHA-256 of the weights and of what is done to images before them."""
    found = hashlib.sha256(json.dumps([meta.get("normalisation"), meta.get("input_size")]).encode())
    module = encoder.encoder() if isinstance(encoder, Backbone) else encoder
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.digest()
