"""The page of the gradients of methods side by side, drawn from gradients.csv and cosines.csv."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.report.errors import ReportError
from siamscope.report.gradients_figure import moment, two_digits, write_png
from siamscope.report.gradients_read import SHAPE, Gradients, read
from siamscope.report.markup import DASH, Html, join, name, number, shorten, tag, whole
from siamscope.report.metrics import FloatArray
from siamscope.report.page import document, write_whole
from siamscope.report.parts import figure, flatten, folded, items, panel, paragraph, settings, table
from siamscope.report.svg import Axis, Series, key, legend, line_chart

_NORMS = (
    ("Pull", "pull"), ("Push", "push"), ("Push / pull", "ratio"), ("Whole", "total"), ("Balance", "balance"),
    ("Radial at u", "radial"), ("Radial at z", "radial_z"),
)  # fmt: skip
_HOW = (
    "All gradients are with respect to z, the projector’s output for the first view: what every row has in common, "
    "before its own predictor and normaliser, through which its terms come back by the chain rule. Pull and push are "
    "the norms of the positive and the negative term (scale and balance included), over the batch as one vector, of "
    "the parts orthogonal to z; cosines are between those parts.",
    "Through a predictor with unit-length predictions p the positive term is J′t/|p| and the negative all the rest, "
    "for a cosine loss λ J′p/|p| with λ = (p·t)/(p·p), given here for z of length one.",
    "Norms of different methods differ by the scale of their losses; a ratio or a cosine does not.",
    "Radial at u: the share of the gradient at the objective’s input that points along it (what a normaliser to unit "
    "length removes). Radial at z: the share along z itself, 0 for unit-length rows without a predictor.",
    "F is the mean of u u′ over both views, u of unit length. Every row sets its statistics on the same batch, and its "
    "targets are the online embeddings; the run’s own row has its trained predictor and prototypes. With --as-trained, "
    "momentum rows see the momentum network’s embeddings, and the run’s own row keeps its statistics and its bank.",
    "Escape: all samples at one point but for a perturbation of 10⁻⁴; its growth rate in units of 1 / learning rate, "
    "measured, and predicted where there is a closed form. “Depends on size”: ten times the perturbation grows "
    "otherwise.",
)


def write(folder: str | Path) -> Path:
    """Write gradients.png and gradients.html from the CSV files in `folder`; the path of the page.

    What gradients.json adds is the environment, if the file is there. Raises:
        ReportError: the CSV files cannot be read, or a file cannot be written.
    """
    folder = Path(folder)
    found = read(folder)
    write_png(found, folder / "gradients.png")
    target = folder / "gradients.html"
    write_whole(target, page(found, _facts(folder / "gradients.json")))
    return target


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read ({error}); remove it, or run `siamscope gradients` again.") from error
    return facts if isinstance(facts, dict) else {}


def page(found: Gradients, facts: Mapping[str, Any]) -> str:
    """The page; `facts` is the content of gradients.json, or empty."""
    parts = [
        ("verdict", "Who points where", _cosines(found, found.steps[-1])),
        ("run", "Over the run", _over_run(found)),
        ("norms", "Norms and balance", _norms(found)),
        ("escape", "Escape from collapse", _escape(found)),
        ("embeddings", "The embeddings", _embeddings(found)),
        ("remarks", "How each row was set up", _remarks(found)),
        ("how", "How to read it", items(_HOW)),
        ("rows", "The rows", _rows(facts)),
        ("environment", "Environment", settings(flatten(facts["environment"])) if "environment" in facts else None),
    ]
    return document(_title(found), _about(found, facts), [(k, title, part) for k, title, part in parts if part])


def _title(found: Gradients) -> str:
    count = len(found.methods)
    return f"{count} gradients on the same embeddings" if count > 1 else "1 gradient"


def _about(found: Gradients, facts: Mapping[str, Any]) -> list[str]:
    known = facts.get("source", {})
    step = found.steps[-1]
    about = [str(known["name"])] if "name" in known else []
    about.append(moment(found, step) if len(found.steps) == 1 else f"{len(found.steps)} moments up to step {step:,}")
    about.append(f"{whole(found.shape(step, 'samples'))} pairs in {whole(found.shape(step, 'dimensions'))} dimensions")
    return [*about, str(facts["written"])[:10]] if "written" in facts else about


# ------------------------------------------------------------------------------------------ cosines

_CELL, _LEFT, _TOP = 23, 78, 62


def _cosines(found: Gradients, step: int) -> Html:
    caption = (
        f"Cosines between the tangent gradients of the methods at z, {moment(found, step)}. Blue: the same direction; "
        "orange: the opposite one. A method without a negative term has cosine 0 in the second matrix."
    )
    keys = legend(key("same direction", "c0"), key("opposite direction", "c1"))
    panels = [
        panel(title, heat_map(*found.matrix(step, of), title))
        for of, title in (("total", "Whole gradients"), ("push", "Negative terms"))
    ]
    shown = figure(caption, keys, tag("div", *panels, class_="panels wide"))
    others = [other for other in found.steps[:-1] if found.known(other)]
    more = [folded(moment(found, other), *_pair(found, other)) for other in reversed(others)]
    return join(shown, *more)


def _pair(found: Gradients, step: int) -> list[Html]:
    titles = (("total", "Whole gradients"), ("push", "Negative terms"))
    return [tag("div", *(panel(t, heat_map(*found.matrix(step, of), t)) for of, t in titles), class_="panels wide")]


def heat_map(names: Sequence[str], cells: FloatArray, title: str) -> Html:
    """A matrix of cosines as inline SVG: colour by sign, opacity by size, two digits in every cell."""
    side = _CELL * len(names)
    parts: list[Html] = []
    for i, a in enumerate(names):
        middle = _CELL * (i + 0.5)
        parts.append(tag("text", a, x=_LEFT - 5, y=_TOP + middle + 3.5, text_anchor="end", class_="label"))
        across = _LEFT + middle + 3
        parts.append(
            tag("text", a, x=across, y=_TOP - 5, transform=f"rotate(-50 {across:g} {_TOP - 5})", class_="label")
        )
        parts += [_cell(i, j, float(cells[i, j]), a, b) for j, b in enumerate(names)]
    told = "; ".join(
        f"{a} and {b} {cells[i, j]:.2f}" for i, a in enumerate(names) for j, b in enumerate(names) if j > i
    )
    return tag(
        "svg", *parts, viewBox=f"0 0 {_LEFT + side + 34} {_TOP + side + 4}", role="img", class_="chart",
        aria_label=f"{title}: cosines. {shorten(told, 1500)}.",
    )  # fmt: skip


def _cell(i: int, j: int, value: float, a: str, b: str) -> Html:
    x, y = _LEFT + _CELL * j, _TOP + _CELL * i
    if not math.isfinite(value):
        return tag("rect", x=x, y=y, width=_CELL - 1, height=_CELL - 1, class_="track")
    strength = min(abs(value), 1.0)
    colour = "c0" if value >= 0 else "c1"
    box = tag(
        "rect", tag("title", f"{a} and {b}: {value:.3f}"), x=x, y=y, width=_CELL - 1, height=_CELL - 1,
        style=f"fill:var(--{colour});fill-opacity:{0.04 + 0.92 * strength:.2f}",
    )  # fmt: skip
    ink = "page" if strength > 0.6 else "ink"
    text = tag(
        "text", two_digits(value), x=x + _CELL / 2 - 0.5, y=y + _CELL / 2 + 2.6, text_anchor="middle",
        style=f"fill:var(--{ink});font-size:8px;pointer-events:none",
    )  # fmt: skip
    return join(box, text)


# ------------------------------------------------------------------------------------------ norms


def _over_run(found: Gradients) -> Html | None:
    """Pull and push of every method, and cosines with the reference, against the step."""
    if len(found.steps) < 2:
        return None
    x = np.array(found.steps, dtype=np.float64)
    axis = Axis("step", counts=True)
    panels = []
    decades = max((_reach(found, method) for method in found.methods), default=1.0)
    for method in found.methods:
        lines = [
            Series(title, x, _positive(found.series(method, title)), colour, dash, strong=title == "push")
            for title, colour, dash in (("pull", "c0", None), ("push", "c1", "6 3"))
        ]
        known = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
        if len(known):
            low, high = _ends(known, decades)
            panels.append(panel(method, line_chart(lines, axis, Axis("norm", low, high, log=True))))
    keys = legend(key("pull", "c0"), key("push", "c1", dash="6 3"))
    caption = (
        "Norms of the positive and the negative term of each method, orthogonal to z. The logarithmic axes differ in "
        "place but not in scale: equal heights are equal factors."
    )
    shown = figure(caption, keys, tag("div", *panels, class_="panels"))
    head = ["Method", *(moment(found, step) for step in found.steps)]
    columns = [
        table(head, [[name(m), *(show(found.value(step, m, k)) for step in found.steps)] for m in found.methods],
              caption=title)
        for title, k, show in (
            (f"Cosine with {found.reference}", "cosine", _cosine), ("Push / pull", "ratio", _figure),
        )
    ]  # fmt: skip
    return join(shown, *columns)


def _reach(found: Gradients, method: str) -> float:
    """Decades between a method's largest and smallest norm over the run; at most four count."""
    values = np.concatenate([_positive(found.series(method, key)) for key in ("pull", "push")])
    known = values[np.isfinite(values)]
    return float(min(np.log10(known.max() / known.min()), 4.0)) if len(known) else 0.0


def _ends(known: FloatArray, decades: float) -> tuple[float, float]:
    """A logarithmic axis of so many decades, and a little air, around the values (if more, the largest ones)."""
    high = float(known.max())
    middle = math.sqrt(high * max(float(known.min()), high * 10**-decades))
    half = 10 ** (0.55 * decades + 0.05)
    return middle / half, middle * half


def _positive(values: FloatArray) -> FloatArray:
    out: FloatArray = np.where(values > 0, values, np.nan)
    return out


def _cosine(value: float) -> str:
    return DASH if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _figure(value: float) -> str:
    return "0" if abs(value) < 5e-7 else number(value, 3)


def _norms(found: Gradients) -> Html:
    shown = _table(found, found.steps[-1])
    more = [folded(moment(found, step), _table(found, step)) for step in reversed(found.steps[:-1])]
    return join(shown, *more)


def _table(found: Gradients, step: int) -> Html:
    head = ["Method", *(title for title, _ in _NORMS), f"Cosine with {found.reference}", "Of negatives"]
    keys = [k for _, k in _NORMS]
    rows: list[list[Html | str]] = []
    for method in found.methods:
        label = join(name(method), " (the run’s)") if found.text(step, method, "own") == "1" else name(method)
        cosines = [_cosine(found.value(step, method, k)) for k in ("cosine", "cosine_push")]
        rows.append([label, *(_figure(found.value(step, method, k)) for k in keys), *cosines])
    return table(head, rows, caption=f"At {moment(found, step)}")


# ------------------------------------------------------------------------------------------ the rest


def _escape(found: Gradients) -> Html | None:
    step = found.steps[-1]
    rows: list[list[Html | str]] = []
    for method in found.methods:
        measured = found.value(step, method, "escape_measured")
        if not math.isfinite(measured):
            rows.append([name(method), _figure(found.value(step, method, "escape_predicted")), DASH, "no value"])
            continue
        depends = "no" if found.value(step, method, "escape_linear") == 1 else "yes"
        rows.append([name(method), _figure(found.value(step, method, "escape_predicted")), _figure(measured), depends])
    if not rows:
        return None
    note = "Rows with a trained predictor are measured with a new one, drawn by the seed: other seeds give other rates."
    return join(
        table(["Method", "Predicted", "Measured", "Depends on size"], rows, caption="Growth rate, 1 / learning rate"),
        paragraph(note, class_="how"),
    )


def _embeddings(found: Gradients) -> Html:
    titles = ("Similarity of positives", "sd", "Of other pairs", "sd", "Effective rank of F", "Mean length of z")
    top = [k for k in (f"eigenvalue_{i}" for i in range(1, 6)) if math.isfinite(found.shape(found.steps[-1], k))]
    rows = [
        [moment(found, step), *(_figure(found.shape(step, k)) for k in (*SHAPE, *top))]
        for step in found.steps
    ]  # fmt: skip
    head = ["Moment", *titles, *(f"Eigenvalue {i}" for i in range(1, len(top) + 1))]
    return table(head, rows, caption="Cosines of pairs, and the spectrum of F")


def _remarks(found: Gradients) -> Html | None:
    lines = []
    for method in found.methods:
        texts = [
            found.text(step, method, k) for step in found.steps for k in ("remark", "problem")
            if found.text(step, method, k)
        ]  # fmt: skip
        lines += [join(tag("b", name(method)), ": ", shorten(text, 500)) for text in dict.fromkeys(texts)]
    return items(lines) if lines else None


def _rows(facts: Mapping[str, Any]) -> Html | None:
    rows = facts.get("rows")
    if not rows:
        return None
    inner = [
        folded(name(method), settings({k: v for k, v in flatten(row).items() if k != "paper"}))
        for method, row in rows.items()
    ]
    return folded("All cells, method by method", *inner)
