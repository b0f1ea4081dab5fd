"""Runs in every order: resumed in mid-epoch they are the runs that never stopped; one cosine; what a recipe refuses."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siamscope import recipe as recipes
from siamscope.data import DataError, open_dataset
from siamscope.recipe import RecipeError
from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint
from siamscope.training.loop import Loop
from siamscope.training.optim import rate_factor
from siamscope.training.progress import Silent
from siamscope.workflow.encoder import Trained
from siamscope.workflow.ordering import build_order
from siamscope.workflow.train import resume, train


class Stop(Exception):
    """Stands for a kill: leaves everything as it is on the disk."""


def last(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint.numbered(RunDir(run))[-1], weights_only=True)["model"]


def losses(run: Path) -> list:
    return [(line["step"], line["loss"]) for line in read_jsonl(RunDir(run).metrics) if line["kind"] == "step"]


def killed(monkeypatch, step: int) -> None:
    """Die when the losses of `step` would be written."""
    flush = Loop.flush

    def dying(self, received):
        if self.pending and self.pending[-1][0] == step:
            raise Stop
        return flush(self, received)

    monkeypatch.setattr(Loop, "flush", dying)


ORDERS = {
    "current": {"name": "current"},
    "cumulative": {"name": "cumulative"},
    "hybrid": {"name": "hybrid", "switch": 0.5},
    "replay": {"name": "current", "replay": 0.25, "buffer": 20},
    "class shift": {"name": "current", "shift": "class"},
    "stream": {"name": "stream", "replay": 0.25},
}
DATA = {"size": 16, "samples": 40, "val_samples": 8, "test_samples": 8}
FAST = {"data": DATA, "network": {"backbone": "mlp", "width": 0.25}, "monitor": {"interval": 8, "bank": 8, "watch": -1}}


@pytest.mark.parametrize("case", ORDERS)
def test_resume_is_bit_equal(small, tmp_path, monkeypatch, case):
    """Killed after step 6 of 8, the last checkpoint after step 3: within a chunk, an epoch (of 5 steps) and a pass."""
    recipe = small(
        **FAST, train={"steps": 8, "checkpoint_steps": 3, "batch_size": 8}, order={"chunks": 4, **ORDERS[case]}
    )
    train(recipe, tmp_path / "whole")
    killed(monkeypatch, 6)
    with pytest.raises(Stop):
        train(recipe, tmp_path / "cut")
    monkeypatch.undo()
    assert losses(tmp_path / "cut")[-1][0] == 5
    assert resume(tmp_path / "cut").step == 8
    whole, cut = last(tmp_path / "whole"), last(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_hybrid_is_a_current_run_before_the_switch(small, tmp_path):
    """Equal losses up to the switch (before step 5 of 8), others after it; and both have taken equally many steps."""
    found = {}
    for name in ("current", "hybrid"):
        order = {"name": name, "chunks": 4, **({"switch": 0.5} if name == "hybrid" else {})}
        train(small(**FAST, train={"steps": 8, "batch_size": 8}, order=order), tmp_path / name)
        found[name] = losses(tmp_path / name)
        lines = [line for line in read_jsonl(tmp_path / name / "metrics.jsonl") if line["kind"] == "step"]
        assert [line["epoch"] for line in lines] == [round(step / 5, 4) for step in range(1, 9)]
        rates = [line["lr"] for line in lines]
        assert rates == pytest.approx([rates[0] * (1 + math.cos(math.pi * k / 7)) / 2 for k in range(8)])
    assert found["current"][:4] == found["hybrid"][:4]
    assert found["current"][4:] != found["hybrid"][4:]
    about = json.loads((tmp_path / "hybrid" / "environment.json").read_text())
    assert about["order"] == "hybrid: 4 chunks of 10 images, about 2 steps each; iid from step 4"


def test_one_cosine_across_the_switch():
    """After 40 of 100 epochs the factor is (1 + cos 0.4 pi) / 2, as if the run had been iid all along."""
    assert rate_factor(41, 101, 0, 0.0) == pytest.approx(0.6545084971874737, abs=1e-15)
    factors = np.array([rate_factor(step, 500, 0, 0.0) for step in range(1, 501)])
    assert np.abs(np.diff(factors)).max() <= math.pi / 2 / 499 * 1.0001  # the cosine's steepest slope: no jump
    assert rate_factor(1, 300, 0, 0.0) - factors[199] > 0.3  # a restart would be one


def test_the_predictor_may_stay_constant_across_the_switch(small, tmp_path):
    recipe = small(
        **FAST, train={"steps": 8, "batch_size": 8}, optim={"constant_predictor_lr": True},
        order={"name": "hybrid", "chunks": 4, "switch": 0.5},
    )  # fmt: skip
    train(recipe, tmp_path / "run")
    lines = [line for line in read_jsonl(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "step"]
    assert len({line["lr_predictor"] for line in lines}) == 1
    assert len({line["lr"] for line in lines}) == 8


# --- a folder that grows ---


def put(root: Path, first: int, count: int) -> None:
    random = np.random.default_rng(first)
    for i in range(first, first + count):
        path = root / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(path)


def growing(small, root: Path, **order):
    data = {**DATA, "source": str(root), "samples": 0, "test_samples": 0, "cache_dir": str(root.parent / "cache")}
    order = {"name": "stream", "chunks": 4, "replay": 0.25, **order}
    return small(**(FAST | {"data": data}), train={"steps": 8, "checkpoint_steps": 3, "batch_size": 8}, order=order)


def put_during(monkeypatch, root: Path, plan: dict[int, tuple[int, int]]) -> None:
    """Put images into the folder after the given steps; in both runs at the same ones."""
    step = Loop.step

    def stepping(self, number, images):
        if number in plan and not (root / f"{plan[number][0]:03d}.png").exists():
            put(root, *plan[number])
        return step(self, number, images)

    monkeypatch.setattr(Loop, "step", stepping)


def test_a_growing_folder_killed_and_resumed(small, tmp_path, monkeypatch):
    """The resumed run finds what the killed one found (also for chunk 2, in which it died), though more came since."""
    for name in ("whole", "cut"):
        root = tmp_path / name / "photos"
        put(root, 0, 24)
        recipe = growing(small, root)
        put_during(monkeypatch, root, {1: (100, 10), 3: (200, 12), 7: (300, 6)})
        if name == "cut":
            killed(monkeypatch, 6)
            with pytest.raises(Stop):
                train(recipe, tmp_path / name / "run")
            monkeypatch.undo()
            put(root, 400, 20)  # while nobody looks: they join at chunk 3 and not before
            put_during(monkeypatch, root, {7: (300, 6)})
            resume(tmp_path / name / "run")
        else:
            put_during(monkeypatch, root, {6: (400, 20)})
            train(recipe, tmp_path / name / "run")
        monkeypatch.undo()
    whole, cut = tmp_path / "whole" / "run", tmp_path / "cut" / "run"
    ledgers = [
        [len(json.loads((run / "stream" / f"chunk{k:05d}.json").read_text())["files"]) for k in (1, 2, 3)]
        for run in (whole, cut)
    ]
    assert ledgers == [[10, 12, 20], [10, 12, 20]]
    assert losses(whole) == losses(cut)
    a, b = last(whole), last(cut)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_processes_follow_one_on_a_growing_folder(small, tmp_path, monkeypatch):
    """They go on with a killed run's ledger, find what is new at chunk 3, and see the batches that one process sees."""
    root, one, two = tmp_path / "photos", tmp_path / "one", tmp_path / "two"
    put(root, 0, 24)
    put_during(monkeypatch, root, {1: (100, 10), 3: (200, 12)})
    killed(monkeypatch, 6)
    with pytest.raises(Stop):
        train(growing(small, root), one)
    monkeypatch.undo()
    put(root, 300, 9)
    shutil.copytree(one, two)
    resume(one)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "siamscope", "resume", str(two), "--quiet"]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=300)
    entries = [(run / "stream" / "chunk00003.json").read_text() for run in (one, two)]
    assert entries[0] == entries[1]
    assert len(json.loads(entries[0])["files"]) == 9
    assert [loss for _, loss in losses(two)] == pytest.approx([loss for _, loss in losses(one)], rel=2e-4, abs=2e-5)
    for name, weight in last(one).items():
        torch.testing.assert_close(last(two)[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_the_images_of_the_start_must_stay(small, tmp_path):
    root = tmp_path / "photos"
    put(root, 0, 24)
    train(growing(small, root), tmp_path / "run")
    put(root, 500, 9)
    assert resume(tmp_path / "run").step == 8
    known = json.loads((tmp_path / "run" / "environment.json").read_text())["data_fingerprint"]
    evaluated = Trained.load(tmp_path / "run").open(None, Silent())  # validation images stay apart from what joined
    assert evaluated.fingerprint == known != open_dataset(growing(small, root).data).fingerprint
    (root / "003.png").unlink()
    with pytest.raises(DataError, match=r"gone .*'003.png'"):
        resume(tmp_path / "run")
    put(root, 3, 1)  # another picture under the name
    with pytest.raises(ValueError, match="have changed since"):
        resume(tmp_path / "run")


def test_a_run_on_a_growing_folder_can_be_replaced(small, tmp_path):
    root = tmp_path / "photos"
    put(root, 0, 24)
    train(growing(small, root), tmp_path / "run")
    put(root, 100, 20)
    train(growing(small, root, chunks=2), tmp_path / "run", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run" / "stream").iterdir()) == ["chunk00001.json", "start.json"]


# --- what a recipe refuses ---


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            {"name": "iid", "replay": 0.5},
            r"order.replay goes with order.name 'current' or 'hybrid' or 'stream', not .*'iid'",
        ),
        ({"name": "cumulative", "replay": 0.5}, r"order.replay .* not with 'cumulative'"),
        ({"name": "last", "rounds": 2}, r"order.rounds .* not with 'last'"),
        ({"name": "current", "subset": 0.5}, r"order.subset goes with order.name 'last'"),
        ({"name": "stream", "shift": "class"}, r"order.shift .* not with 'stream'"),
        ({"name": "iid", "shift": "class"}, r"order.shift .* not with 'iid'"),
        ({"name": "current", "buffer": 5}, r"order.buffer needs order.replay"),
        ({"name": "current", "replay": 0.001}, r"order.replay must leave at least one row of a batch of 32"),
        ({"name": "current", "replay": 1.0}, r"order.replay must leave at least one row of a batch of 32"),
        ({"name": "hybrid", "switch": 0.0}, r"order.switch must be above 0 .*'iid'"),
        ({"name": "hybrid", "switch": 1.0}, r"order.switch must be above 0 .*'current'"),
        ({"name": "current", "chunks": 0}, r"order.chunks must be at least 1"),
        ({"name": "current", "shift": "domain"}, r"order.shift 'domain' needs data.domains"),
    ],
)
def test_contradictions_are_refused(small, order, message):
    recipe = small(order=order)
    with pytest.raises(RecipeError, match=message):
        recipes.validate(recipe)


@pytest.mark.parametrize("data", [{"source": "fashion-mnist"}, {"source": "x.npz", "kind": "npz"}])
def test_a_stream_of_what_ends_is_refused(small, data):
    with pytest.raises(RecipeError, match="'stream' needs images that never end"):
        recipes.validate(small(order={"name": "stream"}, data=data))


def test_fields_that_say_nothing_about_an_order_are_let_pass(small):
    """One `chunks` and `switch` for all orders of a study."""
    for name in ("iid", "current", "cumulative", "last", "hybrid", "stream"):
        recipes.validate(small(order={"name": name, "chunks": 7, "switch": 0.3}))


def arrays(small, tmp_path, labels: bool, **order):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "a.npz", **{"x_train": pixels} | ({"y_train": np.zeros(30, int)} if labels else {}))
    data = {"source": str(tmp_path / "a.npz"), "size": 16, "samples": 0, "val_samples": 6, "test_samples": 0}
    return small(data=data, order={"chunks": 3, **order})


@pytest.mark.parametrize("labels", [True, False])
def test_data_that_the_order_cannot_go_by(small, tmp_path, labels):
    recipe = replace(arrays(small, tmp_path, labels, name="current", shift="class"))
    recipes.validate(recipe)
    recipe = replace(recipe, train=replace(recipe.train, batch_size=8))
    dataset = open_dataset(recipe.data)
    with pytest.raises(DataError, match=r"order.shift = 'class' needs training images of at least two classes"):
        build_order(recipe, dataset, 12)
    stream = replace(recipe, order=replace(recipe.order, name="stream", shift="none"))
    recipes.validate(stream)  # its kind is found when the file is opened
    with pytest.raises(DataError, match=r"needs images that never end.*a.npz is npz"):
        train(stream, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_chunks_than_images_or_steps(small, tmp_path):
    with pytest.raises(DataError, match=r"order.chunks = 97 is more than the 96 training images"):
        train(small(order={"name": "current", "chunks": 97}, train={"steps": 100}), tmp_path / "run")
    with pytest.raises(DataError, match=r"20 chunks to present .* more than the 6 steps"):
        train(small(order={"name": "current", "chunks": 10, "rounds": 2}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
