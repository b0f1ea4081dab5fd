"""The picture of `siamscope diagnose`: is it collapsing? Spectra, their decay, and how fast they add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamscope.report.dynamics_style import DPI, INK, LINES, SERIES, SOFT, dress, new_figure
from siamscope.report.figure import save_png
from siamscope.report.markup import shorten

FloatArray = NDArray[np.float64]

TONES = {"healthy": "#0a7050", "partial collapse": "#8f5a00", "collapse": "#b3261e",
         "complete collapse": "#b3261e"}  # fmt: skip
BASELINE = "#8a919c"
FLOOR = 1e-7
"""Below this share of the largest, singular values are rounding noise and are not drawn."""
MOST = 5
"""Inputs that are drawn; more cannot be told apart."""


def draw(inputs: Sequence[Mapping[str, Any]], out: Path, dpi: int = DPI) -> Path:
    """Write the picture as PNG. `inputs`: as in the JSON of `siamscope diagnose`; at most `MOST` are drawn.

    Raises:
        ReportError: the file cannot be written.
    """
    return save_png(picture(inputs), out, dpi)


def picture(inputs: Sequence[Mapping[str, Any]]) -> Any:
    """Three panels: deviation of every direction, its share of the largest, cumulative explained variance with AUC."""
    shown = list(inputs[:MOST])
    figure = new_figure(12.4, 4.1)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.0, 1.0, 1.12])
    _deviations(left, shown)
    _decay(middle, shown)
    _cumulative(right, shown)
    _heading(figure, inputs, shown)
    return figure


def cumulative(sigma: FloatArray) -> FloatArray:
    """CEV(k), k = 1..d; all on the first direction for a spectrum of zeros."""
    total = float(sigma.sum())
    added: FloatArray = np.cumsum(sigma) / total if total > 0 else np.ones(len(sigma))
    return added


def _heading(figure: Any, inputs: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]]) -> None:
    if len(inputs) == 1:
        one = inputs[0]
        status = str(one["verdict"]["status"])
        text = f"{shorten(str(one['name']), 60)}: {status}"
        figure.suptitle(text, fontsize=13, x=0.012, ha="left", color=TONES.get(status, INK), weight="bold")
        return
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=SERIES[i % len(SERIES)], lw=2.2, ls=LINES[i % len(LINES)],
               label=f"{shorten(str(one['name']), 28)}: {one['verdict']['status']}")
        for i, one in enumerate(shown)
    ]  # fmt: skip
    handles.append(Line2D([], [], color=BASELINE, lw=1.4, ls=(0, (1, 1.2)), label="no collapse, as many samples"))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles) if len(handles) < 5 else 3,
        frameon=False,
        fontsize=10,
    )


def _lines(axes: Any, shown: Sequence[Mapping[str, Any]], make: Any) -> None:
    for i, one in enumerate(shown):
        sigma = np.asarray(one["spectrum"]["sigma"], dtype=np.float64)
        k, y = np.arange(1, len(sigma) + 1), make(one, sigma)
        dots = {"marker": "o", "ms": 4} if len(sigma) <= 16 else {}
        axes.plot(k, y, color=SERIES[i % len(SERIES)], lw=2.2, ls=LINES[i % len(LINES)], zorder=4, **dots)


def _deviations(axes: Any, shown: Sequence[Mapping[str, Any]]) -> None:
    def make(one: Mapping[str, Any], sigma: FloatArray) -> FloatArray:
        kept: FloatArray = np.where(sigma > FLOOR * max(sigma[0], 1e-300), sigma, np.nan)
        spread: FloatArray = kept / float(one["n"]) ** 0.5
        return spread

    _lines(axes, shown, make)
    axes.set_xscale("log")
    _plain_logs(axes.xaxis)
    if any(np.max(one["spectrum"]["sigma"]) > 0 for one in shown):
        axes.set_yscale("log")
        _plain_logs(axes.yaxis)
    dress(axes, "spread along every direction", "direction k", r"$\sigma_k / \sqrt{N}$", grid=True)


def _decay(axes: Any, shown: Sequence[Mapping[str, Any]]) -> None:
    def share(sigma: FloatArray) -> FloatArray:
        top = max(float(sigma[0]), 1e-300)
        out: FloatArray = np.where(sigma > FLOOR * top, sigma / top, np.nan)
        return out

    _lines(axes, shown, lambda one, sigma: share(sigma))
    expected = np.asarray(shown[0]["spectrum"]["isotropic"], dtype=np.float64)
    axes.plot(np.arange(1, len(expected) + 1), share(expected), color=BASELINE, lw=1.4, ls=(0, (1, 1.2)), zorder=3)
    axes.set_yscale("log")
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
    low = float(np.nanmin(drawn)) if np.isfinite(drawn).any() else 0.05
    axes.set_ylim(max(min(low, 0.05) / 1.6, FLOOR), 1.6)
    dead = float(shown[0]["spectrum"]["dead_share"])
    if axes.get_ylim()[0] < dead:
        axes.axhspan(axes.get_ylim()[0], dead, color="#f3e4df", zorder=0, lw=0)
        axes.annotate("dead directions", (0.02, dead), xycoords=("axes fraction", "data"), xytext=(0, -4),
                      textcoords="offset points", va="top", fontsize=9, color="#8a4b39")  # fmt: skip
    _plain_logs(axes.yaxis)
    axes.xaxis.get_major_locator().set_params(integer=True)
    dress(axes, "relative to the largest", "direction k", r"$\sigma_k / \sigma_1$", grid=True)


def _cumulative(axes: Any, shown: Sequence[Mapping[str, Any]]) -> None:
    """Steps, so that the area under them is the AUC itself: the mean of CEV(k) over k = 1..d."""
    for i, one in enumerate(shown):
        x, y = _steps(np.asarray(one["spectrum"]["sigma"], dtype=np.float64))
        if len(shown) == 1:
            axes.fill_between(x, y, step="pre", color=SERIES[0], alpha=0.12, lw=0)
        axes.step(x, y, where="pre", color=SERIES[i % len(SERIES)], lw=2.2, ls=LINES[i % len(LINES)], zorder=4)
    x, y = _steps(np.asarray(shown[0]["spectrum"]["isotropic"], dtype=np.float64))
    axes.step(x, y, where="pre", color=BASELINE, lw=1.4, ls=(0, (1, 1.2)), zorder=3)
    baseline = float(shown[0]["baseline"]["auc_sigma"])
    words = [
        (f"AUC {float(one['scores']['auc_sigma']['value']):.3f}", SERIES[i % len(SERIES)])
        for i, one in enumerate(shown)
    ]
    words.append((f"no collapse: {baseline:.3f}", SOFT))
    for i, (text, colour) in enumerate(reversed(words)):
        axes.text(0.98, 0.05 + 0.095 * i, text, transform=axes.transAxes, ha="right", fontsize=11.5,
                  color=colour, weight="bold" if colour != SOFT else "normal", zorder=6)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    dress(axes, "how fast it adds up", "share of the d directions", "cumulative explained variance", grid=True)


def _steps(sigma: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ends of the steps: CEV(k) holds from (k - 1)/d to k/d."""
    curve = cumulative(sigma)
    return np.arange(len(curve) + 1) / len(curve), np.concatenate([curve[:1], curve])


def _plain_logs(axis: Any) -> None:
    """Powers of ten as such; over less than two decades 1, 2 and 5 of each, in plain digits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_minor_formatter(NullFormatter())
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
