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


Layers = tuple[LayerSpec, ...]


def projector(
    hidden: int,
    out: int,
    depth: int,
    *,
    norm: Norm = "batch",
    activation: Activation = "relu",
    hidden_bias: bool | None = None,
    last_norm: Norm = "none",
    last_bias: bool | None = None,
) -> Layers:
    """A head of `depth` layers: ``depth - 1`` hidden ones of `hidden` dimensions, then a linear one to `out`.

    A bias of None means: only where no batch norm follows, for batch norm subtracts it again.
    """
    if depth < 1:
        raise NetworkError(f"a head needs at least one layer, got depth={depth}; for no head at all use an empty tuple")
    inner = LayerSpec(hidden, _bias(hidden_bias, norm), norm, activation)
    return (*[inner] * (depth - 1), LayerSpec(out, _bias(last_bias, last_norm), last_norm, "none"))


def predictor(
    hidden: int,
    out: int,
    *,
    norm: Norm = "batch",
    activation: Activation = "relu",
    hidden_bias: bool | None = None,
    last_bias: bool = True,
) -> Layers:
    """A predictor of two layers; `out` must equal the projector's output. The defaults are SimSiam's."""
    return projector(hidden, out, 2, norm=norm, activation=activation, hidden_bias=hidden_bias, last_bias=last_bias)


def linear_predictor(dim: int, *, bias: bool = False) -> Layers:
    """One square matrix, as DirectPred studies and sets it (Tian et al. 2021, section 3)."""
    return (LayerSpec(dim, bias, "none", "none"),)


def _bias(chosen: bool | None, norm: Norm) -> bool:
    return not norm.startswith("batch") if chosen is None else chosen


# The heads of the papers at their ImageNet sizes, checked against the authors' code.
SIMSIAM_PROJECTOR: Layers = projector(2048, 2048, 3, last_norm="batch-no-affine")
SIMSIAM_PREDICTOR: Layers = predictor(512, 2048)
BYOL_PROJECTOR: Layers = projector(4096, 256, 2, hidden_bias=True, last_bias=False)
BYOL_PREDICTOR: Layers = predictor(4096, 256, hidden_bias=True, last_bias=False)
SIMCLR_PROJECTOR: Layers = projector(2048, 128, 2, last_norm="batch")
"""SimCLR's last batch norm learns a scale but no shift; ours learns both (128 parameters more)."""
BARLOW_TWINS_PROJECTOR: Layers = projector(8192, 8192, 3, last_bias=False)
"""The loss itself normalises each dimension over the batch."""
