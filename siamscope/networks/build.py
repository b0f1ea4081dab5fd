"""`create`: a backbone from its name."""

from typing import Any

from siamscope.networks.backbone import Adapter, Backbone, BackboneSpec, dry_run
from siamscope.networks.catalogue import (
    FLAT,
    TIMM_PREFIX,
    Stem,
    check_stem,
    import_timm,
    lookup,
    suggestion,
)
from siamscope.networks.errors import NetworkError
from siamscope.networks.flat import Flat
from siamscope.networks.resnet import ResNet


def create(
    name: str,
    *,
    in_channels: int = 3,
    width: float | None = None,
    stem: Stem | str = "cifar",
    zero_init_residual: bool = True,
    input_size: int | None = None,
    features: int = 0,
) -> Backbone:
    """An untrained backbone, initialised from torch's global generator (so `torch.manual_seed` reproduces it).

    Args:
        name: one of `list_backbones()`, or ``timm:NAME`` (needs the extra ``timm``). Stem and zero-init apply to the
            ResNets only.
        in_channels: channels of the images, any number.
        width: multiplies every channel count (None is 1), rounded by `catalogue.scale_channels` (`linear` and `mlp`: to
            whole numbers); feature_dim follows.
        stem: ``cifar`` for small images, ``imagenet`` for large ones, ``cifar-pad2`` for some published tables.
        zero_init_residual: each residual block starts as its shortcut.
        input_size: side of the square images in pixels. The ResNets take any size and only remember it (for export);
            `linear`, `mlp` and timm's models with a fixed size are built for it.
        features: feature_dim, whatever the width; 0 = as the backbone. A ResNet gets a 1x1 convolution, batch norm and
            ReLU to so many channels before its pooling, so that spectra of unlike widths have one dimension; `linear`
            and `mlp` change their last layer.

    Raises:
        NetworkError: unknown name or stem (with the nearest valid one), width not positive, no channels, timm missing,
            no input_size where it is needed, or a number of features that is negative or that timm's models lack.
    """
    if in_channels < 1:
        raise NetworkError(f"in_channels must be at least 1, got {in_channels}")
    if input_size is not None and input_size < 1:
        raise NetworkError(f"input_size must be at least 1 pixel, got {input_size}")
    if features < 0:
        raise NetworkError(f"features must be at least 1, or 0 for the backbone's own; got {features}")
    if name.startswith(TIMM_PREFIX):
        if width not in (None, 1):
            raise NetworkError(f"{name} has no width multiplier; leave width out, or name a wider timm model")
        if features:
            raise NetworkError(f"{name} has the features it has; leave features out, or wrap the module with a head")
        return _create_timm(name, in_channels, input_size)
    scale = 1.0 if width is None else float(width)
    if name in FLAT:
        return Flat(BackboneSpec(name, in_channels, scale, None, input_size, features))
    check_stem(stem)
    spec = BackboneSpec(name, in_channels, scale, stem, input_size, features)
    return ResNet(lookup(name), spec, zero_init_residual=zero_init_residual)


def _create_timm(name: str, in_channels: int, input_size: int | None) -> Backbone:
    timm = import_timm()
    short = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(short):
        raise NetworkError(f"timm has no model {short!r}{_nearest_timm(timm, short)}")
    config = timm.get_pretrained_cfg(short)
    sized: dict[str, Any] = {}
    if input_size is not None and config is not None and config.fixed_input_size:
        sized["img_size"] = input_size
    module = timm.create_model(short, pretrained=False, num_classes=0, in_chans=in_channels, **sized)
    side = input_size or (config.input_size[-1] if config is not None else 224)
    feature_dim = dry_run(module, (in_channels, side, side), batch=1).shape[1]
    return Adapter(module, feature_dim, BackboneSpec(name, in_channels, input_size=input_size))


def _nearest_timm(timm: Any, short: str) -> str:
    # The full list has over a thousand names: name the nearest only.
    return suggestion(short, timm.list_models()).partition(" Valid:")[0] + " see networks.list_backbones('timm:*')"
