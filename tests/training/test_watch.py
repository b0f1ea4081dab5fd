"""The alarm in training: it changes nothing until it acts, ends what collapses, and goes back bit for bit."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from alarming import collapsing, equal, lines, rates, weights
from test_distributed import SCRIPT, torchrun

from siamscope import recipe as recipes
from siamscope import views
from siamscope.cli import run as cli
from siamscope.recipe import RecipeError
from siamscope.report.metrics import read_metrics
from siamscope.rundir import RunDir
from siamscope.training import checkpoint
from siamscope.training.build import build_model, build_monitor, specs_of
from siamscope.training.distributed import World
from siamscope.training.precision import Precision
from siamscope.training.progress import Silent
from siamscope.training.watch import every
from siamscope.workflow.jobs import Run, execute, outcome
from siamscope.workflow.opening import opened
from siamscope.workflow.train import normalisation, resume, train


def test_the_watch_changes_no_weight(small, tmp_path):
    """Looks at every step against none: the same losses and the same weights, momentum target and bank included."""
    for method in ("simsiam", "mocov2"):
        for name, step in (("on", 1), ("off", -1)):
            train(small(method, train={"steps": 4}, monitor={"watch": step}), tmp_path / method / name)
        on, off = tmp_path / method / "on", tmp_path / method / "off"
        assert equal(weights(on), weights(off))
        assert [x["loss"] for x in lines(on, "step")] == [x["loss"] for x in lines(off, "step")]
        assert [x["step"] for x in lines(on, "watch")] == [1, 2, 3, 4]
        assert lines(off, "watch") == []


def test_a_look_measures_what_the_monitor_measures(small, tmp_path):
    """On the same images the two agree."""
    train(small(train={"steps": 6}, monitor={"watch": 3, "samples": 32, "watch_samples": 32}), tmp_path / "run")
    seen = {line["step"]: line for line in lines(tmp_path / "run", "watch")}
    measured = {line["step"]: line for line in lines(tmp_path / "run", "monitor")}
    for step in (3, 6):
        for name in ("embedding_std", "effective_rank", "auc", "feature_std", "feature_effective_rank", "feature_auc"):
            assert seen[step][name] == pytest.approx(measured[step][name], rel=1e-6)
        assert (seen[step]["samples"], seen[step]["embedding_dim"]) == (32, 16)
        assert seen[step]["state"] == "quiet"


def test_measurements_hold_rankme_and_lidar(small):
    """By their formulas, from features and from embeddings, of the monitor's images and of two views of each."""
    recipe = small(train={"seed": 3}, data={"val_samples": 64}, monitor={"samples": 64})
    dataset = opened(recipe.data, Silent())
    norm = normalisation(dataset)
    monitor = build_monitor(recipe, dataset.train, dataset.val, norm, World(), Precision())
    model = build_model(recipe, dataset.train.channels)
    with torch.no_grad():
        for _ in range(30):  # statistics of batch norm
            model.train()(views.make_views(monitor.sample.images, specs_of(recipe), torch.Generator().manual_seed(0)))
    line = monitor.measure(model, 100, None)
    model.eval()
    with torch.no_grad():
        clean = model.online.backbone(views.eval_view(monitor.sample.images, 16, norm.mean, norm.std))
        pair = views.make_views(
            monitor.sample.images, specs_of(recipe), torch.Generator().manual_seed(3), colour="fast",
            mean=norm.mean, std=norm.std,
        )  # fmt: skip
        both = [model.online.backbone(view) for view in pair]
        for prefix, single, two in (
            ("feature_", clean, both),
            ("", model.online.projector(clean), [model.online.projector(x) for x in both]),
        ):
            sigma = np.linalg.svd(single.double().numpy(), compute_uv=False)
            p = sigma / sigma.sum() + 1e-7
            assert line[f"{prefix}rankme"] == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-5)
            x = torch.stack(two, 1).double().numpy()
            between = np.cov(x.mean(1).T, bias=True)
            within = np.mean([np.cov(rows.T, bias=True) for rows in x], axis=0) + 1e-4 * np.eye(x.shape[2])
            share = scipy.linalg.eigh(between, within, eigvals_only=True).clip(1e-300)
            share /= share.sum()
            assert line[f"{prefix}lidar"] == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_every(small):
    recipe = small(train={"batch_size": 256})
    assert every(recipe, "cpu") == 25
    assert every(recipe, "cuda") == 100
    assert every(small(train={"batch_size": 32}), "cpu") == 100  # 128 images are four batches
    assert every(small(monitor={"watch": 7}), "cpu") == 7
    assert every(small(monitor={"watch": -1}), "cpu") == 0


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("watch", -2, "at least -1"), ("watch_samples", 4, "at least 8"), ("on_collapse", "panic", "warn")],
)
def test_bad_values(small, field, value, said):
    with pytest.raises(RecipeError, match=rf"(?s)monitor\.{field}.*{said}"):
        recipes.from_dict({"monitor": {field: value}})


def test_a_run_that_collapses_is_ended_with_code_4(small, tmp_path, capsys):
    recipe = collapsing(small, "stop")
    (tmp_path / "recipe.toml").write_text(recipes.to_toml(recipe))
    run = tmp_path / "run"
    assert cli(["train", "--recipe", str(tmp_path / "recipe.toml"), "--out", str(run), "--quiet"]) == 4
    said = capsys.readouterr().err
    sounded = next(line for line in lines(run, "watch") if line["state"] == "alarm")
    assert sounded["step"] == 55
    assert f"step 55: alarm, {sounded['collapse']} collapse: " in said
    assert sounded["effective_rank"] < 3
    assert checkpoint.numbered(RunDir(run))[-1].name == f"step-{sounded['step']:08d}.pt"
    assert lines(run, "step")[-1]["step"] == sounded["step"] < recipe.train.steps
    assert (run / "encoder.safetensors").is_file()
    assert not (run / "evaluation.json").exists()
    # Before step 50 nothing can be judged, and at step 50 something was found: only the start is a place to go back to.
    assert lines(run, "watch")[-2]["state"] == "quiet"
    assert checkpoint.load(run / "checkpoints" / "healthy.pt", RunDir(run).recipe()).step == 0
    assert "the alarm ended the run" in lines(run, "event")[-1]["message"]
    metrics = read_metrics(run / "metrics.jsonl")
    assert metrics.notes == ()
    assert len(metrics.steps) == sounded["step"]
    before = (run / "metrics.jsonl").read_bytes()
    assert cli(["resume", str(run), "--quiet"]) == 2
    assert "--on-collapse warn" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before  # a refusal leaves no trace
    assert cli(["resume", str(run), "--quiet", "--on-collapse", "warn"]) == 0
    assert lines(run, "step")[-1]["step"] == recipe.train.steps
    train(collapsing(small, "warn"), tmp_path / "warned")
    assert equal(weights(run), weights(tmp_path / "warned"))


def test_the_same_with_its_stop_gradient_is_left_alone(small, tmp_path):
    recipe = collapsing(small, "stop")
    recipe = replace(recipe, method=replace(recipe.method, target="detached"), optim=replace(recipe.optim, lr=0.1))
    assert train(recipe, tmp_path / "run").reason == ""
    assert {line["state"] for line in lines(tmp_path / "run", "watch")} == {"quiet"}


def test_jobs_remember_it_as_a_failure(small, tmp_path):
    run = Run("a", "a", 0, collapsing(small, "stop"), tmp_path)
    ended = []
    execute([run], 1, 1, lambda *said: ended.append(said[1:]))
    assert ended[0][0] == "failed"
    assert "the alarm ended the run: step" in ended[0][1]
    assert outcome(run) == ended[0]


def test_killed_and_resumed_the_alarm_sounds_at_the_same_step(small, tmp_path):
    """kill -9 in a process of its own; the state comes from the log."""
    recipe = collapsing(small, "stop")
    recipe = replace(recipe, train=replace(recipe.train, checkpoint_steps=7))
    train(recipe, tmp_path / "whole")
    (tmp_path / "recipe.toml").write_text(recipes.to_toml(recipe))
    run = tmp_path / "cut"
    command = [sys.executable, "-m", "siamscope", "train", "--recipe", "recipe.toml", "--out", str(run), "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() or len(lines(run, "step")) < 20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert resume(run).reason
    states = [
        [(x["step"], x["state"], x["effective_rank"]) for x in lines(path, "watch")]
        for path in (tmp_path / "whole", run)
    ]
    assert states[0] == states[1]
    assert equal(weights(tmp_path / "whole"), weights(run))


def test_old_checkpoints_have_no_rollbacks(small, tmp_path):
    train(small(train={"steps": 2}), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    path = checkpoint.numbered(run)[-1]
    state = torch.load(path, weights_only=True)
    del state["rollbacks"]
    recipe = json.loads(state["recipe"])
    del recipe["monitor"]["on_collapse"]
    state["recipe"] = json.dumps(recipe)
    torch.save(state, path)
    assert checkpoint.load(path, run.recipe()).rollbacks == 0


def test_two_processes_act_at_the_same_step(small, tmp_path):
    """Rank 0 sees the alarm at step 55; both end, or both go back."""
    folder, out = tmp_path / "recipes", tmp_path / "out"
    folder.mkdir()
    for name in ("stop", "rollback"):
        (folder / f"{name}.toml").write_text(recipes.to_toml(collapsing(small, name)))
    done = torchrun(str(SCRIPT), str(folder), str(out))
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in lines(out / "stop", "step")] == list(range(1, 56))
    assert (out / "stop" / "encoder.safetensors").is_file()
    assert not (out / "stop" / "evaluation.json").exists()
    event = next(line for line in lines(out / "rollback", "event") if "rollback" in line)
    assert (event["step"], event["abandoned"]["to"]) == (0, 55)
    stopped, back = (rates(out / name) for name in ("stop", "rollback"))
    count = round(math.log(stopped[1] / back[1], 3))
    assert count >= 1
    assert all(back[step] == pytest.approx(stopped[step] / 3**count, rel=1e-12) for step in stopped)
    # Step 1 starts from the first weights again, on both ranks: the loss is the mean of theirs.
    losses = [[line["loss"] for line in lines(out / name, "step")] for name in ("stop", "rollback")]
    assert losses[0][0] == losses[1][0]
    assert losses[0][5] != losses[1][5]
