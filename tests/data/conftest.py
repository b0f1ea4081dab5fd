"""Fixtures of the tests of Hugging Face data sets."""

import importlib.util
from pathlib import Path

import pytest
from hub_sets import parquet, table


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library writes nothing outside the test's folder, shows no bars, and asks nobody."""
    if importlib.util.find_spec("datasets") is not None:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 training images (rows 0 .. 59) in two Parquet files, and 12 test images."""
    return parquet(
        tmp_path / "set", {"train-0": table(range(36)), "train-1": table(range(36, 60)), "test": table(range(100, 112))}
    )
