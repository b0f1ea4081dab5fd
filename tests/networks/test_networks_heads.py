"""Heads as data: what is built, what it computes, what is refused; and that the data is free of torch."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from siamscope import networks
from siamscope.networks import heads_spec
from siamscope.networks.heads_spec import LayerSpec


def kinds(head):
    return [type(m).__name__ for m in head]


def test_simsiam_head_is_the_papers():
    # Chen & He 2021, section 3, and the authors' code: the projector's last batch norm is bare; 2-layer predictor.
    head = networks.mlp(512, heads_spec.SIMSIAM_PROJECTOR)
    assert kinds(head) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert [m.bias is None for m in head if isinstance(m, nn.Linear)] == [True, True, True]
    assert head[1].affine and not head[-1].affine
    assert sum(p.numel() for p in head.parameters()) == 512 * 2048 + 2 * 2048**2 + 2 * 2 * 2048
    predictor = networks.mlp(2048, heads_spec.SIMSIAM_PREDICTOR)
    assert kinds(predictor) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert predictor[0].bias is None and predictor[3].bias.shape == (2048,)


def test_byol_head_has_a_hidden_bias_and_none_at_the_end():
    assert (LayerSpec(4096, True, "batch", "relu"), LayerSpec(256, False, "none", "none")) == heads_spec.BYOL_PROJECTOR
    assert heads_spec.BYOL_PREDICTOR == heads_spec.BYOL_PROJECTOR


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


def test_bias_is_left_out_before_batch_norm_unless_asked():
    assert [layer.bias for layer in networks.projector(8, 4, 3)] == [False, False, True]
    assert [layer.bias for layer in networks.projector(8, 4, 2, last_norm="batch")] == [False, False]
    assert [layer.bias for layer in networks.projector(8, 4, 2, norm="layer", last_bias=False)] == [True, False]
    assert networks.projector(8, 4, 1) == (LayerSpec(4, True, "none", "none"),)
    assert heads_spec.linear_predictor(6) == (LayerSpec(6, False, "none", "none"),)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerSpec(0, True, "none", "none"), "LayerSpec.out .* got 0"),
        (lambda: LayerSpec(2.0, True, "none", "none"), "whole number"),
        (lambda: LayerSpec(2, True, "bacth", "none"), "norm must be one of none, batch, .* got 'bacth'"),
        (lambda: LayerSpec(2, True, "none", "tanh"), "activation must be one of none, relu, gelu"),
        (lambda: networks.projector(8, 4, 0), "at least one layer"),
        (lambda: networks.mlp(0, ()), "input dimension"),
    ],
)
def test_bad_heads_are_refused(make, message):
    with pytest.raises(networks.NetworkError, match=message):
        make()


def test_data_files_do_not_import_torch():
    code = (
        "import sys, siamscope.networks as n; from siamscope.networks import heads_spec, catalogue; "
        "n.list_backbones(), n.LayerSpec, n.predictor(4, 2), n.NetworkError; assert 'torch' not in sys.modules; "
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
