"""1x1 convolutions of few channels with a stride: what oneDNN gets wrong, done by picking the pixels first.

With torch 2.13 on a CPU the backward pass of a 1x1 convolution with stride 2 on float32 channels-last images of 2 to 9
channels and 56 or more pixels a side writes outside its buffers: the process dies by SIGSEGV, or its heap is spoilt.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 16
"""Fewer channels than these are not given to oneDNN with a stride; the failure was seen with up to 9."""


class Conv1x1(nn.Conv2d):
    """A 1x1 convolution without bias; (B, cin, H, W) -> (B, cout, ceil(H / stride), ceil(W / stride)).

    It is nn.Conv2d, but picks every `stride`-th pixel itself where images on a CPU have few channels, channels last.
    """

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__(cin, cout, 1, stride=stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        step = self.stride[0]
        if step > 1 and unsafe(input):
            return F.conv2d(input[..., ::step, ::step], self.weight)
        return super().forward(input)


def unsafe(images: Tensor) -> bool:
    """Whether the images (B, C, H, W) are of the kind with which oneDNN's strided 1x1 convolution fails."""
    few = images.shape[1] < FEW
    return few and images.device.type == "cpu" and images.is_contiguous(memory_format=torch.channels_last)
