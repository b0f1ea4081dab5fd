"""Run directories and parsed pages for the report's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from report_pages import MAKERS, Page


@pytest.fixture(scope="session")
def page() -> Callable[[Path], Page]:
    return lambda path: Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def run_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run directory of each kind; tests read them only."""
    root = tmp_path_factory.mktemp("runs")
    return {name: make(root / name) for name, make in MAKERS.items()}
