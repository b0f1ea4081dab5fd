"""Rows 15 and 17 of the collapse reference's acceptance table that no other test states.

Elsewhere: processes against one with synchronised batch norm, to 1e-12 (test_world_sizes.py); resume bit for bit
(test_resume.py); features of any module in eval mode (tests/evaluation/test_features.py).
"""

import dataclasses
import hashlib

import pytest
import torch
from torch import nn

from siamscope import methods
from siamscope.row import Head
from siamscope.training.build import Normalisation, build_monitor, build_trainer
from siamscope.training.distributed import World
from siamscope.training.precision import Precision
from siamscope.training.progress import Silent
from siamscope.training.siamese import Siamese
from siamscope.workflow.opening import opened

NORM, FULL = Normalisation((0.5,) * 3, (0.25,) * 3), Precision(False, False)


def network(**cells) -> Siamese:
    torch.manual_seed(0)
    cells = {"projector": Head(layers=2, hidden=16, out=8), "predictor_head": Head(hidden=4)} | cells
    row = dataclasses.replace(methods.get("simsiam"), **cells)
    return Siamese(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), 10, row).double()


def views():
    return list(torch.randn(2, 16, 3, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64))


@pytest.mark.parametrize(("target", "flows"), [("detached", False), ("momentum", False), ("shared", True)])
def test_the_gradient_of_the_stopped_branch_is_exactly_zero(target, flows):
    """The target's embeddings are scaled by a parameter of their own: what reaches it is what flows through them."""
    model = network(target=target, predictor="mlp", normalise="none", distance="euclidean")
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    branch = model.target if model.target is not None else model.online
    plain = model.targets

    def through(views, z):
        # The scale stands inside the branch, in front of the stop-gradient.
        if z is None:
            with_scale = branch.register_forward_hook(lambda module, args, out: out * scale)
            found = plain(views, z)
            with_scale.remove()
            return found
        return plain(views, [embedding * scale for embedding in z])

    model.targets = through
    loss = model(views())
    (found,) = torch.autograd.grad(loss, scale, allow_unused=True)
    assert (found is not None and float(found.abs()) > 1e-6) is flows


@pytest.mark.parametrize(
    ("method", "low", "high"), [("simsiam", -1.0, 1.0), ("byol", 0.0, 4.0), ("directpred", -1.0, 1.0)]
)
def test_the_loss_stays_in_its_range(small, method, low, high):
    recipe = small(method, train={"steps": 12}, optim={"lr": 3.0})
    run = build_trainer(recipe, 3, 4, NORM, World(), FULL)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for number in range(1, 13):
        losses.append(
            float(run.step(number, torch.randint(0, 256, (32, 3, 16, 16), generator=generator, dtype=torch.uint8)))
        )
    assert all(low - 1e-6 <= loss <= high + 1e-6 for loss in losses)
    assert max(losses) - min(losses) > 0.01


def checksum(model: nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def test_measuring_leaves_the_network_as_it_was(small):
    """Weights and running statistics have the same checksum after the monitor's look; training changes them."""
    recipe = small()
    data = opened(recipe.data, Silent())
    run = build_trainer(recipe, 3, 4, NORM, World(), FULL)
    monitor = build_monitor(recipe, data.train, data.val, NORM, World(), FULL)
    before = checksum(run.model)
    monitor.measure(run.model, 0, None)
    assert checksum(run.model) == before
    assert run.model.training
    with torch.no_grad():
        run.model([torch.randn(8, 3, 16, 16) for _ in range(2)])
    assert checksum(run.model) != before  # a forward pass in training mode is seen
