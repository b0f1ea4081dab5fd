"""A run that stops and goes on is the run that never stopped, bit for bit; and nothing is lost on the way."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from siamscope import methods
from siamscope import recipe as recipes
from siamscope.row import Head, PredictorOptions
from siamscope.rundir import RunDir, RunError, read_jsonl
from siamscope.training import checkpoint
from siamscope.training.checkpoint import CheckpointError
from siamscope.training.loop import Loop, NonFiniteLossError
from siamscope.workflow.train import resume, train


def weights(path) -> dict:
    return torch.load(path, weights_only=True)["model"]


def last(run) -> dict:
    return weights(checkpoint.numbered(RunDir(run))[-1])


def losses(run) -> list:
    return [(line["step"], line["loss"]) for line in read_jsonl(RunDir(run).metrics) if line["kind"] == "step"]


class Stop(Exception):
    """Stands for a kill: leaves everything as it is on the disk."""


CASES = {name: {} for name in methods.METHODS} | {
    "simsiam, symmetric predictor": {"method": {"predictor": "symmetric"}},
    "directpred, every 3": {"method": {"predictor_options": PredictorOptions(every=3, partitions=2)}},
    "unigrad, gradient": {"method": {"objective_form": "gradient"}},
    "unigrad, composed": {"method": {"objective": "composed", "objective_form": "gradient"}},
    "byol, cutmix": {"views": {"cutmix": 0.7}},
    "dino, multi-crop": {"views": {"local_crops": 2}},
    "byol, drawn target": {
        "method": {"predictor": "symmetric-mlp", "target_init": "random", "momentum": 0.0, "momentum_end": 0.5},
    },
    "byol, bias": {"method": {"predictor": "symmetric", "predictor_bias": True}},
    "simsiam, decay per step": {
        "method": {"predictor": "symmetric"},
        "optim": {
            "name": "sgd",
            "lr": 0.5,
            "decay": "per-step",
            "weight_decay": 0.01,
            "predictor_lr": 3.0,
            "predictor_weight_decay": 0.02,
        },
    },
    "simsiam, linear": {"method": {"projector": Head(layers=0)}, "network": {"backbone": "linear"}},
}


@pytest.mark.parametrize("case", CASES)
def test_resume_is_bit_equal(small, tmp_path, monkeypatch, case):
    """Killed after step 5 of 7, in mid-epoch, with the last checkpoint after step 4."""
    changes = dict(CASES[case])
    recipe = small(
        case.split(",")[0], train={"steps": 7, "checkpoint_steps": 4},
        optim=changes.pop("optim", {"name": "lars", "lr": 0.5}), monitor={"interval": 7},
        views=changes.pop("views", {}), network=changes.pop("network", {}),
    )  # fmt: skip
    recipe = replace(recipe, method=replace(recipe.method, **changes.pop("method", {})))
    train(recipe, tmp_path / "whole")
    step = Loop.flush

    def killed(self, received):
        if self.pending and self.pending[-1][0] == 6:
            raise Stop
        return step(self, received)

    monkeypatch.setattr(Loop, "flush", killed)
    with pytest.raises(Stop):
        train(recipe, tmp_path / "cut")
    monkeypatch.undo()
    assert losses(tmp_path / "cut")[-1][0] == 5
    resume(tmp_path / "cut")
    whole, cut = last(tmp_path / "whole"), last(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_same_seed_same_weights_other_seed_other_weights(small, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(small(train={"steps": 3, "seed": seed}), tmp_path / name)
    a, b, c = (last(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["online.backbone.conv1.weight"], c["online.backbone.conv1.weight"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_resume(small, tmp_path, number, code):
    recipe = small(train={"steps": 100_000})
    (tmp_path / "recipe.toml").write_text(recipes.to_toml(recipe))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "siamscope", "train", "--recipe", "recipe.toml", "--out", str(run)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() or len(losses(run)) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert f"siamscope resume {run}" in error
    saved = checkpoint.load(checkpoint.numbered(RunDir(run))[-1], RunDir(run).recipe())
    assert saved.step == losses(run)[-1][0]


@pytest.mark.parametrize("method", ["simsiam", "byol", "simclr"])
@pytest.mark.parametrize("interval", [1, 100])
@pytest.mark.parametrize("lr", [1e30, 1e39])
def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path, method, interval, lr):
    """Whether the loss, a measurement or a checkpoint sees it first; and what was saved before is good."""
    recipe = small(
        method, train={"steps": 40, "checkpoint_steps": 1}, optim={"lr": lr, "warmup_epochs": 2.0},
        monitor={"interval": interval},
    )  # fmt: skip
    with pytest.raises(NonFiniteLossError, match=r"(?s)at step \d+; .* checkpoint.*learning rate"):
        train(recipe, tmp_path / "run")
    for path in checkpoint.numbered(RunDir(tmp_path / "run")):
        assert all(torch.isfinite(value).all() for value in weights(path).values())


def test_what_a_killed_process_left_is_swept(small, tmp_path):
    train(small(train={"steps": 2}), tmp_path / "run")
    left = tmp_path / "run" / "checkpoints" / ".step-00000009.pt.abc123"
    mine = tmp_path / "run" / ".notes.of.mine"
    left.write_bytes(b"half")
    mine.write_text("keep")
    resume(tmp_path / "run")
    assert not left.exists()
    assert mine.exists()


def test_no_space_left_keeps_the_previous_checkpoint(small, tmp_path, monkeypatch):
    recipe = small(train={"steps": 6, "checkpoint_steps": 2})
    real, calls = os.fsync, []

    def full(handle):
        name = str(Path(f"/proc/self/fd/{handle}").readlink())
        if "step-00000004" in name:
            calls.append(name)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="no space is left"):
        train(recipe, tmp_path / "run")
    assert calls
    monkeypatch.undo()
    run = RunDir(tmp_path / "run")
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        "best.pt",
        "step-00000002.pt",
        "step-00000003.pt",  # the measurement after step 3 was the best
    ]
    assert checkpoint.load(checkpoint.numbered(run)[-1], run.recipe()).step == 3
    train(recipe, tmp_path / "whole")
    resume(run.path)
    a, b = last(run.path), last(tmp_path / "whole")
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_damaged_checkpoint_falls_back(small, tmp_path):
    recipe = small(train={"steps": 4, "checkpoint_steps": 2}, monitor={"interval": 100})
    train(recipe, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    newest, older = checkpoint.numbered(run)[::-1][:2]
    newest.write_bytes(newest.read_bytes()[:1000])
    point, notes = checkpoint.load_latest(run, run.recipe())
    assert point.step == 2
    assert "truncated" in notes[0]
    older.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be read"):
        checkpoint.load_latest(run, run.recipe())


def test_checkpoint_of_another_recipe(small, tmp_path):
    train(small(train={"steps": 2}), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    other = replace(run.recipe(), optim=replace(run.recipe().optim, lr=0.5))
    with pytest.raises(CheckpointError, match=r"fields differ: optim\.lr"):
        checkpoint.load_latest(run, other)
    moved = replace(run.recipe(), train=replace(run.recipe().train, keep=7))
    assert checkpoint.load_latest(run, moved)[0].step == 2


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, ("touch " + str(tmp_path / "owned"),))

    torch.save({"format": 1, "model": Evil()}, tmp_path / "step-00000001.pt")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "step-00000001.pt", recipes.Recipe())
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("constant", [True, False])
def test_rates_in_the_log(small, tmp_path, constant):
    """The encoder's rate falls by the cosine; the predictor's is logged where it is held constant."""
    train(small(train={"steps": 4}, optim={"lr": 0.8, "constant_predictor_lr": constant}), tmp_path / "run")
    lines = [line for line in read_jsonl(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "step"]
    rates = [line["lr"] for line in lines]
    assert rates[0] == pytest.approx(0.8 * 32 / 256)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert [line.get("lr_predictor") for line in lines] == [0.1 if constant else None] * 4


def test_keeps_the_last_and_the_best(small, tmp_path):
    train(small(train={"steps": 8, "checkpoint_steps": 1, "keep": 3}), tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["best.pt", "step-00000006.pt", "step-00000007.pt", "step-00000008.pt"]
    measured = [m for m in read_jsonl(tmp_path / "run" / "metrics.jsonl") if m["kind"] == "monitor" and m["step"]]
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert best["step"] == max(measured, key=lambda m: (m["knn"], -m["step"]))["step"]


def test_two_processes_cannot_share_a_run(small, tmp_path):
    train(small(train={"steps": 1}), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    with run.lock(), pytest.raises(RunError, match=f"another process .pid {os.getpid()}."):
        resume(run.path)


def test_changed_data_are_noticed(small, tmp_path):
    train(small(train={"steps": 2}), tmp_path / "run")
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_fingerprint": "other"}))
    with pytest.raises(RunError, match="have changed"):
        resume(tmp_path / "run")
