"""The fully connected backbones: their formulas, their one image size, and their files."""

import json

import pytest
import torch
from torch import nn

from siamscope import networks


def make(name, **options):
    torch.manual_seed(3)
    return networks.create(name, **({"in_channels": 3, "input_size": 8} | options))


def test_linear_is_w_times_the_divided_image():
    backbone = make("linear", width=0.25)
    x = torch.randn(5, 3, 8, 8)
    expected = (x.reshape(5, -1) / 192**0.5) @ backbone.matrix.T
    torch.testing.assert_close(backbone(x), expected)
    assert backbone.matrix.shape == (16, 192)
    assert [name for name, _ in backbone.named_parameters()] == ["layers.0.weight"]  # no bias
    torch.testing.assert_close(backbone(2 * x), 2 * backbone(x))


@pytest.mark.parametrize("size", [8, 32])
def test_the_input_of_linear_has_unit_trace(size):
    """Images of unit variance, whatever their size; without the division the trace would be 3 * size^2."""
    x = 1.5 * torch.randn(500, 1, 1, 1) + torch.randn(500, 3, size, size)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    flat = make("linear", input_size=size).flattened(x)
    assert float((flat**2).sum(1).mean()) == pytest.approx(1, abs=1e-3)


def test_linear_starts_near_a_third_of_the_identity():
    w = make("linear", input_size=48).matrix.detach()
    torch.testing.assert_close(w @ w.T, torch.eye(64) / 3, atol=0.03, rtol=0)


def test_mlp_is_the_papers_digits_network():
    """64 - 256 - 128 for 8-pixel grey images, by hand in eval mode; the batch is normalised in training."""
    backbone = make("mlp", in_channels=1)
    first, norm, _, last = backbone.layers
    assert (first.weight.shape, last.weight.shape, backbone.feature_dim) == ((256, 64), (128, 256), 128)
    assert first.bias is None and last.bias is not None
    assert networks.count(backbone, (1, 8, 8)).parameters == 64 * 256 + 2 * 256 + 256 * 128 + 128
    x = torch.randn(40, 1, 8, 8)
    hidden = x.flatten(1) @ first.weight.T
    batch = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(backbone.train()(x), batch.relu() @ last.weight.T + last.bias, rtol=1e-4, atol=1e-5)
    running = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(backbone.eval()(x), running.relu() @ last.weight.T + last.bias, rtol=1e-4, atol=1e-5)
    assert backbone.matrix is None


@pytest.mark.parametrize(
    ("name", "width", "widths"),
    [("linear", 1, [64]), ("linear", 0.11, [7]), ("linear", 0.001, [1]), ("linear", 0.0703125, [5]),
     ("mlp", 0.5, [128, 64]), ("mlp", 0.05, [13, 6])],
)  # fmt: skip
def test_widths(name, width, widths):
    backbone = make(name, width=width)
    found = [layer.out_features for layer in backbone.layers if isinstance(layer, nn.Linear)]
    assert found == widths and backbone.feature_dim == widths[-1]


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_only_one_image_size(name, tmp_path):
    with pytest.raises(networks.NetworkError, match=f"{name} needs input_size"):
        networks.create(name)
    backbone = make(name)
    for shape, shown in (((3, 9, 9), "3 x 9 x 9"), ((1, 8, 8), "1 x 8 x 8"), ((3, 4, 16), "3 x 4 x 16")):
        with pytest.raises(networks.NetworkError, match=rf"images of 3 x 8 x 8 .*got {shown}"):
            backbone(torch.zeros(2, *shape))
    with pytest.raises(networks.NetworkError, match="width must be a positive number"):
        make(name, width=-1.0)
    with pytest.raises(networks.NetworkError, match="8 pixels only; meta says input_size=16"):
        networks.save_encoder(tmp_path, backbone, {"input_size": 16})


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_export_round_trip(name, tmp_path):
    backbone = make(name, width=0.3, in_channels=2)
    backbone(5 * torch.randn(16, 2, 8, 8) + 1)  # moves the running statistics
    networks.save_encoder(tmp_path, backbone.eval(), {"mean": [0.5, 0.5], "std": [0.2, 0.3]})
    loaded, meta = networks.load_encoder(tmp_path)
    x = torch.randn(4, 2, 8, 8)
    assert torch.equal(loaded(x), backbone(x))
    assert loaded.spec == backbone.spec and not loaded.training
    assert (meta["architecture"], meta["input_size"], meta["stem"]) == (name, 8, None)
    with pytest.raises(networks.NetworkError, match="takes no others"):
        loaded(torch.zeros(1, 2, 16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": None}, "'input_size' is missing; linear takes one image size"),
        ({"input_size": 9}, r"layers\.0\.weight has shape \(64, 192\), not \(64, 243\)"),
        ({"width": 2}, r"layers\.0\.weight has shape \(64, 192\), not \(128, 192\)"),
        ({"input_size": 10**12}, "cannot be built"),
        ({"architecture": "lineer"}, "did you mean 'linear'"),
    ],
)
def test_descriptions_that_do_not_hold(tmp_path, changes, message):
    networks.save_encoder(tmp_path, make("linear"), {})
    file = tmp_path / "encoder.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(networks.NetworkError, match=message):
        networks.load_encoder(tmp_path)
