"""Fully connected backbones, for one size of image: `linear`, to which the theory of learning dynamics applies, `mlp`.

Source: Tian, Chen & Ganguli 2021 (arXiv:2102.06810) for the linear model, f = W x without bias.
"""

from __future__ import annotations

from torch import Tensor, nn

from siamscope.networks.backbone import Backbone, BackboneSpec
from siamscope.networks.catalogue import flat_widths
from siamscope.networks.errors import NetworkError


class Flat(Backbone):
    """Images (B, C, S, S) of one size S, flattened, to features (B, feature_dim).

    linear: f = W x, where x is the image divided by sqrt(C S^2). Views are normalised to mean 0 and variance 1 for each
        channel, so tr E[x x^T] is about 1 (views of low contrast make it less, high contrast more), and rates and
        weight decay mean the same at every image size. W starts as torch's linear layers do: rows of length about
        sqrt(1/3), and so W W^T about I / 3 where C S^2 is well above feature_dim.
    mlp: linear layer without bias, batch norm, ReLU, linear layer; 256 hidden units and 128 features at width 1. What
        batch norm would undo is left out: the bias before it, and the division of the image.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        if spec.in_channels is None or spec.input_size is None:
            raise NetworkError(
                f"{spec.name} needs input_size, the side of its images in pixels: it takes one size only"
            )
        self.spec = spec
        self.shape = (spec.in_channels, spec.input_size, spec.input_size)
        *hidden, last = flat_widths(spec.name, spec.width)
        self.feature_dim = spec.features or last
        pixels = spec.in_channels * spec.input_size**2
        self.scale = 1.0 if hidden else pixels**-0.5
        self.layers = nn.Sequential()
        for wide in hidden:
            self.layers.extend([nn.Linear(pixels, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU(inplace=True)])
            pixels = wide
        self.layers.append(nn.Linear(pixels, self.feature_dim, bias=bool(hidden)))

    @property
    def matrix(self) -> Tensor | None:
        """W (feature_dim, C S^2) of `linear`, which acts on the divided image; None for `mlp`."""
        return self.layers[0].weight if len(self.layers) == 1 else None  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise NetworkError(
                f"{self.spec.name} was built for images of {' x '.join(map(str, self.shape))} (channels, height, "
                f"width) and takes no others; got {' x '.join(map(str, x.shape[1:]))}. Resize them, or train again at "
                "that size"
            )
        out: Tensor = self.layers(self.flattened(x))
        return out

    def flattened(self, x: Tensor) -> Tensor:
        """What the first layer sees: (B, C S^2), for `linear` divided by sqrt(C S^2)."""
        flat = x.flatten(1)
        return flat * self.scale if self.scale != 1 else flat
