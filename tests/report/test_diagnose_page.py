"""The page and the picture of `siamscope diagnose`: whole, safe, and with the figures that they were given."""

import json
from pathlib import Path

import numpy as np
import pytest
import report_runs as runs
from report_pages import Page

from siamscope import report
from siamscope.report import diagnose, diagnose_figure
from siamscope.report.errors import ReportError

HOSTILE = "</td><script>alert(1)</script>\u202e'\"&<img src=x onerror=alert(1)>"


def one(name="features.npy", sigma=(4.0, 2.0, 1.0, 1e-9), status="healthy", n=400, **scores):
    """An input as the JSON of `siamscope diagnose` has it."""
    sigma = np.asarray(sigma, dtype=float)
    value = float(diagnose_figure.cumulative(sigma).mean())
    found = {"value": value, "low": value - 0.01, "high": value + 0.01, "more_rows": None, "flags": []}
    found["interval"] = {"level": 0.95, "method": "jackknife", "error": 0.005}
    plain = {"value": 3.0, "low": None, "high": None, "more_rows": 3.5, "flags": ["out of its range"]}
    return {
        "name": name, "n": n, "d": len(sigma),
        "about": {"kind": "file", "layer": "as in the file", "split": "unknown", "transform_hash": "abc"},
        "verdict": {"status": status, "reasons": ["features vary"], "advice": ["try a wider encoder"], "notes": []},
        "scores": {"auc_sigma": found, "rankme": plain, **scores},
        "untrained": {"auc_sigma": 0.987},
        "baseline": {"auc_sigma": 0.6543},
        "spectrum": {"sigma": sigma.tolist(), "isotropic": [1.0] * len(sigma), "k50": 1, "k90": 2, "k99": 3,
                     "dead_share": 1e-4, "dead_directions": 1, "dead_dimensions": 0},
        "conventions": {"center": True, "row_norm": False},
        "notes": ["a note"],
    }  # fmt: skip


def facts(*inputs, **more):
    about = {"title": "t", "formula": "f", "source": "Li et al.", "convention": "c", "collapsed": "high", "advice": "a"}
    found = {"written": "2026-01-02T03:04:05Z", "inputs": list(inputs), "warnings": [], "failed": []}
    return found | {"definitions": {"auc_sigma": about, "rankme": about}} | more


def test_one_input_shows_its_figures():
    page = Page(diagnose.page(facts(one(), failed=["auc is above 0.5"])))
    text = page.text
    assert "Healthy" in text and "Features vary" in text and "A wider encoder" in text
    value = f"{one()['scores']['auc_sigma']['value']:.4f}"
    assert value in text and "0.6543" in text and "0.9870" in text  # the score, without collapse, untrained
    assert "3.500" in text and "out of its range" in text and "auc is above 0.5" in text
    assert "transform_hash" in text and "Li et al." in text
    charts = [svg for svg in page.named("svg") if svg.get("role") == "img"]
    assert len(charts) == 3 and all(svg["aria-label"] for svg in charts)


def test_several_inputs_stand_side_by_side():
    inputs = [one("a.npy"), one("b.npy", (1.0, 1.0, 1.0), "collapse")]
    page = Page(diagnose.page(facts(*inputs, warnings=["different dimensions"])))
    assert "2 representations side by side" in page.text
    assert "a.npy" in page.text and "b.npy" in page.text and "different dimensions" in page.text
    values = [f"{given['scores']['auc_sigma']['value']:.4f}" for given in inputs]
    assert values[0] != values[1] and all(value in page.text for value in values)


@pytest.mark.parametrize("count", [1, 2])
def test_a_hostile_name_stays_text(count):
    given = one(HOSTILE)
    given["verdict"] = {"status": HOSTILE, "reasons": [HOSTILE], "advice": [HOSTILE], "notes": [HOSTILE]}
    given["about"] = {"layer": HOSTILE}
    page = Page(diagnose.page(facts(*[given] * count, warnings=[HOSTILE])))
    assert not page.named("script") and not page.named("img")
    assert "\u202e" not in page.source and "http" not in page.source.replace("http-equiv", "")
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]


def test_a_spectrum_of_zeros_and_unknown_values_are_drawn(tmp_path):
    zero = one("zero", (0.0, 0.0, 0.0), "complete collapse")
    zero["scores"]["alone"] = {"value": None, "low": None, "high": None, "more_rows": None, "flags": ["none"]}
    known = facts(zero)
    known["definitions"]["alone"] = known["definitions"]["rankme"]
    assert "Complete collapse" in Page(diagnose.page(known)).text
    assert diagnose_figure.draw([zero], tmp_path / "zero.png", 50).read_bytes()[:4] == b"\x89PNG"


def test_the_curve_of_the_picture_has_the_area_that_it_names():
    """Steps from (k - 1)/d to k/d: the drawn area is the AUC, which the plain polygon's would not be."""
    given = one(sigma=(5.0, 3.0, 1.0, 0.5, 0.2))
    axes = diagnose_figure.picture([given]).axes[2]
    x, y = axes.lines[0].get_data()
    area = float((np.diff(x) * y[1:]).sum())
    assert area == pytest.approx(given["scores"]["auc_sigma"]["value"], rel=1e-12)
    polygon = float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
    assert polygon < area - 0.01
    assert f"AUC {area:.3f}" in [text.get_text() for text in axes.texts]


def test_the_picture_draws_every_input_up_to_its_limit(tmp_path):
    many = [one(f"{i}.npy", np.geomspace(1, 0.1**i, 20)) for i in range(1, 8)]
    axes = diagnose_figure.picture(many).axes
    lines = [line for line in axes[0].lines if len(line.get_xdata()) == 20]
    assert len(lines) == diagnose_figure.MOST
    assert diagnose_figure.draw(many, tmp_path / "new" / "many.png", 50).is_file()


def test_files_that_cannot_be_written(tmp_path):
    (tmp_path / "taken").touch()
    for write in (
        lambda: diagnose.write(facts(one()), tmp_path / "taken" / "page.html"),
        lambda: diagnose_figure.draw([one()], tmp_path / "taken" / "picture.png", 50),
    ):
        with pytest.raises(ReportError, match="Cannot write"):
            write()


@pytest.mark.parametrize("labels", [True, False])
def test_the_report_of_a_run_shows_its_label_free_scores(tmp_path, labels):
    path: Path = runs.healthy(tmp_path / "run", labels=labels)
    plain = Page(report.write([path]).read_text(encoding="utf-8"))
    assert "Label-free scores" not in plain.text  # an older run has none
    judged = json.loads((path / "evaluation.json").read_text())
    judged["scores"] = {"auc_sigma": 0.81234, "rankme": 77.131, "broken": None, "<b>": 1.0}
    judged["scores_untrained"] = {"auc_sigma": 0.91234}
    judged["scored"] = {"n": 1234, "d": 512}
    (path / "evaluation.json").write_text(json.dumps(judged))
    page = Page(report.write([path]).read_text(encoding="utf-8"))
    assert "1,234 validation images, 512 dimensions" in page.text
    assert "0.8123" in page.text and "0.9123" in page.text and "77.13" in page.text
    assert "broken" not in page.text and "<b>" in page.text
