"""What gradients.csv and cosines.csv hold, as numbers by step and method."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamscope.report.errors import ReportError
from siamscope.report.metrics import FloatArray

_NEEDED = {
    "gradients.csv": {"step", "label", "method", "reference", "pull", "push", "cosine", "problem"},
    "cosines.csv": {"step", "method", "other", "total", "push"},
}
SHAPE = ("positive_mean", "positive_std", "negative_mean", "negative_std", "effective_rank", "length")
"""Columns that describe the embeddings, the same for all methods."""


@dataclass(frozen=True)
class Gradients:
    """The two files: `methods` and `steps` in their order, `lines` and `cosines` by step."""

    methods: tuple[str, ...]
    steps: tuple[int, ...]
    labels: Mapping[int, str]
    reference: str
    lines: Mapping[tuple[int, str], Mapping[str, str]]
    cosines: Mapping[int, Mapping[tuple[str, str], tuple[float, float]]]

    def value(self, step: int, method: str, key: str) -> float:
        """A number, NaN where there is none."""
        return _number(self.lines.get((step, method), {}).get(key, ""))

    def series(self, method: str, key: str) -> FloatArray:
        """A method's column over the steps."""
        return np.array([self.value(step, method, key) for step in self.steps], dtype=np.float64)

    def shape(self, step: int, key: str) -> float:
        """A number of the embeddings."""
        return self.value(step, self.methods[0], key)

    def text(self, step: int, method: str, key: str) -> str:
        return self.lines.get((step, method), {}).get(key, "")

    def known(self, step: int) -> list[str]:
        """Methods that have a gradient at a step."""
        return [method for method in self.methods if math.isfinite(self.value(step, method, "pull"))]

    def matrix(self, step: int, of: str) -> tuple[list[str], FloatArray]:
        """Methods and the (k, k) cosines of their whole gradients (`total`) or negative terms (`push`)."""
        names, found = self.known(step), self.cosines.get(step, {})
        place = 0 if of == "total" else 1
        cells = [[found.get((a, b), (math.nan, math.nan))[place] for b in names] for a in names]
        return names, np.array(cells, dtype=np.float64).reshape(len(names), len(names))


def read(folder: Path) -> Gradients:
    """Read the two files of a folder.

    Raises:
        ReportError: a file is missing, empty, or not one that `siamscope gradients` wrote.
    """
    lines, cosines = (_rows(folder / name) for name in _NEEDED)
    if not lines:
        raise ReportError(f"{folder / 'gradients.csv'} holds no line.")
    table = {(_step(line), line["method"]): line for line in lines}
    by_step: dict[int, dict[tuple[str, str], tuple[float, float]]] = {}
    for line in (line for line in cosines if line["method"]):
        pair = line["method"], line["other"]
        by_step.setdefault(_step(line), {})[pair] = _number(line["total"]), _number(line["push"])
    return Gradients(
        methods=tuple(dict.fromkeys(line["method"] for line in lines)),
        steps=tuple(sorted({step for step, _ in table})),
        labels={_step(line): line["label"] for line in lines},
        reference=lines[0]["reference"],
        lines=table,
        cosines=by_step,
    )


def _rows(path: Path) -> Sequence[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = _NEEDED[path.name] - set(reader.fieldnames or ())
            if missing:
                raise ReportError(
                    f"{path} lacks the columns {', '.join(sorted(missing))}; give `siamscope gradients`' own."
                )
            return [{key: value or "" for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReportError(
            f"{path} cannot be read ({error}); give the folder that `siamscope gradients` wrote."
        ) from error


def _step(line: Mapping[str, str]) -> int:
    try:
        return int(line["step"])
    except ValueError:
        raise ReportError(f"{line['step']!r} is no step; give the files that `siamscope gradients` wrote.") from None


def _number(text: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
