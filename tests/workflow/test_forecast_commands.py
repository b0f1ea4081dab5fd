"""`siamscope forecast fit` and `apply` on run directories, folders and tables; nothing is trained."""

import contextlib
import csv
import io
import json
import re
import subprocess
import sys

import fabricated
import numpy as np
import pytest

from siamscope import cli

METHODS = ("simsiam", "byol")
WIDTHS = (0.5, 1.0)


def fleet(folder, noise=0.005, seed=0, **changes):
    """16 runs whose linear accuracy is 1.3 - 0.8 AUC - 0.1 loss, and k-NN accuracy that of another line."""
    rng = np.random.default_rng(seed)
    for i in range(16):
        auc, loss = rng.uniform(0.6, 0.9), rng.uniform(-0.95, -0.8)
        fabricated.run(
            folder / f"run-{i:02d}", auc=auc, loss=loss, linear=1.3 - 0.8 * auc - 0.1 * loss + noise * rng.normal(),
            knn=1.0 - 0.5 * auc, method=METHODS[i % 2], width=WIDTHS[i // 2 % 2], **changes,
        )  # fmt: skip
    return folder


def command(capsys, *words):
    """Exit code, output and errors."""
    code = cli.run([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A forecast of 16 runs, and what fitting it printed; nobody changes it."""
    folder = fleet(tmp_path_factory.mktemp("fitted") / "runs").parent
    out = folder / "forecast.json"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.run(["forecast", "fit", str(folder / "runs"), "--out", str(out)]) == 0
    return out, printed.getvalue()


def test_fit_writes_what_it_found(fitted):
    out, text = fitted
    for word in ("mean", "loss", "auc_sigma + loss*", "resnet8 x 0.5", "test images", "16 runs", "d = 64"):
        assert word in text
    assert "2 methods (byol, simsiam)" in text  # losses of several methods do not compare
    written = {file.name for file in out.parent.iterdir()} - {"runs"}
    assert written == {"forecast.json", "forecast.png", "forecast.svg", "forecast.csv"}
    value = json.loads(out.read_text())
    coefficients = value["forecast"]["state"]["coef"]
    assert coefficients == pytest.approx([-0.8, -0.1], abs=0.05)
    assert value["context"]["split"] == "test" and value["context"]["d"] == [64] and len(value["runs"]) == 16
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert len(rows) == 16 and float(rows[3]["measured"]) == pytest.approx(value["runs"][3]["measured"])


def test_json_has_the_baselines_and_the_groups(tmp_path, capsys):
    fleet(tmp_path / "runs")
    code, text, _ = command(
        capsys, "forecast", "fit", tmp_path / "runs", "--out", tmp_path / "f.json", "--json", "--group", "method"
    )
    found = json.loads(text)
    models = {item["name"]: item for item in found["models"]}
    assert code == 0 and {"mean", "loss", "auc_sigma", "auc_sigma + loss"} <= set(models)
    assert models["auc_sigma + loss"]["loo_r2"] > 0.9 > models["mean"]["loo_r2"]
    assert models["loss"]["loo_r2"] < 0.3
    assert [group["group"] for group in found["groups"]] == ["simsiam", "byol"]
    assert found["coefficients"][1]["low"] < -0.8 < found["coefficients"][1]["high"]


def test_another_target_is_another_forecast(tmp_path, capsys):
    fleet(tmp_path / "runs")
    words = ("forecast", "fit", tmp_path / "runs", "--out", tmp_path / "f.json", "--features", "auc", "--target", "knn")
    code, _, _ = command(capsys, *words)
    state = json.loads((tmp_path / "f.json").read_text())["forecast"]["state"]
    assert code == 0 and state["coef"] == pytest.approx([-0.5]) and state["intercept"] == pytest.approx(1.0)


def test_accuracies_that_have_nothing_to_do_with_the_scores(tmp_path, capsys):
    rng = np.random.default_rng(5)
    x = np.column_stack([np.ones(30), rng.uniform(0.6, 0.9, 30), rng.normal(size=30)])
    noise = rng.normal(size=30)
    linear = 0.7 + 0.05 * (noise - x @ np.linalg.lstsq(x, noise, rcond=None)[0])  # orthogonal to both
    table = tmp_path / "table.csv"
    lines = [f"{auc!r},{loss!r},{y!r},x" for (_, auc, loss), y in zip(x.tolist(), linear.tolist(), strict=True)]
    table.write_text("\n".join(["auc_sigma,loss,linear,kind", *lines]))
    code, text, _ = command(capsys, "forecast", "fit", table, "--out", tmp_path / "f.json", "--group", "kind")
    assert code == 0 and "forecasts no better than the mean of these runs" in text
    assert "all runs have one kind (x)" in text
    quality = json.loads((tmp_path / "f.json").read_text())["forecast"]["quality"]
    assert quality["r2"] == pytest.approx(0, abs=1e-9) and quality["loo_r2"] < 0


def test_a_table_gives_what_the_runs_give(fitted, tmp_path, capsys):
    out, _ = fitted
    rows = json.loads(out.read_text())["runs"]
    columns = {name: [row[name] for row in rows] for name in ("auc_sigma", "loss")}
    columns["linear"] = [row["measured"] for row in rows]
    columns["width"] = [float(row["group"].split()[-1]) for row in rows]
    (tmp_path / "table.json").write_text(json.dumps(columns))
    words = ("forecast", "fit", tmp_path / "table.json", "--out", tmp_path / "g.json", "--group", "width")
    assert command(capsys, *words)[0] == 0
    again = json.loads((tmp_path / "g.json").read_text())["forecast"]
    assert again["state"] == json.loads(out.read_text())["forecast"]["state"]


def test_apply(fitted, tmp_path, capsys):
    out, _ = fitted
    near = fabricated.run(tmp_path / "near", auc=0.75, loss=-0.88, linear=0.788)
    far = fabricated.run(tmp_path / "far", auc=0.97, loss=-0.88, labels=False)
    code, text, _ = command(capsys, "forecast", "apply", out, near, far)
    assert code == 0
    line = next(line for line in text.splitlines() if str(near) in line)
    assert re.search(r" 7[89]\.\d %   \[7\d\.\d, \d\d\.\d\] +78\.8 %$", line)
    assert "refused: auc_sigma 0.97 lies outside the fit's" in text
    code, _, err = command(capsys, "forecast", "apply", out, far, "--strict")
    assert code == 2 and "1 of 1 runs are outside" in err
    code, text, _ = command(capsys, "forecast", "apply", out, near, far, "--json")
    rows = json.loads(text)["runs"]
    assert rows[0]["low"] < 0.788 < rows[0]["high"] and rows[1]["expected"] is None and rows[1]["refused"]


def test_apply_says_how_right_it_was(fitted, tmp_path, capsys):
    out, _ = fitted
    fleet(tmp_path / "others", seed=1)
    _, text, _ = command(capsys, "forecast", "apply", out, tmp_path / "others", "--json")
    found = json.loads(text)["measured"]
    assert found["n"] >= 10 and found["rmse"] < 0.02 and found["spearman"] > 0.9 and found["held"] >= found["n"] - 3


def test_another_method_than_the_fits(fitted, tmp_path, capsys):
    out, _ = fitted
    run = fabricated.run(tmp_path / "other", auc=0.75, loss=-0.88, method="simclr")
    code, text, _ = command(capsys, "forecast", "apply", out, run)
    assert code == 0 and "fitted on byol, simsiam, not on simclr" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "other"}, "images differ"),
        ({"d": 128}, "dimension of the features differ"),
        ({"split": "validation"}, "evaluation split differ"),
    ],
)
def test_runs_that_do_not_compare_are_named(tmp_path, capsys, change, message):
    fleet(tmp_path / "runs")
    fabricated.run(tmp_path / "runs" / "odd", **change)
    out = tmp_path / "f.json"
    code, _, err = command(capsys, "forecast", "fit", tmp_path / "runs", "--out", out)
    assert code == 2 and message in err and "odd" in err and "run-00" not in err and not out.exists()
    code, text, _ = command(
        capsys, "forecast", "fit", tmp_path / "runs", "--out", out, "--allow-mixed", *change, "--group", "method"
    )
    assert code == 0 and message in text  # let pass, and said


def test_a_relative_auc_compares_across_dimensions(tmp_path, capsys):
    """The same relative collapse at d = 64 and 128: AUC = least + share (1 - least)."""
    for i, share in enumerate(np.linspace(0.1, 0.9, 12)):
        d = (64, 128)[i % 2]
        least = (d + 1) / (2 * d)
        fabricated.run(tmp_path / "runs" / f"{i}", auc=least + share * (1 - least), linear=0.9 - 0.5 * share, d=d)
    words = ("forecast", "fit", tmp_path / "runs", "--out", tmp_path / "f.json", "--features")
    code, _, _ = command(capsys, *words, "auc_relative")
    state = json.loads((tmp_path / "f.json").read_text())["forecast"]["state"]
    assert code == 0 and state["coef"] == pytest.approx([-0.5], abs=1e-9)
    code, _, err = command(capsys, *words, "auc")
    assert code == 2 and "auc_relative at any" in err


def test_losses_are_compared_within_their_method(tmp_path, capsys):
    for i in range(12):
        method, offset = (("simsiam", -1.0), ("simclr", 5.0))[i % 2]
        fabricated.run(
            tmp_path / "runs" / f"{i:02d}", loss=offset + 0.01 * i, linear=0.7 - 0.01 * (i // 2), method=method
        )
    out = tmp_path / "f.json"
    assert command(capsys, "forecast", "fit", tmp_path / "runs", "--out", out, "--features", "loss_in_method")[0] == 0
    value = json.loads(out.read_text())
    assert value["forecast"]["quality"]["r2"] == pytest.approx(1, abs=1e-9)
    mean, deviation = value["context"]["losses"]["simclr"]
    run = fabricated.run(tmp_path / "new", loss=mean + deviation, method="simclr")
    _, text, _ = command(capsys, "forecast", "apply", out, run, "--json")  # by the fit's mean, not that of one run
    expected = json.loads(text)["runs"][0]["expected"]
    state = value["forecast"]["state"]
    assert expected == pytest.approx(state["intercept"] + state["coef"][0])
    stranger = fabricated.run(tmp_path / "stranger", loss=5.0, method="byol")
    _, text, _ = command(capsys, "forecast", "apply", out, stranger)
    assert "refused: loss_in_method is missing" in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no run directory, folder of runs or table"),
        (lambda folder: folder.mkdir(), "holds no run"),
        (lambda folder: fabricated.run(folder, finished=False), "is not finished"),
        (lambda folder: fabricated.run(folder / "a", finished=False), "none of the 1 runs in"),
        (lambda folder: fabricated.run(folder), "1 runs are too few for 2 features"),
        (lambda folder: [fabricated.run(folder / str(i), labels=False) for i in range(6)], "have no labels at all"),
        (lambda folder: [fabricated.run(folder / str(i), linear=None) for i in range(6)], "their accuracies are knn"),
        (lambda folder: [fabricated.run(folder / str(i), auc=None) for i in range(6)], "6 of 6 runs have no auc_sigma"),
        (lambda folder: [fabricated.run(folder / str(i)) for i in range(6)], "is the same in all 6 runs"),
        (lambda folder: folder.write_text("a,b\n1,2\n"), "no column with a score"),
        (lambda folder: folder.write_text("auc_sigma,linear\n.5,x\nhigh,.5\n"), "line 2: auc_sigma must be a number"),
        (lambda folder: folder.write_text("auc_sigma\n"), "holds no run"),
        (lambda folder: folder.write_bytes(b"\x89PNG\xff\xfe"), "cannot read"),
    ],
)  # fmt: skip
def test_bad_runs(tmp_path, capsys, make, message):
    make(tmp_path / "in")
    code, _, err = command(capsys, "forecast", "fit", tmp_path / "in", "--out", tmp_path / "f.json")
    assert code == 2 and message in err and not (tmp_path / "f.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--features", "auc,colour"), "'colour' is no score"),
        (("--features", ","), "is no score"),
        (("--group", "colour"), "no field 'colour'"),
        (("--allow-mixed", "method"), "takes data, split, d"),
        (("--alpha", "-1"), "alpha must be at least 0"),
        (("--confidence", "2"), "confidence"),
        (("--target", "top5"), "no top5 accuracy"),
    ],
)
def test_bad_options(tmp_path, capsys, words, message):
    fleet(tmp_path / "runs")
    code, _, err = command(capsys, "forecast", "fit", tmp_path / "runs", "--out", tmp_path / "f.json", *words)
    assert code == 2 and message in err


def test_bad_files(fitted, tmp_path, capsys):
    out, _ = fitted
    run = out.parent / "runs" / "run-00"
    for name, text, message in (
        ("missing.json", None, "cannot read the forecast"),
        ("other.json", "{}", "is not a forecast"),
        ("torn.json", out.read_text()[:500], "cannot read the forecast"),
        ("spoilt.json", out.read_text().replace('"coef"', '"cof"'), "spoilt forecast"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        code, _, err = command(capsys, "forecast", "apply", tmp_path / name, run)
        assert code == 2 and message in err
    assert command(capsys, "forecast", "apply", out)[0] == 2  # no runs
    code, _, err = command(capsys, "forecast", "fit", run.parent, "--out", tmp_path)
    assert code == 2 and "is a folder" in err


def test_runs_that_are_not_finished_are_left_out_of_a_folder(tmp_path, capsys):
    fleet(tmp_path / "runs")
    fabricated.run(tmp_path / "runs" / "unfinished", finished=False)
    code, text, _ = command(capsys, "forecast", "fit", tmp_path / "runs", "--out", tmp_path / "f.json")
    assert code == 0 and "left out, since not finished:" in text and "16 runs" in text
    assert "no better than their untrained" not in text  # all have more than the .6 of the untrained encoder


def test_runs_that_learnt_nothing_are_counted(tmp_path, capsys):
    for i in range(8):
        fabricated.run(tmp_path / "runs" / f"{i}", auc=0.6 + 0.02 * i, linear=0.55 + 0.01 * i + 0.001 * (i % 3))
    code, text, _ = command(
        capsys, "forecast", "fit", tmp_path / "runs", "--out", tmp_path / "f.json", "--features", "auc"
    )
    assert code == 0 and "5 of 8 runs are no better than their untrained encoders" in text


def test_torch_is_not_imported(tmp_path):
    fleet(tmp_path / "runs")
    code = (
        "import sys\nfrom siamscope.cli import run\n"
        f"assert run(['forecast', 'fit', {str(tmp_path / 'runs')!r}, '--out', {str(tmp_path / 'f.json')!r}]) == 0\n"
        f"assert run(['select', {str(tmp_path / 'runs')!r}]) == 0\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def rows(path, header, count=12):
    """A table of runs whose accuracy follows AUC and loss; `header`: columns beside them and what they hold by row."""
    rng = np.random.default_rng(3)
    lines = [",".join(["auc_sigma", "loss", "linear", *header])]
    for i in range(count):
        auc, loss = rng.uniform(0.6, 0.9), rng.uniform(-0.95, -0.8)
        lines.append(",".join(map(str, [auc, loss, 1.3 - 0.8 * auc - 0.1 * loss, *(of(i) for of in header.values())])))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("header", "groups"),
    [
        ({"width": lambda i: (0.5, 1)[i % 2]}, ["0.5", "1"]),
        ({"backbone": lambda i: "ab"[i % 2], "width": lambda i: 2}, ["a x 2", "b x 2"]),
        ({"network.backbone": lambda i: "ab"[i % 2]}, ["a", "b"]),
        ({"architecture": lambda i: "ab"[i % 2], "width": lambda i: i}, ["a", "b"]),
        ({}, []),
    ],
)
def test_a_table_is_grouped_by_what_it_knows_of_the_architecture(tmp_path, capsys, header, groups):
    table = rows(tmp_path / "runs.csv", header)
    code, text, _ = command(capsys, "forecast", "fit", table, "--out", tmp_path / "f.json", "--json")
    found = json.loads(text)
    assert code == 0 and [group["group"] for group in found["groups"]] == groups
    assert any("no backbone and no width" in note for note in found["notes"]) == (not groups)
    assert any("images of 12 runs are unknown" in note for note in found["notes"])


def test_every_line_of_a_table_counts_whatever_its_name(fitted, tmp_path, capsys):
    table = rows(tmp_path / "runs.csv", {"run": lambda i: "same"})
    other = rows(tmp_path / "more.csv", {"run": lambda i: "same"}, 3)
    words = ("--out", tmp_path / "f.json", "--json")
    _, text, _ = command(capsys, "forecast", "fit", table, table, other, *words)  # the first one counts once
    assert json.loads(text)["context"]["runs"] == 15
    names = [row["run"] for row in json.loads((tmp_path / "f.json").read_text())["runs"]]
    assert len(set(names)) == 15 and names[:2] == ["same", "same (2)"]
    runs = fitted[0].parent / "runs"
    _, text, _ = command(capsys, "forecast", "fit", runs, runs / "run-00", runs / ".." / "runs", *words)
    assert json.loads(text)["context"]["runs"] == 16
    twice = rows(tmp_path / "twice.csv", {"run": lambda i: runs / "run-00"}, 1)
    code, _, err = command(capsys, "forecast", "fit", runs, twice, "--out", tmp_path / "f.json")
    assert code == 2 and "named in a table too" in err


@pytest.mark.parametrize("name", ["linear", "knn", "validation"])
def test_percent_are_refused(tmp_path, capsys, name):
    (tmp_path / "runs.csv").write_text(f"auc_sigma,loss,{name}\n.7,1,52.64\n")
    code, _, err = command(capsys, "forecast", "fit", tmp_path / "runs.csv", "--out", tmp_path / "f.json")
    assert code == 2 and f"{name} must be a fraction from 0 to 1, not 52.64" in err


@pytest.mark.parametrize("spoil", [lambda found: found.pop("knn"), lambda found: found["probe"].update(trained=[1])])
def test_a_damaged_judgement_is_named(tmp_path, capsys, spoil):
    run = fabricated.run(tmp_path / "run")
    found = json.loads((run / "evaluation.json").read_text())
    spoil(found)
    (run / "evaluation.json").write_text(json.dumps(found))
    code, _, err = command(capsys, "forecast", "fit", run, "--out", tmp_path / "f.json")
    assert code == 2 and "cannot be read" in err and f"'siamscope resume {run}'" in err


def test_what_is_not_compared_is_said(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    table.write_text("auc_sigma,linear\n" + "\n".join(f"{0.6 + 0.02 * i},{0.7 - 0.03 * i}" for i in range(8)))
    words = ("forecast", "fit", table, "--out", tmp_path / "f.json", "--features", "auc")
    code, text, _ = command(capsys, *words)
    assert code == 0 and "not compared with loss, " in text
