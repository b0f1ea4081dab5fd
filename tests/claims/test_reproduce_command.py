"""`siamscope reproduce`: listing, dry run, bad input, and presets trained on small data: kept, and not repeated."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from siamscope import cli
from siamscope.claims import ClaimError, command, directpred, judge, runs
from siamscope.claims.base import Order, Preset
from siamscope.claims.command import Options
from siamscope.training.progress import Silent


def reproduce(*args):
    return cli.run(["reproduce", "directpred", *args])


def test_it_lists_every_claim(capsys):
    assert reproduce("--list") == 0
    text = capsys.readouterr().out
    assert all(claim.id in text for claim in directpred.claims())
    assert reproduce() == 0  # without --only nothing is trained
    assert capsys.readouterr().out == text


def test_dry_run_resolves_every_recipe(capsys):
    assert reproduce("--dry-run", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    presets = {claim.id for claim in directpred.claims() if isinstance(claim.experiment, Preset)}
    assert {row["id"] for row in rows if len(row.get("sha256", "")) == 64} == presets
    assert all(row["not_offered"] for row in rows if row["id"].startswith("T9"))


def test_torch_is_not_imported():
    code = (
        "import sys\nfrom siamscope.cli import run\nfor option in ('--list', '--dry-run'):\n"
        "    run(['reproduce', 'directpred', option])\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--only", "T66*"], "matches no claim"),
        (["--only", "A21.size,B*"], "'B*' matches no claim"),
        (["--only", "T6.rho3.eps1"], "trains on stl10"),
        (["--only", "O6.eps"], "give --data FOLDER"),
        (["--only", "T8*", "--data", "."], "one data set at a time"),
        (["--only", "A21*", "--data", "."], "leave it out"),
        (["--only", "A21*", "--pretrain", "."], "goes with --data"),
        (["--only", "A21*", "--seeds", "0"], "at least 1"),
        (["--only", "A21*", "--epochs", "-1"], "above 0"),
        (["--only", "T6*", "--data", "no/such/folder"], "no folder or file"),
    ],
)
def test_bad_input(args, says, capsys):
    assert reproduce(*args) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_unknown_paper(capsys):
    assert cli.run(["reproduce", "directpredd"]) == 2
    assert "unknown paper 'directpredd' (known: directpred, collapse)" in capsys.readouterr().err


def test_seconds_run_without_data_and_tables_are_said_to_need_it(capsys, tmp_path):
    assert reproduce("--only", "A21.decay,T6.rho3.eps1,T9.ep60*", "--seeds", "2", "--out", str(tmp_path)) == 0
    text = capsys.readouterr().out
    assert "needs --data with stl10" in text and "1 holds" in text and "not offered" in text
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [line["outcome"] for line in kept["claims"][:2]] == ["holds", "not run"]
    assert len(kept["claims"][0]["values"]) == 2 and kept["machine"]["date"]


def test_a_claim_that_does_not_hold_is_exit_code_1(monkeypatch):
    from siamscope.claims import linear

    monkeypatch.setitem(linear.EXPERIMENTS, "linear.decay", lambda seeds: {"size": (0.0, 0.5)})
    assert command.run(Options("directpred", only="A21.decay", seeds=2)).code == 1


def test_a_direction_brings_its_parts():
    known = directpred.claims()
    order = next(claim for claim in known if claim.id == "O6.eps")
    chosen = command._with_parts([order], known)
    assert [claim.id for claim in chosen] == ["T6.rho3.eps1", "T6.rho3.eps5", "O6.eps"]
    assert isinstance(chosen[-1].experiment, Order)


# -- presets on data ---------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    """An npz file of 96 + 40 labelled images of 16 pixels; class 1 is brighter."""
    rng = np.random.default_rng(0)

    def draw(n):
        y = np.arange(n) % 2
        return np.clip(rng.normal(90 + 80 * y[:, None, None, None], 30, (n, 16, 16, 3)), 0, 255).astype(np.uint8), y

    (x, y), (x_test, y_test) = draw(96), draw(40)
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    np.savez(tmp_path / "unlabelled.npz", x_train=x, x_test=x_test)
    np.savez(tmp_path / "no-test.npz", x_train=x, y_train=y)
    return tmp_path


@pytest.fixture
def preset(small):
    recipe = small("directpred", evaluation={"probe": True}, data={"samples": 0, "val_samples": 16, "test_samples": 0})
    return Preset("stl10", recipe, images=80)


def plan(images, **options):
    return runs.Plan(runs.Data(images / "images.npz"), images / "out", **({"seeds": (0, 1)} | options))


def test_runs_are_measured_kept_and_not_repeated(images, preset, monkeypatch):
    """Two seeds; then the second as if it had been stopped before it was judged: it goes on, and nothing is trained."""
    found = runs.measure(plan(images), preset, Silent(), lambda text: None)
    assert len(found.values) == 2 and not found.reasons and found.signal is None
    assert all(50 < value <= 100 for value in found.values)
    folder = plan(images).folder(preset)
    kept = json.loads((folder / "seed-1" / "evaluation.json").read_text())
    assert kept["split"] == "test" and found.values[1] == 100 * kept["probe"]["trained"]["top1"]
    assert "seed = 1" in (folder / "seed-1" / "recipe.toml").read_text()

    monkeypatch.setattr("siamscope.workflow.train.train", lambda *a, **k: pytest.fail("trained again"))
    (folder / "seed-1" / "evaluation.json").unlink()
    assert runs.measure(plan(images), preset, Silent(), lambda text: None) == found


def test_other_images_to_train_on_short_runs_and_few_images(images, preset):
    """Trained on images without labels, judged on those with; neither length nor number is the paper's."""
    short = plan(images, seeds=(0,), steps=2)
    apart = dataclasses.replace(short, data=runs.Data(images / "images.npz", images / "unlabelled.npz"))
    assert len({one.folder(preset) for one in (short, apart, plan(images))}) == 3
    found = runs.measure(apart, dataclasses.replace(preset, images=100_000), Silent(), lambda text: None)
    assert found.reasons == ("shortened to 2 steps", "trained on 80 images; the paper's runs on 100,000")
    assert len(found.values) == 1 and (apart.folder(preset) / "seed-0-probe.json").is_file()


@pytest.mark.parametrize(("name", "says"), [("unlabelled", "no labels"), ("no-test", "no labelled test split")])
def test_data_that_give_no_honest_figure_are_refused(images, preset, name, says):
    unfit = dataclasses.replace(plan(images), data=runs.Data(images / f"{name}.npz"))
    with pytest.raises(ClaimError, match=says):
        runs.check(unfit, preset)


def test_a_run_that_diverges_is_no_number_and_does_not_hold(images, preset):
    wild = dataclasses.replace(preset.recipe.optim, lr=1e30, clip_norm=0.0, warmup_epochs=0.0)
    preset = dataclasses.replace(preset, recipe=dataclasses.replace(preset.recipe, optim=wild))
    found = runs.measure(plan(images, seeds=(0,)), preset, Silent(), lambda text: None)
    claim = next(claim for claim in directpred.claims() if claim.id == "T6.rho3.eps1")
    assert str(found.values) == "(nan,)" and found.reasons[0].startswith("seed 0: the loss is")
    assert judge(claim, found.values).outcome == "does not hold"
