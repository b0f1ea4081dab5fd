"""The figures of the dynamics: their tables hold what is drawn, files are whole, and errors are the user's."""

from __future__ import annotations

import csv
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from siamscope.dynamics import Modes, ScalarNetwork, largest_decay
from siamscope.dynamics.courses import courses, flow_line
from siamscope.dynamics.plane import FixedPoint
from siamscope.dynamics.portrait import portrait
from siamscope.dynamics.sweeps import Setting, Starts, sweep
from siamscope.dynamics.thresholds import spectrum, start_sizes, survivors
from siamscope.dynamics.weights import weight_planes
from siamscope.report.dynamics_modes import write_modes
from siamscope.report.dynamics_portrait import write_portraits
from siamscope.report.dynamics_style import dress, mark, new_figure, save, save_table
from siamscope.report.dynamics_sweep import write_sweeps
from siamscope.report.dynamics_threshold import predictor_name, write_threshold
from siamscope.report.dynamics_weights import write_planes
from siamscope.report.errors import ReportError


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def number(row, *names):
    return [float(row[name]) for name in names]


def words(path):
    """All text of a figure, formulas left out: in the SVG it is drawn as outlines, with the text in a comment."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_files_are_whole_and_the_same_again(tmp_path):
    def draw(folder):
        figure = new_figure(4, 3)
        axes = figure.subplots()
        dress(axes, "a title", "x", "y", note="a note", grid=True)
        mark(axes, FixedPoint((0.1, 0.2), (-1, -2), "stable"), (0.1, 0.2))
        return save(figure, folder, "figure")

    png, svg = draw(tmp_path / "made" / "on the way")
    with Image.open(png) as image:
        assert image.size == (600, 450)
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert draw(tmp_path / "again")[1].read_text() == svg.read_text()
    assert sorted(path.name for path in png.parent.iterdir()) == ["figure.png", "figure.svg"]


def test_a_table_keeps_12_digits_and_has_gaps_for_nan(tmp_path):
    path = save_table(tmp_path, "t", ("a", "b", "c"), [[1 / 3, "x,y", 4], [float("nan"), None, float("inf")]])
    read = rows(path)
    assert float(read[0]["a"]) == pytest.approx(1 / 3, abs=1e-12) and read[0]["b"] == "x,y" and read[0]["c"] == "4"
    assert [read[1][name] for name in "abc"] == ["", "", "inf"]


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="Choose another place"):
        save_table(tmp_path / "file", "t", ("a",), [[1]])
    with pytest.raises(ReportError, match="Choose another place"):
        save(new_figure(2, 2), tmp_path / "file" / "below", "f")


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """Below the limit, without decay, and above the limit."""
    folder = tmp_path_factory.mktemp("portraits")
    panels = [
        portrait(Modes(alpha_p=0.5, eta=eta, sigma2=0.1), grid=(24, 16), starts=[(0.3, 0.4)]) for eta in (0.1, 0.0, 0.3)
    ]
    return folder, panels, write_portraits(panels, ["one", "two", "three"], 2, folder)


def test_the_portraits_files(portraits):
    folder, _, paths = portraits
    wanted = {
        "portrait.png",
        "portrait.svg",
        *(f"portrait-{n}.csv" for n in ("panels", "points", "curves", "paths", "field")),
    }
    assert {path.name for path in paths} == wanted == {path.name for path in folder.iterdir()}


def test_the_portraits_points_and_panels(portraits):
    folder, panels, _ = portraits
    points = rows(folder / "portrait-points.csv")
    assert [row["panel"] for row in points] == ["1", "1", "1", "3"]
    assert [row["kind"] for row in points] == ["stable", "saddle", "stable", "stable"]
    for row in points:
        modes = Modes(*number(row, "alpha_p", "eta", "sigma2", "tau"))
        at = np.array(number(row, "p", "s"))
        assert np.abs(modes.rhs(0.0, at)).max() < 1e-11
        values = np.sort(np.linalg.eigvals(modes.jacobian(*at)).real)
        assert number(row, "eigenvalue_1", "eigenvalue_2") == pytest.approx(values, abs=1e-9)
    shares = [float(row["collapse_share"]) for row in rows(folder / "portrait-panels.csv")]
    assert shares == pytest.approx([panel.collapse for panel in panels]) and shares[2] == 1


def test_the_portraits_field_and_curves(portraits):
    folder, panels, _ = portraits
    field = rows(folder / "portrait-field.csv")
    assert len(field) == 3 * 24 * 16
    for row in field[::97]:
        modes = panels[int(row["panel"]) - 1].modes
        rates = modes.rhs(0.0, np.array(number(row, "p", "s")))
        assert number(row, "dp_dt", "ds_dt") == pytest.approx(rates, abs=1e-5)
    share = np.mean([row["outcome"] == "collapses" for row in field if row["panel"] == "1"])
    assert share == pytest.approx(panels[0].collapse)
    curves = rows(folder / "portrait-curves.csv")
    for row in curves:
        modes = panels[int(row["panel"]) - 1].modes
        p, s = number(row, "p", "s")
        rate = modes.rhs(0.0, np.array([p, s]))
        if row["curve"] == "dp_dt=0":
            assert abs(rate[0]) < 1e-10
        elif row["curve"] == "ds_dt=0":
            assert abs(rate[1]) < 1e-10
        elif row["curve"] == "parabola":
            assert s == pytest.approx(p * p / 0.5, abs=1e-11)
        elif row["curve"].startswith("rest"):
            assert row["panel"] == "2" and np.abs(rate).max() < 1e-11
    assert {row["panel"] for row in curves if row["curve"] == "separatrix"} == {"1", "2"}


def test_the_portraits_paths(portraits):
    folder, panels, _ = portraits
    path = [row for row in rows(folder / "portrait-paths.csv") if row["panel"] == "1"]
    assert number(path[0], "t", "p", "s") == [0.0, 0.3, 0.4]
    assert float(path[-1]["p"]) == pytest.approx(float(panels[0].modes.roots()[1]), abs=1e-3)


def test_the_portraits_legend_lists_what_is_drawn(portraits, tmp_path):
    assert {"its edge (separatrix)", "a mode that learns", "saddle"} <= set(words(portraits[0] / "portrait.svg"))
    dead = portrait(Modes(eta=0.3, sigma2=0.1), grid=(12, 8), starts=[(0.3, 0.4)])
    said = words(write_portraits([dead], ["one"], 1, tmp_path)[1])
    assert {"a mode that collapses", "basin of collapse", "stable"} <= set(said)
    assert not {"its edge (separatrix)", "a mode that learns", "saddle"} & set(said)


def test_an_arrow_points_to_a_rest_outside(tmp_path):
    modes = Modes(alpha_p=0.25, eta=0.1, sigma2=0.1)  # rests at (0.795, 2.53)
    for top, out in ((0.5, True), (3.0, False)):
        found = portrait(modes, s_range=(0.0, top), grid=(12, 8))
        said = words(write_portraits([found], ["one"], 1, tmp_path)[1])
        assert any(text == "stable: (0.795, 2.53)" for text in said) == out


def test_the_planes_of_the_weights(tmp_path):
    """A14: the table holds figure 10's eigenvalues and rest."""
    planes = weight_planes(ScalarNetwork(signal=0.5, sigma2=0.5), grid=(15, 15), starts=3)
    paths = write_planes(planes, tmp_path)
    assert len(paths) == 6 and all(path.stat().st_size > 100 for path in paths)
    points = rows(tmp_path / "portrait-weights-points.csv")
    rates = {(row["plane"], row["kind"]): number(row, "eigenvalue_1", "eigenvalue_2") for row in points}
    assert rates["frozen", "saddle"] == pytest.approx([-0.5, 0.5], abs=1e-9)
    assert max(rates["none", "stable"]) < 0 and rates["none", "stable"] == pytest.approx([-1.7071, -0.2929], abs=1e-4)
    rest = [number(row, "x", "y") for row in points if row["plane"] == "tied" and row["kind"] == "stable"]
    assert rest == [pytest.approx([0.5, 0.5])]
    for row in rows(tmp_path / "portrait-weights-curves.csv"):
        x, y = number(row, "x", "y")
        assert (x * y == pytest.approx(0.5)) if row["curve"] == "rest" else (x == pytest.approx(-y))


def test_the_modes(tmp_path):
    flows = [flow_line(Modes(eta=eta, sigma2=0.1), count=50) for eta in (0.1, 1 / 4.4, 0.3)]
    by_beta = [courses([0.3], [0.2], eta=0.04, beta=beta, end=20.0, count=21) for beta in (0.1, float("inf"))]
    paths = write_modes(flows, by_beta, [by_beta[0]], tmp_path)
    assert [path.name for path in paths][2:] == ["modes-flow.csv", "modes-points.csv", "modes-courses.csv"]
    for row in rows(tmp_path / "modes-flow.csv"):
        eta, p, dp = number(row, "eta", "p", "dp_dt")
        assert dp == pytest.approx(p * (p * (1 - 1.1 * p) - eta), abs=1e-10)
    kinds = [row["kind"] for row in rows(tmp_path / "modes-points.csv")]
    assert kinds == ["stable", "unstable", "stable", "stable", "degenerate", "stable"]
    table = rows(tmp_path / "modes-courses.csv")
    assert len(table) == 3 * 21
    assert {row["tau"] for row in table if row["beta"] == "inf"} == {"1"}


def test_modes_that_all_collapse(tmp_path):
    """tau of a mode too small to know it is a gap, in picture and table; no arrow is said to go to p_+."""
    dead = courses([0.3], [0.2], eta=10.0, beta=0.4, end=20.0, count=11)
    paths = write_modes([flow_line(Modes(eta=0.3, sigma2=0.1))], [dead], [dead], tmp_path)
    last = rows(tmp_path / "modes-courses.csv")[-1]
    assert last["tau"] == "" and float(last["s"]) < 1e-50
    assert "towards 0" in words(paths[1]) and len([text for text in words(paths[1]) if "towards" in text]) == 1


def test_the_sweeps(tmp_path):
    starts = Starts(grid=(5, 4))
    sweeps = [sweep("eta", [0.0, 0.1, 0.3], Setting(), starts), sweep("alpha_p", [0.5, 50.0], Setting(), starts)]
    paths = write_sweeps(sweeps, 60.0, [1 / 4.4, None], tmp_path)
    table = rows(paths[-1])
    assert [row["over"] for row in table] == ["eta"] * 3 + ["alpha_p"] * 2
    assert table[2]["p_minus"] == "" and float(table[2]["collapse_share"]) == 1
    for row, high in zip(table[:2], sweeps[0].high, strict=False):
        assert float(row["p_plus"]) == pytest.approx(high)
        assert float(row["s_rest"]) == pytest.approx(high**2)


def test_a_sweep_of_one_value_and_one_without_a_rest(tmp_path):
    """One value is drawn by marks; if nothing lives all is shaded, and the legend has no p_+."""
    alone = sweep("eta", [0.1], Setting(), Starts(grid=(5, 4)))
    text = write_sweeps([alone], 60.0, [1 / 4.4], tmp_path, "alone")[1].read_text()
    assert len(re.findall(r"<use ", text)) > 5 and "everything collapses" not in text
    dead = sweep("sigma2", [0.0, 1.0], Setting(eta=0.5), Starts(grid=(5, 4)))
    text = write_sweeps([dead], 60.0, [None], tmp_path, "dead")[1].read_text()
    assert "everything collapses" in text and "dotted" not in text and text.count("fill: #fae3d6") == 3
    assert "where learning ends" not in text


def test_a_sweep_of_the_average_says_where_the_target_starts(tmp_path):
    base, starts = Setting(tau=0.5, beta=1.0, eta=0.1), Starts(grid=(2, 2))
    found = sweep("beta", [0.5, 1.0], base, starts)
    text = write_sweeps([found], 60.0, [None], tmp_path, tau_start=0.5)[1].read_text()
    assert r"\tau(0) = 0.5" in text and "p_+$, where learning ends" in text


def test_the_thresholds(tmp_path):
    """A18: the table's simulated outcomes are the inequality's."""
    maps = [survivors(0.5, [0.05, 0.1, 0.2], [0.0, 0.25, 1.0, 2.0])]
    starts = [start_sizes(0.2, 1.0, 0.5, [0.1, 0.2, 0.3, 1.0])]
    paths = write_threshold(maps, [spectrum(0.5, 0.12, [0.0, 0.5, 2.0])], starts, 0.12, largest_decay, tmp_path)
    assert len(paths) == 6
    for row in rows(tmp_path / "threshold-features.csv"):
        eta, sigma2 = number(row, "eta", "sigma2")
        if abs(4 * eta * (1 + sigma2) - 1) < 1e-9:
            assert row["outcome"] == row["theory"] == "undecided"
        else:
            assert row["outcome"] == row["theory"] == ("kept" if 4 * eta * (1 + sigma2) < 1 else "lost")
    for row in rows(tmp_path / "threshold-curve.csv"):
        sigma2, eta = number(row, "sigma2", "eta_limit")
        assert 4 * eta * (1 + sigma2) == pytest.approx(1)
    networks = [row for row in rows(tmp_path / "threshold-spectrum.csv") if row["kind"] == "network"]
    assert [float(row["size"]) > 0.1 for row in networks] == [True, True, False]
    assert [float(row["size"]) > 0.1 for row in rows(tmp_path / "threshold-start.csv")] == [False, False, True, True]


def test_a_feature_against_the_inequality_shows_as_what_it_did(tmp_path):
    maps = [survivors(1.0, [0.2], [0.0], delta=0.3)]  # below the threshold of starts
    write_threshold(
        maps, [spectrum(1.0, 0.12, [0.0])], [start_sizes(0.2, 1.0, 1.0, [0.1])], 0.12, largest_decay, tmp_path
    )
    assert [(row["outcome"], row["theory"]) for row in rows(tmp_path / "threshold-features.csv")] == [("lost", "kept")]


def test_names_of_predictors():
    assert predictor_name(0.5).startswith("DirectPred") and predictor_name(1.0).startswith("DirectCopy")
    assert predictor_name(2.0) == "DirectSet (power 2)" and predictor_name("trained") == "trained predictor"
