"""Going back to a healthy checkpoint: with less rate and decay, at most three times, bit for bit."""

from dataclasses import replace

import pytest
import torch
from alarming import collapsing, equal, lines, rates, scripted, weights

from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint, rollback
from siamscope.training.loop import Loop
from siamscope.workflow.train import resume, train


def test_rollback_restores_and_lessens(small, tmp_path, monkeypatch):
    """One alarm, at step 10: back to the measurement at step 8, a third of rate and decay, and on to the end."""
    rolled, groups = [], []
    scripted(monkeypatch, lambda look: look.step == 10 and not rolled)
    recipe = small(
        "byol", train={"steps": 16}, optim={"constant_predictor_lr": True, "warmup_epochs": 0.0},
        monitor={"interval": 4, "watch": 2, "on_collapse": "rollback"},
    )  # fmt: skip
    real = rollback.restore

    def restore(run, trainer, monitor, count):
        rolled.append(count)
        point = real(run, trainer, monitor, count)
        groups.extend(dict(group) for group in trainer.optimizer.param_groups)
        return point

    monkeypatch.setattr(rollback, "restore", restore)
    run, free = tmp_path / "run", tmp_path / "free"
    assert train(recipe, run).reason == ""
    train(replace(recipe, monitor=replace(recipe.monitor, watch=-1, on_collapse="warn")), free)
    assert rolled == [1]
    assert checkpoint.load(run / "checkpoints" / "healthy.pt", RunDir(run).recipe()).step == 16  # quiet again since
    mine, others = rates(run), rates(free)
    assert list(mine) == list(range(1, 17))  # each step once
    assert all(mine[step] == others[step] for step in range(1, 9))
    assert all(mine[step] == pytest.approx(others[step] / 3, rel=1e-12) for step in range(9, 16))
    assert {group["weight_decay"] for group in groups} == {recipe.optim.weight_decay / 3}
    event = next(line for line in lines(run, "event") if "rollback" in line)
    assert (event["step"], event["rollback"]) == (8, 1)
    assert "went back from step 10 to step 8" in event["message"]
    lost = event["abandoned"]
    assert (lost["from"], lost["to"], lost["lines"]) == (9, 10, {"step": 2, "watch": 1, "event": 1})
    assert [(look["step"], look["state"]) for look in lost["looks"]] == [(10, "alarm")]
    steps = [line["step"] for line in read_jsonl(run / "metrics.jsonl") if line["kind"] != "event"]
    assert steps == sorted(steps)
    losses, free_losses = ({x["step"]: x["loss"] for x in lines(path, "step")} for path in (run, free))
    assert all(losses[step] == free_losses[step] for step in range(1, 10))  # step 9 starts from the same weights
    assert losses[10] != free_losses[10]


def test_three_rollbacks_then_it_ends(small, tmp_path, monkeypatch):
    scripted(monkeypatch, lambda look: look.step >= 6)
    recipe = small(
        train={"steps": 12, "checkpoint_steps": 1}, monitor={"interval": 4, "watch": 2, "on_collapse": "rollback"}
    )
    run = tmp_path / "run"
    done = train(recipe, run)
    assert "3 rollbacks did not help" in done.reason
    assert done.step == 6
    assert [line["rollback"] for line in lines(run, "event") if "rollback" in line] == [1, 2, 3]
    point = checkpoint.load_latest(RunDir(run), RunDir(run).recipe())[0]
    assert point.rollbacks == 3
    assert point.optimizer["param_groups"][0]["peak"] == pytest.approx(recipe.optim.lr * 32 / 256 / 27, rel=1e-12)
    assert "3 rollbacks did not help" in resume(run).reason  # it has had its three
    assert not (run / "evaluation.json").exists()


def test_the_monitor_hears_of_the_lesser_rate(small, tmp_path):
    """What the theory says of alignment and balance is of the rate and the decay that are in force."""
    recipe = small(optim={"weight_decay": 0.09, "predictor_weight_decay": 0.03})
    less = rollback.lessened(recipe, 1 / 3).optim
    assert (less.weight_decay, less.predictor_weight_decay) == (pytest.approx(0.03), pytest.approx(0.01))
    assert less.lr == pytest.approx(recipe.optim.lr / 3)
    assert rollback.lessened(small(), 1 / 3).optim.predictor_weight_decay == -1  # still that of the encoder


class Stop(Exception):
    """Stands for a kill: leaves everything as it is on the disk."""


def test_killed_around_a_rollback_it_ends_the_same(small, tmp_path, monkeypatch):
    """Killed right after the alarm, between any two writes of the rollback, or some steps after it: bit-equal."""
    recipe = small(
        "byol", train={"steps": 13, "checkpoint_steps": 3, "keep": 2},
        monitor={"interval": 4, "watch": 2, "on_collapse": "rollback"},
    )  # fmt: skip
    count = {"n": 0}  # rollbacks so far: the alarm sounds at step 10 while there were none
    real_restore, real_fit = rollback.restore, Loop.fit

    def restore(run, trainer, monitor, rollbacks):
        count["n"] = rollbacks
        return real_restore(run, trainer, monitor, rollbacks)

    def fit(self, batches):
        count["n"] = self.rollbacks
        return real_fit(self, batches)

    monkeypatch.setattr(rollback, "restore", restore)
    monkeypatch.setattr(Loop, "fit", fit)
    scripted(monkeypatch, lambda look: look.step == 10 and count["n"] == 0)
    train(recipe, tmp_path / "whole")
    cuts = {
        "after the alarm": (Loop, "go_back", lambda *a: True),
        "after the event": (rollback.checkpoint, "save", lambda run, recipe, point, *a, **k: point.rollbacks == 1),
        "after the checkpoint": (rollback.checkpoint, "step_of", lambda path: count["n"] == 1 and rolled_back(path)),
        "after the abandoned ones": (RunDir, "forget_after", lambda run, step, *a: count["n"] == 1),
        "after the log": (Loop, "train", lambda loop, *a: loop.rollbacks == 1),
        "some steps later": (Loop, "step", lambda loop, number, *a: loop.rollbacks == 1 and number == 11),
    }
    for name, (where, what, when) in cuts.items():
        with monkeypatch.context() as killed:
            killed.setattr(where, what, stops(getattr(where, what), when))
            with pytest.raises(Stop):
                train(recipe, tmp_path / name)
        resume(tmp_path / name)
        assert equal(weights(tmp_path / "whole"), weights(tmp_path / name)), name
        keys = ("kind", "step", "loss", "lr", "effective_rank", "state", "knn", "rollback")
        whole, mine = (
            [{key: line.get(key) for key in keys} for line in read_jsonl(tmp_path / run / "metrics.jsonl")]
            for run in ("whole", name)
        )
        mine = [line for line in mine if line["kind"] != "event" or line["rollback"]]  # without "resumed after ..."
        assert mine == whole, name


def rolled_back(path) -> bool:
    """Whether the checkpoint that the rollback writes is there already."""
    found = path.parent / "step-00000008.pt"
    return found.exists() and torch.load(found, weights_only=True)["rollbacks"] == 1


def stops(real, when):
    def call(*args, **more):
        if when(*args, **more):
            raise Stop
        return real(*args, **more)

    return call


def test_without_a_healthy_checkpoint_it_ends(small, tmp_path):
    recipe = collapsing(small, "stop")
    train(recipe, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "healthy.pt").write_bytes(b"torn")
    assert "no healthy checkpoint" in resume(tmp_path / "run", on_collapse="rollback").reason


def test_a_stopped_run_may_go_back(small, tmp_path):
    recipe = collapsing(small, "stop")
    ended = train(recipe, tmp_path / "run")
    again = resume(tmp_path / "run", on_collapse="rollback")
    events = [line for line in lines(tmp_path / "run", "event") if "rollback" in line]
    assert events[0]["abandoned"]["to"] == ended.step
    assert again.reason == "" or len(events) == 3
