"""The published policies: the figures themselves, the choice by size, and refusals that say what is valid."""

import dataclasses
import subprocess
import sys

import pytest

from siamscope.views import POLICIES, ViewError, ViewSpec, get_policy, list_policies


def figures(spec: ViewSpec) -> tuple[object, ...]:
    return (
        spec.crop_scale[0],
        spec.jitter,
        spec.jitter_prob,
        spec.grey_prob,
        spec.blur_prob,
        spec.solarise_prob,
    )


# Lowest crop area, jitter, probabilities of jitter, grey, blur, solarise: copied from the papers, not from the table.
PUBLISHED = {
    ("simclr", 224): [(0.08, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0.0)] * 2,
    ("simclr", 32): [(0.08, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.0, 0.0)] * 2,
    ("mocov2", 224): [(0.2, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0.0)] * 2,
    ("mocov2", 32): [(0.08, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.0, 0.0)] * 2,
    ("byol", 224): [
        (0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, 0.0),
        (0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0.2),
    ],
    ("byol", 32): [(0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.0, s) for s in (0.0, 0.2)],
    ("simsiam", 224): [(0.2, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0.0)] * 2,
    ("simsiam", 32): [(0.2, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.0, 0.0)] * 2,
    ("barlow", 224): [
        (0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, 0.0),
        (0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0.2),
    ],
    ("barlow", 32): [(0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.0, s) for s in (0.0, 0.2)],
    ("vicreg", 224): [(0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.5, 0.1)] * 2,
    ("vicreg", 32): [(0.2, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.0, 0.1)] * 2,
    ("mocov3", 224): [
        (0.2, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, 0.0),
        (0.2, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0.2),
    ],
    ("mocov3", 32): [(0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.0, s) for s in (0.0, 0.2)],
    ("unigrad", 224): [(0.2, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0.0)] * 2,
    ("unigrad", 32): [(0.2, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.0, 0.0)] * 2,
    ("dino", 224): [
        (0.14, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, 0.0),
        (0.14, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0.2),
    ],
    ("dino", 32): [(0.4, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.0, s) for s in (0.0, 0.2)],
    ("swav", 224): [(0.14, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0.0)] * 2,
    ("swav", 32): [(0.14, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.0, 0.0)] * 2,
    ("wmse", 224): [(0.08, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0.0)] * 2,
    ("wmse", 32): [(0.2, (0.4, 0.4, 0.4, 0.1), 0.8, 0.1, 0.0, 0.0)] * 2,
    ("mmcr", 224): [
        (0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, 0.0),
        (0.08, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0.2),
    ],
    ("mmcr", 32): [(0.08, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.0, 0.0)] * 2,
    ("lejepa", 224): [(0.08, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0.1)] * 2,
    ("lejepa", 32): [(0.08, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.0, 0.1)] * 2,
}


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_published_figures(name: str, size: int) -> None:
    views = get_policy(name, size)
    assert [figures(v) for v in views] == PUBLISHED[name, size]
    assert all(v.size == size and v.flip_prob == 0.5 and v.crop_scale[1] == 1.0 for v in views)
    assert all(v.blur_sigma == (0.1, 2.0) and v.crop_ratio == (3 / 4, 4 / 3) for v in views)
    assert POLICIES[name].source


def test_every_policy_is_checked_above() -> None:
    assert {name for name, _ in PUBLISHED} | {"none"} == set(POLICIES)


def test_small_row_up_to_96_px() -> None:
    assert get_policy("simsiam", 96)[0].blur_prob == 0.0
    assert get_policy("simsiam", 97)[0].blur_prob == 0.5


@pytest.mark.parametrize(("size", "taps"), [(224, 23), (32, 3), (96, 9), (20, 3), (19, 1), (2, 1)])
def test_blur_kernel(size: int, taps: int) -> None:
    assert ViewSpec(size=size).blur_kernel == taps


def test_overrides_change_both_views_and_nothing_else() -> None:
    plain, changed = get_policy("byol", 32), get_policy("byol", 32, crop_scale=[0.3, 1.0])
    assert [v.crop_scale for v in changed] == [(0.3, 1.0)] * 2
    assert [dataclasses.replace(v, crop_scale=(0.08, 1.0)) for v in changed] == list(plain)


def test_list_policies() -> None:
    assert list_policies() == sorted({name for name, _ in PUBLISHED} | {"none"})
    assert list_policies("sim*") == ["simclr", "simsiam"]


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(ViewError, match="did you mean 'simsiam'"):
        get_policy("SimSam", 32)
    with pytest.raises(ViewError, match="did you mean 'grey_prob'"):
        get_policy("simsiam", 32, gray_prob=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("size", 32.0),
        ("size", True),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 0.4)),
        ("crop_scale", (0.5, 1.1)),
        ("crop_scale", 0.5),
        ("crop_ratio", (0.0, 1.0)),
        ("crop_ratio", (1.0, float("inf"))),
        ("flip_prob", 1.5),
        ("flip_prob", float("nan")),
        ("jitter", (0.4, 0.4, 0.4)),
        ("jitter", (-0.1, 0.4, 0.4, 0.1)),
        ("jitter", (0.4, 0.4, 0.4, 0.6)),
        ("jitter_prob", -0.1),
        ("grey_prob", "0.2"),
        ("blur_prob", 2),
        ("blur_sigma", (0.0, 2.0)),
        ("blur_sigma", (2.0, 0.1)),
        ("solarise_prob", True),
        ("solarise_threshold", 128),
    ],
)
def test_refusals_name_the_field(field: str, value: object) -> None:
    with pytest.raises(ViewError, match=rf"ViewSpec\.{field} .*must be"):
        ViewSpec(**{field: value})  # type: ignore[arg-type]


def test_policies_need_no_torch() -> None:
    code = (
        "import sys; from siamscope.views import get_policy, multi_crop; multi_crop(get_policy('byol', 32), 2);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    # The control: a tensor function does load it.
    code = "import sys; from siamscope.views import make_views; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
