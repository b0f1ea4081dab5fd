"""Opens a folder of image files: list, decode what the cache does not hold, name the classes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from siamscope.data.cache import Entry
from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError
from siamscope.data.folder import SUFFIXES, Listing, Rejected, find_splits, list_images
from siamscope.data.preparing import check_rejected, decode_options, prepared, without_rejected
from siamscope.data.progress import Progress
from siamscope.data.source import ArraySource, Prefixed, Readable, Source


@dataclass
class OpenedFolder:
    """The sources of a folder, the files set aside, and notes for the user."""

    train: Source
    val: Source | None = None
    test: Source | None = None
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    usable: dict[str, list[str]] = field(default_factory=dict)


def open_folder(
    root: Path,
    config: DataConfig,
    progress: Progress,
    known: Mapping[str, list[str]] | None = None,
    fixed: bool = False,
) -> OpenedFolder:
    """Open a folder; see `find_splits` and `Listing.classes` for how its layout is read.

    known: the files to use of each split (relative to its folder), as `usable` of an earlier call named them; the
    others are passed over. fixed: open what a later call with `usable` as `known` opens, whatever became of the others.

    Raises:
        DataError: no usable image, or (strict) one that had to be set aside, or a known one that is gone.
    """
    decode_options(config)  # a number that cannot be is said before anything is listed
    folders = find_splits(root)
    listings = {split: list_images(folder) for split, folder in folders.items()}
    if known is not None:
        empty = Listing(root, [], [], [])
        listings = {split: listings.get(split, empty).only(paths) for split, paths in known.items()}
    for listing in listings.values():
        _require_images(listing)
        if config.domains:
            listing.domains()  # what is wrong with them is said before anything is decoded
    rejected: list[Rejected] = []
    found: dict[str, tuple[Readable, Entry]] = {}
    usable: dict[str, list[str]] = {}
    for split, listing in listings.items():
        where = os.fsencode(listing.root.resolve())
        images, entry = prepared(listing.files(), "folder", where, listing.fingerprint(), config, progress)
        aside = [*listing.broken, *(Rejected(listing.paths[row], why) for row, why in entry.rejected.items())]
        rejected += [Rejected(_prefix(root, listing) + item.path, item.reason) for item in aside]
        check_rejected(len(listing.paths), str(listing.root), entry, rejected, config.strict)
        usable[split] = [path for row, path in enumerate(listing.paths) if row not in entry.rejected]
        if fixed and entry.rejected:
            ready = without_rejected(ArraySource(images, fingerprint=entry.digest), entry)
            listing = listings[split] = listing.only(usable[split])
            key = listing.fingerprint()
            images, entry = prepared(listing.files(), "folder", where, key, config, progress, ready)
        found[split] = images, entry
    domains = tuple(sorted(set().union(*(x.domains() for x in listings.values())))) if config.domains else None
    classes = {split: listing.classes(int(config.domains)) for split, listing in listings.items()}
    names = tuple(sorted(set().union(*classes.values())))
    opened = {
        split: _source(listing, *found[split], _prefix(root, listing), names if classes[split] else None, domains)
        for split, listing in listings.items()
    }
    notes = _notes(root, listings, classes["train"], folders, len(rejected))
    return OpenedFolder(opened["train"], opened.get("val"), opened.get("test"), rejected, notes, usable)


def _prefix(root: Path, listing: Listing) -> str:
    """Before the names of a split's files."""
    return "" if listing.root == root else listing.root.name + "/"


def _require_images(listing: Listing) -> None:
    if not listing.paths:
        what = f"{listing.others + len(listing.broken)} files, none of them a readable image" if (
            listing.others or listing.broken
        ) else "nothing"  # fmt: skip
        raise DataError(
            f"the folder {str(listing.root)!r} holds {what}; image files end in {', '.join(sorted(SUFFIXES))}"
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
    return without_rejected(source, entry)


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
