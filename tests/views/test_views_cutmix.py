"""CutMix: the box and its weight agree to the pixel, the draws follow the distribution, off means untouched."""

import math

import numpy as np
import pytest
import torch
import views_oracle as oracle
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution
from torch import Tensor

from siamscope.views import Mix, ViewError, apply_mix, draw_mix, get_policy, make_views, partners


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coded(n: int, size: int, channels: int = 2) -> Tensor:
    """Views in which every value says which sample, channel and pixel it is."""
    return torch.arange(n * channels * size * size, dtype=torch.float64).view(n, channels, size, size)


def by_pixel(views: Tensor, mix: Mix) -> Tensor:
    """The slow reference: one pixel after the other."""
    mixed = views.clone()
    for i in range(len(views)):
        other = i + 1 if i % 2 == 0 else i - 1
        for y in range(mix.top, mix.bottom):
            for x in range(mix.left, mix.right):
                mixed[i, :, y, x] = views[other, :, y, x]
    return mixed


def mixes(count: int, size: int = 16, alpha: float = 1.0, seed: int = 0) -> list[Mix]:
    generator = seeded(seed)
    return [draw_mix(size, generator, alpha=alpha) for _ in range(count)]


def test_every_pixel_is_the_samples_own_or_its_partners() -> None:
    views = coded(6, 16)
    for mix in mixes(40):
        assert torch.equal(apply_mix(views, mix), by_pixel(views, mix))
    assert torch.equal(views, coded(6, 16))  # the target branch still sees whole views


@pytest.mark.parametrize("size", [1, 2, 7, 32, 33])
def test_the_weight_is_the_share_of_own_pixels(size: int) -> None:
    """Counted on mixed black and white views, equal without tolerance."""
    views = torch.tensor([1.0, 0.0]).double().view(2, 1, 1, 1).expand(2, 1, size, size)
    counts = set()
    for mix in mixes(200, size):
        own, foreign = (int(v.sum()) for v in apply_mix(views, mix))
        assert own + foreign == size**2 and mix.pixels == foreign
        assert mix.weight == own / size**2
        counts.add(own)
    assert len(counts) >= min(2 * size, 40)


def test_the_mean_of_a_mixed_view_is_the_weighted_mean() -> None:
    """A linear encoder of constant images, and the pull to mixed targets: weight and partner belong together."""
    n, size = 8, 20
    colours = torch.rand(n, 3, dtype=torch.float64, generator=seeded(1))
    views = colours[:, :, None, None].expand(n, 3, size, size)
    for mix in mixes(30, size):
        seen = apply_mix(views, mix).mean((2, 3))
        expected = mix.weight * colours + (1 - mix.weight) * colours[partners(n)]
        assert torch.allclose(seen, expected, rtol=1e-12, atol=1e-14)
        if 0.1 < mix.weight < 0.9:  # the control: with another partner it is not
            other = mix.weight * colours + (1 - mix.weight) * colours.roll(2, 0)
            assert (seen - other).abs().max() > 1e-3


def test_the_positive_gradient_is_the_weighted_sum() -> None:
    """d/du of the weighted loss is that of the loss with the mixed target, for a pull that is linear in the target."""
    n, d, mix = 10, 7, next(m for m in mixes(20) if 0.2 < m.weight < 0.8)
    u = torch.nn.functional.normalize(torch.randn(n, d, dtype=torch.float64, generator=seeded(2))).requires_grad_()
    t = torch.nn.functional.normalize(torch.randn(n, d, dtype=torch.float64, generator=seeded(3)))
    other = t[partners(n)]
    loss = -mix.weight * (u * t).sum(1).mean() - (1 - mix.weight) * (u * other).sum(1).mean()
    (gradient,) = torch.autograd.grad(loss, u)
    assert torch.allclose(gradient, -(mix.weight * t + (1 - mix.weight) * other) / n, rtol=1e-10, atol=0)
    assert not torch.allclose(gradient, -t / n, rtol=1e-2, atol=0)


def test_weight_one_returns_the_input_itself() -> None:
    views = coded(4, 16)
    for mix in (Mix(16), Mix(16, 3, 3, 0, 16), draw_mix(16, seeded(), probability=0.0)):
        assert mix.weight == 1.0 and not mix
        assert apply_mix(views, mix) is views
    odd = coded(3, 16)
    assert apply_mix(odd, Mix(16)) is odd  # nothing is mixed, so nobody needs a partner
    whole = Mix(16, 0, 16, 0, 16)
    assert whole and whole.weight == 0.0
    assert torch.equal(apply_mix(views, whole), views[partners(4)])
    one = Mix(16, 0, 1, 0, 1)
    assert one.weight == 255 / 256 and not torch.equal(apply_mix(views, one), views)


def moments(alpha: float) -> tuple[float, float]:
    """Mean and mean square of the clipped area of a square of side s, s^2 = 1 - lam, centred uniformly in [0, 1]^2.

    The clipped length l of one axis has mean s - s^2/4 and mean square s^2 - 5 s^3/12; the axes are independent.
    """
    density = beta_distribution(alpha, alpha).ppf
    first = quad(lambda u: ((s := math.sqrt(density(u))) - s * s / 4) ** 2, 0, 1, limit=200)[0]
    second = quad(lambda u: ((s := math.sqrt(density(u))) ** 2 - 5 * s**3 / 12) ** 2, 0, 1, limit=200)[0]
    return first, second


@pytest.mark.parametrize(("alpha", "wrong"), [(0.2, 1.0), (1.0, 4.0), (4.0, 1.0)])
def test_the_area_follows_the_beta_distribution(alpha: float, wrong: float) -> None:
    area = np.array([1 - mix.weight for mix in mixes(40_000, 512, alpha, seed=5)])
    error = (area.std() / len(area) ** 0.5, (area**2).std() / len(area) ** 0.5)
    got = area.mean(), (area**2).mean()
    assert all(abs(g - m) < 4 * e for g, m, e in zip(got, moments(alpha), error, strict=True))
    assert any(abs(g - m) > 10 * e for g, m, e in zip(got, moments(wrong), error, strict=True))


def test_clipping_and_rounding_move_the_weight() -> None:
    """The controls: the drawn lam is not the share of pixels where the border cuts, and is, to a pixel, elsewhere."""
    inside, cut = [], []
    for seed in range(400):
        mix = draw_mix(32, seeded(seed))
        lam = torch.rand(4, dtype=torch.float64, generator=seeded(seed))[1].item()  # alpha 1: the number itself
        side = round(32 * math.sqrt(1 - lam))
        height, width = mix.bottom - mix.top, mix.right - mix.left
        if height == width == side:
            assert abs(32 * math.sqrt(1 - lam) - height) <= 0.5
            inside.append(abs(mix.weight - lam))
        else:
            assert height <= side and width <= side
            cut.append(mix.weight - lam)
    assert max(inside) <= (32 + 0.25) / 32**2  # half a pixel of the side, at most
    assert min(cut) > -0.04 and np.mean(cut) > 0.1
    assert len(inside) > 30 and len(cut) > 200


@pytest.mark.parametrize("size", [8, 9])
def test_the_box_lies_symmetrically(size: int) -> None:
    """No edge is favoured; rounding every box down by half a pixel, as published code does, would be seen."""
    drawn = mixes(6000, size, seed=7)
    for low, high in (("top", "bottom"), ("left", "right")):
        gap = np.array([getattr(m, low) - (size - getattr(m, high)) for m in drawn], dtype=float)
        limit = 4 * gap.std() / len(gap) ** 0.5
        assert abs(gap.mean()) < limit
        assert abs((gap - 0.5).mean()) > limit
    vertical = np.array([m.top + m.bottom for m in drawn if m])
    horizontal = np.array([m.left + m.right for m in drawn if m])
    assert abs(np.corrcoef(vertical, horizontal)[0, 1]) < 0.06  # the axes are drawn apart


def test_probability() -> None:
    generator = seeded(11)
    hits = sum(bool(draw_mix(64, generator, probability=0.3)) for _ in range(3000))
    assert abs(hits / 3000 - 0.3) < 0.035  # 4 standard errors; boxes without a pixel: 1 in 16,000


def test_draws_are_reproducible_and_the_count_of_numbers_is_fixed() -> None:
    """A step's later draws do not depend on whether it was mixed; off, nothing is drawn at all."""
    after = []
    for probability, alpha in ((1.0, 1.0), (0.5, 1.0), (1e-9, 1.0), (1.0, 0.2), (0.7, 3.0)):
        generator = seeded(4)
        draw_mix(32, generator, probability=probability, alpha=alpha)
        after.append(generator.get_state())
    assert all(torch.equal(state, after[0]) for state in after)
    off = seeded(4)
    draw_mix(32, off, probability=0.0)
    assert torch.equal(off.get_state(), seeded(4).get_state()) and not torch.equal(off.get_state(), after[0])
    assert mixes(5, seed=1) == mixes(5, seed=1) != mixes(5, seed=2)
    before = torch.get_rng_state()
    draw_mix(32, seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_the_views_are_those_of_a_run_without_cutmix() -> None:
    images, specs = oracle.pictures(8, 32, 32), get_policy("unigrad", 32)
    plain = make_views(images, specs, seeded(9))
    generator = seeded(9)
    views = make_views(images, specs, generator)
    mix = draw_mix(32, generator)
    assert all(torch.equal(a, b) for a, b in zip(plain, views, strict=True))
    mixed = [apply_mix(v, mix) for v in views]
    assert mix and not torch.equal(mixed[0], plain[0])
    # The control: drawn before the views, it would change them.
    generator = seeded(9)
    draw_mix(32, generator)
    assert not torch.equal(make_views(images, specs, generator)[0], plain[0])


def test_the_mixing_does_not_depend_on_the_number_of_processes() -> None:
    views, mix = coded(16, 12), next(m for m in mixes(9, 12) if 0.2 < m.weight < 0.8)
    whole = apply_mix(views, mix)
    for size in (2, 4, 8):
        assert torch.equal(torch.cat([apply_mix(part, mix) for part in views.split(size)]), whole)
    rolled = views.clone()  # the control: a partner further away differs from process to process
    rolled[:, :, mix.top : mix.bottom, mix.left : mix.right] = views.roll(1, 0)[
        :, :, mix.top : mix.bottom, mix.left : mix.right
    ]
    assert not torch.equal(rolled, whole)


def test_partners() -> None:
    assert partners(6).tolist() == [1, 0, 3, 2, 5, 4] and partners(6).dtype == torch.int64
    for n in (2, 10, 256):
        pairs = partners(n)
        assert torch.equal(pairs[pairs], torch.arange(n)) and not bool((pairs == torch.arange(n)).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtype_layout_and_gradient(dtype: torch.dtype) -> None:
    mix = Mix(8, 2, 7, 0, 3)
    views = coded(4, 8, 3).to(dtype).to(memory_format=torch.channels_last)
    mixed = apply_mix(views, mix)
    assert mixed.dtype == dtype and mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(mixed, by_pixel(views, mix))
    leaf = views.clone().requires_grad_()
    apply_mix(leaf, mix).sum().backward()
    assert leaf.grad is not None and torch.equal(leaf.grad, torch.ones_like(views))  # every pixel is shown once


@pytest.mark.parametrize("n", [0, 1, 3, -2, True, 4.0])
def test_odd_batches_are_refused(n: int) -> None:
    with pytest.raises(ViewError, match="must be even, got n = "):
        partners(n)


@pytest.mark.parametrize(
    ("views", "match"),
    [
        (torch.zeros(3, 1, 8, 8), "must be even, got n = 3"),
        (torch.zeros(0, 1, 8, 8), "must be even, got n = 0"),
        (torch.zeros(4, 1, 6, 6), "global views only"),  # a local crop
        (torch.zeros(4, 1, 8, 9), "drawn for"),
        (torch.zeros(4, 8, 8), "views are"),
        (np.zeros((4, 1, 8, 8)), "ndarray"),
    ],
)
def test_bad_views(views: Tensor, match: str) -> None:
    with pytest.raises(ViewError, match=match):
        apply_mix(views, Mix(8, 0, 4, 0, 4))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"size": 0}, "size"),
        ({"size": 8.0}, "size"),
        ({"probability": -0.1}, "probability"),
        ({"probability": 1.1}, "probability"),
        ({"probability": math.nan}, "probability"),
        ({"probability": "1"}, "probability"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": math.inf}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"alpha": 0.0, "probability": 0.0}, "alpha"),
    ],
)
def test_bad_draws(kwargs: dict[str, float], match: str) -> None:
    arguments = {"size": 8} | kwargs
    with pytest.raises(ViewError, match=match):
        draw_mix(arguments.pop("size"), seeded(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("box", [(-1, 4, 0, 4), (0, 9, 0, 4), (5, 4, 0, 4), (0, 4, 0, 9), (0, 4, 3, 2), (0, 4.0, 0, 4)])
def test_bad_boxes(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ViewError, match="whole"):
        Mix(8, *box)


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 50.0, 1e6])
def test_extreme_alpha(alpha: float) -> None:
    """Close to 0: all or nothing; large: half of the area before clipping. Always a valid box."""
    sides = [max(m.bottom - m.top, m.right - m.left) for m in mixes(300, 64, alpha)]
    if alpha < 1:
        assert sum(s == 0 for s in sides) > 100 and sum(s >= 32 for s in sides) > 100
        assert sum(0 < s < 32 for s in sides) < 30  # with alpha 1: a quarter, 75
    else:
        expected = 64 * math.sqrt(0.5)
        assert max(sides) <= expected + (1 if alpha > 1e3 else 8) and min(sides) >= expected / 2 - 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_views() -> None:
    views, mix = coded(6, 16).float(), Mix(16, 2, 9, 5, 16)
    assert torch.equal(apply_mix(views.cuda(), mix).cpu(), apply_mix(views, mix))
