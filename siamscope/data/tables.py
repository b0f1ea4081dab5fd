"""Tables of encoded images, whatever holds them: Arrow data in memory maps, or Parquet files here or far away.

An image is what the table holds of it: the bytes of an image file, the path of one, or None.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from siamscope.data.errors import DataError
from siamscope.data.source import digest

Encoded = bytes | Path | None
_PIECE = 64  # rows that are turned into Python objects at once
_MOST_GROUP = 2**30


class Table(Protocol):
    """Rows of named columns. features: the type of each column, as `datasets.Features` has it. state: changes when the
    content may have changed; content: the same, but not when files are only copied."""

    count: int
    features: Any
    state: str
    content: str

    def values(self, column: str) -> Sequence[Any]:
        """A column of small values, such as labels."""

    def images(self, column: str, first: int, stop: int) -> Iterator[Encoded]:
        """The images of the rows first .. stop - 1, one after another; no more of them are held than a few."""


class ArrowTable:
    """A `datasets.Dataset`: any row at any time, from a memory map."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._plain: dict[str, Any] = {}
        self.count, self.features = len(dataset), dataset.features
        self.state = self.content = f"{dataset._fingerprint} {len(dataset)}"

    def values(self, column: str) -> Sequence[Any]:
        return list(self._dataset.with_format(None)[column])

    def images(self, column: str, first: int, stop: int) -> Iterator[Encoded]:
        for start in range(first, stop, _PIECE):
            yield from self.take(column, range(start, min(start + _PIECE, stop)))

    def take(self, column: str, rows: Sequence[int]) -> list[Encoded]:
        """The images of any rows. Safe to call from threads."""
        with _explained("the data set"):
            return [encoded(value) for value in self._undecoded(column)[list(rows)][column]]

    def _undecoded(self, column: str) -> Any:
        if column not in self._plain:
            from datasets import Image

            plain = self._dataset.with_format(None).select_columns([column])
            if isinstance(self.features[column], Image):
                plain = plain.cast_column(column, Image(decode=False))
            self._plain[column] = plain
        return self._plain[column]


class ParquetTable:
    """Parquet files, one after another, here or at an address that `fsspec` knows. Only their ends are read at once.

    edges: where the row groups begin, and the end.
    """

    def __init__(self, files: Sequence[str], features: Any = None) -> None:
        from datasets import Features

        self._files = list(files)
        self._metadata: list[Any] = []
        self._lock = threading.Lock()
        self._open: OrderedDict[int, Any] = OrderedDict()
        sizes, states = [], []
        self._place: list[tuple[int, int]] = []  # file and row group
        for k, file in enumerate(self._files):
            opened = self._file(k)
            metadata = opened.metadata
            self._metadata.append(metadata)
            groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
            sizes += [group.num_rows for group in groups]
            self._place += [(k, g) for g in range(len(groups))]
            states.append((Path(file).name, [(group.num_rows, group.total_byte_size) for group in groups]))
            if features is None:
                features = Features.from_arrow_schema(opened.schema_arrow)
        self.features = features
        self.edges = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self.count = int(self.edges[-1])
        self.content = digest(repr(states).encode())
        self.state = digest(self.content.encode(), repr([_changed(file) for file in self._files]).encode())

    def values(self, column: str) -> Sequence[Any]:
        out: list[Any] = []
        for k in range(len(self._files)):
            with _explained(self._files[k]):
                out += self._file(k).read(columns=[column]).column(column).to_pylist()
        return out

    def images(self, column: str, first: int, stop: int) -> Iterator[Encoded]:
        at = int(np.searchsorted(self.edges, first, side="right")) - 1
        while first < stop:
            begin, end = int(self.edges[at]), int(self.edges[at + 1])
            last = min(stop, end)
            for row, value in enumerate(self._group(at, column), begin):
                if row >= last:
                    break
                if row >= first:
                    yield value
            first, at = last, at + 1

    def group(self, at: int, column: str) -> list[Encoded]:
        """All images of a row group. Raises DataError if they are too many to be held."""
        k, g = self._place[at]
        row_group = self._metadata[k].row_group(g)
        if row_group.total_byte_size > _MOST_GROUP:
            raise DataError(
                f"{self._files[k]!r} has row groups of {row_group.total_byte_size / 1e6:,.0f} MB, which would have to "
                f"be held one after another: take data.cache = disk, or write it anew with smaller ones"
            )
        return list(self._group(at, column))

    def _group(self, at: int, column: str) -> Iterator[Encoded]:
        k, g = self._place[at]
        with _explained(self._files[k]):
            for batch in self._file(k).iter_batches(_PIECE, row_groups=[g], columns=[column]):
                for value in batch.column(0):
                    yield encoded(value.as_py(), files=False)

    def _file(self, k: int) -> Any:
        """An open file; a few stay open."""
        from pyarrow import parquet

        name = self._files[k]
        with self._lock, _explained(name):
            if k not in self._open:
                known = self._metadata[k] if k < len(self._metadata) else None
                self._open[k] = parquet.ParquetFile(_stream(name), metadata=known, pre_buffer=False)
                if len(self._open) > 16:
                    self._open.popitem(last=False)
            self._open.move_to_end(k)
            return self._open[k]


def encoded(value: Any, files: bool = True) -> Encoded:
    """What a cell holds of an image: {"bytes", "path"} or bytes. files: whether it may name a file instead."""
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if content is None and files and isinstance(path, str) and Path(path).is_file():
            return Path(path)
        value = content
    return value if isinstance(value, bytes) else None


def _stream(name: str) -> Any:
    """A file open for reading. Not opened by Arrow itself: it would hold its pages in memory."""
    if "://" not in name:
        return Path(name).open("rb")
    from fsspec.core import url_to_fs

    system, path = url_to_fs(name)
    return system.open(path, "rb")


def _changed(file: str) -> int:
    return 0 if "://" in file else Path(file).stat().st_mtime_ns


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What goes wrong while a file is read, for the user. Arrow's errors are ValueErrors, OSErrors and its own."""
    import pyarrow

    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        first = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{name!r} cannot be read: {first}") from error
