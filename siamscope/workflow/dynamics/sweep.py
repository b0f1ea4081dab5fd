"""`siamscope dynamics sweep`: one parameter at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siamscope.dynamics import DynamicsError, Modes
from siamscope.dynamics.sweeps import PARAMETERS, Parameter, Setting, Starts, Sweep, sweep
from siamscope.report.dynamics_sweep import write_sweeps
from siamscope.workflow.answer import Answer
from siamscope.workflow.writing import check_folder, told

_RANGES: dict[Parameter, tuple[float, float, bool]] = {  # as shares of the limit for eta; True: logarithmic
    "eta": (0.0, 1.2, False),
    "alpha_p": (0.1, 100.0, True),
    "sigma2": (0.0, 16.0, False),
    "beta": (0.005, 10.0, True),
    "tau": (0.1, 1.5, False),
}


@dataclass(frozen=True)
class Options:
    """A column a parameter: the share of starts that collapse, fixed points, and s early and late."""

    over: tuple[Literal["eta", "alpha_p", "sigma2", "beta", "tau"], ...] = ("eta", "alpha_p", "sigma2", "beta", "tau")
    """Which parameters to vary; the others stay as below."""
    values: tuple[float, ...] = ()
    """Values, if one parameter is varied; without it a range that shows what it does."""
    points: int = 41
    """Values of each range."""
    alpha_p: float = 1.0
    """Predictor's learning rate over the encoder's."""
    eta: float = 0.02
    """Weight decay, in the theory's units."""
    sigma2: float = 0.1
    """Variance that augmentation adds along the mode."""
    tau: float = 1.0
    """Target's share of the online weights, constant; but not where beta is varied."""
    tau_start: float = 0.0
    """tau at time 0 where beta is varied: 0 a target of zeros (paper, eq. 15), 1 a copy of the online network."""
    start: tuple[float, float] = (0.2, 0.1)
    """p and s of the mode whose s is followed."""
    time: float = 60.0
    """When s is taken early."""
    p_range: tuple[float, float] = (-0.5, 1.0)
    """Starts whose collapse is counted: range of p, ends included."""
    s_range: tuple[float, float] = (0.01, 0.5)
    """And of s."""
    grid: tuple[int, int] = (31, 21)
    """And how many along p and s. The reference's shares 0.194, 0.075, 0.025, 0.013 for alpha_p 0.25, 1, 4, 16 are
    those of 16 10."""
    out: Path = Path("dynamics")
    """Folder for sweep.png, .svg and .csv."""
    json: bool = False
    """Print what the figure shows as JSON."""


def run(options: Options) -> Answer:
    """Draw, write, and say what there is to see."""
    if not options.over or len(set(options.over)) < len(options.over):
        raise DynamicsError(f"over: name one parameter or more, each once; choose from {', '.join(PARAMETERS)}.")
    if options.values and len(options.over) > 1:
        raise DynamicsError(f"values belong to one parameter; {len(options.over)} are varied. Add --over NAME.")
    base = Setting(
        options.alpha_p, options.eta, options.sigma2, options.tau, p=options.start[0], s=options.start[1],
        time=options.time,
    )  # fmt: skip
    starts = Starts(options.p_range, options.s_range, options.grid)
    check_folder(options.out)
    sweeps = [_sweep(options, over, base, starts) for over in options.over]
    limits = [_limit(over, base) for over in options.over]
    paths = write_sweeps(sweeps, options.time, limits, options.out, tau_start=options.tau_start)
    lines = [_line(found, base) for found in sweeps]
    return told(lines, paths, {"sweeps": [_facts(*pair) for pair in zip(sweeps, limits, strict=True)]}, options.json)


def _sweep(options: Options, over: Parameter, base: Setting, starts: Starts) -> Sweep:
    values = np.sort(np.asarray(options.values, dtype=np.float64)) if options.values else _range(options, over, base)
    # a moving average starts at tau_start, and reaches 1
    setting = replace(base, beta=1.0, tau=options.tau_start) if over == "beta" else base
    return sweep(over, values.tolist(), setting, starts)


def _range(options: Options, over: Parameter, base: Setting) -> Any:
    low, high, logarithmic = _RANGES[over]
    if options.points < 2:
        raise DynamicsError(f"points must be 2 or more; it is {options.points}.")
    limit = _limit(over, base)
    top = high * float(_modes(base).eta_limit) if over == "eta" else high
    values = np.geomspace(low, top, options.points) if logarithmic else np.linspace(low, top, options.points)
    if limit is None or not low < limit < top:
        return values
    return np.sort(np.append(values, [limit * (1 - 1e-3), limit * (1 + 1e-3)]))  # a jump, and no slope


def _modes(base: Setting) -> Modes:
    return Modes(alpha_p=base.alpha_p, eta=base.eta, sigma2=base.sigma2, tau=base.tau)


def _limit(over: Parameter, base: Setting) -> float | None:
    """Where p_- and p_+ meet; None for a parameter that does not move them, or if no value of it lets them be."""
    if over == "eta":
        return float(_modes(base).eta_limit)
    if base.eta == 0 or over not in ("sigma2", "tau"):
        return None
    if over == "tau":
        return math.sqrt(4 * base.eta * (1 + base.sigma2))
    most = base.tau**2 / (4 * base.eta) - 1
    return most if most >= 0 else None


def _line(found: Sweep, base: Setting) -> str:
    some, limit = np.flatnonzero(found.collapse < 1), _limit(found.over, base)
    text = f"{found.over} {found.values[0]:.4g}" + (f" to {found.values[-1]:.4g}: " if len(found.values) > 1 else ": ")
    if len(some):
        ends = sorted({some[0], some[-1]})
        text += ", ".join(f"{100 * found.collapse[i]:.1f} % collapse at {found.values[i]:.4g}" for i in ends)
        text += f"; s at t={base.time:g} " + " and ".join(f"{found.early[i]:.3g}" for i in ends)
        text += ", in the end " + " and ".join(f"{found.late[i]:.3g}" for i in ends)
    else:
        text += "everything collapses"
    lost = float(found.unknown.max())
    text += f"; up to {100 * lost:.3g} % not known: too stiff or too slow" if lost else ""
    if limit is not None:
        return text + f"; collapse only {'below' if found.over == 'tau' else 'beyond'} {limit:.4g}"
    if len(some):
        return text
    # eta's limit for the best value: at sigma2 = 0, or whatever alpha_p and beta are; a moving average ends at tau = 1
    tau = 1.0 if found.over == "beta" else base.tau
    best = float(Modes(sigma2=0.0 if found.over == "sigma2" else base.sigma2, tau=tau).eta_limit)
    return text + (f"; eta {base.eta:g} is above its limit {best:.4g} at any {found.over}" if base.eta > best else "")


def _facts(found: Sweep, limit: float | None) -> dict[str, Any]:
    names = ("values", "collapse", "unknown", "low", "high", "rest", "early", "late")
    return {"over": found.over, "limit": limit, **{name: getattr(found, name).tolist() for name in names}}
