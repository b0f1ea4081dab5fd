"""A study's figures as Markdown (for a terminal and a README) and CSV (one line a line of the table)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from siamscope.report.study import COLUMNS
from siamscope.workflow.compare_table import spread


def markdown(facts: Mapping[str, Any]) -> str:
    """The table with verdicts, forecast and what one must know to read it."""
    parts = [f"# {facts['title']}", _lines(facts), "## What it says of the claims", _verdicts(facts)]
    if facts["forecast"]:
        parts += ["## Accuracy from label-free scores, on these runs", _forecast(facts["forecast"])]
    parts += ["## How to read it", "\n".join(f"- {note}" for note in facts["notes"])]
    failures = [f"- {line['label']}: {_first(p)}" for line in facts["lines"] for p in line["problems"]]
    if failures:
        parts += ["## Runs without figures", "\n".join(failures)]
    return "\n\n".join(parts) + "\n"


def _lines(facts: Mapping[str, Any]) -> str:
    head = ["model", "variant", "images", "features", *(title for title, *_ in COLUMNS), "health", "seeds"]
    rows = [head, ["---", "---", *["---:"] * (len(COLUMNS) + 2), "---", "---:"]]
    for line in facts["lines"]:
        cells = [spread(line["figures"][key], factor, digits) for _, key, factor, digits in COLUMNS]
        first = [line["model"], line["variant"], f"{line['images']:,}", str(line["d"] or "–")]
        rows.append([*first, *cells, health(line), f"{line['finished']}/{line['seeds']}"])
    for base in facts["baselines"]:
        found = base["figures"]
        cells = [spread(found[key], factor, digits) if key in found else "" for _, key, factor, digits in COLUMNS]
        rows.append([base["label"], "", "", "", *cells, "", str(max(item["n"] for item in found.values()))])
    return _rows(rows)


def health(line: Mapping[str, Any]) -> str:
    """The verdicts of the seeds, counted where they differ; of a line without figures, why."""
    found = line["health"]
    if not found:
        return _first(line["problems"][0]) if line["problems"] else ""
    return ", ".join(f"{word} ({count})" if len(found) > 1 else word for word, count in found.items())


def _verdicts(facts: Mapping[str, Any]) -> str:
    found = facts["verdicts"]
    if not found:
        return "Nothing can be said: no claim has the runs that it needs."
    rows = [["claim", "here", "outcome", "figures"], ["---"] * 4]
    rows += [[v["claim"], v["about"], v["outcome"], v["text"]] for v in found]
    return _rows(rows)


def _forecast(found: Mapping[str, Any]) -> str:
    head = ["scores", "runs", "R²", "R², one run left out", "error, one run left out"]
    rows = [[*head, "rank correlation, a model left out"], ["---", *["---:"] * 5]]
    for item in found["sets"]:
        numbers = [number(item[key], 2) for key in ("r2", "loo_r2")]
        error = f"{number(item['loo_rmse'], 1, 100)} points"
        rows.append([item["name"], str(item["n"]), *numbers, error, number(item["group_spearman"], 2)])
    return _rows(rows)


def number(value: float | None, digits: int, factor: float = 1.0) -> str:
    """A number, or a dash for none and NaN."""
    return "–" if value is None or value != value else f"{factor * value:.{digits}f}"


def _rows(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _first(text: str) -> str:
    return text.splitlines()[0] if text else ""


def as_csv(facts: Mapping[str, Any]) -> str:
    """One line a line of the study (and a baseline), mean and standard deviation of every figure."""
    names = list(dict.fromkeys(name for line in facts["lines"] for name in line["figures"]))
    columns = [f"{name}_{part}" for name in names for part in ("mean", "sd")]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["line", "model", "variant", "images", "features", "finished", "seeds", *columns, "health", "problem"]
    )
    for line in facts["lines"]:
        first = [line[key] for key in ("key", "model", "variant", "images", "d", "finished", "seeds")]
        problem = " | ".join(line["problems"]).replace("\n", " ")
        counted = "; ".join(f"{word} {count}" for word, count in line["health"].items())
        writer.writerow([*first, *_values(line["figures"], names), counted, problem])
    for base in facts["baselines"]:
        n = max(item["n"] for item in base["figures"].values())
        writer.writerow([base["label"], base["model"], "", "", "", n, n, *_values(base["figures"], names), "", ""])
    return stream.getvalue()


def _values(figures: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    found = [figures.get(name, {}).get(part) for name in names for part in ("mean", "sd")]
    return ["" if item is None else f"{item:.6g}" for item in found]
