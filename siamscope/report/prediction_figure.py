"""The figures of `siamscope dynamics predict`: a linear encoder's modes, or a deep one's as a heuristic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from siamscope.dynamics.errors import Float
from siamscope.dynamics.joint import InputModes
from siamscope.dynamics.prediction import ModeForecast, NetworkModes
from siamscope.report.dynamics_style import new_figure, save

LIVES, DIES, MEASURED, QUIET = "#0072b2", "#c1440e", "#1b1d21", "#8a919c"
PICTURES = 10


def linear(
    out: Path,
    title: str,
    data: InputModes,
    expected: ModeForecast,
    directions: Float,
    course: tuple[Float, NetworkModes, NetworkModes | None],
    ends: tuple[Float, Float | None],
    shape: tuple[int, int],
) -> None:
    """Write prediction.png and prediction.svg.

    Args:
        course: steps (T,), the network's modes by the flow, and those of the run.
        ends: p (m,) of each data mode at the end by the flow, and of the run.
        shape: channels and side of the images.
    """
    figure = _figure(10.5, 6.6, title)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.9, 1))
    plane, time, match = upper.subplots(1, 3, gridspec_kw={"width_ratios": (1, 1.15, 1)})
    _plane(plane, expected, ends[1])
    _course(time, *course)
    _match(match, expected.p_high, ends)
    _pictures(lower, data.basis @ directions, expected, course, data, shape)
    save(figure, out, "prediction")


def _plane(axes: Any, expected: ModeForecast, trained: Float | None) -> None:
    """signal against noise, and the curve on which eta is the limit."""
    signal, noise, lives = expected.signal, np.maximum(expected.sigma2, 1e-12), expected.can_survive
    seen = signal > 0
    axes.set(xscale="log", yscale="log", xlabel="signal of the mode", ylabel="noise that augmentation adds")
    axes.scatter(
        signal[seen & ~lives], noise[seen & ~lives], s=18, facecolors="none", edgecolors=DIES, label="must collapse"
    )
    axes.scatter(signal[seen & lives], noise[seen & lives], s=26, color=LIVES, label="can survive")
    if expected.eta > 0 and expected.eta_limit.any():
        line = np.geomspace(max(4.02 * expected.eta, signal[seen].min()), signal.max() * 2, 200)
        axes.plot(line, line**2 / (4 * expected.eta) - line, color=MEASURED, lw=1)
        axes.annotate("limit of\nweight decay", (line[40], line[40] ** 2 / (4 * expected.eta) - line[40]),
                      xytext=(-10, 22), textcoords="offset points", fontsize=7, ha="right")  # fmt: skip
    axes.set_ylim(noise[seen].min() / 3, noise[seen].max() * 3)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    axes.set_title("which modes can survive", fontsize=9, loc="left")


def _course(axes: Any, steps: Float, flow: NetworkModes, trained: NetworkModes | None) -> None:
    shown = min(16, flow.p.shape[1])
    axes.plot(steps, flow.p[:, :shown], color=LIVES, lw=1)
    axes.plot([], [], color=LIVES, lw=1, label="flow of the theory")
    if trained is not None:
        axes.plot(steps, trained.p[:, :shown], ".", color=MEASURED, ms=3)
        axes.plot([], [], ".", color=MEASURED, ms=4, label="training")
    axes.set(xlabel="step", ylabel="p", ylim=(min(0, float(np.nanmin(flow.p))) - 0.02, None))
    axes.legend(fontsize=7, frameon=False)
    axes.set_title("largest eigenvalues of the predictor", fontsize=9, loc="left")


def _match(axes: Any, p: Float, ends: tuple[Float, Float | None]) -> None:
    """p at rest and by the flow against training (or, without a run, rest against flow)."""
    rest, (flow, trained) = np.nan_to_num(p), ends
    across = flow if trained is None else trained
    top = 1.1 * max(float(np.nanmax(across, initial=0.0)), float(rest.max(initial=0.0)), 0.1)
    axes.plot([0, top], [0, top], color=QUIET, lw=0.8)
    axes.scatter(across, rest, s=26, facecolors="none", edgecolors=LIVES, label="at rest, p_+")
    if trained is not None:
        axes.scatter(across, flow, s=16, marker="x", color=MEASURED, lw=1, label="flow, at this step")
    axes.set(xlabel="p in training" if trained is not None else "p by the flow at the last step", ylabel="p predicted")
    axes.set(xlim=(-0.03 * top, top), ylim=(-0.03 * top, top), aspect="equal")
    axes.legend(fontsize=7, frameon=False)
    axes.set_title("mode by mode", fontsize=9, loc="left")


def _pictures(
    panel: Any, pixels: Float, expected: ModeForecast, course: tuple[Float, NetworkModes, NetworkModes | None],
    data: InputModes, shape: tuple[int, int],
) -> None:  # fmt: skip
    """Rows of images: the predicted modes, and the trained network's (or the flow's) that have most of them."""
    from siamscope.dynamics.prediction import matched

    count = min(PICTURES, pixels.shape[1])
    network, name = (course[1], "flow") if course[2] is None else (course[2], "trained")
    last = NetworkModes(network.p[-1], network.rows[-1])
    rows = [("predicted", pixels[:, :count].T)]
    if np.isfinite(last.p).all():
        found, _ = matched((data.basis.T @ pixels)[:, :count], last)
        theirs = np.where((found >= 0)[:, None], last.rows[found], 0.0) @ data.basis.T
        signs = np.sign((theirs * pixels[:, :count].T).sum(1, keepdims=True))
        rows.append((name, theirs * np.where(signs == 0, 1, signs)))
    grid = panel.subplots(len(rows), PICTURES, squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    for line, (label, images) in zip(grid, rows, strict=True):
        for j, axes in enumerate(line):
            axes.set(xticks=[], yticks=[])
            if j >= count:
                axes.set_axis_off()
                continue
            axes.imshow(_image(images[j], shape), interpolation="nearest")
            edge = LIVES if expected.can_survive[j] else DIES
            for side in axes.spines.values():
                side.set(color=edge, linewidth=1.5)
            if label == "predicted":
                axes.set_title(f"margin {expected.margin[j]:.2g}", fontsize=7, pad=2)
        line[0].set_ylabel(label, fontsize=8)


def _image(values: Float, shape: tuple[int, int]) -> Float:
    """A direction of the pixels as a picture: grey is zero."""
    channels, side = shape
    picture = values.reshape(channels, side, side).transpose(1, 2, 0)
    largest = float(np.abs(picture).max())
    picture = 0.5 + 0.5 * picture / (largest if largest > 0 else 1.0)
    return np.repeat(picture, 3, axis=2) if channels == 1 else picture[..., :3]


def deep(out: Path, title: str, moments: list[tuple[int, Float, ModeForecast, Float | None]]) -> None:
    """Write the figure of a heuristic: (step, eigenvalues of F, forecast, p of the predictor) at each moment."""
    figure = _figure(10.5, 3.6, title)
    spectrum, noise, match = figure.subplots(1, 3)
    for k, (step, strength, expected, _) in enumerate(moments):
        colour, label = (QUIET if k == 0 and len(moments) > 1 else LIVES), f"step {step}"
        index = np.arange(1, len(strength) + 1)
        spectrum.plot(index, strength / strength[0], color=colour, label=label)
        noise.plot(index, expected.eta_limit, color=colour, label=label)
    spectrum.set(yscale="log", xlabel="mode", ylabel="eigenvalue of F over the largest")
    spectrum.set_title("the embeddings' modes", fontsize=9, loc="left")
    eta = moments[-1][2].eta
    if eta > 0:
        noise.axhline(eta, color=DIES, lw=1, ls="--", label="eta of the recipe")
    noise.set(yscale="log", xlabel="mode", ylabel="limit of eta, 1 / (4 (1 + sigma2))")
    noise.set_title("which can survive", fontsize=9, loc="left")
    _, _, expected, p = moments[-1]
    if p is None:
        match.text(
            0.5, 0.5, "the predictor is no matrix", ha="center", va="center", transform=match.transAxes, fontsize=8
        )
    else:
        rest = np.nan_to_num(expected.p_high)
        match.scatter(p, rest, s=14, facecolors="none", edgecolors=LIVES)
        match.set(xlabel="u^T W_p u, measured", ylabel="p at rest, predicted")
    match.set_title(f"mode by mode, step {moments[-1][0]}", fontsize=9, loc="left")
    for axes in (spectrum, noise):
        axes.legend(fontsize=7, frameon=False)
    save(figure, out, "prediction")


def _figure(width: float, height: float, title: str) -> Any:
    figure = new_figure(width, height)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure
