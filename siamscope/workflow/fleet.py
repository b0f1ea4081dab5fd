"""Several runs side by side, as forecast and selection read them: run directories, folders of runs, or a table.

Torch-free.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from siamscope.collapse.selection import DIRECTIONS, WITHOUT_DIMENSION
from siamscope.recipe import Recipe
from siamscope.rundir import RECIPE, RunError
from siamscope.workflow import facts
from siamscope.workflow.facts import Facts

SCORES = (*DIRECTIONS, "twonn", "coherence")
ACCURACIES = ("linear", "knn")
SHORT = {"width": "network.width", "backbone": "network.backbone", "method": "method.name", "size": "order.subset"}
"""Names for people of fields that runs are grouped by."""
ADVICE = "--allow-mixed {name} lets it pass"
_SILENT = ("data.cache", "data.cache_dir", "data.workers", "train.device", "train.threads", "train.checkpoint_minutes")
_ABOUT = ("run", "method", "data", "split", "health", "n", "d", "validation")


@dataclass(frozen=True)
class Member:
    """One run of a fleet, or one line of a table.

    Attributes:
        scores: label-free, by canonical names, and `loss`.  accuracy: `linear`, `knn`, or a table's other columns.
        untrained: the same accuracies of the untrained encoder, where known.
        validation: accuracy on validation images, by which labels would choose; NaN if unknown.
        fields: of the recipe, dotted; of a table, its other columns.
    """

    name: str
    scores: dict[str, float]
    accuracy: dict[str, float] = field(default_factory=dict)
    untrained: dict[str, float] = field(default_factory=dict)
    validation: float = math.nan
    method: str = ""
    data: str = ""
    data_name: str = ""
    split: str = ""
    health: str = ""
    n: int = 0
    d: int = 0
    viewed: int = 0
    fields: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """A score, or NaN."""
        return self.scores.get(name, math.nan)


def read(paths: Sequence[Path]) -> tuple[list[Member], list[str]]:
    """All runs at these paths, each once, then the lines of tables; and notes on what was left out.

    Every line of a table is a run of its own, whatever names repeat.
    A run that is named must be finished; those in a folder that are not (stopped, diverged) are left out with a note.

    Raises:
        RunError: nothing there, no run there, a run that is not finished, a table that cannot be read, or a run that is
            given and also named in a table.
    """
    if not paths:
        raise RunError("name at least one run directory, a folder with runs, or a table of runs (CSV or JSON)")
    runs: dict[Path, Member] = {}
    lines: list[Member] = []
    unread: list[str] = []
    tables = {path.resolve(): path for path in paths if path.is_file()}
    for path in paths:
        if not path.is_file():
            for member in _runs(path, unread):
                runs.setdefault(Path(member.name).resolve(), member)
    for path in tables.values():
        lines += _table(path)
    twice = [member.name for member in runs.values() if member.name in {line.name for line in lines}]
    if twice:
        raise RunError(f"given as runs and named in a table too: {listed(twice)}; leave the runs or the table out")
    notes = [f"left out, since not finished: {listed(list(dict.fromkeys(unread)))}"] if unread else []
    members = [*runs.values(), *_numbered(lines)]
    reference = losses_by_method(members)
    return [derived(member, reference) for member in members], notes


def _numbered(lines: Sequence[Member]) -> list[Member]:
    """The lines of tables, those with a name that an earlier one has with a number behind it."""
    seen: Counter[str] = Counter()
    out = []
    for line in lines:
        seen[line.name] += 1
        count = seen[line.name]
        out.append(line if count == 1 else replace(line, name=f"{line.name} ({count})"))
    return out


def _runs(path: Path, unread: list[str]) -> list[Member]:
    """The run at a path, or the finished ones in a folder; names of the others are added to `unread`."""
    found = places(path)
    if found == [path]:
        return [of_run(facts.read(path))]
    out = []
    for place in found:
        if (place / "evaluation.json").is_file():
            out.append(of_run(facts.read(place)))
        else:
            unread.append(str(place))
    if not out:
        raise RunError(f"none of the {len(found)} runs in {path} is finished; 'siamscope resume RUN' goes on with one")
    return out


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def places(path: Path) -> list[Path]:
    """The run directories at or below a folder: those with a recipe.

    Raises:
        RunError: there is none.
    """
    if not path.is_dir():
        raise RunError(f"no run directory, folder of runs or table at {str(path)!r}")
    if (path / RECIPE).is_file():
        return [path]
    found = sorted(file.parent for file in path.rglob(RECIPE) if file.is_file())
    if not found:
        raise RunError(f"{path} holds no run: neither it nor a folder below it has a {RECIPE}")
    return found


def of_run(run: Facts) -> Member:
    """A run's member. Its validation accuracy is the last online k-NN, or the figure itself if it is of that split."""
    last = run.course[-1].get("knn") if run.course else None
    validation = float(last) if isinstance(last, int | float) else math.nan
    if run.split == "validation":
        validation = next((run.accuracy[name] for name in ACCURACIES if name in run.accuracy), validation)
    return Member(
        name=run.name,
        scores=run.scores,
        accuracy=run.accuracy,
        untrained=run.untrained,
        validation=validation,
        method=run.recipe.method.name,
        data=run.data,
        data_name=run.data_name,
        split=run.split,
        health=run.health,
        n=run.n,
        d=run.d,
        viewed=run.viewed,
        fields=flat(run.recipe),
    )


def flat(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe by dotted names."""
    out: dict[str, Any] = {}

    def walk(table: Mapping[str, Any], prefix: str) -> None:
        for key, value in table.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}.")
            else:
                out[prefix + key] = value

    walk(dataclasses.asdict(recipe), "")
    return out


def losses_by_method(members: Sequence[Member]) -> dict[str, tuple[float, float]]:
    """Mean and deviation of the loss over the runs of each method that has at least three whose losses differ."""
    out = {}
    for method in dict.fromkeys(member.method for member in members if member.method):
        losses = [member.scores["loss"] for member in members if member.method == method and "loss" in member.scores]
        if len(losses) >= 3 and max(losses) > min(losses):
            out[method] = statistics.fmean(losses), statistics.pstdev(losses)
    return out


def relative_auc(auc: float, d: int) -> float:
    """AUC between what a flat spectrum of d values has, (d + 1) / 2d, and 1: 0 is flat and 1 is rank one, at any d."""
    least = (d + 1) / (2 * d) if d > 1 else math.nan
    return (auc - least) / (1 - least)


def derived(member: Member, losses: Mapping[str, Sequence[float]]) -> Member:
    """A member with two more scores, for runs of unlike widths and unlike methods.

    auc_relative: `relative_auc`. loss_in_method: the loss less the mean over the method's runs, in their deviations
    (`losses`).
    """
    more = {}
    if member.d >= 2 and "auc_sigma" in member.scores:
        more["auc_relative"] = relative_auc(member.scores["auc_sigma"], member.d)
    if member.method in losses and "loss" in member.scores:
        mean, deviation = losses[member.method]
        more["loss_in_method"] = (member.scores["loss"] - mean) / deviation
    return replace(member, scores=member.scores | more)


# ---------------------------------------------------------------------------------------------- tables


def _table(path: Path) -> list[Member]:
    """The lines of a table: CSV with a header, or JSON (a list of objects, or an object of columns)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _json_rows(json.loads(text)) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise RunError(f"cannot read {path} as a table of runs (.csv with a header, or .json): {error}") from error
    if not rows:
        raise RunError(f"{path} holds no run: a table needs a line for each")
    if not set(SCORES) & set(rows[0]):
        raise RunError(f"{path} has no column with a score; columns are named {', '.join(SCORES)}")
    return [_of_row(row, path, number) for number, row in enumerate(rows, 1)]


def _json_rows(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        if len({len(column) for column in value.values()}) > 1:
            raise RunError("the columns of the JSON table are not of one length")
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    raise RunError("a JSON table of runs is a list of objects, or an object of columns")


def _of_row(row: Mapping[str, Any], path: Path, number: int) -> Member:
    method, data, split, health = (str(row.get(name) or "") for name in ("method", "data", "split", "health"))
    scores = {name: _number(row[name], path, number, name) for name in SCORES if _given(row.get(name))}
    others = {str(name): _plain(value) for name, value in row.items() if name not in (*SCORES, *_ABOUT)}
    n, d = (int(_number(row[name], path, number, name)) if _given(row.get(name)) else 0 for name in ("n", "d"))
    known = row.get("validation")
    validation = _number(known, path, number, "validation") if _given(known) else math.nan
    accuracy = {name: float(value) for name, value in others.items() if isinstance(value, float)}
    for name in ACCURACIES:
        _fraction(accuracy.get(name, math.nan), path, number, name)
    _fraction(validation, path, number, "validation")
    return Member(
        name=str(row.get("run") or f"{path}, line {number}"),
        scores=scores,
        accuracy=accuracy,
        validation=validation,
        method=method,
        data=data,
        data_name=data,
        split=split,
        health=health,
        n=n,
        d=d,
        fields=others | ({"method.name": method} if method else {}),
    )


def _given(value: Any) -> bool:
    return value is not None and str(value).strip() != ""


def _number(value: Any, path: Path, number: int, name: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise RunError(f"{path}, line {number}: {name} must be a number, got {value!r}") from None
    if not math.isfinite(found):
        raise RunError(f"{path}, line {number}: {name} must be finite, got {value!r}")
    return found


def _fraction(value: float, path: Path, number: int, name: str) -> None:
    """Refuse an accuracy in percent; NaN is an unknown one."""
    if value < 0 or value > 1:
        raise RunError(f"{path}, line {number}: {name} must be a fraction from 0 to 1, not {value:g} (percent?)")


def _plain(value: Any) -> Any:
    """A number as a float, everything else as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return "" if value is None else str(value)


# ---------------------------------------------------------------------------------------------- comparability


def group_of(member: Member, by: str) -> str:
    """What a run is grouped by: `architecture` (backbone and width, or which of them is known; empty if neither is), a
    name of `SHORT`, `d`, or a dotted field.

    Raises:
        RunError: it has no such field.
    """
    if by == "d":
        return str(member.d)
    if by == "architecture" and by not in member.fields:
        return " x ".join(word for word in (_field(member, name) for name in ("backbone", "width")) if word)
    found = _field(member, by)
    if found is not None:
        return found
    raise RunError(f"{member.name} has no field {by!r} to group by; a run has width, backbone, method, train.seed, ...")


def _field(member: Member, name: str) -> str | None:
    """A field by its dotted or its short name, in words; None if there is none."""
    for key in (SHORT.get(name, name), name):
        if key in member.fields:
            value = member.fields[key]
            return f"{value:g}" if isinstance(value, float) else str(value)
    return None


def check_alike(
    members: Sequence[Member],
    scores: Sequence[str],
    allowed: Sequence[str] = (),
    advice: str = ADVICE,
) -> list[str]:
    """What must be the same in all runs whose scores and accuracies are compared; notes on what was let through.

    Args:
        scores: that are used: most of them can be compared at one dimension of the features only.
        allowed: which of data, split, d may differ.
        advice: what the message ends with.

    Raises:
        RunError: something else differs; the message names the runs that are not as most.
    """
    aspects: dict[str, tuple[str, Callable[[Member], Any], str]] = {
        "data": ("images", lambda m: m.data, "scores and accuracies of other images cannot be compared"),
        "split": ("evaluation split", lambda m: m.split, "accuracies of other images cannot be compared"),
    }
    fixed = [name for name in scores if name not in WITHOUT_DIMENSION]
    if fixed:
        aspects["d"] = (
            "dimension of the features",
            lambda m: m.d,
            f"{fixed[0]} can be compared at one dimension only (auc_relative at any; network.features sets one)",
        )
    notes = []
    for name, (what, of, why) in aspects.items():
        odd = _odd(members, of)
        if odd and name not in allowed:
            raise RunError(f"{what} differ: {odd}; {why} ({advice.format(name=name)})")
        if odd:
            notes.append(f"{what} differ: {odd}")
    unknown = [member.name for member in members if not member.data]
    if unknown:
        notes.append(f"images of {len(unknown)} runs are unknown ({listed(unknown)}): they may not be the same")
    odd = _odd([member for member in members if member.n], lambda m: m.n)
    if odd:
        notes.append(f"numbers of images behind the scores differ: {odd}; scores of few images are biased")
    return notes + capped(members, scores)


def capped(members: Sequence[Member], scores: Sequence[str]) -> list[str]:
    """A note where LiDAR is used and was taken of so few images that their number bounds it, not the features."""
    few = [member.name for member in members if 0 < member.viewed <= member.d]
    if not few or "lidar" not in scores:
        return []
    return [f"lidar is of no more images than features ({listed(few)}): it is at most their number less one"]


def _odd(members: Sequence[Member], of: Callable[[Member], Any]) -> str:
    """The runs that differ from most in something that they all know, in words; empty if none do."""
    known = Counter(str(of(member)) for member in members if of(member))
    if len(known) < 2:
        return ""
    usual, count = known.most_common(1)[0]
    others = [f"{member.name} ({of(member)})" for member in members if of(member) and str(of(member)) != usual]
    return f"{count} runs have {usual}, but not {listed(others)}"


def differing(members: Sequence[Member]) -> list[str]:
    """The fields in which these runs differ."""
    names = dict.fromkeys(name for member in members for name in member.fields)
    return [
        name for name in names if name not in _SILENT and len({str(member.fields.get(name)) for member in members}) > 1
    ]
