"""The figure and the page of a study, from made-up facts: what is drawn, what is said, and what is escaped."""

import copy
import json

import numpy as np
import pytest

from siamscope.report import study, study_figure
from siamscope.report.errors import ReportError


def spread(mean, sd=0.01):
    return {"mean": mean, "sd": sd, "n": 0 if mean is None else 2}


def line(model, variant, images, auc, **more):
    sigma = np.array([4.0, 2.0, 1.0, 1.0])
    names = ("auc_relative", "effective_rank", "loss", "seconds")
    knn, linear = (None, None) if auc is None else (1.2 - auc, 1.3 - auc)
    return {
        "key": f"{model}-{variant}", "label": f"{model}, {variant}", "model": model, "variant": variant,
        "images": images, "control": False, "d": 4, "problems": [], "finished": 2, "seeds": 2, "health": {"healthy": 2},
        "figures": {"auc_sigma": spread(auc), "knn": spread(knn), "linear": spread(linear)}
        | {name: spread(0.5) for name in names},
        "spectrum": {"place": [1, 2, 3, 4], "sigma": sigma.tolist(), "ratio": (sigma / 4).tolist(),
                     "cev": (sigma.cumsum() / 8).tolist()},
    } | more  # fmt: skip


def run(of, seed):
    auc = of["figures"]["auc_sigma"]["mean"]
    known = auc is not None
    return {
        "line": of["key"], "model": of["model"], "variant": of["variant"], "seed": seed, "control": False,
        "status": "finished" if known else "failed", "reason": "", "images": of["images"], "seconds": 9.0,
        "scores": {"auc_sigma": auc + 0.01 * seed} if known else {}, "accuracy": {"linear": 1.3 - auc} if known else {},
    }  # fmt: skip


@pytest.fixture
def facts():
    lines = [
        line("width 0.25", "100 images", 100, 0.8), line("width 0.25", "all images", 1000, 0.9),
        line("width 1", "100 images", 100, 0.7),
        line("width 1", "all images", 1000, None, finished=0, health={}, d=None, problems=["failed: <b>nan</b>"],
             spectrum={}),
    ]  # fmt: skip
    sets = [{"name": name, "n": 6, "r2": 0.9, "loo_r2": 0.8, "loo_rmse": 0.02, "group_spearman": None}
            for name in ("mean", "auc_sigma")]  # fmt: skip
    return {
        "kind": "siamscope study size", "title": "Size & size", "across": "images", "seeds": [0, 1],
        "data": {"name": "<img>", "split": "test"}, "environment": {"device": "cpu"}, "written": "2026-01-01T00:00:00Z",
        "shared": {"train": {"steps": 2000, "batch_size": 64}, "method": {"name": "simsiam"},
                   "network": {"backbone": "resnet8"}},
        "lines": lines, "runs": [run(item, seed) for item in lines for seed in (0, 1)],
        "baselines": [{"label": "untrained, width 1", "model": "width 1", "figures": {"auc_sigma": spread(0.85)}},
                      {"label": "raw pixels", "model": "", "figures": {"knn": spread(0.7, None)}}],
        "forecast": {"accuracy": "linear", "d": 4, "line": {"intercept": 1.3, "slope": -1.0}, "sets": sets},
        "verdicts": [{"claim": "more", "about": "here", "outcome": "contradicted", "text": "−0.1"}],
        "notes": ["a note"],
    }  # fmt: skip


def test_auc_is_drawn_against_images(facts):
    upper = study_figure.draw(facts).axes[0]
    small, large = (container.lines[0] for container in upper.containers)
    assert np.allclose(small.get_xydata(), [[100, 0.8], [1000, 0.9]])
    assert np.allclose(large.get_xydata(), [[100, 0.7]])  # a line without figures leaves a gap
    assert upper.get_xscale() == "log"
    assert [tick.get_text() for tick in upper.get_xticklabels()] == ["100", "1,000"]
    dashed = [item for item in upper.lines if item.get_linestyle() == "--"]
    assert [item.get_ydata()[0] for item in dashed] == [0.85]  # the untrained encoder


def test_the_line_of_least_squares_is_the_forecasts(facts):
    axes = study_figure.draw(facts).axes[2]
    (fit,) = [item for item in axes.lines if item.get_marker() == "None"]
    assert np.allclose(fit.get_ydata(), 100 * (1.3 - fit.get_xdata()))
    assert "one left out 0.80" in axes.get_title(loc="right")
    facts["forecast"] = {}
    assert not [item for item in study_figure.draw(facts).axes[2].lines if item.get_marker() == "None"]


def test_spectra_end_where_they_must(facts):
    _, _, _, sigma, ratio, cev = study_figure.draw(facts).axes
    assert [len(axes.lines) for axes in (sigma, ratio, cev)] == [3, 3, 3]
    assert sigma.lines[0].get_ydata()[0] == 4 and ratio.lines[0].get_ydata()[0] == 1
    assert cev.lines[0].get_ydata()[-1] == 1
    assert cev.lines[0].get_ydata().mean() == pytest.approx((4 + 6 + 7 + 8) / 32)  # its mean is AUC
    colours = [item.get_color() for item in cev.lines]
    assert colours[0] == colours[2] != colours[1]  # by variant; the model is told by the dashes
    assert cev.lines[0].get_linestyle() != cev.lines[2].get_linestyle()


def test_a_part_of_the_spectrum_is_not_summed_and_that_is_said(facts):
    for item in facts["lines"]:
        item["spectrum"].pop("cev", None)
    *_, ratio, cev = study_figure.draw(facts).axes
    assert len(ratio.lines) == 3 and not cev.lines
    assert [text.get_text() for text in cev.texts] == ["not every singular value is known"]


def test_the_page_says_of_which_images_the_spectra_are(facts):
    assert "The spectra are of" not in study.page(facts, b"")  # of studies that did not write it
    for item, of in zip(facts["lines"], ("these", "those", "these"), strict=False):
        item["spectrum"]["of"] = of
    assert "The spectra are of these or those." in study.page(facts, b"")


def test_names_instead_of_images(facts):
    facts["across"] = "order"
    axes = study_figure.draw(facts).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["100 images", "all images"]
    assert [round(float(container.lines[0].get_xdata()[0]), 3) for container in axes.containers] == [0.8, 0.9, 0.7]


def test_images_without_labels_show_the_rank(facts):
    for item in facts["lines"]:
        item["figures"] |= {"linear": spread(None), "knn": spread(None)}
    for item in facts["runs"]:
        item["accuracy"] = {}
    facts["forecast"] = {}
    assert study_figure.accuracy(facts) == ""
    assert study_figure.draw(facts).axes[1].get_title(loc="left") == "effective rank"


def test_the_page(facts, tmp_path):
    source = tmp_path / "study.json"
    source.write_text(json.dumps(facts))
    text = study.write(source).read_text()
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"
    assert "data:image/png;base64," in text and "Content-Security-Policy" in text
    assert "&lt;img&gt;" in text and "<b>nan</b>" not in text
    assert "Size &amp; size" in text and "Size & size" not in text
    assert "contradicted" in text and "0.800 ± 0.010" in text and "no figures" in text
    assert "1 contradicted" in text and "0 replicates" in text
    for heading in ("What it says of the claims", "Runs without figures", "Accuracy from label-free scores"):
        assert heading in text


def test_what_is_no_study(tmp_path, facts):
    with pytest.raises(ReportError, match="cannot be read"):
        study.write(tmp_path / "none.json")
    (tmp_path / "other.json").write_text(json.dumps(copy.deepcopy(facts) | {"kind": "siamscope comparison"}))
    with pytest.raises(ReportError, match="is no study"):
        study.write(tmp_path / "other.json")
