"""Which images to use and how to prepare them. Imports neither numpy nor torch: the command line starts fast."""

import difflib
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from tyro.conf import arg

from siamscope.data.errors import DataError

Kind = Literal["auto", "shapes", "folder", "idx", "npz", "npy", "tar", "hub"]
Keep = Literal["disk", "none"]
KINDS: tuple[str, ...] = get_args(Kind)
NAMED_SOURCES = ("shapes", "fashion-mnist")


@dataclass(frozen=True)
class DataConfig:
    """Which images to use, how large they are stored, and how they are split.

    Every field is a plain number, text or truth value, so the configuration can be written as TOML and read back.
    """

    source: str = "shapes"
    """shapes (drawn by the program), fashion-mnist (Debian's package), the path of a folder or an array file, tar files
    (a folder of them, train-{000..009}.tar, train-*.tar), or hf:OWNER/NAME[:CONFIG][@REVISION] or hf:PATH (a Hugging
    Face data set). A folder that is called like a named source is given as ./shapes."""

    kind: Kind = "auto"
    """How to read the source. auto: by the path; folder: image files; idx: files as MNIST's; npz, npy: arrays; tar:
    webdataset's layout; hub: what the library datasets reads (needs the extra [hub])."""

    image: str = ""
    """tar: the ending of a sample's image, if it has several (left.png). hub: the image column. Empty: the only one."""

    label: str = ""
    """tar: the ending of a sample's label (cls), or a field of its .json. hub: the label column. Empty: what is called
    so, or in a data set the only column of classes; none: read no labels."""

    size: Annotated[int, arg(aliases=("--size",))] = 32
    """Side of the stored square images in pixels. The shorter side is scaled to it, then the centre is cut out."""

    channels: int = 0
    """Channels of the stored images. 0: three for image files, IDX files and shapes, as they are for arrays."""

    samples: Annotated[int, arg(aliases=("--samples",))] = 0
    """Training images to use, drawn by the seed after the validation images were set aside. 0: all (shapes: 10,000)."""

    classes: int = 10
    """Classes of the shapes source; the other sources know their own."""

    domains: Annotated[bool, arg(aliases=("--domains",))] = False
    """Whether a folder's images lie in DOMAIN/CLASS/: the second folder is then the class; otherwise the first is."""

    val_samples: int = 0
    """Validation images, drawn from the training data by the seed. 0: by val_fraction."""

    val_fraction: float = 0.1
    """Share of the training data set aside for validation if val_samples is 0; at least 2 images and at most 5,000."""

    test_samples: int = 0
    """Test images to use, drawn by the seed. 0: all (shapes: 2,000)."""

    seed: int = 0
    """Seed of the split, of the drawing of samples, and of the shapes."""

    cache_dir: str = ""
    """Where decoded images are kept. Empty: $SIAMSCOPE_CACHE, else siamscope/ in the user's cache folder."""

    cache: Keep = "disk"
    """disk: image files are decoded once, into the cache. none: they are decoded whenever they are read, by worker
    processes, for data whose cache would not fit the disk; the first start still looks into every file once."""

    window: int = 2048
    """tar, hub with order.name stream: images that are mixed with one another; a data set that is not kept (data.cache
    none) holds two to three times as many files in memory."""

    memory_budget_mb: int = 0
    """Images that need more memory than this (in MB of 1,000,000 bytes) are streamed from the cache. 0: half of the
    memory that is available at the start."""

    workers: Annotated[int, arg(aliases=("--workers",))] = 0
    """Processes of this host that decode image files, divided among its training processes (each has at least one).
    0: one for each usable core."""

    strict: Annotated[bool, arg(aliases=("--strict",))] = False
    """Whether an unreadable image is an error. Otherwise it is set aside and listed with the reason."""

    max_pixels: int = 100_000_000
    """An image file with more pixels is set aside unread, so that a decompression bomb cannot fill the memory."""

    min_side: int = 8
    """An image whose shorter side has fewer pixels is set aside: it shows nothing. 1 accepts every image."""

    def __post_init__(self) -> None:
        # Messages start with the field's own name; the recipe puts "data." before it.
        if not isinstance(self.source, str) or not self.source.strip():
            raise DataError(f"source must be {', '.join(NAMED_SOURCES)} or a path; got {self.source!r}")
        if self.kind not in KINDS:
            raise DataError(f"kind must be one of {', '.join(KINDS)}; got {self.kind!r}{nearest(self.kind, KINDS)}")
        if self.cache not in get_args(Keep):
            raise DataError(f"cache must be disk or none; got {self.cache!r}{nearest(self.cache, get_args(Keep))}")
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise DataError(f"{name} must be a whole number; got {value!r}")
            if not least <= value <= most:
                raise DataError(f"{name} must be from {least} to {most}; got {value}")
        fraction = self.val_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
            raise DataError(f"val_fraction must lie between 0 and 1, both excluded; got {fraction!r}")
        for name in ("strict", "domains"):
            if not isinstance(getattr(self, name), bool):
                raise DataError(f"{name} must be true or false; got {getattr(self, name)!r}")
        for name, what in (("cache_dir", "path"), ("image", "name"), ("label", "name")):
            if not isinstance(getattr(self, name), str):
                raise DataError(f"{name} must be a {what}; got {getattr(self, name)!r}")


_LARGE = 2**40
_RANGES: tuple[tuple[str, int, int], ...] = (
    ("size", 8, 2048),
    ("channels", 0, 4096),
    ("samples", 0, _LARGE),
    ("classes", 2, 1000),
    ("val_samples", 0, _LARGE),
    ("test_samples", 0, _LARGE),
    ("seed", 0, 2**63 - 1),
    ("window", 1, 2**20),
    ("memory_budget_mb", 0, _LARGE),
    ("workers", 0, 1024),
    ("max_pixels", 1, _LARGE),
    ("min_side", 1, 2048),
)


def nearest(word: object, names: tuple[str, ...]) -> str:
    """'; did you mean NAME?' for the name most like a mistyped word, or nothing."""
    found = difflib.get_close_matches(str(word).lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""
