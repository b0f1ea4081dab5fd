"""`siamscope dynamics check`: the theorems as checks."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from siamscope.dynamics import checks
from siamscope.dynamics.checks import Row
from siamscope.workflow.answer import Answer


@dataclass(frozen=True)
class Options:
    """Exit code 0 if all checks pass, 1 if one fails, 2 for bad input."""

    only: str = "*"
    """Ids or patterns with commas between them, as A3* or A7,A8.*; without it, all."""
    seed: int = 0
    """Seed of the random configurations; another one draws others."""
    configurations: int = 5
    """Random configurations for each check; the worst one counts."""
    json: bool = False
    """Print the table as JSON."""


def run(options: Options) -> Answer:
    """Every claim of the theory whose id matches `only`; see `siamscope.dynamics.checks`."""
    rows = checks.run(options.only, seed=options.seed, configurations=options.configurations)
    text = json.dumps(facts(rows, options.seed), allow_nan=False) if options.json else table(rows)
    return Answer(text, 1 if failed(rows) else 0)


def facts(rows: list[Row], seed: int) -> dict[str, Any]:
    """For JSON: the rows, how many failed, and the seed. A residual that is no number is null."""
    return {
        "seed": seed,
        "passed": not failed(rows),
        "checks": len(rows),
        "failed": failed(rows),
        "seconds": round(sum(row.seconds for row in rows), 3),
        "rows": [asdict(row) | {"residual": _number(row.residual)} for row in rows],
    }


def failed(rows: list[Row]) -> list[str]:
    """Ids of the claims that failed."""
    return [row.id for row in rows if not row.passed]


def table(rows: list[Row]) -> str:
    """One line a claim: verdict, residual against bound, id, kind and claim; a line of totals."""
    wide, kinds = max(len(row.id) for row in rows), max(len(row.kind) for row in rows)
    lines = [f"{'':<5}{'residual':>9}   {'bound':<7}  {'id':<{wide}}  {'kind':<{kinds}}  claim"]
    for row in rows:
        verdict = "pass" if row.passed else "FAIL"
        figures = f"{row.residual:>9.2g} {row.relation} {row.bound:<7.2g}"
        lines.append(f"{verdict} {figures}  {row.id:<{wide}}  {row.kind:<{kinds}}  {row.claim}")
        if row.note:
            lines.append(f"     {row.note}")
    bad = failed(rows)
    counts = sorted({row.configurations for row in rows})
    lines.append(
        f"{len(rows) - len(bad)} of {len(rows)} pass, worst of {counts[0]} random configurations each, "
        f"{sum(row.seconds for row in rows):.1f} s of processor time"
        + (f"; failed: {', '.join(bad)}" if bad else "")
        + ". An erratum or a negative control passes when the form it names fails (>)."
    )
    return "\n".join(lines)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
