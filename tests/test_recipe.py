"""Recipes: TOML in and out, layers, and errors that name the field."""

import dataclasses
import tomllib

import pytest

from siamscope import methods
from siamscope import recipe as recipes
from siamscope.recipe import Recipe, RecipeError, from_dict, to_toml


def test_toml_round_trip():
    recipe = Recipe(method=methods.get("byol"))
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source='a "quoted"\\path\n\x7fé'))
    assert from_dict(tomllib.loads(to_toml(recipe))) == recipe
    assert recipes.digest(recipe) != recipes.digest(Recipe())


@pytest.mark.parametrize("name", recipes.shipped())
def test_shipped_recipes_load_and_are_complete_when_written(name):
    recipe = recipes.load(name)
    assert from_dict(tomllib.loads(to_toml(recipe))) == recipe


def test_every_method_has_a_shipped_recipe():
    assert set(methods.METHODS) <= set(recipes.shipped())
    for name in methods.METHODS:
        assert recipes.for_method(name).method.name == name


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"train": {"epoch": 3}}, ["'train.epoch'", "did you mean 'epochs'"]),
        ({"trian": {}}, ["'trian'", "did you mean 'train'"]),
        ({"train": {"batch_size": 1}}, ["train.batch_size must be at least 2, got 1"]),
        ({"train": {"batch_size": 2.5}}, ["train.batch_size must be a whole number, got 2.5"]),
        ({"train": {"batch_size": True}}, ["train.batch_size must be a whole number"]),
        ({"optim": {"lr": "fast"}}, ["optim.lr must be a number, got 'fast'"]),
        ({"optim": {"lr": float("nan")}}, ["optim.lr must be"]),
        ({"optim": {"name": "adam"}}, ["optim.name must be one of", "'adamw'"]),
        ({"method": {"name": "simclear"}}, ["method.name", "did you mean 'simclr'"]),
        ({"method": {"target": "ema"}}, ["method.target must be one of"]),
        ({"method": {"temperature": -1.0}}, ["method.", "temperature must be above 0"]),
        ({"method": {"projector": 5}}, ["method.projector must be a table"]),
        ({"data": {"val_fraction": 2.0}}, ["data.val_fraction must lie between 0 and 1"]),
        ({"train": {"batch_size": 9, "accumulate": 2}}, ["train.accumulate must divide"]),
        ({"train": {"device": "gpu"}}, ["train.device must be auto, cpu, cuda"]),
        ({"train": {"epochs": 0}}, ["train.epochs must be above 0"]),
        ({"monitor": {"watch": -1, "on_collapse": "stop"}}, ["monitor.on_collapse 'stop' needs the alarm"]),
        ({"monitor": {"watch": -1, "on_collapse": "rollback"}}, ["monitor.watch -1"]),
        ({"evaluation": {"ks": []}}, ["evaluation.ks"]),
        ({"evaluation": {"ks": [1, 2.5]}}, ["evaluation.ks[1] must be a whole number"]),
    ],
)
def test_errors_name_the_field(table, words):
    with pytest.raises(RecipeError) as caught:
        from_dict(table)
    for word in words:
        assert word in str(caught.value)


def test_a_file_is_layered_over_its_methods_recipe(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[method]\nname = "byol"\nmomentum = 0.5\n[train]\nepochs = 3\n')
    recipe = recipes.layered(str(file), None)
    default = recipes.for_method("byol")
    assert (recipe.method.momentum, recipe.train.epochs) == (0.5, 3.0)
    assert recipe.optim == default.optim
    assert recipe.method.projector == default.method.projector
    changed = recipes.layered(str(file), "simsiam")
    assert changed.method == recipes.for_method("simsiam").method
    assert changed.train.epochs == 3.0


@pytest.mark.parametrize(
    ("text", "words"), [("[train", "not TOML"), ("a = 1", "unknown field 'a'"), ("\x00", "not TOML")]
)
def test_broken_files(tmp_path, text, words):
    file = tmp_path / "broken.toml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=words) as caught:
        recipes.load(file)
    assert "broken.toml" in str(caught.value)


def test_missing_file_names_the_shipped_ones():
    with pytest.raises(RecipeError, match=r"no recipe at 'simcr'; did you mean 'simclr'"):
        recipes.load("simcr")
