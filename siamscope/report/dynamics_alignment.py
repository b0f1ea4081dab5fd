"""The figure of `siamscope dynamics alignment`: whole matrices over time, the median over seeds and their spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siamscope.report.dynamics_style import (
    GREEN,
    INK,
    LEARN,
    LINES,
    SERIES,
    SOFT,
    Cell,
    dress,
    new_figure,
    save,
    save_table,
    short,
)

if TYPE_CHECKING:
    from siamscope.dynamics.alignment import Traces

_WINDOW = "#e3f1ec"


@dataclass(frozen=True, eq=False)
class Peaks:
    """Peak growth (V, N) over values (V,), with tau = 1 and with a moving average."""

    values: npt.NDArray[np.float64]
    constant: npt.NDArray[np.float64]
    average: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Alignment:
    """All that is drawn; traces by eta, or by (momentum, eta)."""

    etas: tuple[float, ...]
    commutators: tuple[Traces, ...]
    asymmetries: tuple[Traces, ...]
    momenta: tuple[float, ...]
    followings: tuple[Traces, ...]
    """momentum by eta, eta fastest"""
    following_etas: tuple[float, ...]
    by_eta: Peaks
    by_alpha_p: Peaks
    window: tuple[float, float]
    """eta from which alignment is sure, and up to which there is something to learn"""
    beta: float
    eta_fixed: float
    start: str


def write_alignment(found: Alignment, folder: Path, name: str = "alignment") -> list[Path]:
    """PNG, SVG and five tables: -commutator, -asymmetry, -cosine, -cosine-mean, -peaks.

    Raises:
        ReportError: a file cannot be written.
    """
    figure = new_figure(13.2, 7.6)
    grid = figure.subplots(2, 3)
    _commutator(grid[0, 0], found)
    _peaks(grid[0, 1], found.by_eta, found, r"weight decay $\eta$")
    _peaks(grid[0, 2], found.by_alpha_p, found, r"predictor's rate $\alpha_p$")
    _asymmetry(grid[1, 0], found)
    _cosine(grid[1, 1], found)
    _means(grid[1, 2], found)
    return [*save(figure, folder, name), *_tables(found, folder, name)]


def _band(axes: Any, traces: Traces, k: int, label: str) -> None:
    low, middle, high = traces.middle()
    colour = SERIES[k % len(SERIES)]
    axes.fill_between(traces.times, low, high, color=colour, alpha=0.16, lw=0)
    axes.plot(traces.times, middle, color=colour, ls=LINES[k % len(LINES)], lw=1.9, label=label)


def _commutator(axes: Any, found: Alignment) -> None:
    dress(axes, r"$|[F, W_p]|$ over its start", r"time $t$", grid=True)
    for k, (eta, traces) in enumerate(zip(found.etas, found.commutators, strict=True)):
        _band(axes, traces, k, rf"$\eta = {short(eta)}$")
        if traces.bound is not None:
            axes.plot(traces.times, np.median(traces.bound, 0), color=SERIES[k % len(SERIES)], lw=4.5, alpha=0.28)
    axes.plot([], [], color=SOFT, lw=4.5, alpha=0.35, label=r"bound $e^{-2\int \lambda_{\min}(K)}$")
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 60)
    axes.margins(x=0)
    axes.legend(fontsize=9.5, frameon=False, loc="upper right", handlelength=2.6)


def _peaks(axes: Any, peaks: Peaks, found: Alignment, label: str) -> None:
    over_eta = peaks is found.by_eta
    fixed = r"$\alpha_p = 1$" if over_eta else rf"$\eta = {short(found.eta_fixed)}$"
    dress(axes, rf"largest growth of $|[F, W_p]|$,  {fixed}", label, grid=True)
    kinds = ((peaks.constant, INK, "-", "o", r"$\tau = 1$"),
             (peaks.average, GREEN, (0, (5, 2)), "s", rf"moving average, $\beta = {short(found.beta)}$"))  # fmt: skip
    for values, colour, style, marker, text in kinds:
        axes.fill_between(peaks.values, values.min(1), values.max(1), color=colour, alpha=0.12, lw=0)
        axes.plot(peaks.values, np.median(values, 1), color=colour, ls=style, marker=marker, ms=5, lw=1.8, label=text)
    low, high = found.window
    if over_eta and low < peaks.values[-1]:
        axes.axvspan(low, min(high, float(peaks.values[-1])), color=_WINDOW, lw=0, zorder=0, label="alignment is sure")
    axes.set_yscale("log")
    ticks = [
        tick for tick in (1, 2, 5, 10, 20, 50) if tick <= 1.3 * float(max(v.max() for v, *_ in kinds)) or tick == 2
    ]
    axes.set_yticks(ticks, [f"×{tick}" for tick in ticks])
    axes.minorticks_off()
    if peaks.values[-1] > 10 * peaks.values[0] and not over_eta:
        axes.set_xscale("log")
        axes.set_xticks(peaks.values, [short(value) for value in peaks.values])
        axes.minorticks_off()
    elif len(peaks.values) == 1:
        axes.set_xticks(peaks.values, [short(peaks.values[0])])
    low, high = axes.get_ylim()
    if len(peaks.values) == 1 or high < 1.3 * low:  # nothing falls from left to right and leaves room
        axes.set_ylim(low / 1.15, high * (high / low) ** 0.5 * 1.4)
    axes.legend(fontsize=9.5, frameon=False, loc="upper right", handlelength=2.6)


def _asymmetry(axes: Any, found: Alignment) -> None:
    dress(axes, r"asymmetry $|W_p - W_p^T|$ over its start", r"time $t$", grid=True)
    for k, (eta, traces) in enumerate(zip(found.etas, found.asymmetries, strict=True)):
        _band(axes, traces, k, rf"$\eta = {short(eta)}$")
    axes.set_yscale("log")
    axes.set_ylim(1e-6, 2)
    axes.margins(x=0)
    axes.legend(fontsize=9.5, frameon=False, loc="upper right", handlelength=2.6)


def _cosine(axes: Any, found: Alignment) -> None:
    words = {"zero": "target from 0", "copy": "target a copy", "random": "target another draw"}
    eta = found.following_etas[len(found.following_etas) // 2]
    dress(axes, rf"$\cos(W_a, W)$,  $\eta = {short(eta)}$,  {words[found.start]}", r"time $t$", grid=True)
    width = len(found.following_etas)
    for k, momentum in enumerate(found.momenta):
        _band(axes, found.followings[k * width + width // 2], k, rf"$\gamma_a = {short(momentum)}$")
    axes.margins(x=0)
    axes.ticklabel_format(axis="y", useOffset=False)  # 0.99998, and not -2e-5 with +1 above the axis
    axes.legend(fontsize=9.5, frameon=False, loc="lower right", handlelength=2.6)


def _means(axes: Any, found: Alignment) -> None:
    dress(axes, r"mean of $\cos(W_a, W)$ over time", r"momentum $\gamma_a$ of the target", grid=True)
    width, places = len(found.following_etas), np.arange(len(found.momenta))
    for j, eta in enumerate(found.following_etas):
        means = [found.followings[k * width + j].values.mean(1) for k in range(len(found.momenta))]
        shift = places + 0.16 * (j - (width - 1) / 2)
        middle = [float(np.median(mean)) for mean in means]
        reach = [[m - mean.min() for m, mean in zip(middle, means, strict=True)],
                 [mean.max() - m for m, mean in zip(middle, means, strict=True)]]  # fmt: skip
        axes.errorbar(
            shift, middle, yerr=reach, fmt="osD^v"[j % 5], ms=6, color=SERIES[j % len(SERIES)], capsize=3, lw=1.4,
            label=rf"$\eta = {short(eta)}$",
        )  # fmt: skip
    axes.axhline(0.9, color=LEARN, lw=1.2, ls=(0, (1.5, 1.5)))
    axes.text(places[0] - 0.35, 0.902, "0.9", color=LEARN, fontsize=9.5, va="bottom")
    axes.set_xticks(places, [short(momentum) for momentum in found.momenta])
    axes.set_xlim(-0.5, len(places) - 0.5)
    low = min(float(traces.values.mean(1).min()) for traces in found.followings)
    axes.set_ylim(min(0.88, low - 0.02), 1.004)
    axes.legend(fontsize=9.5, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.2))


def _tables(found: Alignment, folder: Path, name: str) -> list[Path]:
    return [
        save_table(
            folder, f"{name}-commutator", ("eta", "seed", "t", "commutator", "bound"),
            _series(found.etas, found.commutators, bound=True),
        ),
        save_table(
            folder, f"{name}-asymmetry", ("eta", "seed", "t", "asymmetry"), _series(found.etas, found.asymmetries)
        ),
        save_table(folder, f"{name}-cosine", ("momentum", "eta", "seed", "t", "cosine"), _cosines(found), 9),
        save_table(folder, f"{name}-cosine-mean", ("momentum", "eta", "seed", "mean_cosine"), _cosine_means(found)),
        save_table(
            folder, f"{name}-peaks", ("over", "value", "target", "seed", "peak"),
            [*_peak_rows("eta", found.by_eta), *_peak_rows("alpha_p", found.by_alpha_p)],
        ),
    ]  # fmt: skip


def _series(values: Sequence[float], all_traces: Sequence[Traces], bound: bool = False) -> Iterator[list[Cell]]:
    for value, traces in zip(values, all_traces, strict=True):
        for seed, curve in enumerate(traces.values):
            for i, t in enumerate(traces.times):
                above = [float(traces.bound[seed, i])] if bound and traces.bound is not None else []
                yield [value, seed, float(t), float(curve[i]), *above]


def _pairs(found: Alignment) -> Iterator[tuple[float, float, Traces]]:
    for k, traces in enumerate(found.followings):
        width = len(found.following_etas)
        yield found.momenta[k // width], found.following_etas[k % width], traces


def _cosines(found: Alignment) -> Iterator[list[Cell]]:
    for momentum, eta, traces in _pairs(found):
        for row in _series([eta], [traces]):
            yield [momentum, *row]


def _cosine_means(found: Alignment) -> Iterator[list[Cell]]:
    for momentum, eta, traces in _pairs(found):
        for seed, mean in enumerate(traces.values.mean(1)):
            yield [momentum, eta, seed, float(mean)]


def _peak_rows(over: str, peaks: Peaks) -> Iterator[list[Cell]]:
    for target, values in (("constant", peaks.constant), ("average", peaks.average)):
        for value, row in zip(peaks.values, values, strict=True):
            for seed, peak in enumerate(row):
                yield [over, float(value), target, seed, float(peak)]
