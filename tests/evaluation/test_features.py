"""Extraction: the right features, and an encoder that is left as it was."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from siamscope.evaluation import EvaluationError, extract, pooled

IMAGES = np.random.default_rng(0).integers(0, 256, size=(23, 3, 8, 8), dtype=np.uint8)


def encoder() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
    with torch.no_grad():
        net(torch.randn(16, 3, 8, 8))  # running statistics away from their start
    return net


def read(indices: np.ndarray) -> np.ndarray:
    return IMAGES[indices]


def normalise(x: Tensor) -> Tensor:
    assert x.dtype == torch.uint8
    return x.float() / 255 - 0.5


def test_features_are_those_of_eval_mode_whatever_the_batch() -> None:
    net = encoder()
    expected = net.eval()(normalise(torch.as_tensor(IMAGES))).detach()
    for batch_size in (1, 5, 23, 100):
        found = extract(net.train(), read, len(IMAGES), transform=normalise, batch_size=batch_size)
        assert found.dtype == torch.float32 and found.shape == (23, 4 * 36)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    in_training_mode = net.train()(normalise(torch.as_tensor(IMAGES)))
    assert (in_training_mode - expected).abs().max() > 0.1  # negative control: the mode matters here


def test_the_encoder_is_left_as_it_was() -> None:
    net = encoder().train()
    net[1].eval()  # frozen batch norm inside a training network
    modes = [m.training for m in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    extract(net, read, len(IMAGES), transform=normalise)
    assert [m.training for m in net.modules()] == modes
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    net[1].train()
    net(normalise(torch.as_tensor(IMAGES)))
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])  # the check above can fail


def test_modes_are_restored_after_an_error() -> None:
    net = encoder().train()

    def lose(_: np.ndarray) -> np.ndarray:
        assert not net.training
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        extract(net, lose, 5, transform=normalise)
    assert all(m.training for m in net.modules())


def test_features_can_be_trained_on_afterwards() -> None:
    found = extract(encoder(), read, 5, transform=normalise)
    head = nn.Linear(found.shape[1], 2)
    head(found).sum().backward()  # an inference tensor would refuse to be saved for this
    assert head.weight.grad is not None and not found.requires_grad


def test_autocast_is_applied_and_the_result_is_float32() -> None:
    seen = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(x.flatten(1))
            seen.append(y.dtype)
            return y

    found = extract(Spy(), read, 4, transform=normalise, autocast=torch.bfloat16)
    assert seen == [torch.bfloat16] and found.dtype == torch.float32


def test_reader_gets_each_index_once_in_order() -> None:
    asked: list[int] = []

    def spy(indices: np.ndarray) -> Tensor:
        asked.extend(indices.tolist())
        return torch.as_tensor(IMAGES[indices])

    extract(encoder(), spy, 23, transform=normalise, batch_size=10)
    assert asked == list(range(23))


def test_outputs_that_are_not_features_are_refused() -> None:
    maps = nn.Conv2d(3, 4, 3)
    with pytest.raises(EvaluationError, match="Pool and flatten"):
        extract(maps, read, 5, transform=normalise)

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(EvaluationError, match="tuple"):
        extract(Pair(), read, 5, transform=normalise)
    with pytest.raises(EvaluationError, match="at least 1"):
        extract(encoder(), read, 0, transform=normalise)


class Tokens(nn.Module):
    """(B, C, H, W) -> tokens (B, H W, C), in a tuple as blocks of some transformers give them."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x.flatten(2).transpose(1, 2), None


def test_any_layer_of_any_module_gives_pooled_features() -> None:
    net = encoder()
    maps = net[:3].eval()(normalise(torch.as_tensor(IMAGES))).detach()
    net.train()
    found = extract(pooled(net, "2"), read, len(IMAGES), transform=normalise, batch_size=5)
    torch.testing.assert_close(found, maps.mean((2, 3)), rtol=1e-5, atol=1e-6)
    assert net.training and not net[2]._forward_hooks
    with pytest.raises(EvaluationError, match=r"evaluation\.pooled"):
        extract(net[:3], read, len(IMAGES), transform=normalise)
    torch.testing.assert_close(extract(pooled(net[:3]), read, len(IMAGES), transform=normalise), found)
    flat = extract(pooled(net), read, len(IMAGES), transform=normalise)
    torch.testing.assert_close(flat, extract(net, read, len(IMAGES), transform=normalise))


def test_tokens_are_averaged_or_the_first_is_taken() -> None:
    x = torch.randn(4, 3, 2, 5)
    torch.testing.assert_close(pooled(Tokens())(x), x.mean((2, 3)))
    torch.testing.assert_close(pooled(nn.Sequential(Tokens()), "0", tokens="first")(x), x[:, :, 0, 0])


def test_layers_that_cannot_be_pooled() -> None:
    net = encoder()
    with pytest.raises(EvaluationError, match="no layer 'features' in Sequential"):
        pooled(net, "features")
    with pytest.raises(EvaluationError, match="tokens='cls'"):
        pooled(net, tokens="cls")
    unused = nn.Identity()
    unused.aside = nn.Linear(2, 2)
    with pytest.raises(EvaluationError, match="was not run"):
        pooled(unused, "aside")(torch.ones(2, 2))
    with pytest.raises(EvaluationError, match=r"shape \(2,\)"):
        pooled(nn.Identity())(torch.ones(2))
    assert not net[2]._forward_hooks
