"""Hugging Face data sets: addresses, and what may be wrong with a library, a name, a file or a row."""

import sys
import threading
from pathlib import Path

import pytest
from hub_sets import needed, opened, parquet, table
from images import noise
from PIL import Image

from siamscope.data import hub
from siamscope.data.errors import DataError

pytestmark = pytest.mark.usefixtures("at_home")


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'siamscope\[hub\]'"):
        opened("hf:owner/name", tmp_path)


def test_a_library_that_may_run_scripts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "3.6.0"

    monkeypatch.setattr("siamscope.data.hub.importlib.import_module", lambda name: Old)
    with pytest.raises(DataError, match=r"datasets 3.6.0 is too old"):
        opened("hf:owner/name", tmp_path)


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("hf:cifar10", ("cifar10", None, None)),
        ("hf:frgfm/imagenette", ("frgfm/imagenette", None, None)),
        ("hf:frgfm/imagenette:160px", ("frgfm/imagenette", "160px", None)),
        ("hf:a/b.c:d e@refs/convert/parquet", ("a/b.c", "d e", "refs/convert/parquet")),
        ("hf:a/b@main", ("a/b", None, "main")),
    ],
)
def test_addresses(source: str, address: tuple[str, str | None, str | None]) -> None:
    found = hub.parsed(source)
    assert (found.name, found.config, found.revision) == address and not found.local and found.text == source


@pytest.mark.parametrize("source", ["hf:", "hf:./nothing", "hf:/no/such/folder", "hf:a/b/c", "hf:a b"])
def test_addresses_that_are_none(source: str) -> None:
    with pytest.raises(DataError, match="there is no folder or file"):
        hub.parsed(source)


def test_a_folder_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.parsed("hf:owner/name") == hub.Address(str(tmp_path / "owner" / "name"), True)


@needed
def test_names_that_are_not_there_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unknown(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.")

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'a/b' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset_builder", unknown)
    with pytest.raises(DataError, match=r"there is no data set 'hf:a/b' that can be read: .*doesn't exist"):
        opened("hf:a/b", tmp_path)
    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(DataError, match=r"the hub cannot be reached for 'hf:a/b', and no copy is here"):
        opened("hf:a/b", tmp_path)


@needed
def test_folders_that_are_no_data_set(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        opened(f"hf:{tmp_path}/empty", tmp_path)
    (tmp_path / "text.txt").write_text("no data")
    with pytest.raises(DataError, match=r"is no .parquet file"):
        opened(f"hf:{tmp_path}/text.txt", tmp_path)
    (file,) = (folder / "data").glob("test-*")
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PAR1" + bytes(100)):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"test-00000-of-00001.parquet' cannot be read"):
            opened(f"hf:{folder}", tmp_path)
    parquet(tmp_path / "none", {"train": table(range(20)), "test": table(range(0))})
    with pytest.raises(DataError, match=r"the split for test of .* is empty"):
        opened(f"hf:{tmp_path}/none", tmp_path)


@needed
def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    wrong = {1: b"no image", 2: None, 5: noise(5, 300), 6: b""}
    parquet(tmp_path / "set", {"train": table(range(20), wrong)})
    found = opened(f"hf:{tmp_path}/set", tmp_path, max_pixels=10_000)
    assert len(found.train) + len(found.val) == 16 and "4 images were set aside" in str(found.hint)
    reasons = {item.path: item.reason for item in found.rejected}
    assert reasons["train/2"] == "the row holds no image" and "not an image" in reasons["train/1"]
    assert "more than max_pixels" in reasons["train/5"] and "not an image" in reasons["train/6"]
    with pytest.raises(DataError, match="leave out --strict"):
        opened(f"hf:{tmp_path}/set", tmp_path, max_pixels=10_000, strict=True)
    with pytest.raises(DataError, match="none of the 20 images"):
        opened(f"hf:{tmp_path}/set", tmp_path, max_pixels=10)


@needed
def test_parquet_that_names_files_instead_of_holding_images(tmp_path: Path) -> None:
    """A data set from elsewhere must not pick files of this machine."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    (tmp_path / "mine.jpg").write_bytes(noise(1))
    rows = [{"bytes": noise(k) if k else None, "path": str(tmp_path / "mine.jpg")} for k in range(8)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "x.parquet")
    found = opened(f"hf:{tmp_path}/x.parquet", tmp_path)
    assert [(item.path, item.reason) for item in found.rejected] == [("train/0", "the row holds no image")]


def test_pillows_limit_stays_as_it_was_while_threads_decode() -> None:
    from siamscope.data.decode import DecodeOptions
    from siamscope.data.decoding import decoded

    before = Image.MAX_IMAGE_PIXELS
    assert before
    images = [noise(k) for k in range(60)]
    threads = [threading.Thread(target=decoded, args=(images, DecodeOptions(16, 3))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS
