"""What the rest of the program sees of a set of images: a `Source` answers indices with uint8 pixels."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from siamscope.data.errors import DataError

if TYPE_CHECKING:
    from siamscope.data.shapes import ShapesSpec

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]


class Source(ABC):
    """Images of one size under the indices 0 .. len - 1.

    channels, size: every image is uint8 (channels, size, size). labels: int64 (len,), or None. class_names: one a
    class, or None. domains, domain_names: the same of where the images come from (`data.domains`). names: one an image
    (a path below the folder, or a number). fingerprint: a hash of what it holds.
    """

    channels: int
    size: int
    labels: Indices | None
    class_names: tuple[str, ...] | None
    domains: Indices | None = None
    domain_names: tuple[str, ...] | None = None
    names: Sequence[str]
    fingerprint: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Indices) -> Images:
        """The images at `indices` (B,), as a fresh uint8 array (B, channels, size, size). Safe to call from threads."""

    @property
    def nbytes(self) -> int:
        """Bytes that all pixels together need."""
        return len(self) * self.channels * self.size**2


class Subset(Source):
    """The images of another source at given indices, in that order."""

    def __init__(self, source: Source, indices: Indices) -> None:
        indices = np.asarray(indices, np.int64)
        if indices.ndim != 1 or (indices.size and not 0 <= indices.min() <= indices.max() < len(source)):
            raise DataError(
                f"a subset of {len(source)} images needs a flat array of indices from 0 to {len(source) - 1}"
            )
        self.source, self.indices = source, indices
        self.channels, self.size = source.channels, source.size
        self.labels = None if source.labels is None else source.labels[indices]
        self.class_names = source.class_names
        self.domains = None if source.domains is None else source.domains[indices]
        self.domain_names = source.domain_names
        self.names = Picked(source.names, indices)
        self.fingerprint = digest(source.fingerprint.encode(), indices.astype("<i8").tobytes())

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Indices) -> Images:
        return self.source.read(self.indices[indices])


class Readable(Protocol):
    """Images uint8 (N, C, S, S) that are read by their indices: rows of a cache, or files decoded anew."""

    shape: tuple[int, int, int, int]

    def __len__(self) -> int: ...

    def read(self, indices: Indices) -> Images: ...


class ArraySource(Source):
    """Images held in an array, uint8 (N, C, S, S) in memory or memory-mapped, or in something that reads them.

    labels, domains: integers (N,), or None. fingerprint: by default a hash of the array. Raises DataError if shapes or
    types do not fit.
    """

    def __init__(
        self,
        images: Images | Readable,
        labels: Indices | None = None,
        class_names: tuple[str, ...] | None = None,
        names: Sequence[str] | None = None,
        fingerprint: str | None = None,
        domains: Indices | None = None,
        domain_names: tuple[str, ...] | None = None,
    ) -> None:
        dtype = images.dtype if isinstance(images, np.ndarray) else np.dtype(np.uint8)
        if dtype != np.uint8 or len(images.shape) != 4 or images.shape[2] != images.shape[3]:
            raise DataError(f"images must be uint8 of shape N×C×S×S; got {dtype} of shape {images.shape}")
        self.images = images
        self.channels, self.size = int(images.shape[1]), int(images.shape[2])
        self.labels = checked_labels(labels, len(images))
        self.class_names = class_names
        self.domains, self.domain_names = checked_labels(domains, len(images)), domain_names
        self.names = Numbered(len(images)) if names is None else names
        if len(self.names) != len(images):
            raise DataError(f"{len(self.names)} names for {len(images)} images")
        if fingerprint is None:
            fingerprint = hash_array(images if isinstance(images, np.ndarray) else images.read(np.arange(len(images))))
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Indices) -> Images:
        if not isinstance(self.images, np.ndarray):
            return self.images.read(indices)
        if not isinstance(self.images, np.memmap):
            return self.images[indices]
        # Ascending rows: pages of a file larger than memory are then fetched once and in order.
        order = np.argsort(indices, kind="stable")
        out = np.empty((len(indices), *self.images.shape[1:]), np.uint8)
        out[order] = self.images[indices[order]]
        return out


class ShapesSource(Source):
    """`count` images of the procedural data set, from index `offset` on, drawn when they are read."""

    def __init__(self, spec: "ShapesSpec", count: int, offset: int = 0) -> None:
        from siamscope.data import shapes

        self.spec, self.count, self.offset = spec, count, offset
        self.channels, self.size = spec.channels, spec.size
        self.labels = shapes.labels(np.arange(offset, offset + count), spec)
        self.class_names = shapes.class_names(spec)
        self.names = Numbered(count, offset)
        self.fingerprint = digest(repr((spec, count, offset)).encode())

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Indices) -> Images:
        from siamscope.data import shapes

        return shapes.generate(checked_indices(indices, self.count) + self.offset, self.spec)[0]


class Names(Sequence[str]):
    """Names that are made when they are asked for."""

    @abstractmethod
    def named(self, index: int) -> str:
        """One of them."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self.named(i) for i in range(len(self))[index]]
        return self.named(index)


class Prefixed(Names):
    """Names with the same text before each, without storing them again."""

    def __init__(self, prefix: str, names: Sequence[str]) -> None:
        self._prefix, self._names = prefix, names

    def __len__(self) -> int:
        return len(self._names)

    def named(self, index: int) -> str:
        return self._prefix + self._names[index]


class Numbered(Names):
    """The names "0", "1", ... without storing them."""

    def __init__(self, count: int, start: int = 0) -> None:
        self._range = range(start, start + count)

    def __len__(self) -> int:
        return len(self._range)

    def named(self, index: int) -> str:
        return str(self._range[index])


class Picked(Names):
    """The names of another sequence at given indices."""

    def __init__(self, names: Sequence[str], indices: Indices) -> None:
        self._names, self._indices = names, indices

    def __len__(self) -> int:
        return len(self._indices)

    def named(self, index: int) -> str:
        return self._names[int(self._indices[index])]


def checked_indices(indices: Indices, count: int) -> Indices:
    """Indices as int64. Raises IndexError for one outside 0 .. count - 1."""
    indices = np.asarray(indices, np.int64)
    if indices.size and not 0 <= indices.min() <= indices.max() < count:
        raise IndexError(f"index outside 0 .. {count - 1}")
    return indices


def checked_labels(labels: Indices | None, count: int) -> Indices | None:
    """Labels as int64 (count,). Raises DataError if their number or type does not fit."""
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels must be {count} integers; got {labels.dtype} of shape {labels.shape}")
    return labels.astype(np.int64)


def digest(*parts: bytes) -> str:
    """A short hash of several byte strings, each marked with its length."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def pixel_hash(images: Images) -> str:
    """A hash of pixels in memory: of one piece of a cache."""
    return hashlib.blake2b(images.data, digest_size=16).hexdigest()


def hash_array(array: NDArray[np.uint8]) -> str:
    """A hash of shape and content, read in pieces so that a memory-mapped array need not fit in memory."""
    hasher = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    step = max(1, 2**24 // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        hasher.update(np.ascontiguousarray(array[start : start + step]).data)
    return hasher.hexdigest()


def channel_stats(
    source: Source, max_samples: int = 10_000, seed: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in units where 255 is 1, over all pixels of up to `max_samples`
    images drawn by the seed.

    The deviation is at least 1/255 (one grey level), so that a channel that never changes can still be divided by it.
    """
    if not len(source) or max_samples < 1:
        raise DataError("channel statistics need at least one image")
    count = min(len(source), max_samples)
    chosen = np.sort(np.random.default_rng([seed, 3]).permutation(len(source))[:count])
    values = np.arange(256, dtype=np.float64)
    counts = np.zeros((source.channels, 256))
    for part in np.array_split(chosen, max(1, count // 512)):
        pixels = source.read(part)
        for channel in range(source.channels):
            counts[channel] += np.bincount(pixels[:, channel].ravel(), minlength=256)
    weights = counts / counts.sum(1, keepdims=True)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    std = np.maximum(np.sqrt(variance) / 255, 1 / 255)
    return tuple((mean / 255).tolist()), tuple(std.tolist())
