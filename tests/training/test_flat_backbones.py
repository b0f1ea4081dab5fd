"""Training the fully connected backbones, and embeddings without a projector."""

import dataclasses
import tomllib

import numpy as np
import pytest
import torch

from siamscope import methods
from siamscope import recipe as recipes
from siamscope.recipe import RecipeError
from siamscope.row import Head
from siamscope.training.build import build_model
from siamscope.workflow.encoder import embed, evaluate
from siamscope.workflow.train import train


def without_projector(recipe, **cells):
    row = dataclasses.replace(recipe.method, projector=Head(layers=0), **cells)
    return dataclasses.replace(recipe, method=row)


@pytest.mark.parametrize(
    ("name", "cells"),
    [("simsiam", {}), ("byol", {"predictor": "symmetric"}), ("barlow", {}), ("directpred", {}), ("swav", {})],
)
def test_no_projector_means_features(small, name, cells):
    """The embedding is the feature, for every normaliser and objective that has a width."""
    recipe = without_projector(small(name, network={"backbone": "mlp", "width": 0.25}), **cells)
    model = build_model(recipe, 3).train()
    images = torch.randn(2, 32, 3, 16, 16)
    model.eval()
    assert torch.equal(model.online(images[0]), model.online.backbone(images[0]))
    model.train()
    assert torch.isfinite(model(list(images)))
    if recipe.method.predictor not in ("none", "mlp"):
        assert model.predictor.matrix.shape == (32, 32)


@pytest.mark.parametrize("backbone", ["linear", "mlp"])
def test_a_run_trains_judges_and_loads(small, tmp_path, backbone):
    recipe = without_projector(small("simsiam", network={"backbone": backbone}), predictor="symmetric")
    assert recipes.from_dict(tomllib.loads(recipes.to_toml(recipe))) == recipe
    train(recipe, tmp_path / "run")
    assert evaluate(tmp_path / "run")["labels"]
    larger = dataclasses.replace(recipe.data, size=24)  # the encoder says its size, and images are resized to it
    embed(tmp_path / "run", larger, tmp_path / "f.npz")
    width = {"linear": 32, "mlp": 64}[backbone]  # half of the table's
    assert np.load(tmp_path / "f.npz")["features"].shape == (96 + 32 + 32, width)


def test_what_they_do_not_go_with(small):
    recipe = small(network={"backbone": "linear"}, views={"local_crops": 2})
    with pytest.raises(RecipeError, match=r"views\.local_crops must be 0 with network\.backbone 'linear'"):
        recipes.validate(recipe)
    with pytest.raises(methods.MethodError, match=r"projector: .*layers at least 0"):
        dataclasses.replace(recipe.method, projector=Head(layers=-1))
    with pytest.raises(methods.MethodError, match=r"predictor_head: .*layers at least 1"):
        dataclasses.replace(recipe.method, predictor_head=Head(layers=0))
