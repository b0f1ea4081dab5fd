"""The cache of decoded images: used when it fits, rebuilt when it does not, never left broken."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamscope.data import cache, pool, worker
from siamscope.data.config import DataConfig
from siamscope.data.decode import DecodeOptions
from siamscope.data.errors import DataError
from siamscope.data.open import Dataset, open_dataset

Calls = list[tuple[str, int, int]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for value in range(300):
        Image.new("L", (8, 8), value % 256).save(root / f"{value:03d}.png")
    return root


def opened(root: Path, calls: Calls | None = None, **fields: object) -> Dataset:
    progress = (lambda *call: None) if calls is None else (lambda *call: calls.append(call))
    config = DataConfig(source=str(root), size=8, channels=1, cache_dir=str(root.parent / "cache"), **fields)
    return open_dataset(config, progress)


def entries(root: Path) -> list[Path]:
    return sorted(path for path in (root.parent / "cache").iterdir() if path.is_dir())


def values(dataset: Dataset) -> dict[str, int]:
    sources = (dataset.train, dataset.val)
    return {
        name: int(pixel)
        for source in sources
        for name, pixel in zip(source.names, source.read(np.arange(len(source)))[:, 0, 0, 0], strict=True)
    }


def test_second_start_decodes_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    first = opened(photos, calls)
    assert calls[0] == ("decoding images", 0, 300) and calls[-1] == ("decoding images", 300, 300)

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(pool.Decoder, "fill", never)
    second = opened(photos)
    assert second.fingerprint == first.fingerprint
    assert values(second) == values(first) == {f"{v:03d}.png": v % 256 for v in range(300)}
    with pytest.raises(AssertionError, match="decoded again"):
        opened(photos, max_pixels=1000)  # another decoding option is another entry


@pytest.mark.parametrize("change", ["content", "time", "added", "removed", "renamed"])
def test_a_changed_folder_is_decoded_again(photos: Path, change: str) -> None:
    before, old = values(opened(photos)), entries(photos)
    target = photos / "007.png"
    if change == "content":  # same size in bytes, other pixels, other time
        size = target.stat().st_size
        Image.new("L", (8, 8), 200).save(target)
        assert target.stat().st_size == size
    elif change == "time":
        os.utime(target, ns=(0, 10**18))
    elif change == "added":
        shutil.copy2(target, photos / "copy.png")
    elif change == "removed":
        target.unlink()
    else:
        target.rename(photos / "999.png")
    calls: Calls = []
    second = opened(photos, calls)
    assert calls
    assert len(entries(photos)) == 1 and entries(photos) != old  # the old entry is gone
    assert (values(second) == before) == (change == "time")
    if change == "content":
        assert values(second)["007.png"] == 200


def test_same_listing_elsewhere_is_another_entry(photos: Path) -> None:
    """Archives often give every file one time, and bitmaps have one size: names alone must not decide."""
    twin = photos.parent / "twin"
    twin.mkdir()
    for path in photos.iterdir():
        Image.new("L", (8, 8), 77).save(twin / path.name, "bmp")
        Image.new("L", (8, 8), 11).save(path, "bmp")
        for file in (path, twin / path.name):
            os.utime(file, ns=(0, 0))
    assert set(values(opened(photos)).values()) == {11}
    assert set(values(opened(twin)).values()) == {77}
    assert set(values(opened(photos)).values()) == {11}


def test_processes_give_what_one_process_gives(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "100.png").write_text("damaged")
    alone = opened(photos, workers=1)
    shutil.rmtree(photos.parent / "cache")
    monkeypatch.setattr(pool, "_WORTH_A_PROCESS", 0)
    monkeypatch.setattr(pool, "written_rows", None)  # nothing may be decoded in this process
    shared = opened(photos, workers=3)
    assert shared.fingerprint == alone.fingerprint and shared.rejected == alone.rejected
    assert values(shared) == values(alone)
    assert not list((photos.parent / "cache").glob("*/*.log"))


def test_workers_do_not_import_torch() -> None:
    code = "import sys, siamscope.data.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("harm", "message"),
    [("os.kill(os.getpid(), 9)", "killed.*memory"), ("os._exit(3)", "code 3"), ("raise RuntimeError('odd')", "odd")],
)
def test_death_of_a_process_is_an_error_not_a_hang(
    photos: Path, monkeypatch: pytest.MonkeyPatch, harm: str, message: str
) -> None:
    shim = photos.parent / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'siamscope.data.worker' in sys.orig_argv:\n"
        "    import os, siamscope.data.decode as d\n"
        "    plain = d.decode\n"
        "    def decode(path, options):\n"
        f"        if path.endswith('200.png'): {harm}\n"
        "        return plain(path, options)\n"
        "    d.decode = decode\n"
    )
    monkeypatch.setattr(sys, "path", [str(shim), *sys.path])
    monkeypatch.setattr(pool, "_WORTH_A_PROCESS", 0)
    with pytest.raises(DataError, match=f"{message}.*'128.png' to '255.png'"):
        opened(photos, workers=2)
    assert entries(photos) == []


@pytest.mark.parametrize("damage", ["index", "text", "version", "short", "gone", "other", "card"])
def test_damaged_entry_is_repaired(photos: Path, damage: str) -> None:
    expected = values(opened(photos))
    entry = entries(photos)[0]
    index, pixels = entry / "index.json", entry / "00000.u8"
    if damage == "index":
        index.unlink()
    elif damage == "text":
        index.write_text("[1, 2")
    elif damage == "version":
        index.write_text(index.read_text().replace('"version": 2', '"version": 1'))
    elif damage == "short":
        os.truncate(pixels, 100)
    elif damage == "gone":
        pixels.unlink()
    elif damage == "other":  # the same size, other pixels: found by the time, then by the hash
        pixels.write_bytes(bytes(pixels.stat().st_size))
    else:
        pixels.touch()
        (entry / "00000.json").unlink()
    calls: Calls = []
    assert values(opened(photos, calls)) == expected
    assert bool(calls) == (damage in ("short", "gone", "other", "card"))  # whole shards are not decoded again
    assert opened(photos, calls := []) and not calls


def test_a_copied_cache_is_compared_and_used(photos: Path) -> None:
    expected = values(opened(photos))
    os.utime(entries(photos)[0] / "00000.u8", ns=(0, 10**18))
    calls: Calls = []
    assert values(opened(photos, calls)) == expected and not calls


def test_keyboard_interrupt_leaves_nothing(photos: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    config = DataConfig(source=str(photos), size=8, channels=1, cache_dir=str(photos.parent / "cache"))
    with pytest.raises(KeyboardInterrupt):
        open_dataset(config, interrupt)
    assert entries(photos) == []
    assert len(values(opened(photos))) == 300


def test_interrupt_signal_with_processes(photos: Path) -> None:
    """Ctrl-C reaches the parent and its workers together."""
    code = (
        "import signal, sys; from siamscope.data import pool, open_dataset, DataConfig\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "pool._WORTH_A_PROCESS = 0\n"
        "def show(what, done, total): print('go', flush=True)\n"
        "open_dataset(DataConfig(source=sys.argv[1], cache_dir=sys.argv[2], size=2048, workers=2), show)\n"
    )
    command = [sys.executable, "-c", code, str(photos), str(photos.parent / "cache")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "go\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == -signal.SIGINT
    assert entries(photos) == []


def test_what_a_killed_process_left_is_swept(photos: Path) -> None:
    opened(photos)
    entry = entries(photos)[0]
    shutil.rmtree(entry)
    entry.mkdir()
    for name in ("00000.12ab34cd.partial", "00000.lock", "images.u8"):  # the last: of an earlier version
        (entry / name).write_bytes(b"half")
    entry.with_name(entry.name[:-1] + "x").mkdir()
    opened(photos)
    assert entries(photos) == [entry]
    assert sorted(path.name for path in entry.iterdir()) == ["00000.json", "00000.u8", "index.json"]


def test_no_space_left(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "disk_usage", lambda _: usage(1, 1, 100))
        with pytest.raises(DataError, match=r"no space left.*SIAMSCOPE_CACHE"):
            opened(photos)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pool, "written_rows", full)
    with pytest.raises(DataError, match=r"no space left.*cache_dir"):
        opened(photos)
    assert entries(photos) == []


def test_an_error_while_a_process_writes_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_WORTH_A_PROCESS", 0)
    files = pool.Files(tmp_path, [f"{i}.png" for i in range(200)], [1] * 200, [1] * 200)
    with pool.Decoder(files, DecodeOptions(8, 1), 2) as decoder, pytest.raises(FileNotFoundError):
        decoder.fill(cache.Part(tmp_path / "gone.u8", 0, 200, 0))


def test_cache_folder_that_cannot_be_written(photos: Path) -> None:
    (photos.parent / "cache").write_text("a file, not a folder")
    with pytest.raises(DataError, match=r"cannot write.*cache_dir"):
        opened(photos)


def test_a_passing_reason_is_tried_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = worker.decode

    def refuse(path: str, options: object) -> object:
        if path.endswith("005.png"):
            raise worker.Unusable("cannot be read: Permission denied", passing=True)
        return plain(path, options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(worker, "decode", refuse)
        assert [item.path for item in opened(photos).rejected] == ["005.png"]
    assert opened(photos).rejected == []  # the file has not changed, but it can be read now


def _open_and_report(root: str, out: "multiprocessing.SimpleQueue[str]") -> None:
    calls: Calls = []
    dataset = opened(Path(root), calls)
    out.put(f"{dataset.fingerprint} {'decoding' in str(calls)}")


def test_two_processes_at_once(photos: Path) -> None:
    """One decodes, the other waits for it; both get the whole."""
    context = multiprocessing.get_context("spawn")
    out = context.SimpleQueue()
    processes = [context.Process(target=_open_and_report, args=(str(photos), out)) for _ in range(2)]
    for process in processes:
        process.start()
    answers = sorted(out.get().split() for _ in processes)
    for process in processes:
        process.join()
    assert answers[0][0] == answers[1][0]
    assert sorted(answer[1] for answer in answers) == ["False", "True"]


def test_waiting_is_announced(tmp_path: Path) -> None:
    shape, events = (2, 1, 8, 8), []
    started, go_on = threading.Event(), threading.Event()

    def fill(part: cache.Part) -> cache.Written:
        started.set()
        go_on.wait(10)
        part.file.write_bytes(bytes([7]) * 128)
        return cache.Written(["hash"], {1: "why"})

    def never(part: cache.Part) -> cache.Written:
        raise AssertionError("built twice")

    def waits() -> None:
        events.append("waits")
        go_on.set()

    first = threading.Thread(target=cache.open_or_build, args=(tmp_path, "g", "k", shape, fill, lambda: None))
    first.start()
    started.wait(10)
    entry = cache.open_or_build(tmp_path, "g", "k", shape, never, waits)
    first.join()
    assert events == ["waits"] and entry.rejected == {1: "why"}
    assert (entry.rows.read(np.arange(2)) == 7).all()


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIAMSCOPE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_root(str(tmp_path / "given")) == tmp_path / "given"
    assert cache.cache_root() == tmp_path / "own"
    monkeypatch.delenv("SIAMSCOPE_CACHE")
    assert cache.cache_root() == tmp_path / "xdg" / "siamscope"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache.cache_root() == tmp_path / ".cache" / "siamscope"


def test_an_open_entry_outlives_its_files(photos: Path) -> None:
    dataset = opened(photos)
    before = values(dataset)
    shutil.rmtree(photos.parent / "cache")
    assert values(dataset) == before
