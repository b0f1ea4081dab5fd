"""A forecast as a file: the fit, and what it was fitted on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from siamscope.collapse.errors import CollapseError
from siamscope.collapse.forecast import Forecaster
from siamscope.rundir import RunError, explained, finite, write_text
from siamscope.workflow.fleet import Member

KIND = "siamscope forecast"


class ForecastError(ValueError):
    """Runs that no forecast can be fitted on or applied to; the message says what to do."""


@dataclass(frozen=True)
class Context:
    """What the runs of a fit had in common, for those it is applied to.

    Attributes:
        target: which accuracy.  split: of which images.  data: fingerprint, empty if unknown.
        methods, backbones, d, n: that occurred.
        losses: mean and deviation of the loss by method, for loss_in_method.
    """

    target: str
    split: str
    data: str
    data_name: str
    methods: tuple[str, ...]
    d: tuple[int, ...]
    n: tuple[int, ...]
    runs: int
    losses: dict[str, tuple[float, float]]
    siamscope: str

    @classmethod
    def of(cls, members: Sequence[Member], target: str, losses: dict[str, tuple[float, float]]) -> Context:
        import siamscope

        def all_of(name: str) -> tuple[Any, ...]:
            return tuple(sorted({getattr(member, name) for member in members if getattr(member, name)}))

        return cls(
            target=target,
            split=", ".join(all_of("split")),
            data=", ".join(all_of("data")),
            data_name=", ".join(all_of("data_name")),
            methods=all_of("method"),
            d=all_of("d"),
            n=all_of("n"),
            runs=len(members),
            losses=losses,
            siamscope=siamscope.__version__,
        )


def save(path: Path, forecaster: Forecaster, context: Context, rows: Sequence[dict[str, Any]]) -> None:
    """Write the fit with its runs.

    Raises:
        RunError: it cannot be written.
    """
    value = {"kind": KIND, "version": 1, "context": asdict(context), "forecast": forecaster.to_dict(), "runs": rows}
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(finite(value), indent=1) + "\n")


def load(path: Path) -> tuple[Forecaster, Context]:
    """A saved fit.

    Raises:
        ForecastError: no such file, or no forecast.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ForecastError(f"cannot read the forecast {path}: {error}; 'siamscope forecast fit' writes one") from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise ForecastError(f"{path} is not a forecast; 'siamscope forecast fit RUNS... --out {path}' writes one")
    try:
        known = value["context"]
        losses = {str(name): (float(pair[0]), float(pair[1])) for name, pair in known["losses"].items()}
        several = {name: tuple(known[name]) for name in ("methods", "d", "n")}
        return Forecaster.from_dict(value["forecast"]), Context(**known | several | {"losses": losses})
    except (KeyError, TypeError, IndexError, AttributeError, CollapseError, ValueError) as error:
        raise ForecastError(f"{path} is a spoilt forecast ({error}); fit it again") from error


def check_out(path: Path) -> None:
    """Fail before the work if the file cannot be written there.

    Raises:
        RunError: it is a folder, or lies in something that is none.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder; give --out the name of a file, such as {path / 'forecast.json'}")
