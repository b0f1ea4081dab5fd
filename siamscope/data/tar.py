"""What lies where in tar files of the webdataset layout: the members that share a name up to its first dot are one
sample (000001.jpg, 000001.cls, 000001.json).

Nothing is ever written to disk under a member's name, and nothing is unpickled: only images and label texts are read,
by their place in the file. Archives are read with the standard library: the webdataset library reads them from front
to back only, while a list of offsets gives random access, every order of presentation, and a cheap look at labels.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from siamscope.data.cache import short_hash
from siamscope.data.errors import DataError
from siamscope.data.folder import SUFFIXES
from siamscope.data.labelling import text_of
from siamscope.data.shards import write_json

_VERSION = 1
_BLOCK = 512
_LABELS = ("cls", "label", "class", "target")
_MOST_TEXT = 2**20  # bytes of a label's member
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

Span = tuple[int, int]
"""Offset and bytes."""


@dataclass(frozen=True)
class Choice:
    """Which members are read. image: the ending of the image's name, such as "jpg" or "left.png"; empty: the only
    image. label: the ending of a text's name or a field of the .json; empty: cls, label, class or target; "none": none.
    """

    image: str = ""
    label: str = ""


@dataclass(frozen=True)
class Index:
    """The samples of one tar file with an image, in the file's order, and what was set aside (name, reason)."""

    names: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)


def known_index(path: Path, choice: Choice, store: Path) -> tuple[Index, os.stat_result]:
    """The index of a tar file and the file's state, from `store` if it is there; kept there otherwise.

    Raises:
        DataError: as `read_index`, or the file cannot be read.
    """
    try:
        status = path.stat()
        kept = store / f"{short_hash(os.fsencode(path), choice)}.json"
        state = [_VERSION, status.st_size, status.st_mtime_ns]
        with suppress(OSError, ValueError, KeyError, TypeError):
            value = json.loads(kept.read_text(encoding="ascii"))
            if value.pop("state") == state:
                spans = [(first, size) for first, size in value.pop("spans")]
                aside = [(name, reason) for name, reason in value.pop("aside")]
                return Index(spans=spans, aside=aside, **value), status
        index = read_index(path, choice)
        with suppress(OSError):  # then it is read again at the next start
            store.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"state": state, **asdict(index)})
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    return index, status


def read_index(path: Path, choice: Choice) -> Index:
    """Walk the headers of a tar file, and read its labels.

    What cannot be used is set aside: a file that is no tar, what follows a cut or damaged place, a sample without an
    image, a second member of the same name.

    Raises:
        DataError: a compressed tar, or a sample with several images of which none is chosen. OSError: it cannot be
        read.
    """
    index = Index()
    samples: dict[str, dict[str, Span]] = {}
    with path.open("rb") as file:
        _refuse_compressed(path, file)
        for name, kind, span in _members(file, path.name, index.aside):
            key, ending = _divided(name)
            if not key:
                continue
            members = samples.setdefault(key, {})
            if kind != "file":
                if _is_image(ending):
                    index.aside.append((_shown(path, name), f"is a {kind}; only whole files are read"))
            elif ending in members:
                index.aside.append((_shown(path, name), "a second member of this name; the first is used"))
            else:
                members[ending] = span
        for key, members in samples.items():
            if not members:
                continue
            image = _image(path, key, members, choice.image)
            if image is None:
                held = ", ".join(sorted(members)[:6])
                what = f"image {choice.image!r}" if choice.image else "image"
                index.aside.append((_shown(path, key), f"a sample without {what}; it holds {held}"))
                continue
            index.names.append(_shown(path, f"{key}.{image}"))
            index.spans.append(members[image])
            index.labels.append(None if choice.label == "none" else _label(file, members, choice.label))
    return index


def _refuse_compressed(path: Path, file: IO[bytes]) -> None:
    start = file.read(6)
    file.seek(0)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                f"{str(path)!r} is compressed ({name}), and can only be read from front to back: unpack it to a plain "
                f".tar first (images hardly shrink by it)"
            )


def _members(file: IO[bytes], shard: str, aside: list[tuple[str, str]]) -> Iterator[tuple[str, str, Span]]:
    """Name, kind and place of every member; where the walk ends early is noted in `aside`."""
    size = os.fstat(file.fileno()).st_size
    count, offset = 0, 0
    try:
        archive = tarfile.TarFile(fileobj=file)
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would grow with the file
            if archive.offset <= offset or member.size < 0:
                raise tarfile.ReadError("a header leads backwards")
            if member.offset_data + (member.size if member.isreg() else 0) > size:
                aside.append((shard, f"is cut short within {_printable(member.name)!r}, after {count} whole members"))
                return
            offset, count = archive.offset, count + 1
            kind = "sparse file" if member.issparse() else "file" if member.isreg() else _OTHER.get(member.type, "")
            if kind:
                yield member.name, kind, (member.offset_data, member.size)
        file.seek(archive.offset)
        end = file.read(_BLOCK)
    except (tarfile.TarError, ValueError, OverflowError, IndexError) as error:
        if not count:
            aside.append((shard, f"is no tar file: {error}"))
        else:
            aside.append((shard, f"is damaged after {count} members, and not read further: {error}"))
        return
    if len(end) < _BLOCK:
        aside.append((shard, f"ends without a tar's end mark after {count} members: it may be cut short"))
    elif any(end):
        aside.append((shard, f"is damaged after {count} members, and not read further"))


_OTHER = {tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "link"}  # folders and devices are passed over


def _divided(name: str) -> tuple[str, str]:
    """Key and ending of a member: "a/b.seg.PNG" is ("a/b", "seg.png"). No key for names that are passed over: hidden
    ones, those without an ending, and __such__ ones that webdataset keeps for itself."""
    folder, _, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    if not stem or not ending or (stem.startswith("__") and stem.endswith("__")) or "__MACOSX" in folder:
        return "", ""
    return (f"{folder}/{stem}" if folder else stem), ending.lower()


def _is_image(ending: str) -> bool:
    return "." + ending.rpartition(".")[2] in SUFFIXES


def _image(path: Path, key: str, members: dict[str, Span], wanted: str) -> str | None:
    if wanted:
        return wanted.lower() if wanted.lower() in members else None
    images = [ending for ending in members if _is_image(ending)]
    plain = [ending for ending in images if "." not in ending]
    found = plain or images
    if len(found) > 1:
        raise DataError(
            f"sample {_printable(key)!r} of {str(path)!r} holds several images, {_printable(', '.join(found[:6]))}: "
            f"choose one with data.image, such as data.image = {_printable(found[0])!r}"
        )
    return found[0] if found else None


def _label(file: IO[bytes], members: dict[str, Span], wanted: str) -> str | None:
    names = (wanted,) if wanted else _LABELS
    for name in names:
        if name.lower() in members:
            return text_of(_text(file, members[name.lower()]))
    if "json" not in members:
        return None
    try:
        value: Any = json.loads(_text(file, members["json"]) or "null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return next((text_of(value[name]) for name in names if name in value), None)


def _text(file: IO[bytes], span: Span) -> str | None:
    offset, size = span
    if size > _MOST_TEXT:
        return None
    file.seek(offset)
    try:
        return file.read(size).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


def _shown(path: Path, name: str) -> str:
    return f"{path.name}/{name if name.isprintable() else _printable(name)}"
