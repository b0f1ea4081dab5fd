"""A folder that grows while a run trains on it: at the start of every chunk it is listed again, and new images join.

What was found when lies in a ledger in the run's directory, together with the decoded pixels of what joined. A resumed
run, and every other process, reads it there: the order stays a pure function of (seed, step, ledger).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.data.cache import Entry, open_or_build
from siamscope.data.chunks import Pace, Passes, Positions
from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError
from siamscope.data.folder import Listing, find_splits, list_images
from siamscope.data.order import IidOrder
from siamscope.data.pool import Decoder
from siamscope.data.preparing import decode_options
from siamscope.data.replay import Replay
from siamscope.data.source import ArraySource, Images, Source

File = tuple[str, int, int]


class GrowingSource(Source):
    """Several sources one after another, as one. Only for training: labels are left out."""

    def __init__(self, first: Source) -> None:
        self.channels, self.size = first.channels, first.size
        self.labels, self.class_names = None, None
        self.names, self.fingerprint = first.names, first.fingerprint
        self._parts: tuple[Source, ...] = (first,)

    @property
    def edges(self) -> list[int]:
        """Where each part begins, and the end: one more than there are parts."""
        return [0, *np.cumsum([len(part) for part in self._parts]).tolist()]

    def join(self, part: Source) -> None:
        """Append a source."""
        self._parts = (*self._parts, part)

    def __len__(self) -> int:
        return self.edges[-1]

    def read(self, indices: Positions) -> Images:
        parts, edges = self._parts, self.edges
        indices = np.asarray(indices, np.int64)
        out = np.empty((len(indices), self.channels, self.size, self.size), np.uint8)
        place = np.searchsorted(edges[1:], indices, side="right")
        for k in np.unique(place):
            rows = place == k
            out[rows] = parts[k].read(indices[rows] - edges[k])
        return out


class GrowingOrder:
    """Passes over the newest images, with replay of the earlier ones; `chunks` equal parts of the run.

    A chunk without images of its own goes on with the newest ones that there are. Raises DataError for a batch larger
    than what there is at the start, or more chunks than steps.
    """

    def __init__(
        self, source: GrowingSource, batch_size: int, seed: int, steps: int, chunks: int, replay: Replay | None = None
    ) -> None:
        self.steps_per_epoch = IidOrder(len(source), batch_size, seed).steps_per_epoch
        self.batch_size, self.pace = batch_size, Pace(steps, chunks)
        self.source, self._passes, self._replay = source, Passes(seed), replay

    def enough(self) -> int:
        """New images that fill what a batch has for them; fewer would be shown more than once in every batch."""
        return self.batch_size - (self._replay.count(len(self.source)) if self._replay else 0)

    def batch(self, step: int) -> Positions:
        """Indices of the global batch of a step (from 0), int64 (batch_size,); what chunk it is must have joined."""
        segment = self.pace.segment(step)
        edges = self.source.edges
        if segment + 2 > len(edges):
            raise DataError(f"step {step} belongs to chunk {segment}, which has not been looked for yet")
        stop = edges[segment + 1]
        start = max(edge for edge in edges if edge < stop)
        turn = step - self.pace.first(segment)
        if self._replay is None or not start:
            return start + self._passes.batch(segment, stop - start, self.batch_size, turn)
        replayed = self._replay.draw(step, start)
        fresh = start + self._passes.batch(segment, stop - start, self.batch_size - len(replayed), turn)
        return self._replay.mixed(step, fresh, replayed)


@dataclass(frozen=True)
class Joined:
    """An entry of the ledger: the files (path, bytes, time of change in ns) that joined, those that could not be used,
    and a hash of the pixels."""

    files: list[File]
    refused: list[File]
    digest: str


class GrowingFolder:
    """Lets new images of a folder join a `GrowingSource`, chunk by chunk.

    ledger: a folder of the run's directory. known: the files that the run began with, by split. `write` must write a
    text file whole or not at all.
    """

    def __init__(
        self,
        config: DataConfig,
        ledger: Path,
        known: Mapping[str, list[str]],
        source: GrowingSource,
        order: GrowingOrder,
        write: Callable[[Path, str], None],
    ) -> None:
        self.config, self.ledger, self.source, self.order, self._write = config, ledger, source, order, write
        self.root = find_splits(Path(config.source).expanduser())["train"]
        self._options = decode_options(config)
        self._known = set(known["train"])
        self._refused: set[File] = set()
        self._chunk = 0

    def look(self, chunk: int) -> int:
        """List the folder for a chunk and write down what is new; how many images join. Called by one process.

        What was written down before stays as it is. New images wait until they are `enough` to join. A file that could
        not be used is tried again when it has changed: it may have been half written.
        """
        self.follow(chunk - 1)
        if chunk <= self._chunk or self._file(chunk).is_file():
            return 0
        now = list_images(self.root)
        found = zip(now.paths, now.sizes, now.times, strict=True)
        new = [file for file in found if file[0] not in self._known and file not in self._refused]
        refused: list[File] = []
        digest = ""
        while len(new) >= self.order.enough():
            digest, rejected = self._tried(chunk, new)
            if not rejected:
                break
            refused += [new[row] for row in rejected]
            new = [file for row, file in enumerate(new) if row not in rejected]
        else:
            new, digest = [], ""
        self._write(self._file(chunk), json.dumps(asdict(Joined(new, refused, digest))))
        return len(new)

    def follow(self, chunk: int) -> None:
        """Let join what the ledger holds up to a chunk. Called by every process.

        Raises:
            DataError: an entry of the ledger is missing, or the images in it are not those that joined.
        """
        while self._chunk < chunk:
            joined = self._read(self._chunk + 1)
            self._chunk += 1
            self.source.join(self._part(self._chunk, joined))
            self._known |= {path for path, _, _ in joined.files}
            self._refused |= set(joined.refused)

    def _part(self, chunk: int, joined: Joined) -> Source:
        if not joined.files:
            return ArraySource(np.empty((0, self.source.channels, self.source.size, self.source.size), np.uint8))
        entry = self._decoded(chunk, joined.files)
        if entry.digest != joined.digest:
            raise DataError(
                f"images in {str(self.root)!r} that joined at chunk {chunk} have changed, and their decoded pixels in "
                f"{str(self.ledger)!r} are gone: put either back, or start a new run"
            )
        return ArraySource(entry.rows, fingerprint=entry.digest)

    def _tried(self, chunk: int, files: list[File]) -> tuple[str, dict[int, str]]:
        """Decode new files: a hash of the pixels, and what cannot be used. The entry is let go of, so that another one
        may take its place."""
        entry = self._decoded(chunk, files, listed_now=True)
        return entry.digest, entry.rejected

    def _decoded(self, chunk: int, files: list[File], listed_now: bool = False) -> Entry:
        """The pixels of files. Of files listed long ago the hash tells whether they are the same, not their times."""
        paths, sizes, times = (list(column) for column in zip(*files, strict=True))
        listing = Listing(self.root, paths, sizes, times)
        shape = (len(paths), self.source.channels, self.source.size, self.source.size)
        with Decoder(listing.files(listed_now), self._options, self.config.workers) as decoder:
            return open_or_build(
                self.ledger, f"chunk{chunk:05d}", listing.fingerprint(), shape, decoder.fill, lambda: None,
                step=decoder.step,
            )  # fmt: skip

    def _file(self, chunk: int) -> Path:
        return self.ledger / f"chunk{chunk:05d}.json"

    def _read(self, chunk: int) -> Joined:
        try:
            value: dict[str, Any] = json.loads(self._file(chunk).read_text(encoding="utf-8", errors="surrogateescape"))
            files, refused = (
                [(str(path), int(size), int(time)) for path, size, time in value[name]] for name in ("files", "refused")
            )
            return Joined(files, refused, str(value["digest"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{str(self._file(chunk))!r}, which says what joined at chunk {chunk}, cannot be read ({error}): put "
                "it back, or start a new run"
            ) from error


START = "start.json"


def write_start(ledger: Path, known: Mapping[str, list[str]], write: Callable[[Path, str], None]) -> None:
    """Write down which files a run begins with."""
    ledger.mkdir(exist_ok=True)
    write(ledger / START, json.dumps(known))


def read_start(ledger: Path) -> dict[str, list[str]] | None:
    """Which files a run began with; None if it has no ledger.

    Raises:
        DataError: the ledger cannot be read.
    """
    file = ledger / START
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8", errors="surrogateescape"))
        return {str(split): [str(path) for path in paths] for split, paths in value.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{str(file)!r}, which says what the run began with, cannot be read ({error})") from error
