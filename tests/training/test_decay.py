"""Both conventions of weight decay, and a predictor with a rate and a decay of its own."""

import dataclasses
import tomllib

import pytest
import torch
from torch import nn

from siamscope import recipe as recipes
from siamscope.recipe import RecipeError
from siamscope.rundir import read_jsonl
from siamscope.sections import OptimConfig
from siamscope.training.optim import PerStepDecay, build, set_rates
from siamscope.workflow.train import train


def optimiser(encoder, predictor=None, **config):
    options = {"lr": 0.03, "lr_scaling": False, "momentum": 0.0, "weight_decay": 4e-4} | config
    return build(OptimConfig(**options), encoder, predictor or nn.Identity(), nn.Identity(), batch_size=256)


def shrunk(steps=1000, factor=1.0, **config):
    """What 1000 steps without a gradient leave of a weight of 1."""
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(layer.weight)
    optimizer = optimiser(layer, **config)
    set_rates(optimizer, factor)
    for _ in range(steps):
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
    return layer.weight.item()


def test_the_two_conventions_leave_what_the_theory_says():
    """Rate .03, decay 4e-4, 1000 steps: exp(-rate * decay * 1000) coupled, exp(-decay * 1000) per step."""
    assert shrunk() == pytest.approx(0.98807, abs=1e-5)
    assert shrunk(decay="per-step") == pytest.approx(0.67032, abs=1e-4)
    assert shrunk(decay="per-step") == pytest.approx((1 - 4e-4) ** 1000, rel=1e-12)


def test_only_the_coupled_decay_follows_rate_and_momentum():
    per_step = shrunk(decay="per-step")
    for options in ({"lr": 0.3}, {"factor": 0.1}, {"momentum": 0.9}):
        assert shrunk(decay="per-step", **options) == per_step
        assert shrunk(**options) != pytest.approx(shrunk(), abs=1e-3)


def test_per_step_decay_is_its_formula():
    """v <- m v + g; w <- (1 - shrink) w - lr v, three steps by hand; a weight without a gradient stays."""
    torch.manual_seed(0)
    w = torch.randn(4, 3, dtype=torch.float64)
    moved, still = nn.Parameter(w.clone()), nn.Parameter(w.clone())
    optimizer = PerStepDecay([{"params": [moved, still], "shrink": 0.05}], lr=0.2, momentum=0.9)
    velocity = torch.zeros_like(w)
    for _ in range(3):
        moved.grad = torch.randn_like(w)
        optimizer.step()
        velocity = 0.9 * velocity + moved.grad
        w = 0.95 * w - 0.2 * velocity
    torch.testing.assert_close(moved.data, w, rtol=1e-12, atol=0)
    assert not torch.equal(moved, still)
    assert optimizer.state[still] == {}


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_the_predictors_rate_is_a_share_of_the_encoders(name):
    encoder, predictor = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = optimiser(encoder, predictor, name=name, lr=0.1, predictor_lr=10.0, exclude_norm_and_bias=True)
    set_rates(optimizer, 0.5)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert [found[id(p)]["lr"] for p in encoder.parameters()] == pytest.approx([0.05, 0.05])
    assert [found[id(p)]["lr"] for p in predictor.parameters()] == pytest.approx([0.5, 0.5])
    constant = optimiser(encoder, predictor, name=name, lr=0.1, predictor_lr=10.0, constant_predictor_lr=True)
    set_rates(constant, 0.5)
    assert [group["lr"] for group in constant.param_groups] == pytest.approx([0.05, 1.0])


@pytest.mark.parametrize(
    ("given", "expected"), [(-1.0, 4e-4), (0.0, 0.0), (0.3, 0.3)], ids=["as the encoder", "none", "its own"]
)
@pytest.mark.parametrize("decay", ["coupled", "per-step"])
def test_the_predictors_decay(given, expected, decay):
    encoder, predictor = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = optimiser(encoder, predictor, predictor_weight_decay=given, decay=decay)
    key = "shrink" if decay == "per-step" else "weight_decay"
    assert {group["part"]: group[key] for group in optimizer.param_groups} == {"encoder": 4e-4, "predictor": expected}
    if decay == "per-step":
        assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)


def test_plain_sgd_is_what_it_was():
    """The defaults: torch's own SGD with one decay and one rate for all."""
    encoder, predictor = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = build(OptimConfig(), encoder, predictor, nn.Identity(), batch_size=256)
    assert type(optimizer) is torch.optim.SGD
    assert {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {(0.06, 5e-4)}


@pytest.mark.parametrize(
    "changes",
    [{"predictor_lr": 5.0}, {"predictor_weight_decay": 0.0}, {"decay": "per-step", "weight_decay": 1.0},
     {"predictor_weight_decay": -1.0}],
)  # fmt: skip
def test_the_fields_survive_toml(small, changes):
    recipe = small(optim=changes)
    assert recipes.from_dict(tomllib.loads(recipes.to_toml(recipe))) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictor_lr": -1.0}, r"optim\.predictor_lr must be at least 0"),
        ({"predictor_lr": float("nan")}, r"optim\.predictor_lr"),
        ({"predictor_weight_decay": -0.5}, r"optim\.predictor_weight_decay must be at least 0, or -1"),
        ({"predictor_weight_decay": -2.0}, r"optim\.predictor_weight_decay must be at least -1"),
        ({"decay": "decoupled"}, r"optim\.decay must be one of 'coupled', 'per-step'"),
        ({"decay": "per-step", "name": "adamw"}, r"optim\.decay 'per-step' goes with optim\.name 'sgd' only"),
        ({"decay": "per-step", "name": "lars"}, r"optim\.decay 'per-step' goes with optim\.name 'sgd' only"),
        ({"decay": "per-step", "weight_decay": 1.5}, r"optim\.weight_decay must be at most 1"),
        ({"decay": "per-step", "predictor_weight_decay": 2}, r"optim\.predictor_weight_decay must be at most 1"),
    ],
)
def test_bad_values_name_the_field(changes, message):
    with pytest.raises(RecipeError, match=message):
        recipes.from_dict({"optim": changes})


def test_an_optimiser_without_per_step_decay_is_not_built():
    with pytest.raises(RecipeError, match="'per-step' goes with"):
        optimiser(nn.Linear(2, 2), name="adamw", decay="per-step")


def test_the_log_has_the_predictors_rate(small, tmp_path):
    recipe = small(train={"steps": 2}, optim={"lr": 0.8, "predictor_lr": 2.0})
    train(dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, predictor="linear")), tmp_path / "run")
    lines = [line for line in read_jsonl(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["lr_predictor"] for line in lines] == pytest.approx([2 * line["lr"] for line in lines])
    assert lines[0]["lr"] == pytest.approx(0.1)
