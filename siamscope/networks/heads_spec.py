"""Projector and predictor heads as data. Torch-free: the table of methods imports this file.

A head is a tuple of `LayerSpec`, read from the input to the output; `siamscope.networks.mlp` builds it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from siamscope.networks.errors import NetworkError

Norm = Literal["none", "batch", "batch-no-affine", "layer"]
Activation = Literal["none", "relu", "gelu"]


@dataclass(frozen=True)
class LayerSpec:
    """One layer: linear map to `out` dimensions (`bias` or not), then normalisation, then activation.

    Norm ``batch`` learns scale and shift, ``batch-no-affine`` neither (SimSiam's last projector layer).
    """

    out: int
    bias: bool
    norm: Norm
    activation: Activation

    def __post_init__(self) -> None:
        if isinstance(self.out, bool) or not isinstance(self.out, int) or self.out < 1:
            raise NetworkError(f"LayerSpec.out must be a whole number of at least 1, got {self.out!r}")
        for field, value, valid in (
            ("norm", self.norm, get_args(Norm)),
            ("activation", self.activation, get_args(Activation)),
        ):
            if value not in valid:
                raise NetworkError(f"LayerSpec.{field} must be one of {', '.join(valid)}; got {value!r}")
