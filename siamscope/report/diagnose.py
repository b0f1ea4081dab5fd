"""The page of `siamscope diagnose`: one input in full, or several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.report.diagnose_figure import FLOOR, cumulative
from siamscope.report.markup import DASH, Html, join, name, number, shorten, tag, whole
from siamscope.report.metrics import FloatArray
from siamscope.report.page import document, write_whole
from siamscope.report.parts import figure, flatten, folded, items, panel, paragraph, settings, table
from siamscope.report.sections import badge, tone
from siamscope.report.svg import DASHES, Axis, Series, category, key, legend, line_chart

Facts = Mapping[str, Any]

SUMMARY = {
    "auc_sigma": "AUC (sigma)",
    "effective_rank": "effective rank",
    "rankme": "RankMe",
    "embedding_std": "std of unit rows × √d",
}
"""Scores that stand beside the verdict."""
_ENDS = {"high": "high", "low": "low", "either": DASH}


def write(facts: Facts, out: Path) -> Path:
    """Write the page of a diagnosis, whole or not at all. `facts`: its JSON.

    Raises:
        ReportError: the file cannot be written.
    """
    write_whole(out, page(facts))
    return out


def page(facts: Facts) -> str:
    """The page as text."""
    inputs: Sequence[Facts] = facts["inputs"]
    parts = [
        ("verdict", "Verdict" if len(inputs) == 1 else "Verdicts", _verdicts(inputs, facts)),
        ("spectrum", "Spectrum" if len(inputs) == 1 else "Spectra", _spectra(inputs)),
        ("scores", "Scores", _single_scores(inputs[0], facts) if len(inputs) == 1 else _several_scores(inputs, facts)),
        ("meaning", "What the scores are", _definitions(facts)),
        ("measured", "What was measured", join(*(_measured(one) for one in inputs))),
    ]
    title = str(inputs[0]["name"]) if len(inputs) == 1 else f"{len(inputs)} representations side by side"
    about = [_size(inputs[0])] if len(inputs) == 1 else [str(one["name"]) for one in inputs[:12]]
    return document(title, [*about, str(facts.get("written", ""))[:10]], parts)


def _size(one: Facts) -> str:
    return f"{whole(one['n'])} samples in {whole(one['d'])} dimensions"


# ------------------------------------------------------------------------------------------ verdict


def _verdicts(inputs: Sequence[Facts], facts: Facts) -> Html:
    boxes = [_verdict(one, len(inputs) > 1) for one in inputs]
    said = [shorten(text, 400) for text in [*facts["failed"], *facts["warnings"]]]
    box = tag("aside", tag("h3", "Before you compare or go on"), items(said), class_="notes") if said else None
    return join(*boxes, box)


def _verdict(one: Facts, named: bool) -> Html:
    found = one["verdict"]
    head = [tag("h3", name(str(one["name"]), 60))] if named else []
    words: list[Html | None] = [*head, paragraph(badge(found["status"]), class_="status")]
    words.append(items([_sentence(text) for text in found["reasons"]]) if found["reasons"] else None)
    if found["advice"]:
        words += [tag("h3", "What to try"), items([_sentence(text.removeprefix("try ")) for text in found["advice"]])]
    box = tag("div", tag("div", *words, class_="words"), _tiles(one), class_=f"verdict {tone(found['status'])}")
    remarks = [_sentence(text) for text in [*found["notes"], *one["notes"]]]
    aside = tag("aside", tag("h3", "To know"), items(remarks), class_="notes") if remarks else None
    return join(box, aside)


def _tiles(one: Facts) -> Html:
    tiles = []
    for score, title in SUMMARY.items():
        found = one["scores"].get(score)
        if found is None or found["value"] is None:
            continue
        baseline = one["baseline"].get(score)
        beside = f"without collapse {number(baseline)}" if baseline is not None else _interval(found)
        tiles.append(
            tag("div", tag("dt", title), tag("dd", tag("b", number(found["value"])), " ", tag("span", beside)))
        )
    spectrum = one["spectrum"]
    dead = tag("span", f"of {whole(one['d'])}")
    tiles.append(
        tag("div", tag("dt", "dead directions"), tag("dd", tag("b", whole(spectrum["dead_directions"])), " ", dead))
    )
    return tag("dl", *tiles, class_="tiles figures")


def _sentence(text: str) -> str:
    return text[:1].upper() + shorten(text, 600)[1:]


# ------------------------------------------------------------------------------------------ spectrum


def _spectra(inputs: Sequence[Facts]) -> Html:
    shares = [_series(i, one, _share) for i, one in enumerate(inputs)]
    added = [_series(i, one, cumulative, relative=True) for i, one in enumerate(inputs)]
    spread = [_series(i, one, lambda s: s) for i, one in enumerate(inputs)]
    spread = [
        Series(line.label, line.x, _kept(line.y) / math.sqrt(one["n"]), line.colour, line.dash)
        for line, one in zip(spread, inputs, strict=True)
    ]
    flat = np.asarray(inputs[0]["spectrum"]["isotropic"], dtype=np.float64)
    x = np.arange(1, len(flat) + 1, dtype=np.float64)
    shares.append(Series("no collapse", x, _share(flat), "quiet", DASHES[2]))
    added.append(Series("no collapse", x / len(flat), cumulative(flat), "quiet", DASHES[2]))
    panels = [
        panel(
            "σₖ / σ₁: decay of the spectrum",
            line_chart(shares, Axis("direction k", counts=True), Axis("share of the largest", log=True), band=False),
        ),
        panel(
            "Cumulative explained variance (area: AUC)",
            line_chart(added, Axis("share of the d directions", 0.0, 1.0), Axis("share", 0.0, 1.0), band=False),
        ),
    ]
    if any(np.isfinite(line.y).any() for line in spread):
        panels.append(
            panel(
                "σₖ / √N: spread along every direction",
                line_chart(spread, Axis("direction k", counts=True), Axis("deviation", log=True), band=False),
            )
        )
    keys = [key(name(str(one["name"]), 40), *_look(i)[:1], dash=_look(i)[1]) for i, one in enumerate(inputs)]
    keys.append(key("no collapse, as many samples", "quiet", dash=DASHES[2]))
    caption = (
        "Singular values of the features. Dotted: what as many samples of a cloud with equal variance in all "
        "directions have (Marchenko and Pastur's law)"
        + (f", for the first input’s {_size(inputs[0])}." if len(inputs) > 1 else ".")
        + " Values below 10⁻⁷ of the largest are rounding and are not drawn."
    )
    return join(figure(caption, legend(*keys), tag("div", *panels, class_="panels")), _lies(inputs))


def _look(i: int) -> tuple[str, str | None]:
    return category(i)[0], DASHES[i % len(DASHES)]


def _series(i: int, one: Facts, make: Any, relative: bool = False) -> Series:
    sigma = np.asarray(one["spectrum"]["sigma"], dtype=np.float64)
    x = np.arange(1, len(sigma) + 1, dtype=np.float64)
    colour, dash = _look(i)
    return Series(str(one["name"]), x / len(sigma) if relative else x, make(sigma), colour, dash)


def _share(sigma: FloatArray) -> FloatArray:
    top = float(sigma[0])
    return _kept(sigma) / (top if top > 0 else 1.0)


def _kept(sigma: FloatArray) -> FloatArray:
    out: FloatArray = np.where((sigma > FLOOR * sigma[0]) & (sigma > 0), sigma, np.nan)
    return out


def _lies(inputs: Sequence[Facts]) -> Html:
    rows: list[list[Html | str]] = []
    for one in inputs:
        found = one["spectrum"]
        rows.append(
            [
                name(str(one["name"])), whole(found["k50"]), whole(found["k90"]), whole(found["k99"]),
                whole(found["dead_directions"]), whole(found["dead_dimensions"]), whole(one["d"]),
            ]
        )  # fmt: skip
    head = ("Input", "50 % of σ in", "90 % in", "99 % in", "Dead directions", "Dead dimensions", "of d")
    return table(
        head, rows, caption="Directions that hold so much of the sum of σ; dead: below 10⁻⁴ of σ₁, or constant"
    )


# ------------------------------------------------------------------------------------------ scores


def _single_scores(one: Facts, facts: Facts) -> Html:
    untrained = one.get("untrained") or {}
    level = next((s["interval"]["level"] for s in one["scores"].values() if s.get("interval")), None)
    biased = any(found["more_rows"] is not None for found in one["scores"].values())
    head = ["Score", "Value", f"{100 * level:.0f} % interval" if level else "Interval"]
    head += (["More rows"] if biased else []) + ["No collapse"]
    head += (["Untrained"] if untrained else []) + ["Collapse is", "Remarks"]
    rows = []
    for score, found in one["scores"].items():
        row: list[Html | str] = [tag("code", score), tag("td", tag("b", number(found["value"], 4)))]
        row += [_interval(found), *([number(found["more_rows"], 4)] if biased else [])]
        row.append(number(one["baseline"].get(score), 4))
        row += [number(untrained.get(score), 4)] if untrained else []
        row.append(_ENDS[facts["definitions"][score]["collapsed"]])
        row.append(tag("td", shorten("; ".join(found["flags"]), 400), class_="words"))
        rows.append(row)
    how = "No collapse: what as many samples of a cloud with equal variance in all d directions would read."
    how += " More rows: what many more would give, where this sample’s bias exceeds its noise." if biased else ""
    return join(table(head, rows, caption="Label-free scores"), paragraph(how, class_="how"))


def _several_scores(inputs: Sequence[Facts], facts: Facts) -> Html:
    rows: list[list[Html | str]] = []
    for score, one in facts["definitions"].items():
        row: list[Html | str] = [tag("code", score)]
        for given in inputs:
            found = given["scores"].get(score)
            row.append(tag("td", *_value(found)) if found else DASH)
        rows.append([*row, _ENDS[one["collapsed"]]])
    rows.append(
        ["AUC (sigma) without collapse", *(number(one["baseline"].get("auc_sigma"), 4) for one in inputs), DASH]
    )
    rows.append(["samples", *(whole(one["n"]) for one in inputs), DASH])
    rows.append(["dimensions", *(whole(one["d"]) for one in inputs), DASH])
    head = ["Score", *(_head(one) for one in inputs), "Collapse is"]
    flags = [
        join(name(str(one["name"])), ": ", tag("code", score), ": ", shorten(flag, 300))
        for one in inputs
        for score, found in one["scores"].items()
        for flag in found["flags"]
    ]
    more = folded("Remarks on single scores", items(flags)) if flags else None
    return join(table(head, rows, caption="Label-free scores with their intervals"), more)


def _head(one: Facts) -> Html:
    return tag("span", name(str(one["name"]), 40), style="overflow-wrap:anywhere")


def _value(found: Facts) -> list[Html]:
    interval = _interval(found)
    value = tag("b", number(found["value"], 4))
    return [value, tag("br"), tag("span", interval, class_="before")] if interval != DASH else [value]


def _interval(found: Facts) -> str:
    if found.get("low") is None or found.get("high") is None:
        return DASH
    return f"[{number(found['low'], 4)}, {number(found['high'], 4)}]"


# ------------------------------------------------------------------------------------------ the rest


def _definitions(facts: Facts) -> Html:
    rows = [
        [
            tag("code", score),
            *(tag("td", shorten(str(one[field]), 400), class_="words") for field in ("formula", "source")),
            *(tag("td", shorten(str(one[field]), 400), class_="words") for field in ("convention", "advice")),
        ]
        for score, one in facts["definitions"].items()
    ]
    head = ("Score", "Formula", "Source", "Convention", "Samples, and what it does not see")
    listing = table(head, rows, caption="Definitions of the scores shown")
    lead = "No single score is safe: compare one method at equal N and d, and read the verdict with its reasons."
    return join(paragraph(lead, class_="lead"), folded("Formula, source, convention and advice of each", listing))


def _measured(one: Facts) -> Html:
    facts = {"n": one["n"], "d": one["d"], **one["about"], **one["conventions"]}
    return settings(flatten(facts), caption=shorten(str(one["name"]), 80))
