"""Networks: backbones by name or from any module, heads declared as data, their cost, synchronised batch norm, export.

Names load on first use (PEP 562), so that the torch-free files `heads_spec` and `catalogue` stay torch-free to import.

>>> from siamscope import networks
>>> backbone = networks.create("resnet18", stem="cifar")  # doctest: +SKIP
>>> head = networks.mlp(backbone.feature_dim, [networks.LayerSpec(128, True, "none", "none")])  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamscope.networks.backbone import Backbone as Backbone
    from siamscope.networks.backbone import BackboneSpec as BackboneSpec
    from siamscope.networks.backbone import wrap as wrap
    from siamscope.networks.build import create as create
    from siamscope.networks.catalogue import STEMS as STEMS
    from siamscope.networks.catalogue import list_backbones as list_backbones
    from siamscope.networks.counting import Counts as Counts
    from siamscope.networks.counting import count as count
    from siamscope.networks.errors import NetworkError as NetworkError
    from siamscope.networks.export import load_encoder as load_encoder
    from siamscope.networks.export import save_encoder as save_encoder
    from siamscope.networks.heads import mlp as mlp
    from siamscope.networks.heads_spec import LayerSpec as LayerSpec
    from siamscope.networks.sync_bn import SyncBatchNorm as SyncBatchNorm
    from siamscope.networks.sync_bn import convert_sync_batchnorm as convert_sync_batchnorm

_HOME = {
    "Backbone": "backbone",
    "BackboneSpec": "backbone",
    "wrap": "backbone",
    "create": "build",
    "STEMS": "catalogue",
    "list_backbones": "catalogue",
    "Counts": "counting",
    "count": "counting",
    "NetworkError": "errors",
    "load_encoder": "export",
    "save_encoder": "export",
    "mlp": "heads",
    "LayerSpec": "heads_spec",
    "SyncBatchNorm": "sync_bn",
    "convert_sync_batchnorm": "sync_bn",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
