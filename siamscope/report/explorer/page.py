"""The explorer: one HTML page that holds its own style, script and texts, so that it needs no network and no server."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from siamscope.files import write_atomically
from siamscope.report.errors import ReportError

SCRIPTS = ("solver.js", "model.js", "basin.js", "plot.js", "portrait.js", "course.js", "controls.js", "app.js")
"""In the order in which they need one another; the first three know no page and run alone, in node for instance."""


def source(name: str) -> str:
    """The text of one of the page's files."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def presets() -> dict[str, Any]:
    """The page's questions: {"modes": [sigma2, ...], "presets": [...]}, each with the claim that its text makes."""
    found: dict[str, Any] = json.loads(source("presets.json"))
    return found


def page() -> str:
    """The whole page."""
    script = "\n".join(source(name) for name in SCRIPTS)
    data = json.dumps(presets(), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"/*STYLE*/": source("style.css"), "/*PRESETS*/": data, "/*SCRIPT*/": script}
    text = source("page.html")
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


def write(out: Path) -> Path:
    """Write the page to `out`, or to dynamics.html in it if it is a folder; whole or not at all. Returns its path.

    Raises:
        ReportError: the file cannot be written.
    """
    target = out / "dynamics.html" if out.is_dir() else out
    text = page()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, lambda stream: stream.write(text.encode("utf-8")))
    except OSError as error:
        raise ReportError(f"Cannot write {target}: {error.strerror}. Choose another place with --out.") from error
    return target
