"""Every method's gradient laid open: its terms, the methods side by side, and training from a gradient directly.

>>> import torch
>>> from siamscope.gradients import Composed, surrogate
>>> from siamscope.objectives import Asymmetric, Contrastive
>>> z = torch.nn.functional.normalize(torch.randn(2, 8, 4), dim=-1).requires_grad_()
>>> surrogate(Composed(Asymmetric(), Contrastive(0.2)), [*z], [*z.detach()]).backward()
"""

from __future__ import annotations

from siamscope.gradients.composed import Composed
from siamscope.gradients.surrogate import surrogate

__all__ = ["Composed", "surrogate"]
