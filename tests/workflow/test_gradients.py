"""`siamscope gradients`: each row's gradient against a training step's, the escape rates, and a run from end to end."""

import copy
import csv
import dataclasses
import json

import pytest
import torch
from torch import nn

from siamscope import cli, methods
from siamscope import recipe as recipes
from siamscope.gradients import pairs
from siamscope.gradients.predictor import linear_predictor_terms
from siamscope.methods import METHODS, Head
from siamscope.objectives import ObjectiveError, tangent
from siamscope.report import ReportError
from siamscope.report.gradients import write
from siamscope.report.gradients_figure import chosen, two_digits
from siamscope.rundir import RunDir
from siamscope.training import checkpoint
from siamscope.training.build import build_model
from siamscope.training.progress import Silent
from siamscope.workflow import gradients_escape as escape
from siamscope.workflow.gradients_embed import Images
from siamscope.workflow.gradients_rows import Embeddings, Views, gradient_of, ready
from siamscope.workflow.train import train

N, D = 24, 8
SMALL = {"projector": Head(layers=2, hidden=16, out=D), "predictor_head": Head(layers=2, hidden=12), "prototypes": 10}


class Lagging(nn.Module):
    """Stands for a momentum network: another embedding of the same images."""

    def forward(self, z):
        return z + 0.3 * z.roll(1, 1)


def row_of(name, **cells):
    row = methods.get(name)
    head = dataclasses.replace(row.predictor_head, layers=2, hidden=12)
    return dataclasses.replace(row, **(SMALL | {"predictor_head": head, "slices": 6} | cells))


def embeddings(seed=0, others=2, features="none", n=N, d=D):
    """Pairs and other samples, with what a momentum network would make of them."""
    every = []
    for k in range(1 + others):
        pair = pairs.draw(100 * seed + k, n, d, features=features)
        online = (3 * pair.u1, 3 * pair.u2) if features == "none" else (pair.u1, pair.u2)
        every.append(Views(online, (Lagging()(online[0]), Lagging()(online[1]))))
    return Embeddings(every[0], tuple(every[1:]))


def of_a_step(subject, views, view):
    """dL/dz of one view by a training step's own forward, the encoder left out."""
    model = copy.deepcopy(subject.model)
    model.online = nn.Identity()
    if model.target is not None:
        model.target = Lagging()
    if subject.row.objective == "slices":  # each step draws other directions
        model.objective.prepare = lambda online, target: None
    leaves = [z.clone().requires_grad_() for z in views.online]
    model(leaves).backward()
    return leaves[view].grad


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))


# ------------------------------------------------------------------------------------------ one row's gradient


@pytest.mark.parametrize("name", METHODS)
def test_the_total_is_the_gradient_of_a_training_step(name):
    for seed in range(3):
        given = embeddings(seed)
        subject = ready(row_of(name), given, seed)
        for view in (0, 1):
            found = gradient_of(subject, given.pairs, view).terms
            wanted = of_a_step(subject, given.pairs, view)
            assert relative(found.total, wanted) < 1e-10
            assert relative(found.pull + found.push, wanted) < 1e-10
        assert relative(1.01 * found.total, wanted) > 1e-3  # a test that can fail


CHANGED = [
    ("simsiam", {"target": "shared"}),
    ("simclr", {"predictor": "linear"}),
    ("mocov3", {"target": "shared"}),
    ("barlow", {"predictor": "mlp"}),
    ("barlow", {"normalise": "l2", "form": "trace"}),
    ("byol", {"normalise": "none", "predictor": "linear"}),
    ("vicreg", {"normalise": "l2", "target": "detached"}),
    ("unigrad", {"normalise": "batch", "predictor": "directpred"}),
    ("corinfomax", {"target": "momentum", "phi": "log"}),
]


@pytest.mark.parametrize(("name", "cells"), CHANGED)
def test_any_cell_can_change(name, cells):
    given = embeddings(1)
    subject = ready(row_of(name, **cells), given, 0)
    assert relative(gradient_of(subject, given.pairs).terms.total, of_a_step(subject, given.pairs, 0)) < 1e-10


def test_the_parts_are_those_of_the_closed_form():
    """Without a predictor the objective's own terms; with a linear one those through W (reference: gradients room)."""
    given = embeddings(2, features="l2")
    u1, u2 = given.pairs.online
    detached = Embeddings(Views((u1, u2)))
    for name in ("directpred", "directset", "directcopy"):
        subject = ready(row_of(name), detached, 0)
        found = gradient_of(subject, detached.pairs)
        wanted = linear_predictor_terms(u1, u2, subject.model.predictor.matrix.detach())
        factor = 2 if subject.row.distance == "euclidean" else 1
        pull, push = (factor * tangent(part, u1) / 2 for part in (wanted.pull, wanted.push))  # one of two pairs
        assert relative(tangent(found.terms.pull, u1), pull) < 1e-10
        assert relative(tangent(found.terms.push, u1), push) < 1e-10
        assert found.balance == pytest.approx(float(wanted.balance.mean()), rel=1e-10)
    subject = ready(row_of("unigrad", balance=7.0), detached, 0)
    found = gradient_of(subject, detached.pairs)
    f = subject.model.objective.correlation.matrix
    assert relative(tangent(found.terms.push, u1), tangent(7 * u1 @ f, u1) / (2 * N)) < 1e-10
    assert relative(tangent(found.terms.pull, u1), -tangent(u2, u1) / (2 * N)) < 1e-10
    assert found.balance == 7


def test_the_radial_share_is_that_of_the_objective():
    given = embeddings(3, features="l2")
    found = gradient_of(ready(row_of("unigrad"), given, 0), given.pairs)
    u1 = given.pairs.online[0]
    assert 0.05 < found.radial < 1
    assert float((found.terms.total * u1).sum(1).abs().max()) < 1e-12  # nothing of it is left at z


def test_the_length_of_z_does_not_turn_the_gradient():
    one, three = (Embeddings(Views(tuple(c * z for z in embeddings(4).pairs.online))) for c in (1.0, 3.0))
    for name in ("simclr", "unigrad", "directpred"):
        a, b = (gradient_of(ready(row_of(name), e, 0), e.pairs) for e in (one, three))
        assert relative(a.terms.total, 3 * b.terms.total) < 1e-10
        assert a.balance == pytest.approx(b.balance, rel=1e-9)


def test_banks_hold_other_samples_only():
    given = embeddings(5, others=2)
    subject = ready(row_of("mocov2"), given, 0)
    keys = subject.model.objective.bank_keys
    assert len(keys) == 4 * N
    assert subject.remarks[0] == f"bank of {4 * N} keys in place of 65536"
    wanted = torch.cat([z for views in given.others for z in views.target])
    assert torch.allclose(keys, nn.functional.normalize(wanted, dim=1))
    small = ready(row_of("mocov2", bank=10), given, 0).model.objective.bank_keys
    assert torch.allclose(small.norm(dim=1), torch.ones(10, dtype=torch.float64))
    with pytest.raises(ObjectiveError, match="other samples"):
        ready(row_of("nnclr"), embeddings(5, others=0), 0)


def test_whitening_that_does_not_fit():
    with pytest.raises(ObjectiveError, match="covariance is singular"):
        ready(row_of("wmse"), embeddings(n=6, d=8), 0)
    flat = embeddings().pairs.online
    flat = tuple(torch.cat([z[:, :7], z[:, :1]], 1) for z in flat)  # two equal dimensions
    subject = ready(row_of("wmse"), Embeddings(Views(flat)), 0)
    assert "whitened with eps 0.001" in subject.remarks[0]


# ------------------------------------------------------------------------------------------ escape


def test_escape_rates_are_as_predicted():
    changed = {"corinfomax": {"eps": 1e-4}}  # small beside the perturbation's variance it shows in the rate
    known = {name: escape.rate(row_of(name, **changed.get(name, {}))) for name in METHODS}
    closed = {name: rate for name, rate in known.items() if rate.predicted is not None}
    assert set(closed) == {
        "simclr", "mocov2", "directpred", "directset", "directcopy", "isoloss", "unigrad", "tico", "corinfomax",
    }  # fmt: skip
    for name, rate in closed.items():
        assert rate.measured == pytest.approx(rate.predicted, rel=0.01), name
    assert all(rate.linear for name, rate in closed.items() if name != "corinfomax")
    assert closed["simclr"].predicted == pytest.approx(2 / METHODS["simclr"].temperature)
    assert not known["mmcr"].linear  # its push grows as the perturbation shrinks


@pytest.mark.parametrize(
    ("name", "cells", "wanted"),
    [
        ("simsiam", {"predictor": "none"}, 0.0),
        ("barlow", {"normalise": "l2", "form": "trace", "balance": 3.0}, 12.0),
        ("barlow", {"normalise": "l2", "form": "trace", "balance": 3.0, "target": "detached"}, 6.0),
        ("unigrad", {"centred": True}, 0.0),
        ("mocov3", {"predictor": "none", "temperature": 0.25}, 4.0),
    ],
)
def test_escape_rates_of_changed_cells(name, cells, wanted):
    found = escape.rate(row_of(name, **cells))
    assert found.predicted == pytest.approx(wanted, abs=1e-12)
    assert found.measured == pytest.approx(wanted, rel=0.01, abs=1e-3)


# ------------------------------------------------------------------------------------------ end to end


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


def test_learnt_prototypes_are_the_runs_own():
    given = embeddings(6)
    own = ready(row_of("dino"), given, 5).model
    subject = ready(row_of("dino"), given, 0, own)
    assert torch.equal(subject.model.objective.weight, own.objective.weight)
    assert torch.equal(subject.model.objective.target_weight, own.objective.weight)
    assert "prototypes the run's own" in subject.remarks
    assert not torch.equal(ready(row_of("dino"), given, 0).model.objective.weight, own.objective.weight)


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
