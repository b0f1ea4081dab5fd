"""Models of timm with the weights and the preprocessing that it publishes for them."""

from __future__ import annotations

from dataclasses import dataclass

from siamscope.networks.backbone import Adapter, Backbone, BackboneSpec, dry_run
from siamscope.networks.catalogue import TIMM_PREFIX, import_timm, suggestion
from siamscope.networks.errors import NetworkError


@dataclass(frozen=True)
class Pretrained:
    """A backbone in eval mode, and what its images must be like: side in pixels, mean and std in units of [0, 1]."""

    backbone: Backbone
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def pretrained(name: str) -> Pretrained:
    """The model ``timm:NAME`` (a tag may follow, as in timm:resnet50.a1_in1k) with timm's weights; pooled features.

    timm looks for the weights in its cache and fetches them if they are not there.

    Raises:
        NetworkError: timm is missing, does not know the model, has no weights for it or cannot fetch them.
    """
    timm = import_timm()
    short = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(short):
        near = suggestion(short, timm.list_models(pretrained=True)).partition(" Valid:")[0]
        raise NetworkError(f"timm has no model {short!r}{near}")
    config = timm.get_pretrained_cfg(short)
    if config is None or not config.has_weights:
        raise NetworkError(f"timm has no weights for {short!r}; diagnose a model that is trained")
    try:
        module = timm.create_model(short, pretrained=True, num_classes=0)
    except Exception as error:  # by whatever way the weights did not come
        raise NetworkError(f"timm cannot load the weights of {short!r}: {error}") from error
    channels, side = int(config.input_size[0]), int(config.input_size[-1])
    width = dry_run(module, (channels, side, side), batch=1).shape[1]
    backbone = Adapter(module, width, BackboneSpec(name, channels, input_size=side))
    return Pretrained(backbone.eval(), side, tuple(map(float, config.mean)), tuple(map(float, config.std)))
