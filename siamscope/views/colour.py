"""Colour operations on float RGB batches in [0, 1]; each takes one factor a sample.

`exact` follows torchvision step by step: every operation clamps, hue turns in HSV, the order is drawn per sample.
`fast` is one 3 x 3 matrix and one offset a sample and a single clamp at the end. What it gives up:

* The clamps between the operations. Without them the order of brightness, contrast and saturation makes no difference.
* The hue of HSV, which is not linear in RGB. It becomes a rotation about the grey axis, which agrees with HSV at thirds
  of a turn. (The YIQ rotation, which keeps the luma, is further from HSV: on 200 CIFAR-10 images and a shift of 0.1
  turns the mean error is 7.3 levels of 255 against 4.4; leaving the hue alone, 6.5.)
  On 1,000 CIFAR-10 images with SimSiam's strengths the mean difference from `exact` is 2.8 levels of 255, where the
  jitter itself moves 25.5; without hue it is 0.3.
* The contrast is towards the mean luma of the crop times the brightness, whatever comes in between.
"""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from siamscope.views.params import BRIGHTNESS, CONTRAST, HUE, ORDERS, SATURATION, ViewParams

LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights (ITU-R 601, rounded; they sum to 0.9999)


def luma(rgb: Tensor) -> Tensor:
    """Grey value (B, 1, H, W) of RGB images (B, 3, H, W)."""
    r, g, b = _channels(rgb)
    return (r * LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])


def brightness_(rgb: Tensor, factor: Tensor) -> Tensor:
    """factor * x, clamped, in place. `factor` (B,)."""
    return rgb.mul_(_per_image(factor)).clamp_(0.0, 1.0)


def contrast_(rgb: Tensor, factor: Tensor) -> Tensor:
    """factor * x + (1 - factor) * mean luma of the image, clamped, in place. `factor` (B,)."""
    mean = _mean_luma(rgb)
    return rgb.mul_(_per_image(factor)).add_(_per_image((1.0 - factor) * mean)).clamp_(0.0, 1.0)


def saturation_(rgb: Tensor, factor: Tensor) -> Tensor:
    """factor * x + (1 - factor) * luma of the pixel, clamped, in place. `factor` (B,)."""
    grey = luma(rgb).mul_(_per_image(1.0 - factor))
    return rgb.mul_(_per_image(factor)).add_(grey).clamp_(0.0, 1.0)


def hue_(rgb: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of HSV by `shift` (B,) turns, in place.

    No HSV image is made. With M and m the largest and smallest channel of a pixel and c = M - m, its hue in turns is
    1/2 + sign(b - g) * ((M - g) + (M - b) + (r - m)) / 6c, and a channel of the shifted pixel is
    M - c * clamp(2 - 6 * d, 0, 1), d the distance round the circle from the hue to the one opposite the channel's.
    """
    r, g, b = _channels(rgb)
    most = torch.maximum(torch.maximum(r, g), b)
    least = torch.minimum(torch.minimum(r, g), b)
    chroma = most - least
    turn = (most - g).add_(most).sub_(b).add_(r).sub_(least)
    turn = torch.copysign(turn, b - g).div_(chroma.clamp_min(1e-12).mul_(6.0)).add_(_per_image(shift))
    distance = torch.cat((turn, turn - 1 / 3, turn + 1 / 3), 1)
    distance.sub_(distance.round()).abs_()
    below = distance.mul_(-6.0).add_(2.0).clamp_(0.0, 1.0)
    torch.addcmul(most, below, chroma, value=-1.0, out=rgb)
    return rgb


def grey(rgb: Tensor) -> Tensor:
    """The luma in all three channels: (B, 3, H, W), a view."""
    return luma(rgb).expand(-1, 3, -1, -1)


_EXACT = {BRIGHTNESS: brightness_, CONTRAST: contrast_, SATURATION: saturation_, HUE: hue_}


def jitter_(rgb: Tensor, params: ViewParams, orders: Sequence[int], active: Sequence[bool]) -> Tensor:
    """The four operations in each sample's order, in place.

    `orders`: index into ORDERS for each sample, -1 for none. Neighbours with the same next operation are done in one
    call, so sort the samples by order. `active`: which of the four operations can change anything.
    """
    factors = (params.brightness, params.contrast, params.saturation, params.hue)
    for step in range(4):
        start = 0
        for operation, run in groupby(-1 if order < 0 else ORDERS[order][step] for order in orders):
            stop = start + sum(1 for _ in run)
            if operation >= 0 and active[operation]:
                _EXACT[operation](rgb[start:stop], factors[operation][start:stop])
            start = stop
    return rgb


def fused_matrix(params: ViewParams) -> tuple[Tensor, Tensor]:
    """Matrix (B, 3, 3) and offset per unit of mean luma (B, 1) that stand for jitter and grey in `fast`.

    matrix = b c (s R(hue) + (1 - s) 1 luma^T), offset = (1 - c) b; grey projects the matrix onto the luma.
    Samples without jitter get the identity (or the luma).
    """
    on = params.jitter
    bright, contr, sat = ((f - 1) * on + 1 for f in (params.brightness, params.contrast, params.saturation))
    angle = params.hue * on * (2 * math.pi)
    cos, sin = angle.cos(), angle.sin()
    # R = cos I + (1 - cos)/3 J + sin/sqrt(3) K rotates about (1, 1, 1), red towards green as HSV's positive shift.
    parts = torch.stack((sat * cos, sat * (1 - cos) / 3, sat * sin / math.sqrt(3.0), 1 - sat), 1)
    basis = _FUSED_BASIS.to(on.device)
    # Not a matrix product: it rounds differently with the count of samples, and slices would not be bit-identical.
    both = ((parts * (bright * contr)[:, None])[:, :, None] * basis).sum(1)
    matrix = torch.where(params.grey[:, None], both[:, 9:], both[:, :9])
    return matrix.view(-1, 3, 3), ((1 - contr) * bright)[:, None]


def _fused_basis() -> Tensor:
    """I, J, K and 1 luma^T as rows (4, 18): first as they are, then projected onto the luma."""
    weights = torch.tensor(LUMA) / sum(LUMA)
    turn = torch.tensor(((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0)))
    basis = torch.stack((torch.eye(3), torch.ones(3, 3), turn, weights.expand(3, 3)))
    return torch.cat((basis, (weights @ basis).unsqueeze(1).expand(4, 3, 3)), 1).flatten(1)


_FUSED_BASIS = _fused_basis()


def fused(rgb: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """clamp(matrix @ pixel + offset * mean luma): a new tensor (B, 3, H, W)."""
    b, _, h, w = rgb.shape
    shift = (offset * _mean_luma(rgb)[:, None])[:, :, None].expand(b, 3, 1)
    return torch.baddbmm(shift, matrix, rgb.view(b, 3, h * w)).clamp_(0.0, 1.0).view(b, 3, h, w)


def _channels(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return rgb[:, 0:1], rgb[:, 1:2], rgb[:, 2:3]


def _mean_luma(rgb: Tensor) -> Tensor:
    """Mean grey value of each image, (B,)."""
    r, g, b = rgb.mean((2, 3)).unbind(1)
    return r * LUMA[0] + g * LUMA[1] + b * LUMA[2]


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
