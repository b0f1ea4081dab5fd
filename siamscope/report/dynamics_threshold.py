"""The figure of `siamscope dynamics threshold`: weight decay as a threshold on augmentation variance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamscope.report.dynamics_style import (
    BASIN,
    COLLAPSE,
    INK,
    LEARN,
    LINES,
    SERIES,
    SOFT,
    Cell,
    dress,
    legend,
    new_figure,
    save,
    save_table,
)

if TYPE_CHECKING:
    from siamscope.dynamics.thresholds import Predictor, Spectrum, StartSizes, Survivors

_CURVE = 400


def predictor_name(predictor: Predictor) -> str:
    """For people: DirectPred and DirectCopy are DirectSet of power 1/2 and 1."""
    names = {0.5: "DirectPred (power 1/2)", 1.0: "DirectCopy (power 1)"}
    if isinstance(predictor, str):
        return "trained predictor"
    return names.get(predictor, f"DirectSet (power {predictor:g})")


def write_threshold(
    maps: Sequence[Survivors],
    spectra: Sequence[Spectrum],
    sizes: Sequence[StartSizes],
    eta: float,
    limit: Any,
    folder: Path,
    name: str = "threshold",
) -> list[Path]:
    """PNG, SVG and four tables: -features (the simulated ones), -curve (the limit), -spectrum, -start.

    Args:
        eta: the weight decay of the spectra; limit: sigma2 -> the largest eta, for the curve.

    Raises:
        ReportError: a file cannot be written.
    """
    columns = len(maps)
    figure = new_figure(max(4.1 * columns, 8.2), 7.6)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.15, 1.0])
    noise = np.linspace(0, 1.06 * float(maps[0].sigma2.max()) or 1.0, _CURVE)
    bound = np.asarray(limit(noise), dtype=np.float64)
    row = upper.subplots(1, columns, sharey=True, squeeze=False)[0]
    for axes, found in zip(row, maps, strict=True):
        _map(axes, found, noise, bound)
    row[0].set_ylabel(r"weight decay $\eta$", fontsize=11)
    _legend(upper, {int(value) for found in maps for value in np.unique(found.lives)})
    left, right = lower.subplots(1, 2)
    _spectrum(left, spectra, eta)
    _starts(right, sizes)
    return [*save(figure, folder, name), *_tables(maps, spectra, sizes, noise, bound, folder, name)]


def _map(axes: Any, found: Survivors, noise: Any, bound: Any) -> None:
    dress(axes, predictor_name(found.predictor), r"augmentation variance $\sigma^2$ of a feature")
    top = max(1.04 * float(found.eta.max()), 1.02 * float(bound.max()))
    axes.fill_between(noise, bound, top, color=BASIN, lw=0, zorder=0)
    axes.plot(noise, bound, color=INK, lw=1.8)
    x, y = np.meshgrid(found.sigma2, found.eta)
    kinds = ((1, "o", LEARN, LEARN), (0, "x", COLLAPSE, COLLAPSE), (-1, "D", "white", INK))
    for value, marker, face, edge in kinds:
        chosen = found.lives == value
        if marker == "x":
            axes.plot(x[chosen], y[chosen], marker, color=edge, ms=4.5, mew=1.3, ls="")
        else:
            axes.plot(x[chosen], y[chosen], marker, mfc=face, mec=edge, ms=4.8, mew=1.2, ls="")
    axes.set_xlim(-0.03 * noise[-1], noise[-1])
    axes.set_ylim(0, top)


def _legend(figure: Any, drawn: set[int]) -> None:
    from matplotlib.lines import Line2D

    handles = {
        1: Line2D([], [], ls="", marker="o", color=LEARN, ms=6, label="kept, simulated"),
        0: Line2D([], [], ls="", marker="x", color=COLLAPSE, ms=6, mew=1.5, label="lost, simulated"),
        -1: Line2D([], [], ls="", marker="D", mfc="white", mec=INK, ms=5.5, label="on the curve: no verdict"),
    }
    theory = Line2D([], [], color=INK, lw=1.8, label=r"theory: $\eta = 1/(4(1+\sigma^2))$")
    legend(figure, [theory, *(handle for value, handle in handles.items() if value in drawn)], 4)


def _spectrum(axes: Any, spectra: Sequence[Spectrum], eta: float) -> None:
    dress(axes, rf"trained networks, $\eta = {eta:g}$", r"augmentation variance $\sigma^2$ of the feature", grid=True)
    axes.set_ylabel("size of the feature, $|W e_j|$", fontsize=11)
    for k, found in enumerate(spectra):
        colour, trained = SERIES[k % len(SERIES)], found.predictor == "trained"
        axes.plot(*found.curve, color=colour, lw=1.6, ls=LINES[k % len(LINES)])
        axes.plot(
            found.sigma2, found.size, "osD^v"[k % 5], color=colour, ms=9 if trained else 5.5, mew=1.4,
            mfc="none" if trained else colour, label=predictor_name(found.predictor),
        )  # fmt: skip
    edge = 1 / (4 * eta) - 1
    if edge > 0:
        axes.axvline(edge, color=SOFT, lw=1.2, ls=(0, (1.5, 1.5)))
    axes.plot([], [], color=SOFT, lw=1.6, label="lines: theory")
    axes.legend(fontsize=9.5, frameon=False, loc="upper right")
    axes.set_ylim(-0.03, 1.08)


def _starts(axes: Any, sizes: Sequence[StartSizes]) -> None:
    theorem = sizes[0].theorem
    dress(axes, rf"from $W = \delta I$,  $\eta = {theorem.eta:g}$", r"start $\delta$", grid=True)
    axes.set_ylabel("size of a feature without noise", fontsize=11)
    for k, found in enumerate(sizes):
        colour = SERIES[k % len(SERIES)]
        axes.step(*_step(found), where="post", color=colour, lw=1.4, ls=LINES[k % len(LINES)])
        label = f"{predictor_name(found.theorem.power)}: δ > {found.theorem.threshold:.3f}"
        axes.plot(found.delta, found.size, "osD^v"[k % 5], color=colour, ms=4.2, mfc="white", label=label)
    axes.set_xscale("log")
    _plain_ticks(axes, sizes[0].delta)
    axes.set_ylim(-0.03, 1.3)
    axes.legend(fontsize=9.5, loc="upper left", facecolor="white", edgecolor="none", framealpha=0.9)


def _step(found: StartSizes) -> tuple[list[float], list[float]]:
    """What the theorem says, from the first start to the last."""
    first, last, at = float(found.delta[0]), float(found.delta[-1]), found.theorem.threshold
    if not first < at < last:
        level = found.theorem.scale if first > at else 0.0
        return [first, last], [level, level]
    return [first, at, last], [0.0, found.theorem.scale, found.theorem.scale]


def _plain_ticks(axes: Any, delta: Any) -> None:
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if delta.min() <= tick <= delta.max()]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _tables(
    maps: Sequence[Survivors], spectra: Sequence[Spectrum], sizes: Sequence[StartSizes], noise: Any, bound: Any,
    folder: Path, name: str,
) -> list[Path]:  # fmt: skip
    curve = ([float(x), float(y)] for x, y in zip(noise, bound, strict=True))
    return [
        save_table(
            folder, f"{name}-features", ("predictor", "eta", "sigma2", "outcome", "theory", "size"), _rows(maps)
        ),
        save_table(folder, f"{name}-curve", ("sigma2", "eta_limit"), curve),
        save_table(
            folder, f"{name}-spectrum", ("predictor", "kind", "sigma2", "size", "expected"), _spectrum_rows(spectra)
        ),
        save_table(
            folder, f"{name}-start", ("power", "delta", "size", "threshold", "scale"), _start_rows(sizes)
        ),
    ]  # fmt: skip


def _rows(maps: Sequence[Survivors]) -> Iterator[list[Cell]]:
    words = {1: "kept", 0: "lost", -1: "undecided"}
    for found in maps:
        for i, eta in enumerate(found.eta):
            for j, sigma2 in enumerate(found.sigma2):
                said = [words[int(values[i, j])] for values in (found.lives, found.expected)]
                yield [str(found.predictor), float(eta), float(sigma2), *said, float(found.size[i, j])]


def _spectrum_rows(spectra: Sequence[Spectrum]) -> Iterator[list[Cell]]:
    for found in spectra:
        for row in zip(found.sigma2, found.size, found.expected, strict=True):
            yield [str(found.predictor), "network", *(float(value) for value in row)]
        for sigma2, size in zip(*found.curve, strict=True):
            yield [str(found.predictor), "theory", float(sigma2), None, float(size)]


def _start_rows(sizes: Sequence[StartSizes]) -> Iterator[list[Cell]]:
    for found in sizes:
        for delta, size in zip(found.delta, found.size, strict=True):
            yield [found.theorem.power, float(delta), float(size), found.theorem.threshold, found.theorem.scale]
