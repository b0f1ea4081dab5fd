"""Crop, flip and resize as one interpolation, and Gaussian blur: both separable, both as two batched matrix products.

Along one axis a bilinear resampling is a (size x pixels) matrix A, so a crop of an image X is A_y X A_x^T. The matrices
differ per sample and the products do not: one `bmm` per axis does a whole batch, on any device, and the flip is only
the rows of A_x in reverse. The matrices are Pillow's and torchvision's antialiased bilinear: a triangle of half-width
one source pixel when enlarging and one output pixel when reducing, cut at the border and scaled to sum to one.
Unlike Pillow nothing is rounded to whole levels, neither between the axes nor at the end.

On a GPU with TF32 enabled for matrix products the result is exact to about a tenth of a grey level.
"""

import torch
from torch import Tensor


def axis_weights(
    start: Tensor,
    length: Tensor,
    reverse: Tensor | None,
    size: int,
    pixels: int,
    *,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> Tensor:
    """Resampling matrices (B, size, pixels) of the interval [start, start + length) of an axis with `pixels` pixels.

    `start`, `length`: (B,), in pixels, fractions allowed. `reverse`: (B,) bool, output mirrored. `low`, `high`: (B,),
    the edges within which pixels may be read; by default those of the interval itself, so that nothing outside a crop
    shows (crop, then resize: torchvision). Pillow's `resize(box=...)` reads beyond the box: low = 0, high = pixels.
    Rows sum to 1.
    """
    low = start if low is None else low
    high = start + length if high is None else high
    at = torch.arange(size, device=start.device, dtype=torch.float32).add_(0.5)
    position = at.expand(start.shape[0], size)
    if reverse is not None:
        position = torch.where(reverse[:, None], size - at, at)
    step = length / size
    centre = torch.addcmul(start[:, None], position, step[:, None])
    narrow = step.clamp_min(1.0).reciprocal_()
    pixel = torch.arange(pixels, device=start.device, dtype=torch.float32).add_(0.5)
    inside = (pixel >= low[:, None]) & (pixel <= high[:, None])
    weights = pixel.sub(centre[:, :, None]).mul_(narrow[:, None, None]).abs_().neg_().add_(1.0).clamp_min_(0.0)
    weights.mul_(inside.to(torch.float32)[:, None, :])
    return weights.div_(weights.sum(2, keepdim=True))


def apply_axes(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns^T for each sample and channel.

    `images` (B, C, H, W) of any dtype, `rows` (B, S, H) and `columns` (B, T, W) float32; returns (B, C, S, T) float32.
    """
    b, c, h, w = images.shape
    flat = images.to(torch.float32).reshape(b, c * h, w)
    across = torch.bmm(flat, columns.transpose(1, 2)).view(b, c, h, columns.shape[1])
    return torch.matmul(rows.unsqueeze(1), across)


def blur_weights(sigma: Tensor, size: int, kernel: int) -> Tensor:
    """Gaussian smoothing matrices (B, size, size); the border is mirrored without repeating its pixel ('reflect').

    `sigma` (B,) > 0 in pixels; `kernel` taps, odd, at most 2 * size - 1. The taps are the normal density at whole
    distances, scaled to sum to 1: torchvision's gaussian_blur.
    """
    half = kernel // 2
    distance = torch.arange(half + 1, device=sigma.device, dtype=torch.float32)
    taps = torch.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    taps = taps / (2 * taps.sum(1, keepdim=True) - taps[:, :1])
    taps = torch.nn.functional.pad(taps, (0, 1))  # the last entry, 0, serves every distance beyond the kernel
    i = torch.arange(size, device=sigma.device)
    source, target = i[None, :], i[:, None]
    direct = (target - source).abs()
    before = torch.where(source >= 1, target + source, half + 1)
    after = torch.where(source <= size - 2, 2 * (size - 1) - target - source, half + 1)
    return sum((taps[:, d.clamp(max=half + 1)] for d in (before, after)), start=taps[:, direct.clamp(max=half + 1)])


def blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur each image (B, C, S, S) with its own sigma (B,), in pixels; a new float32 tensor."""
    weights = blur_weights(sigma, images.shape[-1], kernel)
    return apply_axes(images, weights, weights)
