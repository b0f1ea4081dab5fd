"""`siamscope methods`: the table, generated from the rows; also as Markdown for the docs."""

from __future__ import annotations

import dataclasses
from typing import Any

from siamscope import methods, recipe
from siamscope.row import Head, Method, projector_of, reads_of_objective, reads_of_predictor

_NEUTRAL = {"bank": 0, "whiten_group": 0, "shift": 0.0, "every": 1, "partitions": 1}


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
            "views": views_of(name),
        }
        if verbose:
            line |= _sizes(name)
        out.append(line | {"defaults": ", ".join(defaults(row)), "paper": row.paper})
    return out


def views_of(name: str) -> str:
    """The views of a method's shipped recipes: the policy, and the multi-crop of the published one."""
    small = recipe.for_method(name).views.policy
    published = recipe.load(f"{name}-224").views if f"{name}-224" in recipe.shipped() else None
    if published and published.local_crops:
        return f"{small}; 224 px: 2 + {published.local_crops} crops"
    return small


def defaults(row: Method) -> list[str]:
    """The parameters that the row's cells read, as texts."""
    out = [_text(name, getattr(row, name)) for name in reads_of_objective(row)]
    if row.target == "momentum":
        out.append(f"momentum {row.momentum:g} to {row.momentum_end:g}")
    options = row.predictor_options
    out += [_text(f"predictor {name}", getattr(options, name)) for name in reads_of_predictor(row)]
    projector = projector_of(row)
    out.append(f"projector {_head(projector)}")
    if row.predictor == "mlp":
        out.append(f"predictor {_head(dataclasses.replace(row.predictor_head, out=projector.out))}")
    if row.regulariser != "none":
        out.append(f"regulariser {row.regulariser}, weight {row.regulariser_weight:g}")
    return [text for text in out if text]


def _text(name: str, value: Any) -> str:
    """`name value`; a switch only by its name, and only when it is on; nothing for a value that changes nothing."""
    if isinstance(value, bool):
        return name.replace("_", " ") if value else ""
    if _NEUTRAL.get(name.removeprefix("predictor ")) == value:
        return ""
    return f"{name.replace('_', ' ')} {value:g}" if isinstance(value, int | float) else f"{name} {value}"


def _head(head: Head) -> str:
    return "-".join([str(head.hidden)] * (head.layers - 1) + [str(head.out)])


def markdown() -> str:
    """The table for docs/methods.md."""
    lines = ["| method | normalise | target | predictor | objective | views | defaults | paper |", "|" + "---|" * 8]
    for row in rows():
        cells = [f"`{row['method']}`", *(str(row[k]) for k in list(row)[1:])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


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
