"""The alarm in training: it changes nothing until it acts, ends what collapses, and goes back bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from siamscope import recipe as recipes
from siamscope.cli import run as cli
from siamscope.collapse.alarm import Alarm
from siamscope.recipe import RecipeError
from siamscope.report.metrics import read_metrics
from siamscope.rundir import RunDir, RunError, read_jsonl
from siamscope.training import checkpoint, rollback
from siamscope.training import watch as watching
from siamscope.training.loop import Loop
from siamscope.training.watch import every
from siamscope.workflow.jobs import Run, execute, outcome
from siamscope.workflow.train import resume, train


def weights(run) -> dict:
    return torch.load(checkpoint.numbered(RunDir(run))[-1], weights_only=True)["model"]


def lines(run, kind: str) -> list[dict]:
    return [line for line in read_jsonl(RunDir(run).metrics) if line["kind"] == kind]


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def collapsing(small, on_collapse: str, steps: int = 90, **monitor):
    """SimSiam without its stop-gradient, at a high rate: a point after some sixty steps."""
    recipe = small(
        train={"steps": steps},
        optim={"lr": 1.0},
        monitor={"interval": 10, "watch": 5, "on_collapse": on_collapse} | monitor,
    )
    return replace(recipe, method=replace(recipe.method, target="shared"))


@pytest.fixture(scope="module")
def scripted():
    """`scripted(monkeypatch, {step: state})`: an alarm that says what a test wants, whatever it sees."""

    def install(monkeypatch, sounds) -> None:
        real = watching.advance

        def advance(state, look):
            state = real(state, look)
            said = "alarm" if sounds(look) else "quiet"
            return replace(state, alarm=Alarm(said, "dimensional" if said == "alarm" else "", look.step, ("a test",)))

        monkeypatch.setattr(watching, "advance", advance)

    return install


def test_the_watch_changes_no_weight(small, tmp_path):
    """Looks at every step against none: the same losses and the same weights, momentum target and bank included."""
    for method in ("simsiam", "mocov2"):
        for name, step in (("on", 1), ("off", -1)):
            train(small(method, train={"steps": 6}, monitor={"watch": step}), tmp_path / method / name)
        on, off = tmp_path / method / "on", tmp_path / method / "off"
        assert equal(weights(on), weights(off))
        assert [x["loss"] for x in lines(on, "step")] == [x["loss"] for x in lines(off, "step")]
        assert [x["step"] for x in lines(on, "watch")] == [1, 2, 3, 4, 5, 6]
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
    assert "complete collapse" in capsys.readouterr().err
    sounded = next(line for line in lines(run, "watch") if line["state"] == "alarm")
    assert sounded["collapse"] == "complete"
    assert sounded["embedding_std"] < 0.5
    assert checkpoint.numbered(RunDir(run))[-1].name == f"step-{sounded['step']:08d}.pt"
    assert lines(run, "step")[-1]["step"] == sounded["step"] < recipe.train.steps
    assert (run / "encoder.safetensors").is_file()
    assert not (run / "evaluation.json").exists()
    assert checkpoint.load(run / "checkpoints" / "healthy.pt", recipe).step < sounded["step"]
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


def rates(run) -> dict[int, float]:
    return {line["step"]: line["lr"] for line in lines(run, "step")}


def test_rollback_restores_and_lessens(small, tmp_path, monkeypatch, scripted):
    """An alarm at step 24 only: back to the measurement at step 20, a third of rate and decay, and on to the end."""
    rolled = []
    scripted(monkeypatch, lambda look: look.step == 24 and not rolled)
    recipe = small(
        "byol", train={"steps": 40}, optim={"constant_predictor_lr": True},
        monitor={"interval": 10, "watch": 4, "on_collapse": "rollback"},
    )  # fmt: skip
    real = rollback.restore
    seen = {}

    def restore(run, trainer, monitor, count):
        rolled.append(count)
        point = real(run, trainer, monitor, count)
        seen["model"] = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        seen["groups"] = [dict(group) for group in trainer.optimizer.param_groups]
        return point

    monkeypatch.setattr(rollback, "restore", restore)
    run = tmp_path / "run"
    assert train(recipe, run).reason == ""
    train(
        replace(recipe, train=replace(recipe.train, steps=40), monitor=replace(recipe.monitor, watch=-1)),
        tmp_path / "free",
    )
    assert rolled == [1]
    at_20 = torch.load(run / "checkpoints" / "healthy.pt", weights_only=True)
    assert at_20["step"] == 40  # later measurements were quiet again
    free, mine = rates(tmp_path / "free"), rates(run)
    assert list(mine) == list(range(1, 41))  # each step once
    assert all(mine[step] == free[step] for step in range(1, 21))
    assert all(mine[step] == pytest.approx(free[step] / 3, rel=1e-12) for step in range(21, 41))
    assert {group["weight_decay"] for group in seen["groups"]} == {recipe.optim.weight_decay / 3}
    event = next(line for line in lines(run, "event") if "rollback" in line)
    assert (event["step"], event["rollback"]) == (20, 1)
    assert event["abandoned"]["from"] == 21
    assert event["abandoned"]["to"] == 24
    assert event["abandoned"]["lines"] == {"step": 4, "watch": 1}
    assert event["abandoned"]["looks"][0]["step"] == 24
    assert "went back from step 24 to step 20" in event["message"]
    steps = [line["step"] for line in read_jsonl(run / "metrics.jsonl") if line["kind"] in ("step", "watch", "monitor")]
    assert steps == sorted(steps)
    losses = {line["step"]: line["loss"] for line in lines(run, "step")}
    others = {line["step"]: line["loss"] for line in lines(tmp_path / "free", "step")}
    assert all(losses[step] == others[step] for step in range(1, 22))  # step 21 starts from the same weights
    assert losses[22] != others[22]


def test_three_rollbacks_then_it_ends(small, tmp_path, monkeypatch, scripted):
    scripted(monkeypatch, lambda look: look.step >= 24)
    recipe = small(
        train={"steps": 40, "checkpoint_steps": 1}, monitor={"interval": 10, "watch": 4, "on_collapse": "rollback"}
    )
    run = tmp_path / "run"
    done = train(recipe, run)
    assert "3 rollbacks did not help" in done.reason
    assert done.step == 24
    events = [line for line in lines(run, "event") if "rollback" in line]
    assert [line["rollback"] for line in events] == [1, 2, 3]
    peaks = torch.load(checkpoint.numbered(RunDir(run))[-1], weights_only=True)["optimizer"]["param_groups"]
    peak = recipe.optim.lr * 32 / 256
    assert peaks[0]["peak"] == pytest.approx(peak / 27, rel=1e-12)
    again = resume(run)  # it has had its three
    assert "3 rollbacks did not help" in again.reason
    assert checkpoint.load_latest(RunDir(run), recipe)[0].rollbacks == 3


class Stop(Exception):
    """Stands for a kill: leaves everything as it is on the disk."""


CUTS = ("look", "event", "checkpoint", "unlink", "forgotten", "later")


@pytest.mark.parametrize("cut", CUTS)
def test_killed_around_a_rollback_it_ends_the_same(small, tmp_path, monkeypatch, scripted, cut):
    """Killed right after the alarm, between any two writes of the rollback, or some steps after it: bit-equal."""
    recipe = small(
        "byol", train={"steps": 32, "checkpoint_steps": 3, "keep": 2},
        monitor={"interval": 10, "watch": 4, "on_collapse": "rollback"},
    )  # fmt: skip
    # The scripted alarm hears the restored weights: it sounds at step 24 while the rate is the recipe's own.
    count = {"n": 0}
    real_restore, real_fit = rollback.restore, Loop.fit

    def restore(run, trainer, monitor, rollbacks):
        count["n"] = rollbacks
        return real_restore(run, trainer, monitor, rollbacks)

    def fit(self, batches):
        count["n"] = self.rollbacks
        return real_fit(self, batches)

    monkeypatch.setattr(rollback, "restore", restore)
    monkeypatch.setattr(Loop, "fit", fit)
    scripted(monkeypatch, lambda look: look.step == 24 and count["n"] == 0)
    train(recipe, tmp_path / "whole")

    def stop(*_, **__):
        raise Stop

    with monkeypatch.context() as killed:
        if cut == "look":
            killed.setattr(Loop, "go_back", stop)
        elif cut == "event":
            killed.setattr(
                rollback.checkpoint, "save", _stop_when(checkpoint.save, lambda r, x, p, **k: p.rollbacks == 1)
            )
        elif cut == "checkpoint":
            killed.setattr(
                rollback.checkpoint, "step_of", _stop_when(checkpoint.step_of, lambda p: count["n"] == 1 and rolling(p))
            )
        elif cut == "unlink":
            killed.setattr(RunDir, "forget_after", _stop_when(RunDir.forget_after, lambda s, step, *a: count["n"] == 1))
        elif cut == "forgotten":
            killed.setattr(Loop, "train", _stop_when(Loop.train, lambda s, *a: s.rollbacks == 1))
        else:
            killed.setattr(Loop, "step", _stop_when(Loop.step, lambda s, number, *a: s.rollbacks == 1 and number == 29))
        with pytest.raises(Stop):
            train(recipe, tmp_path / "cut")
    resume(tmp_path / "cut")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    for kind in ("step", "watch"):
        keys = ("step", "loss", "lr", "effective_rank", "state")
        whole, mine = ([{k: x.get(k) for k in keys} for x in lines(tmp_path / n, kind)] for n in ("whole", "cut"))
        assert whole == mine
    events = [x for x in lines(tmp_path / "cut", "event") if "rollback" in x]
    assert [x["rollback"] for x in events] == [1]


def rolling(path) -> bool:
    """Whether the rolled-back checkpoint is there already."""
    return (path.parent / "step-00000020.pt").exists()


def _stop_when(real, when):
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


def test_killed_and_resumed_the_alarm_sounds_at_the_same_step(small, tmp_path):
    """kill -9 in a process of its own; the state comes from the log."""
    recipe = collapsing(small, "stop", train=None) if False else collapsing(small, "stop")
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
