"""Whether the step is compiled: the rule, what a trial leaves behind, and that compiled steps are the same steps."""

import json
from dataclasses import replace

import pytest
import torch

from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint
from siamscope.training import compile as compiling
from siamscope.training.build import Normalisation, build_trainer
from siamscope.training.distributed import World
from siamscope.training.loop import Loop
from siamscope.training.precision import Precision
from siamscope.workflow.train import resume, train


def images(n: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def trainer(recipe, precision=None):
    return build_trainer(recipe, 3, 3, Normalisation((0.5,) * 3, (0.25,) * 3), World(), precision or Precision())


def clock(*seconds: float):
    """Passes that take these times, one after another, the last for ever."""
    left = list(seconds)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def plain_compiler(monkeypatch):
    """torch.compile that changes nothing, and its calls."""
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: calls.append(function) or function)
    monkeypatch.setattr(compiling, "_obstacle", lambda _: "")
    return calls


def test_a_short_run_is_left_alone(small, plain_compiler):
    found = compiling.choose("auto", trainer(small()), 1_000, clock(0.1))
    assert not found.compiled and not plain_compiler
    assert "20.0 ms a step saved x 1,000 steps = 20 s at most, less than 2 x the 30 s" in found.reason
    assert found.seconds == {"eager": 0.1}
    assert "50 steps are too few" in compiling.choose("auto", trainer(small()), 50, clock(100.0)).reason


def test_a_long_run_is_compiled_when_that_is_faster(small, plain_compiler):
    state = trainer(small("byol"))
    found = compiling.choose("auto", state, 10_000, clock(0.1, 0.1, 0.1, 9.0, 0.06))
    assert found.compiled and len(plain_compiler) == 2, "online and target"
    assert found.reason.startswith("compiled the step: 40.0 ms a step saved x 10,000 steps = 400 s > ")
    assert state.model.online.compiled is not None and state.model.target.compiled is not None


@pytest.mark.parametrize("after", [0.1, 0.098, 0.2])
def test_a_trial_that_gains_nothing_is_undone(small, plain_compiler, after):
    state = trainer(small())
    found = compiling.choose("auto", state, 10_000, clock(0.1, 0.1, 0.1, 9.0, after))
    assert not found.compiled and len(plain_compiler) == 1
    assert found.reason.startswith("not compiled: tried for") and found.seconds["compiled"] == after
    assert state.model.online.compiled is None


def test_off_on_and_what_is_in_the_way(small, plain_compiler, monkeypatch):
    assert not compiling.choose("off", trainer(small()), 10**9, clock(1.0)).compiled
    assert compiling.choose("on", trainer(small()), 1, clock(1.0)).compiled
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = compiling.choose("on", trainer(small()), 10**9, clock(1.0))
    assert not found.compiled and "no C++ compiler was found (no-such-compiler)" in found.reason
    several = replace(trainer(small()), world=World(rank=0, size=2))
    assert "several processes" in compiling.choose("on", several, 10**9, clock(1.0)).reason


def test_a_compiler_that_fails_is_a_note_and_the_step_goes_on(small, monkeypatch):
    def broken(function, **_):
        def fail(images):
            raise RuntimeError("internal compiler error\nmore")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compiling, "_obstacle", lambda _: "")
    state = trainer(small())
    found = compiling.choose("on", state, 10)
    assert not found.compiled and found.reason == "not compiled: compiling failed (internal compiler error)"
    assert torch.isfinite(state.step(1, images()))


def test_a_trial_leaves_no_trace(small, plain_compiler):
    """Weights, running statistics, gradients and random numbers: the next steps are those of a run without it."""

    def steps(trial: bool) -> list[float]:
        state = trainer(small("byol"))
        if trial:
            torch.manual_seed(5)
            before, drawn = torch.get_rng_state(), compiling.timed(state)
            assert drawn() > 0
            assert torch.equal(before, torch.get_rng_state())
            assert all(p.grad is None for p in state.model.parameters())
        return [float(state.step(n, images())) for n in (1, 2, 3)]

    assert steps(True) == steps(False)


MIXED = {"views": {"cutmix": 1.0}}


@pytest.mark.parametrize(
    ("method", "sections", "graphs"),
    [("simsiam", {}, 1), ("byol", {}, 2), ("simsiam", MIXED, 2), ("simclr", MIXED, 1), ("byol", MIXED, 2)],
)
def test_a_trial_compiles_every_graph_of_a_step_and_no_other(small, monkeypatch, method, sections, graphs):
    """Otherwise a step would compile in the middle of the run. A graph: a branch, with or without gradients."""
    calls = set()

    def counting(function, **_):
        def call(images):
            calls.add((function, torch.is_grad_enabled(), images.shape))
            return function(images)

        return call

    monkeypatch.setattr(torch, "compile", counting)
    monkeypatch.setattr(compiling, "_obstacle", lambda _: "")
    state = trainer(small(method, **sections))
    assert compiling.choose("on", state, 10).compiled
    tried = set(calls)
    assert len(tried) == graphs
    calls.clear()
    state.step(1, images())
    assert calls == tried
    short = compiling.choose("auto", state, 200, clock(1.0))
    assert f"less than 2 x the {30 * graphs} s" in short.reason


def test_a_branch_that_is_passed_in_two_is_not_compiled(small):
    """Its parts would run eagerly: a compiled branch would save nothing, and the log would say that it did."""
    recipe = small()
    state = trainer(replace(recipe, method=replace(recipe.method, regulariser="variance")))
    found = compiling.choose("on", state, 10, clock(1.0))
    assert not found.compiled and "the projector's last norm" in found.reason
    assert not trainer(recipe).model.looks_inside


def test_compiled_steps_are_the_same_steps(small):
    """Really compiled: losses and running statistics near those of the eager step, and not its very bits by luck."""
    recipe = small("byol", network={"backbone": "mlp"})  # of fewer operations: it compiles in seconds
    plain, fast = trainer(recipe), trainer(recipe)
    found = compiling.choose("on", fast, 3)
    if not found.compiled:
        pytest.skip(found.reason)
    for number in (1, 2, 3):
        a, b = plain.step(number, images()), fast.step(number, images())
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(fast.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_compiled_run_goes_on_bit_for_bit(small, tmp_path, monkeypatch):
    recipe = small(network={"backbone": "mlp"}, train={"compile": "on", "steps": 4, "checkpoint_steps": 2})
    train(recipe, tmp_path / "whole")
    about = json.loads((tmp_path / "whole" / "environment.json").read_text())
    if not about["compile"].startswith("compiled the step"):
        pytest.skip(about["compile"])

    real = Loop.step

    def stops(self, number, batch):
        if number == 4:
            raise KeyboardInterrupt
        return real(self, number, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", stops)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "cut")
    resume(tmp_path / "cut")

    def end(name):
        run = RunDir(tmp_path / name)
        weights = torch.load(checkpoint.numbered(run)[-1], weights_only=True)["model"]
        return weights, [(m["step"], m["loss"]) for m in read_jsonl(run.metrics) if m["kind"] == "step"]

    (whole, losses), (cut, others) = end("whole"), end("cut")
    assert losses == others
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_a_finished_run_is_not_compiled_again_and_one_that_cannot_be_says_so(small, tmp_path, monkeypatch):
    asked = []

    def answer(compiled):
        def choose(setting, trainer, left):
            asked.append((setting, left))
            return compiling.Choice(compiled, "compiled" if compiled else "not compiled: no compiler")

        return choose

    recipe = small(train={"compile": "on", "steps": 4, "checkpoint_steps": 2})
    monkeypatch.setattr(compiling, "choose", answer(True))
    run = RunDir(tmp_path / "run")
    train(recipe, run.path)
    assert asked == [("on", 4)]
    resume(run.path)
    assert asked == [("on", 4)], "nothing was left to do"
    checkpoint.numbered(run)[-1].unlink()
    kept = int(checkpoint.numbered(run)[-1].stem.removeprefix("step-"))
    monkeypatch.setattr(compiling, "choose", answer(False))
    resume(run.path)
    assert asked[1:] == [("on", 4 - kept)] and 0 < kept < 4
    told = [m["message"] for m in read_jsonl(run.metrics) if m["kind"] == "event"]
    assert "not compiled: no compiler; the steps before were, so what follows is not bit-equal" in told


def test_auto_is_written_down_as_what_was_chosen(small, tmp_path):
    train(small(), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert run.recipe().train.compile == "off"
    assert json.loads(run.environment.read_text())["compile"] == "not compiled: 6 steps are too few"
