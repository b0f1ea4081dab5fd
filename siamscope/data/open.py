"""From a `DataConfig` to images: `open_dataset`."""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from siamscope.data import arrays, idx
from siamscope.data.cache import Part, Written, cache_root, open_or_build, short_hash
from siamscope.data.config import NAMED_SOURCES, DataConfig, Kind, nearest
from siamscope.data.convert import Converter
from siamscope.data.errors import DataError
from siamscope.data.folder import Rejected
from siamscope.data.hub import PREFIX
from siamscope.data.hub_stream import StreamedSource
from siamscope.data.memory import budget
from siamscope.data.open_folder import open_folder
from siamscope.data.open_hub import open_hub
from siamscope.data.open_tar import open_tars
from siamscope.data.progress import Progress, quiet, waiting
from siamscope.data.source import ArraySource, Numbered, Readable, ShapesSource, Source, digest, hash_array
from siamscope.data.split_names import val_is_final
from siamscope.data.splits import three_way, validation_count
from siamscope.data.tar_files import absolute, holds_tars, is_pattern, is_tar

_ARRAYS = ("shapes", "idx", "npz", "npy")  # nothing to decode
_SHAPES_TRAIN, _SHAPES_TEST = 10_000, 2_000
SHAPES_VAL_AT, _SHAPES_TEST_AT = 2**40, 2**41  # no training index reaches them


@dataclass(frozen=True)
class Dataset:
    """Images ready for use.

    train: what the objective sees. val: for every choice while training and among runs. test: for the final figure
    only; None if the data have none. rejected: files set aside. hint: what a user may want to know about how the data
    were read, or None. streams: whether the images are more than the memory budget, so that they should be read
    from the cache batch by batch. config: the configuration with what was found filled in; it opens the same images.
    files: the usable files of each split of a folder of images (relative to the split's folder), else nothing.
    stream: all training images, if they are read front to back and not kept; `train` is then a sample of them.
    """

    train: Source
    val: Source
    test: Source | None
    name: str
    rejected: list[Rejected]
    hint: str | None
    streams: bool
    config: DataConfig
    files: dict[str, list[str]] = field(default_factory=dict)
    stream: StreamedSource | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of all images, labels and the split."""
        parts = [self.train, self.val, *([self.test] if self.test else [])]
        labels = [b"" if s.labels is None else s.labels.astype("<i8").tobytes() for s in parts]
        domains = [s.domains.astype("<i8").tobytes() for s in parts if s.domains is not None]
        streamed = [] if self.stream is None else [self.stream.fingerprint.encode()]
        return digest(*(s.fingerprint.encode() for s in parts), *labels, *domains, *streamed)


@dataclass
class _Found:
    """What a kind of source yields before the split."""

    train: Source
    val: Source | None = None
    test: Source | None = None
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)


def open_dataset(
    config: DataConfig,
    progress: Progress = quiet,
    known: Mapping[str, list[str]] | None = None,
    fixed: bool = False,
) -> Dataset:
    """Open the images that `config` asks for; decode image files first if the cache does not hold them.

    progress: called while something long goes on (see siamscope.data.progress). known: of a folder of images, only the
    files that `Dataset.files` named before. fixed: of a folder, what those names open later: files that cannot be used
    are as if they were not there.

    Raises:
        DataError: the data are missing, unusable or too few, or the cache cannot be written.
    """
    memory = budget(config.memory_budget_mb)
    kind, path = _kind_and_path(config)
    if config.domains and kind != "folder":
        raise DataError(f"data.domains goes with a folder of image files, not with kind {kind!r}")
    if kind == "shapes":
        return _shapes(config, memory)
    if kind == "hub":
        return _hub(config, memory, progress)
    assert path is not None  # the others have one
    if kind == "folder":
        opened = open_folder(path, config, progress, known, fixed)
        found = _Found(opened.train, opened.val, opened.test, opened.rejected, opened.notes, opened.usable)
    elif kind == "tar":
        tars = open_tars(config.source, config, progress)
        splits = tars.splits
        found = _Found(splits["train"], splits.get("val"), splits.get("test"), tars.rejected, tars.notes)
    else:
        found = _open_arrays(kind, path, config, memory, progress)
    train, val, test, note = three_way(found.train, found.val, found.test, config)
    resolved = replace(
        config,
        source=config.source if config.source in NAMED_SOURCES else absolute(config.source),
        kind=kind,
        channels=train.channels,
        samples=len(train),
        val_samples=len(val),
        test_samples=len(test) if test else 0,
    )
    name = config.source if config.source in NAMED_SOURCES else path.absolute().name
    hint = "; ".join([*found.notes, *([note] if note else [])]) or None
    streams = _total(train, val, test) > memory
    return Dataset(train, val, test, name, found.rejected, hint, streams, resolved, found.files)


def help_decode(config: DataConfig) -> None:
    """Decode part of a folder's images, if another process of this machine is about to open them too: each takes what
    the other is not at. What is wrong with them is for `open_dataset` to say.
    """
    with suppress(DataError):
        if _kind_and_path(config)[0] not in _ARRAYS:
            open_dataset(config)


def _total(train: Source, val: Source, test: Source | None) -> int:
    return train.nbytes + val.nbytes + (test.nbytes if test else 0)


def _kind_and_path(config: DataConfig) -> tuple[Kind, Path | None]:
    """What to read as what. Raises DataError if there is nothing there or it does not fit the kind."""
    if config.kind == "shapes" or (config.kind == "auto" and config.source == "shapes"):
        return "shapes", None
    if config.kind == "hub" or (config.kind == "auto" and config.source.startswith(PREFIX)):
        return "hub", None
    if config.source == "fashion-mnist":
        return "idx", idx.fashion_mnist_folder()
    path = Path(config.source).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        if not is_folder and not is_file and config.kind in ("auto", "tar") and is_pattern(config.source):
            return "tar", path
        if not is_folder and not is_file:
            near = nearest(config.source, NAMED_SOURCES)
            raise DataError(f"there is no folder or file {config.source!r}{near or ': check data.source'}")
        return _kind_of(config, path, is_file), path
    except OSError as error:
        raise DataError(f"cannot look at {config.source!r}: {error.strerror}") from error


def _kind_of(config: DataConfig, path: Path, is_file: bool) -> Kind:
    ending = path.suffix.lower()
    if config.kind == "tar" or (config.kind == "auto" and (is_tar(path.name) if is_file else holds_tars(path))):
        return "tar"
    if is_file:
        found: Kind = "npz" if ending == ".npz" else "npy"
        if ending not in (".npz", ".npy"):
            raise DataError(
                f"{config.source!r} is a single file; give a folder of images or of IDX files, or a .tar, .npz or .npy "
                f"file (unpack other archives first)"
            )
        if config.kind not in ("auto", found):
            raise DataError(f"data.kind is {config.kind}, but {config.source!r} is an {ending} file")
        return found
    if config.kind in ("npz", "npy"):
        raise DataError(f"data.kind is {config.kind}, but {config.source!r} is a folder: give the file")
    if config.kind == "auto":
        return "idx" if idx.has_idx_files(path) else "folder"
    return config.kind


def _shapes(config: DataConfig, memory: int) -> Dataset:
    from siamscope.data import shapes

    count = config.samples or _SHAPES_TRAIN
    held = validation_count(count, config)
    tests = config.test_samples or _SHAPES_TEST
    try:
        spec = shapes.ShapesSpec(config.seed, config.size, config.classes, config.channels or 3)
    except ValueError as error:
        raise DataError(str(error)) from error
    train = ShapesSource(spec, count)
    val = ShapesSource(spec, held, SHAPES_VAL_AT)
    test = ShapesSource(spec, tests, _SHAPES_TEST_AT)
    resolved = replace(
        config, source="shapes", kind="shapes", channels=spec.channels, samples=count, val_samples=held,
        test_samples=tests,
    )  # fmt: skip
    streams = _total(train, val, test) > memory
    return Dataset(train, val, test, "shapes", [], None, streams, resolved)


def _hub(config: DataConfig, memory: int, progress: Progress) -> Dataset:
    opened = open_hub(config, progress)
    splits, notes = opened.splits, opened.notes
    resolved = replace(config, source=opened.source, kind="hub", channels=splits["train"].channels)
    train, val, test = splits["train"], splits.get("val"), splits.get("test")
    if opened.stream is None:
        train, val, test, note = three_way(train, val, test, config)
        notes += [note] if note else []
        tests = len(test) if test else 0
        resolved = replace(resolved, samples=len(train), val_samples=len(val), test_samples=tests)
    assert val is not None  # a stream comes with one
    streams = opened.stream is not None or _total(train, val, test) > memory
    hint = "; ".join(notes) or None
    return Dataset(
        train, val, test, opened.name, opened.rejected, hint, streams, resolved, stream=opened.stream
    )  # fmt: skip


def _open_arrays(kind: Kind, path: Path, config: DataConfig, memory: int, progress: Progress) -> _Found:
    with ExitStack() as stack:
        spool = _spool(stack, config)
        if kind == "idx":
            splits = idx.read_idx(path, memory, spool)
        elif kind == "npz":
            splits = arrays.read_npz(path, memory, spool)
        else:
            splits = arrays.read_npy(path)
        labels, class_names = arrays.integer_labels(splits)
        if config.source == "fashion-mnist" and class_names and len(class_names) == len(idx.FASHION_MNIST_CLASSES):
            class_names = idx.FASHION_MNIST_CLASSES
        # Grey IDX images as RGB: brightness and contrast then vary in the views; without that they teach little.
        channels = config.channels or (3 if kind == "idx" else 0)
        converters = {
            name: Converter(raw.name, raw.images, config.size, channels, config.min_side, pad=kind == "idx")
            for name, raw in splits.items()
        }
        if len({converter.channels for converter in converters.values()}) > 1:
            shapes = ", ".join(f"{split.name} {split.images.shape}" for split in splits.values())
            raise DataError(f"the splits have different numbers of channels: {shapes}")
        fits = sum(int(np.prod(converter.shape)) for converter in converters.values()) <= memory
        sources: dict[str, Source] = {}
        for name, converter in converters.items():
            if fits:
                held = _converted(converter)
                sources[name] = ArraySource(held, labels[name], class_names, Numbered(len(held)), hash_array(held))
            else:
                images, content = _through_cache(converter, path, config, progress)
                sources[name] = ArraySource(images, labels[name], class_names, Numbered(len(images)), content)
    sources = val_is_final(sources)
    return _Found(sources["train"], sources.get("val"), sources.get("test"))


def _spool(stack: ExitStack, config: DataConfig) -> Callable[[], Path]:
    """Makes, once it is needed, a temporary folder on the cache's disk that goes with the stack."""
    made: list[Path] = []

    def folder() -> Path:
        if not made:
            root = cache_root(config.cache_dir)
            try:
                root.mkdir(parents=True, exist_ok=True)
                made.append(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unpacked-", dir=root))))
            except OSError as error:
                raise DataError(f"cannot unpack into {str(root)!r}: {error.strerror}; choose data.cache_dir") from error
        return made[0]

    return folder


def _converted(converter: Converter) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    images = np.empty(converter.shape, np.uint8)
    for start, piece in converter.pieces():
        images[start : start + len(piece)] = piece
    return images


def _through_cache(converter: Converter, path: Path, config: DataConfig, progress: Progress) -> tuple[Readable, str]:
    """The images in the cache, and their hash."""
    if config.cache == "none":
        raise DataError(
            f"the images of {converter.name} do not fit the memory budget, and data.cache = none forbids to keep them "
            f"on disk as they are used: take data.cache = disk, or raise data.memory_budget_mb"
        )
    group = short_hash("array", os.fsencode(path.resolve()), converter.name, config.size, converter.channels)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]

    def fill(part: Part) -> Written:
        hashes = []
        assert part.file is not None  # asked for with pixels
        with part.file.open("rb+") as file:
            for start, piece in converter.pieces(part.first, part.stop):
                file.write(piece.data)
                hashes.append(hash_array(piece))
                done = part.ready + start - part.first + len(piece)
                progress("preparing images", done, len(converter.values))
        return Written(hashes, {})

    wait = waiting(progress, "prepares")
    entry = open_or_build(
        cache_root(config.cache_dir), group, short_hash(state), converter.shape, fill, wait, step=converter.step,
        combine=lambda hashes: digest(*(piece.encode() for piece in hashes)),
    )  # fmt: skip
    return entry.rows, entry.digest
