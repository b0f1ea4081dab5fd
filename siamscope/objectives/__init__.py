"""Losses on plain tensors, each with the closed form of its gradient.

>>> import torch
>>> from siamscope.objectives import Contrastive
>>> z = torch.nn.functional.normalize(torch.randn(2, 8, 4), dim=-1)
>>> loss = Contrastive(temperature=0.5)([z[0], z[1]], [z[0], z[1]])
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from siamscope.objectives.base import Group, Objective, ObjectiveError
from siamscope.objectives.terms import GradientTerms, radial, tangent

OBJECTIVES = (
    "asymmetric", "contrastive", "spectral", "decorrelation", "covariance", "prototypes", "whitening", "centroids",
    "slices",
)  # fmt: skip
"""Names of the objectives: class `Spectral` of module `spectral`, and so on."""


def __getattr__(name: str) -> Any:
    if name.lower() in OBJECTIVES and name[:1].isupper():
        return getattr(importlib.import_module(f"siamscope.objectives.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def create(name: str, cells: Mapping[str, Any], width: int, group: Group | None = None) -> Objective:
    """The objective of that name for embeddings of `width` dimensions, with those of `cells` that it takes.

    `cells`: a method's row as a mapping. Raises:
        ObjectiveError: unknown name, or a value that the objective refuses.
    """
    if name not in OBJECTIVES:
        raise ObjectiveError(f"unknown objective {name!r} (known: {', '.join(OBJECTIVES)})")
    module = importlib.import_module(f"siamscope.objectives.{name}")
    kind: type[Objective] = getattr(module, name.capitalize())
    available = {**cells, "width": width, "group": group}
    return kind(**{key: available[key] for key in inspect.signature(kind).parameters if key in available})


__all__ = ["OBJECTIVES", "GradientTerms", "Group", "Objective", "ObjectiveError", "create", "radial", "tangent"]
