"""How the momentum target starts, and a momentum of 0."""

import dataclasses
import tomllib

import pytest
import torch
from torch import nn

from siamscope import methods
from siamscope import recipe as recipes
from siamscope.methods import Head, MethodError
from siamscope.recipe import RecipeError
from siamscope.training.build import Normalisation, build_model, build_trainer
from siamscope.training.distributed import World
from siamscope.training.precision import Precision
from siamscope.training.siamese import Siamese


def changed(recipe, **cells):
    return dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, **cells))


def gaps(model):
    """max |theta_target - theta_online| of each weight matrix."""
    pairs = zip(model.target.parameters(), model.online.parameters(), strict=True)
    return [float((t - o).abs().max().detach()) for t, o in pairs if t.ndim > 1]


def test_a_copy_is_the_default(small):
    """max |theta_t - theta_o| is 0 at step 0."""
    for name in ("byol", "dino", "mocov2"):
        recipe = small(name)
        assert recipe.method.target_init == "copy"
        assert max(gaps(build_model(recipe, 3))) == 0


@pytest.mark.parametrize("backbone", ["resnet8", "mlp"])
def test_another_draw(small, backbone):
    """Weights of the same law, independent of the online ones, without gradient; all others are those of a copy."""
    recipe = small("byol", network={"backbone": backbone})
    drawn, copied = (build_model(changed(recipe, target_init=init), 3) for init in ("random", "copy"))
    assert min(gaps(drawn)) > 0.01
    assert not any(p.requires_grad for p in drawn.target.parameters())
    for t, o in zip(drawn.target.parameters(), drawn.online.parameters(), strict=True):
        t, o = t.flatten(), o.detach().flatten()
        if len(t) < 400:  # too few to tell a law
            continue
        assert float(t.std() / o.std()) == pytest.approx(1, abs=0.15)
        assert abs(float(torch.corrcoef(torch.stack([t, o]))[0, 1])) < 5 / len(t) ** 0.5
    state = drawn.state_dict()
    for key, value in copied.state_dict().items():
        assert key.startswith("target.") or torch.equal(value, state[key]), key
    other = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, seed=1))
    again, seeded = (build_model(changed(r, target_init="random"), 3).state_dict() for r in (recipe, other))
    assert all(torch.equal(state[key], again[key]) for key in state)
    key = next(name for name in state if name.startswith("target.backbone") and state[name].ndim > 1)
    assert not torch.equal(state[key], seeded[key])


def test_a_library_user_says_how_another_backbone_is_made():
    row = dataclasses.replace(methods.get("byol"), target_init="random", projector=Head(2, 6, 4))
    with pytest.raises(MethodError, match="target_init 'random' needs `another`"):
        Siamese(nn.Flatten(), 12, row)
    model = Siamese(nn.Flatten(), 12, row, another=nn.Flatten)
    assert min(gaps(model)) > 0


@pytest.mark.parametrize("init", ["copy", "random"])
def test_with_momentum_0_the_target_is_the_online_network_of_the_previous_step(small, init):
    recipe = changed(small("byol", optim={"lr": 0.5}), momentum=0.0, momentum_end=0.0, target_init=init)
    run = build_trainer(recipe, 3, 3, Normalisation((0.5,) * 3, (0.2,) * 3), World(), Precision(False, False))
    generator = torch.Generator().manual_seed(0)
    for number in range(1, 4):
        used = [p.clone() for p in run.model.target.parameters()]
        before = [p.clone() for p in run.model.online.parameters()]
        if number > 1 or init == "copy":
            assert all(torch.equal(t, o) for t, o in zip(used, before, strict=True))
        run.step(number, torch.randint(0, 256, (32, 3, 16, 16), generator=generator, dtype=torch.uint8))
        after = list(run.model.online.parameters())
        assert all(not torch.equal(o, a) for o, a in zip(before, after, strict=True) if o.ndim > 1)
        assert max(gaps(run.model)) == 0


@pytest.mark.parametrize(
    "cells",
    [{"target_init": "random"}, {"predictor": "linear", "predictor_bias": True}, {"predictor": "symmetric-mlp"},
     {"projector": Head(layers=0)}],
)  # fmt: skip
def test_the_cells_survive_toml(small, cells):
    recipe = changed(small("byol"), **cells)
    assert recipes.from_dict(tomllib.loads(recipes.to_toml(recipe))) == recipe


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"target_init": "zero"}, r"method\.target_init must be one of 'copy', 'random'"),
        ({"predictor_bias": "yes"}, r"method\.predictor_bias"),
        ({"predictor": "symmetric-mlp", "predictor_head": {"layers": 3}}, "predictor_head: 'symmetric-mlp' has 2"),
        ({"predictor": "symmetric-mlp", "predictor_head": {"last_norm": "batch"}}, "predictor_head: .* no last_norm"),
    ],
)
def test_bad_cells_name_the_field(cells, message):
    with pytest.raises(RecipeError, match=message):
        recipes.from_dict({"method": cells})
