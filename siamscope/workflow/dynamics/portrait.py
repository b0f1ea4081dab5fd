"""`siamscope dynamics portrait`: phase portraits of a mode, or of a network of one weight a layer."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siamscope.dynamics import DynamicsError, Modes, ScalarNetwork
from siamscope.dynamics.plane import FixedPoint
from siamscope.dynamics.portrait import Portrait, Range, portrait
from siamscope.dynamics.weights import WeightPlane, balanced_run, weight_planes
from siamscope.report.dynamics_portrait import write_portraits
from siamscope.report.dynamics_weights import write_planes
from siamscope.workflow.answer import Answer
from siamscope.workflow.writing import check_folder, told

MOST_PANELS = 12
STARTS = ((-0.45, 0.46), (-0.42, 0.05), (0.06, 0.04), (0.3, 0.46), (0.97, 0.03))


@dataclass(frozen=True)
class Options:
    """Several values of a parameter make panels; of two parameters, rows and columns. --eta 0 has no weight decay."""

    plane: Literal["modes", "weights"] = "modes"
    """modes: p and s, the eigenvalues of predictor and W W^T. weights: w_p, w and w_a of a network of one weight a
    layer, in three panels (target at rest, with predictor, without); for these the defaults are alpha_p 1, eta 0,
    sigma2 0.5, signal 0.5, p-range -1 1 and grid 81 81."""
    alpha_p: tuple[float, ...] = (0.25, 1.0, 4.0)
    """Predictor's learning rate over the encoder's."""
    eta: tuple[float, ...] = (0.02, 0.1)
    """Weight decay, in the theory's units."""
    sigma2: tuple[float, ...] = (0.1,)
    """Variance that augmentation adds along the mode."""
    tau: tuple[float, ...] = (1.0,)
    """Target's share of the online weights, above 0. For the weights: the target at rest, w_a."""
    signal: float = 1.0
    """Variance of the augmentations' mean along the mode."""
    beta: float = 1.0
    """Rate of the moving average; for the weights only."""
    p_range: tuple[float, float] | None = None
    """Range of p, or of all weights; without it -0.5 to 1, or further if learning rests beyond."""
    s_range: tuple[float, float] | None = None
    """Range of s; without it 0 to 0.5, or to where learning rests in the median panel. All panels have the same, so
    that shares compare; an arrow points to a rest that lies outside."""
    grid: tuple[int, int] = (121, 81)
    """Cells of the basin map along p and s."""
    starts: tuple[tuple[float, float], ...] = STARTS
    """Starts (p s) of the trajectories that are drawn."""
    threads: int = 1
    """For the basin map."""
    out: Path = Path("dynamics")
    """Folder for portrait.png, .svg and .csv files."""
    json: bool = False
    """Print what the figure shows as JSON."""


WEIGHTS = Options(
    plane="weights", alpha_p=(1.0,), eta=(0.0,), sigma2=(0.5,), signal=0.5, p_range=(-1.0, 1.0), grid=(81, 81)
)


def default(args: list[str]) -> Options | None:
    """Figure 10's numbers for the plane of the weights."""
    chosen = [b for a, b in itertools.pairwise([*args, ""]) if a == "--plane"]
    return WEIGHTS if chosen == ["weights"] or "--plane=weights" in args else None


def run(options: Options) -> Answer:
    """Draw, write, and say what there is to see."""
    return _weights(options) if options.plane == "weights" else _modes(options)


def _modes(options: Options) -> Answer:
    names = ("eta", "alpha_p", "sigma2", "tau")
    lists = {name: _values(name, getattr(options, name)) for name in names}
    several = [name for name in names if len(lists[name]) > 1]
    if len(several) > 2:
        raise DynamicsError(f"give several values of two parameters at most; there are {', '.join(several)}.")
    cells = [dict(zip(names, cell, strict=True)) for cell in itertools.product(*lists.values())]
    if len(cells) > MOST_PANELS:
        raise DynamicsError(f"{len(cells)} panels: at most {MOST_PANELS} are drawn. Give fewer values.")
    columns = len(lists[several[-1]]) if several else 1
    if len(several) == 1 and columns > 4:
        columns = -(-columns // 2)
    settings = [Modes(**cell, signal=options.signal) for cell in cells]
    check_folder(options.out)
    ranges = _ranges(options, settings)
    panels = [portrait(modes, *ranges, grid=options.grid, starts=options.starts, threads=options.threads)
              for modes in settings]  # fmt: skip
    labels = [_label(cell, several or ["alpha_p", "eta"]) for cell in cells]
    paths = write_portraits(panels, labels, columns, options.out)
    facts = [cell | _facts(panel) for cell, panel in zip(cells, panels, strict=True)]
    lines = [_line(cell, panel, several or ["alpha_p", "eta"]) for cell, panel in zip(cells, panels, strict=True)]
    return told(lines, paths, {"panels": facts}, options.json)


def _ranges(options: Options, settings: list[Modes]) -> tuple[Range, Range]:
    """Of p and of s for all panels: the user's, or such that p_+ is inside, and s = p_+^2 / alpha_p of most."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is refused later, by name
        ends = [(float(modes.roots()[1]), float(modes.alpha_p)) for modes in settings]
    p = [high for high, _ in ends if math.isfinite(high)]
    s = [rest for high, alpha_p in ends if math.isfinite(rest := high * high / alpha_p)]
    p_range = options.p_range or (-0.5, max([1.0, *(1.1 * high for high in p)]))
    return p_range, options.s_range or (0.0, max(0.5, 1.1 * statistics.median_high(s or [0.0])))


def _facts(found: Portrait) -> dict[str, Any]:
    return {
        "collapse_share": found.collapse,
        "unknown_share": found.unknown,
        "eta_limit": float(found.modes.eta_limit),
        "fixed_points": [_point(point) for point in found.points],
        "lines_of_fixed_points": len(found.lines),
    }


def _point(point: FixedPoint) -> dict[str, Any]:
    return {"at": list(point.at), "eigenvalues": [v.real for v in point.eigenvalues], "kind": point.kind}


def _line(cell: dict[str, float], found: Portrait, shown: list[str]) -> str:
    head = ", ".join(f"{name} {cell[name]:g}" for name in shown)
    limit = float(found.modes.eta_limit)
    if found.lines:
        rest = f"no weight decay: lines of rest at s = 0 and p = {float(found.modes.roots()[1]):.4g}"
    elif not found.learns:
        rest = f"collapse only: eta is above its limit {limit:.4g}, no saddle"
    else:
        rest = "; ".join(f"({p.at[0]:.4g}, {p.at[1]:.4g}) {p.kind}" for p in found.points)
    unknown = f" ({100 * found.unknown:.2g} % not known)" if found.unknown else ""
    return f"{head}: {100 * found.collapse:.1f} % of the plane shown collapses{unknown}; {rest}"


_SIGNS = {"alpha_p": r"\alpha_p", "eta": r"\eta", "sigma2": r"\sigma^2", "tau": r"\tau"}


def _label(cell: dict[str, float], shown: list[str]) -> str:
    return "$" + r",\ \ ".join(f"{_SIGNS[name]} = {cell[name]:g}" for name in shown) + "$"


def _values(name: str, values: tuple[float, ...]) -> tuple[float, ...]:
    if not values:
        raise DynamicsError(f"{name}: give one value or more.")
    return values


# -- the planes of the weights -----------------------------------------------------------------------------------------


def _weights(options: Options) -> Answer:
    network = ScalarNetwork(
        alpha_p=_one("alpha_p", options.alpha_p), eta=_one("eta", options.eta), sigma2=_one("sigma2", options.sigma2),
        beta=options.beta, signal=options.signal,
    )  # fmt: skip
    check_folder(options.out)
    planes = weight_planes(network, options.p_range or (-1.0, 1.0), w_a=_one("tau", options.tau), grid=options.grid)
    end = balanced_run(network).y[-1]
    paths = write_planes(planes, options.out)
    words = {
        "frozen": f"target at rest (w_a = {options.tau[0]:g})",
        "tied": "with predictor and moving target",
        "none": "without predictor (w_p = 1)",
    }
    lines = [f"{words[plane.name]}: " + "; ".join(_weight_point(plane, p) for p in plane.points) for plane in planes]
    lines.append(
        "the whole network from w_p = sqrt(alpha_p) w ends at (w_p, w, w_a) = ({:.4g}, {:.4g}, {:.4g})".format(*end)
    )
    facts = {"planes": {plane.name: [_point(p) for p in plane.points] for plane in planes}, "end": end.tolist()}
    return told(lines, paths, facts, options.json)


def _weight_point(plane: WeightPlane, point: FixedPoint) -> str:
    where = ", ".join(f"{value:.4g}" for value in point.at)
    rates = ", ".join(f"{value.real:.4g}" for value in point.eigenvalues)
    return f"({', '.join(plane.axes)}) = ({where}) {point.kind}, eigenvalues {rates}"


def _one(name: str, values: tuple[float, ...]) -> float:
    if len(values) != 1:
        raise DynamicsError(f"{name}: the planes of the weights are drawn for one value; {len(values)} were given.")
    return values[0]
