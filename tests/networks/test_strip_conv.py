"""The strip of images against torch's own convolution: values, gradients, and when it is taken."""

import pytest
import torch
from torch.nn import functional as F

from siamscope import networks
from siamscope.networks import strip_conv
from siamscope.networks.strip_conv import Conv3x3, gains, in_a_strip


def images(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)
    return drawn.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height", "width", "stride"), [(4, 4, 1), (8, 8, 2), (5, 3, 1), (5, 6, 2), (1, 2, 1)])
def test_equals_a_convolution_and_its_gradients(height, width, stride):
    x, w = images(5, 6, height, width).requires_grad_(), images(7, 6, 3, 3).requires_grad_()
    expected = F.conv2d(x, w, stride=stride, padding=1)
    upstream = images(*expected.shape)
    wanted = torch.autograd.grad(expected, (x, w), upstream)
    found = in_a_strip(x, w, stride)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for got, want in zip(torch.autograd.grad(found, (x, w), upstream), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_an_image_does_not_leak_into_its_neighbour():
    """Negative control of the zero columns: another first image must leave the second one's output as it was."""
    x, w = images(2, 4, 4, 4), images(3, 4, 3, 3)
    before = in_a_strip(x, w, 1)
    x[0] = 100.0
    after = in_a_strip(x, w, 1)
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])


def test_taken_for_short_bfloat16_rows_in_training_only():
    half = torch.bfloat16
    assert gains(images(2, 8, 4, 4, dtype=half), 1)
    assert gains(images(2, 8, 8, 8, dtype=half), 2)
    assert gains(images(2, 128, 16, 16, dtype=half), 2)
    assert not gains(images(2, 64, 16, 16, dtype=half), 2)
    assert not gains(images(2, 8, 8, 8, dtype=half), 1)
    assert not gains(images(2, 8, 4, 4), 1), "float32 gains nothing"
    assert not gains(images(1, 8, 4, 4, dtype=half), 1), "one image is its own strip"
    assert not gains(images(2, 8, 5, 5, dtype=half), 2), "an odd width would shift the neighbours"
    assert not gains(torch.randn(2, 8, 4, 4).to(half), 1), "channels first"


def test_a_layer_gives_what_nn_conv2d_gives(monkeypatch):
    layer = Conv3x3(8, 8).to(memory_format=torch.channels_last)
    x, taken = images(4, 8, 4, 4, dtype=torch.float32), []
    monkeypatch.setattr(strip_conv, "in_a_strip", lambda *a: taken.append(1) or in_a_strip(*a))
    with torch.autocast("cpu", torch.bfloat16):
        trained = layer(x.bfloat16())
        assert taken == [1]
        judged = layer.eval()(x.bfloat16())
        assert taken == [1]
        plain = F.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(trained, judged, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(judged, plain, rtol=1e-2, atol=1e-2)


def test_resnet_gradients_in_bfloat16_are_those_of_plain_convolutions(monkeypatch):
    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = networks.create("resnet8", width=0.5).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(images(8, 3, 16, 16, dtype=torch.float32))
        out.float().square().sum().backward()
        return [p.grad for p in net.parameters()]

    with_strips = gradients()
    monkeypatch.setattr(strip_conv, "gains", lambda *_: False)
    for a, b in zip(with_strips, gradients(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05 * float(b.abs().max()))
