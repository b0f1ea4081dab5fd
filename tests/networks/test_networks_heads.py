"""Heads as data: what is built, what it computes, what is refused; and that the data is free of torch."""

import subprocess
import sys

import pytest
import torch

from siamscope import networks
from siamscope.networks.heads_spec import LayerSpec


def test_mlp_computes_its_layers():
    torch.manual_seed(0)
    head = networks.mlp(
        3, [LayerSpec(4, True, "layer", "gelu"), LayerSpec(2, False, "batch-no-affine", "none")]
    ).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    w1, b1, w2 = head[0].weight, head[0].bias, head[3].weight
    h = x @ w1.T + b1
    h = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
    y = h @ w2.T
    y = (y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(head(x), y, rtol=1e-12, atol=1e-12)


def test_relu_in_place_leaves_gradients_right():
    torch.manual_seed(0)
    head = networks.mlp(3, [LayerSpec(4, True, "none", "relu"), LayerSpec(2, True, "layer", "relu")]).double()
    assert torch.autograd.gradcheck(head, torch.randn(5, 3, dtype=torch.float64, requires_grad=True))


def test_no_layers_is_the_identity():
    x = torch.randn(2, 5)
    assert torch.equal(networks.mlp(5, ())(x), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerSpec(0, True, "none", "none"), "LayerSpec.out .* got 0"),
        (lambda: LayerSpec(2.0, True, "none", "none"), "whole number"),
        (lambda: LayerSpec(2, True, "bacth", "none"), "norm must be one of none, batch, .* got 'bacth'"),
        (lambda: LayerSpec(2, True, "none", "tanh"), "activation must be one of none, relu, gelu"),
        (lambda: networks.mlp(0, ()), "input dimension"),
    ],
)
def test_bad_heads_are_refused(make, message):
    with pytest.raises(networks.NetworkError, match=message):
        make()


def test_data_files_do_not_import_torch():
    code = (
        "import sys, siamscope.networks as n; from siamscope.networks import heads_spec, catalogue; "
        "n.list_backbones(), n.LayerSpec, n.NetworkError; assert 'torch' not in sys.modules; "
        "n.mlp; assert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_package_offers_its_names():
    assert {"create", "wrap", "mlp", "count", "save_encoder"} <= set(dir(networks))
    for name in networks._HOME:
        assert getattr(networks, name) is not None
    with pytest.raises(AttributeError, match="resnet19"):
        _ = networks.resnet19
