"""Whole views: the chain of operations against a slow reference, slices of a global batch, channels, refusals."""

import dataclasses

import numpy as np
import pytest
import torch
import views_oracle as oracle

from siamscope.views import (
    ViewError,
    ViewSpec,
    apply_view,
    eval_view,
    get_policy,
    make_views,
    neutral_params,
    sample_params,
)

BUSY = ViewSpec(
    size=24, blur_prob=0.5, solarise_prob=0.3, grey_prob=0.3, jitter=(0.8, 0.8, 0.8, 0.2), crop_scale=(0.1, 1.0)
)
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("height", "width", "channels"), [(24, 24, 3), (70, 50, 3), (31, 40, 1), (31, 40, 5)])
def test_a_view_equals_the_slow_reference(height: int, width: int, channels: int) -> None:
    images = oracle.pictures(40, height, width, channels)
    params = sample_params(BUSY, 40, height, width, seeded())
    mean, std = MEAN[:1] * channels, STD[:1] * channels
    got = apply_view(images, params, BUSY, mean=mean, std=std).permute(0, 2, 3, 1).double().numpy()
    for i, image in enumerate(images):
        x = oracle.view_before_solarisation(image, params, i, BUSY)
        doubtful = np.abs(x - BUSY.solarise_threshold) < 1e-4  # rounding may fall on either side
        if params.solarise[i]:
            x = np.where(x >= BUSY.solarise_threshold, 1 - x, x)
        difference = np.abs(got[i] - (x - mean) / std)
        assert difference[~doubtful].max() < 1e-4
        assert doubtful.mean() < 0.02
    everything = (params.jitter, params.grey, params.blur_sigma > 0, params.solarise, params.flip)
    assert all(0 < int(m.sum()) < 40 for m in everything)


def test_colour_operations_apply_to_rgb_only() -> None:
    for channels in (1, 2, 4):
        images = oracle.pictures(8, 16, 16, channels)
        params = dataclasses.replace(
            neutral_params(8, 16, 16),
            jitter=torch.ones(8, dtype=torch.bool),
            grey=torch.ones(8, dtype=torch.bool),
            brightness=torch.full((8,), 0.5),
        )
        for colour in ("exact", "fast"):
            got = apply_view(images, params, ViewSpec(size=16), colour=colour)
            assert torch.equal((got * 255).round().byte(), images)


@pytest.mark.parametrize("colour", ["exact", "fast"])
@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (33, 47, 20), (40, 40, 63)])
def test_rows_of_a_global_batch_are_those_of_one_process(colour: str, height: int, width: int, size: int) -> None:
    """Bit for bit, for every view, including parts of one sample: nothing depends on the neighbours in the batch."""
    images = oracle.pictures(90, height, width)
    specs = [dataclasses.replace(s, size=size, blur_prob=0.5) for s in get_policy("byol", 32)]
    kwargs = {"colour": colour, "mean": MEAN, "std": STD}
    whole = make_views(images, specs, seeded(), **kwargs)
    for start, stop in ((0, 45), (45, 90), (7, 8), (60, 61), (13, 80)):
        part = make_views(images[start:stop], specs, seeded(), rows=slice(start, stop), global_batch=90, **kwargs)
        for a, b in zip(whole, part, strict=True):
            assert torch.equal(a[start:stop], b)
    other = make_views(images[7:8], specs, seeded(), **kwargs)  # the control: drawn as if it were the first sample
    assert not torch.equal(whole[0][7:8], other[0])


def test_a_seed_reproduces_and_views_differ() -> None:
    images = oracle.pictures(16, 32, 32)
    specs = get_policy("simsiam", 32)
    a, b = make_views(images, specs, seeded(1)), make_views(images, specs, seeded(1))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(a[0], make_views(images, specs, seeded(2))[0])


def test_global_random_state_and_input_are_untouched() -> None:
    images = oracle.pictures(16, 32, 32)
    before, copy = torch.get_rng_state(), images.clone()
    make_views(images, [BUSY], seeded())
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(images, copy)


def test_views_of_several_sizes() -> None:
    images = oracle.pictures(4, 32, 32)
    views = make_views(images, [dataclasses.replace(BUSY, size=s) for s in (32, 12, 12)], seeded())
    assert [tuple(v.shape) for v in views] == [(4, 3, 32, 32), (4, 3, 12, 12), (4, 3, 12, 12)]


@pytest.mark.parametrize("colour", ["exact", "fast"])
def test_values_stay_within_zero_and_one(colour: str) -> None:
    images = torch.randint(0, 256, (64, 3, 40, 30), dtype=torch.uint8, generator=seeded())
    images[0], images[1] = 0, 255
    view = make_views(images, [BUSY], seeded(), colour=colour)[0]
    assert view.min() >= 0 and view.max() <= 1 and view.isfinite().all()


@pytest.mark.parametrize("colour", ["exact", "fast"])
def test_out_dtype_and_autocast(colour: str) -> None:
    images = oracle.pictures(8, 32, 32)
    params = sample_params(BUSY, 8, 32, 32, seeded())
    plain = apply_view(images, params, BUSY, colour=colour, mean=MEAN, std=STD)
    out = torch.full((8, 3, 24, 24), torch.nan).to(memory_format=torch.channels_last)
    assert apply_view(images, params, BUSY, colour=colour, mean=MEAN, std=STD, out=out) is out
    assert torch.equal(out, plain)
    half = apply_view(images, params, BUSY, colour=colour, mean=MEAN, std=STD, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.equal(half, plain.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(apply_view(images, params, BUSY, colour=colour, mean=MEAN, std=STD), plain)
    pair = [torch.empty_like(out), torch.empty_like(out)]
    views = make_views(images, [BUSY, BUSY], seeded(), colour=colour, out=pair)
    assert views[0] is pair[0] and views[1] is pair[1]


def test_normalisation_is_that_of_each_channel() -> None:
    images = oracle.pictures(4, 16, 16)
    plain = apply_view(images, neutral_params(4, 16, 16), ViewSpec(size=16))
    normal = apply_view(images, neutral_params(4, 16, 16), ViewSpec(size=16), mean=MEAN, std=STD)
    expected = (plain - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(normal, expected, atol=1e-6)
    one = apply_view(images, neutral_params(4, 16, 16), ViewSpec(size=16), mean=0.5, std=0.5)
    assert torch.allclose(one, 2 * plain - 1, atol=1e-6)


IMAGES = oracle.pictures(4, 16, 16)
NEUTRAL = neutral_params(4, 16, 16)


def neutral(**changes: torch.Tensor) -> object:
    return dataclasses.replace(NEUTRAL, **changes)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (IMAGES.float(), "uint8"),
        (IMAGES[0], "batch, channels, height, width"),
        (IMAGES.numpy(), "ndarray"),
        (IMAGES[:0], "at least one image"),
        (IMAGES[:, :0], "one channel"),
        (IMAGES[:, :, :1, :1], "1 x 1 px cannot be cropped"),
        (IMAGES[:, :, :, :1], "16 x 1 px cannot be cropped"),
    ],
)
def test_bad_images(images: torch.Tensor, match: str) -> None:
    with pytest.raises(ViewError, match=match):
        make_views(images, [BUSY], seeded())
    with pytest.raises(ViewError, match=match):
        apply_view(images, NEUTRAL, BUSY)
    with pytest.raises(ViewError, match=match):
        eval_view(images, 16)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        (NEUTRAL.slice(0, 3), "3 draws for 4 images"),
        (neutral(w=torch.tensor([16.0, 16, 17, 16])), "crop of sample 2 .* within its image of 16 x 16"),
        (neutral(y0=torch.tensor([0.0, 1, 0, 0])), "crop of sample 1"),
        (neutral(x0=torch.tensor([-1.0, 0, 0, 0])), "crop of sample 0"),
        (neutral(h=torch.tensor([16.0, 16, 16, 0])), "crop of sample 3"),
        (neutral(order=torch.tensor([0, 0, 24, 0])), "order"),
    ],
)
def test_bad_params(params: object, match: str) -> None:
    with pytest.raises(ViewError, match=match):
        apply_view(IMAGES, params, BUSY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"colour": "exakt"}, "'exact' or 'fast'"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"std": (0.5, 0.0, 0.5)}, "std .* above 0"),
        ({"mean": float("nan")}, "finite"),
        ({"out": torch.empty(4, 3, 16, 16)}, "out is"),
        ({"out": torch.empty(4, 3, 24, 24, dtype=torch.uint8)}, "out is"),
    ],
)
def test_bad_options(kwargs: dict[str, object], match: str) -> None:
    with pytest.raises(ViewError, match=match):
        apply_view(IMAGES, NEUTRAL, BUSY, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "total"), [(slice(0, 3), 8), (slice(6, 10), 8), (slice(0, 8, 2), 8), (None, 8), (slice(0, 4), 0)]
)
def test_bad_rows(rows: slice | None, total: int) -> None:
    with pytest.raises(ViewError, match="global batch"):
        make_views(IMAGES, [BUSY], seeded(), rows=rows, global_batch=total)


def test_bad_out_and_eval_options() -> None:
    with pytest.raises(ViewError, match="1 tensors for 2 views"):
        make_views(IMAGES, [BUSY, BUSY], seeded(), out=[torch.empty(4, 3, 24, 24)])
    with pytest.raises(ViewError, match="crop_fraction"):
        eval_view(IMAGES, 16, crop_fraction=0.0)
    with pytest.raises(ViewError, match="size"):
        eval_view(IMAGES, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("colour", ["exact", "fast"])
def test_a_gpu_gives_the_same_views(colour: str) -> None:
    images = oracle.pictures(64, 40, 50)
    cpu = make_views(images, [BUSY], seeded(), colour=colour, mean=MEAN, std=STD)[0]
    gpu = make_views(images.cuda(), [BUSY], seeded(), colour=colour, mean=MEAN, std=STD)[0]
    assert gpu.is_cuda
    assert ((gpu.cpu() - cpu).abs() > 1e-3).float().mean() < 1e-3  # a few pixels may cross the solarisation threshold
    assert (eval_view(images.cuda(), 24).cpu() - eval_view(images, 24)).abs().max() < 1e-5
