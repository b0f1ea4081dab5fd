"""`siamscope forecast fit`: a regression of probe accuracy on label-free scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from siamscope.collapse.forecast import Forecaster
from siamscope.collapse.forecast_quality import Quality, compare
from siamscope.collapse.selection import ALIASES, WITHOUT_DIMENSION
from siamscope.report.forecast_figure import Shown, write_forecast
from siamscope.workflow import fleet
from siamscope.workflow.answer import Answer
from siamscope.workflow.fleet import Member
from siamscope.workflow.forecast.file import Context, ForecastError, check_out, save
from siamscope.workflow.writing import check_folder, told

CONSIDERED: tuple[tuple[str, ...], ...] = (
    (),
    ("loss",),
    ("auc_sigma",),
    ("auc_sigma", "loss"),
    ("auc_relative",),
    ("auc_relative", "loss"),
    ("auc_sigma", "loss_in_method"),
    ("auc_sigma", "alignment"),
    ("rankme",),
    ("rankme", "loss"),
    ("effective_rank",),
    ("effective_rank", "loss"),
    ("lidar",),
    ("alpha_req",),
)
"""Sets of features in the table beside the chosen one, where all runs have them."""

NAMELESS = "no backbone and no width is known of these runs (--group takes another column)"


@dataclass(frozen=True)
class Options:
    """Scores are of validation images without labels; accuracies of the split that the output names."""

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN|FOLDER|TABLE")] = ()
    """Finished runs, folders of them, or a table of runs (.csv with a header, .json) with columns such as auc_sigma,
    loss, linear, and run, method, width, d."""
    out: Path = Path("forecast.json")
    """File to write; figure and table get the same name, .png, .svg and .csv."""
    features: str = "auc_sigma,loss"
    """Label-free scores with commas between them; few: there should be ten runs for each."""
    target: str = "linear"
    """Accuracy to forecast: linear (probe), knn, or a table's column."""
    group: str = "architecture"
    """What is left out as a whole: architecture (backbone and width), width, backbone, method, d, or any field of the
    recipe such as optim.lr."""
    alpha: float = 0.0
    """Ridge penalty on standardised features; 0 = ordinary least squares."""
    confidence: float = 0.95
    """Of the intervals."""
    allow_mixed: str = ""
    """What may differ among the runs although scores then hardly compare: data, split, d, with commas between them."""
    seed: int = 0
    """Of bootstrap and shuffles."""
    json: bool = False
    """Print the figures as JSON."""


def run(options: Options) -> Answer:
    """Fit, judge the fit, write it and draw it.

    Raises:
        ForecastError, CollapseError, RunError, ReportError: runs that no forecast can be fitted on, or nothing can be
            written; the message says what to do.
    """
    features = words(options.features)
    check_out(options.out)
    check_folder(options.out.parent)
    members, notes = fleet.read(options.runs)
    allowed = mixed(options.allow_mixed)
    notes += fleet.check_alike(members, features, allowed) + cautions(members, features)
    y = targets(members, options.target)
    table = scores_of(members, features)
    groups = [fleet.group_of(member, options.group) for member in members]
    several = groups if len(set(groups)) > 1 else None
    if several is None:
        one = f"all runs have one {options.group} ({groups[0]})" if groups[0] else NAMELESS
        notes.append(f"{one}: no forecast across them can be judged")
    fitted = Forecaster(features, alpha=options.alpha, confidence=options.confidence, seed=options.seed)
    fitted.fit(table, y, several)
    sets = _sets(features, members)
    known = compare(table, y, sets, several, options.alpha, options.seed)
    notes += _verdict(fitted, known) + _unlearnt(members, options.target) + _not_compared(sets, known, table)
    context = Context.of(members, options.target, fleet.losses_by_method(members))
    save(options.out, fitted, context, _rows(members, groups, y, fitted, features))
    shown = Shown(
        names=[member.name for member in members], groups=groups, measured=y.tolist(), predicted=fitted.loo_.tolist(),
        fitted=fitted.predict(table).tolist(), x=table[features[0]].tolist(), x_name=features[0],
        target=options.target, split=context.split, loo_r2=fitted.quality_.loo_r2, rmse=fitted.quality_.loo_rmse,
        title=fitted.quality_.name, group_name=options.group,
    )  # fmt: skip
    paths = [options.out, *write_forecast(shown, options.out.parent, options.out.stem)]
    told_facts = {
        "context": asdict(context),
        "coefficients": _coefficients(fitted),
        "models": [asdict(item) | {"name": item.name} for item in known],
        "groups": [asdict(item) for item in fitted.groups_],
        "notes": notes,
    }
    return told(_text(fitted, context, known, options, notes), paths, told_facts, options.json)


def words(text: str) -> tuple[str, ...]:
    """Canonical names of features with commas between them.

    Raises:
        ForecastError: an unknown one, or none.
    """
    names = tuple(dict.fromkeys(ALIASES.get(word.strip(), word.strip()) for word in text.split(",") if word.strip()))
    unknown = [name for name in names if name not in fleet.SCORES]
    if unknown or not names:
        raise ForecastError(
            f"--features: {unknown[0] if unknown else 'nothing'!r} is no score; there are {', '.join(fleet.SCORES)}"
        )
    return names


def mixed(text: str) -> tuple[str, ...]:
    """What `--allow-mixed` names.

    Raises:
        ForecastError: something else than data, split, d.
    """
    names = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = [name for name in names if name not in ("data", "split", "d")]
    if unknown:
        raise ForecastError(f"--allow-mixed takes data, split, d with commas between them, got {unknown[0]!r}")
    return names


def cautions(members: Sequence[Member], features: Sequence[str]) -> list[str]:
    """What makes scores of these runs hard to compare."""
    methods = sorted({member.method for member in members if member.method})
    if len(methods) > 1 and "loss" in features:
        return [
            f"the losses are of {len(methods)} methods ({fleet.listed(methods, 6)}), whose scales differ; "
            "loss_in_method compares each with its own method's runs"
        ]
    return []


def targets(members: Sequence[Member], name: str) -> NDArray[np.float64]:
    """(n,) the accuracy of that name.

    Raises:
        ForecastError: runs without it.
    """
    without = [member.name for member in members if not math.isfinite(member.accuracy.get(name, math.nan))]
    if without:
        known = sorted({key for member in members for key in member.accuracy})
        advice = f"their accuracies are {', '.join(known)} (--target)" if known else "they have no labels at all"
        raise ForecastError(
            f"{len(without)} of {len(members)} runs have no {name} accuracy ({fleet.listed(without)}); {advice}"
        )
    return np.array([member.accuracy[name] for member in members])


def scores_of(members: Sequence[Member], needed: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """(n,) columns of every score that all runs have.

    Raises:
        ForecastError: runs without one that is needed.
    """
    for name in needed:
        without = [member.name for member in members if not math.isfinite(member.value(name))]
        if without:
            advice = (
                "it needs three runs of each method, with unlike losses"
                if name == "loss_in_method"
                else "'siamscope resume RUN' judges a finished run again, with the scores of this version"
            )
            raise ForecastError(
                f"{len(without)} of {len(members)} runs have no {name} ({fleet.listed(without)}); {advice}"
            )
    columns = {name: np.array([member.value(name) for member in members]) for name in fleet.SCORES}
    return {name: column for name, column in columns.items() if np.isfinite(column).all()}


def _sets(features: tuple[str, ...], members: Sequence[Member]) -> list[tuple[str, ...]]:
    """The sets to compare: where dimensions differ, none that depends on them; else AUC and not its relative twin."""
    several = len({member.d for member in members if member.d}) > 1
    sets = dict.fromkeys([*CONSIDERED, *((name,) for name in features)])
    fit = [names for names in sets if (WITHOUT_DIMENSION.issuperset(names) if several else "auc_relative" not in names)]
    return list(dict.fromkeys([*fit, features]))


def _verdict(fitted: Forecaster, known: Sequence[Quality]) -> list[str]:
    """Whether the forecast beats its baselines, in words."""
    own = fitted.quality_
    notes = []
    if own.loo_r2 <= 0:
        notes.append(f"{own.name} forecasts no better than the mean of these runs")
    loss = next((item for item in known if item.features == ("loss",)), None)
    if loss and own.features != ("loss",) and own.loo_r2 <= loss.loo_r2:
        notes.append(f"{own.name} forecasts no better than the loss alone")
    if own.n < 10 * len(own.features):
        notes.append(f"{own.n} runs are few for {len(own.features)} features")
    lost = [group.group for group in fitted.groups_ if group.reason]
    if lost:
        notes.append(f"no fit without {fleet.listed(lost)}: {fitted.groups_[0].reason or 'too little is left'}")
    return notes


def _unlearnt(members: Sequence[Member], target: str) -> list[str]:
    """How many runs lost by their training: scores of the spectrum say how collapsed a run is, not that it learnt."""
    known = [member for member in members if target in member.untrained]
    lost = [member for member in known if member.accuracy[target] <= member.untrained[target]]
    return [f"{len(lost)} of {len(known)} runs are no better than their untrained encoders"] if lost else []


def _not_compared(
    sets: Sequence[tuple[str, ...]], known: Sequence[Quality], table: Mapping[str, NDArray[np.float64]]
) -> list[str]:
    """Which sets of scores have no line in the table of models, and why."""
    left = [names for names in sets if names not in {item.features for item in known}]
    missing = dict.fromkeys(name for names in left for name in names if name not in table)
    unfit = [" + ".join(names) for names in left if not missing.keys() & set(names)]
    notes = []
    if missing:
        notes.append(f"not compared with {', '.join(missing)}, which not all of these runs have")
    if unfit:
        notes.append(f"not compared with {', '.join(unfit)}: too few runs for it, or one value in all of them")
    return notes


def _coefficients(fitted: Forecaster) -> list[dict[str, Any]]:
    """Name, value and interval of each coefficient, and its effect for one deviation of the feature."""
    rows = [("intercept", fitted.intercept_, math.nan)]
    rows += zip(fitted.features, fitted.coef_.tolist(), (fitted.coef_ * fitted.scale_).tolist(), strict=True)
    return [
        {"name": name, "value": value, "low": low, "high": high, "per_deviation": effect}
        for (name, value, effect), (low, high) in zip(rows, fitted.coef_interval_.tolist(), strict=True)
    ]


def _rows(
    members: Sequence[Member], groups: Sequence[str], y: NDArray[np.float64], fitted: Forecaster, names: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "run": member.name,
            "group": group,
            "method": member.method,
            "measured": float(accuracy),
            "left_out": float(loo),
            **{name: member.value(name) for name in names},
        }
        for member, group, accuracy, loo in zip(members, groups, y, fitted.loo_, strict=True)
    ]


# ---------------------------------------------------------------------------------------------- text


def _text(
    fitted: Forecaster, context: Context, known: Sequence[Quality], options: Options, notes: Sequence[str]
) -> list[str]:
    percent = f"{100 * options.confidence:g} %"
    where = f" on {context.split} images" if context.split else ""
    lines = [
        f"{options.target} accuracy{where} of {context.runs} runs from {fitted.quality_.name}"
        + (f"; d = {', '.join(map(str, context.d))}" if context.d else "")
        + (f"; {context.data_name}" if context.data_name else ""),
        "",
        f"{'':<18}{'coefficient':>13}   {percent + ' interval':<24}per deviation",
    ]
    for row in _coefficients(fitted):
        interval = f"[{row['low']:.4g}, {row['high']:.4g}]"
        effect = "" if math.isnan(row["per_deviation"]) else f"{100 * row['per_deviation']:+.1f} points"
        lines.append(f"{row['name']:<18}{row['value']:>13.4g}   {interval:<24}{effect}")
    lines += ["", *_models(known, fitted.quality_, options.group), ""]
    if fitted.groups_:
        lines += [*_groups(fitted, options.group), ""]
    return lines + [f"note: {note}" for note in notes]


def _models(known: Sequence[Quality], own: Quality, group: str) -> list[str]:
    wide = max(len(item.name) for item in known) + 2
    lines = [
        f"{'features':<{wide}}{'R2':>7}{'LOO R2':>9}{'LOO RMSE':>10}{'LOO rank':>10}{'chance':>8}"
        f"   without its {group}: rank, error"
    ]
    for item in known:
        star = "*" if item.features == own.features else ""
        lines.append(
            f"{item.name + star:<{wide}}{item.r2:>7.3f}{item.loo_r2:>9.3f}{item.loo_rmse:>10.4f}"
            f"{number(item.loo_spearman, 2):>10}{number(item.p_value, 3):>8}"
            f"   {number(item.group_spearman, 2):>6}  {number(item.group_mae, 4)}"
        )
    return [
        *lines,
        "LOO: each run predicted by a fit to the others. chance: share of shuffled accuracies with such a LOO R2.",
    ]


def _groups(fitted: Forecaster, name: str) -> list[str]:
    wide = max(len(name), *(len(group.group) for group in fitted.groups_)) + 2
    lines = [f"{name:<{wide}}{'runs':>5}{'rank corr.':>12}{'mean error':>12}{'bias':>9}{'out of range':>14}"]
    for item in fitted.groups_:
        lines.append(
            f"{item.group:<{wide}}{item.n:>5}{number(item.spearman, 2):>12}{number(item.mae, 4):>12}"
            f"{number(item.bias, 4):>9}{item.outside:>14}"
        )
    return lines


def number(value: float, digits: int) -> str:
    """A figure for a table, or a dash for one that is not known."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
