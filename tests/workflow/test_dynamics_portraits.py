"""`siamscope dynamics portrait|modes|sweep|alignment|threshold`: what they write, say and refuse (A14)."""

from __future__ import annotations

import csv
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from siamscope.cli import run as cli
from siamscope.dynamics import DynamicsError, Modes, sweeps
from siamscope.report.errors import ReportError
from siamscope.workflow.dynamics import alignment, modes, portrait, sweep, threshold
from siamscope.workflow.writing import check_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def not_drawn(monkeypatch, request):
    """Tables are written, pictures are not: drawing takes most of a command's time and is tested in tests/report."""
    if "drawn" in request.fixturenames:
        return
    for name in ("portrait", "weights", "modes", "sweep", "alignment", "threshold"):
        module = importlib.import_module(f"siamscope.report.dynamics_{name}")
        monkeypatch.setattr(
            module, "save", lambda figure, folder, name: [folder / f"{name}.png", folder / f"{name}.svg"]
        )


@pytest.fixture
def drawn():
    """For a test that wants the pictures."""


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_portrait(tmp_path):
    options = portrait.Options(eta=(0.02, 0.3), alpha_p=(0.25, 4.0), grid=(40, 30), starts=((0.3, 0.4),), out=tmp_path)
    text = portrait.run(options).text.splitlines()
    assert len(text) == 5 and "saddle" in text[0] and "collapse only" in text[2] and "100.0 %" in text[3]
    assert text[4].startswith(f"wrote {tmp_path}: portrait.png, portrait.svg, portrait-panels.csv")
    panels = rows(tmp_path / "portrait-panels.csv")
    assert [(row["eta"], row["alpha_p"]) for row in panels] == [
        ("0.02", "0.25"), ("0.02", "4"), ("0.3", "0.25"), ("0.3", "4"),
    ]  # fmt: skip
    shares = [float(row["collapse_share"]) for row in panels]
    assert shares[0] > 2 * shares[1] and shares[2:] == [1, 1]


def test_the_default_ranges_show_where_learning_rests():
    """p_+ always; s = p_+^2 / alpha_p in the median panel; what the user says is taken."""
    for tau, alpha_p in ((1.0, 0.25), (1.0, 4.0), (2.0, 1.0)):
        one = [Modes(tau=tau, alpha_p=alpha_p, eta=0.05, sigma2=0.1)]
        high = float(one[0].roots()[1])
        (left, right), (low, top) = portrait._ranges(portrait.Options(), one)
        assert left < 0 == low and right > high and top > high**2 / alpha_p
    default = [Modes(eta=eta, alpha_p=alpha_p, sigma2=0.1) for eta in (0.02, 0.1) for alpha_p in (0.25, 1.0, 4.0)]
    p_range, s_range = portrait._ranges(portrait.Options(), default)
    assert p_range == (-0.5, 1.0) and s_range[1] == pytest.approx(1.1 * float(default[1].roots()[1]) ** 2)
    assert portrait._ranges(portrait.Options(p_range=(0, 2), s_range=(1, 3)), default) == ((0, 2), (1, 3))
    assert portrait._ranges(portrait.Options(), [Modes(eta=0.3)]) == ((-0.5, 1.0), (0.0, 0.5))


def test_portrait_without_decay(tmp_path, drawn):
    options = portrait.Options(eta=(0.0,), alpha_p=(1.0,), grid=(30, 20), starts=(), out=tmp_path, json=True)
    said = json.loads(portrait.run(options).text)
    assert said["panels"][0]["fixed_points"] == [] and said["panels"][0]["lines_of_fixed_points"] == 4
    assert len(said["files"]) == 7 and all(Path(name).exists() for name in said["files"])


def test_portrait_of_the_weights(tmp_path):
    """A14, figure 10, through the command line's own defaults."""
    assert portrait.default(["--plane", "weights"]) == portrait.WEIGHTS == portrait.default(["--plane=weights"])
    assert portrait.default(["--eta", "0.1"]) is None
    said = json.loads(portrait.run(replace(portrait.WEIGHTS, out=tmp_path, json=True, grid=(21, 21))).text)
    assert said["planes"]["frozen"][0]["eigenvalues"] == pytest.approx([-0.5, 0.5])
    assert said["planes"]["none"][0]["eigenvalues"] == pytest.approx([-1.7071, -0.2929], abs=1e-4)
    assert said["end"] == pytest.approx([0.5, 0.5, 0.5], abs=1e-6)


def test_modes(tmp_path):
    said = json.loads(modes.run(modes.Options(out=tmp_path, json=True, time=40.0)).text)
    assert said["eta_limit"] == pytest.approx(1 / 4.4)
    kinds = [[point["kind"] for point in flow["fixed_points"]] for flow in said["flows"]]
    assert kinds == [["stable", "unstable", "stable"], ["stable", "degenerate"], ["stable"]]
    slow, fast, online = (np.array(run["end"]["s"]) for run in said["by_beta"])
    assert (slow < fast).all() and online == pytest.approx(fast, rel=0.05)
    assert max(said["by_eta"][3]["end"]["s"]) < 1e-6 and said["by_eta"][3]["tau_when_dead"] == pytest.approx(4)


def test_modes_show_p_plus_whatever_tau(tmp_path):
    options = modes.Options(tau=2.0, sigma2=0.5, betas=(1.0,), etas=(0.1,), time=5.0, out=tmp_path)
    modes.run(options)
    p = [float(row["p"]) for row in rows(tmp_path / "modes-flow.csv")]
    rests = [float(row["p"]) for row in rows(tmp_path / "modes-points.csv")]
    assert max(rests) > 1 and max(p) > max(rests) and min(p) < 0
    assert "dead" not in modes.run(replace(options, alpha_p=1e6)).text  # s is small, but rests


def test_sweep_words(tmp_path, monkeypatch):
    """The limit is an upper one, but of tau a lower one; without one eta is named; one value is said once."""

    def said(**options):
        return sweep.run(sweep.Options(points=3, grid=(3, 2), out=tmp_path, **options)).text.splitlines()[0]

    assert said(over=("sigma2",), eta=0.5).endswith("eta 0.5 is above its limit 0.25 at any sigma2")
    assert said(over=("alpha_p",), eta=0.5).endswith("above its limit 0.2273 at any alpha_p")
    assert "everything collapses; collapse only below 2.098" in said(over=("tau",), eta=1.0)
    assert "collapse only beyond 11.5" in said(over=("sigma2",))
    alone = said(over=("eta",), values=(0.1,))
    assert alone.startswith("eta 0.1: ") and alone.count("% collapse at 0.1") == 1 and " and " not in alone
    monkeypatch.setattr(sweeps, "_STEPS", 300)
    assert said(over=("beta",), values=(0.4,), alpha_p=1e7).endswith("up to 100 % not known: too stiff or too slow")


def test_sweep(tmp_path):
    options = sweep.Options(over=("alpha_p",), values=(16.0, 0.25, 1.0, 4.0), grid=(16, 10), out=tmp_path, json=True)
    found = json.loads(sweep.run(options).text)["sweeps"][0]
    assert found["values"] == [0.25, 1.0, 4.0, 16.0]
    assert found["collapse"] == pytest.approx([0.194, 0.075, 0.025, 0.013], abs=6e-4)
    several = sweep.Options(over=("eta", "beta"), points=5, grid=(5, 4), out=tmp_path)
    text = sweep.run(several).text.splitlines()
    assert len(text) == 3 and "collapse only beyond 0.2273" in text[0] and text[1].startswith("beta 0.005 to 10")
    by_eta = [row for row in rows(tmp_path / "sweep.csv") if row["over"] == "eta"]
    assert len(by_eta) == 7  # the limit is in it, from both sides
    assert [float(row["collapse_share"]) == 1 for row in by_eta] == [float(row["value"]) > 1 / 4.4 for row in by_eta]


def test_alignment(tmp_path, drawn):
    """A14: figures 7, 8 and 9 from the tables."""
    options = alignment.Options(seeds=3, width=3, peak_eta=(0.01, 0.04, 0.12), peak_alpha_p=(1.0, 5.0), out=tmp_path)
    text = alignment.run(options).text.splitlines()
    assert (tmp_path / "alignment.png").stat().st_size > 10_000
    assert len(text) == 7 and text[0].startswith("commutator over its bound: 1.0000")
    means = rows(tmp_path / "alignment-cosine-mean.csv")
    held = [float(row["mean_cosine"]) for row in means if float(row["momentum"]) <= 0.996 and float(row["eta"]) <= 0.1]
    assert len(held) == 3 * 3 * 3 and min(held) > 0.9
    last = [row for row in rows(tmp_path / "alignment-asymmetry.csv") if float(row["t"]) == 400]
    assert len(last) == 9 and max(float(row["asymmetry"]) for row in last if float(row["eta"]) >= 0.04) < 1e-2
    for row in rows(tmp_path / "alignment-commutator.csv"):
        assert float(row["commutator"]) <= float(row["bound"]) * (1 + 1e-4) + 1e-7
    peaks = rows(tmp_path / "alignment-peaks.csv")
    constant = [
        [
            float(row["peak"])
            for row in peaks
            if row["over"] == "eta" and row["target"] == "constant" and row["value"] == eta
        ]
        for eta in ("0.01", "0.04", "0.12")
    ]
    assert (np.diff(constant, axis=0) < 0).all() and constant[2] == pytest.approx([1, 1, 1])


def test_threshold(tmp_path):
    options = threshold.Options(
        eta=(0.05, 0.12, 0.2), sigma2=(0.0, 0.5, 1.5, 4.0), power=(0.5,), out=tmp_path, json=True
    )
    said = json.loads(threshold.run(options).text)
    assert [one["wrong"] for one in said["maps"]] == [0, 0] and [one["undecided"] for one in said["maps"]] == [1, 1]
    assert [one["wrong"] for one in said["starts"]] == [0, 0, 0]
    for one in said["spectra"]:
        assert one["size"] == pytest.approx(one["expected"], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "args"),
    [
        ("two parameters at most", ["portrait", "--eta", ".1", ".2", "--tau", "1", ".5"]),
        ("at most 12", ["portrait", "--alpha-p", "1", "2", "3", "4", "5", "--eta", ".1", ".2", ".3"]),
        ("NaN", ["portrait", "--alpha-p", "1", "nan", "4"]),
        ("increase", ["portrait", "--p-range", "1", "0"]),
        ("1,000,000", ["portrait", "--grid", "5000", "5000"]),
        ("eta must be", ["portrait", "--eta", "-0.1"]),
        ("one value", ["portrait", "--plane", "weights", "--eta", ".1", ".2"]),
        ("1 to 5 values", ["modes", "--etas", "1", "2", "3", "4", "5", "6"]),
        ("above 0", ["modes", "--starts", "0.1", "0"]),
        ("values belong to one", ["sweep", "--values", "1", "2"]),
        ("points must be", ["sweep", "--points", "1"]),
        ("increase", ["alignment", "--eta", ".1", ".01"]),
        ("at most 64", ["alignment", "--width", "65"]),
        ("at most 3,000,000", ["alignment", "--width", "64", "--seeds", "1"]),
        ("tau must be above 0; it is 0", ["modes", "--tau", "0"]),
        ("eta=1e+308", ["modes", "--eta", "1e308"]),
        ("eta=1e+308", ["portrait", "--eta", "1e308", "--alpha-p", "1"]),
        ("tau=1e+200", ["portrait", "--tau", "1e200", "--alpha-p", "1"]),
        ("beta=1e+300", ["modes", "--betas", "1e300"]),
        ("time=1e+300", ["modes", "--time", "1e300"]),
        ("s must be more than 0", ["sweep", "--start", "0", "0"]),
        ("the smallest are eta of -1", ["threshold", "--eta", "-1"]),
        ("start_range", ["threshold", "--start-range", "1", ".1"]),
        ("start_eta", ["threshold", "--start-eta", ".3"]),
        ("eta must be above 0", ["threshold", "--eta", "0", ".1"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, args, tmp_path, capsys):
    assert cli(["dynamics", *args, "--out", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    args = [
        "dynamics",
        "portrait",
        "--eta",
        ".1",
        "--alpha-p",
        "1",
        "--grid",
        "8",
        "8",
        "--out",
        str(tmp_path / "file"),
    ]
    assert cli(args) == 2
    assert "Cannot write" in capsys.readouterr().err


def test_a_folder_is_tried_before_anything_is_computed(tmp_path, monkeypatch):
    """And left as it was: no empty folder, no file."""
    (tmp_path / "file").write_text("")
    for module, work in ((portrait, "portrait"), (modes, "flow_line"), (sweep, "sweep"), (threshold, "survivors")):
        monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("computed"))
    monkeypatch.setattr(alignment, "commutators", lambda *_: pytest.fail("computed"))
    for module in (portrait, modes, sweep, alignment, threshold):
        with pytest.raises(ReportError, match="Choose another place"):
            module.run(module.Options(out=tmp_path / "file" / "below"))
    with pytest.raises(ReportError, match="Cannot write"):
        portrait.run(replace(portrait.WEIGHTS, out=tmp_path / "file"))
    check_folder(tmp_path / "a" / "b")
    with pytest.raises(ReportError):
        check_folder(tmp_path / "c" / ("long" * 100))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_panel_is_drawn_if_one_is_wrong(tmp_path):
    with pytest.raises(DynamicsError, match="tau"):
        portrait.run(portrait.Options(eta=(0.1,), alpha_p=(1.0,), tau=(1.0, -1.0), grid=(8, 8), out=tmp_path / "no"))
    assert not (tmp_path / "no").exists()


def test_torch_is_not_imported():
    names = ", ".join(
        f"siamscope.workflow.dynamics.{n}" for n in ("portrait", "modes", "sweep", "alignment", "threshold")
    )
    code = f"import sys, {names}\nassert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
