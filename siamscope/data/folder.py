"""Finds image files below a folder, and what its layout says about labels and splits. Reads no pixels."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from siamscope.data.errors import DataError
from siamscope.data.pool import Files
from siamscope.data.source import Indices
from siamscope.data.split_names import FOLDER_SPLITS, val_is_final

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"))


@dataclass(frozen=True)
class Rejected:
    """A file that was set aside, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """The image files below `root`: paths relative to it (with /), sorted; their sizes and times of change (ns).

    A million files take about 110 MB: the paths as texts, the numbers packed.
    """

    root: Path
    paths: list[str]
    sizes: Sequence[int]
    times: Sequence[int]
    broken: list[Rejected] = field(default_factory=list)
    others: int = 0
    """Files without an image's ending."""

    def files(self, checked: bool = True) -> Files:
        """For a decoder. checked: whether a file that has changed since is set aside."""
        return Files(self.root, self.paths, self.sizes, self.times, checked=checked)

    def fingerprint(self) -> str:
        """A hash that changes when a file is added, removed, renamed, resized or written again."""
        hasher = hashlib.blake2b(digest_size=16)
        lines = map("%s\0%d\0%d".__mod__, zip(self.paths, self.sizes, self.times, strict=True))
        between = ""
        while piece := list(islice(lines, 10_000)):
            hasher.update((between + "\n".join(piece)).encode("utf-8", "surrogateescape"))
            between = "\n"
        return hasher.hexdigest()

    def classes(self, level: int = 0) -> tuple[str, ...]:
        """The sub-folders `level` folders below the root, if every image lies in one of at least two; else nothing."""
        names = {path.split("/", level + 1)[level] if path.count("/") > level else "" for path in self.paths}
        return tuple(sorted(names)) if "" not in names and len(names) > 1 else ()

    def labels(self, class_names: tuple[str, ...], level: int = 0) -> Indices:
        """The class of each file as its place in `class_names`."""
        place = {name: i for i, name in enumerate(class_names)}
        found = (place[path.split("/", level + 1)[level]] for path in self.paths)
        return np.fromiter(found, np.int64, len(self.paths))

    def domains(self) -> tuple[str, ...]:
        """The first folders of DOMAIN/CLASS/image.

        Raises:
            DataError: an image does not lie so deep.
        """
        shallow = next((path for path in self.paths if path.count("/") < 2), None)
        if shallow is not None:
            raise DataError(
                f"data.domains asks for DOMAIN/CLASS/image below {str(self.root)!r}, but there is {shallow!r}"
            )
        return tuple(sorted({path.split("/", 1)[0] for path in self.paths}))

    def only(self, paths: Iterable[str]) -> "Listing":
        """Of these files alone, in this listing's order.

        Raises:
            DataError: one of them is not there any more.
        """
        wanted = set(paths)
        rows = [row for row, path in enumerate(self.paths) if path in wanted]
        if len(rows) < len(wanted):
            gone = sorted(wanted - {self.paths[row] for row in rows})
            raise DataError(
                f"{len(gone)} images that were used before are gone from {str(self.root)!r}, such as {gone[0]!r}: put "
                "them back"
            )
        sizes, times = (array("q", (column[row] for row in rows)) for column in (self.sizes, self.times))
        return Listing(self.root, [self.paths[row] for row in rows], sizes, times)


def list_images(root: Path) -> Listing:
    """List the image files below a folder.

    Names that start with a dot and __MACOSX are passed over. Links are followed; a folder that can be reached twice
    (a loop, or a link beside the folder itself) counts once, at its real place. Broken links and folders that cannot
    be listed are in `broken`.

    Raises:
        DataError: no such folder, or it cannot be listed.
    """
    walk = _Walk()
    try:
        walk.enter(str(root), "")
    except FileNotFoundError:
        raise DataError(f"there is no folder {str(root)!r}: check data.source") from None
    except NotADirectoryError:
        raise DataError(f"{str(root)!r} is not a folder: give the folder that holds the images") from None
    except OSError as error:
        raise DataError(f"cannot list the folder {str(root)!r}: {error.strerror}") from error
    walk.run()
    walk.broken.sort(key=lambda item: item.path)
    order = sorted(range(len(walk.paths)), key=walk.paths.__getitem__)
    sizes, times = (array("q", map(column.__getitem__, order)) for column in (walk.sizes, walk.times))
    return Listing(root, [walk.paths[row] for row in order], sizes, times, walk.broken, walk.others)


class _Walk:
    """The state of one walk: real folders first, links to folders after all of them."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.sizes, self.times = array("q"), array("q")
        self.broken: list[Rejected] = []
        self.others = 0
        self._seen: set[tuple[int, int]] = set()
        self._folders: list[tuple[str, str]] = []
        self._links: list[tuple[str, str]] = []

    def run(self) -> None:
        while self._folders or self._links:
            path, below = self._folders.pop() if self._folders else self._links.pop()
            try:
                self.enter(path, below)
            except OSError as error:
                self.broken.append(Rejected(below.rstrip("/"), f"cannot list the folder: {error.strerror}"))
            self._links.sort(reverse=True)

    def enter(self, path: str, below: str) -> None:
        status = Path(path).stat()
        if (status.st_dev, status.st_ino) in self._seen:
            return
        self._seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name != "__MACOSX":
                    self._visit(entry, below)

    def _visit(self, entry: os.DirEntry[str], below: str) -> None:
        name = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            self._folders.append((entry.path, name + "/"))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 -- 60,000 Path objects take 0.2 s
            self._visit_image(entry, name)
        elif entry.is_symlink() and entry.is_dir():
            self._links.append((entry.path, name + "/"))
        else:
            self.others += 1

    def _visit_image(self, entry: os.DirEntry[str], name: str) -> None:
        try:
            if entry.is_file():  # neither a pipe nor a device: opening one could wait for ever
                status = entry.stat()
                self.paths.append(name)
                self.sizes.append(status.st_size)
                self.times.append(status.st_mtime_ns)
            elif entry.is_symlink() and entry.is_dir():
                self._links.append((entry.path, name + "/"))
            elif entry.is_symlink():
                self.broken.append(Rejected(name, "a broken link"))
        except OSError as error:
            self.broken.append(Rejected(name, f"cannot be examined: {error.strerror}"))


def find_splits(root: Path) -> dict[str, Path]:
    """The folders of a given split: "train" and perhaps "test" and "val", or only "train": root.

    Recognised below the root if there is train/ (or training/): test/ (testing/) and val/ (valid/, validation/), in
    any case. val/ without test/ is the held-out final data, so it is returned as "test".

    Raises:
        DataError: two folders that mean the same split.
    """
    found: dict[str, Path] = {}
    try:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError:
        return {"train": root}  # list_images says what is wrong
    for name in folders:
        split = FOLDER_SPLITS.get(name.lower())
        if split and split in found and "train" in map(FOLDER_SPLITS.get, map(str.lower, folders)):
            raise DataError(f"{str(root)!r} holds both {found[split].name!r} and {name!r}: keep one of them")
        if split:
            found[split] = root / name
    if "train" not in found:
        return {"train": root}
    found = val_is_final(found)
    return {split: found[split] for split in ("train", "val", "test") if split in found}
