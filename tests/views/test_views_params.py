"""The draws: torchvision's crop algorithm as a slow oracle, distributions, independence, reproducibility."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

from siamscope.views import ORDERS, ViewError, ViewParams, ViewSpec, get_policy, sample_params

N = 20_000
FIELDS = [f.name for f in dataclasses.fields(ViewParams)]


def draw(spec: ViewSpec, n: int = N, height: int = 32, width: int = 32, seed: int = 0) -> ViewParams:
    return sample_params(spec, n, height, width, torch.Generator().manual_seed(seed))


def same(a: ViewParams, b: ViewParams) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)


def one_crop(rng: random.Random, height: int, width: int, spec: ViewSpec) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params for one image, as its documentation says: x0, y0, h, w."""
    for _ in range(10):
        area = height * width * rng.uniform(*spec.crop_scale)
        ratio = math.exp(rng.uniform(math.log(spec.crop_ratio[0]), math.log(spec.crop_ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, width - w), rng.randint(0, height - h), h, w
    w, h = width, height
    if width / height < min(spec.crop_ratio):
        h = round(w / min(spec.crop_ratio))
    elif width / height > max(spec.crop_ratio):
        w = round(h * max(spec.crop_ratio))
    return (width - w) // 2, (height - h) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(32, 32, (0.08, 1.0)), (32, 32, (0.2, 1.0)), (40, 120, (0.3, 1.0)), (97, 31, (0.7, 1.0)), (5, 7, (0.08, 1.0))],
)
def test_crops_follow_the_reference_algorithm(height: int, width: int, scale: tuple[float, float]) -> None:
    spec = ViewSpec(crop_scale=scale)
    p = draw(spec, height=height, width=width)
    rng = random.Random(1)
    oracle = np.array([one_crop(rng, height, width, spec) for _ in range(N)], dtype=float)
    ours = torch.stack((p.x0, p.y0, p.h, p.w), 1).double().numpy()
    assert (ours == np.round(ours)).all()
    assert (ours[:, 0] + ours[:, 3] <= width).all() and (ours[:, 1] + ours[:, 2] <= height).all() and (ours >= 0).all()
    assert (ours[:, 2:] >= 1).all()
    for column in range(4):
        # Ties (whole pixels) make this test conservative; the control below shows that it has teeth.
        assert stats.ks_2samp(ours[:, column], oracle[:, column]).pvalue > 1e-3
    for value in (lambda c: c[:, 2] * c[:, 3], lambda c: c[:, 3] / c[:, 2]):
        assert stats.ks_2samp(value(ours), value(oracle)).pvalue > 1e-3
        assert abs(value(ours).mean() / value(oracle).mean() - 1) < 0.01


def test_control_the_crop_test_sees_a_wrong_distribution() -> None:
    """Ratios uniform instead of log-uniform, or sides clipped instead of drawn again, would be found."""
    spec = ViewSpec(crop_scale=(0.2, 1.0))
    p = draw(spec)
    rng = np.random.default_rng(0)
    area, ratio = 1024 * rng.uniform(0.2, 1, N), rng.uniform(3 / 4, 4 / 3, N)
    uniform = np.sqrt(area * ratio)
    clipped = np.minimum(np.sqrt(area * np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), N))), 32)
    for wrong in (uniform, clipped):
        assert stats.ks_2samp(p.w.numpy(), np.round(wrong)).pvalue < 1e-6


@pytest.mark.parametrize(("height", "width", "box"), [(100, 20, (0, 36, 27, 20)), (20, 100, (36, 0, 20, 27))])
def test_fallback_is_the_centre(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    """Areas of 90 % within the ratios never fit these images: w = 20 and h = round(20 / (3/4)) = 27, or transposed."""
    p = draw(ViewSpec(crop_scale=(0.9, 1.0)), 50, height, width)
    for value, expected in zip((p.x0, p.y0, p.h, p.w), box, strict=True):
        assert (value == expected).all()


def test_fallback_within_the_ratio_is_the_whole_image() -> None:
    """Square crops of the whole area of a 32 x 36 image never fit; its ratio is within 3/4 to 4/3 but never drawn."""
    p = draw(ViewSpec(crop_scale=(1.0, 1.0), crop_ratio=(0.5, 0.7)), 50, 36, 32)
    assert (p.w == round(36 * 0.7)).all() and (p.h == 36).all()
    p = draw(ViewSpec(crop_scale=(1.0, 1.0), crop_ratio=(0.8, 1.25)), 5000, 36, 32)
    whole = (p.w == 32) & (p.h == 36) & (p.x0 == 0) & (p.y0 == 0)
    assert whole.float().mean() > 0.95


def test_policy_none_takes_the_centred_square() -> None:
    p = draw(get_policy("none", 32)[0], 10, 30, 50)
    assert (p.w == 30).all() and (p.h == 30).all() and (p.x0 == 10).all() and (p.y0 == 0).all()
    assert not (p.flip | p.jitter | p.grey | p.solarise).any() and (p.blur_sigma == 0).all()


SPEC = ViewSpec(jitter=(0.4, 0.5, 1.2, 0.1), flip_prob=0.3, grey_prob=0.2, blur_prob=0.6, solarise_prob=0.15)


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [("brightness", 0.6, 1.4), ("contrast", 0.5, 1.5), ("saturation", 0.0, 2.2), ("hue", -0.1, 0.1)],
)
def test_factors_are_uniform(field: str, low: float, high: float) -> None:
    values = getattr(draw(SPEC), field).double().numpy()
    assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > 1e-3
    assert stats.kstest(values, "uniform", args=(low, (high - low) * 1.05)).pvalue < 1e-6  # the control


def test_probabilities_and_sigma() -> None:
    p = draw(SPEC)
    for mask, probability in (
        (p.flip, 0.3),
        (p.jitter, 0.8),
        (p.grey, 0.2),
        (p.blur_sigma > 0, 0.6),
        (p.solarise, 0.15),
    ):
        assert stats.binomtest(int(mask.sum()), N, probability).pvalue > 1e-3
        assert stats.binomtest(int(mask.sum()), N, probability + 0.03).pvalue < 1e-6
    sigma = p.blur_sigma[p.blur_sigma > 0].double().numpy()
    assert stats.kstest(sigma, "uniform", args=(0.1, 1.9)).pvalue > 1e-3


def test_orders_are_the_permutations_and_equally_likely() -> None:
    assert sorted(set(ORDERS)) == sorted(ORDERS) and len(ORDERS) == 24
    assert all(sorted(o) == [0, 1, 2, 3] for o in ORDERS)
    assert all(sum(x != y for x, y in zip(a, b, strict=True)) == 2 for a, b in itertools.pairwise(ORDERS))
    counts = torch.bincount(draw(SPEC).order, minlength=24)
    assert len(counts) == 24 and stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_draws_are_independent_of_each_other_and_of_their_neighbours() -> None:
    p = draw(SPEC)
    table = np.stack([getattr(p, f).double().numpy() for f in FIELDS if f not in ("x0", "y0", "h", "w")])
    limit = 5 / math.sqrt(N)
    correlation = np.corrcoef(table)
    assert np.abs(correlation - np.eye(len(table))).max() < limit
    assert max(abs(np.corrcoef(row[1:], row[:-1])[0, 1]) for row in table) < limit


def test_a_seed_reproduces_and_another_differs() -> None:
    assert same(draw(SPEC, 64, seed=3), draw(SPEC, 64, seed=3))
    assert not same(draw(SPEC, 64, seed=3), draw(SPEC, 64, seed=4))
    generator = torch.Generator().manual_seed(3)
    first = sample_params(SPEC, 64, 32, 32, generator)
    assert not same(first, sample_params(SPEC, 64, 32, 32, generator))  # the generator moves on


def test_one_changed_probability_leaves_the_other_draws_alone() -> None:
    a, b = draw(SPEC, 500), draw(dataclasses.replace(SPEC, grey_prob=0.9, jitter=(0.1, 0.5, 1.2, 0.1)), 500)
    changed = {f for f in FIELDS if not torch.equal(getattr(a, f), getattr(b, f))}
    assert changed == {"grey", "brightness"}


def test_slices() -> None:
    p = draw(SPEC, 10)
    assert len(p.slice(3, 7)) == 4 and torch.equal(p.slice(3, 7).hue, p.hue[3:7]) and same(p[3:7], p.slice(3, 7))
    assert same(p.to("cpu"), p)
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.hue = p.hue  # type: ignore[misc]


@pytest.mark.parametrize(("n", "height", "width"), [(0, 32, 32), (4, 1, 32), (4, 32, 1), (4, 1, 1)])
def test_refusals(n: int, height: int, width: int) -> None:
    with pytest.raises(ViewError, match="at least"):
        draw(SPEC, n, height, width)
