"""From labels as data sets hold them to numbers 0 .. K - 1 and the names of the classes."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from siamscope.data.source import Indices

_WHOLE = re.compile(r"-?\d{1,18}")

Texts = Sequence[str | None]
"""The class of each image as a text, or None for one without."""


def text_of(value: object) -> str | None:
    """A label as a text: a whole number (also 3.0), a truth value or a text. None for what names no class: nothing,
    an empty text, NaN, a fraction, a list."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None  # neither NaN nor infinity is
    return value.strip() or None if isinstance(value, str) else None


def numbered(texts: Mapping[str, Texts]) -> tuple[dict[str, Indices | None], tuple[str, ...] | None, list[str]]:
    """Labels int64 (N,) of every split, the class names, and notes for the user.

    A split has labels if all its images have, and if all splits together have at least two classes. Classes are sorted
    as numbers if all are whole numbers, otherwise as texts.
    """
    notes = []
    whole: dict[str, Texts] = {}
    for split, values in texts.items():
        lacking = sum(value is None for value in values)
        if not lacking:
            whole[split] = values
        elif lacking < len(values):
            notes.append(f"no labels for {split}: {lacking} of its {len(values)} images have none")
    found = {value for values in whole.values() for value in values if value is not None}
    if len(found) < 2:
        return dict.fromkeys(texts), None, notes
    numbers = all(_WHOLE.fullmatch(value) for value in found)
    names = sorted(found, key=lambda value: (int(value), value)) if numbers else sorted(found)
    place: dict[str | None, int] = {name: k for k, name in enumerate(names)}
    labels = {
        split: np.fromiter(map(place.__getitem__, whole[split]), np.int64, len(texts[split]))
        if split in whole
        else None
        for split in texts
    }
    return labels, tuple(names), notes
