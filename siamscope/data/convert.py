"""Arrays of many kinds to uint8 images N×C×S×S, piece by piece, so that the array may be larger than memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamscope.data.errors import DataError
from siamscope.data.source import Images

ACCEPTED = "N×H×W, N×H×W×C or N×C×H×W"
_PIECE_BYTES = 2**25


class Converter:
    """Turns rows of an array into images.

    Layout: three axes are N×H×W; of four, the smaller of the second and the last is the channels (if equal: the last).
    Values: uint8 as they are; bool times 255; uint16 divided by 257; other integers must lie in 0 .. 255; floats are
    times 255 if all lie in 0 .. 1, else must lie in 0 .. 255, and are rounded.
    Size: the shorter side is scaled (bilinear, antialiased) and the centre cut out. With `pad`, images that are
    smaller by up to a fifth of `size` get a border of zeros instead, as is usual for MNIST (28 to 32).
    Channels: 0 leaves them; 3 to 1 is the luma of ITU-R 601; 1 to more repeats.

    Raises DataError, which names the array: shape, type or range that fit none of these; NaN or infinity.
    """

    def __init__(
        self, name: str, values: NDArray[Any], size: int, channels: int = 0, min_side: int = 1, pad: bool = False
    ) -> None:
        self.name, self.values, self.size, self.pad = name, values, size, pad
        self._last = _channels_last(name, values.shape)
        height, width, present = self._height_width_channels()
        if min(height, width) < min_side:
            raise DataError(
                f"{name}: read as {len(values)} images of {height} × {width} pixels and {present} channels; "
                f"the shorter side is below data.min_side = {min_side} (accepted: {ACCEPTED})"
            )
        self.channels = channels or present
        if self.channels != present and not (present == 1 or (present == 3 and channels == 1)):
            raise DataError(f"{name} has {present} channels, which cannot become data.channels = {channels}; use 0")
        self._factor = self._scan()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the result."""
        return len(self.values), self.channels, self.size, self.size

    @property
    def step(self) -> int:
        """Rows of a piece."""
        return max(1, _PIECE_BYTES // max(1, self.values[:1].nbytes))

    def pieces(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, Images]]:
        """(first row, images) for one piece after another of these rows (`first` begins a piece)."""
        for start, piece in self._raw_pieces(first, stop):
            yield start, self._images(piece)

    def _height_width_channels(self) -> tuple[int, int, int]:
        shape = self.values.shape
        if len(shape) == 3:
            return shape[1], shape[2], 1
        return (shape[1], shape[2], shape[3]) if self._last else (shape[2], shape[3], shape[1])

    def _raw_pieces(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        stop = len(self.values) if stop is None else stop
        for start in range(first, stop, self.step):
            yield start, np.asarray(self.values[start : min(start + self.step, stop)])

    def _scan(self) -> float:
        """The factor that brings the values to 0 .. 255."""
        dtype = self.values.dtype
        if dtype == np.uint8:
            return 1.0
        if dtype == np.bool_:
            return 255.0
        if dtype == np.uint16:
            return 1 / 257
        if dtype.kind not in "iuf":
            raise DataError(f"{self.name} holds {dtype}; images must be uint8 or float")
        low, high = np.inf, -np.inf
        for start, piece in self._raw_pieces():
            if dtype.kind == "f" and not np.isfinite(piece).all():
                self._refuse_non_finite(start, piece)
            low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        if low < 0 or high > 255:
            raise DataError(
                f"{self.name} holds {dtype} from {low:g} to {high:g}; images must lie in 0 .. 1 or 0 .. 255 "
                f"(undo a normalisation before saving the array; 16-bit images must be uint16)"
            )
        return 255.0 if dtype.kind == "f" and high <= 1 else 1.0

    def _refuse_non_finite(self, start: int, piece: NDArray[Any]) -> None:
        place = np.unravel_index(int(np.isfinite(piece).argmin()), piece.shape)
        value = piece[place]
        index = ", ".join(str(int(i)) for i in (place[0] + start, *place[1:]))
        raise DataError(f"{self.name} holds {value} at index [{index}]; images must be finite numbers")

    def _images(self, piece: NDArray[Any]) -> Images:
        if piece.ndim == 3:
            piece = piece[:, None]
        elif self._last:
            piece = piece.transpose(0, 3, 1, 2)
        if piece.dtype != np.uint8:
            wide: NDArray[Any] = piece.astype(np.float64 if piece.dtype.itemsize > 4 else np.float32)
            scaled = np.rint(wide * self._factor)
            piece = np.clip(scaled, 0, 255).astype(np.uint8)
        piece = self._resized(self._coloured(piece))
        return np.ascontiguousarray(piece)

    def _coloured(self, images: Images) -> Images:
        present = images.shape[1]
        if present == self.channels:
            return images
        if present == 1:
            return np.repeat(images, self.channels, axis=1)
        weights = np.array([19595, 38470, 7471], np.uint32)  # Pillow's, so that a folder of the same images agrees
        luma = np.tensordot(images, weights, (1, 0)) + 0x8000
        grey: Images = (luma >> 16).astype(np.uint8)[:, None]
        return grey

    def _resized(self, images: Images) -> Images:
        height, width = images.shape[2:]
        size = self.size
        if height == width == size:
            return images
        if self.pad and height <= size and width <= size and min(height, width) * 5 >= size * 4:
            top, left = (size - height) // 2, (size - width) // 2
            margins = ((0, 0), (0, 0), (top, size - height - top), (left, size - width - left))
            return np.pad(images, margins)
        side = min(height, width)
        x, y = (width - side) / 2, (height - side) / 2
        box = (x, y, x + side, y + side)
        out = np.empty((*images.shape[:2], size, size), np.uint8)
        for image, target in zip(images, out, strict=True):
            for plane, small in zip(image, target, strict=True):
                picture = Image.fromarray(np.ascontiguousarray(plane))
                small[:] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))
        return out


def _channels_last(name: str, shape: tuple[int, ...]) -> bool:
    if len(shape) not in (3, 4):
        raise DataError(f"{name} has shape {shape}; images must be {ACCEPTED}")
    if 0 in shape:
        raise DataError(f"{name} has shape {shape}: it is empty")
    return len(shape) == 3 or shape[3] <= shape[1]
