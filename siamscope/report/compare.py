"""Sections of the page that lays several runs side by side."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from siamscope.report.curves import field_values
from siamscope.report.markup import DASH, PERCENT, Html, join, name, number, percent, shorten, tag, whole
from siamscope.report.parts import best, flatten, folded, items, name_of, paragraph, table
from siamscope.report.read import ENCODERS, RunData
from siamscope.report.sections import ENCODER_NAMES, badge, interval, tone

_REASONS_SHOWN = 3


def verdicts(runs: Sequence[RunData]) -> Html:
    """Each run's status with its first reasons, and what is missing from it."""
    cards = []
    for run in runs:
        judged = run.evaluation.verdict if run.evaluation else None
        unjudged = "Not evaluated" + ("; this is the last monitor’s word." if run.status else ".")
        reasons = [shorten(reason, 300) for reason in judged.reasons[:_REASONS_SHOWN]] if judged else [unjudged]
        cards.append(tag("li", tag("h3", name(run.label)), badge(run.status), items(reasons), class_=tone(run.status)))
    missing = [f"{run.label}: {shorten(note, 300)}" for run in runs for note in run.notes[:6]]
    notes = folded(
        f"Missing or unreadable files ({len(missing)})",
        tag("ul", *(tag("li", line) for line in missing)),
        class_="print",
    )
    return join(tag("ul", *cards, class_="judged"), notes if missing else None)


def figures(runs: Sequence[RunData]) -> Html:
    """Accuracies of every run with their baselines, then the label-free measures."""
    return join(_accuracies(runs), _knn_by_k(runs), _measures(runs))


def _measured_on(runs: Sequence[RunData]) -> list[str]:
    """What the runs' figures were measured on, as "test split of shapes", each once."""
    measured = [run for run in runs if run.evaluation and (run.evaluation.knn or run.evaluation.probe)]
    return list(dict.fromkeys(_images(run) for run in measured))


def _images(run: RunData) -> str:
    """The images of a run's figures in words, or a dash."""
    if not run.evaluation:
        return DASH
    data = (run.environment or {}).get("data")
    return f"{run.evaluation.split} split" + (f" of {data}" if isinstance(data, str) else "")


def _marked(values: Sequence[float], texts: Sequence[str], comparable: bool) -> list[Html | str]:
    """One column: the greatest value marked when there are at least two to compare."""
    known = [value for value in values if math.isfinite(value)]
    top = max(known) if len(known) > 1 and comparable else math.nan
    return [best(text) if value == top else text for value, text in zip(values, texts, strict=True)]


def _accuracies(runs: Sequence[RunData]) -> Html | None:
    if not any(run.evaluation and (run.evaluation.knn or run.evaluation.probe) for run in runs):
        return paragraph("No accuracies: no run was evaluated with labels.", class_="absent")
    images = _measured_on(runs)
    same = len(images) == 1
    columns: list[list[Html | str]] = [[name(run.label) for run in runs], [_headline_k(run) for run in runs]]
    head = ["Run", "k"]
    for encoder in ENCODERS:
        values = [run.evaluation.headline(encoder) if run.evaluation else math.nan for run in runs]
        texts = [percent(value) for value in values]
        columns.append(_marked(values, texts, same) if encoder == "trained" else list(texts))
        head.append(f"k-NN, {ENCODER_NAMES[encoder]}")
    for encoder in ENCODERS:
        probes = [run.evaluation.probe.get(encoder) if run.evaluation else None for run in runs]
        tops = [probe.top1 if probe else math.nan for probe in probes]
        texts = [
            f"{percent(probe.top1)} {interval(probe).removesuffix(PERCENT)}" if probe else DASH for probe in probes
        ]
        if encoder != "trained":
            texts = [percent(top) for top in tops]
        columns.append(_marked(tops, texts, same) if encoder == "trained" else list(texts))
        head.append(f"Probe, {ENCODER_NAMES[encoder]}")
    if not same:  # figures of different images must not pass for comparable
        columns.insert(1, [_images(run) for run in runs])
        head.insert(1, "Images")
    where = f" ({images[0]}); the best trained encoder is marked" if same else "; the images differ: none is best"
    caption = f"Accuracy of features beside their baselines{where}"
    return table(head, list(zip(*columns, strict=True)), caption=caption)


def _headline_k(run: RunData) -> str:
    k = run.evaluation.headline_k if run.evaluation else None
    return str(k) if k else DASH


def _knn_by_k(runs: Sequence[RunData]) -> Html | None:
    measured = [run.evaluation.knn.get("trained", {}) if run.evaluation else {} for run in runs]
    ks = sorted(set().union(*measured))
    if not ks:
        return None
    columns: list[list[Html | str]] = [[name(run.label) for run in runs]]
    for k in ks:
        values = [by_k.get(k, math.nan) for by_k in measured]
        columns.append(_marked(values, [percent(value) for value in values], len(_measured_on(runs)) == 1))
    head = ["Run", *(f"k = {k}" for k in ks)]
    return table(head, list(zip(*columns, strict=True)), caption="k-NN accuracy of the trained encoder for each k")


_MEASURES = (
    ("loss", "Loss", 4),
    ("embedding_std", "Std × √d", 3),
    ("effective_rank", "Effective rank", 3),
    ("auc", "AUC", 3),
    ("positive_similarity", "Positive similarity", 3),
    ("feature_effective_rank", "Feature rank", 3),
    ("feature_auc", "Feature AUC", 3),
    ("images_per_second", "Images/s, median", 4),
)


def _measure(run: RunData, field: str) -> float:
    """The value at the last monitor, else at the last step; of the throughput the median over the steps."""
    x, y = field_values(run.metrics, field)
    known = y[np.isfinite(y)]
    if field == "images_per_second":
        return float(np.median(known)) if len(known) else math.nan
    value = run.metrics.monitors.table.last(field)
    return value if math.isfinite(value) or not len(x) else float(y[-1])


def _measures(runs: Sequence[RunData]) -> Html | None:
    if not any(len(run.metrics.monitors) for run in runs):
        return paragraph("No label-free measures: no run recorded monitors.", class_="absent")
    columns: list[list[Html | str]] = [[name(run.label) for run in runs]]
    columns.append([whole(run.metrics.monitors.table.last("step")) for run in runs])
    for field, _, digits in _MEASURES:
        columns.append([number(_measure(run, field), digits) for run in runs])
    dimensions = [run.metrics.monitors.embeddings[-1].dimension if len(run.metrics.monitors) else 0 for run in runs]
    columns.append([whole(dimension) if dimension else DASH for dimension in dimensions])
    head = ["Run", "Step", *(title for _, title, _ in _MEASURES), "d"]
    note = (
        "No best is marked here: rank and AUC order runs only where method, dimension d and sample are the same, "
        "and losses only within one method."
    )
    rows = list(zip(*columns, strict=True))
    return join(table(head, rows, caption="Label-free measures at the last monitor"), paragraph(note, class_="how"))


def differing(runs: Sequence[RunData]) -> Html:
    """The recipe fields that are not the same in all runs."""
    recipes = [flatten(run.recipe) if run.recipe is not None else None for run in runs]
    return _differences(runs, recipes, "Recipe fields that differ", "recipe")


def environments(runs: Sequence[RunData]) -> Html:
    """The environment fields that are not the same in all runs."""
    known = [flatten(run.environment) if run.environment is not None else None for run in runs]
    return _differences(runs, known, "Environment fields that differ", "environment")


def _differences(runs: Sequence[RunData], known: Sequence[Mapping[str, str] | None], caption: str, noun: str) -> Html:
    compared = [(run, fields) for run, fields in zip(runs, known, strict=True) if fields is not None]
    unknown = [run.label for run, fields in zip(runs, known, strict=True) if fields is None]
    absent = paragraph(f"No {noun} is known of: {', '.join(unknown)}.", class_="absent") if unknown else None
    if len(compared) < 2:
        return join(absent, paragraph(f"There are not two runs with a {noun} to compare.", class_="absent"))
    keys = list(dict.fromkeys(key for _, fields in compared for key in fields))
    rows = [
        (name_of(key), *(tag("td", tag("code", shorten(fields.get(key, DASH), 120))) for _, fields in compared))
        for key in keys
        if len({fields.get(key) for _, fields in compared}) > 1
    ]
    same = len(keys) - len(rows)
    if not rows:
        return join(absent, paragraph(f"All {same} {noun} fields are the same.", class_="absent"))
    head = ("Field", *(name(run.label) for run, _ in compared))
    return join(
        table(head, rows, caption=caption, class_="data differences"),
        paragraph(f"{same} other fields are the same.", class_="how"),
        absent,
    )
