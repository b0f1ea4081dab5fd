"""The predictors of table 3 of the DirectPred paper: with and without a bias, symmetric in one layer and in two."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from siamscope.networks import NetworkError
from siamscope.networks.heads_spec import LayerSpec
from siamscope.networks.predictors import create_predictor


def two_layers(norm="none"):
    return (LayerSpec(7, False, norm, "relu"), LayerSpec(5, False, "none", "none"))


@pytest.mark.parametrize("kind", ["linear", "symmetric"])
def test_the_bias_is_added(kind):
    torch.manual_seed(0)
    z = torch.randn(9, 5)
    with_bias = create_predictor(kind, 5, bias=True)
    assert with_bias.bias.abs().max() > 0
    torch.testing.assert_close(with_bias(z), z @ with_bias.matrix.T + with_bias.bias)
    without = create_predictor(kind, 5)
    assert without.bias is None
    assert [name for name, _ in without.named_parameters()] == ["weight"]  # what files of older runs hold


def test_the_matrix_is_drawn_first():
    """The same seed gives the same W with and without the bias."""
    made = []
    for bias in (False, True):
        torch.manual_seed(4)
        made.append(create_predictor("linear", 6, bias=bias).matrix)
    assert torch.equal(*made)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_two_layer_predictor_is_tied(norm):
    torch.manual_seed(1)
    predictor = create_predictor("symmetric-mlp", 5, hidden_layers=two_layers(norm))
    w, z = predictor.first.weight, torch.randn(30, 5)
    hidden = z @ w.T
    if norm == "batch":
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(predictor(z), hidden.relu() @ w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_is_that_of_two_layers_averaged_after_it(momentum):
    """As the authors' code has it: free layers take an SGD step, then both become their average."""
    torch.manual_seed(2)
    tied = create_predictor("symmetric-mlp", 5, hidden_layers=two_layers()).double()
    first, second = (nn.Parameter(p.detach().clone()) for p in (tied.first.weight, tied.second.weight))
    target = torch.randn(20, 5, dtype=torch.float64)
    optimizers = [
        torch.optim.SGD(p, lr=0.3, momentum=momentum, weight_decay=0.01) for p in (tied.parameters(), [first, second])
    ]
    for _ in range(4):
        z = torch.randn(20, 5, dtype=torch.float64)
        losses = (tied(z) - target).square().mean(), (F.linear(F.linear(z, first).relu(), second) - target).square()
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        with torch.no_grad():
            assert (first - second.T).norm() > 1e-4  # a step takes them apart
            mean = (first + second.T) / 2
            first.copy_(mean)
            second.copy_(mean.T)
        torch.testing.assert_close(tied.first.weight, first, rtol=1e-10, atol=1e-14)
        assert torch.equal(tied.first.weight, tied.second.weight.T)


@pytest.mark.parametrize("layers", [(), two_layers()[1:], two_layers(norm="batch")[:1] * 3])
def test_two_layers_exactly(layers):
    with pytest.raises(NetworkError, match="'symmetric-mlp' needs two layers"):
        create_predictor("symmetric-mlp", 5, hidden_layers=layers)
