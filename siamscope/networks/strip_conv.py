"""3x3 convolutions whose output rows are short, on a CPU: images side by side in one long strip.

oneDNN's kernels walk along a row of the output and fill a vector or matrix unit with its pixels; of AMX's 16 places a
row of 4 pixels leaves 12 empty. With all images of the batch side by side, as many zero columns between them as the
stride (two images share their padding), rows are long: the same sums over the same pixels. Layers of 512 channels on
4x4 maps take a third of the time, forward and backward (benchmarks/throughput.py, `conv`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHORT = 4
"""Output rows of so many pixels always gain; up to twice as many only with `MANY` channels or more and a stride."""
MANY = 128


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution without bias and with padding 1; (B, cin, H, W) -> (B, cout, ceil(H / stride), ...).

    It is nn.Conv2d but for training on a CPU in bfloat16 with channels-last images, where short rows go through
    `in_a_strip` (in float32 the strip gains nothing).
    """

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__(cin, cout, 3, stride=stride, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        step = self.stride[0]
        if self.training and gains(input, step):
            return in_a_strip(input, self.weight, step)
        return super().forward(input)


def gains(images: Tensor, stride: int) -> bool:
    """Whether a strip is faster: several bfloat16 channels-last images on a CPU, the width a multiple of the stride."""
    n, channels, _, width = images.shape
    row = width // stride
    short = row <= SHORT or (row <= 2 * SHORT and stride > 1 and channels >= MANY)
    return (
        images.device.type == "cpu"
        and images.dtype == torch.bfloat16
        and n > 1
        and width % stride == 0
        and short
        and channels > 1
        and images.is_contiguous(memory_format=torch.channels_last)
    )


def in_a_strip(images: Tensor, weight: Tensor, stride: int) -> Tensor:
    """conv2d(images, weight, stride=stride, padding=1) of channels-last images; their width is a multiple of `stride`.

    `images` (n, cin, h, w), `weight` (cout, cin, 3, 3); returns (n, cout, h', w / stride), channels last.
    """
    n, channels, height, width = images.shape
    slot = width + stride  # zeros after each image: the right padding of one is the left padding of the next
    row = F.pad(images.permute(2, 0, 3, 1), (0, 0, 0, stride)).view(1, height, n * slot, channels)
    out = F.conv2d(row.permute(0, 3, 1, 2), weight, stride=stride, padding=1).permute(0, 2, 3, 1)
    parts = out.reshape(out.shape[1], n, slot // stride, out.shape[3])[:, :, : width // stride]
    return parts.permute(1, 3, 0, 2).contiguous(memory_format=torch.channels_last)
