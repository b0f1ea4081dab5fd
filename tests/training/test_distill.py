"""A teacher as the target: what it puts out, that nothing moves it, and that a student learns its features."""

import dataclasses
import json
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from siamscope import cli, networks, views
from siamscope import recipe as recipes
from siamscope.networks import save_encoder
from siamscope.objectives import Group
from siamscope.row import Head, not_read
from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint
from siamscope.training.build import Normalisation, build_trainer
from siamscope.training.distributed import World
from siamscope.training.loop import Loop
from siamscope.training.precision import Precision
from siamscope.training.teacher import EPS, Teacher, TeacherError, as_taught, load_teacher
from siamscope.views.policies import ViewSpec
from siamscope.workflow.train import resume, train

NORM = Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CELLS = {"target": "teacher", "predictor": "none", "normalise": "none", "distance": "euclidean"}


def saved(folder, width=0.25, size=16, channels=3, seed=0, mean=0.45, std=0.22):
    """An untrained encoder whose running statistics are those of random images, as two files."""
    torch.manual_seed(seed)
    backbone = networks.create("resnet8", width=width, in_channels=channels, input_size=size)
    with torch.no_grad():
        for _ in range(20):
            backbone.train()(torch.randn(32, channels, size, size))
    save_encoder(folder, backbone.eval(), {"mean": [mean] * channels, "std": [std] * channels, "input_size": size})
    return folder


@pytest.fixture
def student(small, tmp_path):
    """`student(**sections)`: a recipe that distils the encoder in `tmp_path`/teacher."""
    teacher = saved(tmp_path / "teacher")

    def make(cells=None, **sections):
        recipe = small("simsiam", optim={"name": "adamw", "lr": 0.003, "lr_scaling": False}, **sections)
        head = Head(layers=2, hidden=32, out=7, norm="batch")
        cells = CELLS | {"teacher": str(teacher), "projector": head} | (cells or {})
        return dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, **cells))

    return make


def trainer(recipe):
    return build_trainer(recipe, 3, 10, NORM, World(), Precision(False, False))


def images(n=32, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


# ------------------------------------------------------------------------------------------ what it puts out


def features(seed, count=7, n=12, d=5):
    g = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(count, 1, d, generator=g, dtype=torch.float64)
    return means + torch.randn(count, n, d, generator=g, dtype=torch.float64)


def stub(width=5, rho=0.9, group=None):
    meta = {"in_channels": 1, "input_size": None, "normalisation": None}
    return Teacher(nn.Flatten(), width, meta, rho, group).double()


def as_images(batch):
    return batch[:, None, None, :]


def test_statistics_in_closed_form():
    """Mean and variance of the mixture of all batches with weights (1 - rho) rho^k; the first has what is left."""
    rho, batches = 0.9, features(0)
    teacher = stub(rho=rho).train()
    for batch in batches:
        (first, second) = teacher([as_images(batch[:6]), as_images(batch[6:])])
    weights = torch.tensor([(1 - rho) * rho**k for k in range(len(batches))][::-1], dtype=torch.float64)
    weights[0] = rho ** (len(batches) - 1)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    means = batches.mean(1)
    mean = weights @ means
    variance = weights @ (batches.square().mean(1)) - mean.square()
    torch.testing.assert_close(teacher.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(teacher.variance, variance, rtol=1e-10, atol=0)
    expected = (batches[-1] - mean) / (variance + EPS).sqrt()
    torch.testing.assert_close(torch.cat([first, second]), expected, rtol=1e-9, atol=1e-9)
    wrong = weights @ batches.var(1, correction=0)  # an average of the batches' own variances
    assert (wrong / variance).max() < 0.6


def test_eval_mode_changes_nothing_and_a_dead_feature_is_zero():
    teacher = stub().train()
    batch = features(1)[0]
    batch[:, 2] = 1.5
    teacher([as_images(batch)])
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    (out,) = teacher.eval()([as_images(batch + 1e-9)])
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
    assert out[:, 2].abs().max() < 1e-3
    assert out[:, 0].std() > 0.5
    teacher.train()([as_images(batch)])
    assert not torch.equal(teacher.count, state["count"])


def test_processes_share_the_statistics():
    """Rows of two processes: their means averaged are the mean of all, and so are the squares about it."""
    batch = features(2)[0]
    whole = stub().train()
    whole([as_images(batch)])
    parts, sent = (batch[:6], batch[6:]), []
    centre = torch.stack([part.mean(0) for part in parts]).mean(0)
    answers = iter([centre, torch.stack([(part - centre).square().mean(0) for part in parts]).mean(0)])

    def mean(x):
        sent.append(x)
        return next(answers)

    one = stub(group=Group(0, 2, mean=mean)).train()
    one([as_images(parts[0])])
    torch.testing.assert_close(one.mean, whole.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(one.variance, whole.variance, rtol=1e-12, atol=0)
    torch.testing.assert_close(sent[0], parts[0].mean(0))
    alone = stub().train()
    alone([as_images(parts[0])])
    assert not torch.allclose(alone.mean, whole.mean, rtol=1e-3)


@pytest.mark.parametrize(("size", "exact"), [(16, True), (24, False)])
def test_views_come_as_the_teacher_was_trained(tmp_path, size, exact):
    """The student's normalisation is undone and the teacher's done; another size is resized, as `eval_view` does."""
    recipe = recipes.Recipe().method
    row = dataclasses.replace(recipe, **CELLS, teacher=str(saved(tmp_path / "t", size=16)))
    teacher = load_teacher(row, 3).sees(NORM.mean, NORM.std)
    batch = images(8, size)
    seen = views.eval_view(batch, size, NORM.mean, NORM.std)
    wanted = views.eval_view(batch, 16, (0.45,) * 3, (0.22,) * 3)
    torch.testing.assert_close(
        teacher.converted(seen), wanted, rtol=1e-5 if exact else 1e-2, atol=1e-5 if exact else 1e-2
    )
    assert (F.interpolate(seen, (16, 16)) - wanted).abs().max() > 0.3
    with torch.no_grad():
        direct = teacher.encoder(wanted)
    (out,) = teacher.eval()([seen])
    torch.testing.assert_close(out, direct / (1 + EPS) ** 0.5, rtol=1e-3 if exact else 0.1, atol=1e-4 if exact else 0.1)


# ------------------------------------------------------------------------------------------ training


def test_nothing_moves_the_teacher(student):
    """No gradient, no step, no running statistics, always in eval mode; the target's own gradient is exactly zero."""
    run = trainer(student())
    teacher = run.model.teacher
    before = {name: value.clone() for name, value in teacher.encoder.state_dict().items()}
    for number in (1, 2, 3):
        run.step(number, images(seed=number))
    assert all(torch.equal(value, before[name]) for name, value in teacher.encoder.state_dict().items())
    assert not any(module.training for module in teacher.encoder.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.encoder.parameters())
    assert not any("encoder" in name for name, _ in run.model.named_parameters() if name.startswith("teacher"))
    batch = run.make_views(images(), torch.Generator().manual_seed(0))
    assert not any(t.requires_grad for t in run.model.targets(batch, None))
    assert run.model.predictor(batch[0]) is batch[0]
    with torch.no_grad():  # negative control: in training mode its running statistics would have moved
        teacher.encoder.train()(batch[0])
    assert not all(torch.equal(value, before[name]) for name, value in teacher.encoder.state_dict().items())


def test_the_student_has_the_teachers_width(student):
    model = trainer(student()).model
    assert model.teacher.width == model.online.projector[-1].out_features == 16
    assert model.row.projector == Head(layers=2, hidden=32, out=16)
    wide = trainer(student({"projector_scale": 2.0})).model
    assert [m.out_features for m in wide.online.projector if isinstance(m, nn.Linear)] == [64, 16]


def test_a_student_learns_the_features(student):
    """The loss falls, and embeddings of new images come to follow the teacher's features, dimension by dimension."""
    run = trainer(student(train={"steps": 60}))
    mild = ViewSpec(size=16, crop_scale=(0.7, 1.0), jitter_prob=0.0, grey_prob=0.0, blur_prob=0.0)
    run.specs = (mild, mild)

    def correlations():
        seen = views.eval_view(smooth(1000, 200), 16, NORM.mean, NORM.std)
        run.model.eval()
        with torch.no_grad():
            z, (t,) = run.model.online(seen), run.model.teacher([seen])
        z, t = (x - x.mean(0) for x in (z, t))
        cosine = z.T @ t / (z.norm(dim=0)[:, None] * t.norm(dim=0))
        alive = t.std(0) > 0.05
        return cosine.diagonal()[alive].mean(), cosine.roll(1, 0).diagonal()[alive].abs().mean()

    before, _ = correlations()
    losses = [float(run.step(number, smooth(number))) for number in range(1, 61)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    own, others = correlations()
    assert own > max(0.7, before + 0.3)
    assert others < own - 0.2  # each follows its own feature, not whichever


def smooth(seed, n=32):
    """Images that differ in colours and low frequencies, so that features of views agree."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 3, 3, generator=g)
    return (255 * F.interpolate(coarse, (16, 16), mode="bilinear", align_corners=True)).to(torch.uint8)


class Stop(Exception):
    """Stands for a kill."""


def cut(recipe, out, monkeypatch, step=6):
    flush = Loop.flush

    def killed(self, received):
        if self.pending and self.pending[-1][0] == step:
            raise Stop
        return flush(self, received)

    monkeypatch.setattr(Loop, "flush", killed)
    with pytest.raises(Stop):
        train(recipe, out)
    monkeypatch.undo()


def last(run):
    return torch.load(checkpoint.numbered(RunDir(run))[-1], weights_only=True)["model"]


def test_resume_is_bit_equal(student, tmp_path, monkeypatch):
    recipe = student(train={"steps": 7, "checkpoint_steps": 4}, monitor={"interval": 7})
    train(recipe, tmp_path / "whole")
    cut(recipe, tmp_path / "cut", monkeypatch)
    resume(tmp_path / "cut")
    whole, mine = last(tmp_path / "whole"), last(tmp_path / "cut")
    assert whole.keys() == mine.keys()
    assert all(torch.equal(whole[name], mine[name]) for name in whole)
    assert int(whole["teacher.count"]) == 7
    kept = {name for name in whole if name.startswith("teacher")}
    assert kept == {f"teacher.{name}" for name in ("mean", "variance", "count", "digest", "scale", "shift")}
    lines = [
        [x["loss"] for x in read_jsonl(RunDir(tmp_path / n).metrics) if x["kind"] == "step"] for n in ("whole", "cut")
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("change", ["gone", "weights", "normalisation"])
def test_resume_without_the_same_teacher(student, tmp_path, monkeypatch, change):
    recipe, folder = student(train={"steps": 7, "checkpoint_steps": 4}), tmp_path / "teacher"
    cut(recipe, tmp_path / "run", monkeypatch)
    if change == "gone":
        shutil.rmtree(folder)
    elif change == "weights":
        saved(folder, seed=1)
    else:
        about = json.loads((folder / "encoder.json").read_text())
        about["normalisation"]["mean"][0] += 0.01
        (folder / "encoder.json").write_text(json.dumps(about))
    with pytest.raises(TeacherError, match="no teacher at" if change == "gone" else "put the old files back"):
        resume(tmp_path / "run")


# ------------------------------------------------------------------------------------------ bad input


def test_teachers_that_cannot_be_used(student, tmp_path):
    def row(path, **cells):
        return dataclasses.replace(recipes.Recipe().method, **CELLS, teacher=str(path), **cells)

    running = tmp_path / "running"
    running.mkdir()
    (running / "recipe.toml").write_text("")
    broken = saved(tmp_path / "broken")
    (broken / "encoder.safetensors").write_bytes(b"1234")
    grey = saved(tmp_path / "grey", channels=1)
    for teacher, word in (
        (row(""), "give --teacher"),
        (row(tmp_path / "nowhere"), "no teacher at"),
        (row(running), "the run is not complete.*siamscope resume"),
        (row(broken), "cannot be read.*truncated or damaged"),
        (row(tmp_path), "cannot be read.*missing"),
        (row(grey), "takes images of 1 channels, these have 3"),
    ):
        with pytest.raises(TeacherError, match=f"(?s){word}"):
            load_teacher(teacher, 3)
    teacher = load_teacher(row(tmp_path / "teacher"), 3)
    with pytest.raises(TeacherError, match="3 channels, these have 1"):
        teacher.sees((0.5,), (0.5,))
    bare = row(tmp_path / "teacher", projector=Head(layers=0))
    with pytest.raises(TeacherError, match="20 features and no projector, the teacher 16"):
        as_taught(bare, teacher, 20)
    assert as_taught(bare, teacher, 16) == bare
    with pytest.raises(TeacherError, match="needs one"):
        as_taught(bare, None, 16)
    assert load_teacher(dataclasses.replace(bare, target="detached"), 3) is None


def test_cells_that_are_read():
    row = dataclasses.replace(recipes.Recipe().method, **CELLS)
    assert not_read(row, ["teacher", "rho", "projector_scale", "momentum"]) == ["momentum"]
    assert not_read(recipes.Recipe().method, ["teacher", "rho"]) == ["teacher", "rho"]


def test_the_shipped_recipe_from_the_command_line(tmp_path, capsys):
    teacher = saved(tmp_path / "teacher", size=32)
    command = [
        "train", "shapes", "--recipe", "distill", "--samples", "96", "--data.val-samples", "32", "--data.test-samples",
        "32", "--width", "0.25", "--batch-size", "32", "--steps", "2", "--precision", "fp32", "--device", "cpu",
        "--evaluation.no-probe", "--quiet", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    assert cli.run(command) == 2
    assert "give --teacher" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.run([*command, "--teacher", str(teacher)]) == 0
    recipe = RunDir.open(tmp_path / "run").recipe()
    assert (recipe.method.target, recipe.method.teacher) == ("teacher", str(teacher))
    assert "not read" not in capsys.readouterr().err
