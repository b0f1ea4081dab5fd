"""Images of Parquet files that are not kept: row groups are read when they are due, and decoded as they are asked for.

What is held is bounded: the row groups of a few windows (see siamscope.data.windows), as the files hold them.
"""

import threading
import warnings
from collections import OrderedDict
from itertools import pairwise

import numpy as np

from siamscope.data.chunks import Positions, generator
from siamscope.data.decode import DecodeOptions, Unusable
from siamscope.data.decoding import decode_one, decoded
from siamscope.data.errors import DataError
from siamscope.data.source import Images, Indices, Numbered, Source, digest
from siamscope.data.tables import ArrowTable, Encoded, ParquetTable

_PIECE = 256
_MOST_WARNINGS = 5
_PICK = 2**31 + 17  # a stream of random numbers of its own


class TableRows:
    """Images uint8 (N, C, S, S) of a table in a memory map, decoded whenever they are read."""

    def __init__(self, table: ArrowTable, column: str, options: DecodeOptions) -> None:
        self.shape = (table.count, options.channels, options.size, options.size)
        self._table, self._column, self._options = table, column, options

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, indices: Indices) -> Images:
        """The images at `indices` (B,). Raises DataError for one that could be decoded before and now cannot."""
        pixels, rejected = decoded(self._table.take(self._column, indices.tolist()), self._options)
        for place, reason, _ in rejected:
            raise DataError(f"row {indices[place]} could be decoded at the start, and now not: {reason}")
        return pixels


class Pieces:
    """Stretches of consecutive rows, within row groups and of at most 256 rows: what is drawn for one purpose."""

    def __init__(self, bounds: Positions) -> None:
        self.bounds = bounds

    @classmethod
    def of(cls, edges: Positions) -> "Pieces":
        """All rows between `edges`."""
        cuts = [np.arange(a, b, _PIECE) for a, b in pairwise(edges.tolist())]
        first = np.concatenate(cuts)
        return cls(np.stack([first, np.append(first[1:], edges[-1])], 1).astype(np.int64))

    def __len__(self) -> int:
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())

    @property
    def rows(self) -> Indices:
        """All rows, int64."""
        return np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in self.bounds])

    @property
    def edges(self) -> Positions:
        """Where each piece begins when they lie one after another, and the end."""
        return np.concatenate([[0], np.cumsum(self.bounds[:, 1] - self.bounds[:, 0])]).astype(np.int64)

    def drawn(self, count: int, seed: int) -> tuple["Pieces", "Pieces"]:
        """Pieces of exactly `count` rows (or all there are), drawn by the seed, and the rest; both ascending."""
        taken, left = [], []
        for k in generator(seed, _PICK).permutation(len(self.bounds)):
            first, stop = self.bounds[k].tolist()
            cut = min(first + count, stop)
            count -= cut - first
            taken += [(first, cut)] if cut > first else []
            left += [(cut, stop)] if stop > cut else []
        return tuple(Pieces(np.array(sorted(part), np.int64).reshape(-1, 2)) for part in (taken, left))  # type: ignore[return-value]


class StreamedSource(Source):
    """Pieces of a table of Parquet files, as one row of images; for training alone: labels are left out.

    An image that cannot be decoded is replaced by the next one of the source in its row group, with a warning, or
    (strict) is an error: which images a batch holds depends on the data alone.
    """

    labels, class_names = None, None

    def __init__(
        self, table: ParquetTable, column: str, pieces: Pieces, options: DecodeOptions, window: int, strict: bool
    ) -> None:
        self.channels, self.size = options.channels, options.size
        self.edges = pieces.edges
        self._rows = pieces.rows
        self.names = Numbered(len(self._rows))
        self.fingerprint = digest(table.content.encode(), column.encode(), pieces.bounds.astype("<i8").tobytes())
        self._table, self._column, self._options, self._strict = table, column, options, strict
        self._groups: OrderedDict[int, list[Encoded]] = OrderedDict()
        self._held, self._most = 0, 2 * window
        self._lock = threading.Lock()
        self._warnings = 0

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Indices) -> Images:
        """The images at `indices` (B,). Cheap if they lie within a window."""
        rows = self._rows[np.asarray(indices, np.int64)]
        places = np.searchsorted(self._table.edges, rows, side="right") - 1
        groups = {int(at): self._group(int(at)) for at in np.unique(places)}
        offsets = (rows - self._table.edges[places]).tolist()
        images = [groups[at][offset] for at, offset in zip(places.tolist(), offsets, strict=True)]
        pixels, rejected = decoded(images, self._options)
        for place, reason, _ in rejected:
            self._complain(int(rows[place]), reason)
            pixels[place] = self._next(groups[int(places[place])], offsets[place], int(rows[place]), reason)
        return pixels

    def _group(self, at: int) -> list[Encoded]:
        with self._lock:  # one thread reads; the others will mostly want the same
            if at not in self._groups:
                self._groups[at] = self._table.group(at, self._column)
                self._held += len(self._groups[at])
                while self._held - len(next(iter(self._groups.values()))) > self._most:
                    self._held -= len(self._groups.popitem(last=False)[1])
            self._groups.move_to_end(at)
            return self._groups[at]

    def _next(self, group: list[Encoded], offset: int, row: int, reason: str) -> Images:
        """The next image of the row group that is this source's own: others may be held out, for validation."""
        first = row - offset
        inside = (
            self._rows[np.searchsorted(self._rows, first) : np.searchsorted(self._rows, first + len(group))] - first
        )
        for place in [*inside[inside > offset].tolist(), *inside[inside < offset].tolist()]:
            try:
                found = decode_one(group[place], self._options).reshape(self.size, self.size, self.channels)
            except Unusable:
                continue
            return found.transpose(2, 0, 1)
        raise DataError(f"no image of the row group of row {row} can be used: {reason}")

    def _complain(self, row: int, reason: str) -> None:
        if self._strict:
            raise DataError(f"row {row}: {reason}; leave out --strict to let the next image take its place")
        with self._lock:
            self._warnings += 1
            if self._warnings <= _MOST_WARNINGS:
                more = "; no more of these are told" if self._warnings == _MOST_WARNINGS else ""
                warnings.warn(f"row {row}: {reason}; the next image takes its place{more}", stacklevel=4)
