"""`siamscope dynamics explore`: the explorer page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from siamscope.report import explorer
from siamscope.workflow.answer import Answer


@dataclass(frozen=True)
class Options:
    """One self-contained page on which sliders redraw the portrait, the basins, the trajectory and the verdict."""

    out: Path = Path("dynamics.html")
    """The page; a folder takes dynamics.html."""


def run(options: Options) -> Answer:
    path = explorer.write(options.out)
    return Answer(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB): open it in a browser")
