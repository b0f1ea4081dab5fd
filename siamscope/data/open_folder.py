"""Opens a folder of image files: list, decode what the cache does not hold, name the classes."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from siamscope.data.cache import Entry, cache_root, open_or_build, short_hash
from siamscope.data.config import DataConfig
from siamscope.data.decode import DecodeOptions
from siamscope.data.errors import DataError
from siamscope.data.folder import SUFFIXES, Listing, Rejected, find_splits, list_images
from siamscope.data.pool import DecodedRows, Decoder
from siamscope.data.progress import Progress
from siamscope.data.source import ArraySource, Prefixed, Readable, Source, Subset


@dataclass
class OpenedFolder:
    """The sources of a folder, the files set aside, and notes for the user."""

    train: Source
    val: Source | None = None
    test: Source | None = None
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    usable: dict[str, list[str]] = field(default_factory=dict)


def decode_options(config: DataConfig) -> DecodeOptions:
    """How image files are decoded. Raises DataError for a number of channels that they cannot have."""
    channels = config.channels or 3
    if channels not in (1, 3):
        raise DataError(f"data.channels must be 0, 1 or 3 for image files; got {channels}")
    return DecodeOptions(config.size, channels, config.max_pixels, config.min_side)


def open_folder(
    root: Path, config: DataConfig, progress: Progress, known: Mapping[str, list[str]] | None = None
) -> OpenedFolder:
    """Open a folder; see `find_splits` and `Listing.classes` for how its layout is read.

    known: the files to use of each split (relative to its folder), as `usable` of an earlier call named them; the
    others are passed over.

    Raises:
        DataError: no usable image, or (strict) one that had to be set aside, or a known one that is gone.
    """
    options = decode_options(config)
    folders = find_splits(root)
    listings = {split: list_images(folder) for split, folder in folders.items()}
    if known is not None:
        empty = Listing(root, [], [], [])
        listings = {split: listings.get(split, empty).only(paths) for split, paths in known.items()}
    for listing in listings.values():
        _require_images(listing)
    level = int(config.domains)
    domains = tuple(sorted(set().union(*(x.domains() for x in listings.values())))) if config.domains else None
    classes = {split: listing.classes(level) for split, listing in listings.items()}
    names = tuple(sorted(set().union(*classes.values())))
    opened: dict[str, Source] = {}
    rejected: list[Rejected] = []
    usable: dict[str, list[str]] = {}
    for split, listing in listings.items():
        images, entry = _prepared(listing, options, config, progress)
        prefix = "" if listing.root == root else listing.root.name + "/"
        aside = [*listing.broken, *(Rejected(listing.paths[row], why) for row, why in entry.rejected.items())]
        rejected += [Rejected(prefix + item.path, item.reason) for item in aside]
        _check_rejected(listing, entry, rejected, config.strict)
        opened[split] = _source(listing, images, entry, prefix, names if classes[split] else None, domains)
        usable[split] = [path for row, path in enumerate(listing.paths) if row not in entry.rejected]
    notes = _notes(root, listings, classes["train"], folders, len(rejected))
    return OpenedFolder(opened["train"], opened.get("val"), opened.get("test"), rejected, notes, usable)


def _require_images(listing: Listing) -> None:
    if not listing.paths:
        what = f"{listing.others + len(listing.broken)} files, none of them a readable image" if (
            listing.others or listing.broken
        ) else "nothing"  # fmt: skip
        raise DataError(
            f"the folder {str(listing.root)!r} holds {what}; image files end in {', '.join(sorted(SUFFIXES))}"
        )


def _prepared(
    listing: Listing, options: DecodeOptions, config: DataConfig, progress: Progress
) -> tuple[Readable, Entry]:
    """The images of a listing, from the cache or decoded as they are read, and what the cache says of them."""
    keep = config.cache == "disk"
    where = os.fsencode(listing.root.resolve())
    group = short_hash("folder" if keep else "looked", where, sorted(asdict(options).items()))
    shape = (len(listing.paths), options.channels, options.size, options.size)
    decoder = Decoder(listing.files(), options, config.workers, progress)

    def wait() -> None:
        progress("waiting for another process that decodes the same images", 0, 0)

    try:
        entry = open_or_build(
            cache_root(config.cache_dir), group, listing.fingerprint(), shape, decoder.fill, wait, step=decoder.step,
            pixels=keep,
        )  # fmt: skip
    finally:
        decoder.close()
    return entry.images or DecodedRows(Decoder(listing.files(), options, config.workers)), entry


def _check_rejected(listing: Listing, entry: Entry, rejected: list[Rejected], strict: bool) -> None:
    if len(entry.rejected) == len(listing.paths):
        shown = "; ".join(f"{item.path}: {item.reason}" for item in rejected[:3])
        raise DataError(f"none of the {len(listing.paths)} images in {str(listing.root)!r} can be used: {shown}")
    if strict and rejected:
        more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
        raise DataError(
            f"{rejected[0].path}: {rejected[0].reason}{more}; repair or remove the file, or leave out --strict to set "
            f"such files aside"
        )


def _source(
    listing: Listing,
    images: Readable,
    entry: Entry,
    prefix: str,
    class_names: tuple[str, ...] | None,
    domain_names: tuple[str, ...] | None,
) -> Source:
    labels = None if class_names is None else listing.labels(class_names, int(domain_names is not None))
    domains = None if domain_names is None else listing.labels(domain_names)
    paths = Prefixed(prefix, listing.paths) if prefix else listing.paths
    source = ArraySource(images, labels, class_names, paths, entry.digest, domains, domain_names)
    if not entry.rejected:
        return source
    usable = np.ones(len(source), np.bool_)
    usable[list(entry.rejected)] = False
    return Subset(source, np.flatnonzero(usable))


def _notes(
    root: Path, listings: dict[str, Listing], classes: tuple[str, ...], folders: dict[str, Path], rejected: int
) -> list[str]:
    notes = []
    if rejected:
        notes.append(f"{rejected} files were set aside")
    if folders["train"] != root:
        others = len([entry for entry in os.scandir(root) if entry.is_dir()]) - len(folders)
        used = ", ".join(f"{folder.name}/ as {split}" for split, folder in folders.items())
        notes.append(f"read {used}" + (f"; {others} other folders beside them were passed over" if others else ""))
    if not classes and any("/" in path for path in listings["train"].paths):
        notes.append("no labels: the images do not all lie in one of at least two sub-folders")
    return notes
