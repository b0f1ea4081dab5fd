"""Residual networks (He et al. 2016, arXiv:1512.03385) of any depth, width, stem and number of input channels.

Parameter names are torchvision's, so weights move between the two in both directions. As there, the stride of a
bottleneck sits on its 3x3 convolution (the paper has it on the first 1x1).
"""

import torch
from torch import Tensor, nn

from siamscope.networks.backbone import Backbone, BackboneSpec
from siamscope.networks.catalogue import Architecture, check_stem, scale_channels
from siamscope.networks.errors import NetworkError
from siamscope.networks.pointwise import Conv1x1
from siamscope.networks.strip_conv import Conv3x3


def _shortcut(cin: int, cout: int, stride: int) -> nn.Sequential | None:
    """Projection where the shape changes, None (identity) elsewhere."""
    if stride == 1 and cin == cout:
        return None
    return nn.Sequential(Conv1x1(cin, cout, stride), nn.BatchNorm2d(cout))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: (B, cin, H, W) -> (B, channels, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, cin: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(cin, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = Conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(cin, channels, stride)

    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return torch.relu_(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions: (B, cin, H, W) -> (B, 4 * channels, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, cin: int, channels: int, stride: int) -> None:
        super().__init__()
        cout = channels * self.expansion
        self.conv1 = Conv1x1(cin, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = Conv1x1(channels, cout)
        self.bn3 = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(cin, cout, stride)

    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += shortcut
        return torch.relu_(out)


class ResNet(Backbone):
    """Stem, stages of residual blocks, average pooling: (B, in_channels, H, W) -> (B, feature_dim).

    The first stage keeps the resolution, each later one halves it and doubles the channels. Initialisation is
    torchvision's: convolutions He-normal by fan-out, batch norms 1 and 0; `zero_init_residual` starts each block as its
    shortcut (Goyal et al. 2017, section 5.1). With `spec.features` a 1x1 convolution, batch norm and ReLU to so many
    channels stand between the last stage and the pooling (`to_features`). Features have the last layer's dtype:
    bfloat16 under bfloat16 autocast.
    """

    def __init__(self, arch: Architecture, spec: BackboneSpec, *, zero_init_residual: bool) -> None:
        super().__init__()
        if spec.in_channels is None or spec.in_channels < 1:
            raise NetworkError(f"in_channels must be at least 1, got {spec.in_channels}")
        self.spec = spec
        self.in_channels = spec.in_channels
        block = BasicBlock if arch.block == "basic" else Bottleneck
        stem_channels = scale_channels(arch.base_width, spec.width)
        self.conv1, self.maxpool = _stem(spec.stem or "cifar", spec.in_channels, stem_channels)
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.relu = nn.ReLU(inplace=True)

        cin, self.stage_names = stem_channels, []
        for stage, depth in enumerate(arch.blocks):
            channels = scale_channels(arch.base_width * 2**stage, spec.width)
            blocks = []
            for i in range(depth):
                blocks.append(block(cin, channels, stride=2 if stage > 0 and i == 0 else 1))
                cin = channels * block.expansion
            self.stage_names.append(f"layer{stage + 1}")
            self.add_module(self.stage_names[-1], nn.Sequential(*blocks))
        self.to_features: nn.Module = nn.Identity()
        if spec.features:
            self.to_features = _to_features(cin, spec.features)
            cin = spec.features
        self.feature_dim = cin
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    nn.init.zeros_(module.last_norm().weight)

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, feature_dim, h, w), before pooling."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise NetworkError(
                f"{self.spec.name} takes images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}; "
                "set in_channels to the number of channels of the data"
            )
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stage_names:
            x = getattr(self, name)(x)
        out: Tensor = self.to_features(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_map(x).mean(dim=(2, 3))


def _to_features(cin: int, features: int) -> nn.Sequential:
    """(B, cin, h, w) -> (B, features, h, w), not negative as the output of a residual block."""
    return nn.Sequential(Conv1x1(cin, features), nn.BatchNorm2d(features), nn.ReLU(inplace=True))


def _stem(stem: str, cin: int, cout: int) -> tuple[nn.Conv2d, nn.Module]:
    """First convolution and what pools after it; see `catalogue.STEMS`."""
    check_stem(stem)
    if stem == "imagenet":
        return nn.Conv2d(cin, cout, 7, stride=2, padding=3, bias=False), nn.MaxPool2d(3, stride=2, padding=1)
    padding = 2 if stem == "cifar-pad2" else 1
    return nn.Conv2d(cin, cout, 3, stride=1, padding=padding, bias=False), nn.Identity()
