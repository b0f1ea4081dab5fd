"""Crops and blurs against Pillow, SciPy and closed forms."""

import dataclasses

import numpy as np
import pytest
import torch
import views_oracle as oracle
from PIL import Image

from siamscope.views import ViewSpec, apply_view, eval_view, neutral_params
from siamscope.views.resample import Taps, bilinear_taps, blur, gaussian_taps

PLAIN = ViewSpec(size=32)


def dense(taps: Taps, pixels: int) -> torch.Tensor:
    """The matrix (size, pixels) of the first sample."""
    return torch.zeros(taps.source.shape[1], pixels).scatter_add_(1, taps.source[0], taps.weight[0])


def crop(images: torch.Tensor, boxes: list[tuple[int, int, int, int]], size: int, flip: bool = False) -> torch.Tensor:
    """(B, H, W, C) levels 0..255 of the crops x0, y0, h, w."""
    n, _, height, width = images.shape
    x0, y0, h, w = torch.tensor(boxes, dtype=torch.float32).unbind(1)
    params = dataclasses.replace(neutral_params(n, height, width), x0=x0, y0=y0, h=h, w=w, flip=torch.full((n,), flip))
    return apply_view(images, params, dataclasses.replace(PLAIN, size=size)).permute(0, 2, 3, 1) * 255


BOXES = {
    "up": (32, 32, 32, [(0, 0, 32, 32), (3, 5, 9, 12), (20, 0, 32, 12), (31, 31, 1, 1), (7, 8, 2, 24)]),
    "down": (
        160,
        200,
        32,
        [(0, 0, 160, 200), (11, 13, 95, 101), (100, 50, 110, 40), (167, 127, 33, 33), (0, 3, 32, 64)],
    ),
    "mixed": (40, 90, 48, [(0, 0, 40, 90), (5, 6, 30, 80), (42, 0, 40, 48), (60, 20, 20, 30), (1, 1, 38, 60)]),
}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("case", BOXES)
def test_crop_equals_pillow(case: str, flip: bool) -> None:
    height, width, size, boxes = BOXES[case]
    images = oracle.pictures(len(boxes), height, width)
    ours = crop(images, boxes, size, flip).numpy()
    for image, box, got in zip(images, boxes, ours, strict=True):
        x0, y0, h, w = box
        float_reference = oracle.crop_resize(oracle.channels_last(image), *box, size)
        pil = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((x0, y0, x0 + w, y0 + h))
        byte_reference = np.asarray(pil.resize((size, size), Image.Resampling.BILINEAR)).astype(float)
        if flip:
            float_reference, byte_reference = float_reference[:, ::-1], byte_reference[:, ::-1]
        assert np.abs(got - float_reference).max() < 2e-3
        assert np.abs(got - byte_reference).max() <= 1.01  # Pillow rounds twice


def test_control_without_antialiasing_the_reduction_differs() -> None:
    """torch's bilinear without antialias, as a grid sampler does it, is far off when reducing."""
    images = oracle.pictures(1, 160, 160)
    ours = crop(images, [(0, 0, 160, 160)], 32).permute(0, 3, 1, 2)
    kwargs = {"size": (32, 32), "mode": "bilinear", "align_corners": False}
    smooth, sparse = (torch.nn.functional.interpolate(images.float(), antialias=a, **kwargs) for a in (True, False))
    assert (ours - smooth).abs().max() < 2e-3
    assert (ours - sparse).abs().max() > 5


def test_control_pixels_outside_the_crop_are_not_seen() -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 8:24, 8:24] = 200
    assert (crop(images, [(8, 8, 16, 16)], 32) - 200).abs().max() < 1e-3
    assert crop(images, [(7, 8, 16, 16)], 32)[0, :, 0].max() < 1e-3


def test_whole_image_at_its_own_size_is_unchanged_and_a_flip_is_a_mirror() -> None:
    images = oracle.pictures(3, 32, 32)
    whole = [(0, 0, 32, 32)] * 3
    assert torch.equal(crop(images, whole, 32).round().byte(), images.permute(0, 2, 3, 1))
    assert torch.equal(crop(images, whole, 32, flip=True), crop(images, whole, 32).flip(2))


@pytest.mark.parametrize(
    ("start", "length", "size", "pixels"), [(3.0, 5.0, 8, 20), (0.25, 13.5, 4, 15), (2.0, 1.0, 6, 4)]
)
def test_weights_sum_to_one_and_keep_linear_ramps(start: float, length: float, size: int, pixels: int) -> None:
    weights = dense(bilinear_taps(torch.tensor([start]), torch.tensor([length]), None, size, pixels, length), pixels)
    assert (weights >= 0).all() and torch.allclose(weights.sum(1), torch.ones(size))
    positions = weights @ (torch.arange(pixels) + 0.5)
    exact = start + (torch.arange(size) + 0.5) * length / size
    reach = max(length / size, 1.0)
    inner = (exact - reach >= start) & (exact + reach <= start + length)  # where the triangle is not cut
    if length / size in (1.0, 2.0) or length <= size:
        assert torch.allclose(positions[inner], exact[inner], atol=1e-4)
    assert (positions.diff() >= -1e-5).all()


@pytest.mark.parametrize(
    ("height", "width", "size", "fraction"),
    [(48, 80, 32, 1.0), (75, 50, 64, 1.0), (96, 96, 32, 0.875), (33, 40, 32, 0.9)],
)
def test_eval_view_equals_pillow_with_a_box(height: int, width: int, size: int, fraction: float) -> None:
    images = oracle.pictures(2, height, width)
    side = fraction * min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    got = eval_view(images, size, crop_fraction=fraction).permute(0, 2, 3, 1).double().numpy() * 255
    for image, ours in zip(images, got, strict=True):
        reference = oracle.pil_resize(oracle.channels_last(image), (size, size), (left, top, left + side, top + side))
        assert np.abs(ours - reference).max() < 5e-3


def test_eval_view_of_equal_size_only_normalises() -> None:
    images = oracle.pictures(4, 32, 32, channels=5)
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
    expected = (images.double() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    assert (eval_view(images, 32, mean, std) - expected).abs().max() < 1e-5
    assert torch.equal((eval_view(images, 32) * 255).round().byte(), images)
    assert eval_view(images, 32, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(("size", "kernel"), [(32, 3), (64, 7), (30, 23), (12, 23), (224, 23)])
def test_blur_equals_scipy(size: int, kernel: int) -> None:
    images = oracle.pictures(4, size, size)
    sigma = torch.tensor([0.1, 0.5, 1.3, 2.0])
    got = blur(images.float() / 255, sigma, kernel).permute(0, 2, 3, 1).numpy()
    for image, s, ours in zip(images, sigma.tolist(), got, strict=True):
        assert np.abs(ours - oracle.blur(oracle.channels_last(image) / 255, s, kernel)).max() < 1e-5


def test_blur_weights_by_hand() -> None:
    """Three taps a, b, a with b = 1 / (1 + 2 exp(-1/2 sigma^2)); the border pixel is not repeated."""
    weights = dense(gaussian_taps(torch.tensor([1.0]), 4, 3), 4).double()
    b = 1 / (1 + 2 * np.exp(-0.5))
    a = (1 - b) / 2
    expected = torch.tensor([[b, 2 * a, 0, 0], [a, b, a, 0], [0, a, b, a], [0, 0, 2 * a, b]], dtype=torch.float64)
    assert torch.allclose(weights, expected, atol=1e-6)


def test_control_repeating_the_border_would_be_seen() -> None:
    image = oracle.pictures(1, 32, 32)
    x = oracle.channels_last(image[0]) / 255
    got = blur(image.float() / 255, torch.tensor([1.5]), 7)[0].permute(1, 2, 0).numpy()
    repeated = oracle.ndimage.gaussian_filter(x, (1.5, 1.5, 0), mode="reflect", radius=(3, 3, 0))
    assert np.abs(got - repeated).max() > 1e-3
