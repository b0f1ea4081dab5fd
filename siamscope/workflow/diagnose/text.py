"""What `siamscope diagnose` prints: plain ASCII, one input in full or several side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from siamscope.collapse.definitions import DEFINITIONS

WIDTH = 110
COLUMN = 21
Facts = Mapping[str, Any]


def answer(inputs: Sequence[Facts], warnings: Sequence[str], failed: Sequence[str], files: Sequence[str]) -> str:
    """The whole text."""
    lines = single(inputs[0]) if len(inputs) == 1 else several(inputs)
    lines += [""] if warnings or failed or files else []
    lines += [line for text in warnings for line in _wrapped("warning  ", text)]
    lines += [line for text in failed for line in _wrapped("FAILED   ", text)]
    lines += [f"written  {', '.join(files)}"] if files else []
    return "\n".join(line.rstrip() for line in lines)


def single(one: Facts) -> list[str]:
    """Verdict with reasons, scores with intervals and what the same sample would read without collapse."""
    lines = [*_wrapped("input    ", described(one)), "", *verdict(one), "", *_scores(one), "", *_spectrum(one)]
    notes = [*one["verdict"]["notes"], *one["notes"]]
    return lines + ([""] if notes else []) + [line for note in notes for line in _wrapped("note     ", note)]


def several(inputs: Sequence[Facts]) -> list[str]:
    """One column an input, under letters if the names are long."""
    names = [str(one["name"]) for one in inputs]
    heads = names if max(map(len, names)) < COLUMN else [f"({_letter(i)})" for i in range(len(names))]
    lines = []
    for head, one in zip(heads, inputs, strict=True):
        lines += _wrapped(f"{head:<5}" if head != one["name"] else "", described(one))
    intervals = len(inputs) <= 4
    wide = COLUMN if intervals else 13
    rows: list[list[str]] = [["verdict", *(str(one["verdict"]["status"]) for one in inputs)]]
    rows.append(["images N", *(f"{one['n']:,}" for one in inputs)])
    rows.append(["dimensions d", *(f"{one['d']:,}" for one in inputs)])
    for name in DEFINITIONS:
        if any(name in one["scores"] for one in inputs):
            rows.append([name, *(_cell(one["scores"].get(name), intervals) for one in inputs)])
    rows.append(["  auc_sigma without collapse", *(number(one["baseline"]["auc_sigma"]) for one in inputs)])
    rows.append(["dead directions", *(str(one["spectrum"]["dead_directions"]) for one in inputs)])
    rows.append(["dead dimensions", *(str(one["spectrum"]["dead_dimensions"]) for one in inputs)])
    first = max(len(row[0]) for row in rows)
    lines += ["", f"{'':<{first}}" + "".join(f"  {head:<{wide}}" for head in heads)]
    lines += [f"{row[0]:<{first}}" + "".join(f"  {cell:<{wide}}" for cell in row[1:]) for row in rows]
    for head, one in zip(heads, inputs, strict=True):
        lines += ["", f"{head}", *(f"  {line}" for line in verdict(one))]
        for note in [*one["verdict"]["notes"], *one["notes"]]:
            lines += [f"  {line}" for line in _wrapped("note     ", note, WIDTH - 2)]
        lines += [f"  {line}" for line in _flags(one)]
    return lines


def described(one: Facts) -> str:
    """What was measured, in a line."""
    about = one["about"]
    kind = about["kind"]
    step = f", step {about['step']:,}" if about.get("step") is not None else ""
    of = f"{one['n']:,} x {one['d']:,}" if kind == "file" else f"{one['n']:,} images x {one['d']:,} dimensions"
    images = "" if kind == "file" else f"; {about['data']}, {about['split']}, not augmented, eval mode"
    return f"{one['name']} ({kind}{step}): {of}, {about['layer']}{images}"


def verdict(one: Facts) -> list[str]:
    """Status, reasons, and what to try."""
    found = one["verdict"]
    lines = [f"verdict  {found['status']}"]
    for reason in found["reasons"]:
        lines += _wrapped("         ", reason)
    for advice in found["advice"]:
        lines += _wrapped("  try    ", advice.removeprefix("try "))
    return lines


def definitions(names: Sequence[str]) -> str:
    """Source, formula, conventions and advice of scores."""
    lines = []
    for name in names:
        one = DEFINITIONS[name]
        lines += [f"{name}: {one.title}"]
        for label, text in (
            ("formula", one.formula), ("source", one.source), ("convention", convention(name)), ("samples", one.advice),
        ):  # fmt: skip
            lines += _wrapped(f"  {label:<11}", text)
    return "\n".join(lines)


def convention(name: str) -> str:
    """Centring, row norm, eps and the end at which collapse lies, in words."""
    one = DEFINITIONS[name]
    centring = {"centred": "columns centred", "uncentred": "not centred", "none": "no centring"}[one.centring]
    rows = {
        "always": "rows of unit length by definition",
        "never": "rows as they are",
        "option": "rows as they are, or of unit length if asked for",
    }
    end = {"high": "collapse is high", "low": "collapse is low", "either": "does not tell collapse alone"}
    eps = f"eps: {one.eps}" if one.eps else "no eps"
    return "; ".join([centring, rows[one.row_norm], eps, end[one.collapsed]])


def number(value: float | None) -> str:
    """Four significant digits; a dash for none."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 3 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:.{min(digits, 4)}f}"
    return f"{value:.3g}"


def _scores(one: Facts) -> list[str]:
    before = one.get("untrained") or {}
    biased = any(found["more_rows"] is not None for found in one["scores"].values())
    head = f"{'score':<30}{'value':>9}   {'95 % interval':<18}{'more rows' if biased else '':>10}{'no collapse':>13}"
    head += f"{'untrained':>11}" if before else ""
    lines = [head + "   collapse is"]
    for name, found in one["scores"].items():
        row = f"{name:<30}{number(found['value']):>9}   {_interval(found):<18}"
        row += f"{number(found['more_rows']) if found['more_rows'] is not None else '':>10}"
        row += f"{number(one['baseline'].get(name)):>13}"
        row += f"{number(before.get(name)):>11}" if before else ""
        end = {"high": "high", "low": "low", "either": ""}[DEFINITIONS[name].collapsed]
        lines.append(f"{row}   {end:<4}{' !' if found['flags'] else ''}")
    lines += _flags(one)
    lines += ["no collapse: what as many samples of a cloud with equal variance in all d directions would read"]
    lines += ["more rows: what many more would give, where the bias of this sample exceeds its noise"] if biased else []
    return lines


def _flags(one: Facts) -> list[str]:
    """Every flag once, with the scores that it is about."""
    about: dict[str, list[str]] = {}
    for name, found in one["scores"].items():
        for flag in found["flags"]:
            about.setdefault(flag, []).append(name)
    lines = []
    for flag, names in about.items():
        lines += _wrapped("!   ", f"{', '.join(names) if len(names) < 4 else f'{len(names)} scores'}: {flag}")
    return lines


def _interval(found: Facts) -> str:
    if found.get("low") is None or found.get("high") is None:
        return ""
    return f"[{number(found['low'])}, {number(found['high'])}]"


def _cell(found: Facts | None, interval: bool) -> str:
    if found is None:
        return "-"
    low, high = found.get("low"), found.get("high")
    mark = " !" if found["flags"] else ""
    if not interval or low is None or high is None or found["value"] is None:
        return number(found["value"]) + mark
    return f"{number(found['value'])} +- {(high - low) / 2:.2g}{mark}"


def _spectrum(one: Facts) -> list[str]:
    found, d = one["spectrum"], one["d"]
    text = (
        f"half of it lies in {found['k50']} of {d} directions, 90 % in {found['k90']}, 99 % in {found['k99']}; "
        f"dead directions (below {found['dead_share']:g} of the largest): {found['dead_directions']}; "
        f"dead dimensions (columns that never change): {found['dead_dimensions']}"
    )
    sigma, top = found["sigma"], found["sigma"][0] or 1.0
    places = sorted({min(2**i, d) for i in range(math.ceil(math.log2(d)) + 1)})
    cells = [(str(k), f"{sigma[k - 1] / top:.2g}") for k in places]
    wide = [max(map(len, cell)) for cell in cells]
    rows = ["  ".join(f"{cell[i]:>{w}}" for cell, w in zip(cells, wide, strict=True)) for i in (0, 1)]
    return [
        *_wrapped("spectrum ", text),
        f"decay    k                  {rows[0]}",
        f"         sigma_k / sigma_1  {rows[1]}",
    ]


def _wrapped(label: str, text: str, width: int = WIDTH) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=label, subsequent_indent=" " * len(label)) or [label]


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else str(i + 1)
