"""A run directory as typed data. Any file may be missing or damaged: that becomes a note, never a crash."""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from siamscope.report.errors import ReportError
from siamscope.report.gallery import Gallery, read_gallery
from siamscope.report.metrics import Metrics, empty, json_lines, read_metrics, to_number

ENCODERS = ("trained", "untrained", "raw_pixels")
_ESSENTIAL = ("recipe.toml", "metrics.jsonl", "evaluation.json")
_REJECTED_SHOWN = 100
_REASONS_KEPT = 1000


@dataclass(frozen=True)
class Verdict:
    """The judgement in words: a status such as "healthy", why, and what to try."""

    status: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """A linear probe: accuracies 0..1, bootstrap interval of top-1, the chosen L2 strength; NaN when absent."""

    top1: float
    top5: float
    low: float
    high: float
    l2: float


@dataclass(frozen=True)
class Evaluation:
    """`evaluation.json`: k-NN accuracy (0..1) by encoder and k, probes by encoder, and how it was measured.

    scores: label-free, by name, of the trained and the untrained encoder; scored_n, scored_d: samples and dimensions
    behind them.
    """

    verdict: Verdict | None
    knn: Mapping[str, Mapping[int, float]]
    probe: Mapping[str, Probe]
    headline_k: int | None
    split: str
    n_bank: float
    n_queries: float
    seconds: Mapping[str, float]
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    scored_n: float = float("nan")
    scored_d: float = float("nan")

    def headline(self, encoder: str) -> float:
        """k-NN accuracy of `encoder` at the headline k, or NaN."""
        return self.knn.get(encoder, {}).get(self.headline_k or 0, float("nan"))


@dataclass(frozen=True)
class Rejected:
    """Files that were set aside: how many, the first of them with the reason, and how often each reason was given."""

    count: int = 0
    first: tuple[tuple[str, str], ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunData:
    """All that a run directory says. `notes`: what is missing or unreadable, in words."""

    path: Path
    label: str
    recipe: Mapping[str, object] | None
    recipe_text: str | None
    metrics: Metrics
    evaluation: Evaluation | None
    gallery: Gallery | None
    environment: Mapping[str, object] | None
    rejected: Rejected
    notes: tuple[str, ...]
    profile: Mapping[str, object] | None = None

    @property
    def status(self) -> str | None:
        """The verdict's status, else the health on the last monitor line after training began, else None."""
        if self.evaluation is not None and self.evaluation.verdict is not None:
            return self.evaluation.verdict.status
        monitors = self.metrics.monitors
        if not len(monitors) or monitors.table.last("step") == 0:
            return None
        return monitors.health[-1] or None


def read_run(path: Path, label: str | None = None) -> RunData:
    """Read the run directory `path`. Raises ReportError when it is not one."""
    _check_directory(path)
    notes: list[str] = []
    recipe, text = _read_recipe(path / "recipe.toml", notes)
    metrics = _read_metrics(path / "metrics.jsonl", notes)
    evaluation = _read_evaluation(path / "evaluation.json", notes)
    gallery = _read_gallery(path / "gallery.npz", notes)
    environment = _read_object(path / "environment.json", notes, "the machine and the versions are not known")
    rejected = _read_rejected(path / "rejected.jsonl", notes)
    profile = None
    if (path / "profile.json").is_file():  # few runs are profiled
        profile = _read_object(path / "profile.json", notes, "where the time went is not known")
    shown, said = label or path.resolve().name or str(path), tuple(notes)
    return RunData(path, shown, recipe, text, metrics, evaluation, gallery, environment, rejected, said, profile)


def _check_directory(path: Path) -> None:
    if not path.exists():
        raise ReportError(f"{path} does not exist; give the run directory that `siamscope train` wrote.")
    if not path.is_dir():
        raise ReportError(f"{path} is a file; give the run directory that holds it (here {path.parent}).")
    if not any((path / name).is_file() for name in _ESSENTIAL):
        raise ReportError(
            f"{path} is not a run directory: it holds none of {', '.join(_ESSENTIAL)}. "
            "Give the directory that `siamscope train` wrote."
        )


def _load(path: Path, notes: list[str], meaning: str) -> str | None:
    if not path.is_file():
        notes.append(f"{path.name} is missing: {meaning}.")
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        notes.append(f"{path.name} cannot be read ({error.strerror}): {meaning}.")
        return None


def _read_recipe(path: Path, notes: list[str]) -> tuple[Mapping[str, object] | None, str | None]:
    text = _load(path, notes, "the settings of the run are not known")
    if text is None:
        return None, None
    try:
        return tomllib.loads(text), text
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        notes.append(f"recipe.toml is not valid TOML ({error}); it is shown as it is.")
        return None, text


def _read_metrics(path: Path, notes: list[str]) -> Metrics:
    if not path.is_file():
        notes.append("metrics.jsonl is missing: there are no curves.")
        return empty()
    try:
        metrics = read_metrics(path)
    except OSError as error:
        notes.append(f"metrics.jsonl cannot be read ({error.strerror}): there are no curves.")
        return empty()
    notes.extend(metrics.notes)
    return metrics


def _read_gallery(path: Path, notes: list[str]) -> Gallery | None:
    if not path.is_file():
        notes.append("gallery.npz is missing: there are no map, neighbours or views to show.")
        return None
    try:
        gallery = read_gallery(path)
    except (OSError, ValueError) as error:
        notes.append(f"gallery.npz cannot be read ({error}): there are no map, neighbours or views to show.")
        return None
    notes.extend(gallery.notes)
    return gallery


def _read_object(path: Path, notes: list[str], meaning: str) -> Mapping[str, object] | None:
    text = _load(path, notes, meaning)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        notes.append(f"{path.name} is not valid JSON ({error}): {meaning}.")
        return None
    if not isinstance(value, dict):
        notes.append(f"{path.name} does not hold a JSON object: {meaning}.")
        return None
    return value


def _read_evaluation(path: Path, notes: list[str]) -> Evaluation | None:
    value = _read_object(path, notes, "the run has no verdict and no final figures")
    if value is None:
        return None
    knn = {encoder: _by_k(_mapping(value.get("knn")).get(encoder), notes) for encoder in ENCODERS}
    probes = _mapping(value.get("probe"))
    return Evaluation(
        verdict=_verdict(value.get("verdict")),
        knn={encoder: row for encoder, row in knn.items() if row},
        probe={encoder: _probe(_mapping(probes[encoder]), notes) for encoder in ENCODERS if encoder in probes},
        headline_k=_headline_k(value.get("k"), set().union(*knn.values())),
        split=str(value.get("split") or ""),
        n_bank=to_number(value.get("n_bank")),
        n_queries=to_number(value.get("n_queries")),
        seconds={str(key): to_number(item) for key, item in _mapping(value.get("seconds")).items()},
        scores=_scores(value),
        scored_n=to_number(_mapping(value.get("scored")).get("n")),
        scored_d=to_number(_mapping(value.get("scored")).get("d")),
    )


def _scores(value: Mapping[str, object]) -> dict[str, tuple[float, float]]:
    """Label-free scores by name: of the trained encoder, and of the untrained one (NaN where it has none)."""
    trained, untrained = _mapping(value.get("scores")), _mapping(value.get("scores_untrained"))
    found = {str(name): (to_number(item), to_number(untrained.get(name))) for name, item in list(trained.items())[:40]}
    return {name: pair for name, pair in found.items() if pair[0] == pair[0]}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _verdict(value: object) -> Verdict | None:
    fields = _mapping(value)
    if not fields.get("status"):
        return None
    return Verdict(str(fields["status"]), _words(fields.get("reasons")), _words(fields.get("advice")))


def _accuracy(value: object, notes: list[str]) -> float:
    accuracy = to_number(value)
    if 0 <= accuracy <= 1 or accuracy != accuracy:
        return accuracy
    notes.append(f"evaluation.json: {accuracy:g} is not an accuracy between 0 and 1 and is left out.")
    return float("nan")


def _by_k(value: object, notes: list[str]) -> dict[int, float]:
    rows = {
        int(key): _accuracy(item, notes) for key, item in _mapping(value).items() if key.isdecimal() and len(key) < 10
    }
    return {k: rows[k] for k in sorted(rows)}


def _probe(fields: Mapping[str, object], notes: list[str]) -> Probe:
    interval = fields.get("interval")
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
    top1, top5 = _accuracy(fields.get("top1"), notes), _accuracy(fields.get("top5"), notes)
    return Probe(top1, top5, _accuracy(low, notes), _accuracy(high, notes), to_number(fields.get("l2")))


def _headline_k(wanted: object, measured: set[int]) -> int | None:
    """The k that the run names; else 20 where it was measured (the field's habit), else the middle one."""
    for k in (wanted, 20):
        if isinstance(k, int) and k in measured:
            return k
    return sorted(measured)[len(measured) // 2] if measured else None


def _read_rejected(path: Path, notes: list[str]) -> Rejected:
    if not path.is_file():
        return Rejected()
    count, first, reasons = 0, [], Counter[str]()
    try:
        for value, _ in json_lines(path):
            fields = _mapping(value)
            entry = str(fields.get("path", "(unreadable line)")), str(fields.get("reason", ""))
            count += 1
            if count <= _REJECTED_SHOWN:
                first.append(entry)
            if entry[1] in reasons or len(reasons) < _REASONS_KEPT:
                reasons[entry[1]] += 1
    except OSError as error:
        notes.append(f"rejected.jsonl cannot be read ({error.strerror}).")
    return Rejected(count, tuple(first), dict(reasons.most_common()))
