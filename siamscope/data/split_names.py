"""What a split is called, and which one is kept for the end: one rule for every kind of source."""

from typing import TypeVar

SPLITS = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
}  # fmt: skip
FOLDER_SPLITS = {name: split for name, split in SPLITS.items() if name != "dev"}
"""Of folders of images: a dev/ beside train/ was never read, and a known data set must not change its test images."""

_Part = TypeVar("_Part")


def val_is_final(found: dict[str, _Part]) -> dict[str, _Part]:
    """The splits by name; val without test becomes test: what is given and not asked for belongs to the end."""
    if "val" in found and "test" not in found:
        return {"test" if name == "val" else name: part for name, part in found.items()}
    return found
