"""The count of a step's traffic against the calls of two and four real processes, and against closed forms."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from traffic_world import BATCH, CROPS, cases, counted, small
from worlds import rows

from siamscope import methods
from siamscope.objectives import Group
from siamscope.objectives.base import Objective
from siamscope.row import MethodError
from siamscope.training import traffic
from siamscope.training.distributed import World
from siamscope.training.siamese import build_objective

SCRIPT = Path(__file__).with_name("traffic_world.py")
CASES = [(size, name) for size in (2, 4) for name in cases(size)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("traffic") / "calls.json"
    ranks = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), str(out)], env=os.environ | {"OMP_NUM_THREADS": "1"})
        for rank in range(4)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * 4
    return json.loads(out.read_text())


@pytest.mark.parametrize(("size", "name"), CASES)
def test_count_is_what_processes_say(found, size, name):
    """Every call of a step by its module, kind and bytes: nothing is missing, nothing travels that is not counted."""
    real = Counter(map(tuple, found[str(size)]["calls"][name]))
    assert real == Counter(map(tuple, counted(rows()[name], size, CROPS[size])))


@pytest.mark.parametrize("name", ["simclr", "unigrad", "barlow", "swav", "lejepa", "directpred", "mocov2", "dino"])
@pytest.mark.parametrize("cell", ["width", "views", "item", "world"])
def test_another_size_is_another_count(found, name, cell):
    """Negative control: a wrong dimension, number of views, number format or number of processes does not agree."""
    model, _ = small(rows()[name], World(), CROPS[2])
    net, world = traffic.size_of(model, CROPS[2]), 2
    if cell == "world":
        world = 4
    else:
        net = dataclasses.replace(net, **{cell: getattr(net, cell) + 1})
    wrong = traffic.exchanges(net, world, BATCH // 2)
    sizes = Counter((e.kind, e.size) for e in wrong for _ in range(e.times))
    real = Counter((kind, size) for _, kind, size in map(tuple, found["2"]["calls"][name]))
    reacts = {
        "width": {"simclr", "unigrad", "barlow", "directpred", "mocov2", "dino"},
        "views": {"barlow", "lejepa"},  # others talk of the views with a target only
        "item": {"simclr", "unigrad", "barlow", "swav", "lejepa", "directpred", "mocov2", "dino"},
        "world": {"simclr", "barlow", "lejepa"},  # only the gradient of a gather has a size that depends on it
    }
    assert (sizes != real) == (name in reacts[cell])


def test_gradients_are_four_bytes_a_trained_parameter(found):
    for name, row in cases(4).items():
        model, _ = small(row, World(), 0)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        calls = found["4"]["calls"][name]
        assert sum(size for source, _, size in calls if source == "gradients") == 4 * trained


def test_buckets_are_those_of_data_parallel_training(found):
    """A model with 25 MB of gradients: two all-reduces, of the tensors that backward reaches first and last."""
    real = [size for source, _, size in found["2"]["deep"] if source == "gradients"]
    model, _ = small(rows()["simsiam"], World(), 0)
    backbone = torch.nn.Sequential(
        model.online.backbone, *[torch.nn.Linear(10, 10) for _ in range(2)],
        torch.nn.Linear(10, 300_000), torch.nn.Linear(300_000, 10),
    )  # fmt: skip
    model.online.backbone = backbone
    assert traffic.buckets(traffic.size_of(model).parameters) == real
    assert len(real) == 2 and len(traffic.buckets([4] * 10)) == 1


@pytest.mark.parametrize("size", [2, 4])
def test_gradient_of_a_gather_comes_two_ways(found, size):
    """Reduce-scatter, which NCCL has, gives the rows that the sum over all rows gives."""
    assert found[str(size)]["apart"] < 1e-6


@pytest.mark.parametrize("name", ["simsiam", "byol", "isoloss", "directpred", "unigrad", "tico", "corinfomax", "dino"])
def test_nothing_is_gathered_that_the_loss_does_not_need(found, name):
    """These see other processes through means alone: a gather is batch norm's, whatever the number of images."""
    for size in ("2", "4"):
        gathers = [source for source, kind, _ in found[size]["calls"][name] if kind == "all_gather"]
        assert set(gathers) <= {"sync_bn"}


def test_simsiam_says_only_batch_norm_and_gradients(found):
    assert {source for source, _, _ in found["4"]["calls"]["simsiam"]} == {"sync_bn", "gradients"}


def test_the_bank_gathers_each_key_once(found):
    """MoCo v2: two views' keys, for the bank; the batch's own keys compete with nobody. NNCLR: two more, neighbours."""
    for name, gathers in (("mocov2", 2), ("nnclr", 4)):
        calls = [kind for source, kind, _ in found["4"]["calls"][name] if source == "distributed"]
        assert calls == ["all_gather"] * gathers


def test_a_shared_target_is_gathered_once(found):
    """Barlow Twins' targets are its online embeddings: three views, three gathers and three gradients."""
    calls = [kind for source, kind, _ in found["2"]["calls"]["barlow"] if source == "distributed"]
    assert Counter(calls) == {"all_gather": 3, "all_reduce": 3}


def test_published_sizes():
    """SimSiam on ResNet-50: 38.2 million parameters; F of UniGrad: 2048 x 2048; SimCLR: 2 n d numbers."""
    net = traffic.network(methods.get("simsiam"))
    assert sum(net.parameters) == 4 * 38_199_360
    assert sum(norm.forward for norm in net.norms) == 2 * (53 + 3 + 1)
    sizes = {e.size for e in traffic.exchanges(traffic.network(methods.get("unigrad")), 8, 32) if _is(e, "statistics")}
    assert sizes == {4 * 2048 * 2048}
    simclr = traffic.exchanges(traffic.network(methods.get("simclr")), 8, 32, device="cuda")
    rows_ = 4 * 32 * 128
    assert {(e.kind, e.size, e.times) for e in simclr if _is(e, "embeddings")} == {
        ("all_gather", rows_, 2), ("reduce_scatter", 8 * rows_, 2)
    }  # fmt: skip
    assert traffic.total(simclr, 8)["embeddings"] == 2 * 7 * rows_ + 2 * 7 * rows_


def _is(exchange, purpose: str) -> bool:
    return exchange.purpose == purpose


def test_one_process_says_nothing():
    assert traffic.exchanges(traffic.network(methods.get("simclr"), "resnet18"), 1, 32) == []


def test_a_batch_in_parts_sends_gradients_once(found):
    """The trainer's own steps: batch norm speaks in every part, the gradients in the last one alone."""
    whole = Counter(source for source, _, _ in found["2"]["parts"]["1"])
    assert whole["gradients"] > 0 and whole["sync_bn"] > 0
    for parts in (2, 4):
        calls = found["2"]["parts"][str(parts)]
        assert Counter(source for source, _, _ in calls) == {
            "gradients": whole["gradients"], "sync_bn": parts * whole["sync_bn"]
        }  # fmt: skip
        before_last = [source for source, _, _ in calls[: (parts - 1) * whole["sync_bn"]]]
        assert "gradients" not in before_last


def test_accumulation_sends_gradients_once():
    net = traffic.network(methods.get("simclr"), "resnet18")
    whole = traffic.total(traffic.exchanges(net, 4, 64), 4)
    parts = traffic.total(traffic.exchanges(net, 4, 64, accumulate=4), 4)
    assert parts["gradients"] == whole["gradients"] and parts["embeddings"] == whole["embeddings"]
    assert parts["batch norm"] == 4 * whole["batch norm"]
    with pytest.raises(MethodError, match="64 images"):
        traffic.exchanges(net, 4, 64, accumulate=5)


def test_a_teacher_is_refused():
    row = dataclasses.replace(
        methods.get("simsiam"), target="teacher", teacher="x", predictor="none", normalise="none", distance="euclidean"
    )
    with pytest.raises(MethodError, match="teacher"):
        traffic.network(row)


def _products(objective: Objective, views: list[torch.Tensor], targets: list[torch.Tensor]) -> int:
    """Multiply-accumulates of matrix products, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        objective(views, targets)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "name", ["simclr", "mocov3", "barlow", "vicreg", "wmse", "mmcr", "unigrad", "simsiam", "mocov2"]
)
@pytest.mark.parametrize("world", [1, 4])
def test_products_that_grow_with_the_whole_batch(name, world):
    """The matrix products of the loss of one process among `world`, less what does not depend on `world`."""
    row = dataclasses.replace(
        methods.get(name), projector=methods.Head(layers=2, hidden=8, out=6), bank=16 if name == "mocov2" else 0
    )
    net = traffic.network(row, "resnet8", stem="cifar", size=32)
    n, width = 8, 6

    def products(world: int) -> int:
        group = Group(0, world, lambda x: torch.cat([x + 1e-3 * k for k in range(world)]))
        objective = build_objective(row, width, group)
        views = [torch.randn(n, width, generator=torch.Generator().manual_seed(k)) for k in range(4)]
        targets = views[:2] if row.target == "shared" and row.predictor == "none" else views[2:]
        objective.prepare(views[:2], targets)
        return _products(objective, views[:2], targets)

    grown = traffic.pair_products(net, 4 * world, n) - traffic.pair_products(net, world, n)
    assert products(4 * world) - products(world) == grown
    assert (grown > 0) == (name in {"simclr", "mocov3", "barlow", "vicreg", "wmse", "mmcr"})
