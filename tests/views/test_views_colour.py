"""Colour operations against torchvision's formulas pixel by pixel, Pillow, and the stated limits of `fast`."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import views_oracle as oracle
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from siamscope.views import ORDERS, ViewParams, ViewSpec, apply_view, get_policy, neutral_params, sample_params
from siamscope.views import colour as colours
from siamscope.views.apply import solarise

SPEC = ViewSpec(size=16)
N = 6
IMAGES = oracle.pictures(N, 16, 16)
FLOATS = IMAGES.float() / 255
EXACT: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[..., oracle.Array], tuple[float, ...]]] = {
    "brightness": (colours.brightness_, oracle.brightness, (0.0, 0.2, 0.9, 1.0, 1.4, 1.8)),
    "contrast": (colours.contrast_, oracle.contrast, (0.0, 0.2, 0.9, 1.0, 1.4, 1.8)),
    "saturation": (colours.saturation_, oracle.saturation, (0.0, 0.2, 0.9, 1.0, 1.4, 1.8)),
    "hue": (colours.hue_, oracle.hue, (-0.5, -0.2, -0.03, 0.0, 0.1, 0.5)),
}


def worst(got: Tensor, expected: list[oracle.Array]) -> float:
    return float(np.abs(got.permute(0, 2, 3, 1).double().numpy() - np.stack(expected)).max())


@pytest.mark.parametrize("name", EXACT)
def test_exact_operations(name: str) -> None:
    ours, reference, factors = EXACT[name]
    got = ours(FLOATS.clone(), torch.tensor(factors))
    expected = [reference(oracle.channels_last(x), f) for x, f in zip(FLOATS, factors, strict=True)]
    assert worst(got, expected) < 2e-6
    wrong = [reference(oracle.channels_last(x), f + 0.02) for x, f in zip(FLOATS, factors, strict=True)]
    assert worst(got, wrong) > 4e-3  # the control


def test_hue_of_pure_and_grey_colours() -> None:
    """A third of a turn takes red to green to blue to red; greys, black and white have no hue to turn."""
    eye = torch.eye(3).view(1, 3, 1, 3)  # pixels red, green, blue
    assert torch.allclose(colours.hue_(eye.clone(), torch.tensor([1 / 3])), eye.roll(1, 1), atol=1e-6)
    sixth = colours.hue_(eye.clone(), torch.tensor([1 / 6]))[0, :, 0, 0]
    assert torch.allclose(sixth, torch.tensor([1.0, 1.0, 0.0]), atol=1e-6)
    greys = torch.linspace(0, 1, 9).expand(1, 3, 1, 9).clone()
    assert torch.equal(colours.hue_(greys.clone(), torch.tensor([0.37])), greys)


def test_hue_on_every_sextant_and_its_borders() -> None:
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0])
    grid = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 8, 8)
    for shift in (-0.5, -1 / 6, -0.05, 0.0, 1 / 12, 0.4):
        got = colours.hue_(grid.clone(), torch.tensor([shift]))
        assert worst(got, [oracle.hue(oracle.channels_last(grid[0]), shift)]) < 1e-6


PIL: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda im, f: ImageEnhance.Brightness(im).enhance(f),
    "contrast": lambda im, f: ImageEnhance.Contrast(im).enhance(f),
    "saturation": lambda im, f: ImageEnhance.Color(im).enhance(f),
}


@pytest.mark.parametrize("name", PIL)
def test_exact_operations_follow_pillow(name: str) -> None:
    """Pillow works on whole levels and rounds the grey values, so two levels may lie between."""
    ours, _, factors = EXACT[name]
    got = ours(FLOATS.clone(), torch.tensor(factors)).permute(0, 2, 3, 1).numpy() * 255
    for image, factor, result in zip(IMAGES, factors, got, strict=True):
        pil = PIL[name](Image.fromarray(image.permute(1, 2, 0).numpy()), factor)
        assert np.abs(result - np.asarray(pil).astype(float)).max() <= 2.0


def test_grey_follows_pillow() -> None:
    got = colours.grey(FLOATS) * 255
    for image, result in zip(IMAGES, got, strict=True):
        pil = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")).astype(float)
        assert np.abs(result.numpy() - pil).max() <= 1.0


def test_solarise_is_exact() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16).contiguous()
    params = dataclasses.replace(neutral_params(1, 16, 16), solarise=torch.ones(1, dtype=torch.bool))
    got = (apply_view(levels, params, SPEC) * 255).round().byte()[0].permute(1, 2, 0).numpy()
    pil = ImageOps.solarize(Image.fromarray(levels[0].permute(1, 2, 0).numpy()), threshold=128)
    assert (got == np.asarray(pil)).all()
    assert solarise(torch.tensor([0.3, 0.7]), 0.8).tolist() == torch.tensor([0.3, 0.7]).tolist()


def jittered(orders: Tensor, b: float, c: float, s: float, h: float, grey: bool = False) -> ViewParams:
    n = len(orders)
    return dataclasses.replace(
        neutral_params(n, 16, 16),
        jitter=torch.ones(n, dtype=torch.bool),
        grey=torch.full((n,), grey),
        order=orders,
        **{
            k: torch.full((n,), v)
            for k, v in zip(("brightness", "contrast", "saturation", "hue"), (b, c, s, h), strict=True)
        },
    )


def test_each_sample_gets_its_own_order() -> None:
    """One image under all 24 orders, shuffled, with factors strong enough for the clamps to make orders differ."""
    orders = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    factors = (1.6, 1.7, 1.8, 0.2)
    got = apply_view(IMAGES[:1].expand(24, -1, -1, -1), jittered(orders, *factors), SPEC)
    x = oracle.channels_last(FLOATS[0])
    expected = [oracle.jitter(x, factors, int(order)) for order in orders]
    assert worst(got, expected) < 5e-6
    assert worst(got, expected[1:] + expected[:1]) > 0.05  # the control: the neighbour's order
    assert len({tuple(np.round(e.ravel(), 4)) for e in expected}) > 12


def test_samples_without_jitter_are_left_alone_whatever_their_factors() -> None:
    on = torch.tensor([True, False, True, False, False, True])
    params = dataclasses.replace(jittered(torch.arange(N), 1.3, 0.7, 1.4, 0.1), jitter=on)
    for colour in ("exact", "fast"):
        got = apply_view(IMAGES, params, SPEC, colour=colour)
        changed = (got - FLOATS).abs().amax((1, 2, 3)) > 1e-3
        assert torch.equal(changed, on)


@pytest.mark.parametrize("grey", [False, True])
def test_fast_equals_exact_where_nothing_clamps_and_hue_rests(grey: bool) -> None:
    """Without clamps brightness, contrast and saturation commute, so one matrix serves all 24 orders."""
    images = (IMAGES[:1].float() * 0.4 + 60).byte().expand(24, -1, -1, -1)
    params = jittered(torch.arange(24), 1.15, 0.8, 0.7, 0.0, grey)
    exact, fast = (apply_view(images, params, SPEC, colour=c) for c in ("exact", "fast"))
    assert exact.min() > 0.01 and exact.max() < 0.99
    assert (exact - fast).abs().max() < 2e-4  # torchvision's luma weights sum to 0.9999
    assert (exact - images.float() / 255).abs().max() > 0.05  # the control: something happened


@pytest.mark.parametrize("turn", [1 / 3, -1 / 3])
def test_fast_hue_equals_hsv_at_thirds_of_a_turn(turn: float) -> None:
    """There both permute the channels."""
    params = jittered(torch.arange(N), 1.0, 1.0, 1.0, turn)
    got = apply_view(IMAGES, params, SPEC, colour="fast")
    assert torch.allclose(got, FLOATS.roll(1 if turn > 0 else -1, 1), atol=1e-5)


def test_fast_hue_keeps_greys_and_turns_the_right_way() -> None:
    matrix, offset = colours.fused_matrix(jittered(torch.zeros(1, dtype=torch.int64), 1.0, 1.0, 1.0, 0.1))
    assert torch.allclose(matrix.sum(2), torch.ones(1, 3), atol=1e-6) and offset.abs().max() == 0
    red = matrix[0] @ torch.tensor([1.0, 0.0, 0.0])
    assert red[1] > 0.3 > 0 > red[2]  # towards yellow
    c = math.cos(0.2 * math.pi)
    assert abs(float(red[0]) - (1 + 2 * c) / 3) < 1e-6


def test_fast_stays_near_exact_for_the_published_strengths() -> None:
    """SimSiam's jitter on these vivid pictures, mean difference in levels of 255 (photographs: a third)."""
    images = oracle.pictures(200, 16, 16, seed=5)
    spec = get_policy("simsiam", 16, grey_prob=0.0, jitter_prob=1.0)[0]
    params = sample_params(spec, 200, 16, 16, torch.Generator().manual_seed(0))
    errors = {}
    for name, p in (("hue", params), ("no hue", dataclasses.replace(params, hue=torch.zeros(200)))):
        exact, fast = (apply_view(images, p, spec, colour=c) * 255 for c in ("exact", "fast"))
        errors[name] = float((exact - fast).abs().mean())
    plain = dataclasses.replace(params, jitter=torch.zeros(200, dtype=torch.bool))
    moved = float((apply_view(images, params, spec) - apply_view(images, plain, spec)).abs().mean()) * 255
    assert errors["hue"] < 9 and errors["no hue"] < 1
    assert moved > 30  # what the jitter itself changes


def test_every_order_index_is_used_as_documented() -> None:
    """0 brightness, 1 contrast, 2 saturation, 3 hue."""
    order = ORDERS.index((3, 0, 2, 1))
    got = apply_view(IMAGES, jittered(torch.full((N,), order), 1.5, 1.6, 1.7, 0.15), SPEC)
    expected = []
    for x in FLOATS:
        y = oracle.brightness(oracle.hue(oracle.channels_last(x), 0.15), 1.5)
        expected.append(oracle.contrast(oracle.saturation(y, 1.7), 1.6))
    assert worst(got, expected) < 5e-6
