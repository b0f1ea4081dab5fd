"""Image arrays as small PNG files inside data: addresses."""

import base64
import io
import math

import numpy as np
from PIL import Image

from siamscope.report.gallery import ImageArray
from siamscope.report.markup import Html, tag

_LARGEST_SIDE = 96
_BUDGET = (
    2_000_000  # characters for all pictures of a page, even when they hold pure noise (3 bytes a pixel, 4/3 in base64)
)


def side_for(count: int) -> int:
    """The longest side, in pixels, that keeps `count` pictures within the page's budget even if nothing compresses."""
    return max(16, min(_LARGEST_SIDE, math.isqrt(_BUDGET // (4 * max(count, 1)))))


def channels_note(channels: int) -> str:
    """How an image of so many channels is shown; empty for 1 and 3, where there is nothing to explain."""
    if channels in (1, 3):
        return ""
    if channels == 2:
        return "The images have 2 channels; the first is shown, in grey."
    return f"The images have {channels} channels; the first three are shown as red, green and blue."


def thumbnail(image: ImageArray, side: int, alt: str, title: str | None = None) -> Html:
    """An `img` of `image` (C, H, W), made no longer than `side` pixels, never enlarged."""
    width, height, data = encode(image, side)
    return tag("img", src=data, alt=alt, title=title, width=width, height=height)


def encode(image: ImageArray, side: int) -> tuple[int, int, str]:
    """Width, height and data: address of `image` (C, H, W) as PNG."""
    picture = _picture(image)
    scale = side / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return picture.width, picture.height, "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _picture(image: ImageArray) -> Image.Image:
    if image.shape[0] < 3:
        return Image.fromarray(np.ascontiguousarray(image[0]))
    return Image.fromarray(np.ascontiguousarray(image[:3].transpose(1, 2, 0)))
