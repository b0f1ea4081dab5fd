"""Processes that do not mean the same, or are too many: all of them leave with the same message."""

import json
from pathlib import Path

import numpy as np
import pytest
from launching import write_recipe
from PIL import Image
from test_distributed import torchrun

SCRIPT = Path(__file__).with_name("of_two_minds.py")


def images(folder, count, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The folder, and what rank 0 and rank 1 said in each case."""
    out = tmp_path_factory.mktemp("minds")
    for rank in (0, 1):
        images(out / f"host{rank}" / "photos", 12)
        images(out / f"host{rank}" / "other", 12, seed=rank)
        images(out / f"host{rank}" / "few", 3)
    (out / "host1" / "photos" / "5.png").unlink()
    recipe = write_recipe(out / "r.toml", "simsiam", steps=2)
    done = torchrun(str(SCRIPT), str(recipe), str(out))
    assert done.returncode == 0, done.stderr
    return out, *(json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1))


def test_all_ranks_say_the_same(said):
    out, first, second = said
    assert first == second
    assert set(first) == {"recipe", "files", "pixels", "few", "software"}  # "free" has trained
    assert not any((out / name).exists() for name in first), "nothing is written"
    assert (out / "free" / "encoder.safetensors").is_file()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "recipe",
            ["disagree on the recipe", "optim.lr is 0.06 on rank 0, 0.5 on rank 1", "train.seed is 0 on rank 0"],
        ),
        ("files", ["images of photos", "training images is 10 on rank 0, 9 on rank 1", "5.png is missing on rank 1"]),
        ("pixels", ["images of other", "fingerprint is"]),
        ("few", ["few has fewer training images (1) than there are processes (2)"]),
        ("software", ['siamscope is "0.0" on rank 0, "0.1" on rank 1']),
    ],
)
def test_what_differs_is_named(said, case, words):
    for word in words:
        assert word in said[1][case]
    assert "steps" not in said[1][case], "what is equal is not named"
