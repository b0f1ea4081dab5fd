"""One, two and four processes compute the same losses, gradients and statistics, to 1e-12 in float64."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_distributed import torchrun
from torch import nn
from worlds import BATCH, rows, views

from siamscope.training.siamese import Siamese

SCRIPT = Path(__file__).with_name("worlds.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    subprocess.run([sys.executable, str(SCRIPT), str(folder / "1.pt")], check=True, timeout=300)
    for processes in (2, 4):
        done = torchrun(str(SCRIPT), str(folder / f"{processes}.pt"), processes=processes)
        assert done.returncode == 0, done.stderr
    return {processes: torch.load(folder / f"{processes}.pt") for processes in (1, 2, 4)}


@pytest.mark.parametrize("name", rows())
def test_world_sizes_agree(found, name):
    alone = found[1][name]
    assert any(key.startswith("0 online") and value.norm() > 1e-6 for key, value in alone.items()), "no gradient at all"
    for processes in (2, 4):
        several = found[processes][name]
        assert several.keys() == alone.keys()
        for key, value in alone.items():
            gap = (several[key].double() - value.double()).norm()
            assert gap <= 1e-12 * max(1.0, value.double().norm().item()), f"{processes} processes, {key}: {gap:.2e}"


@pytest.mark.parametrize("name", [name for name in rows() if f"{name}-gradient" in rows()])
def test_gradient_form_trains_as_the_loss(found, name):
    """Three steps from the closed form give the weights that three steps from the loss give."""
    loss, gradient = found[1][name], found[1][f"{name}-gradient"]
    assert loss.keys() == gradient.keys()
    for key, value in loss.items():
        gap = (gradient[key].double() - value.double()).norm()
        assert gap <= 1e-10 * max(1.0, value.double().norm().item()), f"{key}: {gap:.2e}"


@pytest.mark.parametrize("name", ["simclr", "unigrad", "barlow", "swav", "lejepa"])
def test_processes_must_talk(name):
    """Without the exchange, the mean over two halves of the batch is another loss: the equality above is not empty."""
    row = rows()[name]

    def loss(part: slice) -> float:
        torch.manual_seed(0)
        model = Siamese(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), 10, row).double().train()
        return float(model([view[part] for view in views(0)]).detach())

    halves = (loss(slice(0, BATCH // 2)) + loss(slice(BATCH // 2, BATCH))) / 2
    assert abs(halves - loss(slice(None))) > 1e-4
