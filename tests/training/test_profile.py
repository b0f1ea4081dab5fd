"""`--profile`: spans that nest and add up to the step, the part that is slow named, a trace in Chrome's format."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from collections import defaultdict

import pytest
import torch

from siamscope.cli import run as command
from siamscope.training import loop as loops
from siamscope.training.monitor import Monitor
from siamscope.training.profile import Profile, Spans, Totals
from siamscope.workflow import ordering
from siamscope.workflow import train as training
from siamscope.workflow.profiled import advice, parts, words

STEP_SPANS = {"data", "views", "forward", "backward", "statistics", "optimiser", "target", "logging", "other"}


def profiled(small, out, method="simsiam", steps=16, detailed=2, **sections):
    sections = {"train": {"steps": steps} | sections.pop("train", {}), **sections}
    done = training.train(small(method, **sections), out, profile=detailed)
    return done, json.loads((out / "profile.json").read_text()), json.loads((out / "trace.json").read_text())


def slices(trace, category="siamscope"):
    return [event for event in trace["traceEvents"] if event.get("cat") == category]


def check_format(trace):
    """What the trace-event format asks of the kinds of events that are used."""
    assert isinstance(trace["traceEvents"], list)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert event["ph"] in set("XMsfitbenCBE"), event
        assert isinstance(event["name"], str) and {"pid", "tid", "ts"} <= set(event)
        assert isinstance(event["ts"], int | float) and event["ts"] >= 0
        if event["ph"] == "X":
            assert isinstance(event["dur"], int | float) and event["dur"] >= 0
        if event["ph"] == "M":
            assert "name" in event["args"] or "labels" in event["args"] or "sort_index" in event["args"]
        if event["ph"] in "sf":
            assert "id" in event


def test_a_run_says_where_its_time_went(small, tmp_path):
    done, found, trace = profiled(small, tmp_path / "run", monitor={"interval": 8})
    assert done.step == 16 and (found["first_step"], found["last_step"]) == (1, 16)
    assert (found["warm_up_steps"], found["steps_with_operators"], found["settled_steps"]) == (4, 2, 10)
    by_name = {span["name"]: span for span in found["spans"]}
    assert set(by_name) >= STEP_SPANS | {"monitor", "checkpoint"}
    assert sum(span["share"] for span in found["spans"]) == pytest.approx(1)
    assert sum(span["ms"] for span in found["spans"]) == pytest.approx(found["step_ms"])
    assert found["images_per_second"] == pytest.approx(32 / found["step_ms"] * 1e3)
    assert by_name["monitor"]["calls"] == pytest.approx(2 / 16)
    assert by_name["forward"]["calls"] == 1
    inside = {span["name"]: span for span in by_name["forward"]["inside"]}
    assert inside["online"]["calls"] == inside["predictor"]["calls"] == 2  # two views
    assert sum(span["ms"] for span in inside.values()) <= by_name["forward"]["ms"]
    assert by_name["other"]["share"] < 0.3
    told = (tmp_path / "run" / "profile.txt").read_text()
    assert f"The largest part is {found['spans'][0]['name']}" in told and "steps 1 to 16" in told
    check_format(trace)


def test_spans_of_a_step_nest_and_add_up(small, tmp_path):
    _, found, trace = profiled(small, tmp_path / "run", detailed=1)
    steps = defaultdict(list)
    for event in slices(trace):
        steps[event["args"]["step"]].append(event)
    assert sorted(steps) == list(range(1, 17))
    covered = []
    for events in steps.values():
        (whole,) = [event for event in events if event["name"] == "step"]
        tops = [event for event in events if "/" not in event["args"]["path"] and event is not whole]
        for event in events:
            above = event["args"]["path"].rpartition("/")[0]
            around = [e for e in events if e["args"]["path"] == above] if above else [whole]
            start, end = event["ts"] + 1e-3, event["ts"] + event["dur"] - 1e-3
            assert any(e["ts"] <= start and end <= e["ts"] + e["dur"] for e in around)
        ends = sorted((event["ts"], event["ts"] + event["dur"]) for event in tops)
        assert all(end <= start + 1e-3 for (_, end), (start, _) in itertools.pairwise(ends))
        covered.append(sum(event["dur"] for event in tops) / whole["dur"])
    settled = covered[5:]
    other = next(span for span in found["spans"] if span["name"] == "other")
    assert sorted(settled)[len(settled) // 2] > 0.8 and other["share"] < 0.2


def test_the_operators_of_a_few_steps_lie_inside_the_spans(small, tmp_path):
    _, _, trace = profiled(small, tmp_path / "run", detailed=2, monitor={"interval": 16})  # none of them measures
    assert {event["pid"] for event in slices(trace)} == {os.getpid()}
    ours = [event for event in slices(trace) if event["name"] == "forward" and event["args"]["step"] in (5, 6)]
    theirs = [event for event in slices(trace, "user_annotation") if event["name"] == "forward"]
    assert len(ours) == len(theirs) == 2  # the steps after the warm-up, and no other
    for mine, recorded in zip(ours, theirs, strict=True):
        assert mine["ts"] - 2000 <= recorded["ts"] and recorded["dur"] <= mine["dur"] + 4000  # two clocks
    convolutions = [event for event in slices(trace, "cpu_op") if event["name"] == "aten::convolution"]
    inside = [event for event in convolutions if any(f["ts"] <= event["ts"] < f["ts"] + f["dur"] for f in theirs)]
    assert inside and len(inside) == len(convolutions)


def slow_batches(*arguments, **options):
    ordinary = ordering.batches(*arguments, **options)

    def batches(step):
        for images in ordinary(step):
            time.sleep(0.25)
            yield images

    return batches


def test_a_slow_source_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "batches", slow_batches)
    _, found, _ = profiled(small, tmp_path / "run", steps=8, detailed=0)
    assert found["largest"] == "data" and found["spans"][0]["ms"] > 250
    assert any("waits for images" in tip for tip in found["advice"])
    assert "--workers" in (tmp_path / "run" / "profile.txt").read_text()


def test_a_slow_monitor_is_named_and_a_quick_source_is_not(small, tmp_path, monkeypatch):
    measure = Monitor.measure

    def slowly(self, *arguments):
        time.sleep(0.6)
        return measure(self, *arguments)

    monkeypatch.setattr(Monitor, "measure", slowly)
    _, found, _ = profiled(small, tmp_path / "run", steps=8, detailed=0, monitor={"interval": 2})
    assert found["largest"] == "monitor" and found["spans"][0]["ms"] > 300  # every other step
    assert any("measure more rarely" in tip for tip in found["advice"])
    assert not any("waits for images" in tip for tip in found["advice"])


def test_a_profiled_run_computes_the_same(small, tmp_path):
    profiled(small, tmp_path / "told", method="byol", steps=8)
    training.train(small("byol", train={"steps": 8}), tmp_path / "plain")
    losses = [
        [line["loss"] for line in map(json.loads, (tmp_path / name / "metrics.jsonl").open()) if line["kind"] == "step"]
        for name in ("told", "plain")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    assert not any((tmp_path / "plain" / name).exists() for name in ("profile.json", "profile.txt", "trace.json"))


def test_accumulated_parts_crops_and_the_momentum_target(small, tmp_path):
    _, found, _ = profiled(
        small,
        tmp_path / "run",
        method="byol",
        steps=4,
        detailed=0,
        train={"accumulate": 2},
        views={"local_crops": 2, "local_size": 8},
    )
    by_name = {span["name"]: span for span in found["spans"]}
    assert by_name["views"]["calls"] == by_name["backward"]["calls"] == 2
    assert by_name["optimiser"]["calls"] == by_name["target"]["calls"] == 1
    inside = {span["name"]: span["calls"] for span in by_name["forward"]["inside"]}
    assert inside["online"] == 8 and inside["target"] == 4  # two parts; four views, of which the target sees two


def test_a_run_that_fails_or_stops_says_it_too(small, tmp_path, monkeypatch):
    real = loops.Loop.flush

    def failing(self, received):
        if self.pending and self.pending[-1][0] == 9:
            raise loops.NonFiniteLossError("the loss is nan")
        return real(self, received)

    monkeypatch.setattr(loops.Loop, "flush", failing)
    recipe = small("simsiam", train={"steps": 16, "checkpoint_steps": 4})
    with pytest.raises(loops.NonFiniteLossError):
        training.train(recipe, tmp_path / "run", profile=1)
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert (found["first_step"], found["last_step"]) == (1, 9) and found["processes"] == []
    monkeypatch.setattr(loops.Loop, "flush", real)
    done = training.resume(tmp_path / "run", profile=1)
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert done.step == 16 and (found["first_step"], found["last_step"]) == (9, 16)
    check_format(json.loads((tmp_path / "run" / "trace.json").read_text()))


def test_a_resumed_run_that_is_complete_has_nothing_to_tell(small, tmp_path):
    training.train(small("simsiam"), tmp_path / "run")
    training.resume(tmp_path / "run", profile=5)
    assert "No step was made" in (tmp_path / "run" / "profile.txt").read_text()


def test_the_steps_after_a_rollback_are_counted_too():
    profile = Profile(0, 20, 0)
    for step in (1, 2, 3, 2, 3, 4):
        profile.begin(step)
        with profile("data"):
            pass
    profile.finish()
    assert profile.everything.steps == 6 and profile.everything.calls["data"] == 6 and profile.last == 4


def test_what_few_steps_do_is_spread_over_all_and_the_rest_is_other():
    profile = Profile(0, 100)
    profile.settled = Totals(
        10,
        1000.0,
        {"data": 300.0, "forward": 600.0, "forward/online": 500.0, "monitor": 50.0},
        {"data": 10, "forward": 10, "forward/online": 20, "monitor": 1},
    )
    profile.everything = Totals(
        100,
        9000.0,
        {"data": 3000.0, "forward": 5000.0, "forward/online": 4000.0, "monitor": 400.0},
        {"data": 100, "forward": 100, "forward/online": 200, "monitor": 8},
    )
    found = {part["name"]: part for part in parts(profile)}
    assert {name: part["ms"] for name, part in found.items()} == pytest.approx(
        {"forward": 60, "data": 30, "monitor": 4, "other": 5}
    )
    (online,) = found["forward"]["inside"]
    assert (online["name"], online["ms"], online["calls"]) == ("online", 50, 2)
    assert online["share"] == pytest.approx(50 / 99)
    assert next(iter(found)) == "forward"


def test_advice_follows_the_shares_and_the_recipe(small):
    exact = small("simsiam", views={"colour": "exact"}, train={"compile": "off"})
    told = advice({"views": 0.3, "forward": 0.3, "backward": 0.3, "data": 0.1}, exact)
    assert [tip for tip in told if "--views.colour fast" in tip]
    assert "--train.precision bf16, --train.channels-last on, --train.compile on" in told[0]
    fast = dataclasses.replace(
        exact,
        views=dataclasses.replace(exact.views, colour="fast"),
        train=dataclasses.replace(exact.train, precision="bf16", channels_last="on", compile="on"),
    )
    assert advice({"views": 0.3, "forward": 0.3, "backward": 0.3, "data": 0.1}, fast) == []


def test_the_slowest_process_is_named():
    found = {
        "spans": [{"name": "data", "ms": 1.0, "share": 1.0, "calls": 1, "inside": []}], "advice": [], "lost": "",
        "settled_steps": 1, "first_step": 1, "last_step": 1, "clock": "host", "batch_size": 8, "step_ms": 1.0,
        "images_per_second": 8e3, "warm_up_steps": 0, "steps_with_operators": 0,
        "processes": [
            {"rank": 0, "host": "a", "step_ms": 30.0, "alone_ms": 5.0},
            {"rank": 1, "host": "b", "step_ms": 31.0, "alone_ms": 20.0},
        ],
    }  # fmt: skip
    assert "last to have its views is rank 1 on b, after 20.00 ms, first rank 0" in words(found)
    assert "processes" not in words(found | {"processes": found["processes"][:1]})


def test_nothing_is_measured_without_being_asked():
    spans = Spans()
    spans.begin(1)
    assert spans("views") is spans("forward")


@pytest.mark.parametrize("value", ["-1", "101"])
@pytest.mark.parametrize("start", [["train", "shapes", "--out"], ["resume"]])
def test_too_many_steps_are_refused_before_anything_begins(tmp_path, capsys, value, start):
    assert command([*start, str(tmp_path / "run"), "--profile", "--profile-steps", value]) == 2
    assert "--profile-steps must be from 0 to 100" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_command_prints_the_words(tmp_path, capsys):
    arguments = "--profile --profile-steps 0 --train.steps 4 --train.batch-size 16 --data.size 16 --data.samples 64"
    arguments += " --data.val-samples 16 --data.test-samples 16 --evaluation.no-probe --network.width 0.25 --quiet"
    assert command(["train", "shapes", "--out", str(tmp_path / "run"), "--method", "simsiam", *arguments.split()]) == 0
    told = capsys.readouterr().err
    assert "Where the time of a step went" in told and "images/s. The largest part is" in told


class Event:
    """Stands for an event on a GPU's stream, which is `behind` the host by some milliseconds."""

    made = 0
    clock, behind, passed = 0.0, 50.0, 0.0

    def __init__(self, enable_timing):
        assert enable_timing
        Event.made += 1

    def record(self, stream):
        self.at = Event.clock + Event.behind

    def query(self):
        return self.at <= Event.passed

    def elapsed_time(self, later):
        assert later.at <= Event.passed  # asked only when the device is there: nothing waits
        return later.at - self.at


def test_on_a_gpu_times_are_between_events_and_nothing_waits_for_them(monkeypatch):
    waits = []

    def synchronize(device):
        waits.append(device)
        Event.passed = float("inf")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    profile = Profile(0, 40, 0, torch.device("cuda"))
    for step in range(1, 41):
        profile.begin(step)
        with profile("forward"):
            Event.clock += 3.0
        with profile("backward"):
            Event.clock += 6.0
        Event.clock += 1.0
        Event.passed = Event.clock
    assert not waits and profile.everything.steps < 40  # the last steps' events lie ahead of the device
    assert profile.everything.steps >= 30
    assert Event.made < 80  # read events are used again: a step has six
    profile.finish()
    assert len(waits) == 1 and profile.everything.steps == 40
    found = {part["name"]: part["ms"] for part in parts(profile)}
    assert found == pytest.approx({"forward": 3, "backward": 6, "other": 1}, abs=0.05)
