"""The prediction in words, tables and facts for JSON; and how it compares with what became of the network."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siamscope.dynamics.errors import Float
from siamscope.dynamics.prediction import Agreement, ModeForecast, NetworkModes, agreement, matched
from siamscope.recipe import Recipe
from siamscope.workflow.dynamics import linear
from siamscope.workflow.dynamics.deep import Moment
from siamscope.workflow.dynamics.linear import Linear
from siamscope.workflow.dynamics.units import Units

Table = list[list[Any]]
SHOWN = 12
EXPLAINED = (
    "limit: weight decay at which the mode falls; margin: limit over yours. p: eigenvalue of the predictor; s: its",
    "strength |w|^2. At rest (p, s; below p_low it falls), and at the last step: by itself from its own start (alone),",
    "by the flow of the matrices (flow), in training (trained; cosine: with the predicted direction).",
)
HEURISTIC = (
    "A heuristic: embeddings stand for a linear network's on whitened data; its limits of weight decay are no guide."
)


@dataclass(frozen=True, eq=False)
class Ends:
    """The network's modes at the end, each beside the data mode (m,) that it has most of; NaN for those left over."""

    p: Float
    s: Float
    cosine: Float


@dataclass(frozen=True, eq=False)
class Result:
    """Where each of the data's modes ended. floor (m,): the strength above which one counts as alive.

    alone: p and s of each mode by itself.  scores: predicted strengths against the trained ones.
    """

    floor: Float
    flow: Ends
    alone: tuple[Float, Float] | None
    trained: Ends | None
    scores: dict[str, Agreement]

    def alive(self, s: Float) -> int:
        return int((s > self.floor).sum())


def compare(seen: Linear, found: Units) -> Result:
    """Match the network's modes with the data's, and judge each prediction where there is a run."""
    floor = living(seen.forecast, found)
    flow, trained = _ends(seen, seen.flow), None if seen.trained is None else _ends(seen, seen.trained)
    alone = None if seen.alone is None else (seen.alone[0][-1], seen.alone[1][-1])
    predicted = {"rest": seen.forecast.strength, "flow": flow.s, "alone": None if alone is None else alone[1]}
    scores = {}
    if trained is not None:
        both = np.isfinite(trained.s) & np.isfinite(flow.s)  # one set of modes for all
        for name, s in predicted.items():
            if s is not None and both.any() and np.isfinite(s[both]).all():
                scores[name] = agreement(s[both], trained.s[both], floor[both])
    return Result(floor, flow, alone, trained, scores)


def living(expected: ModeForecast, found: Units) -> Float:
    """(m,) the strength above which a mode counts as alive: a quarter of the least that one at rest can have.

    At the limit of its weight decay a mode rests at p = signal / (2 (signal + sigma2)) and s = p^2 / alpha_p.
    """
    p = expected.signal / (2 * np.maximum(expected.signal + expected.sigma2, 1e-300))
    decay = found.rates.eta_p / found.rates.eta if found.rates.eta > 0 else 1.0
    return np.asarray(np.maximum(decay * p**2 / found.alpha_p / 4, 1e-6), dtype=np.float64)


def _ends(seen: Linear, network: NetworkModes) -> Ends:
    p, rows = network.p[-1], network.rows[-1]
    if not np.isfinite(p).all():
        nothing = np.full(seen.directions.shape[1], np.nan)
        return Ends(nothing, nothing, nothing)
    last = NetworkModes(p, rows)
    found, cosine = matched(seen.directions, last)
    there = found >= 0
    return Ends(np.where(there, p[found], np.nan), np.where(there, last.strength[found], np.nan), cosine)


# ------------------------------------------------------------------------------------------ a linear encoder


def linear_facts(
    title: str, recipe: Recipe, found: Units, seen: Linear, result: Result, notes: list[str]
) -> dict[str, Any]:
    below = seen.forecast.eta_limit > seen.forecast.eta if linear.set_rule(recipe) else seen.forecast.can_survive
    limits = found.as_weight_decay(seen.forecast.eta_limit[below])
    counts = {"flow": result.flow.s, "alone": None if result.alone is None else result.alone[1]}
    counts["trained"] = None if result.trained is None else result.trained.s
    return _facts("linear", title, recipe, found, notes) | {
        "images": seen.images,
        "directions": len(seen.data.x),
        "kept": _plain(seen.data.kept),
        "mixing": _plain(seen.data.mixing),
        "steps": int(seen.steps[-1]),
        "time": _plain(seen.times[-1]),
        "can_survive": min(int(below.sum()), seen.flow.p.shape[1]),
        "weight_decay_limits": [_plain(v) for v in limits],
        "alive": {name: result.alive(s) for name, s in counts.items() if s is not None and np.isfinite(s).any()},
        "agreement": {
            name: {key: _plain(value) for key, value in asdict(score).items()} for name, score in result.scores.items()
        },
    }


def linear_tables(seen: Linear, found: Units, result: Result) -> dict[str, Table]:
    columns = _columns(seen, found, result)
    head = ["step", "time", "k", "p_flow", "s_flow", "p_trained", "s_trained"]
    course: Table = [head]
    flow, trained = seen.flow, seen.trained
    for i, (step, time) in enumerate(zip(seen.steps, seen.times, strict=True)):
        for k in range(flow.p.shape[1]):
            pair = [flow.p[i, k], flow.strength[i, k]]
            pair += [math.nan, math.nan] if trained is None else [trained.p[i, k], trained.strength[i, k]]
            course.append([int(step), float(time), k + 1, *map(_finite, pair)])
    return {"modes": _rows(columns), "course": course}


def linear_text(facts: dict[str, Any], seen: Linear, found: Units, result: Result) -> str:
    kept, mixing = facts["kept"], facts["mixing"]
    lines = [
        *_head(facts),
        f"data    {facts['directions']} directions of the pixels with {100 * kept:.0f} % of the views' variance "
        f"({facts['images']} images); {100 * mixing:.1f} % of X' outside X's eigenvectors",
        f"theory  {_survivors(facts)}",
        "",
        *_aligned(_columns(seen, found, result), SHOWN),
        *EXPLAINED,
    ]
    alive = facts["alive"]
    said = ", ".join(f"{name} {count}" for name, count in alive.items())
    lines += ["", f"alive after {facts['steps']} steps: {said} (rest: {facts['can_survive']})"]
    for name, score in facts["agreement"].items():
        error = (
            "no mode alive on both sides" if score["error"] is None else f"median error {100 * score['error']:.1f} %"
        )
        rank = "" if score["correlation"] is None else f", rank correlation {score['correlation']:.2f}"
        lines.append(
            f"{name:<6} against training: same verdict on {score['agree']} of {score['modes']} modes, {error}{rank}"
        )
    return "\n".join(lines + _notes(facts))


def _columns(seen: Linear, found: Units, result: Result) -> dict[str, Float]:
    """What the table of modes shows, by column; p and s at rest, and at the end by each prediction and in training."""
    expected, none = seen.forecast, np.full(len(seen.forecast.signal), np.nan)
    alone, trained = result.alone or (none, none), result.trained or Ends(none, none, none)
    return {
        "signal": expected.signal,
        "noise": expected.sigma2,
        "limit": found.as_weight_decay(expected.eta_limit),
        "margin": expected.margin,
        "p_low": expected.p_low,
        "p": expected.p_high,
        "p_alone": alone[0],
        "p_flow": result.flow.p,
        "p_trained": trained.p,
        "s": expected.strength,
        "s_flow": result.flow.s,
        "s_trained": trained.s,
        "cosine": trained.cosine,
    }


def _survivors(facts: dict[str, Any]) -> str:
    limits, own = facts["weight_decay_limits"], facts["weight_decay"]
    if facts["target"] == "shared":
        return "no stop-gradient: every mode collapses (theorem 2)"
    if facts["predictor"] == "none":
        return "no predictor: every mode collapses, the faster the more noise it has"
    if facts["predictor"] == "optimal":
        return "an optimal predictor at all times: no mode grows, and weight decay takes them (observation 2)"
    if not limits:
        return f"no mode survives a weight decay of {own:g}: collapse"
    if own == 0:
        return f"without weight decay {len(limits)} modes can survive; all have fallen at {max(limits):.3g}"
    return (
        f"{len(limits)} modes can survive a weight decay of {own:g}; the first falls at {min(limits):.3g} "
        f"(margin {min(limits) / own:.2f}), all have at {max(limits):.3g} (margin {max(limits) / own:.1f})"
    )


# ------------------------------------------------------------------------------------------ any other encoder


def deep_facts(title: str, recipe: Recipe, found: Units, moments: list[Moment]) -> dict[str, Any]:
    return _facts("heuristic", title, recipe, found, list(found.notes)) | {
        "moments": [_moment(moment, found) for moment in moments]
    }


def _moment(moment: Moment, found: Units) -> dict[str, Any]:
    expected = moment.forecast
    limits = found.as_weight_decay(expected.eta_limit)
    alive = expected.can_survive
    if alive.any():
        limits = limits[alive]
    out: dict[str, Any] = {
        "step": moment.step,
        "modes": len(moment.strength),
        "dimension": moment.dimension,
        "effective_rank": _plain(moment.rank),
        "noise": [_plain(q) for q in np.quantile(expected.sigma2, [0, 0.5, 1])],
        "can_survive": int(alive.sum()),
        "weight_decay_limits": [_plain(limits.min()), _plain(limits.max())],
    }
    if moment.p is not None and moment.step:  # an untrained predictor has nothing to be compared with
        score = agreement(np.nan_to_num(expected.p_high), np.maximum(moment.p, 0), 0.0)
        out |= {"p_correlation": _plain(score.correlation), "p_error": _plain(score.error)}
    return out


def deep_tables(moments: list[Moment], found: Units) -> dict[str, Table]:
    rows: Table = [["step", "mode", "s", "noise", "limit", "margin", "p", "p_measured"]]
    for moment in moments:
        limits = found.as_weight_decay(moment.forecast.eta_limit)
        p = np.full(len(moment.strength), np.nan) if moment.p is None else moment.p
        expected = moment.forecast
        columns = (moment.strength, expected.sigma2, limits, expected.margin, expected.p_high, p)
        rows += [[moment.step, j + 1, *map(_finite, values)] for j, values in enumerate(zip(*columns, strict=True))]
    return {"modes": rows}


def deep_text(facts: dict[str, Any], moments: list[Moment], found: Units) -> str:
    lines = [*_head(facts), HEURISTIC]
    for moment in facts["moments"]:
        noise = " / ".join(f"{q:.2g}" for q in moment["noise"])
        lines.append(
            f"step {moment['step']}: {moment['modes']} of {moment['dimension']} modes above 1e-4 of the largest, "
            f"effective rank {moment['effective_rank']:.1f}; their noise {noise} (least / median / most)"
        )
        lines.append("  " + _fate(moment, facts["weight_decay"]))
        if "p_correlation" in moment:
            rank = "undefined" if moment["p_correlation"] is None else f"{moment['p_correlation']:.2f}"
            error = "undefined" if moment["p_error"] is None else f"{100 * moment['p_error']:.0f} %"
            lines.append(f"  predictor's eigenvalues, expected at rest against measured: rank correlation {rank}, "
                         f"median error {error}")  # fmt: skip
    return "\n".join([*lines, *_outcome(facts["moments"]), *_notes(facts)])


def _fate(moment: dict[str, Any], own: float) -> str:
    """Survivors, threshold and margin in words."""
    (low, high), count, modes = moment["weight_decay_limits"], moment["can_survive"], moment["modes"]
    if not count:
        return f"expected: collapse; no mode survives a weight decay of {own:g}, all fall by {high:.3g}"
    margins = "" if own == 0 else f" (margin {low / own:.2g}), the last at {high:.3g} (margin {high / own:.2g})"
    return f"expected: {count} of {modes} survive a weight decay of {own:g}; the first falls at {low:.3g}{margins}"


def _outcome(moments: list[dict[str, Any]]) -> list[str]:
    """How well the heuristic did, for a run: it describes it if order and size of the predictor's eigenvalues fit, and
    about as many modes live as could from the start."""
    if len(moments) < 2:
        return []
    start, end = moments[0], moments[-1]
    fits = (end.get("p_correlation") or 0) > 0.7 and (end.get("p_error") or 1) < 0.5
    counted = 0.5 * start["can_survive"] <= end["modes"] <= 2 * start["can_survive"]
    verdict = {(True, True): "describes this run", (False, False): "does not describe this run"}.get(
        (fits, counted),
        "fits the predictor's eigenvalues, not the number of modes" if fits else "fits the number of modes only",
    )
    return [
        f"outcome: from the start {start['can_survive']} of {start['modes']} modes could live; after {end['step']} "
        f"steps {end['modes']} do, with effective rank {end['effective_rank']:.1f}: the heuristic {verdict}"
    ]


# ------------------------------------------------------------------------------------------ common


def _facts(kind: str, title: str, recipe: Recipe, found: Units, notes: list[str]) -> dict[str, Any]:
    speed = found.rates
    return {
        "kind": kind,
        "title": title,
        "predictor": recipe.method.predictor,
        "target": recipe.method.target,
        "weight_decay": found.weight_decay,
        "eta": speed.eta,
        "eta_p": speed.eta_p,
        "alpha_p": found.alpha_p,
        "beta": speed.beta if recipe.method.target == "momentum" else None,
        "time_per_step": speed.time,
        "seed": recipe.train.seed,
        "notes": notes,
    }


def _head(facts: dict[str, Any]) -> list[str]:
    beta = "" if facts["beta"] is None else f", beta {facts['beta']:.3g}"
    decay = f"eta {facts['eta']:.3g}"
    if not math.isclose(facts["eta"], facts["eta_p"], rel_tol=1e-9):
        decay += f" (predictor: {facts['eta_p']:.3g})"
    return [
        facts["title"],
        f"units   {decay}, alpha_p {facts['alpha_p']:g}{beta}, a step is {facts['time_per_step']:.3g} of time",
    ]


def _notes(facts: dict[str, Any]) -> list[str]:
    return [f"note: {note}" for note in facts["notes"]]


def _aligned(columns: dict[str, Float], most: int) -> list[str]:
    """The first rows as text; columns without any number are left out."""
    shown = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    lines = ["mode" + "".join(f"{name:>10}" for name in shown)]
    count = len(columns["signal"])
    for j in range(min(most, count)):
        cells = (f"{v[j]:>10.3g}" if math.isfinite(v[j]) else f"{'-':>10}" for v in shown.values())
        lines.append(f"{j + 1:>4}" + "".join(cells))
    return [*lines, f"... {count - most} more in modes.csv"] if count > most else lines


def _rows(columns: dict[str, Float]) -> Table:
    values = [map(_finite, column) for column in columns.values()]
    return [["mode", *columns], *([j + 1, *row] for j, row in enumerate(zip(*values, strict=True)))]


def _finite(value: float) -> float | None:
    """For a table: nothing where there is no number."""
    return float(value) if math.isfinite(value) else None


def _plain(value: float) -> float | None:
    """Six digits for JSON; what is not a number is null."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
