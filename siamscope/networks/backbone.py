"""What a backbone is: (B, C, H, W) in, pooled features (B, feature_dim) out; and the adapter for any other module."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siamscope.networks.errors import NetworkError


@dataclass(frozen=True)
class BackboneSpec:
    """How to build a backbone again: arguments of `siamscope.networks.create`. Name ``custom``: a wrapped module."""

    name: str
    in_channels: int | None
    width: float = 1.0
    stem: str | None = None
    input_size: int | None = None
    features: int = 0


class Backbone(nn.Module):
    """A module from (B, C, H, W) to (B, feature_dim); `spec` says how it was built."""

    feature_dim: int
    spec: BackboneSpec

    def encoder(self) -> nn.Module:
        """The module whose state-dict keys an exported file carries."""
        return self


class Adapter(Backbone):
    """Any module as a backbone: feature maps (B, d, h, w) are average-pooled, vectors (B, d) pass.

    Its weights are exported under the wrapped module's own names.
    """

    def __init__(self, module: nn.Module, feature_dim: int, spec: BackboneSpec) -> None:
        super().__init__()
        if feature_dim < 1:
            raise NetworkError(f"feature_dim must be at least 1, got {feature_dim}")
        self.module = module
        self.feature_dim = feature_dim
        self.spec = spec

    def encoder(self) -> nn.Module:
        return self.module

    def forward(self, x: Tensor) -> Tensor:
        features = pooled(self.module(x), self.module, x.shape[0])
        if features.shape[1] != self.feature_dim:
            raise NetworkError(
                f"{_title(self.module)} gave {features.shape[1]} features a sample, but feature_dim={self.feature_dim} "
                "was declared; wrap it with the right feature_dim or with input_shape alone"
            )
        return features


def wrap(
    module: nn.Module,
    feature_dim: int | None = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
) -> Backbone:
    """Make a backbone of any module that maps (B, C, H, W) to (B, d) or (B, d, h, w).

    Args:
        module: taken as it is, not copied.
        feature_dim: d; None infers it from a dry run (two black images, eval mode, no gradient, nothing changed by it).
        input_shape: (C, H, W) of one image; needed for the dry run, and a check of `feature_dim` if both are given.

    Raises:
        NetworkError: neither is given, the output has another form, or d differs from `feature_dim`.
    """
    if input_shape is None:
        if feature_dim is None:
            raise NetworkError("wrap needs feature_dim, or input_shape=(C, H, W) to find it by a dry run")
        return Adapter(module, feature_dim, BackboneSpec("custom", None))
    found = dry_run(module, input_shape).shape[1]
    if feature_dim is not None and feature_dim != found:
        raise NetworkError(f"{_title(module)} gives {found} features a sample, not feature_dim={feature_dim}")
    channels, height, width = input_shape
    return Adapter(module, found, BackboneSpec("custom", channels, input_size=height if height == width else None))


def pooled(output: object, module: nn.Module, batch: int) -> Tensor:
    """(B, d) features of a module's output, or a NetworkError that describes an output of another form."""
    if not isinstance(output, Tensor):
        raise NetworkError(
            f"{_title(module)} returned a {type(output).__name__}, not a tensor; "
            "wrap a module whose forward picks the features"
        )
    if output.shape[:1] == (batch,):
        if output.ndim == 2:
            return output
        if output.ndim == 4:
            return output.mean(dim=(2, 3))
    raise NetworkError(
        f"{_title(module)} returned a tensor of shape {tuple(output.shape)} for {batch} images; "
        "a backbone returns (B, d) or (B, d, h, w); wrap a module that pools its output to one of these"
    )


def dry_run(module: nn.Module, input_shape: tuple[int, int, int], batch: int = 2) -> Tensor:
    """Features of `batch` black images: (batch, d). Runs in eval mode without gradient and changes nothing."""
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise NetworkError(f"input_shape must be (channels, height, width), each at least 1; got {tuple(input_shape)}")
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    x = torch.zeros(batch, *input_shape, dtype=like.dtype, device=like.device)
    with eval_mode(module), torch.no_grad():
        try:
            output = module(x)
        except RuntimeError as error:
            raise NetworkError(f"{_title(module)} cannot take images of shape {tuple(input_shape)}: {error}") from error
    return pooled(output, module, batch)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside, each submodule's own mode again afterwards (also after an error)."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def _title(module: nn.Module) -> str:
    return f"the wrapped {type(module).__name__}"
