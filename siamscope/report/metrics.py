"""`metrics.jsonl` as columns: the steps, the monitors with their spectra, the events.

A run may have been killed in the middle of a line, resumed from an earlier checkpoint (steps go back), or have recorded
NaN as null: none of these may stop the report.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

STEP_FIELDS = ("step", "epoch", "loss", "lr", "lr_predictor", "momentum", "grad_norm", "images_per_second")
MONITOR_FIELDS = (
    "step",
    "epoch",
    "embedding_std",
    "effective_rank",
    "auc",
    "positive_similarity",
    "feature_std",
    "feature_effective_rank",
    "feature_auc",
    "grad_norm",
    "loss",
    "knn",
    "alignment",
    "asymmetry",
    "commutator",
    "target_share",
    "noise_ratio",
    "k_smallest",
    "balance",
    "weight_balance",
    "images_per_second",
)


@dataclass(frozen=True)
class Table:
    """Numeric columns of one length; NaN where a line did not carry the field."""

    columns: Mapping[str, FloatArray]
    length: int

    def __len__(self) -> int:
        return self.length

    def get(self, name: str) -> FloatArray:
        """Column `name`, (length,); all NaN when no line carried it."""
        return self.columns.get(name, np.full(self.length, np.nan))

    def has(self, name: str) -> bool:
        """Whether the column holds at least one finite value."""
        return bool(np.isfinite(self.get(name)).any())

    def first(self, name: str) -> float:
        """Value on the first line (NaN when there is none)."""
        return float(self.get(name)[0]) if self.length else math.nan

    def last(self, name: str) -> float:
        """Value on the last line (NaN when there is none)."""
        return float(self.get(name)[-1]) if self.length else math.nan


@dataclass(frozen=True)
class Spectrum:
    """Singular values in descending order, the index 1..d of each (a log may keep only some), and the dimension d."""

    values: FloatArray
    index: FloatArray
    dimension: int

    @property
    def largest(self) -> float:
        """The largest singular value; NaN when none is known."""
        known = self.values[np.isfinite(self.values)]
        return float(known.max()) if len(known) else math.nan


@dataclass(frozen=True)
class Monitors:
    """The monitor lines: numeric table, health in words, spectra of each line."""

    table: Table
    health: tuple[str, ...]
    embeddings: tuple[Spectrum, ...]
    features: tuple[Spectrum, ...]

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True)
class Event:
    """Something that happened at a step, in words."""

    step: float
    message: str


@dataclass(frozen=True)
class Metrics:
    """Everything in `metrics.jsonl`; `notes` says what could not be read."""

    steps: Table
    monitors: Monitors
    events: tuple[Event, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Lines:
    """Lines by kind, and what was wrong with the others."""

    steps: list[Mapping[str, object]] = field(default_factory=list)
    monitors: list[Mapping[str, object]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    unreadable: int = 0
    truncated: bool = False


def to_number(value: object) -> float:
    """A JSON number as float; anything else (null, text, booleans) is NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def numbers(value: object) -> FloatArray:
    """A JSON list of numbers as a vector; anything else is empty."""
    if not isinstance(value, list):
        return np.empty(0)
    return np.array([to_number(item) for item in value], dtype=np.float64)


def json_lines(path: Path) -> Iterator[tuple[object, bool]]:
    """Each non-empty line as (value, line is whole); the value is None when the line is not JSON.

    Raises OSError when the file cannot be read.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                yield json.loads(line), True
            except (ValueError, RecursionError):
                yield None, line.endswith("\n")


def empty() -> Metrics:
    """No lines at all."""
    nothing = Table({}, 0)
    return Metrics(nothing, Monitors(nothing, (), (), ()))


def read_metrics(path: Path) -> Metrics:
    """Parse `metrics.jsonl` (raises OSError only)."""
    lines = _sort_lines(path)
    notes = []
    if lines.truncated:
        notes.append("metrics.jsonl ends in the middle of a line: the run was stopped while writing it.")
    if lines.unreadable:
        noun = "line is" if lines.unreadable == 1 else "lines are"
        notes.append(f"metrics.jsonl: {lines.unreadable:,} {noun} not readable and left out.")
    return Metrics(_table(lines.steps, STEP_FIELDS), _monitors(lines.monitors), tuple(lines.events), tuple(notes))


def _sort_lines(path: Path) -> _Lines:
    lines = _Lines()
    for value, is_whole in json_lines(path):
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind == "watch":  # the alarm's looks: what it says of them stands in events
            continue
        if not isinstance(value, dict) or kind not in ("step", "monitor", "event"):
            lines.truncated |= not is_whole
            lines.unreadable += is_whole
        elif kind == "event":
            lines.events.append(Event(to_number(value.get("step")), str(value.get("message", ""))))
        else:
            _append(lines.steps if kind == "step" else lines.monitors, value)
    return lines


def _append(rows: list[Mapping[str, object]], row: Mapping[str, object]) -> None:
    """Add `row`; a resumed run repeats steps after its checkpoint, and then only the later pass counts."""
    step = to_number(row.get("step"))
    while rows and to_number(rows[-1].get("step")) >= step:
        rows.pop()
    rows.append(row)


def _table(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> Table:
    columns = {name: np.array([to_number(row.get(name)) for row in rows], dtype=np.float64) for name in names}
    return Table(columns, len(rows))


def _monitors(rows: Sequence[Mapping[str, object]]) -> Monitors:
    return Monitors(
        _table(rows, MONITOR_FIELDS),
        tuple(str(row.get("health", "")) for row in rows),
        tuple(_spectrum(row, "spectrum_embeddings", "embedding_dim") for row in rows),
        tuple(_spectrum(row, "spectrum_features", "feature_dim") for row in rows),
    )


def _spectrum(row: Mapping[str, object], name: str, dimension: str) -> Spectrum:
    """The spectrum in field `name`; if it is thinned, NAME_index and `dimension` say where its values stand."""
    values, index = numbers(row.get(name)), numbers(row.get(f"{name}_index"))
    if len(index) != len(values) or not (np.isfinite(index).all() and (index >= 1).all()):
        index = np.arange(1.0, len(values) + 1)
    stated = to_number(row.get(dimension))
    least = float(index.max()) if len(index) else 0.0
    return Spectrum(values, index, int(stated) if least <= stated < 1e9 else int(least))
