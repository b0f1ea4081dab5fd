"""The page of the gradients of methods side by side, drawn from gradients.csv and cosines.csv."""

from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> Path:
    return folder / "gradients.html"
