"""`siamscope dynamics threshold`: which features survive a weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siamscope.dynamics import DynamicsError, largest_decay, largest_noise
from siamscope.dynamics.thresholds import Predictor, Spectrum, StartSizes, Survivors, spectrum, start_sizes, survivors
from siamscope.report.dynamics_threshold import predictor_name, write_threshold
from siamscope.workflow.answer import Answer
from siamscope.workflow.writing import check_folder, told


@dataclass(frozen=True)
class Options:
    """Features kept or lost by variance and weight decay, with the theory's curve; spectra; sizes of the start."""

    power: tuple[float, ...] = (0.5, 1.0)
    """Powers alpha of DirectSet, W_p = (W W^T)^alpha: 0.5 is DirectPred, 1 DirectCopy."""
    trained: bool = True
    """Also a predictor that is trained."""
    eta: tuple[float, ...] = tuple(round(0.02 * i, 2) for i in range(1, 14))
    """Weight decays."""
    sigma2: tuple[float, ...] = tuple(round(0.25 * i, 2) for i in range(17))
    """Augmentation variances of features."""
    delta: float = 1.0
    """Where every feature starts."""
    spectrum_eta: float = 0.12
    """Weight decay of the trained networks."""
    spectrum_sigma2: tuple[float, ...] = (0.0, 0.1, 0.3, 0.6, 0.9, 1.2, 2.0, 4.0)
    """Variances of their features."""
    start_eta: float = 0.2
    """Weight decay of the starts of different sizes."""
    start_power: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Powers for these."""
    start_range: tuple[float, float] = (0.1, 1.5)
    """Their sizes."""
    seed: int = 0
    """Of the networks' starts."""
    out: Path = Path("dynamics")
    """Folder for threshold.png, .svg and .csv files."""
    json: bool = False
    """Print what the figure shows as JSON."""


def run(options: Options) -> Answer:
    """Draw, write, and say what there is to see."""
    trained: tuple[Literal["trained"], ...] = ("trained",) if options.trained else ()
    predictors: tuple[Predictor, ...] = (*options.power, *trained)
    _check(options, predictors)
    check_folder(options.out)
    maps = [survivors(one, options.eta, options.sigma2, delta=options.delta) for one in predictors]
    spectra = [
        spectrum(one, options.spectrum_eta, options.spectrum_sigma2, delta=options.delta, seed=options.seed)
        for one in predictors
    ]
    delta = np.geomspace(*options.start_range, 40).tolist()
    sizes = [start_sizes(options.start_eta, 1.0, power, delta) for power in options.start_power]
    paths = write_threshold(maps, spectra, sizes, options.spectrum_eta, largest_decay, options.out)
    return told(_lines(options, maps, spectra, sizes), paths, _facts(maps, spectra, sizes), options.json)


def _check(options: Options, predictors: tuple[Predictor, ...]) -> None:
    if not 1 <= len(predictors) <= 4 or not 1 <= len(options.start_power) <= 4:
        raise DynamicsError("give 1 to 4 predictors, and 1 to 4 powers for the starts.")
    low, high = options.start_range
    if not 0 < low < high < np.inf:
        raise DynamicsError(f"start_range must be two numbers above 0 that increase; it is {options.start_range}.")
    if not 0 < options.start_eta < 0.25:
        raise DynamicsError(f"start_eta must be between 0 and 1/4, where a start decides; it is {options.start_eta}.")
    if not options.spectrum_eta > 0:
        raise DynamicsError(f"spectrum_eta must be above 0; it is {options.spectrum_eta:g}.")


def _wrong(found: StartSizes) -> int:
    want = np.where(found.delta > found.theorem.threshold, found.theorem.scale, 0.0)
    return int((np.abs(found.size - want) > 1e-4).sum())


def _lines(options: Options, maps: list[Survivors], spectra: list[Spectrum], sizes: list[StartSizes]) -> list[str]:
    lines = []
    for found in maps:
        known = int((found.expected >= 0).sum())
        text = f"{predictor_name(found.predictor)}: {known - found.wrong} of {known} features end as theory says"
        at = found.expected.size - known
        lines.append(text + (f", {at} at the threshold are left out" if at else ""))
    edge = float(largest_noise(options.spectrum_eta))
    worst = max(float(np.abs(found.size - found.expected).max()) for found in spectra)
    lines.append(
        f"eta {options.spectrum_eta:g} keeps features of sigma2 below {edge:.4g}; "
        f"trained networks differ from theory by {worst:.1g} at most"
    )
    for one in sizes:
        lines.append(
            f"power {one.theorem.power:g} at eta {options.start_eta:g}: starts above {one.theorem.threshold:.4g} end "
            f"at {one.theorem.scale:.4g}, others at 0: {len(one.delta) - _wrong(one)} of {len(one.delta)} do"
        )
    return lines


def _facts(maps: list[Survivors], spectra: list[Spectrum], sizes: list[StartSizes]) -> dict[str, Any]:
    return {
        "maps": [
            {"predictor": m.predictor, "features": int((m.expected >= 0).sum()), "wrong": m.wrong,
             "undecided": int((m.lives < 0).sum())}
            for m in maps
        ],
        "spectra": [
            {"predictor": s.predictor, "sigma2": s.sigma2.tolist(), "size": s.size.tolist(),
             "expected": s.expected.tolist()}
            for s in spectra
        ],
        "starts": [
            {"power": s.theorem.power, "threshold": s.theorem.threshold, "scale": s.theorem.scale, "wrong": _wrong(s)}
            for s in sizes
        ],
    }  # fmt: skip
