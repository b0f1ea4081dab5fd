"""Signed distances of the outlines and ink patterns of the textures that `shapes` draws. Numpy only.

An outline is a function of the coordinates (x, y) in the shape's own frame, in units of its radius, y downwards. It
returns a signed distance (negative inside) that is right near the edge, which is all that anti-aliasing needs.
A texture is a function of the same frame in radians of the pattern. It returns a smooth field, positive where there is
ink.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Field = Callable[[Floats, Floats], Floats]


def _disc(x: Floats, y: Floats) -> Floats:
    return np.sqrt(x * x + y * y) - np.float32(0.95)


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.75)) - np.float32(0.25)


def _square(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.82)


def _triangle(x: Floats, y: Floats) -> Floats:
    y = y - np.float32(0.15)
    side = np.abs(x) * np.float32(0.8660254) - y * np.float32(0.5)
    return np.maximum(side, y) - np.float32(0.6)


def _cross(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - np.float32(1.0), np.minimum(x, y) - np.float32(0.36))


def _star(x: Floats, y: Floats) -> Floats:
    """Pentagram: a point is inside when at most one of the five lines leaves it out: the second largest decides."""
    largest = second = np.full_like(x, -np.inf)
    for k in range(5):
        angle = 2 * np.pi * k / 5 + np.pi / 2
        line = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
        second = np.maximum(second, np.minimum(largest, line))
        largest = np.maximum(largest, line)
    return second - np.float32(0.40)


def _heart(x: Floats, y: Floats) -> Floats:
    """A square standing on its corner, with a disc on each upper side."""
    half = np.float32(0.56)
    x, y = np.abs(x), y - np.float32(0.12)
    root = np.float32(0.70710678)
    diamond = (x + np.abs(y)) * root - half
    dx, dy = x - half * root, y + half * root
    distance: Floats = np.minimum(diamond, np.sqrt(dx * dx + dy * dy) - half)
    return distance


def _crescent(x: Floats, y: Floats) -> Floats:
    x = x - np.float32(0.15)
    dx = x - np.float32(0.62)
    squared = y * y
    outer, inner = np.sqrt(x * x + squared), np.sqrt(dx * dx + squared)
    distance: Floats = np.maximum(outer - np.float32(1.0), np.float32(0.72) - inner)
    return distance


def _plain(a: Floats, b: Floats) -> Floats:
    return np.full_like(a, -9.0)


def _stripes(a: Floats, b: Floats) -> Floats:
    return np.sin(a)


def _checks(a: Floats, b: Floats) -> Floats:
    half = np.float32(0.7)
    field: Floats = np.sin(a * half) * np.sin(b * half) * np.float32(1.4)
    return field


def _dots(a: Floats, b: Floats) -> Floats:
    return np.cos(a) + np.cos(b) - np.float32(0.55)


def _zigzag(a: Floats, b: Floats) -> Floats:
    """Stripes along b that a triangle wave of half a period's amplitude bends."""
    wave = np.arcsin(np.sin(a * np.float32(0.75)))
    field: Floats = np.sin(b + wave * np.float32(1.6))
    return field


def _grid(a: Floats, b: Floats) -> Floats:
    field: Floats = np.maximum(np.sin(a), np.sin(b)) - np.float32(0.45)
    return field


def _ripples(a: Floats, b: Floats) -> Floats:
    return np.cos(np.sqrt(a * a + b * b))


# The order makes the classes: class k has outline k % 8 and texture k % 7. Where two of the first ten share a texture
# (plain, stripes, checks), their outlines differ in area too, which a small network learns sooner than form alone.
SHAPES: dict[str, Field] = {
    "disc": _disc,
    "star": _star,
    "square": _square,
    "triangle": _triangle,
    "heart": _heart,
    "cross": _cross,
    "crescent": _crescent,
    "ring": _ring,
}
TEXTURES: dict[str, Field] = {
    "plain": _plain,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "ripples": _ripples,
    "zigzag": _zigzag,
    "grid": _grid,
}
CENTRED = {"ripples"}  # the other patterns start at a random phase
PHASED = set(TEXTURES) - CENTRED
