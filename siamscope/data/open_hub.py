"""Opens Hugging Face data sets: into the cache of prepared images, or as a stream whose images are not kept."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import numpy as np

from siamscope.data.cache import Entry, cache_root, open_or_build, short_hash
from siamscope.data.config import DataConfig
from siamscope.data.decoding import filler
from siamscope.data.errors import DataError
from siamscope.data.folder import Rejected
from siamscope.data.hub import image_column, label_column, labels, parsed, tables
from siamscope.data.hub_stream import Pieces, StreamedSource, TableRows
from siamscope.data.pool import step_rows
from siamscope.data.preparing import check_rejected, decode_options, without_rejected
from siamscope.data.progress import Progress, waiting
from siamscope.data.source import ArraySource, Indices, Numbered, Picked, Readable, Source
from siamscope.data.splits import MOST_VALIDATION, validation_count
from siamscope.data.tables import ArrowTable, Encoded, ParquetTable, Table

MOST_REFERENCE, MOST_TEST = 20_000, 10_000
"""Images of a stream that are kept for the bank of the k-NN and the probe, and for the final figure."""


@dataclass
class OpenedHub:
    """The sources of a data set. stream: all training images, if they are not kept; "train" then is a sample of them.
    source: the data set's address, with an absolute path."""

    splits: dict[str, Source]
    source: str
    name: str
    stream: StreamedSource | None = None
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_hub(config: DataConfig, progress: Progress) -> OpenedHub:
    """Open the data set hf:... of `config.source`.

    data.cache = disk: every image is decoded once, into the cache. none: of Parquet files the validation images and
    samples for figures are, while training reads a stream; what lies in a memory map is decoded whenever it is read.

    Raises:
        DataError: see `hub.tables`, `hub.image_column`, `hub.label_column`; or no usable image; or (strict) one that
            had to be set aside.
    """
    decode_options(config)  # a number that cannot be is said before anything is looked for
    address = parsed(config.source if config.source.startswith("hf:") else "hf:" + config.source)
    progress(f"opening {address.text}", 0, 0)
    found, notes = tables(address, config.cache == "disk")
    column = image_column(found["train"].features, config.image)
    label, note = label_column(found["train"].features, config.label)
    notes += [note] if note else []
    for split, table in found.items():
        if not table.count:
            raise DataError(f"the split for {split} of {address.text!r} is empty")
        if column not in table.features:
            raise DataError(f"the split for {split} of {address.text!r} has no column {column!r}")
    name = address.name.rstrip("/").rpartition("/")[2]
    opened = OpenedHub({}, address.text, name, notes=notes)
    wanted: dict[str, tuple[Table, Pieces | None]] = {split: (table, None) for split, table in found.items()}
    train = found["train"]
    if config.cache == "none" and isinstance(train, ParquetTable):
        opened.stream, wanted = _streamed(train, found, column, config)
    values, names, more = labels(found, label)
    opened.notes += more
    for split, (table, pieces) in wanted.items():
        of = split if split in found else "train"
        poured = _Poured(table, column, pieces, f"{address.text}\0{of}", config, progress)
        images, entry = poured.opened()
        rows = poured.rows
        called = Numbered(table.count) if pieces is None else Picked(Numbered(table.count), rows)
        opened.rejected += [Rejected(f"{of}/{called[row]}", reason) for row, reason in entry.rejected.items()]
        check_rejected(len(rows), address.text, entry, opened.rejected, config.strict)
        numbers = values[of]
        chosen = None if numbers is None else numbers[rows]
        source = ArraySource(images, chosen, None if chosen is None else names, called, entry.digest)
        opened.splits[split] = without_rejected(source, entry)
    if opened.stream is not None:
        opened.notes.append(
            f"the {len(opened.stream)} training images are streamed; {len(opened.splits['train'])} of them stand for "
            "all in figures"
        )
    if opened.rejected:
        opened.notes.insert(0, f"{len(opened.rejected)} images were set aside")
    return opened


def _streamed(
    train: ParquetTable, found: dict[str, Table], column: str, config: DataConfig
) -> tuple[StreamedSource, dict[str, tuple[Table, Pieces | None]]]:
    """The stream, and what is kept beside it: whole stretches of rows, so that little is read for it."""
    if config.samples:
        raise DataError("data.samples does not go with data.cache = none and Parquet files: all are streamed")
    wanted: dict[str, tuple[Table, Pieces | None]] = {}
    rest = Pieces.of(train.edges)
    limits = {"val": config.val_samples or MOST_VALIDATION, "test": config.test_samples or MOST_TEST}
    for split, most in limits.items():
        table = found.get(split)
        if isinstance(table, ParquetTable):
            wanted[split] = table, Pieces.of(table.edges).drawn(most, config.seed)[0]
    if "val" not in wanted:
        if train.count < 2:
            raise DataError("the data hold 1 image; at least 2 are needed, one of them for validation")
        held = validation_count(train.count, config)
        if held >= train.count:
            raise DataError(f"data.val_samples = {held} leaves nothing of {train.count} images to train on")
        val, rest = rest.drawn(held, config.seed)
        wanted["val"] = train, val
    wanted["train"] = train, rest.drawn(MOST_REFERENCE, config.seed)[0]
    stream = StreamedSource(train, column, rest, decode_options(config), config.window, config.strict)
    return stream, wanted


@dataclass
class _Poured:
    """Rows of a table (`pieces`; None: all) on their way into the cache."""

    table: Table
    column: str
    pieces: Pieces | None
    where: str
    config: DataConfig
    progress: Progress

    @property
    def rows(self) -> Indices:
        return np.arange(self.table.count, dtype=np.int64) if self.pieces is None else self.pieces.rows

    def opened(self) -> tuple[Readable, Entry]:
        """The images, and what the cache says of them."""
        config, options = self.config, decode_options(self.config)
        keep = config.cache == "disk" or self.pieces is not None
        settings = sorted(asdict(options).items())
        part = "" if self.pieces is None else self.pieces.bounds.tolist()
        group = short_hash("hub" if keep else "hub, looked at", self.where, self.column, settings, part)
        count = len(self.rows)
        shape = (count, options.channels, options.size, options.size)
        fill = filler(self._images(), count, options, config.workers, self.progress)
        entry = open_or_build(
            cache_root(config.cache_dir), group, short_hash(self.table.state), shape, fill,
            waiting(self.progress), step=step_rows(options), pixels=keep,
        )  # fmt: skip
        if entry.images is not None:
            return entry.images, entry
        assert isinstance(self.table, ArrowTable)  # the other kind is a stream
        return TableRows(self.table, self.column, options), entry

    def _images(self) -> Callable[[int, int], Iterable[Encoded]]:
        if self.pieces is None:
            return lambda first, stop: self.table.images(self.column, first, stop)
        rows = self.rows

        def chosen(first: int, stop: int) -> Iterable[Encoded]:
            part = rows[first:stop]
            breaks = [0, *(np.flatnonzero(np.diff(part) != 1) + 1).tolist(), len(part)]
            for a, b in pairwise(breaks):
                yield from self.table.images(self.column, int(part[a]), int(part[b - 1]) + 1)

        return chosen
