"""Opens tar files of the webdataset layout: list what lies where, decode what the cache lacks, name the classes.

The files are decoded where they lie, by their offsets, in worker processes: nothing is unpacked.
"""

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from siamscope.data.cache import cache_root, short_hash
from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError
from siamscope.data.folder import Rejected
from siamscope.data.labelling import numbered
from siamscope.data.pool import Files
from siamscope.data.preparing import check_rejected, decode_options, prepared, refuse_rejected, without_rejected
from siamscope.data.progress import Progress
from siamscope.data.source import ArraySource, Source
from siamscope.data.tar import Choice, Span, known_index
from siamscope.data.tar_files import absolute, tar_files


@dataclass
class OpenedTars:
    """The sources of a set of tar files, what was set aside, and notes for the user."""

    splits: dict[str, Source]
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Spans(Sequence[Span]):
    """Offsets and sizes, packed: 16 bytes each."""

    def __init__(self, values: NDArray[np.int64]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Span]: ...
    def __getitem__(self, index: int | slice) -> Span | Sequence[Span]:
        if isinstance(index, slice):
            return Spans(self._values[index])
        offset, size = self._values[index].tolist()
        return offset, size


@dataclass
class _Listed:
    """The samples of a split, over all its tar files."""

    shards: list[str] = field(default_factory=list)
    states: list[tuple[int, int]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    aside: list[Rejected] = field(default_factory=list)
    spans: list[NDArray[np.int64]] = field(default_factory=list)

    def files(self) -> Files:
        paths = [shard for shard, count in zip(self.shards, self.counts, strict=True) for _ in range(count)]
        sizes, times = (
            array("q", np.repeat(np.array(column, np.int64), self.counts).tobytes())
            for column in zip(*self.states, strict=True)
        )
        return Files(Path(), paths, sizes, times, Spans(np.concatenate(self.spans)))


def open_tars(source: str, config: DataConfig, progress: Progress) -> OpenedTars:
    """Open tar files; see `tar_files` for what `source` may be, and `siamscope.data.tar` for their layout.

    Raises:
        DataError: no usable image, a compressed tar, several images in a sample and none chosen, or (strict) something
            that had to be set aside.
    """
    decode_options(config)  # a number that cannot be is said before anything is listed
    choice = Choice(config.image, config.label)
    listed = {split: _listed(files, choice, config, progress) for split, files in tar_files(source).items()}
    aside = [item for split in listed.values() for item in split.aside]
    for split, found in listed.items():
        if not found.names:
            shown = "".join(f"; {item.path}: {item.reason}" for item in found.aside[:3])
            raise DataError(f"the tar files for {split} hold no image{shown}")
    if config.strict:
        refuse_rejected(aside)
    labels, class_names, notes = numbered({split: found.labels for split, found in listed.items()})
    if config.label not in ("", "none") and class_names is None:
        raise DataError(
            f"data.label = {config.label!r} gives no labels: no sample holds a member or a field of its .json called "
            f"so, or all are alike{''.join('; ' + note for note in notes)}"
        )
    splits: dict[str, Source] = {}
    rejected = list(aside)
    for split, found in listed.items():
        where = os.fsencode(f"{absolute(source)}\0{split}\0{choice.image}")
        key = short_hash(found.shards, found.states, found.counts)
        images, entry = prepared(found.files(), "tar", where, key, config, progress)
        rejected += [Rejected(found.names[row], reason) for row, reason in entry.rejected.items()]
        check_rejected(len(found.names), source, entry, rejected, config.strict)
        names = class_names if labels[split] is not None else None
        splits[split] = without_rejected(ArraySource(images, labels[split], names, found.names, entry.digest), entry)
    return OpenedTars(splits, rejected, [*_notes(source, listed, rejected, aside), *notes])


def _listed(files: list[Path], choice: Choice, config: DataConfig, progress: Progress) -> _Listed:
    out = _Listed()
    store = cache_root(config.cache_dir) / "tar"
    for done, path in enumerate(files):
        progress("listing tar files", done, len(files))
        index, status = known_index(path, choice, store)
        out.aside += [Rejected(name, reason) for name, reason in index.aside]
        out.shards.append(str(path))
        out.states.append((status.st_size, status.st_mtime_ns))
        out.counts.append(len(index.names))
        out.names += index.names
        out.labels += index.labels
        out.spans.append(np.array(index.spans, np.int64).reshape(-1, 2))
    progress("listing tar files", len(files), len(files))
    return out


def _notes(source: str, listed: dict[str, _Listed], rejected: list[Rejected], aside: list[Rejected]) -> list[str]:
    notes = []
    if rejected:
        notes.append(f"{len(rejected)} members were set aside")
    shards = {Path(shard).name for found in listed.values() for shard in found.shards}
    notes += [f"{item.path} {item.reason}" for item in aside if item.path in shards]
    counts = ", ".join(
        f"{len(found.shards)} file{'s' * (len(found.shards) != 1)} as {split}" for split, found in listed.items()
    )
    if len(listed) > 1:
        notes.append(f"read {counts}")
    return notes
