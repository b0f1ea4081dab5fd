"""The backbones known by name, as data. Torch-free, so that a command line can list them at once."""

import difflib
import fnmatch
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from siamscope.networks.errors import NetworkError

Stem = Literal["cifar", "imagenet", "cifar-pad2"]
STEMS: tuple[str, ...] = get_args(Stem)
"""``cifar``: 3x3, stride 1, padding 1, no max-pool (ResNet-18 at 32 px: 555 MMAC). ``cifar-pad2``: the same with
padding 2, as some published CIFAR tables use it (34x34 maps, 704 MMAC: not comparable with the former). ``imagenet``:
7x7, stride 2, padding 3, then 3x3 max-pool, stride 2 (He et al. 2016, table 1)."""

TIMM_PREFIX = "timm:"
CHANNEL_MULTIPLE = 8
"""Scaled channel counts are multiples of this: what vector units and tensor cores like, and exact for every quarter
step of the 64-channel nets."""


@dataclass(frozen=True)
class Architecture:
    """One row: residual block, blocks per stage, channels of the first stage at width 1 (later ones double them)."""

    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, ...]
    base_width: int


# Sources: He et al. 2016 (arXiv:1512.03385), table 1 for 18/34/50, section 4.2 for the three-stage CIFAR nets (6n + 2
# layers). The CIFAR nets take projection shortcuts (option B: 1x1 convolution and batch norm) where the paper takes
# option A (zero-padding): 2,752 parameters more at width 1, and one rule for every net here.
ARCHITECTURES: dict[str, Architecture] = {
    "resnet8": Architecture("basic", (1, 1, 1), 16),
    "resnet20": Architecture("basic", (3, 3, 3), 16),
    "resnet18": Architecture("basic", (2, 2, 2, 2), 64),
    "resnet34": Architecture("basic", (3, 4, 6, 3), 64),
    "resnet50": Architecture("bottleneck", (3, 4, 6, 3), 64),
}


FLAT: dict[str, tuple[int, ...]] = {"linear": (64,), "mlp": (256, 128)}
"""Fully connected nets (`siamscope.networks.flat`): hidden units and features at width 1. They take one image size."""


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that `create` takes and that match a shell pattern, in the table's order; ``timm:*`` lists timm's."""
    if pattern.startswith(TIMM_PREFIX):
        found: list[str] = import_timm().list_models(pattern.removeprefix(TIMM_PREFIX))
        return [TIMM_PREFIX + name for name in found]
    return [name for name in (*ARCHITECTURES, *FLAT) if fnmatch.fnmatchcase(name, pattern)]


def lookup(name: str) -> Architecture:
    """The row of a ResNet's name; NetworkError with the nearest valid name otherwise."""
    if name not in ARCHITECTURES:
        raise NetworkError(f"unknown backbone {name!r}{suggestion(name, (*ARCHITECTURES, *FLAT))} or timm:NAME")
    return ARCHITECTURES[name]


def check_stem(stem: str) -> None:
    """NetworkError unless the stem is one of `STEMS`."""
    if stem not in STEMS:
        raise NetworkError(f"unknown stem {stem!r}{suggestion(stem, STEMS)}")


def suggestion(name: str, valid: Iterable[str]) -> str:
    """'; did you mean X? Valid: A, B, C' for an error message."""
    names = list(valid)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"; did you mean {nearest[0]!r}? Valid: {', '.join(names)}" if nearest else ""


def scale_channels(channels: int, width: float) -> int:
    """``channels * width`` to the nearest multiple of `CHANNEL_MULTIPLE` (halves go up), at least one multiple.

    A width of exactly 1 changes nothing, whatever the number of channels.
    """
    _positive(width)
    if width == 1:
        return channels
    return max(1, math.floor(channels * width / CHANNEL_MULTIPLE + 0.5)) * CHANNEL_MULTIPLE


def flat_widths(name: str, width: float) -> tuple[int, ...]:
    """Widths of the layers of a fully connected net, times ``width``, to the nearest whole number (at least 1)."""
    _positive(width)
    return tuple(max(1, math.floor(units * width + 0.5)) for units in FLAT[name])


def _positive(width: float) -> None:
    if not math.isfinite(width) or width <= 0:
        raise NetworkError(f"width must be a positive number, got {width!r}")


def import_timm() -> Any:
    """The timm package, or a NetworkError that says how to get it."""
    try:
        import timm
    except ImportError as error:
        raise NetworkError(
            f"backbones named timm:NAME need the optional package timm ({error}); "
            "install it with: pip install 'siamscope[timm]'"
        ) from error
    except RuntimeError as error:
        # timm imports torchvision, which registers compiled operators and fails beside another build of torch.
        raise NetworkError(
            f"timm is installed but does not import ({error}); torch and torchvision must be of one build (CPU or CUDA)"
        ) from error
    return timm
