"""The section of a run's page on where the time of its steps went, from `siamscope train --profile`."""

from collections.abc import Mapping, Sequence

from siamscope.report.markup import Html, join, number, percent, shorten, tag, whole
from siamscope.report.metrics import to_number
from siamscope.report.parts import items, paragraph, table
from siamscope.report.read import RunData

_MOST = 40


def timing(run: RunData) -> Html:
    """A row for each part of a step, those inside another below it, and what to try."""
    found = run.profile or {}
    spans = _objects(found.get("spans"))
    if not spans:
        return paragraph("No step was profiled.", class_="absent")
    rows = [row for span in spans for row in (_row(span), *(_row(part, "· ") for part in _objects(span.get("inside"))))]
    total = to_number(found.get("step_ms"))
    rows.append(["step", number(total), percent(1.0), ""])
    where = "on the device" if found.get("clock") == "device" else "of the clock"
    caption = (
        f"Milliseconds a step {where}: steps {whole(to_number(found.get('first_step')))} to "
        f"{whole(to_number(found.get('last_step')))}, {number(to_number(found.get('images_per_second')))} images/s"
    )
    advice = found.get("advice")
    tips = [shorten(str(tip), 300) for tip in advice[:10]] if isinstance(advice, list) else []
    try_ = join(tag("h3", "What to try"), items([tip[:1].upper() + tip[1:] for tip in tips])) if tips else None
    trace = tag("code", "trace.json")
    return join(
        table(("Part", "ms a step", "Share", "Calls a step"), rows[:_MOST], caption=caption),
        try_,
        paragraph("Operators and every span, for ui.perfetto.dev or chrome://tracing: ", trace, ".", class_="how"),
    )


def _row(span: Mapping[str, object], indent: str = "") -> Sequence[Html | str]:
    times, share, calls = (to_number(span.get(name)) for name in ("ms", "share", "calls"))
    return [indent + shorten(str(span.get("name", "")), 40), number(times), percent(share), number(calls)]


def _objects(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
