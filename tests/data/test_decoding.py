"""Images that are decoded as they are read: the same as from the cache, by processes, without shared memory."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamscope.data import open_folder, pool
from siamscope.data import processes as processes_module
from siamscope.data.config import DataConfig
from siamscope.data.decode import DecodeOptions
from siamscope.data.errors import DataError
from siamscope.data.folder import list_images
from siamscope.data.loader import Loader
from siamscope.data.open import Dataset, help_decode, open_dataset
from siamscope.data.order import IidOrder
from siamscope.data.pool import DecodedRows, Decoder, Files
from siamscope.data.processes import Processes, Reply
from siamscope.training.checkpoint import FREE_FIELDS

OPTIONS = DecodeOptions(16, 3)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    for number in range(60):
        image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        image.save(root / "ab"[number % 2] / f"{number:02d}.{('jpg', 'png')[number % 3 > 0]}")
    (root / "a" / "30.jpg").write_text("damaged")
    return root


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "photos")


def opened(root: Path, progress: object = None, **fields: object) -> Dataset:
    config = DataConfig(source=str(root), size=16, cache_dir=str(root.parent / "cache"), **fields)
    return open_dataset(config, *([progress] if progress else []))


def batches(dataset: Dataset) -> Iterator[tuple[bytes, list[int]]]:
    with Loader(dataset.train, IidOrder(len(dataset.train), 16, 3), device_resident=False) as loader:
        for images, indices in loader.batches(2, 9):
            yield images.numpy().tobytes(), indices.tolist()


def test_the_same_batches_with_and_without_a_cache(photos: Path) -> None:
    kept, decoded = opened(photos), opened(photos, cache="none", workers=2)
    assert list((photos.parent / "cache").glob("*/*.u8"))  # of the first
    assert decoded.fingerprint == kept.fingerprint and decoded.rejected == kept.rejected
    assert [item.path for item in kept.rejected] == ["a/30.jpg"]
    assert list(decoded.train.names) == list(kept.train.names)
    assert list(batches(decoded)) == list(batches(kept))
    other = opened(photos, cache="none", seed=1)
    assert list(batches(other)) != list(batches(kept))
    assert "data.cache" in FREE_FIELDS  # so a run may be resumed either way


def test_no_pixels_reach_the_disk_and_the_second_start_looks_into_nothing(photos: Path) -> None:
    calls: list[int] = []
    opened(photos, lambda what, done, total: calls.append(done), cache="none")
    assert calls[-1] == 60
    calls.clear()
    opened(photos, lambda what, done, total: calls.append(done), cache="none")
    assert not calls
    cache = [path for path in (photos.parent / "cache").rglob("*") if path.is_file()]
    assert cache and sum(path.stat().st_size for path in cache) < 2000 < 60 * 16 * 16 * 3


def test_a_file_that_changes_after_the_start_is_an_error(photos: Path) -> None:
    dataset = opened(photos, cache="none")
    Image.new("RGB", (20, 24)).save(photos / "a" / "02.png")
    where = list(dataset.train.names).index("a/02.png")
    with pytest.raises(DataError, match=r"a/02\.png.*could be decoded at the start.*changed.*resume"):
        dataset.train.read(np.array([where]))
    (photos / "a" / "02.png").unlink()
    with pytest.raises(DataError, match=r"a/02\.png.*No such file"):
        dataset.train.read(np.array([0, where]))


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_a_file_that_changes_while_the_folder_is_decoded_is_set_aside(
    photos: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    plain = open_folder.list_images

    def list_and_change(root: Path) -> object:
        listing = plain(root)
        Image.new("RGB", (20, 24)).save(photos / "a" / "02.png")
        (photos / "b" / "01.png").unlink()
        return listing

    with monkeypatch.context() as patch:
        patch.setattr(open_folder, "list_images", list_and_change)
        found = {item.path: item.reason for item in opened(photos, cache=cache).rejected}
    assert sorted(found) == ["a/02.png", "a/30.jpg", "b/01.png"]
    assert "changed after" in found["a/02.png"] and "No such file" in found["b/01.png"]
    assert [item.path for item in opened(photos, cache=cache).rejected] == ["a/30.jpg"]  # as the folder is now


def test_parts_of_files(photos: Path, tmp_path: Path) -> None:
    """As the members of a tar: the same pixels as from files of their own."""
    listing = list_images(photos / "b")
    contents = [(photos / "b" / path).read_bytes() for path in listing.paths]
    starts = np.cumsum([100, *map(len, contents)]).tolist()
    (tmp_path / "all").write_bytes(bytes(100) + b"".join(contents))
    status = (tmp_path / "all").stat()
    count = len(contents)
    spans = [(start, len(content)) for start, content in zip(starts, contents, strict=False)]
    files = Files(tmp_path, ["all"] * count, [status.st_size] * count, [status.st_mtime_ns] * count, spans)
    rows = np.random.default_rng(0).permutation(count)
    with Decoder(files, OPTIONS, 2) as parts, Decoder(listing.files(), OPTIONS, 1) as whole:
        np.testing.assert_array_equal(parts.read(rows), whole.read(rows))
        os.utime(tmp_path / "all", ns=(0, 0))
        with pytest.raises(DataError, match="changed"):
            parts.read(rows)


def _processes(rows: DecodedRows) -> list[int]:
    processes = rows._decoder._processes
    return [process.pid for process in processes._processes] if processes else []


def test_a_killed_worker_is_an_error_and_not_a_hang(photos: Path) -> None:
    images = DecodedRows(Decoder(list_images(photos / "b").files(), OPTIONS, 2))
    expected = images.read(np.arange(20))
    for pid in _processes(images):
        os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(DataError, match=r"killed, probably because the memory ran out.*data\.workers"):
            images.read(np.arange(20))
    images._decoder.close()
    np.testing.assert_array_equal(images.read(np.arange(20)), expected)
    with pytest.raises(IndexError):
        images.read(np.array([30]))


def test_processes_end_with_the_images(photos: Path) -> None:
    images = DecodedRows(Decoder(list_images(photos / "b").files(), OPTIONS, 2))
    images.read(np.arange(20))
    pids = _processes(images)
    assert len(pids) == 2 and all(Path(f"/proc/{pid}").exists() for pid in pids)
    del images
    gc.collect()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_task_after_the_end_fails_at_once(photos: Path) -> None:
    files = list_images(photos / "b").files()
    job = {"root": str(files.root), "options": asdict(OPTIONS)}
    processes = Processes(2, job)
    assert processes.submit(files.task([0], pixels=True), memoryview(bytearray(16 * 16 * 3))).result(60)
    processes.close()
    for _ in range(2):
        with pytest.raises(DataError, match="the decoding processes were ended"):
            processes.submit(files.task([0], pixels=True)).result(10)
    processes.close()


def test_tasks_beside_the_end_are_all_answered(photos: Path) -> None:
    """None is queued behind what ends the threads, whatever the moment."""
    files = list_images(photos / "b").files()
    processes = Processes(2, {"root": str(files.root), "options": asdict(OPTIONS)})
    futures: list[Future[Reply]] = []
    first, ended = threading.Event(), threading.Event()

    def submit() -> None:
        while len(futures) < 50 or not ended.is_set():
            futures.append(processes.submit(files.task([0], file=None, at=0, pixels=False)))
            first.set()
        futures.append(processes.submit(files.task([0], file=None, at=0, pixels=False)))

    thread = threading.Thread(target=submit)
    thread.start()
    assert first.wait(60)
    processes.close()
    ended.set()
    thread.join(60)
    assert all(isinstance(future.exception(10), DataError | None) for future in futures)
    assert futures[-1].exception(10) is not None


def test_a_reply_that_makes_no_sense_leaves_nobody_waiting(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys\nfor line in sys.stdin: print(7, flush=True)"
    plain = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: plain([sys.executable, "-c", code], **more))
    files = list_images(photos / "b").files()
    monkeypatch.setattr(processes_module, "_PATIENCE", 0.1)
    with Processes(1, {}) as processes:
        for _ in range(2):
            with pytest.raises(DataError, match="a decoding process"):
                processes.submit(files.task([0], pixels=True), memoryview(bytearray(768))).result(30)


def shared(pid: int | str) -> list[str]:
    """What a process has mapped or open below /dev/shm."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    opened = [str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()]
    return [name for name in (*maps, *opened) if "/dev/shm" in name]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory to look at")
def test_no_shared_memory_is_used(photos: Path) -> None:
    """Pixels come through pipes, so that a container's 64 MB of /dev/shm do not matter."""
    before = shared("self")
    dataset = opened(photos, cache="none", workers=2)
    with Loader(dataset.train, IidOrder(len(dataset.train), 16, 3), device_resident=False) as loader:
        batches = loader.batches(0)
        next(batches)
        pids = _processes(dataset.train.source.source.images)
        assert len(pids) == 2
        assert shared("self") == before and not any(map(shared, pids))
    block = SharedMemory(create=True, size=100)  # and it would be seen
    try:
        assert shared("self") != before
    finally:
        block.close()
        block.unlink()


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "usable_cores", lambda: 16)
    assert (pool.worker_count(0), pool.worker_count(3)) == (16, 3)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (pool.worker_count(0), pool.worker_count(3)) == (4, 1)


def test_who_helps_leaves_nothing_to_decode(photos: Path) -> None:
    config = DataConfig(source=str(photos), size=16, cache_dir=str(photos.parent / "cache"))
    help_decode(config)
    calls: list[int] = []
    opened(photos, lambda what, done, total: calls.append(done))
    assert not calls
    help_decode(DataConfig(source=str(photos / "gone")))  # what is wrong is not for the helper to say


def test_a_build_that_was_killed_goes_on(photos: Path) -> None:
    """kill -9 of the whole program, workers and all; the next start keeps the whole shards."""
    code = (
        "import sys; from siamscope.data import pool, shards, open_dataset, DataConfig\n"
        "pool._WORTH_A_PROCESS, pool._CHUNK_ROWS, shards._BYTES = 0, 5, 10 * 16 * 16 * 3\n"
        "def show(what, done, total): print(done, flush=True)\n"
        "open_dataset(DataConfig(source=sys.argv[1], cache_dir=sys.argv[2], size=16, workers=2), show)\n"
    )
    command = [sys.executable, "-c", code, str(photos), str(photos.parent / "cache")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    with process.stdout:
        while int(process.stdout.readline()) <= 20:  # the shards of the first 20 are whole
            pass
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert int(first[0]) >= 20 and int(first[-1]) == 60
    assert list(batches(opened(photos))) == list(batches(opened(photos, cache="none")))


def test_arrays_that_do_not_fit_need_the_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2000, 28, 28), np.uint8))
    config = DataConfig(source=str(tmp_path / "a.npy"), size=28, cache="none", memory_budget_mb=1)
    with pytest.raises(DataError, match=r"data\.cache = disk"):
        open_dataset(config)
    with pytest.raises(DataError, match="cache must be disk or none; got 'non'; did you mean 'none'"):
        DataConfig(cache="non")  # type: ignore[arg-type]
