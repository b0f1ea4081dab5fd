"""Random draws put into effect: from a uint8 batch and ViewParams to a float batch.

The order of operations is the papers': crop and flip, jitter, grey, blur, solarise, normalise. Colour operations
(jitter and grey) apply to RGB only: with any other count of channels they are left out, all of them.

Work goes through the batch in chunks that bound the memory. In `exact` the samples are first sorted by the order of
their colour operations, so that samples with the same next operation are neighbours. What selects rows is read from
the draws on the CPU: with draws there and images on a GPU, the host need not wait for it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from siamscope.views import colour as colours
from siamscope.views.errors import ViewError
from siamscope.views.params import ORDERS, ViewParams
from siamscope.views.policies import ViewSpec
from siamscope.views.resample import Taps, bilinear_taps, blur, resample

Colour = Literal["exact", "fast"]
Statistics = Sequence[float] | Tensor | float | None

_CHUNK_CPU = 2**20  # values a thread works on at once, 4 MiB of float32: the calls are dear, the cache is not
_CHUNK_GPU = 2**26
_LEVEL = 1 / 255


def apply_view(
    images: Tensor,
    params: ViewParams,
    spec: ViewSpec,
    *,
    colour: Colour = "exact",
    mean: Statistics = None,
    std: Statistics = None,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """Make one view of each image.

    `images` (B, C, H, W) uint8; `params` B draws, best on the CPU (from a GPU they are copied back, which waits);
    `mean`, `std`: one number or C numbers on the scale from 0 to 1 (None: 0 and 1).
    Of `spec` only the size, the blur's kernel and the solarisation threshold are read: what is done is in `params`.
    Returns (B, C, size, size) `dtype` on the images' device; before normalisation values lie in [0, 1].
    `colour`: "exact" (torchvision's arithmetic) or "fast" (one matrix a sample); see siamscope.views.colour.
    `out`: written to and returned if given, in its own dtype. Using it again each step saves the first touch of fresh
    memory, which can take as long as the rest of `fast`.

    Runs without gradients and without autocast. Raises ViewError for images of another dtype or shape, or with a side
    of 1 px; for draws of another count or with a crop beyond the image; for a wrong `mean`, `std`, `colour` or `out`.
    """
    check_images(images)
    host = params.to("cpu")
    _check_params(host, images)
    if colour not in ("exact", "fast"):
        raise ViewError(f"colour is {colour!r}; it must be 'exact' or 'fast'")
    n, channels = images.shape[:2]
    shape = (n, channels, spec.size, spec.size)
    if out is None:
        out = torch.empty(shape, dtype=dtype, device=images.device)
    elif tuple(out.shape) != shape or not out.is_floating_point() or out.device != images.device:
        raise ViewError(f"out is {_describe(out)}; it must be a float tensor of shape {shape} on {images.device}")
    scale, offset = normalisation(mean, std, channels, images.device)
    jitter = channels == 3 and colour == "exact" and bool(host.jitter.any())
    rows = _sorted_rows(host) if jitter else None
    if rows is not None:
        host = host[rows]
        params, rows = (
            (host if params.x0.is_cpu else params[rows.to(params.x0.device)]),
            rows.to(images.device, non_blocking=True),
        )
    params = host if images.is_cpu else params.to(images.device)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        drawn = _drawn(images, params, host, spec, colour)
        for start, stop in _chunks(images, spec.size):
            part = images[start:stop] if rows is None else images.index_select(0, rows[start:stop])
            view = _view(part, drawn[start:stop], spec, colour)
            if rows is None and out.dtype == view.dtype:
                torch.addcmul(offset, view, scale, out=out[start:stop])
            elif rows is None:
                out[start:stop] = torch.addcmul(offset, view, scale)
            else:
                out.index_copy_(0, rows[start:stop], torch.addcmul(offset, view, scale).to(out.dtype))
    return out


@dataclass(frozen=True)
class _Drawn:
    """The draws of some images: on their device, on the CPU, and as what crop and `fast` colour need."""

    params: ViewParams
    host: ViewParams
    rows: Taps
    columns: Taps
    matrix: Tensor | None
    offset: Tensor | None

    def __getitem__(self, part: slice) -> "_Drawn":
        rows, columns = (Taps(taps.source[part], taps.weight[part]) for taps in (self.rows, self.columns))
        matrix, offset = (None if x is None else x[part] for x in (self.matrix, self.offset))
        host = self.host[part]
        return _Drawn(host if self.params is self.host else self.params[part], host, rows, columns, matrix, offset)


def _drawn(images: Tensor, params: ViewParams, host: ViewParams, spec: ViewSpec, colour: Colour) -> _Drawn:
    """All that is computed from the draws alone, for the whole batch: many small calls, of the same price for any B."""
    channels, height, width = images.shape[1:]
    rows = bilinear_taps(params.y0, params.h, None, spec.size, height, float(host.h.max()))
    columns = bilinear_taps(params.x0, params.w, params.flip, spec.size, width, float(host.w.max()))
    columns.weight.mul_(_LEVEL)
    if channels != 3 or colour != "fast":
        return _Drawn(params, host, rows, columns, None, None)
    matrix, offset = (x.to(images.device, non_blocking=True) for x in colours.fused_matrix(host))
    return _Drawn(params, host, rows, columns, matrix, offset)


def _view(images: Tensor, drawn: _Drawn, spec: ViewSpec, colour: Colour) -> Tensor:
    """The view of a few images before normalisation."""
    params, host, channels = drawn.params, drawn.host, images.shape[1]
    view = resample(images, drawn.rows, drawn.columns)
    if drawn.matrix is not None and drawn.offset is not None:
        view = colours.fused(view, drawn.matrix, drawn.offset)
    else:
        view.clamp_(0.0, 1.0)  # the weights sum to 1 but for rounding
    if channels == 3 and colour == "exact":
        colours.jitter_(view, params, torch.where(host.jitter, host.order, -1).tolist(), _active(host))
        _change(view, host.grey, colours.grey)
    if spec.blur_kernel > 1:
        _change(view, host.blur_sigma > 0, blur, params.blur_sigma, spec.blur_kernel)
    _change(view, host.solarise, solarise, spec.solarise_threshold)
    return view


def _change(view: Tensor, mask: Tensor, operation: Callable[..., Tensor], *args: Tensor | float) -> None:
    """Apply an operation to the images that a CPU mask selects, in place; tensors in `args` hold an entry an image."""
    chosen = mask.nonzero()[:, 0]
    if not len(chosen):
        return
    rows = chosen.to(view.device, non_blocking=True)
    own = (a.index_select(0, rows) if isinstance(a, Tensor) else a for a in args)
    view.index_copy_(0, rows, operation(view.index_select(0, rows), *own))


def solarise(images: Tensor, threshold: float) -> Tensor:
    """1 - x where x >= threshold, within a ten-thousandth of a grey level, so that a pixel of 128 counts as 128/255."""
    return torch.where(images >= threshold - 1e-4 * _LEVEL, 1.0 - images, images)


def normalisation(mean: Statistics, std: Statistics, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and offset (1, C, 1, 1) with (x - mean) / std = x * scale + offset."""
    centre, spread = _statistic("mean", mean, 0.0, channels), _statistic("std", std, 1.0, channels)
    if not bool((spread > 0).all()):
        raise ViewError(f"std is {spread.tolist()}; it must be above 0")
    scale, offset = 1 / spread, -centre / spread
    both = torch.stack((scale.expand(channels), offset.expand(channels))).float().to(device, non_blocking=True)
    return both[0].view(1, -1, 1, 1), both[1].view(1, -1, 1, 1)


def check_images(images: Tensor) -> None:
    """Raise ViewError unless `images` is a (B, C, H, W) uint8 tensor with B, C >= 1 and H, W >= 2."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        raise ViewError(f"images are {_describe(images)}; they must be a uint8 tensor (batch, channels, height, width)")
    n, channels, height, width = images.shape
    if n < 1 or channels < 1:
        raise ViewError(f"images are {_describe(images)}; at least one image and one channel are needed")
    if height < 2 or width < 2:
        raise ViewError(f"images of {height} x {width} px cannot be cropped; both sides must be at least 2 px")


def _check_params(params: ViewParams, images: Tensor) -> None:
    n, _, height, width = images.shape
    if len(params) != n:
        raise ViewError(f"{len(params)} draws for {n} images; take the rows of this batch: params.slice(start, stop)")
    small = (params.w < 1) | (params.h < 1)
    beyond = (params.x0 < 0) | (params.y0 < 0) | (params.x0 + params.w > width) | (params.y0 + params.h > height)
    if bool((small | beyond).any()):
        i = int((small | beyond).nonzero()[0])
        box = ", ".join(f"{k} {float(getattr(params, k)[i]):g}" for k in ("x0", "y0", "w", "h"))
        raise ViewError(
            f"the crop of sample {i} ({box}) does not lie within its image of {width} x {height} px; "
            "draw the parameters for the size of these images"
        )
    if bool(((params.order < 0) | (params.order >= len(ORDERS))).any()):
        raise ViewError(f"an order of colour operations is outside 0..{len(ORDERS) - 1}")


def _active(host: ViewParams) -> list[bool]:
    """Which of brightness, contrast, saturation and hue change anything in these samples."""
    neutral = ((host.brightness, 1.0), (host.contrast, 1.0), (host.saturation, 1.0), (host.hue, 0.0))
    return [bool((host.jitter & (factor != nothing)).any()) for factor, nothing in neutral]


def _sorted_rows(params: ViewParams) -> Tensor:
    """Samples sorted by the order of their colour operations, those without any last."""
    return torch.argsort(torch.where(params.jitter, params.order, len(ORDERS)), stable=True)


def _chunks(images: Tensor, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of equal parts of the batch, none with more values than the device works on at once."""
    n, channels, height, width = images.shape
    values = channels * max(height, size) * max(width, size)
    budget = _CHUNK_CPU * torch.get_num_threads() if images.is_cpu else _CHUNK_GPU
    parts = -(-n // max(1, budget // values))
    for i in range(parts):
        yield n * i // parts, n * (i + 1) // parts


def _statistic(name: str, value: Statistics, default: float, channels: int) -> Tensor:
    given = torch.as_tensor(default if value is None else value, dtype=torch.float64).flatten().cpu()
    if len(given) not in (1, channels) or not bool(given.isfinite().all()):
        raise ViewError(f"{name} is {given.tolist()}; it must be one finite number or {channels} of them")
    return given


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)} on {value.device}"
    return f"a {type(value).__name__}"
