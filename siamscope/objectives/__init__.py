"""Losses on plain tensors, each with the closed form of its gradient.

>>> import torch
>>> from siamscope.objectives import Contrastive
>>> z = torch.nn.functional.normalize(torch.randn(2, 8, 4), dim=-1)
>>> loss = Contrastive(temperature=0.5)([z[0], z[1]], [z[0], z[1]])
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from siamscope.objectives.asymmetric import Asymmetric
from siamscope.objectives.base import Group, Objective, ObjectiveError
from siamscope.objectives.contrastive import Contrastive
from siamscope.objectives.terms import GradientTerms

OBJECTIVES: dict[str, type[Objective]] = {"asymmetric": Asymmetric, "contrastive": Contrastive}


def create(name: str, cells: Mapping[str, Any], group: Group | None = None) -> Objective:
    """The objective of that name, with those of `cells` (a method's row as a mapping) that it takes.

    Raises:
        ObjectiveError: unknown name, or a value that the objective refuses.
    """
    if name not in OBJECTIVES:
        raise ObjectiveError(f"unknown objective {name!r} (known: {', '.join(OBJECTIVES)})")
    kind = OBJECTIVES[name]
    takes = inspect.signature(kind).parameters
    available = {**cells, "group": group}
    return kind(**{key: available[key] for key in takes if key in available})


__all__ = [
    "OBJECTIVES",
    "Asymmetric",
    "Contrastive",
    "GradientTerms",
    "Group",
    "Objective",
    "ObjectiveError",
    "create",
]
