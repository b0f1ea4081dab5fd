"""`siamscope select`: the best of several runs, or of one run's measurements, without labels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from siamscope.collapse.forecast import Forecaster
from siamscope.collapse.selection import DIRECTIONS, WITHOUT_DIMENSION, Regret, parts, rank_sum, regret
from siamscope.rundir import RunError, finite
from siamscope.workflow import facts, fleet
from siamscope.workflow.answer import Answer
from siamscope.workflow.fleet import Member
from siamscope.workflow.forecast import apply
from siamscope.workflow.forecast.file import Context, load
from siamscope.workflow.preference import warning, with_loss
from siamscope.workflow.select.course import kept, of_course

COLLAPSED = ("collapse", "complete collapse")
"""What trainings and `siamscope diagnose` say of a collapsed one."""
BEST = "auc+loss"
TRAIN = "Compare with --by auc+loss, or train longer"
EXPECTED = "expected accuracy"
APART = "choose among each kind apart"
FITTED = "a forecast of other runs than its own kind says nothing: choose by --by, or fit one on runs of this kind"
SHOWN_FIELDS = 6


@dataclass(frozen=True)
class Options:
    """Of several runs the best; of one run, the best of its measurements. Runs of one method and one dimension compete
    with each other; each such group has its winner. Collapsed runs do not compete."""

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN|FOLDER|TABLE")] = ()
    """Finished runs, folders of them, or a table of runs (.csv with a header, .json)."""
    by: str = BEST
    """Rule: auc (the least), rankme, effective_rank, lidar, alpha_req (nearest to 1), loss, ..., or several as
    auc+loss: then the mean of the ranks by each, all counting alike. auc+loss is auc where there are no losses, or
    losses of several methods, to compare: AUC alone may choose what has learnt least."""
    forecast: Path | None = None
    """Choose by the accuracy that this file of 'siamscope forecast fit' expects, instead of --by."""
    across: str = ""
    """What a group may mix: d (auc is then auc_relative), method, with commas between them."""
    target: str = "linear"
    """Accuracy for the regret where labels exist: linear or knn (knn if there is no linear)."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True)
class Choice:
    """The candidates of one group, what speaks for each, and which is chosen (None: none may compete)."""

    group: str
    members: list[Member]
    preference: NDArray[np.float64]
    chosen: int | None
    regret: Regret | None
    target: str
    rule: str


def run(options: Options) -> Answer:
    """Choose, and say what the choice costs where labels are known.

    Raises:
        RunError, CollapseError, ForecastError: no runs, one that is not finished, other images, an unknown rule.
    """
    across = _across(options.across)
    members, notes, single = _candidates(options.runs)
    notes += fleet.check_alike(members, (), advice=APART)
    fitted = load(options.forecast) if options.forecast else None
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(_group(member, across), []).append(member)
    rule = EXPECTED if fitted else _rule(options.by, list(groups.values()))
    if fitted:
        notes += apply.suited(members, *fitted, (), FITTED)
    elif parts(options.by) == parts(BEST) and "loss" not in parts(rule):
        notes.append(f"{rule} alone chooses: there are no losses, or of several methods, which do not compare")
    notes += fleet.capped(members, rule.split("+"))
    if "method" in across and len({member.method for member in members}) > 1:
        notes.append("methods are mixed: scores, and losses above all, differ among methods whatever the accuracy")
    if "d" in across and len({member.d for member in members}) > 1:
        notes += [
            f"{name} depends on the dimension of the features, which differs"
            for name in ([] if fitted else parts(rule))
            if name not in WITHOUT_DIMENSION
        ]
    choices = [_choose(name, group, rule, fitted, options.target) for name, group in groups.items()]
    if len(choices) > 1:
        notes.append(
            f"{len(choices)} groups have a winner each, since they do not compare (--across d, --across method)"
        )
    notes += dict.fromkeys(word for word in map(_against, choices) if word)
    if not fitted and {"loss", "alignment"}.issuperset(parts(rule)):
        notes.append(f"a collapsed run may have the best {rule}; choose by auc+loss")
    told = [_facts(choice, rule) for choice in choices]
    best = [choice.members[choice.chosen] for choice in choices if choice.chosen is not None]
    if single is not None and best:
        notes.append(kept(single, best[0], members))
    if options.json:
        found = {"by": rule, "groups": told, "notes": notes, "chosen": [member.name for member in best]}
        return Answer(json.dumps(finite(found), allow_nan=False))
    lines = [line for choice in choices for line in _text(choice, rule)]
    return Answer("\n".join([*lines, *(f"note: {note}" for note in notes)]))


def _candidates(paths: Sequence[Path]) -> tuple[list[Member], list[str], Path | None]:
    """The candidates, notes, and the run if they are the measurements of one."""
    members, notes = fleet.read(paths)
    if len(members) > 1:
        return members, notes, None
    only = Path(members[0].name)
    if not (only / "recipe.toml").is_file():
        raise RunError(f"{paths[0]} has one line: there is nothing to choose from")
    return of_course(facts.read(only)), notes, only


def _across(text: str) -> tuple[str, ...]:
    names = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = [name for name in names if name not in ("d", "method")]
    if unknown:
        raise RunError(f"--across takes d, method with commas between them, got {unknown[0]!r}")
    return names


def _rule(by: str, groups: Sequence[Sequence[Member]]) -> str:
    """The rule by canonical names; AUC relative to its range where dimensions are mixed, and alone without losses."""
    names = parts(by)
    known = all(any("loss" in member.scores for member in group) for group in groups)
    several = any(len({member.method for member in group}) > 1 for group in groups)
    if names == parts(BEST) and (several or not known):
        names = parts("auc")
    if any(len({member.d for member in group}) > 1 for group in groups):
        names = tuple("auc_relative" if name == "auc_sigma" else name for name in names)
    return "+".join(names)


def _group(member: Member, across: Sequence[str]) -> str:
    words = [] if "method" in across else [member.method or "any method"]
    if "d" not in across and member.d:
        words.append(f"d = {member.d}")
    return ", ".join(words) or "all runs"


def _choose(
    name: str, members: list[Member], rule: str, fitted: tuple[Forecaster, Context] | None, target: str
) -> Choice:
    """The candidate for which most speaks among those that are not collapsed."""
    if fitted:
        preference = np.array([item.value for item in apply.expected(members, *fitted)])
        collapsed = [member.health in COLLAPSED for member in members]
        preference = np.where(collapsed, math.nan, preference)
    else:
        preference = _preference(members, rule)
    chosen = int(np.nanargmax(preference)) if np.isfinite(preference).any() else None
    known = {key for member in members for key in member.accuracy}
    target = "knn" if target not in known and "knn" in known else target
    accuracy = [member.accuracy.get(target, math.nan) for member in members]
    other_images = {member.split for member in members} != {"validation"}
    validation = [member.validation for member in members] if other_images else None
    lost = regret(preference, accuracy, chosen, validation) if chosen is not None else None
    return Choice(name, members, preference, chosen, lost, target, rule)


def _preference(members: Sequence[Member], rule: str) -> NDArray[np.float64]:
    """(n,) what the rule says of those that are not collapsed, NaN of the others."""
    competing = [member.health not in COLLAPSED for member in members]
    if not any(competing):
        return np.full(len(members), math.nan)
    values = {name: np.array([member.value(name) for member in members]) for name in parts(rule)}
    return rank_sum({name: np.where(competing, column, math.nan) for name, column in values.items()}, rule)


def _against(choice: Choice) -> str:
    """The warning that the choice prefers what has learnt least, or nothing."""
    found = with_loss(choice.preference.tolist(), [member.value("loss") for member in choice.members])
    return warning(choice.rule, "candidates", found, TRAIN)


def _facts(choice: Choice, rule: str) -> dict[str, Any]:
    names = _columns(rule)
    return {
        "group": choice.group,
        "chosen": choice.members[choice.chosen].name if choice.chosen is not None else None,
        "target": choice.target,
        "split": _split(choice),
        "regret": asdict(choice.regret) if choice.regret else None,
        "candidates": [
            {
                "run": member.name,
                "preference": float(preference),
                **{name: member.value(name) for name in names},
                "health": member.health,
                "accuracy": member.accuracy.get(choice.target),
                "validation": member.validation,
                "fields": {name: member.fields.get(name) for name in fleet.differing(choice.members)},
            }
            for member, preference in zip(choice.members, choice.preference, strict=True)
        ],
    }


def _columns(rule: str) -> list[str]:
    """The scores behind a rule, and the loss beside them."""
    names = [name for name in rule.split("+") if name in DIRECTIONS] or ["auc_sigma"]
    return list(dict.fromkeys([*names, "loss"]))


def _split(choice: Choice) -> str:
    return ", ".join(sorted({member.split for member in choice.members if member.split}))


def _text(choice: Choice, rule: str) -> list[str]:
    """The group's table, best first, and what the choice costs."""
    fields = fleet.differing(choice.members)[:SHOWN_FIELDS]
    short = {name: name.rpartition(".")[2] for name in fields}
    scores = _columns(rule)
    order = sorted(
        range(len(choice.members)),
        key=lambda i: -choice.preference[i] if math.isfinite(choice.preference[i]) else math.inf,
    )
    known = choice.regret is not None
    single = (len(scores) == 2 and rule in scores) or rule == "loss"
    header = ["", "run", *([] if single else [_head(rule)]), *scores, "health", *short.values()]
    rows = [header + ([f"{choice.target} {_split(choice)}"] if known else [])]
    for i in order:
        member = choice.members[i]
        row = [">" if i == choice.chosen else "", member.name]
        row += [] if single else [_figure(choice.preference[i])]
        row += [_figure(member.value(name)) for name in scores]
        row += [member.health or "-", *(_field(member.fields.get(name)) for name in fields)]
        rows.append(row + ([_figure(member.accuracy.get(choice.target, math.nan))] if known else []))
    widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    lines = [f"{choice.group}: {len(choice.members)} candidates by {_head(rule)}"]
    lines += ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *_cost(choice, rule), ""]


def _head(rule: str) -> str:
    return f"mean rank of {rule}" if "+" in rule else rule


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _field(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value if value is not None else "-")


def _cost(choice: Choice, rule: str) -> list[str]:
    """The winner, and its regret where labels are known."""
    if choice.chosen is None:
        return ["none is chosen: all are collapsed, or lack the scores of the rule"]
    winner = choice.members[choice.chosen]
    lines = [f"chosen: {winner.name}" + (f" ({winner.health})" if winner.health not in ("", "healthy") else "")]
    lost = choice.regret
    if lost is None:
        return [*lines, "no accuracies are known: nothing can be said about the regret"]
    where = f" on {_split(choice)} images" if _split(choice) else ""
    lines.append(
        f"{choice.target} accuracy{where}: {100 * lost.accuracy:.2f} %; best of {lost.n}: {100 * lost.best:.2f} %; "
        f"regret {100 * lost.regret:.2f} points, {100 * lost.share:.0f} % of the range"
    )
    if math.isfinite(lost.labelled):
        lines.append(
            f"labels of validation images would have chosen one with {100 * lost.labelled:.2f} %: "
            f"{100 * lost.to_labelled:+.2f} points"
        )
    if math.isfinite(lost.spearman):
        lines.append(f"rank correlation of the rule with accuracy: {lost.spearman:.2f}")
    return lines
