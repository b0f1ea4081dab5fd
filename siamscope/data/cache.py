"""Prepared images on disk: written once, shard by shard, by as many processes as ask for them; read ever after.

An entry is a folder GROUP-KEY with shards (see siamscope.data.shards) and, once all are there, `index.json`. GROUP
stands for where the images come from and how they are prepared, KEY for the state of the files; when a group gets a
new key, the old entry goes, unless somebody still reads it: then it goes with the next new key. Who is killed leaves
whole shards, and the next one goes on with those.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from siamscope.data.descriptors import exhausted, too_many
from siamscope.data.errors import DataError
from siamscope.data.locks import Held, claimed, company, held, removed
from siamscope.data.rows import Rows, State
from siamscope.data.shards import Card, Fill, Layout, Part, Shape, Written, read_card, write_json, write_shard

__all__ = ["Entry", "Part", "Written", "cache_root", "open_or_build", "short_hash"]

VERSION = 2  # of the way an entry is laid out
_PREPARED = 1  # raise it when the same files would now be prepared differently
_IN_USE = "in-use-"


@dataclass(frozen=True)
class Entry:
    """An entry of the cache: images uint8 (N, C, S, S), or None if only the rest was asked for.

    digest: a hash of the pixels, whoever wrote them. rejected: rows that stay black, and why.
    """

    images: Rows | None
    digest: str
    rejected: dict[int, str]

    @property
    def rows(self) -> Rows:
        """The images, which are there."""
        assert self.images is not None  # asked for with pixels
        return self.images


def cache_root(cache_dir: str = "") -> Path:
    """The folder of the cache: `cache_dir`, else $SIAMSCOPE_CACHE, else siamscope/ in the user's cache folder."""
    given = cache_dir or os.environ.get("SIAMSCOPE_CACHE", "")
    return Path(given).expanduser().absolute() if given else _user_cache() / "siamscope"


def _user_cache() -> Path:
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if xdg.startswith("/"):  # the specification says to ignore a relative one
        return Path(xdg)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser()
    return Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache").expanduser()


def short_hash(*parts: object) -> str:
    """16 hexadecimal digits from the texts of `parts`."""
    text = json.dumps([_PREPARED, *map(str, parts)])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def chained(digests: list[str]) -> str:
    """One hash from those of the pieces."""
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()


def open_or_build(
    root: Path,
    group: str,
    key: str,
    shape: Shape,
    fill: Fill,
    on_wait: Callable[[], None],
    *,
    step: int = 1,
    pixels: bool = True,
    combine: Callable[[list[str]], str] = chained,
) -> Entry:
    """The entry of `group` and `key`; `fill(part)` is called for each shard of it that is not there.

    Several processes may ask at once: each fills shards that nobody else is at, and all get the same entry (the rows
    of a shard must not depend on who fills it). Who finds nothing left to fill calls `on_wait` once and waits.
    Whatever goes wrong, a keyboard interrupt included, whole shards stay for the next start and nothing else does.
    step: rows of a piece; a shard holds whole pieces. pixels: False keeps hashes and rejected rows alone.
    combine: the entry's digest from those of all pieces.

    Raises:
        DataError: the cache cannot be written, there is no space left, or no further file can be opened.
    """
    build = _Build(Layout(root / f"{group}-{key}", shape, step, pixels), fill, on_wait, combine)
    entry = build.opened()
    if entry is not None:
        return entry
    try:
        root.mkdir(parents=True, exist_ok=True)
        with company(root / f"{group}.lock") as others:
            entry = build.opened() or build.built()
            if others.alone():
                _tidy(root, group, build.layout)
            return entry
    except OSError as error:
        raise DataError(_cause(error, root)) from error


@dataclass
class _Build:
    """One process's part in an entry."""

    layout: Layout
    fill: Fill
    on_wait: Callable[[], None]
    combine: Callable[[list[str]], str]
    cards: dict[int, Card] = field(default_factory=dict)
    stale: dict[int, Card] = field(default_factory=dict)
    """Shards that were there before this start, and that may turn out better now."""

    @property
    def index(self) -> Path:
        return self.layout.folder / "index.json"

    def opened(self) -> Entry | None:
        """The entry, if it is whole and nothing in it asks to be tried again."""
        layout = self.layout
        try:
            if not self.index.is_file():
                return None
            lock = self._held()  # before anything is looked at: what is there now, stays
            index = json.loads(self.index.read_text(encoding="ascii"))
            same = (VERSION, list(layout.shape), layout.step, layout.per_file, layout.pixels)
            names = ("version", "shape", "step", "per_file", "pixels")
            if tuple(index[name] for name in names) != same or index["retry"]:
                return None
            states = [State(layout.nbytes(shard), time) for shard, time in enumerate(index["times"])]
            if len(states) != layout.count or not all(self._is_there(k, state) for k, state in enumerate(states)):
                return None
            rejected = {int(row): str(reason) for row, reason in index["rejected"].items()}
            return Entry(self._rows(states, lock), str(index["digest"]), rejected)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _is_there(self, shard: int, state: State) -> bool:
        if not self.layout.pixels:
            return True
        status = self.layout.file(shard).stat()
        return State(status.st_size, status.st_mtime_ns) == state

    def _held(self) -> Held | None:
        return held(_in_use(self.layout.folder)) if self.layout.pixels else None

    def _rows(self, states: list[State], lock: Held | None) -> Rows | None:
        if not self.layout.pixels:
            return None
        files = [self.layout.file(shard) for shard in range(self.layout.count)]
        return Rows(files, states, self.layout.shape, self.layout.per_file, lock)

    def built(self) -> Entry:
        """Fill what is missing, together with whoever else does, and write the index."""
        layout = self.layout
        layout.folder.mkdir(exist_ok=True)
        try:
            todo = self._missing()
            self._check_space(todo)
            waited = False
            while todo:
                left = [shard for shard in todo if not self._settled(shard)]
                if len(left) == len(todo):
                    if not waited:
                        self.on_wait()
                        waited = True
                    self._settled(left.pop(0), wait=True)
                todo = left
            return self._finished()
        except BaseException:
            _remove_empty(layout)
            raise

    def _missing(self) -> list[int]:
        missing = []
        for shard in range(self.layout.count):
            card = read_card(self.layout, shard)
            if card is None or card.retry:
                missing.append(shard)
            if card is not None:
                (self.stale if card.retry else self.cards)[shard] = card
        return missing

    def _check_space(self, missing: list[int]) -> None:
        needed = sum(self.layout.nbytes(shard) for shard in missing)
        free = shutil.disk_usage(self.layout.folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")

    def _settled(self, shard: int, wait: bool = False) -> bool:
        """Whether a shard is there now; fill it unless somebody else is at it."""
        lock = self.layout.lock(shard)
        self.layout.folder.mkdir(exist_ok=True)
        with claimed(lock, wait) as mine:
            if not mine:
                return False
            self.layout.folder.mkdir(exist_ok=True)  # whom we waited for may have failed, and taken it away
            card = read_card(self.layout, shard)
            if card is None or card == self.stale.get(shard):
                ready = sum(stop - first for first, stop in map(self.layout.bounds, self.cards))
                card = write_shard(self.layout, shard, self.fill, ready)
            self.cards[shard] = card
            removed(lock)
            return True

    def _finished(self) -> Entry:
        layout = self.layout
        cards = [self.cards[shard] for shard in range(layout.count)]
        digest = self.combine([digest for card in cards for digest in card.digests])
        rejected = {row: reason for card in cards for row, reason in card.rejected.items()}
        index = {
            "version": VERSION,
            "shape": list(layout.shape),
            "step": layout.step,
            "per_file": layout.per_file,
            "pixels": layout.pixels,
            "digest": digest,
            "rejected": {str(row): reason for row, reason in sorted(rejected.items())},
            "retry": any(card.retry for card in cards),
            "times": [card.time for card in cards],
        }
        write_json(self.index, index)
        return Entry(self._rows([card.state for card in cards], self._held()), digest, rejected)


def _tidy(root: Path, group: str, layout: Layout) -> None:
    """Remove entries of an older state of the files that nobody reads, and what does not belong."""
    locked = {path.with_name(path.stem.removeprefix(_IN_USE)) for path in root.glob(f"{_IN_USE}{group}-*.lock")}
    for old in {*root.glob(f"{group}-*"), *locked} - {layout.folder}:
        _remove_unused(old)
    keep = {layout.folder / "index.json"}
    keep |= {path(shard) for shard in range(layout.count) for path in (layout.card, layout.file)}
    for path in layout.folder.iterdir():
        if path not in keep and not path.is_dir():
            removed(path)


def _in_use(folder: Path) -> Path:
    """The lock that everybody holds who reads an entry."""
    return folder.with_name(f"{_IN_USE}{folder.name}.lock")


def _remove_unused(folder: Path) -> None:
    """Remove an entry that nobody reads. The index goes first: who waited for the lock then finds no entry."""
    with contextlib.suppress(OSError), claimed(_in_use(folder)) as mine:
        if mine:
            removed(folder / "index.json")
            shutil.rmtree(folder, ignore_errors=True)
            removed(_in_use(folder))


def _remove_empty(layout: Layout) -> None:
    """Remove the entry's folder if no shard is in it. A lock that somebody waits for is made anew."""
    try:
        names = list(layout.folder.iterdir())
        if all(path.suffix == ".lock" or path.name == "index.json" for path in names):
            for path in names:
                removed(path)
            layout.folder.rmdir()
    except OSError:
        pass  # somebody else is at it


def _cause(error: OSError, root: Path) -> str:
    if exhausted(error):
        return too_many(error)
    elsewhere = "choose another folder with data.cache_dir or SIAMSCOPE_CACHE"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        detail = f" ({error.strerror})" if error.strerror and "MB" in error.strerror else ""
        return (
            f"no space left for prepared images in {str(root)!r}{detail}: free some space (the next start goes on with "
            f"what is there), or {elsewhere}"
        )
    return f"cannot write prepared images in {str(root)!r}: {error.strerror or error}; {elsewhere}"
