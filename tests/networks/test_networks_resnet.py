"""ResNets: parameter names and counts from rules written here independently, initialisation, widths, sizes."""

import pytest
import torch
from torch import nn

from siamscope import networks
from siamscope.networks.catalogue import scale_channels
from siamscope.networks.resnet import BasicBlock, Bottleneck

# torchvision 0.29: blocks a stage, convolution kernels of one block, output channels over base channels.
TORCHVISION = {
    "resnet18": ((2, 2, 2, 2), (3, 3), 1),
    "resnet34": ((3, 4, 6, 3), (3, 3), 1),
    "resnet50": ((3, 4, 6, 3), (1, 3, 1), 4),
}


def norm_entries(name, channels):
    entries = {f"{name}.{field}": (channels,) for field in ("weight", "bias", "running_mean", "running_var")}
    return {**entries, f"{name}.num_batches_tracked": ()}


def torchvision_entries(blocks, kernels, expansion):
    """Names and shapes of torchvision's state dict without fc, by its rule."""
    entries = {"conv1.weight": (64, 3, 7, 7), **norm_entries("bn1", 64)}
    cin = 64
    for stage, depth in enumerate(blocks):
        base = 64 << stage
        for i in range(depth):
            at = f"layer{stage + 1}.{i}"
            widths = [cin] + [base] * (len(kernels) - 1) + [base * expansion]
            for j, k in enumerate(kernels):
                entries[f"{at}.conv{j + 1}.weight"] = (widths[j + 1], widths[j], k, k)
                entries |= norm_entries(f"{at}.bn{j + 1}", widths[j + 1])
            if i == 0 and (stage > 0 or expansion > 1):
                entries[f"{at}.downsample.0.weight"] = (base * expansion, cin, 1, 1)
                entries |= norm_entries(f"{at}.downsample.1", base * expansion)
            cin = base * expansion
    return entries


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_are_torchvisions(name):
    got = {k: tuple(v.shape) for k, v in networks.create(name, stem="imagenet").state_dict().items()}
    assert got == torchvision_entries(*TORCHVISION[name])


@pytest.mark.parametrize(
    ("name", "total"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)]
)
def test_parameter_counts_are_the_published_ones_less_the_classifier(name, total):
    backbone = networks.create(name, stem="imagenet")
    assert parameters(backbone) == total - (backbone.feature_dim + 1) * 1000


@pytest.mark.parametrize(("name", "n"), [("resnet8", 1), ("resnet20", 3)])
def test_cifar_nets_count_by_hand(name, n):
    # Stem 3x3 from 3 channels; per stage 2n 3x3 convolutions with batch norm; 1x1 shortcuts from 16 to 32 to 64.
    stem = 27 * 16 + 2 * 16
    stages = sum(9 * c * c * (2 * n) + 2 * c * (2 * n) for c in (16, 32, 64))
    halved_inputs = 9 * 16 * 32 + 9 * 32 * 64  # the first convolution of stages 2 and 3 has half the input channels
    shortcuts = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    backbone = networks.create(name)
    assert parameters(backbone) == stem + stages - halved_inputs + shortcuts
    assert backbone.feature_dim == 64


@pytest.mark.parametrize(
    ("name", "width", "dim"),
    [("resnet8", 0.5, 32), ("resnet8", 2, 128), ("resnet20", 3, 192), ("resnet18", 0.25, 128), ("resnet50", 0.5, 1024)],
)
def test_width_scales_features(name, width, dim):
    backbone = networks.create(name, width=width)
    assert backbone.feature_dim == dim
    assert backbone(torch.randn(2, 3, 16, 16)).shape == (2, dim)


def test_channels_round_to_multiples_of_eight():
    assert [scale_channels(16, w) for w in (0.1, 0.5, 0.74, 0.75, 1.3, 1.5)] == [8, 8, 8, 16, 24, 24]
    assert [scale_channels(64, w) for w in (0.75, 1, 1.5)] == [48, 64, 96]
    assert scale_channels(10, 1) == 10
    for width in (0, -1, float("nan"), float("inf")):
        with pytest.raises(networks.NetworkError, match="positive"):
            scale_channels(16, width)


@pytest.mark.parametrize("stem", ["cifar", "cifar-pad2", "imagenet"])
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (4, 32), (3, 64)])
def test_channels_and_sizes(stem, channels, side):
    backbone = networks.create("resnet8", in_channels=channels, stem=stem)
    x = torch.randn(2, channels, side, side)
    first = {"cifar": side, "cifar-pad2": side + 2, "imagenet": side // 4}[stem]
    last = (first + 3) // 4  # two halvings, rounded up
    assert backbone.feature_map(x).shape == (2, 64, last, last)
    assert backbone(x).shape == (2, 64)


def test_wrong_channels_are_named():
    with pytest.raises(networks.NetworkError, match=r"\(B, 1, H, W\), got \(2, 3, 8, 8\)"):
        networks.create("resnet8", in_channels=1)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(networks.NetworkError, match="in_channels"):
        networks.create("resnet8", in_channels=0)


def residual_blocks(backbone):
    return [m for m in backbone.modules() if isinstance(m, BasicBlock | Bottleneck)]


@pytest.mark.parametrize(("name", "kind", "cin"), [("resnet20", BasicBlock, 16), ("resnet50", Bottleneck, 64)])
def test_zero_init_makes_each_block_its_shortcut(name, kind, cin):
    torch.manual_seed(0)
    blocks = residual_blocks(networks.create(name, width=0.25))
    assert all(type(b) is kind for b in blocks)
    for block in blocks:
        x = torch.randn(4, block.conv1.in_channels, 6, 6).relu()
        shortcut = x if block.downsample is None else block.downsample(x)
        assert torch.equal(block(x), shortcut.relu())
    control = residual_blocks(networks.create(name, width=0.25, zero_init_residual=False))[-1]
    x = torch.randn(4, control.conv1.in_channels, 6, 6).relu()
    assert (control(x) - x).abs().max() > 0.1


def test_initialisation_is_he_normal_by_fan_out_and_reproducible():
    torch.manual_seed(3)
    first = networks.create("resnet18", width=0.5)
    torch.manual_seed(3)
    second = networks.create("resnet18", width=0.5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    weight = first.layer3[0].conv1.weight  # (128, 64, 3, 3): fan-out 128 * 9, fan-in half of it
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    norms = [m for m in first.modules() if isinstance(m, nn.BatchNorm2d)]
    zeroed = {id(b.bn2) for b in residual_blocks(first)}
    assert len(zeroed) == 8
    assert all(bool((m.weight == (0 if id(m) in zeroed else 1)).all() and (m.bias == 0).all()) for m in norms)


def test_channels_last_and_autocast_agree_with_the_plain_forward():
    torch.manual_seed(0)
    backbone = networks.create("resnet8", zero_init_residual=False).eval()
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        plain = backbone(x)
        backbone = backbone.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
        maps = backbone.feature_map(x)
        assert maps.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(backbone(x), plain, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = backbone(x)
    assert half.dtype == torch.bfloat16
    assert ((half.float() - plain).norm() / plain.norm()).item() < 0.02


def test_gradient_reaches_every_parameter():
    backbone = networks.create("resnet8", zero_init_residual=False)
    backbone(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(networks.NetworkError, match=r"'resnet81'; did you mean 'resnet8'\? Valid: resnet8, resnet20"):
        networks.create("resnet81")
    with pytest.raises(networks.NetworkError, match="did you mean 'imagenet'"):
        networks.create("resnet8", stem="imagnet")
    assert networks.list_backbones() == ["resnet8", "resnet20", "resnet18", "resnet34", "resnet50", "linear", "mlp"]
    assert networks.list_backbones("*[58]*0") == ["resnet50"]
    assert networks.list_backbones("vit*") == []
