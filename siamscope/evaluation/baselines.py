"""The baseline that needs no encoder: the pixels themselves."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from siamscope.evaluation.errors import Array, EvaluationError

_CHUNK = 4096  # images converted at once


def raw_pixels(images: Array, *, max_features: int | None = None) -> Tensor:
    """Images as features: values in [0, 1], minus each image's own mean over all channels and pixels, flattened.

    The cosine of two such rows is the correlation of the two images. Of the common centrings this is the strongest
    that is fitted to nothing (k-NN, k = 20, on CIFAR-10, 10,000 + 2,000 images: 41 % against 32 % uncentred; 28-px
    Fashion-MNIST 82 % against 81 %), and a baseline ought to be strong. A constant image gives a zero row.

    Args:
        images: (N, C, H, W) uint8, array or tensor.
        max_features: shrink the images (mean over areas, sides in proportion) until C * h * w is at most this; a linear
            probe on 3,072 raw dimensions costs much and gains little over 768. Default: as they are.

    Returns:
        (N, C * h * w) float32 on the CPU.

    Raises:
        EvaluationError: another type or shape, or max_features < C.
    """
    x = torch.as_tensor(images)
    if x.dtype != torch.uint8 or x.ndim != 4 or x.numel() == 0:
        raise EvaluationError(f"images are {x.dtype} of shape {tuple(x.shape)}; expected non-empty uint8 (N, C, H, W).")
    n, channels, height, width = x.shape
    size = _size_within(channels, height, width, max_features)
    out = torch.empty(n, channels * size[0] * size[1], dtype=torch.float32)
    for start in range(0, n, _CHUNK):
        part = x[start : start + _CHUNK].cpu().float() / 255
        if size != (height, width):
            part = adaptive_avg_pool2d(part, size)
        out[start : start + len(part)] = (part - part.mean((1, 2, 3), keepdim=True)).flatten(1)
    return out


def _size_within(channels: int, height: int, width: int, limit: int | None) -> tuple[int, int]:
    """The largest (h, w), in about the proportion of (height, width), with channels * h * w <= limit."""
    if limit is None or channels * height * width <= limit:
        return height, width
    if limit < channels:
        raise EvaluationError(f"max_features={limit} is less than one pixel of {channels} channels.")
    short, long = min(height, width), max(height, width)
    area = limit // channels
    small = max(1, min(short, int((area * short / long) ** 0.5)))
    large = min(long, area // small, max(1, round(small * long / short)))
    return (small, large) if height <= width else (large, small)
