"""The page of a comparison of methods: figure, table, what momentum changes, what failed, and what was shared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siamscope.report.errors import ReportError
from siamscope.report.markup import DASH, Html, join, name, shorten, tag, whole
from siamscope.report.methods_figure import AXES, svg, write_png
from siamscope.report.page import document, write_whole
from siamscope.report.parts import figure, flatten, folded, items, paragraph, settings, table
from siamscope.report.sections import badge

_COLUMNS = (
    ("k-NN, %", "knn", 100.0, 1), ("Linear probe, %", "linear", 100.0, 1), ("AUC", "auc", 1.0, 3),
    ("Effective rank", "effective_rank", 1.0, 1), ("Images/s", "images_per_second", 1.0, 0),
    ("Memory, MiB", "peak_memory_mib", 1.0, 0),
)  # fmt: skip


def write(source: Path) -> Path:
    """Write the page (.html) and the figure (.png) beside a compare.json; the path of the page.

    Raises:
        ReportError: no such file, no comparison, or a file cannot be written.
    """
    try:
        facts = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{source} cannot be read ({error}); give the compare.json of a comparison.") from error
    if not isinstance(facts, dict) or facts.get("kind") != "siamscope comparison":
        raise ReportError(f"{source} is no comparison; give the compare.json that `siamscope compare` wrote.")
    write_png(facts, source.with_suffix(".png"))
    target = source.with_suffix(".html")
    write_whole(target, page(facts))
    return target


def page(facts: Mapping[str, Any]) -> str:
    """The page from the content of compare.json."""
    parts = [
        ("verdict", "Result", _figure(facts)),
        ("table", "Table", _table(facts)),
        ("momentum", "What a momentum target changes", _momentum(facts)),
        ("failed", "Runs without figures", _failed(facts)),
        ("rows", "The rows", _rows(facts)),
        ("runs", "Every run", _runs(facts)),
        ("recipe", "The shared recipe", _recipe(facts)),
        ("environment", "Environment", settings(flatten(facts["environment"]))),
    ]
    methods = len({cell["method"] for cell in facts["cells"]})
    title = f"{methods} method{'s' if methods > 1 else ''} under one recipe"
    return document(title, _about(facts), [(key, heading, content) for key, heading, content in parts if content])


def _about(facts: Mapping[str, Any]) -> list[str]:
    shared = facts["shared"]
    train = shared["train"]
    length = f"{train['steps']:,} steps" if train["steps"] else f"{train['epochs']:g} epochs"
    seeds = len(facts["seeds"])
    return [
        str(facts["data"]["name"]), str(shared["network"]["backbone"]), f"{length} of {train['batch_size']}",
        f"{seeds} seed{'s' if seeds > 1 else ''}", str(facts["environment"]["device"]), str(facts["written"])[:10],
    ]  # fmt: skip


def _figure(facts: Mapping[str, Any]) -> Html:
    caption = (
        f"{AXES[facts['figure']][0].capitalize().replace('K-nn', 'k-NN')} of each method, best first: mean and "
        "standard deviation over the seeds, every seed as a dot; the number is that of the published target. "
        "Dashed and dotted: the same encoder untrained, and the pixels themselves."
    )
    if facts["momentum"]:
        caption += " Each method with and without a momentum target; spectral rows at their own rho and at rho 0."
    return figure(caption, svg(facts))


def spread(value: Mapping[str, Any], factor: float, digits: int) -> str:
    """`45.2 ± 0.8`; the mean alone where there is no standard deviation, a dash where there is nothing."""
    if value["mean"] is None:
        return DASH
    text = f"{factor * value['mean']:,.{digits}f}"
    return (text if value["sd"] is None else f"{text} ± {factor * value['sd']:,.{digits}f}").replace("-", "−")


def _table(facts: Mapping[str, Any]) -> Html:
    rows: list[list[Html | str]] = []
    for cell in facts["cells"]:
        figures = [spread(cell["figures"][key], factor, digits) for _, key, factor, digits in _COLUMNS]
        rows.append([name(cell["label"]), *figures, _health(cell), f"{cell['finished']} of {cell['seeds']}"])
    for key, title in (("untrained", "untrained encoder"), ("raw_pixels", "raw pixels")):
        found = facts["baselines"][key]
        figures = [spread(found[k], 100, 1) if k in found else DASH for _, k, *_ in _COLUMNS]
        rows.append([tag("em", title), *figures, "", whole(found["knn"]["n"]) if found["knn"]["n"] else DASH])
    head = ["Method", *(title for title, *_ in _COLUMNS), "Health", "Seeds"]
    notes = tag(
        "div", tag("h3", "How to read it"), items([shorten(note, 600) for note in facts["notes"]]), class_="notes"
    )
    return join(table(head, rows, caption="Mean ± standard deviation over the seeds"), notes)


def _health(cell: Mapping[str, Any]) -> Html | str:
    """The verdicts of the seeds, counted where they differ."""
    words = cell["health"]
    if not words:
        return tag("td", "no figures", class_="absent")
    several = len(words) > 1
    return join(*(join(badge(f"{word} ({count})" if several else word), " ") for word, count in words.items()))


def _momentum(facts: Mapping[str, Any]) -> Html | None:
    if not facts["momentum"]:
        return None
    title, factor, digits = AXES[facts["figure"]]
    means = {cell["key"]: cell["figures"][facts["figure"]] for cell in facts["cells"]}
    rows: list[list[Html | str]] = []
    for pair in facts["momentum"]:
        gap = spread(pair["difference"], factor, digits)
        gap = gap if gap.startswith(("−", DASH)) else f"+{gap}"
        rho = DASH if pair["rho"] is None else f"{pair['rho']:g}"
        both = [spread(means[pair[side]], factor, digits) for side in ("with", "without")]
        rows.append([name(pair["method"]), rho, *both, pair["without_target"], gap])
    head = ["Method", "rho of F", "With momentum", "Without", "Target without", "Difference, seed by seed"]
    warning = (
        "A slow F (rho near 1) lags behind the network as a momentum target does. On a short run the gain from "
        "momentum can be only that F fits the slower network; where it vanishes at rho 0, it was staleness."
    )
    return join(table(head, rows, caption=title), paragraph(warning, class_="how"))


def _failed(facts: Mapping[str, Any]) -> Html | None:
    lines = [
        join(tag("b", name(cell["label"])), ": ", shorten(problem, 700))
        for cell in facts["cells"]
        for problem in cell["problems"]
    ]
    return items(lines) if lines else None


def _rows(facts: Mapping[str, Any]) -> Html:
    known = [cell for cell in facts["cells"] if cell["published"] and cell["row"]]
    fields = ("normalise", "target", "predictor", "objective")
    rows = [
        [name(cell["label"]), *(str(cell["row"][field]) for field in fields), _words(str(cell["row"]["paper"]))]
        for cell in known
    ]
    more = [
        folded(name(cell["label"]), settings({k: v for k, v in flatten(cell["row"]).items() if k != "paper"}))
        for cell in known
    ]
    shown = table(
        ["Method", *(field.capitalize() for field in fields), "Paper"],
        rows,
        caption="The cells of each row",
        class_="data differences",
    )
    return join(shown, folded("All cells, method by method", *more))


def _words(text: str) -> Html:
    return tag("td", shorten(text, 200), class_="words")


def _runs(facts: Mapping[str, Any]) -> Html:
    labels = {cell["key"]: cell["label"] for cell in facts["cells"]}
    rows = [_run(run, labels[run["cell"]]) for run in facts["runs"]]
    head = ["Run", "Seed", "Status", "k-NN, %", "Linear, %", "Effective rank", "Images/s", "Memory, MiB", "Seconds"]
    count = sum(run["status"] == "finished" for run in facts["runs"])
    return folded(f"{count} of {len(facts['runs'])} runs finished", table(head, rows, caption="Every run"))


def _run(run: Mapping[str, Any], label: str) -> Sequence[Html | str]:
    done = run["status"] == "finished"
    where = f"runs/{run['cell']}/seed-{run['seed']}/report.html"
    title = tag("a", name(label), href=where) if done else name(label)
    columns = (("knn", 100, 1), ("linear", 100, 1), ("effective_rank", 1, 1), ("images_per_second", 1, 0),
               ("peak_memory_mib", 1, 0), ("seconds", 1, 0))  # fmt: skip
    figures = [DASH if run.get(k) is None else f"{factor * run[k]:,.{digits}f}" for k, factor, digits in columns]
    return [title, str(run["seed"]), str(run["status"]), *figures]


def _recipe(facts: Mapping[str, Any]) -> Html:
    groups = [settings(flatten(values), caption=group) for group, values in facts["shared"].items() if values]
    same = paragraph(
        f"Digest {facts['shared_digest']}: equal for every run above, or it does not count. ",
        "Not shared are the seed and the method’s own cells.",
        class_="how",
    )
    return join(same, tag("div", *groups, class_="groups"))
