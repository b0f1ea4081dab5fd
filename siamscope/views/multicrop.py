"""Multi-crop (Caron et al. 2020, SwAV, arXiv 2006.09882): global views followed by small local crops. Imports no torch.

As published, at 224 px:

* SwAV: 2 x 224 + 6 x 96 px, areas (0.14, 1) and (0.05, 0.14), the same colours everywhere:
  `multi_crop(get_policy("swav", 224), 6, 96, (0.14, 1.0), (0.05, 0.14))`;
* DINO (arXiv 2104.14294, its code's defaults): 2 x 224 + 8 x 96 px, areas (0.4, 1) and (0.05, 0.4), half of the local
  crops blurred: `multi_crop(get_policy("dino", 224), 8, 96, (0.4, 1.0), (0.05, 0.4), blur_prob=0.5)`.

No paper prints local crops for images of 32 px; SwAV's first author doubts that they help there.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from siamscope.views.errors import ViewError
from siamscope.views.policies import ViewSpec

LEAST_PIXELS = 4  # source pixels that the smallest local crop must cover: fewer show a colour, not a part
_LOCAL_SHARE = 96 / 224  # side of a local crop over that of a global view, in SwAV and DINO
_LEAST_SIZE = 8

Scale = tuple[float, float]


def multi_crop(
    pair: Sequence[ViewSpec],
    locals: int,
    local_size: int | None = None,
    global_scale: Scale | None = None,
    local_scale: Scale = (0.05, 0.4),
    *,
    image_size: int | tuple[int, int] | None = None,
    **changes: Any,
) -> tuple[ViewSpec, ...]:
    """The global views `pair`, then `locals` local crops with the colours of the first of them.

    `local_size`: side of a local crop, px (None: see default_local_size). `global_scale`, `local_scale`: lowest and
    highest area of a crop as a fraction of the image (None: the policy's). `image_size`: side, or height and width, of
    the source images, px, for the check of the smallest crop (None: as the first view). `changes`: other fields of
    ViewSpec that the local crops change.
    The global views come first and draw first, so make_views gives the same ones as without local crops.
    With `locals` = 0 the rest about local crops is not read.
    Raises ViewError, naming the argument: no global view; a negative count; a local crop larger than a global view; a
    smallest crop of fewer than 4 source pixels; more views than the image has pixels; whatever ViewSpec refuses.
    """
    if not pair:
        raise ViewError("multi_crop: pair is empty; give at least one global view")
    if isinstance(locals, bool) or not isinstance(locals, int) or locals < 0:
        raise ViewError(f"multi_crop: locals is {locals!r}; it must be a whole number of crops, at least 0")
    views = tuple(pair)
    if global_scale is not None:
        views = tuple(_changed("global_scale", view, crop_scale=global_scale) for view in views)
    if not locals:
        return views
    smallest = min(view.size for view in views)
    size = default_local_size(smallest) if local_size is None else local_size
    local = _changed("local_size", views[0], size=size)
    if size > smallest:
        raise ViewError(f"multi_crop: local_size is {size}; it must be at most that of the global views, {smallest} px")
    local = _changed("local_scale", local, crop_scale=local_scale)
    _check_pixels(local, len(views) + locals, views[0].size if image_size is None else image_size)
    known = [f.name for f in fields(ViewSpec) if f.name not in ("size", "crop_scale")]
    for name, value in changes.items():
        if name not in known:
            raise ViewError(f"multi_crop: unknown field of a local crop {name!r} (valid: {', '.join(known)})")
        local = _changed(name, local, **{name: value})
    return views + (local,) * locals


def default_local_size(size: int) -> int:
    """Side of the local crops beside global views of `size` px: 96/224 of it, at least 8 px, at most `size`.

    224 px: 96; 96 px: 41; 64 px: 27; 32 px: 14. A network of patches needs a multiple of its patch instead.
    """
    return min(size, max(_LEAST_SIZE, round(size * _LOCAL_SHARE)))


def _check_pixels(local: ViewSpec, views: int, image_size: int | tuple[int, int]) -> None:
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ViewError(f"multi_crop: image_size is {image_size!r}; give a side, or height and width, at least 1 px")
    height, width = sides
    covered = local.crop_scale[0] * height * width
    if covered < LEAST_PIXELS:
        raise ViewError(
            f"multi_crop: local_scale starts at {local.crop_scale[0]:g}, {covered:.3g} of an image's {height * width} "
            f"pixels; a local crop must cover at least {LEAST_PIXELS}: from {LEAST_PIXELS / height / width:.3g} upwards"
        )
    if views > height * width:
        raise ViewError(f"multi_crop: locals makes {views} views, more than an image's {height * width} pixels")


def _changed(name: str, view: ViewSpec, **change: Any) -> ViewSpec:
    try:
        return replace(view, **change)
    except ViewError as error:
        raise ViewError(f"multi_crop: {name}: {error}") from None
