"""Figures drawn from the metrics: curves over steps, the spectrum and its history, for one run or several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siamscope.report.markup import Html, join, number, tag, whole
from siamscope.report.metrics import FloatArray, Metrics, Spectrum
from siamscope.report.parts import figure, folded, panel, paragraph, table
from siamscope.report.read import RunData
from siamscope.report.svg import COLOURS, DASHES, Axis, Series, key, legend, line_chart

_HISTORY = 7  # spectra shown of one run
_SPECTRUM_POINTS = 120
_SPECTRUM_FLOOR = 1e-6  # of the largest singular value: below lies rounding noise of float32
_MONITOR_ROWS = 40
_EMBEDDINGS, _FEATURES = "c0", "c1"
_STEP = Axis("step", low=0.0, counts=True)


@dataclass(frozen=True)
class Curve:
    """A panel: its title with the unit, the metric fields that it draws as (field, legend, colour), and its axis."""

    title: str
    fields: tuple[tuple[str, str, str], ...]
    low: float | None = None
    high: float | None = None
    log: bool = False
    factor: float = 1.0


CURVES = (
    Curve("Loss", (("loss", "loss", "c2"),)),
    Curve("Learning rate", (("lr", "encoder", "c3"), ("lr_predictor", "predictor", "c4")), low=0.0),
    Curve("k-NN accuracy, %", (("knn", "features", _FEATURES),), factor=100.0),
    Curve(
        "Std × √d",
        (("embedding_std", "embeddings", _EMBEDDINGS), ("feature_std", "features", _FEATURES)),
        low=0.0,
    ),
    Curve(
        "Effective rank, dimensions",
        (("effective_rank", "embeddings", _EMBEDDINGS), ("feature_effective_rank", "features", _FEATURES)),
        low=0.0,
    ),
    Curve(
        "AUC of explained variance",
        (("auc", "embeddings", _EMBEDDINGS), ("feature_auc", "features", _FEATURES)),
        low=0.5,
        high=1.0,
    ),
    Curve("Similarity of positive pairs, cosine", (("positive_similarity", "embeddings", _EMBEDDINGS),)),
    Curve(
        "Predictor W and correlation F",
        (
            ("alignment", "cosine of u and Wu", _EMBEDDINGS),
            ("asymmetry", "asymmetry of W", "c3"),
            ("commutator", "commutator", "c4"),
        ),
    ),
    Curve(
        "The theory's numbers",
        (
            ("k_smallest", "least eigenvalue of K", _EMBEDDINGS),
            ("noise_ratio", "noise σ²", "c3"),
            ("target_share", "target's share τ", "c4"),
        ),
    ),
    Curve("Gradient norm", (("grad_norm", "gradient", "c2"),), log=True),
    Curve("Throughput, images/s", (("images_per_second", "images/s", "c2"),), low=0.0),
)

_CURVES_CAPTION = (
    "Above each chart stands what its vertical axis shows. “Embeddings” come out of the projector, “features” out of "
    "the backbone. Std × √d is 1 when embeddings spread evenly over the sphere and 0 when all images get the same one. "
    "Effective rank counts the dimensions in use. AUC is 0.5 for a flat spectrum and 1 when one dimension holds all. "
    "A predictor that is a matrix W is compared with the embeddings' correlation F: the mean cosine of F's ten leading "
    "eigenvectors u with Wu (1 is aligned), |W − Wᵀ| / |W|, and |FW − WF| / (|F| |W|). The theory of linear networks "
    "has W and F align where K is positive; σ² is the views' own variance over what they share. "
    "Loss alone does not show collapse: a collapsed run may have the lowest loss."
)
_SPECTRUM_CAPTION = (
    "Singular values of the centred outputs, each divided by the largest (σ₁), against their index as a share of the "
    "dimension d. A line that falls early and steeply means few dimensions are in use; σ₁ itself near zero means "
    "complete collapse. Values below 10⁻⁶ are drawn at 10⁻⁶."
)


def field_values(metrics: Metrics, name: str) -> tuple[FloatArray, FloatArray]:
    """Steps and values of a metric: from the step lines where they carry it, else from the monitors."""
    source = metrics.steps if metrics.steps.has(name) else metrics.monitors.table
    return source.get("step"), source.get(name)


def _drawn(metrics: Metrics, curve: Curve, name: str) -> tuple[FloatArray, FloatArray]:
    """Steps and values of a metric as its panel draws them."""
    x, y = field_values(metrics, name)
    if curve.log:  # before the first step there is no gradient, and a log axis has no place for its zero
        y = np.where((x == 0) & (y == 0), np.nan, y)
    return x, y * curve.factor


def curves(run: RunData) -> Html:
    """All curves of one run, what was not recorded, and the monitors as a table."""
    drawn = [(curve, _series(run.metrics, curve)) for curve in CURVES]
    panels = [_panel(curve, series, _event_steps(run)) for curve, series in drawn if series]
    if not panels:
        return paragraph("No curves: metrics.jsonl holds no step and no monitor line.", class_="absent")
    absent = [curve.title.split(",")[0] for curve, series in drawn if not series]
    caption = _CURVES_CAPTION + _about_lines(run.metrics)
    return join(
        figure(caption, tag("div", *panels, class_="panels")),
        paragraph(f"Not recorded in this run: {'; '.join(absent)}.", class_="absent") if absent else None,
        _events(run),
        _monitor_table(run.metrics),
    )


def _series(metrics: Metrics, curve: Curve) -> list[Series]:
    series: list[Series] = []
    for name, label, colour in curve.fields:
        x, y = _drawn(metrics, curve, name)
        is_repeat = name == "lr_predictor" and series and np.array_equal(y, series[0].y, equal_nan=True)
        if np.isfinite(y).any() and not is_repeat:
            series.append(Series(label, x, y, colour))
    return series


def _panel(curve: Curve, series: list[Series], marks: Sequence[float] = ()) -> Html:
    keys = [key(one.label, one.colour, dash=one.dash) for one in series] if len(series) > 1 else []
    chart = line_chart(series, _STEP, _axis(curve, series), marks=marks)
    return panel(curve.title, chart, legend(*keys) if keys else None)


def _axis(curve: Curve, series: list[Series]) -> Axis:
    """The panel's axis: a fixed end gives way to data beyond it, and a log axis to data that are not positive."""
    values = np.concatenate([one.y for one in series])
    values = values[np.isfinite(values)]
    low = curve.low if curve.low is not None and values.min() >= curve.low else None
    high = curve.high if curve.high is not None and values.max() <= curve.high else None
    return Axis(curve.title, low, high, curve.log and bool((values > 0).all()))


def _about_lines(metrics: Metrics) -> str:
    steps, text = metrics.steps, ""
    if len(steps) > 200:
        text += " Where there are more than 200 points, the line is the mean of neighbours and the band their extremes."
    last, epoch = steps.last("step"), steps.last("epoch")
    if last > 0 and epoch > 0:
        text += f" One epoch is about {whole(last / epoch)} steps."
    if metrics.events:
        text += " Vertical dashed lines mark the events listed below."
    return text


def _event_steps(run: RunData) -> list[float]:
    steps = {event.step for event in run.metrics.events}
    return sorted(step for step in steps if step > 0)[:20]


def _events(run: RunData) -> Html | None:
    events = run.metrics.events
    if not events:
        return None
    rows = [(whole(event.step), tag("td", event.message[:500], class_="words")) for event in events[:50]]
    more = f" (the first 50 of {len(events):,})" if len(events) > 50 else ""
    return table(("Step", "What happened"), rows, caption=f"Events{more}", class_="data events")


_COLUMNS = (
    ("step", "step"),
    ("loss", "loss"),
    ("knn", "k-NN"),
    ("embedding_std", "std × √d"),
    ("effective_rank", "eff. rank"),
    ("auc", "AUC"),
    ("positive_similarity", "pos. sim."),
    ("feature_std", "feature std"),
    ("feature_effective_rank", "feature rank"),
    ("feature_auc", "feature AUC"),
    ("grad_norm", "grad. norm"),
)


def _monitor_table(metrics: Metrics) -> Html | None:
    monitors = metrics.monitors
    if not len(monitors):
        return None
    chosen = evenly(len(monitors), _MONITOR_ROWS)
    columns = [(name, title) for name, title in _COLUMNS if monitors.table.has(name)]
    rows = [
        [
            *(_cell(name, float(monitors.table.get(name)[line])) for name, _ in columns),
            monitors.health[line],
        ]
        for line in chosen
    ]
    head = [*(title for _, title in columns), "health"]
    noun = "line" if len(monitors) == 1 else "lines"
    count = f"{len(chosen)} of {len(monitors):,}" if len(chosen) < len(monitors) else str(len(monitors))
    return folded(f"The monitors as a table ({count} {noun})", table(head, rows, caption="Monitors"), class_="print")


def _cell(name: str, value: float) -> str:
    return whole(value) if name == "step" else number(value, 4)


def evenly(count: int, most: int) -> list[int]:
    """At most `most` indices of 0..count-1, evenly spread, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index) for index in np.linspace(0, count - 1, most)})


def spectrum(run: RunData) -> Html:
    """The spectrum of embeddings and of features at several steps of one run."""
    monitors = run.metrics.monitors
    panels = [
        _history("Embeddings", monitors.table.get("step"), monitors.embeddings),
        _history("Features", monitors.table.get("step"), monitors.features),
    ]
    if not any(panels):
        return paragraph("No spectrum: no monitor line carries singular values.", class_="absent")
    caption = _SPECTRUM_CAPTION + " Early steps are pale, the last is the strong line."
    return figure(caption, tag("div", *panels, class_="panels wide"))


def _history(title: str, steps: FloatArray, spectra: Sequence[Spectrum]) -> Html | None:
    usable = [line for line, one in enumerate(spectra) if np.isfinite(one.largest)]
    if not usable:
        return None
    chosen = [usable[index] for index in evenly(len(usable), _HISTORY)]
    series, keys = [], []
    for place, line in enumerate(chosen):
        colour = f"r{round(7 * place / (len(chosen) - 1)) if len(chosen) > 1 else 7}"
        label = f"step {whole(steps[line])}"
        series.append(spectrum_series(label, spectra[line], colour, strong=line == chosen[-1]))
        keys.append(key(f"{label}, σ₁ = {number(spectra[line].largest)}", colour))
    return panel(f"{title}: σₖ / σ₁, d = {spectra[chosen[-1]].dimension:,}", _spectrum_chart(series), legend(*keys))


def _spectrum_chart(series: list[Series]) -> Html:
    return line_chart(series, Axis("index k, % of d", 0.0, 100.0), Axis("σₖ / σ₁", high=1.0, log=True))


def spectrum_series(label: str, found: Spectrum, colour: str, dash: str | None = None, strong: bool = False) -> Series:
    """Singular values over the largest, floored, against index / d in percent, thinned to about 120 points."""
    chosen = np.array(evenly(len(found.values), _SPECTRUM_POINTS))
    ratio = found.values[chosen] / found.largest if found.largest > 0 else np.zeros(len(chosen))
    x = 100.0 * found.index[chosen] / found.dimension
    return Series(label, x, np.maximum(ratio, _SPECTRUM_FLOOR), colour, dash, strong)


def run_style(index: int) -> tuple[str, str | None]:
    """Colour and dash of run `index` in an overlay."""
    return f"c{index % COLOURS}", DASHES[index // 4 % len(DASHES)]


def _run_keys(runs: Sequence[RunData]) -> Html:
    styles = (run_style(index) for index in range(len(runs)))
    return legend(*(key(run.label, colour, dash=dash) for run, (colour, dash) in zip(runs, styles, strict=True)))


def overlaid_curves(runs: Sequence[RunData]) -> Html:
    """The curves of several runs, one panel a metric."""
    panels = []
    for curve in CURVES:
        series = []
        for index, run in enumerate(runs):
            x, y = _drawn(run.metrics, curve, curve.fields[0][0])
            if np.isfinite(y).any():
                colour, dash = run_style(index)
                series.append(Series(run.label, x, y, colour, dash))
        if series:
            panels.append(panel(curve.title, line_chart(series, _STEP, _axis(curve, series), band=False)))
    if not panels:
        return paragraph("No curves: no run holds a step or monitor line.", class_="absent")
    note = " Losses of different methods are different quantities: compare shapes, not heights."
    return figure(_CURVES_CAPTION + note, _run_keys(runs), tag("div", *panels, class_="panels"))


def overlaid_spectra(runs: Sequence[RunData]) -> Html:
    """The last spectrum of each run."""
    panels = []
    for title, of_embeddings in (("Embeddings", True), ("Features", False)):
        series = []
        for index, run in enumerate(runs):
            monitors = run.metrics.monitors
            spectra = monitors.embeddings if of_embeddings else monitors.features
            usable = [one for one in spectra if np.isfinite(one.largest)]
            if usable:
                colour, dash = run_style(index)
                series.append(spectrum_series(run.label, usable[-1], colour, dash))
        if series:
            panels.append(panel(f"{title}: σₖ / σ₁ at the last monitor", _spectrum_chart(series)))
    if not panels:
        return paragraph("No spectra: no run recorded singular values.", class_="absent")
    return figure(_SPECTRUM_CAPTION, _run_keys(runs), tag("div", *panels, class_="panels wide"))
