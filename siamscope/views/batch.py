"""The two calls that the rest of the system makes: random views for training, one fixed view for evaluation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from siamscope.views.apply import Colour, Statistics, apply_view, check_images, normalisation
from siamscope.views.errors import ViewError
from siamscope.views.params import sample_params
from siamscope.views.policies import ViewSpec
from siamscope.views.resample import Taps, bilinear_taps, resample


def make_views(
    images: Tensor,
    specs: Sequence[ViewSpec],
    generator: torch.Generator,
    *,
    colour: Colour = "exact",
    mean: Statistics = None,
    std: Statistics = None,
    rows: slice | None = None,
    global_batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    out: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """One random view of each image for each spec: `images` (B, C, H, W) uint8 to a list of (B, C, size, size) floats.

    All draws come from `generator` (best a CPU generator, see sample_params), spec by spec. In distributed training
    give every rank the same generator state, `global_batch` samples over all ranks, and the rank's own `rows` of them:
    the views are then the rows of those that one process would make. Specs may differ in size (multi-crop). `out`: a
    tensor for each view. See apply_view for the rest.
    Raises ViewError if `rows` does not select B of `global_batch` samples, or for what apply_view refuses.
    """
    check_images(images)
    n, _, height, width = images.shape
    total = n if global_batch is None else global_batch
    start, stop, stride = (rows or slice(None)).indices(max(total, 0))
    if stride != 1 or stop - start != n:
        raise ViewError(
            f"rows {rows} of a global batch of {total} are not {n} consecutive samples, but there are {n} images; "
            "give the rows that these images have in the global batch"
        )
    targets = [None] * len(specs) if out is None else list(out)
    if len(targets) != len(specs):
        raise ViewError(f"out has {len(targets)} tensors for {len(specs)} views; give one for each view")
    views = []
    for spec, target in zip(specs, targets, strict=True):
        params = sample_params(spec, total, height, width, generator).slice(start, stop)
        views.append(apply_view(images, params, spec, colour=colour, mean=mean, std=std, dtype=dtype, out=target))
    return views


def skip_views(n: int, shape: Sequence[int], specs: Sequence[ViewSpec], generator: torch.Generator) -> None:
    """Take from `generator` what `make_views` takes for n images of `shape` (..., H, W): the next batch is then the
    same on a process that makes none of these views."""
    for spec in specs:
        sample_params(spec, n, shape[-2], shape[-1], generator)


def eval_view(
    images: Tensor,
    size: int,
    mean: Statistics = None,
    std: Statistics = None,
    *,
    crop_fraction: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The view for evaluation: the centred square, resized (antialiased bilinear) to (B, C, size, size) and normalised.

    `crop_fraction`: side of the square as a fraction of the shorter side (224/256 is ImageNet's usual one). It is one
    interpolation of the exactly centred square; torchvision's Resize and CenterCrop round in between and may be half a
    pixel off.
    Images of `size` x `size` are only normalised. Raises ViewError as apply_view does.
    """
    check_images(images)
    if size < 1 or not 0 < crop_fraction <= 1:
        raise ViewError(
            f"eval_view: size is {size}, crop_fraction {crop_fraction}; they must be >= 1 and within (0, 1]"
        )
    n, channels, height, width = images.shape
    scale, offset = normalisation(mean, std, channels, images.device)
    side = crop_fraction * min(height, width)
    out = torch.empty((n, channels, size, size), dtype=dtype, device=images.device)
    same = height == width == size and crop_fraction == 1.0
    rows, columns = (_centred(pixels, side, size, images.device) for pixels in (height, width))
    step = max(1, 2**22 // (channels * max(height, size) * max(width, size)))  # bounds the memory of large batches
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        for part, target in zip(torch.split(images, step), torch.split(out, step), strict=True):
            m = len(part)
            floats = part.float() if same else resample(part, _repeat(rows, m), _repeat(columns, m))
            target.copy_(torch.addcmul(offset, floats, scale / 255))
    return out


def _centred(pixels: int, side: float, size: int, device: torch.device) -> Taps:
    def one(value: float) -> Tensor:
        return torch.full((1,), value, device=device)

    return bilinear_taps(one((pixels - side) / 2), one(side), None, size, pixels, side, low=one(0), high=one(pixels))


def _repeat(taps: Taps, n: int) -> Taps:
    return Taps(taps.source.expand(n, -1, -1), taps.weight.expand(n, -1, -1))
