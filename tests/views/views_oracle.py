"""Slow references from the published definitions, one image at a time. Images are (H, W, C) in [0, 1]."""

import colorsys

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from siamscope.views import ORDERS, ViewParams, ViewSpec

Array = NDArray[np.float64]
LUMA = np.array((0.2989, 0.587, 0.114))


def pictures(n: int, height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """uint8 (n, C, H, W): smooth colour fields with edges and some noise, spread over the whole range."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    out = np.empty((n, channels, height, width))
    for image in out:
        edge = (np.cos(rng.uniform(0, 6)) * (x - 0.5) + np.sin(rng.uniform(0, 6)) * (y - 0.5)) > rng.normal(0, 0.2)
        for plane in image:
            a, b, c = rng.normal(0, 1, 3)
            wave = np.sin(2 * np.pi * (a * x + b * y) * 1.5 + 3 * c)
            plane[:] = rng.uniform(60, 190) + 50 * wave + rng.normal(0, 60) * edge + rng.normal(0, 8, plane.shape)
    return torch.from_numpy(np.clip(np.round(out), 0, 255).astype(np.uint8))


def channels_last(image: torch.Tensor) -> Array:
    return image.double().numpy().transpose(1, 2, 0)


def pil_resize(image: Array, size: tuple[int, int], box: tuple[float, float, float, float]) -> Array:
    """Pillow's antialiased bilinear on float planes, unrounded. `size` (w, h), `box` (left, top, right, bottom)."""
    planes = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(image.shape[2])]
    return np.stack([np.asarray(p.resize(size, Image.Resampling.BILINEAR, box=box)) for p in planes], 2).astype(float)


def crop_resize(image: Array, x0: int, y0: int, h: int, w: int, size: int) -> Array:
    """Crop first, then resize: nothing outside the crop is seen (torchvision's resized_crop)."""
    return pil_resize(image[y0 : y0 + h, x0 : x0 + w], (size, size), (0, 0, w, h))


def blend(a: Array, b: Array | float, factor: float) -> Array:
    return np.clip(factor * a + (1 - factor) * b, 0, 1)


def grey(x: Array) -> Array:
    return np.repeat((x @ LUMA)[..., None], 3, 2)


def brightness(x: Array, f: float) -> Array:
    return blend(x, 0.0, f)


def contrast(x: Array, f: float) -> Array:
    return blend(x, float((x @ LUMA).mean()), f)


def saturation(x: Array, f: float) -> Array:
    return blend(x, grey(x), f)


def hue(x: Array, shift: float) -> Array:
    out = np.empty_like(x)
    for i in np.ndindex(x.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*x[i])
        out[i] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    return out


OPERATIONS = (brightness, contrast, saturation, hue)  # in the numbering of ViewParams.order


def jitter(x: Array, factors: tuple[float, ...], order: int) -> Array:
    for operation in ORDERS[order]:
        x = OPERATIONS[operation](x, factors[operation])
    return x


def blur(x: Array, sigma: float, kernel: int) -> Array:
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="mirror", radius=(kernel // 2, kernel // 2, 0))


def view_before_solarisation(image: torch.Tensor, params: ViewParams, i: int, spec: ViewSpec) -> Array:
    p = {name: getattr(params, name)[i].item() for name in params.__dataclass_fields__}
    x = crop_resize(channels_last(image), *(int(p[k]) for k in ("x0", "y0", "h", "w")), spec.size) / 255
    x = x[:, ::-1] if p["flip"] else x
    if x.shape[2] == 3:
        if p["jitter"]:
            x = jitter(x, (p["brightness"], p["contrast"], p["saturation"], p["hue"]), p["order"])
        x = grey(x) if p["grey"] else x
    return blur(x, p["blur_sigma"], spec.blur_kernel) if p["blur_sigma"] > 0 else x
