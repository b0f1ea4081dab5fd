"""The space of a sweep and what its trials are judged by: words to dimensions, refusals, directions."""

import numpy as np
import pytest

from siamscope.workflow.fleet import Member
from siamscope.workflow.sweep import command, space
from siamscope.workflow.sweep.errors import SweepError
from siamscope.workflow.sweep.score import objective
from siamscope.workflow.sweep.space import Dimension

RATES = Dimension("optim.lr", 0.001, 1.0, log=True)


def test_two_values_after_a_short_name_are_a_range(small):
    args = ["shapes", "--lr", "0.01,1", "--weight_decay=1e-5,1e-3", "--width", "2", "--temperature", "0.2"]
    assert command.arguments(args) == [
        "shapes", "--search.lr", "0.01,1", "--search.weight-decay=1e-5,1e-3", "--width", "2", "--temperature", "0.2",
    ]  # fmt: skip
    found = space.read(small(), {"lr": "0.01, 1", "width": "0.5,1,2"}, ["optim.momentum=0.8:0.99"])
    assert found == (
        Dimension("optim.lr", 0.01, 1.0, log=True),
        Dimension("network.width", choices=(0.5, 1.0, 2.0)),
        Dimension("optim.momentum", 0.8, 0.99),
    )


def test_any_field_in_its_own_type(small):
    fields = ["train.batch_size=16,32", "order.chunks=2:50:log", "optim.name=sgd|lars"]
    size, chunks, name, zero = space.read(small(), {}, [*fields, "network.zero_init_residual=true,false"])
    assert size.choices == (16, 32) and isinstance(size.choices[0], int)
    assert chunks == Dimension("order.chunks", 2.0, 50.0, log=True, whole=True)
    assert (name.choices, zero.choices) == (("sgd", "lars"), (True, False))
    made = space.applied(small(), {"optim.name": "lars", "order.chunks": 7, "method.projector.hidden": 48})
    assert (made.optim.name, made.order.chunks, made.method.projector.hidden) == ("lars", 7, 48)
    assert made.method.projector.out == small().method.projector.out


def test_what_is_searched_when_nothing_is_said(small):
    recipe = small(optim={"lr": 0.2, "weight_decay": 1e-3})
    rate, decay = space.read(recipe, {"lr": ""}, ())
    assert (rate.field, rate.low, rate.high, rate.log) == ("optim.lr", pytest.approx(0.02), pytest.approx(2), True)
    assert decay.field == "optim.weight_decay"
    assert space.own_values(recipe, (rate, decay)) == {"optim.lr": 0.2, "optim.weight_decay": 1e-3}
    assert space.own_values(recipe, (Dimension("optim.lr", 0.5, 1.0),)) is None
    assert len(space.read(small(optim={"weight_decay": 0.0}), {}, ())) == 1


@pytest.mark.parametrize(
    ("short", "general", "words"),
    [
        ({"lr": "1,0.1"}, (), "from low to high"),
        ({"lr": "0,1"}, (), "above 0"),
        ({"lr": "a,b"}, (), "must be numbers"),
        ({"lr": "0.1"}, (), "two choices"),
        ({"width": "0.01,1"}, (), r"network\.width = 0\.01: network\.width must be between"),
        ({"temperature": "0.1,1"}, (), "changes nothing in the row 'simsiam'"),
        ({"lr": "0.1,1"}, ("optim.lr=0.1:1",), "twice"),
        ({}, ("optim.rate=0.1:1",), "no field 'optim.rate'"),
        ({}, ("optim.lr",), "FIELD=LOW:HIGH"),
        ({}, ("optim.lr=0.1:1:even",), ":log"),
        ({}, ("train.batch_size=8.5:16",), "whole numbers"),
        ({}, ("optim.name=sgd,newton",), "newton"),
        ({}, ("network.zero_init_residual=yes,no",), "true or false"),
        ({}, ("evaluation.ks=1,5",), "same in all trials"),
        ({}, ("data.seed=0,1",), "same in all trials"),
        ({}, ("train.seed=0,1",), "same in all trials"),
        ({}, ("train.threads=1,2",), "same in all trials"),
        ({}, ("method.name=byol,simsiam",), "same in all trials"),
    ],
)
def test_spaces_that_are_refused(small, short, general, words):
    with pytest.raises(SweepError, match=words):
        space.read(small("simsiam"), short, general)


# ------------------------------------------------------------------------------------------ score


def test_scores_and_their_directions(small):
    recipe = small()
    member = Member("", {"auc_sigma": 0.7, "alpha_req": 1.3, "rankme": 5.0}, d=16)
    for by, direction, value in [("auc", "minimize", 0.7), ("rankme", "maximize", 5.0), ("alpha", "maximize", -0.3)]:
        goal = objective(by, None, recipe, [RATES])
        assert (goal.direction, goal.value(member)[0]) == (direction, pytest.approx(value))
    relative = objective("auc_relative", None, recipe, [RATES]).value(member)[0]
    assert relative == pytest.approx((0.7 - 17 / 32) / (1 - 17 / 32))
    value, why = objective("lidar", None, recipe, [RATES]).value(member)
    assert np.isnan(value) and "lidar" in why
    line = {"feature_auc": 0.8, "feature_effective_rank": 7.0, "loss": -0.4, "feature_dim": 16}
    assert [objective(by, None, recipe, [RATES]).early(line) for by in ("auc", "rankme", "self_cluster")] == [
        0.8,
        7,
        0.8,
    ]
    assert objective("auc", None, recipe, [RATES]).better([float("nan"), 0.7, 0.6, 0.8]) == 2
    assert objective("rankme", None, recipe, [RATES]).better([float("nan"), 0.7, 0.6, 0.8]) == 3


def test_scores_that_cannot_be_compared_are_refused(small):
    widths = [Dimension("network.width", choices=(0.5, 1.0))]
    with pytest.raises(SweepError, match="one dimension only"):
        objective("auc", None, small(), widths)
    objective("auc", None, small(network={"width": 0.5, "features": 16}), widths)
    objective("auc_relative", None, small(), widths)
    with pytest.raises(SweepError, match=r"losses of trials that differ in method\.projector\.out"):
        objective("loss", None, small(), [Dimension("method.projector.out", 8, 16, whole=True)])
    with pytest.raises(SweepError, match=r"--forecast FILE"):
        objective("auc+loss", None, small(), [RATES])
    with pytest.raises(SweepError, match="--by: cannot choose by 'auk'"):
        objective("auk", None, small(), [RATES])
