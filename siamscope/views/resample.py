"""Crop, flip and resize as one interpolation, and Gaussian blur: both separable, both as weighted sums of a few rows.

Along one axis every output pixel is a weighted sum of a few source pixels, its taps; they differ per sample. For a crop
they are those of Pillow's and torchvision's antialiased bilinear: a triangle of half-width one source pixel when
enlarging and one output pixel when reducing, cut at the border and scaled to sum to one. The flip is their reverse.
Unlike Pillow nothing is rounded to whole levels, neither between the axes nor at the end.

`embedding_bag`, made for weighted sums of table rows, does the sums of a whole batch in one call: on the CPU in 1/5
(32 px) to 1/30 (224 px) of the time that dense batched matrix products take for both axes. Columns are the rows of the
transposed image; of small images they are done by a matrix product all the same, since transposing takes longer.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

DENSE = 96
"""Columns of images up to this width are mixed by matrix products: at 32 px all of `resample` takes half the time."""


class Taps(NamedTuple):
    """What the S output pixels of an axis are made of: pixel `source` and its `weight`, (B, S, K)."""

    source: Tensor
    weight: Tensor


def bilinear_taps(
    start: Tensor,
    length: Tensor,
    reverse: Tensor | None,
    size: int,
    pixels: int,
    longest: float,
    *,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> Taps:
    """Taps that resample the interval [start, start + length) of an axis of `pixels` pixels to `size` pixels.

    `start`, `length`: (B,), in pixels, fractions allowed; `longest`: at least every length, known without asking the
    device. `reverse`: (B,) bool, output mirrored. `low`, `high`: (B,), the edges within which pixels may be read; by
    default those of the interval itself, so that nothing outside a crop shows (crop, then resize: torchvision).
    Pillow's `resize(box=...)` reads beyond the box: low = 0, high = pixels.
    """
    low = start if low is None else low
    high = start + length if high is None else high
    at = torch.arange(size, device=start.device, dtype=torch.float32).add_(0.5)
    position = at.expand(start.shape[0], size)
    if reverse is not None:
        position = torch.where(reverse[:, None], size - at, at)
    step = length / size
    reach = step.clamp_min(1.0)[:, None, None]
    centre = torch.addcmul(start[:, None], position, step[:, None])[:, :, None]
    count = math.ceil(2 * max(1.0, longest / size))
    index = torch.floor(centre - reach + 0.5) + torch.arange(count, device=start.device)
    weight = ((index + 0.5 - centre) / reach).abs_().neg_().add_(1.0).clamp_min_(0.0)
    weight.mul_((index >= low[:, None, None] - 0.5) & (index <= high[:, None, None] - 0.5))
    weight.div_(weight.sum(2, keepdim=True))
    return Taps(index.clamp_(0, pixels - 1).long(), weight)


def gaussian_taps(sigma: Tensor, size: int, kernel: int) -> Taps:
    """Taps of a Gaussian smoothing; the border is mirrored without repeating its pixel ('reflect').

    `sigma` (B,) > 0 in pixels; `kernel` taps, odd, at most 2 * size - 1. The weights are the normal density at whole
    distances, scaled to sum to 1: torchvision's gaussian_blur.
    """
    offset = torch.arange(kernel, device=sigma.device) - kernel // 2
    weight = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    weight = weight / weight.sum(1, keepdim=True)
    index = (torch.arange(size, device=sigma.device)[:, None] + offset).abs()
    index = (size - 1) - ((size - 1) - index).abs()
    shape = (len(sigma), size, kernel)
    return Taps(index.expand(shape), weight[:, None].expand(shape))


def resample(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Images (B, C, H, W) of any dtype to (B, C, S, T) float32, S and T being the sizes that the taps make."""
    mixed = _mix_rows(images.to(torch.float32), rows)
    if images.shape[3] <= DENSE:
        return _mix_columns(mixed, columns)
    return _mix_rows(mixed.transpose(2, 3), columns).transpose(2, 3).contiguous()


def blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur each image (B, C, S, S) with its own sigma (B,), in pixels; a new float32 tensor."""
    taps = gaussian_taps(sigma, images.shape[-1], kernel)
    return resample(images, taps, taps)


def _mix_rows(images: Tensor, taps: Taps) -> Tensor:
    """(B, C, H, W) to (B, C, S, W): each row the weighted sum of K rows."""
    b, c, h, w = images.shape
    _, s, k = taps.source.shape
    first = torch.arange(0, b * c * h, h, device=images.device, dtype=torch.int32).view(b, c, 1, 1)
    index = (taps.source.int()[:, None] + first).view(b * c * s, k)
    weight = taps.weight[:, None].expand(b, c, s, k).reshape(b * c * s, k)
    table = images.reshape(b * c * h, w)
    return embedding_bag(index, table, per_sample_weights=weight, mode="sum").view(b, c, s, w)


def _mix_columns(images: Tensor, taps: Taps) -> Tensor:
    """(B, C, S, W) to (B, C, S, T): a product with the taps as a matrix (W, T) of each image, most of it zeros."""
    b, c, s, w = images.shape
    matrix = taps.weight.new_zeros(b, w, taps.source.shape[1])
    matrix.scatter_add_(1, taps.source.transpose(1, 2), taps.weight.transpose(1, 2))
    return torch.bmm(images.view(b, c * s, w), matrix).view(b, c, s, -1)
