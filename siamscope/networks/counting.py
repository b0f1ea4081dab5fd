"""Size and cost of a network: parameters and multiply-accumulates."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from siamscope.networks.backbone import eval_mode


@dataclass(frozen=True)
class Counts:
    """Parameters (each shared one once) and multiply-accumulates of the forward pass of one sample."""

    parameters: int
    macs: int


def count(module: nn.Module, input_shape: tuple[int, ...]) -> Counts:
    """Parameters and MACs for one sample of `input_shape`: (C, H, W) for a backbone, (d,) for a head.

    Counts convolutions and linear layers, without their biases, as published figures do; normalisation, activation,
    pooling and products written as plain functions (the attention matrices of a vision transformer) are not in it. The
    dry run is in eval mode without gradient: modes, buffers and generators are as before.
    """
    macs = 0

    def hook(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        macs += _layer_macs(layer, _inputs[0], output)

    counted = [m for m in module.modules() if isinstance(m, _ConvNd | nn.Linear)]
    handles = [m.register_forward_hook(hook) for m in counted]
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        with eval_mode(module), torch.no_grad():
            module(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
    finally:
        for handle in handles:
            handle.remove()
    return Counts(sum(p.numel() for p in module.parameters()), macs)


def _layer_macs(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return y.numel() * layer.in_features
    if isinstance(layer, _ConvTransposeNd):
        return x.numel() * layer.out_channels // layer.groups * math.prod(layer.kernel_size)
    if isinstance(layer, _ConvNd):
        return y.numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    raise TypeError(type(layer).__name__)
