"""The experiments that run anywhere, by name: those of the linear network, of digits and of vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from siamscope.claims import linear
from siamscope.claims.digits_table import TABLE, Settings
from siamscope.rundir import explained, finite, write_text

Say = Callable[[str], None]


def run(name: str, seeds: Sequence[int], out: Path | None, say: Say) -> Mapping[str, tuple[float, ...]]:
    """Measures of the experiment `name`, one value a seed.

    out: where runs of the digits network are kept, and not repeated if they are there.
    """
    if name in linear.EXPERIMENTS:
        say(f"{name}: {len(seeds)} seeds")
        return linear.EXPERIMENTS[name](seeds)
    if name.startswith("vectors."):
        from siamscope.claims import vectors_measures

        say(f"{name}: {len(seeds)} seeds, some minutes")
        return vectors_measures.EXPERIMENTS[name](seeds)
    settings = TABLE[name.removeprefix("digits.")][0]
    rows = [_digits(name, settings, seed, out, say) for seed in seeds]
    return {measure: tuple(row[measure] for row in rows) for measure in rows[0]}


def _digits(name: str, settings: Settings, seed: int, out: Path | None, say: Say) -> dict[str, float]:
    from siamscope.claims import digits

    path = out / "digits" / f"{name.removeprefix('digits.')}-{seed}.json" if out else None
    about = hashlib.sha256(repr(settings).encode()).hexdigest()
    if path and (kept := _kept(path, about)):
        return kept
    say(f"{name}: seed {seed}")
    found = digits.run(settings, seed)
    if path:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"settings": about, "measures": finite(found)}) + "\n")
    return found


def _kept(path: Path, about: str) -> dict[str, float] | None:
    """The measures of a finished run with the same settings; what was no number is NaN again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] != about:
            return None
        return {name: float("nan") if value is None else float(value) for name, value in found["measures"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
