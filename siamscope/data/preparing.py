"""Files of images, prepared: from the cache, or decoded whenever they are read; what cannot be used is left out."""

from dataclasses import asdict

import numpy as np

from siamscope.data.cache import Entry, Part, Written, cache_root, open_or_build, short_hash
from siamscope.data.config import DataConfig
from siamscope.data.decode import DecodeOptions
from siamscope.data.errors import DataError
from siamscope.data.folder import Rejected
from siamscope.data.pool import DecodedRows, Decoder, Files
from siamscope.data.progress import Progress, waiting
from siamscope.data.shards import Fill
from siamscope.data.source import Readable, Source, Subset, pixel_hash


def decode_options(config: DataConfig) -> DecodeOptions:
    """How image files are decoded. Raises DataError for a number of channels that they cannot have."""
    channels = config.channels or 3
    if channels not in (1, 3):
        raise DataError(f"data.channels must be 0, 1 or 3 for image files; got {channels}")
    return DecodeOptions(config.size, channels, config.max_pixels, config.min_side)


def prepared(
    files: Files,
    kind: str,
    where: bytes,
    key: str,
    config: DataConfig,
    progress: Progress,
    ready: Source | None = None,
) -> tuple[Readable, Entry]:
    """The images of files, as `config.cache` says, and what the cache says of them.

    kind, where: what they are and where they lie; key: the state of the files. ready: the same images, if they have
    been decoded already; those in a cache are copied.

    Raises:
        DataError: the cache cannot be written, or a decoding process died.
    """
    options, keep = decode_options(config), config.cache == "disk"
    group = short_hash(kind if keep else f"{kind}, looked at", where, sorted(asdict(options).items()))
    shape = (len(files.paths), options.channels, options.size, options.size)
    with Decoder(files, options, config.workers, progress) as decoder:
        fill = _copier(ready, decoder.step, progress) if keep and ready is not None else decoder.fill
        entry = open_or_build(
            cache_root(config.cache_dir), group, key, shape, fill, waiting(progress), step=decoder.step, pixels=keep
        )
    return entry.images or DecodedRows(Decoder(files, options, config.workers)), entry


def _copier(ready: Source, step: int, progress: Progress) -> Fill:
    """Fills shards of a cache with images that have been decoded already."""

    def fill(part: Part) -> Written:
        assert part.file is not None  # asked for with pixels
        digests = []
        with part.file.open("rb+") as file:
            for first in range(part.first, part.stop, step):
                images = ready.read(np.arange(first, min(first + step, part.stop)))
                file.write(images.data)
                digests.append(pixel_hash(images))
                progress("copying images", part.ready + first - part.first + len(images), len(ready))
        return Written(digests, {})

    return fill


def check_rejected(total: int, where: str, entry: Entry, rejected: list[Rejected], strict: bool) -> None:
    """Raises DataError if none of `total` images can be used, or (strict) something was set aside."""
    if len(entry.rejected) == total:
        shown = "; ".join(f"{item.path}: {item.reason}" for item in rejected[:3])
        raise DataError(f"none of the {total} images in {where!r} can be used: {shown}")
    if strict:
        refuse_rejected(rejected)


def refuse_rejected(rejected: list[Rejected]) -> None:
    """Raises DataError if something was set aside, although it should not be."""
    if rejected:
        more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
        raise DataError(
            f"{rejected[0].path}: {rejected[0].reason}{more}; repair or remove the file, or leave out --strict to set "
            f"such files aside"
        )


def without_rejected(source: Source, entry: Entry) -> Source:
    """The images of a source that could be used."""
    if not entry.rejected:
        return source
    usable = np.ones(len(source), np.bool_)
    usable[list(entry.rejected)] = False
    return Subset(source, np.flatnonzero(usable))
