"""One image file in, one small uint8 array out. Knows Pillow, and nothing of caches or processes.

What becomes of a picture: the EXIF orientation is applied; the centre square is cut out and scaled (bilinear,
antialiased) to `size`; transparency is laid on white; palettes, CMYK and the like become RGB; 16-bit greys are divided
by 257, so that 65,535 becomes 255; of an animation the first frame is taken; 1 channel is the luma of ITU-R 601.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from siamscope.data.source import Images

# Only these decoders may run: a file of another kind under an image's name is refused. JPEG opens MPO files too.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF")
_WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unusable(Exception):
    """An image that is set aside. `passing`: the cause lies outside the file and may be gone at the next start."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


@dataclass(frozen=True)
class DecodeOptions:
    """How image files are decoded; part of the cache's key."""

    size: int
    channels: int
    max_pixels: int = 100_000_000
    min_side: int = 8


def decode(path: str | BinaryIO, options: DecodeOptions) -> Images:
    """Decode one file, or what an open one holds, to uint8 (size, size) or (size, size, 3), by `options.channels`.

    Raises:
        Unusable: with the reason; no other exception leaves this function, whatever the file holds.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return _decode(image, options)
    except Unusable:
        raise
    except MemoryError:
        raise Unusable("not enough memory to decode it", passing=True) from None
    except Image.DecompressionBombError as error:
        raise Unusable(f"refused as a decompression bomb: {error}") from None
    except UnidentifiedImageError:
        raise Unusable("not an image of a known format, or damaged at its start") from None
    except OSError as error:
        # With a number it comes from the system (permission, input/output); without, from Pillow.
        raise Unusable(f"cannot be read: {error.strerror or error}", passing=error.errno is not None) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise Unusable(f"cannot be decoded: {type(error).__name__}: {error}") from None


def _decode(image: Image.Image, options: DecodeOptions) -> Images:
    width, height = image.size
    if width * height > options.max_pixels:
        raise Unusable(
            f"{width} × {height} pixels are more than max_pixels = {options.max_pixels:,}: refused unread, "
            f"it may be a decompression bomb"
        )
    if min(width, height) < options.min_side:
        raise Unusable(f"{width} × {height} pixels: the shorter side is below min_side = {options.min_side}")
    if image.format in ("JPEG", "MPO"):
        # libjpeg then decodes at 1/2, 1/4 or 1/8, still at least twice as fine as needed.
        image.draft("L" if options.channels == 1 else "RGB", (2 * options.size, 2 * options.size))
    image.load()
    # Asked before scaling, which drops it; applied after, when there is little left to turn.
    orientation = image.getexif().get(_ORIENTATION, 1) if _may_have_exif(image) else 1
    image = _to_colour(_square(_plain(image), options.size), options.channels)
    if orientation in _TURN:
        image = image.transpose(_TURN[orientation])
    return np.asarray(image)


def _may_have_exif(image: Image.Image) -> bool:
    """Whether it is worth parsing: most files of the usual data sets have none, and parsing takes long."""
    return image.format == "TIFF" or any("exif" in str(key) or "xmp" in str(key) for key in image.info)


def _plain(image: Image.Image) -> Image.Image:
    """The image as L, RGB or RGBA, or F in 0 .. 255 for what has more than 8 bits."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode in _WIDE:
        return _from_wide(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    values: NDArray[Any] = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise Unusable("its pixels hold NaN or infinity")
    if low < 0 or high > 65535:
        raise Unusable(f"its pixels run from {low:g} to {high:g}; at most 0 to 65535 (16 bits) has a known meaning")
    scale = 1 / 257  # integers: 16 bits, whatever the highest value in this picture is
    if image.mode == "F":
        scale = 255.0 if high <= 1 else 1.0 if high <= 255 else 1 / 257
    return Image.fromarray(values.astype(np.float32) * np.float32(scale))


def _square(image: Image.Image, size: int) -> Image.Image:
    """The centre square, scaled to size × size."""
    width, height = image.size
    if width == height == size:
        return image
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    # Pillow scales RGBA with premultiplied alpha, so hidden colours do not leak in.
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)


def _to_colour(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "F":
        image = Image.fromarray(np.clip(np.rint(np.asarray(image)), 0, 255).astype(np.uint8))
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


@contextmanager
def own_limits() -> Iterator[None]:
    """Within it `max_pixels` decides instead of Pillow's process-wide limit, and Pillow's warnings are silent."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
