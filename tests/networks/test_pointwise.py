"""1x1 convolutions of few channels with a stride: values, gradients, and that a narrow network trains at all."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from siamscope.networks import pointwise
from siamscope.networks.pointwise import Conv1x1, unsafe

NARROW = """
import torch
from siamscope import networks
body = networks.create("resnet8", width={width}, stem="cifar", input_size={pixels})
body.to(memory_format=torch.channels_last)
images = torch.randn(8, 3, {pixels}, {pixels}).contiguous(memory_format=torch.channels_last)
for _ in range(3):
    body(images).square().mean().backward()
print(all(bool(p.grad.isfinite().all()) for p in body.parameters()))
"""


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pixels", [8, 9])
def test_equals_a_convolution_and_its_gradients(stride, pixels):
    layer = Conv1x1(5, 7, stride).double()
    x = torch.randn(3, 5, pixels, pixels + 2, dtype=torch.float64)
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    first = x.clone().requires_grad_()
    expected = F.conv2d(first, layer.weight, stride=stride)
    found = layer(last)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (first, layer.weight), upstream)
    for got, want in zip(torch.autograd.grad(found, (last, layer.weight), upstream), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_which_pixels_matter():
    """Negative control: a picked pixel moves the output, a skipped one does not."""
    layer = Conv1x1(4, 4, 2)
    x = torch.randn(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    before = layer(x)
    x[..., 1, :] = 50.0
    assert torch.equal(layer(x), before)
    x[..., 2, 2] = 50.0
    assert not torch.equal(layer(x)[..., 1, 1], before[..., 1, 1])


def test_taken_for_few_channels_last_only(monkeypatch):
    few = torch.randn(2, 8, 8, 8)
    assert unsafe(few.contiguous(memory_format=torch.channels_last))
    assert not unsafe(few)
    assert not unsafe(torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last))
    monkeypatch.setattr(pointwise, "unsafe", lambda _: pytest.fail("a layer without a stride is torch's"))
    Conv1x1(8, 8)(few)


@pytest.mark.parametrize(("width", "pixels"), [(0.25, 64), (0.5, 64), (0.5, 96)])
def test_a_narrow_network_trains_with_channels_last(width, pixels):
    """With torch 2.13's own convolution this process dies by a signal."""
    done = subprocess.run(
        [sys.executable, "-c", NARROW.format(width=width, pixels=pixels)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
