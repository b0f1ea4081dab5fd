"""The shards of one entry of the cache: files of a fixed number of rows, each with a small JSON beside it.

A shard is written under another name and renamed when it is whole; the JSON (which rows, size and time of the file, a
hash of it, hashes of its pieces, rejected rows) comes last. A shard without it, or that does not fit it, is as good as
none.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from siamscope.data.descriptors import exhausted
from siamscope.data.locks import removed
from siamscope.data.rows import State

Shape = tuple[int, int, int, int]
_BYTES = 2**27


@dataclass(frozen=True)
class Part:
    """Rows `first` .. `stop` - 1, to be written into `file`, which has its full length already and zeros in it.

    file: None if only hashes and rejected rows are wanted. ready: rows of the other shards that are there already.
    """

    file: Path | None
    first: int
    stop: int
    ready: int


@dataclass(frozen=True)
class Written:
    """What a filler reports: hashes of the pieces in order, and for rows that stay black the reason.

    retry: some reason may pass (a file without permission, say), so the next start should fill this shard again.
    """

    digests: list[str]
    rejected: dict[int, str]
    retry: bool = False


Fill = Callable[[Part], Written]


@dataclass(frozen=True)
class Layout:
    """Where an entry lies and how it is cut. step: rows of a piece; a shard is a multiple of it, of about 128 MB."""

    folder: Path
    shape: Shape
    step: int = 1
    pixels: bool = True

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * self.shape[3]

    @property
    def per_file(self) -> int:
        return max(1, _BYTES // (self.row_bytes * self.step)) * self.step

    @property
    def count(self) -> int:
        return -(-self.shape[0] // self.per_file)

    def bounds(self, shard: int) -> tuple[int, int]:
        """Its first row, and one more than its last."""
        first = shard * self.per_file
        return first, min(first + self.per_file, self.shape[0])

    def nbytes(self, shard: int) -> int:
        first, stop = self.bounds(shard)
        return (stop - first) * self.row_bytes if self.pixels else 0

    def file(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.u8"

    def lock(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.lock"

    def card(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.json"


@dataclass(frozen=True)
class Card:
    """What is known of a shard."""

    rows: tuple[int, int]
    nbytes: int
    time: int
    content: str
    digests: list[str]
    rejected: dict[int, str]
    retry: bool

    @property
    def state(self) -> State:
        return State(self.nbytes, self.time)


def read_card(layout: Layout, shard: int) -> Card | None:
    """The card of a shard that is there and whole, else None. Its content is compared when its time has changed.

    Raises OSError if no further file can be opened: nothing is known of it then.
    """
    try:
        value: dict[str, Any] = json.loads(layout.card(shard).read_text(encoding="ascii"))
        first, stop = value["rows"]
        rejected = {int(row): str(reason) for row, reason in value["rejected"].items()}
        digests = [str(digest) for digest in value["digests"]]
        content, retry = str(value["content"]), bool(value["retry"])
        card = Card((first, stop), value["nbytes"], value["time"], content, digests, rejected, retry)
        if card.rows != layout.bounds(shard) or card.nbytes != layout.nbytes(shard):
            return None
        if not layout.pixels:
            return card
        state = _state(layout.file(shard))
        if state == card.state:
            return card
        if state.nbytes != card.nbytes or _hash(layout.file(shard)) != card.content:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and exhausted(error):
            raise
        return None
    card = Card(card.rows, card.nbytes, state.time, card.content, card.digests, card.rejected, card.retry)
    with contextlib.suppress(OSError):
        _write_card(layout, shard, card)  # copied with new times: compared once
    return card


def write_shard(layout: Layout, shard: int, fill: Fill, ready: int) -> Card:
    """Fill a shard; the caller holds its lock. Whatever goes wrong, what was written is removed."""
    first, stop = layout.bounds(shard)
    for old in layout.folder.glob(f"{shard:05d}.*.partial"):  # of a process that was killed
        removed(old)
    partial = layout.folder / f"{shard:05d}.{secrets.token_hex(4)}.partial"
    try:
        if layout.pixels:
            with partial.open("wb") as file:
                file.truncate(layout.nbytes(shard))
            written = fill(Part(partial, first, stop, ready))
            flush(partial)
            state, content = _state(partial), _hash(partial)
            partial.replace(layout.file(shard))
        else:
            written = fill(Part(None, first, stop, ready))
            state, content = State(0, 0), ""
        report = (written.digests, written.rejected, written.retry)
        card = Card((first, stop), state.nbytes, state.time, content, *report)
        _write_card(layout, shard, card)
        return card
    finally:
        removed(partial)


def _write_card(layout: Layout, shard: int, card: Card) -> None:
    rejected = {str(row): reason for row, reason in sorted(card.rejected.items())}
    write_json(layout.card(shard), {**asdict(card), "rejected": rejected})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(json.dumps(value), encoding="ascii")
        flush(partial)
        partial.replace(path)
    finally:
        removed(partial)


def flush(path: Path) -> None:
    """Onto the disk before the rename, so that a power cut cannot leave a whole shard with black images."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _state(path: Path) -> State:
    status = path.stat()
    return State(status.st_size, status.st_mtime_ns)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
