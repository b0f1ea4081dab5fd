"""`siamscope dynamics modes`: the flow of one mode on its parabola, and modes in time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamscope.dynamics import DynamicsError, Modes
from siamscope.dynamics.courses import Courses, FlowLine, courses, flow_line
from siamscope.report.dynamics_modes import write_modes
from siamscope.workflow.answer import Answer
from siamscope.workflow.writing import check_folder, told

MOST_CURVES = 5


@dataclass(frozen=True)
class Options:
    """First row: dp/dt on the parabola. Second and third: p, s and tau in time, for several beta and several eta."""

    eta: tuple[float, ...] = ()
    """Weight decay, a panel each; without it, half the limit tau^2 / (4 (1 + sigma2)), the limit, and 1.25 of it."""
    sigma2: float = 0.1
    """Variance that augmentation adds along the mode."""
    tau: float = 1.0
    """Target's share of the online weights in the first row."""
    alpha_p: float = 1.0
    """Predictor's learning rate over the encoder's, in time; it cancels on the parabola."""
    p_range: tuple[float, float] | None = None
    """Range of p in the first row; without it -0.2 to 1 for the default sigma2 and tau, scaled with tau / (1 + sigma2),
    the largest p that can rest."""
    betas: tuple[float, ...] = (0.04, 0.4, math.inf)
    """Second row: rates of the moving average (0.4: momentum 0.996 at learning rate 0.01); inf: the target is the
    online network."""
    eta_fixed: float = 0.04
    """Weight decay of the second row."""
    etas: tuple[float, ...] = (0.01, 0.04, 0.1, 0.3)
    """Third row: weight decays."""
    beta_fixed: float = 0.4
    """Rate of the moving average in the third row."""
    starts: tuple[tuple[float, float], ...] = ((0.1, 0.05), (0.3, 0.05), (0.5, 0.3))
    """Starts (p s) of the modes in time, each one curve."""
    tau_start: float = 0.0
    """tau at time 0 of a moving average: 0 a target of zeros (paper, eq. 15), 1 a copy of the online network."""
    time: float = 60.0
    """End of the courses."""
    out: Path = Path("dynamics")
    """Folder for modes.png, .svg and .csv files."""
    json: bool = False
    """Print what the figure shows as JSON."""


def run(options: Options) -> Answer:
    """Draw, write, and say what there is to see."""
    check_folder(options.out)
    flows = [_flow(options, eta) for eta in _etas(options)]
    for name in ("betas", "etas", "starts"):
        if not 1 <= len(getattr(options, name)) <= MOST_CURVES:
            raise DynamicsError(f"{name}: give 1 to {MOST_CURVES} values; there are {len(getattr(options, name))}.")
    by_beta = [_courses(options, options.eta_fixed, beta) for beta in options.betas]
    by_eta = [_courses(options, eta, options.beta_fixed) for eta in options.etas]
    paths = write_modes(flows, by_beta, by_eta, options.out)
    lines = [_flow_line(flow) for flow in flows]
    lines += [_course_line(f"beta {run.beta:g}", run, options.alpha_p) for run in by_beta]
    lines += [_course_line(f"eta {run.eta:g}", run, options.alpha_p) for run in by_eta]
    facts = {
        "eta_limit": flows[0].limit,
        "flows": [_flow_facts(flow) for flow in flows],
        "by_beta": [_course_facts(run) for run in by_beta],
        "by_eta": [_course_facts(run) for run in by_eta],
    }
    return told(lines, paths, facts, options.json)


def _etas(options: Options) -> list[float]:
    if len(options.eta) > MOST_CURVES:
        raise DynamicsError(f"eta: give {MOST_CURVES} values at most; there are {len(options.eta)}.")
    limit = float(Modes(sigma2=options.sigma2, tau=options.tau).eta_limit)
    return list(options.eta) or [0.5 * limit, limit, 1.25 * limit]


def _flow(options: Options, eta: float) -> FlowLine:
    modes = Modes(alpha_p=options.alpha_p, eta=eta, sigma2=options.sigma2, tau=options.tau)
    top = options.tau / (1 + options.sigma2)
    return flow_line(modes, options.p_range or (-0.22 * top, 1.1 * top))


def _courses(options: Options, eta: float, beta: float) -> Courses:
    p, s = zip(*options.starts, strict=True)
    return courses(
        p, s, eta=eta, beta=beta, end=options.time, tau=options.tau_start, alpha_p=options.alpha_p,
        sigma2=options.sigma2,
    )  # fmt: skip


def _flow_line(flow: FlowLine) -> str:
    found = ", ".join(f"{point.at[0]:.4g} {point.kind}" for point in flow.points)
    over = float(flow.modes.eta) > flow.limit
    return f"eta {float(flow.modes.eta):.4g}: p at rest {found}" + ("; collapse only" if over else "")


def _course_line(head: str, run: Courses, alpha_p: float) -> str:
    values = ", ".join(f"{value:.3g}" for value in run.s[-1])
    gone = 1e-3 / max(1.0, alpha_p)  # s of a mode that rests is p^2 / alpha_p
    dead = f"; tau of a dead mode -> {run.tau_when_dead:.4g}" if run.s[-1].max() < gone else ""
    return f"{head}: s at t={run.times[-1]:g}: {values}{dead}"


def _flow_facts(flow: FlowLine) -> dict[str, Any]:
    points = [{"p": x.at[0], "eigenvalue": x.eigenvalues[0].real, "kind": x.kind} for x in flow.points]
    return {"eta": float(flow.modes.eta), "fixed_points": points}


def _course_facts(run: Courses) -> dict[str, Any]:
    last = {name: part[-1].tolist() for name, part in (("p", run.p), ("s", run.s), ("tau", run.tau))}
    return {"eta": run.eta, "beta": run.beta, "end": last, "tau_when_dead": run.tau_when_dead}
