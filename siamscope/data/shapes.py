"""`shapes`: an endless procedural data set whose classes survive augmentation. Numpy only.

The class is an outline together with a texture ("disc-plain", "square-stripes", ...). Everything else about an image (colours, position, size, tilt, pattern phase,
gradient and blurred lights behind, sensor noise) is drawn from a counter-based generator keyed by (seed, index), so image i is the same in whatever batch it is asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamscope.data._draw import PHASED, SHAPES, TEXTURES, Floats

_SHAPE_NAMES, _TEXTURE_NAMES = tuple(SHAPES), tuple(TEXTURES)
MAX_CLASSES = len(_SHAPE_NAMES) * len(_TEXTURE_NAMES)
MAX_INDEX = 2**62
_PIXELS_A_CHUNK = 2**17  # planes of half a megabyte stay in cache
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LIGHTS = 4


class ShapesError(ValueError):
    """A field of `ShapesSpec`, or an index, is outside what `shapes` can draw."""


@dataclass(frozen=True)
class ShapesSpec:
    """What to draw.

    seed: any integer in [0, 2**63); another seed is another data set. size: side in pixels, 16 to 512. classes: 2 to 40. channels: 3, or 1 for grey.
    """

    seed: int = 0
    size: int = 32
    classes: int = 10
    channels: int = 3

    def __post_init__(self) -> None:
        _check_range("seed", self.seed, 0, 2**63 - 1)
        _check_range("size", self.size, 16, 512)
        _check_range("classes", self.classes, 2, MAX_CLASSES)
        if self.channels not in (1, 3):
            raise ShapesError(f"shapes: channels is {self.channels!r}; it must be 1 (grey) or 3 (colour)")


def _check_range(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ShapesError(f"shapes: {field} is {value!r}; it must be an integer from {low} to {high}")


def class_names(spec: ShapesSpec) -> tuple[str, ...]:
    """Names such as "disc-plain", one a class."""
    return tuple(f"{_SHAPE_NAMES[s]}-{_TEXTURE_NAMES[t]}" for s, t in map(_shape_and_texture, range(spec.classes)))


def _shape_and_texture(label: int) -> tuple[int, int]:
    # 8 and 5 share no divisor, so by the Chinese remainder theorem the 40 pairs are all different, and the first classes already mix both cues
    return label % len(_SHAPE_NAMES), label % len(_TEXTURE_NAMES)


def labels(indices: NDArray[np.integer], spec: ShapesSpec) -> NDArray[np.int64]:
    """Class of each index, int64 (B,): a uniform draw keyed by (seed, index). Raises ShapesError for an index outside [0, 2**62)."""
    return _labels(_keys(indices, spec.seed), spec.classes)


def _labels(keys: NDArray[np.uint64], classes: int) -> NDArray[np.int64]:
    return (_uniform(keys, 0) * classes).astype(np.int64)


def generate(indices: NDArray[np.integer], spec: ShapesSpec) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw images: uint8 (B, channels, size, size) and labels int64 (B,). Memory beyond the result is bounded whatever B is.

    Raises ShapesError for indices that are not a flat integer array within [0, 2**62).
    """
    keys = _keys(indices, spec.seed)
    label = _labels(keys, spec.classes)
    images = np.empty((len(keys), spec.channels, spec.size, spec.size), np.uint8)
    step = max(1, _PIXELS_A_CHUNK // spec.size**2)
    for start in range(0, len(keys), step):
        part = slice(start, start + step)
        _draw(keys[part], label[part], spec, images[part])
    return images, label


# --- random numbers: splitmix64 as a function of (seed, index, draw) -------------------------------------------------------------------------


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _keys(indices: NDArray[np.integer], seed: int) -> NDArray[np.uint64]:
    indices = np.asarray(indices)
    if indices.ndim != 1 or not (np.issubdtype(indices.dtype, np.integer) or indices.size == 0):
        raise ShapesError(
            f"shapes: indices must be a flat array of integers, not {indices.dtype} of shape {indices.shape}"
        )
    if indices.size and not (0 <= int(indices.min()) and int(indices.max()) < MAX_INDEX):
        raise ShapesError(f"shapes: indices run from {indices.min()} to {indices.max()}; they must lie in [0, 2**62)")
    start = _mix(np.array([seed], np.uint64) + _GOLDEN)
    return _mix(start + indices.astype(np.uint64) * _GOLDEN)


def _uniform(keys: NDArray[np.uint64], draw: int) -> NDArray[np.float64]:
    """Uniform in [0, 1), one a key."""
    return (_mix(keys + np.uint64((draw + 1) * int(_GOLDEN) % 2**64)) >> np.uint64(11)) * 2.0**-53


class _Draws:
    """Hands out the random numbers of each image one after another, so that the order of the calls is the only numbering."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self._keys = keys
        self._next = 1  # 0 is the label

    def between(self, low: float, high: float) -> Floats:
        """(B, 1, 1), uniform."""
        self._next += 1
        return (low + (high - low) * _uniform(self._keys, self._next)).astype(np.float32)[:, None, None]

    def columns(self, low: float, high: float, count: int) -> Floats:
        """(B, count), uniform."""
        return np.concatenate([self.between(low, high)[:, 0] for _ in range(count)], 1)


# --- drawing ----------------------------------------------------------------------------------------------------------------------------


def _draw(keys: NDArray[np.uint64], label: NDArray[np.int64], spec: ShapesSpec, out: NDArray[np.uint8]) -> None:
    draws = _Draws(keys)
    axis = ((np.arange(spec.size, dtype=np.float32) + np.float32(0.5)) / np.float32(spec.size))[
        None
    ]  # 0..1 over the image
    radius = draws.between(0.34, 0.42)
    cover, ink = _figure(draws, label, axis, radius, spec.size)
    ink *= cover
    colours = _palette(draws)
    behind, front, mark = colours
    lights, gradient = _background(draws, axis)
    noise = _noise(keys, spec.size)
    for c in range(spec.channels):
        if spec.channels == 1:  # Rec. 601 luma
            weights = np.array([0.299, 0.587, 0.114], np.float32)
            b, f, m = behind @ weights, front @ weights, mark @ weights
            light = lights(weights)
        else:
            b, f, m = behind[:, c], front[:, c], mark[:, c]
            light = lights(np.eye(3, dtype=np.float32)[c])
        plane = gradient * b[:, None, None] + light
        plane += cover * (f[:, None, None] - plane)
        plane += ink * (m - f)[:, None, None]
        plane *= np.float32(255)
        plane += noise[..., c]
        np.clip(plane, 0, 255, out=plane)
        out[:, c] = plane


def _figure(draws: _Draws, label: NDArray[np.int64], axis: Floats, radius: Floats, size: int) -> tuple[Floats, Floats]:
    """Coverage of the outline and of the ink, each (B, H, W) in 0..1, edges one pixel wide."""
    wander = 0.06
    x = axis[:, None, :] - draws.between(0.5 - wander, 0.5 + wander)
    y = axis[:, :, None] - draws.between(0.5 - wander, 0.5 + wander)
    tilt = draws.between(-0.3, 0.3)
    cos, sin = np.cos(tilt), np.sin(tilt)
    x, y = (x * cos + y * sin) / radius, (y * cos - x * sin) / radius
    period = draws.between(0.17, 0.20)  # of the image's side
    wave = np.float32(2 * np.pi) * radius / period
    phases = draws.columns(0, 2 * np.pi, 2)
    distance, field = np.empty_like(x), np.empty_like(x)
    for s, name in enumerate(_SHAPE_NAMES):
        rows = np.flatnonzero(label % len(_SHAPE_NAMES) == s)
        if len(rows):
            distance[rows] = SHAPES[name](x[rows], y[rows])
    for t, name in enumerate(_TEXTURE_NAMES):
        rows = np.flatnonzero(label % len(_TEXTURE_NAMES) == t)
        if len(rows):
            shift = phases[rows, :, None] * np.float32(name in PHASED)
            field[rows] = TEXTURES[name](x[rows] * wave[rows] + shift[:, :1], y[rows] * wave[rows] + shift[:, 1:])
    half = np.float32(0.5)
    cover = np.clip(half - distance * (radius * np.float32(size)), 0, 1)
    ink = np.clip(half + field * (period * np.float32(size / (2 * np.pi))), 0, 1)
    return cover, ink


def _palette(draws: _Draws) -> tuple[Floats, Floats, Floats]:
    """Colours (B, 3) of background, figure and ink: the figure always lighter, since which of the two is lighter would survive augmentation."""
    hue = draws.between(0, 1)
    behind = _hsv(draws.between(0, 1), draws.between(0.35, 0.75), draws.between(0.18, 0.40))
    front = _hsv(hue, draws.between(0.25, 0.65), draws.between(0.85, 1.0))
    mark = _hsv(hue + draws.between(-0.12, 0.12), draws.between(0.5, 0.8), draws.between(0.25, 0.45))
    return behind, front, mark


def _hsv(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """(B, 3) from three (B, 1, 1)."""
    shift = np.array([5, 3, 1], np.float32) + hue[:, 0] * np.float32(6)
    k = shift % np.float32(6)
    ramp = np.clip(np.minimum(k, np.float32(4) - k), 0, 1)
    return value[:, 0] * (np.float32(1) - saturation[:, 0] * ramp)


def _background(draws: _Draws, axis: Floats):  # type: ignore[no-untyped-def]
    angle, depth = draws.between(0, 2 * np.pi), draws.between(0.1, 0.4)
    centred = axis - np.float32(0.5)
    gradient = np.float32(1) + depth * (
        centred[:, None, :] * np.cos(angle) + centred[:, :, None] * np.sin(angle)
    ) * np.float32(2)
    across, down = draws.columns(0, 1, _LIGHTS)[:, :, None], draws.columns(0, 1, _LIGHTS)[:, :, None]
    spread = draws.columns(0.04, 0.12, _LIGHTS)[:, :, None]
    strength = draws.columns(0.05, 0.3, _LIGHTS)
    colour = np.stack(
        [_hsv(draws.between(0, 1), draws.between(0.3, 0.8), strength[:, k, None, None]) for k in range(_LIGHTS)], 1
    )
    gx = np.exp(-(((axis[:, None, :] - across) / spread) ** 2))
    gy = np.exp(-(((axis[:, None, :] - down) / spread) ** 2))

    def lights(weights: Floats) -> Floats:
        amount = colour @ weights
        return np.matmul((gy * amount[:, :, None]).transpose(0, 2, 1), gx)

    return lights, gradient


def _noise(keys: NDArray[np.uint64], size: int) -> Floats:
    """(B, H, W, 3): triangular noise of a few grey levels, two bytes of one 64-bit draw a channel."""
    counter = np.arange(size * size, dtype=np.uint64) * _GOLDEN
    bits = _mix(_mix(keys + np.uint64(1 << 40))[:, None] + counter).astype("<u8").view(np.uint8)
    pairs = bits.reshape(len(keys), size, size, 4, 2)
    total = pairs[..., :3, 0].astype(np.float32) + pairs[..., :3, 1]
    return (total - np.float32(255)) * np.float32(0.05) + np.float32(0.5)


def stream(spec: ShapesSpec, batch: int, start: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Endless consecutive batches from index `start` on."""
    while True:
        yield generate(np.arange(start, start + batch), spec)
        start += batch
