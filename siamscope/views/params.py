"""What happens to each sample of a batch: random draws as tensors, separate from the pixels they will act on."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from siamscope.views.errors import ViewError
from siamscope.views.policies import ViewSpec

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def _plain_changes(items: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """All permutations, each from the one before by swapping two neighbours (the last item wanders to and fro)."""
    if len(items) < 2:
        return (items,)
    *rest, last = items
    orders = []
    for i, order in enumerate(_plain_changes(tuple(rest))):
        places = range(len(rest), -1, -1) if i % 2 == 0 else range(len(rest) + 1)
        orders += [(*order[:k], last, *order[k:]) for k in places]
    return tuple(orders)


ORDERS = _plain_changes((HUE, SATURATION, CONTRAST, BRIGHTNESS))
"""The 24 orders of the colour operations; `ViewParams.order` indexes it. Neighbours differ by one swap, and hue moves
least: samples sorted by order then need few calls, above all of the dearest operation."""

TRIES = 10  # torchvision's number of attempts at a crop before it takes the centre
_DRAWS = 2 * TRIES + 13  # uniform numbers a sample consumes, whatever the distribution


@dataclass(frozen=True)
class ViewParams:
    """The draws of one view of B samples; every tensor has shape (B,).

    The crop box is in pixels of the source image; factors of an operation that is off are not read.
    """

    x0: Tensor
    """Left edge of the crop, float32."""
    y0: Tensor
    """Top edge of the crop, float32."""
    h: Tensor
    """Height of the crop, float32."""
    w: Tensor
    """Width of the crop, float32."""
    flip: Tensor
    """Mirror left and right, bool."""
    jitter: Tensor
    """Whether the four colour operations happen, bool."""
    brightness: Tensor
    """Factor, 1 = unchanged, float32."""
    contrast: Tensor
    """Factor, 1 = unchanged, float32."""
    saturation: Tensor
    """Factor, 1 = unchanged, float32."""
    hue: Tensor
    """Shift in turns, from -0.5 to 0.5, float32."""
    order: Tensor
    """Order of the colour operations: index from 0 to 23 into ORDERS, int64."""
    grey: Tensor
    """Remove the colours, bool."""
    blur_sigma: Tensor
    """Standard deviation of the blur in output pixels, 0 = no blur, float32."""
    solarise: Tensor
    """Invert the values at or above the threshold, bool."""

    def __len__(self) -> int:
        return int(self.x0.shape[0])

    def __getitem__(self, rows: slice | Tensor) -> "ViewParams":
        """The draws of some samples: a slice, or an index tensor."""
        return ViewParams(*(getattr(self, f.name)[rows] for f in fields(self)))

    def slice(self, start: int, stop: int) -> "ViewParams":
        """The draws of samples `start` to `stop - 1`."""
        return self[start:stop]

    def to(self, device: torch.device | str) -> "ViewParams":
        """The same draws on a device; only the way to the CPU waits for the copy."""
        later = torch.device(device).type != "cpu"
        return ViewParams(*(getattr(self, f.name).to(device, non_blocking=later) for f in fields(self)))


def sample_params(
    spec: ViewSpec,
    n: int,
    height: int,
    width: int,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> ViewParams:
    """Draw one view of each of `n` samples, images being `height` x `width` px.

    Every sample consumes the same count of uniform numbers from the generator, whatever `spec` says: changing one
    probability leaves all other draws of the same seed as they were. A distributed caller draws for the global batch
    with the same seed everywhere and takes its rows: `sample_params(...).slice(a, b)`.

    The crop is torchvision's RandomResizedCrop: area uniform, ratio log-uniform, sides rounded, the first of ten tries
    that fits, otherwise the largest centred crop within the ratio limits.

    Draws on the generator's device. Keep that on the CPU, even for images on a GPU: the selection of rows is then
    known to the host, and making the views never waits for the GPU. `device` moves the result.
    Raises ViewError if `n` < 1 or the images are less than 2 px in either direction.
    """
    if n < 1:
        raise ViewError(f"sample_params: n is {n}; at least one sample is needed")
    if height < 2 or width < 2:
        raise ViewError(f"images of {height} x {width} px cannot be cropped; both sides must be at least 2 px")
    u = torch.rand(n, _DRAWS, dtype=torch.float64, generator=generator, device=generator.device)
    x0, y0, h, w = _crop(spec, u[:, : 2 * TRIES + 2], height, width)
    flip, jitter, b, c, s, hue, order, grey, blur, sigma, solarise = u[:, 2 * TRIES + 2 :].unbind(1)
    params = ViewParams(
        x0=x0.float(),
        y0=y0.float(),
        h=h.float(),
        w=w.float(),
        flip=flip < spec.flip_prob,
        jitter=jitter < spec.jitter_prob,
        brightness=_factor(b, spec.jitter[BRIGHTNESS]),
        contrast=_factor(c, spec.jitter[CONTRAST]),
        saturation=_factor(s, spec.jitter[SATURATION]),
        hue=((2 * hue - 1) * spec.jitter[HUE]).float(),
        order=(order * len(ORDERS)).long().clamp_(max=len(ORDERS) - 1),
        grey=grey < spec.grey_prob,
        blur_sigma=(_between(sigma, *spec.blur_sigma) * (blur < spec.blur_prob)).float(),
        solarise=solarise < spec.solarise_prob,
    )
    return params if device is None else params.to(device)


def neutral_params(n: int, height: int, width: int, device: torch.device | str = "cpu") -> ViewParams:
    """Draws that take the whole image and change nothing; `dataclasses.replace` sets what is wanted."""

    def full(value: float) -> Tensor:
        return torch.full((n,), float(value), device=device)

    def off() -> Tensor:
        return torch.zeros(n, dtype=torch.bool, device=device)

    return ViewParams(
        x0=full(0),
        y0=full(0),
        h=full(height),
        w=full(width),
        flip=off(),
        jitter=off(),
        brightness=full(1),
        contrast=full(1),
        saturation=full(1),
        hue=full(0),
        order=torch.zeros(n, dtype=torch.int64, device=device),
        grey=off(),
        blur_sigma=full(0),
        solarise=off(),
    )


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _factor(u: Tensor, strength: float) -> Tensor:
    return _between(u, max(0.0, 1.0 - strength), 1.0 + strength).float()


def _crop(spec: ViewSpec, u: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x0, y0, h, w in whole pixels from uniform numbers (n, 22); all ten tries at once, in float64."""
    area = height * width * _between(u[:, :TRIES], *spec.crop_scale)
    ratio = torch.exp(_between(u[:, TRIES : 2 * TRIES], *map(math.log, spec.crop_ratio)))
    w = torch.round(torch.sqrt(area * ratio))
    h = torch.round(torch.sqrt(area / ratio))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)  # argmax gives the first of equals
    found = fits.any(1)
    fallback_h, fallback_w = _centre(spec, height, width)
    h = torch.where(found, h.gather(1, first)[:, 0], fallback_h)
    w = torch.where(found, w.gather(1, first)[:, 0], fallback_w)
    # The clamp only guards against u * k rounding up to k.
    y0 = torch.where(found, torch.floor(u[:, -2] * (height - h + 1)).minimum(height - h), (height - fallback_h) // 2)
    x0 = torch.where(found, torch.floor(u[:, -1] * (width - w + 1)).minimum(width - w), (width - fallback_w) // 2)
    return x0, y0, h, w


def _centre(spec: ViewSpec, height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest centred crop whose ratio is within the limits (at least one pixel)."""
    low, high = spec.crop_ratio
    if width / height < low:
        return max(1, round(width / low)), width
    if width / height > high:
        return height, max(1, round(height * high))
    return height, width
