"""From data to axes: limits, round ticks, tick labels, and thinning of long series."""

import math
from dataclasses import dataclass

import numpy as np

from siamscope.report.markup import number, superscript
from siamscope.report.metrics import FloatArray

_LARGEST = 1e300  # beyond this differences overflow
_ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """A map from data in [low, high] to pixels in [start, stop], linear or logarithmic."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, values: FloatArray) -> FloatArray:
        """Pixel positions of `values`, clamped to the axis; NaN stays NaN."""
        low, high = self._axis(np.array([self.low, self.high]))
        share = (self._axis(np.asarray(values, dtype=np.float64)) - low) / (high - low)
        pixels: FloatArray = self.start + np.clip(share, 0.0, 1.0) * (self.stop - self.start)
        return pixels

    def _axis(self, values: FloatArray) -> FloatArray:
        if not self.log:
            return np.clip(values, -_LARGEST, _LARGEST)
        return np.log10(np.maximum(values, np.finfo(np.float64).tiny))

    def ticks(self, target: int = 4, counts: bool = False) -> list[tuple[float, str]]:
        """About `target` round values inside the axis with their labels; `counts`: whole numbers only."""
        return (
            log_ticks(self.low, self.high)
            if self.log
            else linear_ticks(self.low, self.high, target, 1.0 if counts else 0.0)
        )


def limits(
    values: FloatArray, low: float | None = None, high: float | None = None, log: bool = False
) -> tuple[float, float]:
    """Axis limits around the finite `values` with a little air; `low` or `high` fixes an end.

    A constant series gets an axis of its own size, so that it is drawn as a flat line; no finite value gives (0, 1).
    """
    finite = values[np.isfinite(values)]
    if log:
        finite = finite[finite > 1 / _LARGEST]
    if not len(finite):
        return (1e-3, 1.0) if log else (0.0, 1.0)
    bottom = float(np.clip(finite.min(), -_LARGEST, _LARGEST)) if low is None else low
    top = float(np.clip(finite.max(), -_LARGEST, _LARGEST)) if high is None else high
    if log:
        return (bottom, top) if top > bottom * 1.001 else (bottom / 3, top * 3)
    if top - bottom <= 1e-6 * max(abs(top), abs(bottom)):
        air = 0.1 * max(abs(top), abs(bottom)) or 1.0
    else:
        air = 0.04 * (top - bottom)
    return (bottom - air if low is None else low, top + air if high is None else max(top, bottom + air))


def linear_ticks(low: float, high: float, target: int = 4, least: float = 0.0) -> list[tuple[float, str]]:
    """About `target` multiples of 1, 2, 2.5 or 5 times a power of ten in [low, high], labelled to one precision.

    `least` is the smallest step between two of them.
    """
    raw = max((high - low) / target, least)
    power = math.floor(math.log10(raw))
    step = next(factor for factor in _ROUND_STEPS if factor * 10.0**power >= raw * 0.999) * 10.0**power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [index * step for index in range(first, last + 1)]
    largest = max(abs(low), abs(high))
    if largest < 2e-3 or largest >= 1e7:
        return [(value, number(value, 2)) for value in values]
    decimals = next((places for places in range(9) if math.isclose(step * 10**places, round(step * 10**places))), 9)
    return [(value, f"{value + 0.0:,.{decimals}f}".replace("-", "−")) for value in values]


def log_ticks(low: float, high: float, target: int = 5) -> list[tuple[float, str]]:
    """Powers of ten in [low, high], thinned to about `target`; 1, 2 and 5 times them when there is at most one."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 1:
        stride = max(1, math.ceil((last - first) / target))
        return [(10.0**power, superscript(power)) for power in range(last, first - 1, -stride)]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [(value, number(value, 1)) for value in values if low <= value <= high]


@dataclass(frozen=True)
class Thinned:
    """A series of at most so many points: means of bins, with the least and the greatest value inside each bin."""

    x: FloatArray
    y: FloatArray
    low: FloatArray
    high: FloatArray


def thin(x: FloatArray, y: FloatArray, bins: int = 200) -> Thinned:
    """Average consecutive points so that at most `bins` remain. A bin is NaN when none of its values is finite."""
    y = np.where(np.isfinite(y), y, np.nan)
    if len(x) <= bins:
        return Thinned(x, y, y, y)
    edges = np.linspace(0, len(x), bins + 1).astype(np.int64)[:-1]
    known = np.isfinite(y)
    count = np.add.reduceat(known, edges, dtype=np.float64)
    size = np.add.reduceat(np.ones(len(x)), edges)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.add.reduceat(np.where(known, y, 0.0), edges) / count
    low = np.fmin.reduceat(y, edges)
    high = np.fmax.reduceat(y, edges)
    return Thinned(np.add.reduceat(x, edges) / size, mean, low, high)
