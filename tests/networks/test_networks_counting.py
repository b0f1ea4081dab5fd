"""MACs against figures worked out by hand or published; no side effects."""

import pytest
import torch
from torch import nn

from siamscope import networks


@pytest.mark.parametrize(
    ("name", "stem", "side", "macs", "params"),
    [
        ("resnet18", "cifar", 32, 555.4e6, 11_168_832),
        ("resnet18", "cifar-pad2", 32, 703.6e6, 11_168_832),
        ("resnet18", "imagenet", 224, 1.8136e9, 11_176_512),
        ("resnet50", "imagenet", 224, 4.0871e9, 23_508_032),
    ],
)
def test_published_figures(name, stem, side, macs, params):
    counts = networks.count(networks.create(name, stem=stem), (3, side, side))
    assert counts.parameters == params
    assert counts.macs == pytest.approx(macs, rel=1e-4)


def test_resnet8_by_hand():
    # 32x32: stem and two convolutions; 16x16: 16->32, 32->32, shortcut; 8x8: 32->64, 64->64, shortcut.
    big = 1024 * 9 * (3 * 16 + 2 * 16 * 16)
    middle = 256 * (9 * (16 * 32 + 32 * 32) + 16 * 32)
    small = 64 * (9 * (32 * 64 + 64 * 64) + 32 * 64)
    assert networks.count(networks.create("resnet8"), (3, 32, 32)).macs == big + middle + small


def test_layers_by_hand():
    assert networks.count(nn.Linear(5, 7), (5,)) == networks.Counts(5 * 7 + 7, 5 * 7)
    grouped = nn.Conv2d(8, 12, 3, groups=4, bias=False)
    assert networks.count(grouped, (8, 5, 5)) == networks.Counts(12 * 2 * 9, 3 * 3 * 12 * 2 * 9)
    transposed = nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False)
    assert networks.count(transposed, (4, 5, 5)).macs == 25 * 4 * 6 * 4
    twice = nn.Linear(4, 4, bias=False)
    assert networks.count(nn.Sequential(twice, nn.ReLU(), twice), (4,)) == networks.Counts(16, 32)


def test_counting_changes_nothing():
    backbone = networks.create("resnet8")
    backbone.layer2.eval()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    modes = [m.training for m in backbone.modules()]
    rng = torch.get_rng_state()
    networks.count(backbone, (3, 16, 16))
    with pytest.raises(networks.NetworkError):
        networks.count(backbone, (1, 16, 16))
    assert [m.training for m in backbone.modules()] == modes and True in modes and False in modes
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(m._forward_hooks for m in backbone.modules())
    assert all(p.grad is None for p in backbone.parameters())
