"""Claims and verdicts as text and as JSON."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from siamscope.claims.base import Ablation, Claim, ClaimError, NotOffered, Order, Preset, Verdict
from siamscope.claims.published import canonical_hash
from siamscope.rundir import explained, finite, write_text


def say(text: str) -> None:
    """A line of progress, on the error stream."""
    print(f"reproduce: {text}", file=sys.stderr, flush=True)


def matching(claims: Iterable[Claim], only: str, paper: str) -> list[Claim]:
    """The claims whose id matches one of the patterns in `only`, which commas separate.

    Raises:
        ClaimError: a pattern that matches none.
    """
    known = list(claims)
    chosen: dict[str, Claim] = {}
    for pattern in (part.strip() for part in only.split(",")):
        found = [claim for claim in known if fnmatch.fnmatchcase(claim.id, pattern)]
        if not found:
            raise ClaimError(
                f"--only {pattern!r} matches no claim; 'siamscope reproduce {paper} --list' shows their ids"
            )
        chosen |= {claim.id: claim for claim in found}
    return [claim for claim in known if claim.id in chosen]


def about(claim: Claim) -> dict[str, Any]:
    """A claim for JSON."""
    published = claim.published
    out: dict[str, Any] = {"id": claim.id, "sentence": claim.sentence, "cost": claim.cost, "unit": claim.unit}
    out["published"] = {"value": published.value, "sd": published.sd, "memory": published.memory} if published else None
    out["expected"] = str(claim.expected) if claim.expected else None
    out["rule"] = claim.expected.why if claim.expected else ""
    out["earlier"] = claim.earlier
    match claim.experiment:
        case Preset(data, recipe, _):
            out |= {"data": data, "sha256": canonical_hash(recipe)}
        case Order(higher, lower, short):
            out |= {"higher": higher, "lower": lower, "short": short}
        case NotOffered(reason):
            out |= {"not_offered": reason}
        case Ablation(experiment, measure):
            out |= {"experiment": experiment, "measure": measure}
    return out | {"note": claim.note}


def listing(claims: Sequence[Claim], differences: Sequence[str], as_json: bool) -> str:
    """What `--list` prints."""
    if as_json:
        return json.dumps({"differences": list(differences), "claims": [about(claim) for claim in claims]})
    rows = [("id", "cost", "printed", "expected", "claim")]
    rows += [(c.id, _cost(c), _printed(c), str(c.expected) if c.expected else "", c.sentence) for c in claims]
    lines = _columns(rows)
    presets = any(isinstance(claim.experiment, Preset) for claim in claims)
    if presets:
        lines += ["", "The recipes of the tables differ from the paper:", *(f"- {text}" for text in differences)]
    by_cost = {claim.cost: f"--only '{claim.table}*' ({claim.cost})" for claim in reversed(claims)}
    known = [by_cost[cost] for cost in ("seconds", "minutes") if cost in by_cost]
    known += ["--only T6.rho3.eps1 --data FOLDER (hours on a GPU)"] if presets else []
    if known:
        lines += ["", f"Run some: {', '.join(known)}."]
    return "\n".join(lines)


def dry_run(claims: Sequence[Claim], as_json: bool) -> str:
    """What `--dry-run` prints: the hash of each recipe, and what has none."""
    if as_json:
        return json.dumps([about(claim) for claim in claims])
    rows = [("id", "data", "SHA-256 of the recipe")]
    for claim in claims:
        match claim.experiment:
            case Preset(data, recipe, _):
                rows.append((claim.id, data, canonical_hash(recipe)))
            case NotOffered(reason):
                rows.append((claim.id, "", f"not offered: {reason}"))
            case Order(higher, lower):
                rows.append((claim.id, "", f"{higher} above {lower}"))
            case Ablation(experiment, measure):
                rows.append((claim.id, "none", f"{measure} of {experiment}"))
    return "\n".join(_columns(rows))


def table(verdicts: Sequence[Verdict]) -> str:
    """One line a claim: verdict, mean +- deviation over seeds, what is expected, id, claim; a line of totals."""
    rows = [("verdict", "measured", "seeds", "expected", "printed", "id", "claim")]
    for v in verdicts:
        expected = str(v.claim.expected) if v.claim.expected else _hint(v.claim)
        seeds = str(len(v.values)) if v.values else ""
        rows.append((v.outcome, _measured(v), seeds, expected, _printed(v.claim), v.claim.id, v.claim.sentence))
    lines = _columns(rows)
    notes = dict.fromkeys(f"{v.claim.id}: {v.note}" for v in verdicts if v.note and v.outcome != "not judged")
    counts = {name: sum(v.outcome == name for v in verdicts) for name in dict.fromkeys(v.outcome for v in verdicts)}
    return "\n".join([*lines, *(f"- {note}" for note in notes), ", ".join(f"{n} {name}" for name, n in counts.items())])


def facts(paper: str, verdicts: Sequence[Verdict], seeds: Sequence[int]) -> dict[str, Any]:
    """Verdicts for JSON, with the machine."""
    import torch

    from siamscope.workflow import environment

    lines = [
        about(v.claim)
        | {"outcome": v.outcome, "mean": v.mean, "sd": v.sd, "n": len(v.values), "values": list(v.values)}
        | {"details": dict(v.details), "remark": v.note}
        for v in verdicts
    ]
    machine = environment.describe(torch.device("cpu")) | {"date": environment.now()}
    out: dict[str, Any] = finite(
        {"paper": paper, "seeds": list(seeds), "machine": machine, "claims": [_rounded(line) for line in lines]}
    )
    return out


def write(path: Path, value: dict[str, Any]) -> None:
    """Write JSON, making the folder.

    Raises:
        RunError: it cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1) + "\n")


def _rounded(value: Any) -> Any:
    """Six digits are more than any of it means."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _cost(claim: Claim) -> str:
    return "not offered" if isinstance(claim.experiment, NotOffered) else claim.cost


def _printed(claim: Claim) -> str:
    if claim.published is None:
        return ""
    sd = f" +- {claim.published.sd:.2f}" if claim.published.sd is not None else ""
    return f"{claim.published.value:.2f}{sd}" + (" (from memory)" if claim.published.memory else "")


def _hint(claim: Claim) -> str:
    return f"({claim.earlier:g} elsewhere)" if claim.earlier is not None else ""


def _measured(verdict: Verdict) -> str:
    if verdict.mean is None:
        return ""
    sd = f" +- {verdict.sd:.2g}" if verdict.sd is not None else ""
    return f"{verdict.mean:.4g}{sd}"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
