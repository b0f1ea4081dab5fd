"""The score card: every label-free score of one set of features, with intervals, flags, conventions and a status."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from siamscope import __version__
from siamscope.collapse.baseline import Baseline
from siamscope.collapse.definitions import DEFINITIONS, Definition
from siamscope.collapse.health import Health, Vitals
from siamscope.collapse.intervals import Interval
from siamscope.collapse.lidar import DELTA
from siamscope.collapse.moments import Conventions
from siamscope.collapse.spectrum import Spectrum


@dataclass(frozen=True)
class Score:
    """One score of a card.

    Attributes:
        name: a key of `DEFINITIONS`.
        value: None where it has none; `flags` then says why.
        bounds: least and largest value it can have, for this n and d.
        interval: None where none was asked for or can be given.
        flags: what to know before the value is used: out of its range, a convention, why there is none.
        details: what belongs to the value, such as the range that alpha-ReQ was fitted on.
    """

    name: str
    value: float | None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    interval: Interval | None = None
    flags: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def definition(self) -> Definition:
        return DEFINITIONS[self.name]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: no NaN, no infinity."""
        about = self.definition
        out: dict[str, Any] = {
            "value": _number(self.value),
            "range": [_number(bound) for bound in self.bounds],
            "collapsed": about.collapsed,
            "centring": about.centring,
        }
        if self.interval is not None:
            out["interval"] = {key: _number(value) for key, value in asdict(self.interval).items()}
        if self.flags:
            out["flags"] = list(self.flags)
        return out | dict(self.details)


@dataclass(frozen=True)
class Diagnosis:
    """All scores of one set of features, and how they were computed.

    Attributes:
        n, d: samples and dimensions.
        scores: by name, in the order of `DEFINITIONS`.
        spectrum: of the features, centred unless the conventions say otherwise.
        dead_columns: numbers of the columns that are constant.
        dead_directions: singular values of the centred features below 1e-4 of the largest.
        baseline: what an isotropic population would score with n and d.
        status: "complete collapse" if all rows are one point, else that of `health`.
        health: the verdict of `assess` on these features by their rank.
        vitals: what `assess` looks at; of the centred features, whatever the conventions.
        notes: what to know about all scores.
        conventions, row_norm, dtype, seed: how they were computed.
        views: shape of the views, if there were any.
    """

    n: int
    d: int
    scores: Mapping[str, Score]
    spectrum: Spectrum
    dead_columns: tuple[int, ...]
    dead_directions: int
    baseline: Baseline
    status: str
    health: Health
    vitals: Vitals
    notes: tuple[str, ...]
    conventions: Conventions
    row_norm: bool
    dtype: str
    seed: int
    views: tuple[int, ...] | None = None

    def __getitem__(self, name: str) -> float:
        """The value of a score; NaN where it has none. KeyError where it was not computed."""
        value = self.scores[name].value
        return math.nan if value is None else value

    def values(self) -> dict[str, float]:
        """The scores that have a value."""
        return {name: score.value for name, score in self.scores.items() if score.value is not None}

    def to_dict(self, *, spectrum: bool = True) -> dict[str, Any]:
        """For JSON: numbers, words and lists, no NaN. `spectrum`: with the singular values."""
        out = {
            "n": self.n,
            "d": self.d,
            "status": self.status,
            "reasons": list(self.health.reasons),
            "advice": list(self.health.advice),
            "notes": list(self.notes),
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
            "dead_columns": len(self.dead_columns),
            "dead_directions": self.dead_directions,
            "mean_norm": self.spectrum.mean_norm,
            "baseline_isotropic": asdict(self.baseline),
            "conventions": {
                "center": self.conventions.center,
                "row_norm": self.row_norm,
                "rankme_eps": self.conventions.eps,
                "alpha_range": list(self.conventions.alpha_range),
                "lidar_delta": DELTA,
                "dtype": self.dtype,
                "computed_in": "float64",
                "seed": self.seed,
                "views": None if self.views is None else list(self.views),
                "siamscope": __version__,
            },
        }
        return out | ({"singular_values": self.spectrum.singular_values.tolist()} if spectrum else {})


def _number(value: Any) -> Any:
    """None for what JSON cannot write."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
