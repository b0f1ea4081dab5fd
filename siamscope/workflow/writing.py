"""What the commands that draw have in common: what they say, and as JSON."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamscope.report.errors import ReportError
from siamscope.workflow.answer import Answer


def check_folder(folder: Path) -> None:
    """Fail now and not after computing: make the folder, try a file in it, and leave all as it was.

    Raises:
        ReportError: nothing can be written there.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        why = getattr(error, "strerror", error)
        raise ReportError(f"Cannot write {folder}: {why}. Choose another place.") from error
    finally:
        for place in made:
            with contextlib.suppress(OSError, ValueError):
                place.rmdir()


def told(lines: Sequence[str], paths: Sequence[Path], facts: dict[str, Any], as_json: bool) -> Answer:
    """The lines and the paths as text, or the facts and the paths as JSON; numbers that are not finite are null."""
    if as_json:
        return Answer(json.dumps(_plain(facts | {"files": [str(path) for path in paths]}), allow_nan=False))
    names = ", ".join(path.name for path in paths)
    return Answer("\n".join([*lines, f"wrote {paths[0].parent}: {names}"]))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
