"""`siamscope methods`: the table, generated from the rows."""

from __future__ import annotations

from typing import Any

from siamscope import methods, recipe


def rows(pattern: str = "*", verbose: bool = False) -> list[dict[str, Any]]:
    """One dictionary a method; with `verbose` also the size of its network in its shipped recipe."""
    out = []
    for name in methods.list_methods(pattern):
        row = methods.get(name)
        line: dict[str, Any] = {
            "method": name,
            "normalise": row.normalise,
            "target": row.target,
            "predictor": row.predictor,
            "objective": row.objective,
            "views": recipe.for_method(name).views.policy,
        }
        if verbose:
            line |= _sizes(name)
        out.append(line | {"paper": row.paper})
    return out


def _sizes(name: str) -> dict[str, str]:
    """Parameters and multiply-accumulates of backbone and heads, for one view of the shipped recipe."""
    from siamscope import networks
    from siamscope.training.build import build_model, view_size

    config = recipe.for_method(name)
    model = build_model(config, config.data.channels or 3)
    size = view_size(config)
    backbone = networks.count(model.online.backbone, (3, size, size))
    branch = networks.count(model.online, (3, size, size))
    predictor = sum(p.numel() for p in model.predictor.parameters())
    return {
        "backbone": f"{config.network.backbone}: {backbone.parameters / 1e6:.2f} M, {backbone.macs / 1e6:.1f} MMAC",
        "heads": f"{(branch.parameters - backbone.parameters + predictor) / 1e6:.2f} M",
    }
