"""`siamscope dynamics alignment`: whole matrices over time, several seeds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siamscope.dynamics import DynamicsError, Modes
from siamscope.dynamics.alignment import Study, asymmetries, commutators, followings, peaks
from siamscope.report.dynamics_alignment import Alignment, Peaks, write_alignment
from siamscope.workflow.answer import Answer
from siamscope.workflow.writing import check_folder, told

MOST_CURVES = 5
MOST_WORK = 3_000_000
"""width^3 times seeds times trajectories of a seed: about a minute."""


@dataclass(frozen=True)
class Options:
    """Commutator with its bound, how far it grows, asymmetry of the predictor, and cosine of target and online."""

    eta: tuple[float, ...] = (0.01, 0.04, 0.1)
    """Weight decays of the curves over time, increasing."""
    peak_eta: tuple[float, ...] = (0.01, 0.02, 0.04, 0.07, 0.1, 0.12, 0.15)
    """Weight decays at which the largest growth is taken."""
    peak_alpha_p: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0)
    """Predictor's rates at which it is taken."""
    eta_fixed: float = 0.04
    """Weight decay while alpha_p varies."""
    beta: float = 0.4
    """Rate of the moving average in the growth; its tau starts at 0.1."""
    momentum: tuple[float, ...] = (0.9, 0.99, 0.996, 0.999)
    """Momenta of the target for the cosine."""
    momentum_eta: tuple[float, ...] = (0.0, 0.01, 0.1)
    """Weight decays for the cosine; its curves over time are those of the middle one."""
    rate: float = 0.03
    """Learning rate that turns a momentum into the flow's beta = (1 - momentum) / rate."""
    target: Literal["zero", "copy", "random"] = "zero"
    """Where the target starts for the cosine: at 0 (paper), as the online network, or as another draw."""
    sigma2: float = 0.1
    """Variance that augmentation adds to every direction."""
    width: int = 5
    """Size of the matrices."""
    seeds: int = 8
    """Random starts; curves are their median, bands their range."""
    seed: int = 0
    """First of the seeds."""
    time: float = 80.0
    """End of commutator and cosine."""
    asymmetry_time: float = 400.0
    """End of the asymmetry."""
    out: Path = Path("dynamics")
    """Folder for alignment.png, .svg and .csv files."""
    json: bool = False
    """Print what the figure shows as JSON."""


def run(options: Options) -> Answer:
    """Draw, write, and say what there is to see."""
    _check(options)
    check_folder(options.out)
    found = _alignment(options)
    paths = write_alignment(found, options.out)
    return told(_lines(found), paths, _facts(found), options.json)


def _check(options: Options) -> None:
    for name in ("eta", "peak_eta", "peak_alpha_p", "momentum", "momentum_eta"):
        values = np.asarray(getattr(options, name), dtype=np.float64)
        if not len(values) or not np.isfinite(values).all() or (np.diff(values) <= 0).any():
            raise DynamicsError(f"{name} must be finite numbers that increase, at least one.")
        most = 20 if name.startswith("peak") else MOST_CURVES
        if len(values) > most:
            raise DynamicsError(f"{name}: at most {most} values are drawn; there are {len(values)}.")
    _study(options)
    curves = 2 * (len(options.eta) + len(options.peak_eta) + len(options.peak_alpha_p))
    curves += len(options.momentum) * len(options.momentum_eta)
    if options.width**3 * options.seeds * curves > MOST_WORK:
        raise DynamicsError(
            f"width={options.width}, seeds={options.seeds} and {curves} curves: width^3 x seeds x curves may be "
            f"at most {MOST_WORK:,}, or it takes minutes. Give fewer."
        )


def _study(options: Options) -> Study:
    return Study(options.width, options.seeds, options.seed, options.sigma2, options.time)


def _alignment(options: Options) -> Alignment:
    study = _study(options)
    gamma, decay = zip(*itertools.product(options.momentum, options.momentum_eta), strict=True)
    limits = Modes(sigma2=options.sigma2)
    return Alignment(
        options.eta,
        commutators(study, options.eta),
        asymmetries(replace(study, end=options.asymmetry_time), options.eta),
        options.momentum,
        followings(study, decay, gamma, rate=options.rate, start=options.target),
        options.momentum_eta,
        _peaks(study, options.peak_eta, [1.0] * len(options.peak_eta), options.beta, options.peak_eta),
        _peaks(study, [options.eta_fixed] * len(options.peak_alpha_p), options.peak_alpha_p, options.beta,
               options.peak_alpha_p),
        (float(limits.alignment_limit), float(limits.eta_limit)),
        options.beta,
        options.eta_fixed,
        options.target,
    )  # fmt: skip


def _peaks(study: Study, eta: Any, alpha_p: Any, beta: float, values: tuple[float, ...]) -> Peaks:
    return Peaks(np.asarray(values), peaks(study, eta, alpha_p), peaks(study, eta, alpha_p, beta=beta))


def _excess(found: Alignment) -> float:
    """Largest commutator over its bound, where it is not rounding."""
    shares = [t.values[t.values > 1e-7] / t.bound[t.values > 1e-7] for t in found.commutators if t.bound is not None]
    return float(max(share.max() for share in shares))


def _lines(found: Alignment) -> list[str]:
    def spread(values: Any) -> str:
        return f"{np.median(values):.3g} ({values.min():.3g} to {values.max():.3g})"

    def medians(of: Peaks) -> str:
        return ", ".join(f"{x:g}: {np.median(row):.3g}" for x, row in zip(of.values, of.constant, strict=True))

    average = [f"{np.median(row):.3g}" for row in found.by_eta.average]
    means = np.concatenate([traces.values.mean(1) for traces in found.followings])
    low, high = found.window
    ends = [f"{eta:g}: {spread(t.values[:, -1])}" for eta, t in zip(found.etas, found.asymmetries, strict=True)]
    return [
        f"commutator over its bound: {_excess(found):.6f} at most (theorem 3: 1)",
        f"largest growth by eta, median of seeds: {medians(found.by_eta)}; with a moving average {', '.join(average)}",
        f"largest growth by alpha_p: {medians(found.by_alpha_p)}",
        f"alignment is sure for eta above {low:.4g}; a mode can live up to {high:.4g}",
        f"asymmetry at t={found.asymmetries[0].times[-1]:g} over its start, by eta: {', '.join(ends)}",
        f"mean cos(W_a, W), target from {found.start}: {spread(means)}",
    ]


def _facts(found: Alignment) -> dict[str, Any]:
    means = [traces.values.mean(1).tolist() for traces in found.followings]
    last = [(eta, traces.values[:, -1].tolist()) for eta, traces in zip(found.etas, found.asymmetries, strict=True)]
    pairs = itertools.product(found.momenta, found.following_etas)
    return {
        "commutator_over_bound": _excess(found),
        "window": list(found.window),
        "peaks_by_eta": {"eta": found.by_eta.values.tolist(), "constant": found.by_eta.constant.tolist(),
                         "average": found.by_eta.average.tolist()},
        "peaks_by_alpha_p": {"alpha_p": found.by_alpha_p.values.tolist(),
                             "constant": found.by_alpha_p.constant.tolist(),
                             "average": found.by_alpha_p.average.tolist()},
        "asymmetry_at_end": [{"eta": eta, "seeds": seeds} for eta, seeds in last],
        "mean_cosine": [{"momentum": g, "eta": e, "seeds": m} for (g, e), m in zip(pairs, means, strict=True)],
    }  # fmt: skip
