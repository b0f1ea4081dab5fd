"""The usual loop, written out: siamscope's network, loss and optimiser in float32, each view through Pillow alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from throughput import pillow_view
from torch import Tensor

from peers_ import of_siamscope


class Side(of_siamscope.Side):
    """The tasks; see `peers_.worker`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings | {"plain": True})

    def start(self, epochs: float = 200) -> dict[str, Any]:
        super().start(epochs)
        rng, specs = np.random.default_rng(0), self.trainer.specs

        def one_by_one(images: Tensor, _: torch.Generator) -> list[Tensor]:
            pillow = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.cpu()]
            return [torch.stack([pillow_view(i, spec, rng) for i in pillow]).to(images.device) for spec in specs]

        self.trainer.make_views = one_by_one  # type: ignore[method-assign]
        return {}
