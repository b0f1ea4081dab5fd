"""Every method's shipped small recipe, on a ResNet-18 and generated images: two steps change what they should."""

import dataclasses

import pytest
import torch

from siamscope import methods, recipe
from siamscope.training.build import Normalisation, build_trainer
from siamscope.training.distributed import World
from siamscope.training.precision import Precision

STEPS = 2


def trainer(name: str):
    config = recipe.for_method(name)
    config = dataclasses.replace(
        config,
        network=dataclasses.replace(config.network, backbone="resnet18", width=0.125),
        train=dataclasses.replace(config.train, batch_size=64, steps=STEPS, precision="fp32", device="cpu"),
    )
    norm = Normalisation((0.5,) * 3, (0.25,) * 3)
    return build_trainer(config, 3, 1, norm, World(), Precision(False, False))


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_two_steps(name):
    """Finite losses; every trained weight moves; the target follows by EMA; two runs are equal bit for bit."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (STEPS, 64, 3, 32, 32), generator=generator, dtype=torch.uint8)
    ends = []
    for _ in range(2):
        run = trainer(name)
        before = {key: value.clone() for key, value in run.model.named_parameters()}
        target = {key: value.clone() for key, value in run.model.named_parameters() if key.startswith("target.")}
        losses = [float(run.step(number, images[number - 1])) for number in range(1, STEPS + 1)]
        assert all(torch.isfinite(torch.tensor(losses)))
        after = dict(run.model.named_parameters())
        still = [key for key, p in after.items() if p.requires_grad and torch.equal(before[key], p)]
        assert not still
        if run.model.row.momentum < 1:
            assert all(not torch.equal(target[key], after[key]) for key in target)
        ends.append(run.model.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
