"""The figure of a study: AUC and accuracy against what was varied, one against the other, and the spectra behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.report.dynamics_style import DPI, INK, LINES, SERIES, SOFT, dress, new_figure
from siamscope.report.figure import save_png
from siamscope.report.metrics import FloatArray

MARKERS = ("o", "s", "^", "D", "v")
_RAMP = ("#c8d3dd", "#8fb0cf", "#4f87bb", "#17639f", "#0b3c66", "#04172b")
_VARIANTS = ("#4a4f57", "#0072b2", "#c67700", "#00835f", "#a8508a", "#d04f00", "#2a8fcb", "#857a00", "#7a4b2b")
_SPECTRA = (
    ("sigma", "singular value σ", "Spectrum of the features"),
    ("ratio", "σ / σ₁", "Relative to the largest"),
    ("cev", "cumulative share of σ", "Cumulative explained variance"),
)
_ACCURACY = {"linear": "linear probe (%)", "knn": "k-NN accuracy (%)"}
_FLOOR = 1e-6


def write_png(facts: Mapping[str, Any], out: Path) -> Path:
    """Write the figure as PNG.

    Raises:
        ReportError: the file cannot be written.
    """
    return save_png(draw(facts), out, DPI)


def draw(facts: Mapping[str, Any]) -> Any:
    """The figure of matplotlib's: upper row the figures, lower row the spectra."""
    figure = new_figure(13.2, 8.2 if facts["across"] == "images" else 9.4)
    heights = [1.0, 1.0] if facts["across"] == "images" else [1.25, 1.0]
    panels = figure.subplots(2, 3, height_ratios=heights)
    name = accuracy(facts)
    across = _against_images if facts["across"] == "images" else _against_names
    across(panels[0, 0], facts, "auc_sigma", "AUC of the spectrum", 1.0)
    if name:
        across(panels[0, 1], facts, name, _ACCURACY[name], 100.0)
        _one_against_the_other(panels[0, 2], facts, name)
    else:
        across(panels[0, 1], facts, "effective_rank", "effective rank", 1.0)
        _one_against_the_other(panels[0, 2], facts, "effective_rank")
    for axes, (key, label, title) in zip(panels[1], _SPECTRA, strict=True):
        _spectra(axes, facts, key, label, title)
    seeds = len(facts["seeds"])
    train = facts["shared"]["train"]
    told = f"{facts['data']['name']}, {train['steps']:,} steps of {train['batch_size']}"
    spread = "mean ± sd, every seed a dot" if seeds > 1 else "no spread"
    figure.suptitle(
        f"{facts['title']}: {told}; {seeds} seed{'s' if seeds > 1 else ''}, {spread}", fontsize=12, color=INK
    )
    handles, labels = panels[1, 0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(handles), 4), frameon=False, fontsize=9
        )
    return figure


def accuracy(facts: Mapping[str, Any]) -> str:
    """The accuracy that the figure shows: the linear probe's, else k-NN; empty without labels."""
    found = [line["figures"] for line in facts["lines"]]
    return next((name for name in ("linear", "knn") if any(f[name]["mean"] is not None for f in found)), "")


# ------------------------------------------------------------------------------------------ colours and marks


def _models(facts: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(line["model"] for line in facts["lines"]))


def _colour(facts: Mapping[str, Any], model: str) -> str:
    return SERIES[_models(facts).index(model) % len(SERIES)]


def _mark(facts: Mapping[str, Any], model: str) -> str:
    return MARKERS[_models(facts).index(model) % len(MARKERS)]


def _shade(facts: Mapping[str, Any], variant: str) -> str:
    """The colour of a variant: a ramp from few images to many, else a colour of its own."""
    variants = _variants(facts)
    place = variants.index(variant)
    if facts["across"] != "images":
        return _VARIANTS[place % len(_VARIANTS)]
    return _RAMP[round(1 + place * (len(_RAMP) - 2) / max(len(variants) - 1, 1))]


def _variants(facts: Mapping[str, Any]) -> list[str]:
    lines = sorted(facts["lines"], key=lambda line: line["images"]) if facts["across"] == "images" else facts["lines"]
    return list(dict.fromkeys(line["variant"] for line in lines))


def _values(facts: Mapping[str, Any], key: str, figure: str, factor: float) -> list[float]:
    """The figure of every seed of a line."""
    runs = [run for run in facts["runs"] if run["line"] == key and run["status"] == "finished"]
    found = [run["scores"].get(figure, run["accuracy"].get(figure)) for run in runs]
    return [factor * value for value in found if value is not None]


# ------------------------------------------------------------------------------------------ upper row


def _against_images(axes: Any, facts: Mapping[str, Any], figure: str, label: str, factor: float) -> None:
    """A line a model over the number of images; the untrained encoder as a dashed level."""
    for model in _models(facts):
        lines = sorted((line for line in facts["lines"] if line["model"] == model), key=lambda line: line["images"])
        known = [line for line in lines if line["figures"].get(figure, {}).get("mean") is not None]
        if not known:
            continue
        colour, x = _colour(facts, model), [line["images"] for line in known]
        mean = [factor * line["figures"][figure]["mean"] for line in known]
        sd = [factor * (line["figures"][figure]["sd"] or 0.0) for line in known]
        axes.errorbar(x, mean, sd, color=colour, marker=_mark(facts, model), ms=6, lw=1.8, capsize=3, label=model)
        for line in known:
            values = _values(facts, line["key"], figure, factor)
            axes.plot([line["images"]] * len(values), values, "o", ms=2.4, color=INK, alpha=0.5, mew=0, zorder=4)
        _level(axes, facts, model, figure, factor, colour)
    axes.set_xscale("log")
    sizes = sorted({line["images"] for line in facts["lines"]})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    dress(axes, label, "training images", grid=True)
    _legend(axes)


def _level(axes: Any, facts: Mapping[str, Any], model: str, figure: str, factor: float, colour: str) -> None:
    """The untrained encoder of a model, dashed."""
    base = _untrained(facts, model)
    mean = base.get(figure, {}).get("mean")
    if mean is not None:
        axes.axhline(factor * mean, color=colour, lw=1.0, ls=(0, (5, 3)), alpha=0.75)
        axes.annotate("untrained", (1.0, factor * mean), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                      fontsize=7.5, color=colour)  # fmt: skip


def _untrained(facts: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    """The figures of a model's untrained encoder."""
    return next((base["figures"] for base in facts["baselines"] if base["model"] == model), {})


def _against_names(axes: Any, facts: Mapping[str, Any], figure: str, label: str, factor: float) -> None:
    """A row a variant, a mark a model; of one model the rows have the colours of the spectra."""
    variants, models = _variants(facts), _models(facts)
    for model in models:
        offset = 0.0 if len(models) < 2 else 0.3 * (models.index(model) / (len(models) - 1) - 0.5)
        colour, shown = _colour(facts, model), len(models) < 2
        for line in (line for line in facts["lines"] if line["model"] == model):
            found = line["figures"].get(figure, {"mean": None})
            if found["mean"] is None:
                continue
            y = variants.index(line["variant"]) + offset
            own = colour if len(models) > 1 else _shade(facts, line["variant"])
            axes.errorbar([factor * found["mean"]], [y], xerr=[factor * (found["sd"] or 0.0)], color=own, capsize=3,
                          marker=_mark(facts, model), ms=6, ls="", label=None if shown else model)  # fmt: skip
            values = _values(facts, line["key"], figure, factor)
            axes.plot(values, [y] * len(values), "o", ms=2.4, color=INK, alpha=0.5, mew=0, zorder=4)
            shown = True
        base = _untrained(facts, model)
        if base.get(figure, {}).get("mean") is not None:
            axes.axvline(factor * base[figure]["mean"], color=colour, lw=1.0, ls=(0, (5, 3)), alpha=0.75)
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    dress(axes, label, note="dashed: untrained" if facts["baselines"] else "", grid=True)
    axes.tick_params(axis="y", labelsize=8.5)
    _legend(axes)


def _one_against_the_other(axes: Any, facts: Mapping[str, Any], figure: str) -> None:
    """Every run by AUC and accuracy, with the line of least squares."""
    factor = 100.0 if figure in _ACCURACY else 1.0
    spans: list[float] = []
    models = _models(facts)
    for model, colour, runs in _groups(facts, models):
        found = [
            (run["scores"].get("auc_sigma"), run["scores"].get(figure, run["accuracy"].get(figure))) for run in runs
        ]
        points = [(x, factor * y) for x, y in found if x is not None and y is not None]
        spans += [x for x, _ in points]
        axes.plot([x for x, _ in points], [y for _, y in points], _mark(facts, model), ms=5, mew=0, alpha=0.8,
                  color=colour, label=model if len(models) > 1 else None)  # fmt: skip
    known = facts["forecast"]
    note = ""
    if known and spans and known["accuracy"] == figure:
        ends = np.array([min(spans), max(spans)])
        axes.plot(ends, factor * (known["line"]["intercept"] + known["line"]["slope"] * ends), color=SOFT, lw=1.4)
        note = next((f"R² {item['r2']:.2f}, one left out {item['loo_r2']:.2f}" for item in known["sets"]
                     if item["name"] == "auc_sigma"), "")  # fmt: skip
    title = _ACCURACY.get(figure, "effective rank")
    dress(axes, title, "AUC of the spectrum", note=note, grid=True)
    axes.set_title(note, fontsize=8.5, loc="right", color=SOFT)
    axes.locator_params(axis="x", nbins=6)
    _legend(axes)


def _groups(facts: Mapping[str, Any], models: list[str]) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Runs of one colour: those of a model, or, when there is one model and no size to order by, of a variant."""
    finished = [run for run in facts["runs"] if run["status"] == "finished"]
    if len(models) > 1 or facts["across"] == "images":
        for model in models:
            yield model, _colour(facts, model), [run for run in finished if run["model"] == model]
        return
    for line in facts["lines"]:
        yield line["model"], _shade(facts, line["variant"]), [run for run in finished if run["line"] == line["key"]]


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8.5, frameon=False)


# ------------------------------------------------------------------------------------------ lower row


def _spectra(axes: Any, facts: Mapping[str, Any], key: str, label: str, title: str) -> None:
    """Mean spectra of all lines: colour by what was varied, dashes by the model."""
    models = _models(facts)
    lowest = 1.0
    for line in facts["lines"]:
        spectrum: Mapping[str, Sequence[float]] = line["spectrum"] or {}
        if key not in spectrum:
            continue
        x = np.array(spectrum["place"], dtype=np.float64)
        y: FloatArray = np.array(spectrum[key], dtype=np.float64)
        if key != "cev":
            y = np.maximum(y, _FLOOR * y[0])
            lowest = min(lowest, float(y[-1] / y[0]))
        dash = LINES[models.index(line["model"]) % len(LINES)]
        axes.plot(x, y, color=_shade(facts, line["variant"]), ls=dash, lw=1.5, label=line["label"])
    if key == "cev":
        axes.set_ylim(0, 1.02)
        if not axes.lines:
            axes.text(0.5, 0.5, "not every singular value is known", transform=axes.transAxes, ha="center", color=SOFT)
    else:
        axes.set_yscale("log")
    dress(axes, title, "index", label, grid=True)
