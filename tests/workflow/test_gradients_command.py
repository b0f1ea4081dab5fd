"""`siamscope gradients` as a command: a run from end to end, its files, and what is refused."""

import csv
import dataclasses
import json

import pytest
import torch
from torch import nn

from siamscope import cli, methods
from siamscope import recipe as recipes
from siamscope.methods import Head
from siamscope.objectives import tangent
from siamscope.report import ReportError
from siamscope.report.gradients import write
from siamscope.report.gradients_figure import chosen, two_digits
from siamscope.rundir import RunDir
from siamscope.training import checkpoint
from siamscope.training.build import build_model
from siamscope.training.progress import Silent
from siamscope.workflow.gradients_embed import Images
from siamscope.workflow.gradients_rows import gradient_of, ready
from siamscope.workflow.train import train


def siamscope(*args):
    try:
        return cli.run([str(a) for a in args])
    except SystemExit as stop:
        return int(stop.code or 0)


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of six steps with checkpoints after three and six."""
    torch.set_num_threads(1)
    row = dataclasses.replace(
        methods.get("byol"), projector=Head(layers=2, hidden=32, out=16), predictor_head=Head(layers=2, hidden=8)
    )
    base = recipes.Recipe(method=row)
    sections = {
        "data": {"size": 16, "samples": 96, "val_samples": 16, "test_samples": 16},
        "network": {"width": 0.25},
        "train": {
            "steps": 6, "batch_size": 32, "precision": "fp32", "channels_last": "off", "device": "cpu",
            "checkpoint_steps": 3, "checkpoint_minutes": 100.0,
        },
        "monitor": {"interval": 6, "samples": 16, "bank": 16},
        "evaluation": {"bank": 16, "queries": 16, "ks": (1,), "probe": False},
    }  # fmt: skip
    changed = {k: dataclasses.replace(getattr(base, k), **v) for k, v in sections.items()}
    out = tmp_path_factory.mktemp("runs") / "run"
    train(dataclasses.replace(base, **changed), out)
    return out


@pytest.fixture(scope="module")
def laid(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("laid") / "gradients"
    chosen_methods = "simclr,mocov2,byol,directpred,wmse,tico,dino"
    assert siamscope("gradients", run, "--methods", chosen_methods, "--pairs", 20, "--out", out, "--quiet") == 0
    return out


def test_a_run_is_followed_from_its_first_weights(laid, run):
    names = {path.name for path in laid.iterdir()}
    assert names == {"gradients.csv", "cosines.csv", "gradients.json", "gradients.png", "gradients.html"}
    lines = read(laid / "gradients.csv")
    moments = {(int(line["step"]), line["label"]) for line in lines}
    assert moments == {(0, "initialisation"), (3, "step-00000003.pt"), (6, "step-00000006.pt")}
    assert {line["method"] for line in lines} == {
        "simclr", "mocov2", "byol", "directpred", "wmse", "unigrad", "tico", "dino",
    }  # fmt: skip
    own = {line["method"] for line in lines if line["own"] == "1"}
    assert own == {"byol"}
    assert next(line["remark"] for line in lines if line["method"] == "byol").endswith("the run's own")
    facts = json.loads((laid / "gradients.json").read_text())
    assert facts["source"]["kind"] == "run"
    assert facts["rows"]["byol"]["predictor_head"]["hidden"] == 8
    for line in lines:
        if not line["problem"]:
            assert float(line["ratio"]) == pytest.approx(float(line["push"]) / float(line["pull"]), rel=1e-6)
    # other samples, as many as there are: 96 - 20 images, two views
    assert "bank of 152 keys" in next(line["remark"] for line in lines if line["method"] == "mocov2")


def test_the_matrix_of_cosines(laid):
    lines = read(laid / "cosines.csv")
    by = {(line["step"], line["method"], line["other"]): line for line in lines}
    assert len(by) == len(lines) == 3 * 8 * 8
    for (step, a, b), line in by.items():
        for key in ("total", "push"):
            value = float(line[key])
            assert value == pytest.approx(float(by[step, b, a][key]), abs=1e-12)
            assert abs(value) <= 1
            assert a != b or value == 1
    assert all(float(by[step, "tico", "unigrad"]["push"]) > 1 - 1e-9 for step in ("0", "3", "6"))  # the same phi
    assert float(by["6", "simclr", "unigrad"]["push"]) < 0.9999
    listed = {(line["step"], line["method"]): line["cosine"] for line in read(laid / "gradients.csv")}
    assert float(listed["3", "simclr"]) == float(by["3", "simclr", "unigrad"]["total"])


def test_the_first_moment_is_the_untrained_encoder(laid, run, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((run / "recipe.toml").read_text())
    code = siamscope(
        "gradients", "shapes", "--recipe", recipe, "--methods", "simclr,directpred", "--pairs", 20, "--out",
        tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert code == 0
    here = {line["method"]: line for line in read(tmp_path / "out" / "gradients.csv")}
    there = {line["method"]: line for line in read(laid / "gradients.csv") if line["step"] == "0"}
    for name in ("simclr", "directpred"):
        for key in ("positive_mean", "effective_rank", "length"):
            assert here[name][key] == there[name][key]
    # the compared images and views are the same, so is a gradient that has no momentum target
    assert here["simclr"]["pull"] == there["simclr"]["pull"]


def at_step_six(run):
    """The run's recipe and network."""
    there = RunDir(run)
    recipe = there.recipe()
    model = build_model(recipe, 3)
    model.load_state_dict(checkpoint.load(there.checkpoints / "step-00000006.pt", recipe).model)
    return recipe, model


def test_the_runs_own_row_uses_its_predictor(laid, run):
    """A new predictor gives another gradient than the trained one."""
    recipe, model = at_step_six(run)
    given = Images.of(recipe, 20, 1, Silent()).embedded(model)
    line = next(x for x in read(laid / "gradients.csv") if (x["step"], x["method"]) == ("6", "byol"))
    u = given.pairs.online[0]
    trained, new = (
        float(tangent(gradient_of(ready(recipe.method, given, 0, own), given.pairs).terms.pull, u).norm())
        for own in (model, None)
    )
    assert float(line["pull"]) == pytest.approx(trained, rel=1e-6)
    assert abs(new / trained - 1) > 1e-3


def test_as_trained_it_is_the_gradient_of_the_run(run, tmp_path):
    """With the momentum network's targets: BYOL's loss by hand."""
    code = siamscope(
        "gradients", run, "--methods", "byol", "--pairs", 20, "--as-trained", "--out", tmp_path / "out", "--quiet"
    )
    assert code == 0
    line = next(x for x in read(tmp_path / "out" / "gradients.csv") if (x["step"], x["method"]) == ("6", "byol"))
    recipe, model = at_step_six(run)
    pair = Images.of(recipe, 20, 1, Silent()).embedded(model, momentum=True).pairs
    model.double()
    z = pair.online[0].requires_grad_()
    cosine = nn.functional.cosine_similarity
    loss = (
        4 - 2 * cosine(model.predictor(z), pair.target[1]) - 2 * cosine(model.predictor(pair.online[1]), pair.target[0])
    )
    loss.mean().div(2).backward()
    assert float(line["total"]) == pytest.approx(float(tangent(z.grad, z.detach()).norm()), rel=1e-8)
    detached = (4 - 2 * cosine(model.predictor(z), pair.online[1].detach())).mean() / 2
    (other,) = torch.autograd.grad(detached, z)
    assert abs(float(tangent(other, z.detach()).norm()) / float(line["total"]) - 1) > 1e-3


def test_figure_and_page_need_the_csv_files_only(laid, tmp_path):
    copied = tmp_path / "copy"
    copied.mkdir()
    for name in ("gradients.csv", "cosines.csv"):
        (copied / name).write_bytes((laid / name).read_bytes())
    page = write(copied)
    assert (copied / "gradients.png").read_bytes() == (laid / "gradients.png").read_bytes()
    text = page.read_text()
    assert "Who points where" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    (copied / "cosines.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ReportError, match="lacks the columns"):
        write(copied)
    (copied / "gradients.csv").unlink()
    with pytest.raises(ReportError, match="cannot be read"):
        write(copied)


def test_a_row_that_does_not_fit_is_a_line(tmp_path, capsys):
    out = tmp_path / "out"
    args = ["--methods", "wmse,simclr,vicreg", "--pairs", "8", "--method.projector.out", "12", "--normalise", "l2"]
    assert siamscope("gradients", "random", *args, "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    problems = {line["method"]: line["problem"] for line in found["lines"]}
    assert "normalise 'l2': the objective whitens" in problems["wmse"]
    assert not problems["vicreg"]
    assert found["rows"]["vicreg"]["normalise"] == "l2"
    assert siamscope("gradients", "random", *args[:-2], "--out", out) == 0
    assert "wmse: no gradient: whitening 8 samples together in 12 dimensions" in capsys.readouterr().out
    assert "whitening 8 samples" in (out / "gradients.html").read_text()


def test_what_is_refused(run, tmp_path, capsys):
    def refused(*args):
        assert siamscope("gradients", *args, "--out", tmp_path / "no") == 2
        assert not (tmp_path / "no").exists()
        return capsys.readouterr().err

    assert "did you mean 'unigrad'" in refused("random", "--methods", "unigard")
    assert "did you mean 'simclr'" in refused("random", "--reference", "simcrl")
    assert "must name one method" in refused("random", "--reference", "direct*")
    assert "--pairs must be at least 2" in refused("random", "--pairs", "1")
    assert "its own network" in refused(run, "--width", "2")
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    assert "no recipe.toml" in refused(empty)
    (empty / "recipe.toml").write_text((run / "recipe.toml").read_text())
    assert "no checkpoint yet" in refused(empty)
    (empty / "checkpoints" / "step-00000001.pt").write_bytes(b"none")
    assert "truncated or damaged" in refused(empty)
    assert siamscope("gradients", "random", "--out", run) == 2
    assert "is a run; give another --out" in capsys.readouterr().err


def test_numbers_in_the_figure():
    texts = [two_digits(x) for x in (1.0, -1.0, 0.0, -0.001, 0.874, -0.3, float("nan"))]
    assert texts == ["1", "−1", "0", "0", ".87", "−.30", ""]
    assert chosen(tuple(range(100)), 4) == [0, 33, 66, 99]
    assert chosen((1, 5)) == [1, 5]
