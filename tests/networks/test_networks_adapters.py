"""Any module as a backbone, and timm."""

import importlib.util

import pytest
import torch
from torch import nn

from siamscope import networks


class Maps(nn.Module):
    """(B, 3, H, W) -> (B, 5, H, W)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x):
        return self.norm(self.drop(self.conv(x)))


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def test_maps_are_average_pooled():
    module = Maps().eval()
    backbone = networks.wrap(module, input_shape=(3, 4, 6)).eval()
    x = torch.randn(2, 3, 4, 6)
    assert backbone.feature_dim == 5
    torch.testing.assert_close(backbone(x), module(x).flatten(2).mean(2))


def test_vectors_pass_unchanged():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    x = torch.randn(3, 3, 2, 2)
    for backbone in (networks.wrap(module, 7), networks.wrap(module, input_shape=(3, 2, 2))):
        assert backbone.feature_dim == 7
        assert torch.equal(backbone(x), module(x))


def test_the_dry_run_changes_nothing():
    module = Maps()
    module.norm.eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    rng = torch.get_rng_state()
    networks.wrap(module, input_shape=(3, 4, 4))
    assert (module.training, module.drop.training, module.norm.training) == (True, True, False)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x.flatten(2), r"shape \(2, 3, 16\) for 2 images"),
        (lambda x: x.sum(0, keepdim=True), r"shape \(1, 3, 4, 4\) for 2 images"),
        (lambda x: x.sum(), r"shape \(\) for 2 images"),
        (lambda x: {"features": x}, "returned a dict, not a tensor"),
        (lambda x: (x, x), "returned a tuple"),
        (lambda x: x @ torch.ones(9, 2), "cannot take images of shape"),
    ],
)
def test_other_outputs_are_refused(make, message):
    with pytest.raises(networks.NetworkError, match=message):
        networks.wrap(Returns(make), input_shape=(3, 4, 4))


def test_feature_dim_must_be_right():
    with pytest.raises(networks.NetworkError, match="needs feature_dim, or input_shape"):
        networks.wrap(Maps())
    with pytest.raises(networks.NetworkError, match="gives 5 features a sample, not feature_dim=6"):
        networks.wrap(Maps(), 6, input_shape=(3, 4, 4))
    with pytest.raises(networks.NetworkError, match="gave 5 features a sample, but feature_dim=6"):
        networks.wrap(Maps(), 6)(torch.zeros(2, 3, 4, 4))
    with pytest.raises(networks.NetworkError, match="input_shape must be"):
        networks.wrap(Maps(), input_shape=(3, 0, 4))


def timm_missing() -> str:
    if importlib.util.find_spec("timm") is None:
        return "timm is not installed"
    try:
        import timm  # noqa: F401
    except Exception as error:
        return f"timm does not import: {error}"
    return ""


def test_timm_missing_says_how_to_install_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (lambda: networks.create("timm:resnet18"), lambda: networks.list_backbones("timm:*")):
        with pytest.raises(networks.NetworkError, match=r"pip install 'siamscope\[timm\]'"):
            call()


def test_timm_has_no_width():
    with pytest.raises(networks.NetworkError, match="no width multiplier"):
        networks.create("timm:resnet18", width=2)


@pytest.mark.skipif(bool(timm_missing()), reason=timm_missing())
def test_timm_models():
    backbone = networks.create("timm:resnet10t", in_channels=1, input_size=32)
    assert backbone.feature_dim == 512
    assert backbone(torch.randn(2, 1, 32, 32)).shape == (2, 512)
    sized = networks.create("timm:vit_tiny_patch16_224", input_size=32)
    assert sized(torch.randn(2, 3, 32, 32)).shape == (2, 192)
    with pytest.raises(networks.NetworkError, match="did you mean 'resnet10t'"):
        networks.create("timm:resnet10x")
