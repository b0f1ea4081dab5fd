"""Which tar files a source means: a file, a folder, a pattern; and which split each belongs to."""

import glob
import os
import re
from pathlib import Path

from siamscope.data.errors import DataError
from siamscope.data.folder import SUFFIXES
from siamscope.data.split_names import SPLITS, val_is_final

_ENDING = re.compile(r"\.(tar(\.(gz|bz2|xz|zst|zstd))?|tgz|tbz2?|txz)$", re.IGNORECASE)
_LEADING = re.compile("(" + "|".join(sorted(SPLITS, key=len, reverse=True)) + ")(?![a-z])")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 100_000


def split_name(name: str) -> str | None:
    """train, val or test if that is what a split's or a file's name begins with, in any case."""
    found = _LEADING.match(name.lower())
    return SPLITS[found[1]] if found else None


def is_tar(name: str) -> bool:
    """Whether a name ends like a tar file, compressed ones included."""
    return bool(_ENDING.search(name))


def is_pattern(source: str) -> bool:
    """Whether a source that is no path stands for several: with * ? [ ] or { }."""
    return any(letter in source for letter in "*?[{")


def holds_tars(folder: Path) -> bool:
    """Whether a folder is a set of tar files: it, or train/ and the like below it, holds some and neither images nor
    folders. Raises OSError."""
    return _only_tars(folder) or any(_only_tars(sub) for sub in _split_folders(folder))


def _only_tars(folder: Path) -> bool:
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if Path(entry.name).suffix.lower() in SUFFIXES or (entry.is_dir() and not entry.name.startswith(".")):
                return False
            found |= is_tar(entry.name)
    return found


def tar_files(source: str) -> dict[str, list[Path]]:
    """The files of each split, in the order of their names: "train", and perhaps "val" and "test".

    The split is what a file's name, or the folder it lies in, begins with: train-000.tar, val/000.tar. Without a
    training file among them all are for training. Files of no split beside training files are passed over. val without
    test is the held-out final data, as it is for folders.

    Raises:
        DataError: nothing there, or a pattern that means nothing.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = [*_tars_in(path), *(file for sub in _split_folders(path) for file in _tars_in(sub))]
        if not files:
            raise DataError(f"the folder {source!r} holds no .tar file")
    elif path.is_file():
        files = [path]
    else:
        files = matched(source)
    files = [file.absolute() for file in files]
    splits = [split_name(file.name) or SPLITS.get(file.parent.name.lower()) for file in files]
    if "train" not in splits:
        return {"train": files}
    found = {
        name: [file for file, split in zip(files, splits, strict=True) if split == name]
        for name in ("train", "val", "test")
    }
    return val_is_final({name: part for name, part in found.items() if part})


def absolute(source: str) -> str:
    """The source with an absolute path, so that it means the same from every folder."""
    if source.startswith("{") and not Path(source).exists():
        return "{" + ",".join(str(Path(word).expanduser().absolute()) for word in braces(source)) + "}"
    return str(Path(source).expanduser().absolute())


def _tars_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_tar(path.name) and not path.name.startswith("."))


def _split_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower() in SPLITS and path.is_dir())


def matched(source: str) -> list[Path]:
    """The files that a pattern stands for, each once.

    Raises:
        DataError: there are none, or one that it names is not there.
    """
    files: dict[Path, None] = {}
    lacking = []
    words = braces(source)
    for word in words:
        path = str(Path(word).expanduser())
        if any(letter in word for letter in "*?["):
            files.update(dict.fromkeys(Path(name) for name in sorted(glob.glob(path, recursive=True))))  # noqa: PTH207
        elif Path(path).is_file():
            files[Path(path)] = None
        else:
            lacking.append(word)
    if lacking:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        raise DataError(f"there is no file {lacking[0]!r}{more}: check data.source = {_short(source)!r}")
    found = [path for path in files if path.is_file()]
    if not found:
        raise DataError(f"no file matches {_short(source)!r}: check data.source")
    return found


def braces(pattern: str) -> list[str]:
    """The words of a pattern with { }: {000..009} counts, {a,b} lists.

    Raises:
        DataError: a brace without its other half, or too many words.
    """
    words, done = [pattern], []
    while words:
        word = words.pop()
        end = word.find("}")
        begin = word.rfind("{", 0, max(end, 0))
        if begin < 0:
            if "{" in word or "}" in word:
                raise DataError(f"a brace in {_short(pattern)!r} lacks its other half")
            done.append(word)
            continue
        inner, between = word[begin + 1 : end], _RANGE.fullmatch(word[begin + 1 : end])
        if between:
            first, last = int(between[1]), int(between[2])
            if not first <= last < first + _MOST:
                raise DataError(f"{{{inner}}} in {_short(pattern)!r} must count upwards, to at most {_MOST:,} files")
            choices = [f"{number:0{len(between[1])}d}" for number in range(first, last + 1)]
        else:
            choices = inner.split(",")
        if len(done) + len(words) + len(choices) > 2 * _MOST:
            raise DataError(f"{_short(pattern)!r} stands for too many files")
        words += [word[:begin] + choice + word[end + 1 :] for choice in reversed(choices)]
    return list(dict.fromkeys(done))


def joined(words: list[str]) -> list[str]:
    """A command's words in which neighbouring tar files are one source: what a shell makes of train-{0..9}.tar."""
    out: list[str] = []
    run: list[str] = []
    for word in [*words, ""]:
        if is_tar(word) and not word.startswith("-") and not any(letter in word for letter in "{},"):
            run.append(word)
            continue
        out += ["{" + ",".join(run) + "}"] if len(run) > 1 else run
        run = []
        out.append(word)
    return out[:-1]


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"
