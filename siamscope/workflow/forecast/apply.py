"""`siamscope forecast apply`: the accuracy that a fitted forecast expects of other runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from siamscope.collapse.forecast import Expected, Forecaster
from siamscope.collapse.least_squares import rmse, spearman
from siamscope.rundir import finite
from siamscope.workflow import fleet
from siamscope.workflow.answer import Answer
from siamscope.workflow.fleet import Member
from siamscope.workflow.forecast.file import Context, ForecastError, load
from siamscope.workflow.forecast.fit import mixed


@dataclass(frozen=True)
class Options:
    """No labels are needed; where accuracies are known they are shown beside what was expected."""

    forecast: Annotated[Path, Positional, arg(metavar="FORECAST")]
    """File that 'siamscope forecast fit' wrote."""
    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN|FOLDER|TABLE")] = ()
    """Finished runs, folders of them, or a table of runs."""
    allow_mixed: str = ""
    """What may differ from the runs of the fit: data, split, d, with commas between them."""
    strict: bool = False
    """Bad input (exit code 2) if a run lies outside what the fit has seen, instead of a line that says so."""
    json: bool = False
    """Print the figures as JSON."""


def run(options: Options) -> Answer:
    """Expected accuracy and interval of each run, or why nothing is said.

    Raises:
        ForecastError, RunError: no forecast, no runs, or runs of another kind than the fit's.
    """
    forecaster, context = load(options.forecast)
    members, notes = fleet.read(options.runs)
    notes += suited(members, forecaster, context, mixed(options.allow_mixed))
    found = expected(members, forecaster, context)
    refused = [f"{member.name}: {item.reason}" for member, item in zip(members, found, strict=True) if item.reason]
    if options.strict and refused:
        raise ForecastError(f"{len(refused)} of {len(members)} runs are outside of the fit: {'; '.join(refused[:4])}")
    known = [member.accuracy.get(context.target, math.nan) for member in members]
    facts = {
        "target": context.target,
        "fitted_on": asdict(context),
        "loo_rmse": forecaster.quality_.loo_rmse,
        "runs": [_row(*item) for item in zip(members, found, known, strict=True)],
        "refused": len(refused),
        "measured": _measured(found, known),
        "notes": notes,
    }
    return Answer(json.dumps(finite(facts), allow_nan=False) if options.json else _text(facts, forecaster, context))


def suited(
    members: Sequence[Member],
    forecaster: Forecaster,
    context: Context,
    allowed: Sequence[str],
    advice: str = fleet.ADVICE,
) -> list[str]:
    """Notes on runs that differ from those of the fit in what a forecast can bear; `advice` as in `check_alike`.

    Raises:
        RunError: they differ in what it cannot bear, and `allowed` does not name that.
    """
    usual = Member("the fit", {}, data=context.data, split=context.split, d=context.d[0] if len(context.d) == 1 else 0)
    notes = fleet.check_alike([usual, *members], tuple(forecaster.features), allowed, advice)
    strangers = sorted({member.method for member in members if member.method} - set(context.methods))
    if strangers and context.methods:
        notes.append(
            f"fitted on {', '.join(context.methods)}, not on {', '.join(strangers)}: what holds for a method need not "
            "hold for another"
        )
    return notes


def expected(members: Sequence[Member], forecaster: Forecaster, context: Context) -> list[Expected]:
    """What the forecast says of each, its losses being compared with those of the fit's runs."""
    scored = [fleet.derived(member, context.losses).scores for member in members]
    if "loss_in_method" in forecaster.features:  # never by the runs at hand: their mean is another
        scored = [
            table | ({} if member.method in context.losses else {"loss_in_method": math.nan})
            for table, member in zip(scored, members, strict=True)
        ]
    names = tuple(forecaster.features)
    return forecaster.expect([{name: table.get(name, math.nan) for name in names} for table in scored])


def _row(member: Member, found: Expected, known: float) -> dict[str, Any]:
    return {
        "run": member.name, "method": member.method, "expected": found.value, "low": found.low, "high": found.high,
        "leverage": found.leverage, "refused": found.reason, "measured": known,
    }  # fmt: skip


def _measured(found: Sequence[Expected], known: Sequence[float]) -> dict[str, Any]:
    """How right it was where the accuracy is known: error, rank correlation, and how many intervals held it."""
    pairs = [
        (item, truth) for item, truth in zip(found, known, strict=True) if not item.reason and math.isfinite(truth)
    ]
    if not pairs:
        return {"n": 0}
    value, truth = np.array([item.value for item, _ in pairs]), np.array([truth for _, truth in pairs])
    held = sum(item.low <= truth <= item.high for item, truth in pairs)
    return {"n": len(pairs), "rmse": rmse(truth, value), "spearman": spearman(value, truth), "held": held}


def _text(facts: dict[str, Any], forecaster: Forecaster, context: Context) -> str:
    percent = f"{100 * forecaster.confidence:g} %"
    wide = max(3, *(len(row["run"]) for row in facts["runs"])) + 2
    lines = [
        f"{context.target} accuracy expected from {forecaster.quality_.name} "
        f"({context.runs} runs; left out, their error was {100 * forecaster.quality_.loo_rmse:.1f} points)",
        f"{'run':<{wide}}{'expected':>9}   {percent + ' interval':<18}measured",
    ]
    for row in facts["runs"]:
        measured = f"{100 * row['measured']:.1f} %" if math.isfinite(row["measured"]) else "-"
        if row["refused"]:
            lines.append(f"{row['run']:<{wide}}{'-':>9}   {'-':<18}{measured}   refused: {row['refused']}")
        else:
            interval = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
            lines.append(f"{row['run']:<{wide}}{100 * row['expected']:>7.1f} %   {interval:<18}{measured}")
    done = facts["measured"]
    if done["n"] > 1:
        rank = f", rank correlation {done['spearman']:.2f}" if math.isfinite(done["spearman"]) else ""
        lines.append(
            f"{done['n']} accuracies are known: error {100 * done['rmse']:.1f} points (root mean square){rank}, "
            f"{done['held']} within their intervals"
        )
    return "\n".join(lines + [f"note: {note}" for note in facts["notes"]])
