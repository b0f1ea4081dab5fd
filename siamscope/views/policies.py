"""The distribution of a view, and the published policies as a table. Imports no torch.

A policy names two views, because BYOL and Barlow Twins treat them differently. Each has two rows:

* `large`, the paper's ImageNet recipe at 224 px;
* `small`, for outputs of at most 96 px: the paper's own CIFAR-10 recipe where there is one, otherwise the recipe of the
  public CIFAR-10 benchmarks (lightly, solo-learn), which drop the blur. Each row says which.

The authors' code crops bicubically for BYOL, Barlow Twins, VICReg, SimCLR, DINO, W-MSE and MMCR and bilinearly for
MoCo v2 and v3, SimSiam, UniGrad, SwAV and LeJEPA; here every crop is bilinear. DINO's and SwAV's local crops:
`multi_crop`. Methods without a row print no recipe of their own that could be checked (TiCo, CorInfoMax, NNCLR): take
"byol" or "simclr".
"""

import difflib
import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, TypeGuard

from siamscope.views.errors import ViewError

SMALL_SIZE = 96  # the largest output side (px) that takes a policy's small row

_PROBABILITIES = ("flip_prob", "jitter_prob", "grey_prob", "blur_prob", "solarise_prob")


@dataclass(frozen=True)
class ViewSpec:
    """The distribution of one random view. The defaults are MoCo v2's at 224 px.

    Lengths in pixels of the output; areas as a fraction of the image; probabilities in [0, 1].
    Raises ViewError, naming the field and what it may be.
    """

    size: int = 224
    """Side of the square output, px."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the crop, as a fraction of the image: lowest and highest."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of the crop before it is made square: lowest and highest (drawn uniformly in the logarithm)."""
    flip_prob: float = 0.5
    """Probability of a horizontal flip."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Brightness, contrast, saturation (factors from max(0, 1 - v) to 1 + v) and hue (shift from -v to v turns)."""
    jitter_prob: float = 0.8
    """Probability that the four colour operations happen (together, in random order)."""
    grey_prob: float = 0.2
    """Probability that the colours are removed."""
    blur_prob: float = 0.5
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur, px of the output: lowest and highest."""
    solarise_prob: float = 0.0
    """Probability that values at or above the threshold are inverted."""
    solarise_threshold: float = 128 / 255
    """Where solarisation begins, on the scale from 0 to 1."""

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ViewError(f"ViewSpec.size is {self.size!r}; it must be a whole number of pixels, at least 1")
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            self._numbers(name, 2)
        self._numbers("jitter", 4)
        self._pair("crop_scale", 0.0, 1.0)
        self._pair("crop_ratio", 0.0, math.inf)
        self._pair("blur_sigma", 0.0, math.inf)
        for name in (*_PROBABILITIES, "solarise_threshold"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise ViewError(f"ViewSpec.{name} is {value!r}; it must be a number from 0 to 1")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ViewError(
                f"ViewSpec.jitter is {self.jitter}; it must be (brightness, contrast, saturation, hue), "
                "the first three at least 0, hue from 0 to 0.5 turns"
            )

    def _numbers(self, name: str, count: int) -> None:
        """Accepts a list (as TOML gives it) and stores a tuple of floats."""
        value = getattr(self, name)
        valid = isinstance(value, (tuple, list)) and len(value) == count
        if not valid or not all(_is_number(v) and math.isfinite(v) for v in value):
            raise ViewError(f"ViewSpec.{name} is {value!r}; it must be {count} finite numbers")
        object.__setattr__(self, name, tuple(float(v) for v in value))

    def _pair(self, name: str, above: float, most: float) -> None:
        low, high = getattr(self, name)
        if not above < low <= high <= most:
            limit = f", at most {most:g}" if math.isfinite(most) else ""
            raise ViewError(
                f"ViewSpec.{name} is {(low, high)}; it must be (lowest, highest), both above {above:g}{limit}"
            )

    @property
    def blur_kernel(self) -> int:
        """Taps of the blur, a tenth of the side, odd as in SimCLR's code: 23 at 224 px, 3 at 32 px, 1 below 20 px."""
        return 2 * (self.size // 10 // 2) + 1


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Policy:
    """A named pair of view distributions, as changes to ViewSpec's defaults.

    `small` and `large` hold what both views share; `second_*` what view 2 changes. `source`: of the figures.
    """

    source: str
    large: Mapping[str, Any]
    small: Mapping[str, Any]
    second_large: Mapping[str, Any] = field(default_factory=dict)
    second_small: Mapping[str, Any] = field(default_factory=dict)

    def views(self, size: int) -> tuple[ViewSpec, ViewSpec]:
        """The two views at an output side of `size` px: the small row up to 96 px, the large row above."""
        small = isinstance(size, int) and size <= SMALL_SIZE
        shared, second = (self.small, self.second_small) if small else (self.large, self.second_large)
        first = ViewSpec(size=size, **shared)
        return first, replace(first, **second)


_NO_BLUR: dict[str, Any] = {"blur_prob": 0.0}
_FULL_CROP: dict[str, Any] = {"crop_scale": (0.08, 1.0)}
_WEAK_SATURATION: dict[str, Any] = {"jitter": (0.4, 0.4, 0.2, 0.1)}
_STRONG_JITTER: dict[str, Any] = {"jitter": (0.8, 0.8, 0.8, 0.2)}
_SECOND_LARGE: dict[str, Any] = {"blur_prob": 0.1, "solarise_prob": 0.2}  # BYOL's view 2
_SECOND_SMALL: dict[str, Any] = {"solarise_prob": 0.2}
_OFF: dict[str, Any] = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip_prob": 0.0,
    "jitter_prob": 0.0,
    "grey_prob": 0.0,
    "blur_prob": 0.0,
}

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "simclr": Policy(
            source="Chen et al. 2020 (arXiv 2002.05709). 224 px: appendix A, colour strength 1. Small: appendix B.9 "
            "(CIFAR-10), colour strength 0.5, no blur.",
            large=_FULL_CROP | _STRONG_JITTER,
            small=_FULL_CROP | _NO_BLUR,
        ),
        "mocov2": Policy(
            source="Chen et al. 2020 (arXiv 2003.04297) and its code, 224 px. Small: the authors' CIFAR-10 notebook "
            "(crop area from 0.08, no blur).",
            large={},
            small=_FULL_CROP | _NO_BLUR,
        ),
        "byol": Policy(
            source="Grill et al. 2020 (arXiv 2006.07733), appendix B, table 6. Small: no CIFAR recipe in the paper; as "
            "lightly's and solo-learn's CIFAR-10 benchmarks: no blur, solarisation kept on view 2.",
            large=_FULL_CROP | _WEAK_SATURATION | {"blur_prob": 1.0},
            small=_FULL_CROP | _WEAK_SATURATION | _NO_BLUR,
            second_large=_SECOND_LARGE,
            second_small=_SECOND_SMALL,
        ),
        "simsiam": Policy(
            source="Chen & He 2021 (arXiv 2011.10566), appendix A, 224 px. Small: appendix D (CIFAR-10), the same "
            "without blur.",
            large={},
            small=_NO_BLUR,
        ),
        "barlow": Policy(
            source="Zbontar et al. 2021 (arXiv 2103.03230), section 3 (BYOL's) and its code. Small: no CIFAR recipe in "
            "the paper; as lightly's and solo-learn's CIFAR-10 benchmarks.",
            large=_FULL_CROP | _WEAK_SATURATION | {"blur_prob": 1.0},
            small=_FULL_CROP | _WEAK_SATURATION | _NO_BLUR,
            second_large=_SECOND_LARGE,
            second_small=_SECOND_SMALL,
        ),
        "vicreg": Policy(
            source="Bardes et al. 2022 (arXiv 2105.04906), appendix C.1 (symmetric). Small: no CIFAR recipe in the "
            "paper; as solo-learn's CIFAR-10 benchmark (crop area from 0.2, no blur).",
            large=_FULL_CROP | _WEAK_SATURATION | {"solarise_prob": 0.1},
            small=_WEAK_SATURATION | _NO_BLUR | {"solarise_prob": 0.1},
        ),
        "mocov3": Policy(
            source="Chen et al. 2021 (arXiv 2104.02057), code, ResNet-50: BYOL's, crop area from 0.2. Small: no CIFAR "
            "recipe in the paper; as solo-learn's CIFAR-10 benchmark (crop area from 0.08, no blur).",
            large=_WEAK_SATURATION | {"blur_prob": 1.0},
            small=_FULL_CROP | _WEAK_SATURATION | _NO_BLUR,
            second_large=_SECOND_LARGE,
            second_small=_SECOND_SMALL,
        ),
        "unigrad": Policy(
            source="Tao et al. 2022 (arXiv 2112.05141), code: SimSiam's, 224 px. Small: no CIFAR recipe; as SimSiam's, "
            "without blur.",
            large={},
            small=_NO_BLUR,
        ),
        "dino": Policy(
            source="Caron et al. 2021 (arXiv 2104.14294), code: BYOL's colours; crop area from 0.14, its advice for "
            "two views alone (0.4 beside local crops: multi_crop's global_scale). Small: no CIFAR recipe in the paper; "
            "as lightly's CIFAR-10 benchmark (two views, crop area from 0.4, no blur).",
            large=_WEAK_SATURATION | {"crop_scale": (0.14, 1.0), "blur_prob": 1.0},
            small=_WEAK_SATURATION | _NO_BLUR | {"crop_scale": (0.4, 1.0)},
            second_large=_SECOND_LARGE,
            second_small=_SECOND_SMALL,
        ),
        "swav": Policy(
            source="Caron et al. 2020 (arXiv 2006.09882), code: colour strength 1, crop area from 0.14. Small: no "
            "CIFAR recipe in the paper; as lightly's CIFAR-10 benchmark (colour strength 0.5, no blur).",
            large=_STRONG_JITTER | {"crop_scale": (0.14, 1.0)},
            small=_NO_BLUR | {"crop_scale": (0.14, 1.0)},
        ),
        "wmse": Policy(
            source="Ermolov et al. 2021 (arXiv 2007.06346), code. 224 px (ImageNet-100): SimCLR's. Small (CIFAR, "
            "STL-10, Tiny ImageNet): crop area from 0.2, grey 0.1, no blur.",
            large=_FULL_CROP | _STRONG_JITTER,
            small=_NO_BLUR | {"grey_prob": 0.1},
        ),
        "mmcr": Policy(
            source="Yerxa et al. 2023 (arXiv 2303.03307), code. 224 px: Barlow Twins'. Small (CIFAR): crop area from "
            "0.08, no blur, both views alike.",
            large=_FULL_CROP | _WEAK_SATURATION | {"blur_prob": 1.0},
            small=_FULL_CROP | _NO_BLUR,
            second_large=_SECOND_LARGE,
        ),
        "lejepa": Policy(
            source="Balestriero & LeCun 2025 (arXiv 2511.08544), the code's minimal example (Imagenette, 128 px); its "
            "two nested probabilities solarise one view in ten. Small: not published; the same without blur.",
            large=_FULL_CROP | _STRONG_JITTER | {"solarise_prob": 0.1},
            small=_FULL_CROP | _STRONG_JITTER | _NO_BLUR | {"solarise_prob": 0.1},
        ),
        "none": Policy(
            source="No augmentation: the centred square, resized. For evaluation.",
            large=_OFF,
            small=_OFF,
        ),
    }
)


def list_policies(pattern: str = "*") -> list[str]:
    """Names of the policies that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(POLICIES, pattern))


def get_policy(name: str, size: int, **overrides: Any) -> tuple[ViewSpec, ViewSpec]:
    """The two view distributions of a named policy at an output side of `size` px.

    `overrides` are fields of ViewSpec and change both views, as in `get_policy("byol", 32, crop_scale=(0.3, 1.0))`.
    Raises ViewError for an unknown name or field (with the nearest valid one) and for a value that ViewSpec refuses.
    """
    if name not in POLICIES:
        raise ViewError(_unknown("view policy", name, list_policies()))
    valid = [f.name for f in fields(ViewSpec) if f.name != "size"]
    for key in overrides:
        if key not in valid:
            raise ViewError(_unknown("field of a view", key, valid))
    first, second = POLICIES[name].views(size)
    return replace(first, **overrides), replace(second, **overrides)


def _unknown(what: str, name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(str(name).lower(), valid, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}{hint} (valid: {', '.join(valid)})"
