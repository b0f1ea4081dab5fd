"""Every method's gradient laid open: its terms, the methods side by side, and training from a gradient directly.

>>> import torch
>>> from siamscope.gradients import Composed, surrogate
>>> from siamscope.objectives import Asymmetric, Contrastive
>>> z = torch.nn.functional.normalize(torch.randn(2, 8, 4), dim=-1).requires_grad_()
>>> surrogate(Composed(Asymmetric(), Contrastive(0.2)), [*z], [*z.detach()]).backward()
"""

from __future__ import annotations

from siamscope.gradients.approximations import APPROXIMATIONS, measure
from siamscope.gradients.compare import Comparison, Geometry, compare, cosine_matrix, geometry, terms_of
from siamscope.gradients.composed import Composed
from siamscope.gradients.escape import escape_rate, escape_table
from siamscope.gradients.surrogate import surrogate

__all__ = [
    "APPROXIMATIONS",
    "Comparison",
    "Composed",
    "Geometry",
    "compare",
    "cosine_matrix",
    "escape_rate",
    "escape_table",
    "geometry",
    "measure",
    "surrogate",
    "terms_of",
]
