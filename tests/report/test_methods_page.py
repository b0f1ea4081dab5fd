"""The page and the figure of a comparison of methods, from the content of a compare.json."""

import json

import pytest
from report_pages import Page

from siamscope.report import ReportError
from siamscope.report.methods import page, write
from siamscope.report.methods_figure import picture, svg

PAYLOAD = "</style><script>alert(1)</script>\u202e"
NOTHING = {"mean": None, "sd": None, "n": 0}
FIGURES = ("knn", "linear", "auc", "effective_rank", "images_per_second", "peak_memory_mib")


def cell(key, method, target, values=(), rho=None, problems=()):
    mean = sum(values) / len(values) if values else None
    sd = abs(values[0] - values[1]) / 2**0.5 if len(values) == 2 else None
    found = {"mean": mean, "sd": sd, "n": len(values)}
    row = {"normalise": "l2", "target": target, "predictor": "none", "objective": "spectral", "paper": "A paper"}
    return {
        "key": key, "label": key.replace("-", ", "), "method": method, "target": target, "rho": rho,
        "published": key == method, "problems": list(problems), "finished": len(values), "seeds": 2,
        "health": {"healthy": len(values)} if values else {}, "figures": dict.fromkeys(FIGURES, found), "row": row,
    }  # fmt: skip


def comparison(cells, figure="knn", momentum=()):
    """The content of compare.json: two seeds, with values around each cell's mean."""
    runs = []
    for one in cells:
        found = one["figures"]["knn"]
        for seed in range(found["n"]):
            value = found["mean"] + (found["sd"] or 0) * (seed - 0.5) * 2**0.5
            runs.append({"cell": one["key"], "seed": seed, "status": "finished", **dict.fromkeys(FIGURES, value)})
    untrained, pixels = (
        {"knn": {"mean": m, "sd": sd, "n": 2}, "linear": NOTHING} for m, sd in ((0.31, 0.02), (0.25, 0))
    )
    return {
        "kind": "siamscope comparison", "started": "2026-01-01T00:00:00Z", "written": "2026-01-02T00:00:00Z",
        "environment": {"device": "cpu", "cpu": PAYLOAD}, "data": {"name": "shapes"}, "seeds": [0, 1], "figure": figure,
        "shared_digest": "0123456789abcdef", "given_cells": {}, "notes": ["a note", PAYLOAD],
        "shared": {"network": {"backbone": "resnet8"}, "train": {"steps": 20, "batch_size": 64, "epochs": 1.0}},
        "cells": cells, "momentum": list(momentum), "runs": runs,
        "baselines": {"untrained": untrained, "raw_pixels": pixels},
    }  # fmt: skip


@pytest.fixture
def facts():
    pair = {"method": "unigrad", "rho": 0.9, "with": "unigrad", "without": "unigrad-detached",
            "without_target": "detached", "difference": {"mean": -0.031, "sd": 0.01, "n": 2}}  # fmt: skip
    return comparison(
        [
            cell("unigrad-rho0", "unigrad", "momentum", (0.62, 0.64), 0.0),
            cell("simclr", "simclr", "shared", (0.60, 0.62)),
            cell("unigrad-detached", "unigrad", "detached", (0.55, 0.56), 0.9),
            cell("unigrad", "unigrad", "momentum", (0.50, 0.54), 0.9),
            cell("wmse", "wmse", "shared", problems=["failed: 64 samples in 128 dimensions\nmore", PAYLOAD]),
        ],
        momentum=[pair],
    )


def test_lines_of_the_figure(facts):
    drawn = picture(facts)
    assert [line.label for line in drawn.lines] == ["simclr", "unigrad", "unigrad, rho 0", "wmse"]  # by published rows
    pair = drawn.lines[1].marks
    assert [mark.momentum for mark in pair] == [True, False]  # the published target first
    assert pair[0].mean == pytest.approx(52)
    assert pair[0].sd == pytest.approx(100 * 0.04 / 2**0.5)
    assert pair[0].values == pytest.approx((50, 54))
    assert drawn.lines[3].marks == ()
    assert drawn.lines[3].problem == "failed: 64 samples in 128 dimensions"
    assert [(title, mean) for title, mean, *_ in drawn.baselines] == [("untrained encoder", 31.0), ("raw pixels", 25.0)]
    low, high = drawn.span
    assert low <= 25
    assert high >= 64


def test_positions_in_the_drawing(facts):
    """The better mark lies further right, a momentum mark above the other of its line, and names are never lost."""
    parsed = Page("<body>" + svg(facts) + "</body>")
    marks = [a["d"] for tag, a in parsed.elements if tag == "path" and (a.get("style") or "").startswith("fill")]
    marks = [mark for mark in marks if not mark.startswith("M8 6")]  # less the legend's
    places = [tuple(map(float, mark[1:].partition("m")[0].split())) for mark in marks]
    simclr, momentum, detached, rho0 = places
    assert momentum[0] < detached[0] < simclr[0] < rho0[0]
    assert momentum[1] < detached[1]
    assert simclr[1] < momentum[1] < rho0[1]
    assert "failed: see below" in parsed.text
    assert "k-NN accuracy (%), mean over seeds: simclr 61.0 ± 1.4;" in parsed.named("svg")[-1]["aria-label"]


def test_page(facts):
    text = page(facts)
    parsed = Page(text)
    assert "61.0 ± 1.4" in parsed.text
    assert "−3.1 ± 1.0" in parsed.text
    assert "wmse: failed: 64 samples in 128 dimensions" in parsed.text
    assert "0 of 2" in parsed.text and "2 of 2" in parsed.text
    assert "<script" not in text.lower()
    assert "⟨U+202E⟩" in parsed.text
    assert not [a for _, a in parsed.elements if str(a.get("src") or "").startswith("http")]
    links = [a["href"] for a in parsed.named("a")]
    assert "runs/simclr/seed-1/report.html" in links
    assert "runs/wmse/seed-0/report.html" not in links
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert anchors <= {a.get("id") for _, a in parsed.elements}


def test_one_seed_has_no_deviation():
    text = Page(page(comparison([cell("simclr", "simclr", "shared", (0.6,))]))).text
    assert "60.0" in text
    assert "60.0 ±" not in text
    assert "What a momentum target changes" not in text
    assert "Runs without figures" not in text


def test_without_labels_the_rank_is_drawn():
    facts = comparison([cell("simclr", "simclr", "shared", (20.0, 24.0))], figure="effective_rank")
    drawn = picture(facts)
    assert drawn.axis == "effective rank of the features"
    assert drawn.lines[0].marks[0].mean == 22.0  # not a percentage
    assert drawn.baselines == ()


def test_nothing_finished():
    facts = comparison([cell("wmse", "wmse", "shared", problems=["pending: not run yet"])])
    assert "pending: see below" in Page(page(facts)).text


def test_files(facts, tmp_path):
    source = tmp_path / "compare.json"
    source.write_text(json.dumps(facts))
    assert write(source) == tmp_path / "compare.html"
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    for content in ("[]", '{"kind": "else"}', "{"):
        source.write_text(content)
        with pytest.raises(ReportError, match=r"compare\.json"):
            write(source)
    with pytest.raises(ReportError, match="cannot be read"):
        write(tmp_path / "nothing.json")
