"""The page of a study: figure, what it says of the claims, table, forecast, every run, and what all of them shared."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siamscope.report.errors import ReportError
from siamscope.report.markup import DASH, Html, join, name, shorten, tag, whole
from siamscope.report.methods import spread
from siamscope.report.page import document, write_whole
from siamscope.report.parts import figure, flatten, folded, items, paragraph, settings, table
from siamscope.report.sections import badge
from siamscope.report.study_figure import write_png

COLUMNS = (
    ("AUC", "auc_sigma", 1.0, 3), ("Relative AUC", "auc_relative", 1.0, 3),
    ("Effective rank", "effective_rank", 1.0, 1), ("k-NN, %", "knn", 100.0, 1),
    ("Linear probe, %", "linear", 100.0, 1), ("Loss", "loss", 1.0, 3),
)  # fmt: skip
"""Title, figure, factor and decimals of the columns of a study's table, here and in its Markdown."""
_TONES = {"replicates": "good", "contradicted": "bad", "undecided": "warn", "not judged": "unknown"}
_ABOVE = "and one against the other with the line of least squares; dashed: the untrained encoder."
_BELOW = "Below: spectra of the features at the end, their shape, and the cumulative explained variance"
_CAPTIONS = {
    "images": f"Above: AUC and accuracy against the number of training images, {_ABOVE} {_BELOW}; darker: more images.",
    "": f"Above: AUC and accuracy of every line, {_ABOVE} {_BELOW}.",
}


def write(source: Path) -> Path:
    """Write the page (.html) and the figure (.png) beside a study.json; the path of the page.

    Raises:
        ReportError: no such file, no study, or a file cannot be written.
    """
    try:
        facts = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{source} cannot be read ({error}); give the study.json of a study.") from error
    if not isinstance(facts, dict) or not str(facts.get("kind", "")).startswith("siamscope study"):
        raise ReportError(f"{source} is no study; give the study.json that `siamscope study` wrote.")
    picture = write_png(facts, source.with_suffix(".png"))
    target = source.with_suffix(".html")
    write_whole(target, page(facts, picture.read_bytes()))
    return target


def page(facts: Mapping[str, Any], picture: bytes) -> str:
    """The page from the content of study.json and its figure as PNG."""
    parts = [
        ("verdict", "What it says of the claims", _verdicts(facts)),
        ("figure", "Figure", _figure(facts, picture)),
        ("table", "Table", _table(facts)),
        ("forecast", "Accuracy from label-free scores", _forecast(facts["forecast"])),
        ("failed", "Runs without figures", _failed(facts)),
        ("runs", "Every run", _runs(facts)),
        ("recipe", "The shared recipe", _recipe(facts)),
        ("environment", "Environment", settings(flatten(facts["environment"]))),
    ]
    return document(facts["title"], _about(facts), [(key, title, content) for key, title, content in parts if content])


def _about(facts: Mapping[str, Any]) -> list[str]:
    shared, seeds = facts["shared"], len(facts["seeds"])
    return [
        str(facts["data"]["name"]), f"{shared['method']['name']}, {shared['network']['backbone']}",
        f"{shared['train']['steps']:,} steps of {shared['train']['batch_size']}",
        f"{seeds} seed{'s' if seeds > 1 else ''}", str(facts["environment"]["device"]), str(facts["written"])[:10],
    ]  # fmt: skip


def _verdicts(facts: Mapping[str, Any]) -> Html:
    if not facts["verdicts"]:
        return paragraph("Nothing can be said: no claim has the runs that it needs.", class_="absent")
    rows: list[list[Html | str]] = [
        [shorten(v["claim"], 200), shorten(v["about"], 200), _outcome(v["outcome"]), shorten(v["text"], 300)]
        for v in facts["verdicts"]
    ]
    told = ", ".join(f"{sum(v['outcome'] == word for v in facts['verdicts'])} {word}" for word in _TONES)
    return table(["Claim", "Here", "Outcome", "Figures"], rows, caption=f"Claims: {told}", class_="data differences")


def _outcome(word: str) -> Html:
    return tag("td", tag("span", word, class_=f"badge {_TONES[word]}"))


def _figure(facts: Mapping[str, Any], picture: bytes) -> Html:
    data = "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
    caption = _CAPTIONS.get(facts["across"], _CAPTIONS[""]) + _spectra(facts)
    return figure(caption, tag("img", src=data, alt=_description(facts), style="width:100%"))


def _spectra(facts: Mapping[str, Any]) -> str:
    """Of which images the spectra are, in a sentence; nothing of studies that did not write it."""
    known = dict.fromkeys(str(line["spectrum"]["of"]) for line in facts["lines"] if (line["spectrum"] or {}).get("of"))
    return f" The spectra are of {' or '.join(known)}." if known else ""


def _description(facts: Mapping[str, Any]) -> str:
    told = [f"{line['label']}: AUC {spread(line['figures']['auc_sigma'], 1.0, 3)}" for line in facts["lines"][:40]]
    return f"{facts['title']}. " + "; ".join(told)


def _table(facts: Mapping[str, Any]) -> Html:
    rows: list[list[Html | str]] = []
    for line in facts["lines"]:
        figures = [spread(line["figures"][key], factor, digits) for _, key, factor, digits in COLUMNS]
        first = [name(line["label"]), whole(line["images"]), whole(line["d"]) if line["d"] else DASH]
        rows.append([*first, *figures, _health(line), f"{line['finished']} of {line['seeds']}"])
    for base in facts["baselines"]:
        found = base["figures"]
        figures = [spread(found[key], factor, digits) if key in found else DASH for _, key, factor, digits in COLUMNS]
        rows.append([tag("em", base["label"]), DASH, DASH, *figures, "", DASH])
    head = ["Line", "Images", "Features", *(title for title, *_ in COLUMNS), "Health", "Seeds"]
    notes = tag(
        "div", tag("h3", "How to read it"), items([shorten(note, 600) for note in facts["notes"]]), class_="notes"
    )
    return join(table(head, rows, caption="Mean ± standard deviation over the seeds"), notes)


def _health(line: Mapping[str, Any]) -> Html | str:
    words = line["health"]
    if not words:
        return tag("td", "no figures", class_="absent")
    several = len(words) > 1
    return join(*(join(badge(f"{word} ({count})" if several else word), " ") for word, count in words.items()))


def _forecast(found: Mapping[str, Any]) -> Html | None:
    if not found:
        return None
    rows: list[list[Html | str]] = []
    for item in found["sets"]:
        numbers = [_number(item[key], 2) for key in ("r2", "loo_r2")]
        rows.append([
            name(item["name"]), whole(item["n"]), *numbers, _number(item["loo_rmse"], 1, 100),
            _number(item["group_spearman"], 2),
        ])  # fmt: skip
    head = ["Scores", "Runs", "R²", "R², one run left out", "Error, one run left out, points",
            "Rank correlation, a model left out"]  # fmt: skip
    how = "Least squares on this study’s own runs; “mean” and “loss” are the baselines that a forecast must beat."
    return join(table(head, rows, caption=f"Forecast of {found['accuracy']}"), paragraph(how, class_="how"))


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return DASH if value is None else f"{factor * value:.{digits}f}".replace("-", "−")


def _failed(facts: Mapping[str, Any]) -> Html | None:
    lines = [
        join(tag("b", name(line["label"])), ": ", shorten(problem, 700))
        for line in facts["lines"]
        for problem in line["problems"]
    ]
    return items(lines) if lines else None


def _runs(facts: Mapping[str, Any]) -> Html:
    labels = {line["key"]: line["label"] for line in facts["lines"]}
    rows = [_run(run, labels[run["line"]]) for run in facts["runs"]]
    head = ["Run", "Seed", "Status", *(title for title, *_ in COLUMNS), "Seconds"]
    count = sum(run["status"] == "finished" for run in facts["runs"])
    return folded(f"{count} of {len(facts['runs'])} runs finished", table(head, rows, caption="Every run"))


def _run(run: Mapping[str, Any], label: str) -> Sequence[Html | str]:
    done = run["status"] == "finished"
    title = tag("a", name(label), href=f"runs/{run['line']}/seed-{run['seed']}/report.html") if done else name(label)
    known = {**run.get("scores", {}), **run.get("accuracy", {})}
    figures = [_number(known.get(key), digits, factor) for _, key, factor, digits in COLUMNS]
    return [title, str(run["seed"]), str(run["status"]), *figures, _number(run.get("seconds"), 0)]


def _recipe(facts: Mapping[str, Any]) -> Html:
    groups = [settings(flatten(values), caption=group) for group, values in facts["shared"].items() if values]
    told = paragraph("Every run has this recipe, but for its seed and what the study varies.", class_="how")
    return join(told, tag("div", *groups, class_="groups"))
