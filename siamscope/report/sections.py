"""Sections of a single run's page that are words and figures: verdict, tables, recipe, environment, rejected files."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from siamscope.report.markup import DASH, PERCENT, Html, join, name, number, percent, points, shorten, tag, whole
from siamscope.report.parts import best, figure, flatten, folded, items, paragraph, raw_text, setting, settings, table
from siamscope.report.read import ENCODERS, Evaluation, Probe, RunData
from siamscope.report.svg import Bar, bars

ENCODER_NAMES = {"trained": "trained", "untrained": "untrained", "raw_pixels": "raw pixels"}
_REASONS_SHOWN = 8
_ICONS = {
    "good": ("M12 1.5a10.5 10.5 0 1 0 0 21a10.5 10.5 0 1 0 0-21z", "M7 12.5l3.5 3.5 6.5-7.5"),
    "warn": ("M12 2 23 21.5H1z", "M12 9v6M12 17.6v1.2"),
    "bad": ("M7.5 1.5h9l6 6v9l-6 6h-9l-6-6v-9z", "M8 8l8 8M16 8l-8 8"),
    "unknown": ("M12 1.5a10.5 10.5 0 1 0 0 21a10.5 10.5 0 1 0 0-21z", "M7 12h10"),
}


def tone(status: str | None) -> str:
    """How a status is drawn: good, warn, bad or unknown (an empty or unfamiliar status)."""
    words = (status or "").lower()
    for start, drawn in (("healthy", "good"), ("partial", "warn"), ("collapse", "bad"), ("complete", "bad")):
        if words.startswith(start):
            return drawn
    return "unknown"


def badge(status: str | None) -> Html:
    """The status as an icon and a word: never by colour alone."""
    shape, sign = _ICONS[tone(status)]
    icon = tag(
        "svg",
        tag("path", d=shape, class_="shape"),
        tag("path", d=sign, class_="sign"),
        viewBox="0 0 24 24",
        class_="icon",
        aria_hidden="true",
    )
    word = shorten(status or "no verdict", 60)
    return tag("span", icon, word[:1].upper() + word[1:], class_=f"badge {tone(status)}")


def verdict(run: RunData) -> Html:
    """The judgement in words, the headline figures, and what is missing from the run."""
    judged = run.evaluation.verdict if run.evaluation else None
    words: list[Html | None] = [paragraph(badge(run.status), class_="status")]
    if judged is None:
        words.append(_why_no_verdict(run))
    else:
        words.append(items(_sentences(judged.reasons)) if judged.reasons else None)
        words += [tag("h3", "What to try"), items(_sentences(judged.advice))] if judged.advice else []
    box = tag("div", tag("div", *words, class_="words"), _headline(run), class_=f"verdict {tone(run.status)}")
    return join(box, _label_free(run), notes(run))


def _sentences(texts: Sequence[str]) -> list[str]:
    return [text[:1].upper() + shorten(text, 600)[1:] for text in texts[:20]]


def _why_no_verdict(run: RunData) -> Html:
    monitors = run.metrics.monitors
    if not len(monitors):
        said = "It recorded no monitors either, so nothing can be said about its health."
    elif run.status is None:
        said = "Only the untrained network was monitored, so nothing can be said about its health."
    else:
        said = f"The status above is the last monitor’s, at step {whole(monitors.table.last('step'))}."
    command = tag("code", "siamscope evaluate")
    return paragraph("This run has not been evaluated. ", said, " The final verdict comes from ", command, ".")


def _headline(run: RunData) -> Html | None:
    evaluation = run.evaluation
    if evaluation is None or not evaluation.knn:
        return None
    trained, untrained, raw = (evaluation.headline(encoder) for encoder in ENCODERS)
    described = ", ".join(
        f"{ENCODER_NAMES[encoder]} {percent(evaluation.headline(encoder))}" for encoder in evaluation.knn
    )
    rows = [
        Bar(
            ENCODER_NAMES[encoder],
            evaluation.headline(encoder),
            percent(evaluation.headline(encoder)),
            "c0" if encoder == "trained" else "quiet",
        )
        for encoder in ENCODERS
    ]
    gains = [
        paragraph(_gain(trained - baseline, called), class_="gain" if trained >= baseline else "gain worse")
        for baseline, called in ((untrained, "the untrained encoder"), (raw, "raw pixels"))
        if math.isfinite(trained - baseline)
    ]
    split = f", {evaluation.split} split" if evaluation.split else ""
    return tag(
        "div",
        paragraph(tag("span", percent(trained), class_="big"), class_="headline"),
        paragraph(f"k-NN accuracy, k = {evaluation.headline_k}{split}", class_="what"),
        *gains,
        bars(rows, f"k-NN accuracy: {described}"),
        class_="figures",
    )


def _gain(difference: float, called: str) -> str:
    if difference >= 0:
        return f"{points(difference)} points over {called}"
    return f"{points(-difference).removeprefix('+')} points below {called}"


_LABEL_FREE = (
    ("embedding_std", "embedding std × √d", "1 is an even spread, 0 collapse"),
    ("effective_rank", "effective rank", ""),
    ("auc", "AUC", "0.5 is a flat spectrum, 1 collapse"),
    ("positive_similarity", "similarity of positives", "mean cosine of two views of an image"),
)


def _label_free(run: RunData) -> Html | None:
    """The last monitor beside the first: what can be said without labels."""
    monitors = run.metrics.monitors
    if not len(monitors):
        return None
    tiles = []
    for field, title, meaning in _LABEL_FREE:
        if not monitors.table.has(field):
            continue
        dimension = monitors.embeddings[-1].dimension
        about = f"of {dimension} dimensions" if field == "effective_rank" and dimension else meaning
        first = f"{number(monitors.table.first(field))} at step {whole(monitors.table.first('step'))}"
        before = tag("span", first) if len(monitors) > 1 else None
        tiles.append(
            tag(
                "div",
                tag("dt", title),
                tag("dd", tag("b", number(monitors.table.last(field))), " ", before),
                tag("dd", about, class_="before") if about else None,
            )
        )
    step = whole(monitors.table.last("step"))
    return join(paragraph(f"Without labels, at step {step}:", class_="lead"), tag("dl", *tiles, class_="tiles"))


def notes(run: RunData) -> Html | None:
    """What is missing or unreadable."""
    if not run.notes:
        return None
    shown = [shorten(note, 400) for note in run.notes[:20]]
    shown += [f"… and {len(run.notes) - 20} more."] if len(run.notes) > 20 else []
    return tag(
        "aside",
        tag("h3", "What this report could not show"),
        items(shown),
        class_="notes",
        aria_label="Missing or unreadable files",
    )


def figures(run: RunData) -> Html:
    """k-NN for each k and the linear probe, the baselines beside every figure."""
    evaluation = run.evaluation
    if evaluation is None:
        return paragraph("No figures: the run has not been evaluated.", class_="absent")
    label_free = _score_table(evaluation)
    if not evaluation.knn and not evaluation.probe:
        said = "The label-free measures stand with the verdict and the curves."
        return join(paragraph(f"No accuracies: the data carry no labels. {said}", class_="absent"), label_free)
    how = paragraph(_how(evaluation), class_="how")
    return join(_accuracy_table(evaluation), _probe_bars(evaluation), how, label_free)


def _score_table(evaluation: Evaluation) -> Html | None:
    """Label-free scores of the features, of the trained and the untrained encoder."""
    if not evaluation.scores:
        return None
    rows = [
        (tag("code", shorten(score, 60)), number(trained, 4), number(untrained, 4))
        for score, (trained, untrained) in evaluation.scores.items()
    ]
    caption = (
        f"Label-free scores of the backbone’s features: {whole(evaluation.scored_n)} validation images, "
        f"{whole(evaluation.scored_d)} dimensions"
    )
    command = tag("code", "siamscope diagnose")
    return join(
        table(("Score", "Trained", "Untrained"), rows, caption=caption),
        paragraph("Intervals, definitions and the spectrum of these features: ", command, ".", class_="how"),
    )


def _accuracy_table(evaluation: Evaluation) -> Html:
    rows: list[list[Html | str]] = []
    for k in sorted(set().union(*evaluation.knn.values())):
        values = [evaluation.knn.get(encoder, {}).get(k, math.nan) for encoder in ENCODERS]
        rows.append([f"k-NN, k = {k}", *_beside(values)])
    for title, get in (("linear probe, top-1", _top1), ("linear probe, top-5", _top5)):
        values = [get(evaluation.probe[encoder]) if encoder in evaluation.probe else math.nan for encoder in ENCODERS]
        if np.isfinite(values).any():
            rows.append([title, *_beside(values)])
    head = ("Accuracy", "Trained", "Untrained", "Raw pixels", "Gain over untrained", "Gain over raw pixels")
    return table(head, rows, caption="Accuracy of features, in %; gains in percentage points")


def _beside(values: list[float]) -> list[Html | str]:
    """Three accuracies, the greatest marked, and the two gains of the first."""
    known = [value for value in values if math.isfinite(value)]
    cells: list[Html | str] = [
        best(percent(value)) if len(known) > 1 and value == max(known) else percent(value) for value in values
    ]
    return [*cells, points(values[0] - values[1]), points(values[0] - values[2])]


def _top1(probe: Probe) -> float:
    return probe.top1


def _top5(probe: Probe) -> float:
    return probe.top5


def interval(probe: Probe) -> str:
    """The bootstrap interval of top-1, as in [56.0, 60.2] %."""
    if not (math.isfinite(probe.low) and math.isfinite(probe.high)):
        return DASH
    return f"[{100 * probe.low:.1f}, {100 * probe.high:.1f}]{PERCENT}"


def _probe_bars(evaluation: Evaluation) -> Html | None:
    known = [(encoder, evaluation.probe[encoder]) for encoder in ENCODERS if encoder in evaluation.probe]
    known = [(encoder, probe) for encoder, probe in known if math.isfinite(probe.top1)]
    if not known:
        return None
    rows = [
        Bar(
            ENCODER_NAMES[encoder],
            probe.top1,
            percent(probe.top1),
            "c0" if encoder == "trained" else "quiet",
            probe.low,
            probe.high,
        )
        for encoder, probe in known
    ]
    cells = [
        (ENCODER_NAMES[encoder], percent(probe.top1), interval(probe), percent(probe.top5), number(probe.l2, 2))
        for encoder, probe in known
    ]
    head = ("Linear probe", "Top-1", "Interval", "Top-5", "L2")
    described = ", ".join(
        f"{ENCODER_NAMES[encoder]} {percent(probe.top1)} {interval(probe)}" for encoder, probe in known
    )
    return figure(
        "Linear probe on frozen features: top-1 accuracy with its bootstrap interval, and the chosen L2 strength.",
        tag(
            "div",
            bars(rows, f"Linear probe, top-1: {described}"),
            table(head, cells, caption="Linear probe"),
            class_="duo",
        ),
    )


def _how(evaluation: Evaluation) -> str:
    parts = []
    if math.isfinite(evaluation.n_queries):
        parts.append(f"{whole(evaluation.n_queries)} images judged")
    if evaluation.split:
        parts.append(f"{evaluation.split} split")
    if math.isfinite(evaluation.n_bank):
        parts.append(f"{whole(evaluation.n_bank)} images in the bank")
    times = {ENCODER_NAMES.get(key, key): value for key, value in evaluation.seconds.items() if math.isfinite(value)}
    if times:
        parts.append("time " + ", ".join(f"{key} {number(value)}\u00a0s" for key, value in times.items()))
    return f"Measured on: {'; '.join(parts)}." if parts else ""


def recipe(run: RunData) -> Html:
    """Every setting by group, and the file as it is."""
    if run.recipe_text is None:
        return paragraph("No recipe: recipe.toml is missing.", class_="absent")
    raw = folded("recipe.toml as it is", raw_text(run.recipe_text))
    if run.recipe is None:
        return join(paragraph("recipe.toml is not valid TOML.", class_="absent"), raw)
    general = {key: setting(value) for key, value in run.recipe.items() if not isinstance(value, dict)}
    groups = [settings(general, caption="general")] if general else []
    for key, value in run.recipe.items():
        if isinstance(value, dict) and value:
            groups.append(settings(flatten(value), caption=shorten(key, 60)))
    return join(tag("div", *groups, class_="groups"), raw)


def environment(run: RunData) -> Html:
    """The machine, the versions, the command."""
    if not run.environment:
        return paragraph("Not known: environment.json is missing or empty.", class_="absent")
    return settings(flatten(run.environment), caption="The machine and the software")


def rejected(run: RunData) -> Html:
    """Files set aside, the count first, a long list folded."""
    found = run.rejected
    if not found.count:
        return paragraph("No file was set aside.", class_="absent")
    noun = "file was" if found.count == 1 else "files were"
    summary = f"{found.count:,} {noun} set aside and not used."
    rows = [(name(path, 72), tag("td", shorten(reason, 200), class_="words")) for path, reason in found.first]
    left = found.count - len(found.first)
    more = paragraph(f"… and {left:,} more in rejected.jsonl.", class_="absent") if left else None
    listing = table(("File", "Reason"), rows, caption="Files set aside")
    title = f"The first {len(rows)} of them" if left else "All of them" if len(rows) > 1 else "Which"
    return join(paragraph(summary), _reasons(found.reasons), folded(title, listing, more))


def _reasons(reasons: Mapping[str, int]) -> Html | None:
    if not 1 < len(reasons) <= 100:
        return None
    common = list(reasons.items())[:_REASONS_SHOWN]
    shown: list[Html | str] = [f"{count:,} × {shorten(reason, 120) or 'no reason given'}" for reason, count in common]
    if len(reasons) > len(common):
        shown.append(f"and {len(reasons) - len(common)} other reasons")
    return items(shown)
