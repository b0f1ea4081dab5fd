"""Hugging Face data sets: from hf:NAME or hf:PATH to the tables of its splits, and which columns hold what.

Everything goes through the library `datasets` (the extra [hub]), of a version that runs no code of a data set.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.data.errors import DataError
from siamscope.data.labelling import numbered, text_of
from siamscope.data.source import Indices
from siamscope.data.split_names import SPLITS, val_is_final
from siamscope.data.tables import ArrowTable, ParquetTable, Table

PREFIX = "hf:"
_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^:@]+))?(?:@(?P<revision>[^:@]+))?")
_LABELS = ("label", "labels", "class", "target")


@dataclass(frozen=True)
class Address:
    """Where a data set is: a path here, or a name on the hub with perhaps a configuration and a revision."""

    name: str
    local: bool
    config: str | None = None
    revision: str | None = None

    @property
    def text(self) -> str:
        """As a source."""
        more = (f":{self.config}" if self.config else "") + (f"@{self.revision}" if self.revision else "")
        return PREFIX + self.name + more


def parsed(source: str) -> Address:
    """Read "hf:OWNER/NAME[:CONFIG][@REVISION]" or "hf:PATH"; what is there as a path is one.

    Raises:
        DataError: neither.
    """
    rest = source.removeprefix(PREFIX)
    path = Path(rest).expanduser()
    if rest and path.exists():
        return Address(str(path.absolute()), True)
    found = _NAME.fullmatch(rest)
    if rest.startswith((".", "~", "/")) or not found:
        raise DataError(
            f"{source!r}: there is no folder or file {rest!r}, and a data set on the hub is named "
            "hf:OWNER/NAME[:CONFIG][@REVISION]"
        )
    return Address(found["name"], False, found["config"], found["revision"])


def library() -> Any:
    """The library `datasets`. Raises DataError if it is not installed, or too old."""
    try:
        found: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"Hugging Face data sets need the library datasets: pip install 'siamscope[hub]' ({error})"
        ) from None
    if int(found.__version__.partition(".")[0]) < 4:  # older ones may run a script of the data set
        raise DataError(f"datasets {found.__version__} is too old: pip install --upgrade 'siamscope[hub]'")
    return found


def tables(address: Address, keep: bool) -> tuple[dict[str, Table], list[str]]:
    """The tables of the splits "train" and perhaps "val" and "test", and notes for the user.

    Parquet files here are read as they lie; so are those on the hub unless the images are to be kept (`keep`): then
    the library downloads them first, into its own cache, and finds them there without a network.

    Raises:
        DataError: no such data set, no network, or no training split.
    """
    datasets = library()
    try:
        found = _found(datasets, address, keep)
    except DataError:
        raise
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(f"there is no data set {address.text!r} that can be read: {_first_line(error)}") from error
    except ConnectionError as error:
        raise DataError(
            f"the hub cannot be reached for {address.text!r}, and no copy is here: {_first_line(error)} (a folder on "
            "this machine is named hf:PATH)"
        ) from error
    except Exception as error:  # the library raises nearly anything
        raise DataError(f"{address.text!r} cannot be opened: {type(error).__name__}: {_first_line(error)}") from error
    return _splits(found, address)


def _found(datasets: Any, address: Address, keep: bool) -> dict[str, Table]:
    path = Path(address.name)
    if address.local and path.is_dir() and any((path / f).is_file() for f in ("dataset_dict.json", "state.json")):
        loaded = datasets.load_from_disk(str(path))
        return (
            {n: ArrowTable(d) for n, d in loaded.items()} if hasattr(loaded, "items") else {"train": ArrowTable(loaded)}
        )
    if address.local and path.is_file():
        if path.suffix != ".parquet":
            raise DataError(f"{str(path)!r} is no .parquet file: give the folder of the data set")
        return {"train": ParquetTable([str(path)])}
    builder = datasets.load_dataset_builder(address.name, address.config, revision=address.revision)
    files = builder.config.data_files
    parquet = type(builder).__module__.endswith(".parquet.parquet") and files
    if parquet and (address.local or not keep):
        return {str(split): ParquetTable(part, builder.info.features) for split, part in files.items()}
    loaded = datasets.load_dataset(address.name, address.config, revision=address.revision)
    return {str(split): ArrowTable(part) for split, part in loaded.items()}


def _splits(found: Mapping[str, Table], address: Address) -> tuple[dict[str, Table], list[str]]:
    if len(found) == 1:
        return {"train": next(iter(found.values()))}, []
    known: dict[str, Table] = {}
    others = []
    for name, table in found.items():
        split = SPLITS.get(name.lower())
        if split is None or split in known:
            others.append(name)
        else:
            known[split] = table
    if "train" not in known:
        raise DataError(f"{address.text!r} has the splits {', '.join(found)}, and none for training")
    return val_is_final(known), [f"passed over the splits {', '.join(others)}"] if others else []


def image_column(features: Any, wanted: str) -> str:
    """The column of images: the one asked for, or the only one.

    Raises:
        DataError: it is not there or holds no images, or there is none or more than one.
    """
    from datasets import Image

    shown = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
    if wanted:
        if wanted not in features:
            raise DataError(f"there is no column {wanted!r} (data.image); there are {shown}")
        if not isinstance(features[wanted], Image) and not _holds_bytes(features[wanted]):
            raise DataError(f"the column {wanted!r} (data.image) is {_kind(features[wanted])} and holds no image files")
        return wanted
    images = [str(name) for name, feature in features.items() if isinstance(feature, Image)]
    plain = [str(name) for name, feature in features.items() if isinstance(feature, dict) and "bytes" in feature]
    images = images or plain
    if not images:
        raise DataError(f"no column holds images; there are {shown}")
    if len(images) > 1:
        raise DataError(f"several columns hold images, {', '.join(images)}: choose one with data.image")
    return images[0]


def _holds_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature
    return getattr(feature, "dtype", "") in ("binary", "large_binary")


def label_column(features: Any, wanted: str) -> tuple[str | None, str | None]:
    """The column of labels or None, and a note for the user or None.

    Raises:
        DataError: it was asked for and is not there, or holds neither classes, whole numbers nor texts.
    """
    from datasets import ClassLabel

    if wanted == "none":
        return None, None
    if wanted:
        if wanted not in features:
            raise DataError(f"there is no column {wanted!r} (data.label); there are {', '.join(features)}")
        if not _names_classes(features[wanted]):
            raise DataError(f"the column {wanted!r} (data.label) is {_kind(features[wanted])} and names no classes")
        return wanted, None
    named = [name for name in _LABELS if name in features and _names_classes(features[name])]
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    found = next((name for name in named if name in classes), None)
    if found is None and len(classes) > 1:
        return None, f"no labels: the columns {', '.join(classes)} hold classes; choose one with data.label"
    return found or (classes or named or [None])[0], None


def _names_classes(feature: Any) -> bool:
    kind = str(getattr(feature, "dtype", ""))
    return kind in ("string", "large_string", "bool") or kind.startswith(("int", "uint", "float"))


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def labels(
    found: Mapping[str, Table], column: str | None
) -> tuple[dict[str, Indices | None], tuple[str, ...] | None, list[str]]:
    """Labels of every split or None, names of the classes, and notes. A class of -1 means that it is not known."""
    nothing: dict[str, Indices | None] = dict.fromkeys(found)
    if column is None:
        return nothing, None, []
    for split, table in found.items():
        if column not in table.features:
            raise DataError(f"the split for {split} has no column {column!r}")
    texts = {split: table.values(column) for split, table in found.items()}
    names = getattr(found["train"].features[column], "names", None)
    if names is None:
        return numbered({split: [text_of(value) for value in values] for split, values in texts.items()})
    out, notes = nothing, []
    for split, values in texts.items():
        numbers = np.array([-1 if value is None else value for value in values], np.int64)
        unknown = int(((numbers < 0) | (numbers >= len(names))).sum())
        if not unknown:
            out[split] = numbers
        elif unknown < len(numbers):
            notes.append(f"no labels for {split}: {unknown} of its {len(numbers)} images have none")
    return out, tuple(str(name) for name in names) if any(v is not None for v in out.values()) else None, notes


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
