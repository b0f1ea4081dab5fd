"""Random views of a uint8 batch, on its own device, drawn per sample from one generator.

`policies` (ViewSpec, get_policy, list_policies) and `multicrop` (multi_crop) need no torch, and importing this package
does not load it: the other names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from siamscope.views.errors import ViewError
from siamscope.views.multicrop import default_local_size, multi_crop
from siamscope.views.policies import POLICIES, Policy, ViewSpec, get_policy, list_policies

if TYPE_CHECKING:
    from siamscope.views.apply import apply_view
    from siamscope.views.batch import eval_view, make_views, skip_views
    from siamscope.views.cutmix import Mix, apply_mix, draw_mix, partners
    from siamscope.views.params import ORDERS, ViewParams, neutral_params, sample_params

_LAZY = {
    "apply_view": "apply",
    "eval_view": "batch",
    "make_views": "batch",
    "skip_views": "batch",
    "Mix": "cutmix",
    "apply_mix": "cutmix",
    "draw_mix": "cutmix",
    "partners": "cutmix",
    "ORDERS": "params",
    "ViewParams": "params",
    "neutral_params": "params",
    "sample_params": "params",
}

__all__ = [
    "ORDERS",
    "POLICIES",
    "Mix",
    "Policy",
    "ViewError",
    "ViewParams",
    "ViewSpec",
    "apply_mix",
    "apply_view",
    "default_local_size",
    "draw_mix",
    "eval_view",
    "get_policy",
    "list_policies",
    "make_views",
    "multi_crop",
    "neutral_params",
    "partners",
    "sample_params",
    "skip_views",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"siamscope.views.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'siamscope.views' has no attribute {name!r}")
