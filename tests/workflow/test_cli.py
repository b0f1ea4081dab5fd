"""The commands as a user gives them, in one process where that is possible."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamscope import cli, networks
from siamscope import recipe as recipes

SMALL = [
    "--size", "16", "--samples", "96", "--data.val-samples", "32", "--data.test-samples", "32", "--width", "0.5",
    "--method.projector.hidden", "32", "--method.projector.out", "16", "--method.predictor-head.hidden", "8",
    "--batch-size", "32", "--steps", "3", "--precision", "fp32", "--train.channels-last", "off", "--device", "cpu",
    "--monitor.samples", "32", "--monitor.bank", "32", "--evaluation.no-probe",
]  # fmt: skip


def siamscope(*args: str) -> int:
    try:
        return cli.run(list(args))
    except SystemExit as stop:  # the parser's own errors
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of JPEGs in train/ and test/, one file that is no image, one name that is not text."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 12)):
        for label, name in enumerate(("dark", "<b>light</b>")):
            folder = root / split / name.replace("/", "_")
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (24, 20, 3)) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg")
    (root / "train" / "dark" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run on the folder."""
    out = tmp_path_factory.mktemp("runs") / "run"
    data = [*SMALL[:2], "--data.val-samples", "20", *SMALL[8:]]
    assert siamscope("train", str(photos), "--out", str(out), *data, "--evaluation.probe", "--quiet") == 0
    return out


def test_train_makes_the_run_directory(run, photos):
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "recipe.toml", "metrics.jsonl", "checkpoints", "encoder.safetensors", "encoder.json", "report.html",
        "environment.json", "evaluation.json", "gallery.npz", "rejected.jsonl",
    }  # fmt: skip
    rejected = [json.loads(line) for line in (run / "rejected.jsonl").read_text().splitlines()]
    assert [item["path"].endswith("broken.jpg") for item in rejected] == [True]
    recipe = recipes.load(run / "recipe.toml")
    assert recipe.data.source == str(photos)
    assert (recipe.train.precision, recipe.train.steps) == ("fp32", 3)
    figures = json.loads((run / "evaluation.json").read_text())
    assert figures["split"] == "test"
    assert figures["n_queries"] == 24
    assert figures["n_bank"] == 60
    assert figures["knn"]["untrained"]["1"] > 0.9  # dark and light: any encoder tells
    assert figures["knn"]["raw_pixels"]["1"] < 0.8  # but not pixels without their image's mean
    page = (run / "report.html").read_text()
    assert "<b>light" not in page
    assert "&lt;b&gt;light" in page


def test_the_encoder_loads_and_is_the_trained_one(run):
    import torch

    backbone, meta = networks.load_encoder(run)
    from siamscope.rundir import RunDir
    from siamscope.training import checkpoint

    saved = checkpoint.load(checkpoint.numbered(RunDir(run))[-1], RunDir(run).recipe()).model
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, saved[f"online.backbone.{name}"])
    assert meta["input_size"] == 16
    assert len(meta["normalisation"]["mean"]) == 3


def test_evaluate_says_what_training_said(run, capsys):
    assert siamscope("evaluate", str(run), "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    judged = json.loads((run / "evaluation.json").read_text())
    assert figures["knn"] == judged["knn"]
    assert figures["probe"]["trained"]["top1"] == pytest.approx(judged["probe"]["trained"]["top1"], abs=0.05)


def test_evaluate_on_other_data(run, capsys):
    assert siamscope("evaluate", str(run / "encoder.safetensors"), "--data", "shapes", *SMALL[:8], "--json") == 0
    assert json.loads(capsys.readouterr().out)["data"] == "shapes"
    assert siamscope("evaluate", str(run / "encoder.json")) == 2
    assert "--data is needed" in capsys.readouterr().err


def test_embed(run, photos, tmp_path, capsys):
    out = tmp_path / "features.npz"
    assert siamscope("embed", str(run), str(photos), "--out", str(out), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    with np.load(out) as saved:
        assert saved["features"].shape == (104, facts["d"]) == (104, 32)
        assert len(set(saved["names"])) == len(saved["names"]) == 104
        assert sorted(set(saved["labels"])) == [0, 1]
        for name, label in zip(saved["names"], saved["labels"], strict=True):
            assert saved["class_names"][label] in name


def test_the_runs_own_settings_are_the_defaults(run, photos, tmp_path, capsys):
    """Images are prepared as in training (16 pixels), from a run as from an encoder file; single options change one."""
    for encoder in (run, run / "encoder.safetensors"):
        assert siamscope("embed", str(encoder), str(photos), "--out", str(tmp_path / "f.npz")) == 0
        with np.load(tmp_path / "f.npz") as saved:
            features = saved["features"][np.argsort(saved["names"])]
        if encoder == run:
            first = features
    np.testing.assert_array_equal(first, features)
    capsys.readouterr()
    assert siamscope("evaluate", str(run), "--evaluation.queries", "10", "--evaluation.no-probe", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["n_queries"] == 10
    assert figures["data"] == photos.name


def test_report_of_several_runs(run, tmp_path, capsys):
    page = tmp_path / "both.html"
    assert siamscope("report", str(run), str(run), "--out", str(page)) == 0
    assert page.stat().st_size > 10_000
    assert siamscope("report", str(tmp_path)) == 2
    assert "recipe.toml" in capsys.readouterr().err


def test_methods_and_data(tmp_path, capsys):
    assert siamscope("methods", "sim*", "--json") == 0
    assert [row["method"] for row in json.loads(capsys.readouterr().out)] == ["simclr", "simsiam"]
    picture = tmp_path / "data.png"
    assert siamscope("data", "shapes", *SMALL[:8], "--show", "--out", str(picture), "--json") == 0
    assert json.loads(capsys.readouterr().out)["train"] == 96
    with Image.open(picture) as image:
        assert min(image.size) > 300


def test_unlabelled_arrays_of_five_channels(tmp_path, capsys):
    rng = np.random.default_rng(1)
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (120, 5, 16, 16), dtype=np.uint8))
    arguments = [*SMALL[:2], *SMALL[8:], "--data.val-samples", "20", "--out", str(tmp_path / "run"), "--json"]
    assert siamscope("train", str(tmp_path / "x.npy"), *arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["labels"] is False
    assert "knn" not in figures
    assert siamscope("evaluate", str(tmp_path / "run")) == 2
    assert "no labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], ["unknown command", "did you mean 'train'"]),
        (["train", "shpes"], ["did you mean 'shapes'"]),
        (["train", "shapes", "--method", "simsaim"], ["did you mean 'simsiam'"]),
        (["train", "shapes", "--backbone", "resnet9"], ["did you mean 'resnet8'"]),
        (["train", "shapes", "--policy", "simclear"], ["did you mean 'simclr'"]),
        (["train", "shapes", "--samples", "40"], ["batch of 64", "40 training images"]),
        (["train", "shapes", "--lr", "-1"], ["optim.lr"]),
        (["train", "shapes", "--normalise", "none", "--method", "simsiam"], ["unbounded"]),
        (["train", "shapes", "--device", "cuda:99"], ["cuda:99", "no GPU", "'cpu'"]),
        (["train", "shapes", "--device", "gpu"], ["auto, cpu, cuda"]),
        (["methods", "foo*"], ["no method matches"]),
        (["resume", "nowhere"], ["no run directory"]),
        (["embed", "nowhere", "shapes"], ["nowhere"]),
    ],
)
def test_bad_input_leaves_nothing_behind(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "cuda:99" in args:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert siamscope(*args) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_overwritten_by_accident(run, capsys, tmp_path):
    before = (run / "encoder.safetensors").read_bytes()
    assert siamscope("train", "shapes", "--out", str(run), *SMALL) == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error
    assert "siamscope resume" in error
    assert (run / "encoder.safetensors").read_bytes() == before
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "thesis.tex").write_text("dear")
    assert siamscope("train", "shapes", "--out", str(copy), "--overwrite", *SMALL) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert (copy / "encoder.safetensors").read_bytes() == before
    shutil.rmtree(copy)
    (tmp_path / "recipe.toml").write_text("")
    (tmp_path / "letter.txt").write_text("dear")
    assert siamscope("train", "shapes", "--out", str(tmp_path), "--overwrite", *SMALL) == 2
    assert "files that are not a run's" in capsys.readouterr().err
    assert (tmp_path / "letter.txt").read_text() == "dear"
    assert siamscope("train", "shapes", "--out", str(tmp_path / "letter.txt"), *SMALL) == 2


def test_overwrite_and_changed_cells(tmp_path, capsys):
    out = tmp_path / "run"
    for cells in (["--target", "momentum"], ["--target", "shared", "--predictor", "none", "--overwrite"]):
        assert siamscope("train", "shapes", "--method", "simsiam", "--out", str(out), *SMALL, *cells, "--quiet") == 0
    row = recipes.load(out / "recipe.toml").method
    assert (row.name, row.target, row.predictor) == ("simsiam", "shared", "none")


@pytest.mark.parametrize(("count", "code"), [(1, 2), (3, 2), (4, 0), (12, 0)])
def test_small_folders(tmp_path, capsys, count, code):
    """Too few images are refused before a run directory exists; a handful trains."""
    (tmp_path / "few").mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "few" / f"{i}.png")
    arguments = [*SMALL[:2], *SMALL[8:], "--batch-size", "2", "--out", str(tmp_path / "run"), "--quiet"]
    assert siamscope("train", str(tmp_path / "few"), *arguments) == code
    assert (tmp_path / "run").exists() == (code == 0)
    if code:
        assert "at least 2" in capsys.readouterr().err


def test_names_that_are_not_utf8(tmp_path):
    """A folder and files whose names are Latin-1 bytes: the run is written and can be resumed."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(folder / os.fsdecode(b"\xe9%d.png" % i))
    run = str(tmp_path / "run")
    arguments = [*SMALL[:2], *SMALL[8:], "--batch-size", "2", "--out", run, "--quiet"]
    assert siamscope("train", str(folder), *arguments) == 0
    assert siamscope("resume", run, "--quiet") == 0


def test_a_reader_that_stops_reading_is_no_error():
    """`true` is gone long before the table is printed."""
    command = f"{sys.executable} -m siamscope methods | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_complete_and_quick():
    """The overview lists every command and every exit code; a command's help shows defaults."""
    done = subprocess.run([sys.executable, "-m", "siamscope", "--help"], capture_output=True, text=True, check=True)
    for word in [*cli.COMMANDS, "130", "143"]:
        assert word in done.stdout
    environment = os.environ | {"COLUMNS": "200"}
    command = [sys.executable, "-m", "siamscope", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    names = "--out --method --backbone --epochs --batch-size --seed --device --workers --train.epochs --json --recipe"
    for name in names.split():
        assert name in done.stdout
    assert "(default: 256)" in done.stdout
