"""Multi-crop: the published crops, the global views untouched by the local ones, refusals that name the argument."""

import dataclasses

import pytest
import torch
import views_oracle as oracle

from siamscope.views import (
    ViewError,
    ViewSpec,
    apply_mix,
    default_local_size,
    draw_mix,
    get_policy,
    list_policies,
    make_views,
    multi_crop,
    sample_params,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_dino_as_published() -> None:
    views = multi_crop(get_policy("dino", 224), 8, 96, (0.4, 1.0), (0.05, 0.4), blur_prob=0.5)
    figures = [(v.size, v.crop_scale, v.blur_prob, v.solarise_prob) for v in views]
    assert figures == [(224, (0.4, 1.0), 1.0, 0.0), (224, (0.4, 1.0), 0.1, 0.2)] + [(96, (0.05, 0.4), 0.5, 0.0)] * 8
    assert all((v.jitter, v.jitter_prob, v.grey_prob) == ((0.4, 0.4, 0.2, 0.1), 0.8, 0.2) for v in views)


def test_swav_as_published() -> None:
    views = multi_crop(get_policy("swav", 224), 6, 96, (0.14, 1.0), (0.05, 0.14))
    figures = [(v.size, v.crop_scale) for v in views]
    assert figures == [(224, (0.14, 1.0))] * 2 + [(96, (0.05, 0.14))] * 6
    colours = {(v.jitter, v.jitter_prob, v.grey_prob, v.blur_prob, v.solarise_prob) for v in views}
    assert colours == {((0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0.0)}


@pytest.mark.parametrize("name", list_policies())
@pytest.mark.parametrize("size", [32, 224])
def test_local_crops_change_size_and_area_only(name: str, size: int) -> None:
    pair = get_policy(name, size)
    views = multi_crop(pair, 3)
    assert views[:2] == pair and len(views) == 5 and len(set(views[2:])) == 1
    expected = dataclasses.replace(pair[0], size=default_local_size(size), crop_scale=(0.05, 0.4))
    assert views[2] == expected
    if pair[0] != pair[1]:  # the control: the second view's colours would be others
        assert views[2] != dataclasses.replace(pair[1], size=expected.size, crop_scale=(0.05, 0.4))


@pytest.mark.parametrize(
    ("size", "local"), [(224, 96), (128, 55), (96, 41), (64, 27), (32, 14), (16, 8), (8, 8), (6, 6)]
)
def test_default_local_size(size: int, local: int) -> None:
    assert default_local_size(size) == local


def test_none_of_them_gives_the_pair() -> None:
    pair = get_policy("byol", 32)
    assert multi_crop(pair, 0) == pair
    assert [v.crop_scale for v in multi_crop(pair, 0, global_scale=(0.3, 0.9))] == [(0.3, 0.9)] * 2
    assert multi_crop(get_policy("byol", 4), 0) == get_policy("byol", 4)  # too small for local crops, but none wanted


def test_any_count_of_global_views() -> None:
    one, two = get_policy("byol", 32)
    assert [v.size for v in multi_crop([one], 2)] == [32, 14, 14]
    assert multi_crop([two, one, one], 1)[3].solarise_prob == two.solarise_prob == 0.2


def test_the_global_views_are_those_of_a_run_without_local_crops() -> None:
    images, pair = oracle.pictures(6, 32, 32), get_policy("dino", 32)
    plain = make_views(images, pair, seeded(3))
    views = make_views(images, multi_crop(pair, 4), seeded(3))
    assert [tuple(v.shape) for v in views] == [(6, 3, 32, 32)] * 2 + [(6, 3, 14, 14)] * 4
    assert all(torch.equal(a, b) for a, b in zip(plain, views, strict=False))
    assert all(not torch.equal(views[2], other) for other in views[3:])
    # The control: local crops in front would take the global views' draws.
    turned = make_views(images, multi_crop(pair, 4)[::-1], seeded(3))
    assert not torch.equal(turned[-1], plain[1])


def test_only_the_global_views_take_the_box() -> None:
    """A mixed local crop would not have the weight of the step: refused, not done."""
    views = make_views(oracle.pictures(4, 32, 32), multi_crop(get_policy("unigrad", 32), 2), seeded())
    mix = draw_mix(views[0].shape[-1], seeded(1))
    assert all(apply_mix(v, mix).shape == v.shape for v in views[:2])
    with pytest.raises(ViewError, match="global views only"):
        apply_mix(views[2], mix)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_the_area_of_local_crops(size: int) -> None:
    """Within the limits but for rounding the sides (half a pixel each), spread over them, and below the global ones."""
    views = multi_crop(get_policy("dino", size), 1, global_scale=(0.4, 1.0))
    areas = []
    for spec in (views[0], views[2]):
        params = sample_params(spec, 4000, size, size, seeded(5))
        slack = 0.5 * (params.w + params.h) + 0.25
        low, high = (size**2 * scale for scale in spec.crop_scale)
        area = params.w * params.h
        assert bool((area >= low - slack).all()) and bool((area <= high + slack).all())
        areas.append(area / size**2)
    assert abs(float(areas[1].mean()) - 0.225) < 0.01 < 0.4 < float(areas[0].mean())
    assert float(areas[1].min()) < 0.07 and float(areas[1].max()) > 0.38


PAIR = get_policy("simsiam", 32)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"pair": ()}, "pair"),
        ({"locals": -1}, "locals is -1"),
        ({"locals": 2.0}, "locals"),
        ({"locals": True}, "locals"),
        ({"local_size": 33}, "local_size is 33.*at most that of the global views, 32"),
        ({"local_size": 0}, "local_size"),
        ({"local_size": -4}, "local_size"),
        ({"local_size": 8.5}, "local_size"),
        ({"local_scale": (0.4, 0.05)}, "local_scale"),
        ({"local_scale": (-0.1, 0.4)}, "local_scale"),
        ({"local_scale": 0.4}, "local_scale"),
        ({"global_scale": (0.5, 1.5)}, "global_scale"),
        ({"global_scale": (0.5, 1.5), "locals": 0}, "global_scale"),
        ({"local_scale": (0.0035, 0.4)}, "local_scale starts at 0.0035, 3.58 of an image's 1024 pixels.*at least 4"),
        ({"image_size": 8}, "local_scale starts at 0.05, 3.2 of an image's 64"),
        ({"image_size": (8, 9)}, "local_scale starts at 0.05, 3.6 of an image's 72"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": 32.0}, "image_size"),
        ({"image_size": (32, 32, 3)}, "image_size"),
        ({"locals": 1023}, "locals makes 1025 views, more than an image's 1024 pixels"),
        ({"blur_prob": 2.0}, "blur_prob"),
        ({"size": 8}, "unknown field of a local crop 'size'"),
        ({"crop_scale": (0.1, 0.2)}, "unknown field of a local crop 'crop_scale'"),
        ({"blurr": 0.1}, "unknown field of a local crop 'blurr'"),
    ],
)
def test_refusals_name_the_argument(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ViewError, match=match):
        multi_crop(**({"pair": PAIR, "locals": 2} | arguments))  # type: ignore[arg-type]


def test_limits_that_are_still_allowed() -> None:
    assert multi_crop(PAIR, 1, 32)[2].size == 32
    assert len(multi_crop(PAIR, 1022)) == 1024
    assert multi_crop(PAIR, 1, local_scale=(4 / 1024, 0.4))[2].crop_scale[0] == 4 / 1024
    assert len(multi_crop(PAIR, 2, image_size=(8, 10))) == 4
    mixed_sizes = (ViewSpec(size=32), ViewSpec(size=24))
    with pytest.raises(ViewError, match="24 px"):
        multi_crop(mixed_sizes, 1, 30)
