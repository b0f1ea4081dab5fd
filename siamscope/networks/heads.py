"""Heads from their description: `mlp` turns a tuple of `LayerSpec` into modules."""

from collections.abc import Sequence

from torch import nn

from siamscope.networks.errors import NetworkError
from siamscope.networks.heads_spec import LayerSpec


def mlp(in_dim: int, layers: Sequence[LayerSpec]) -> nn.Sequential:
    """(B, in_dim) -> (B, layers[-1].out); with no layers the identity.

    Linear layers keep torch's default initialisation, as the authors' code of SimSiam and Barlow Twins does.
    """
    if in_dim < 1:
        raise NetworkError(f"the input dimension of a head must be at least 1, got {in_dim}")
    modules: list[nn.Module] = []
    for layer in layers:
        modules.append(nn.Linear(in_dim, layer.out, bias=layer.bias))
        modules.extend(_norm(layer))
        modules.extend(_activation(layer))
        in_dim = layer.out
    return nn.Sequential(*modules)


def _norm(layer: LayerSpec) -> list[nn.Module]:
    match layer.norm:
        case "none":
            return []
        case "batch":
            return [nn.BatchNorm1d(layer.out)]
        case "batch-no-affine":
            return [nn.BatchNorm1d(layer.out, affine=False)]
        case "layer":
            return [nn.LayerNorm(layer.out)]


def _activation(layer: LayerSpec) -> list[nn.Module]:
    match layer.activation:
        case "none":
            return []
        case "relu":
            return [nn.ReLU(inplace=True)]
        case "gelu":
            return [nn.GELU()]
