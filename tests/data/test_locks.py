"""Locks between processes: an entry of the cache stays for as long as somebody reads it."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from siamscope.data import cache, locks, rows, shards
from siamscope.data.cache import Entry, Part, Written, open_or_build

fcntl = pytest.importorskip("fcntl", reason="no locks on this system")
SHAPE = (40, 1, 4, 4)
PIXELS = np.arange(40 * 16, dtype=np.uint8).reshape(SHAPE)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_BYTES", 64)  # four rows: ten shards


def fill(part: Part) -> Written:
    assert part.file is not None
    part.file.write_bytes(PIXELS[part.first : part.stop].tobytes())
    return Written([str(part.first)], {})


def built(root: Path, key: str) -> Entry:
    return open_or_build(root, "g", key, SHAPE, fill, lambda: None)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


READER = """
import sys
from pathlib import Path
import numpy as np
from siamscope.data import rows, shards
from siamscope.data.cache import open_or_build
shards._BYTES, rows._MOST_OPEN = 64, 1
entry = open_or_build(Path(sys.argv[1]), "g", "old", (40, 1, 4, 4), None, None)
for line in sys.stdin:
    print(int(entry.rows.read(np.arange(40)).sum()), flush=True)
"""


def test_an_entry_stays_while_another_process_reads_it(tmp_path: Path) -> None:
    """It opens files again, more than it may keep open. With the process, however it ends, its lock goes."""
    built(tmp_path, "old")
    command = [sys.executable, "-c", READER, str(tmp_path)]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert reader.stdin is not None and reader.stdout is not None
    with reader.stdin, reader.stdout:
        for key in ("new", "newer"):
            print(file=reader.stdin, flush=True)
            assert int(reader.stdout.readline()) == PIXELS.sum()
            built(tmp_path, key)
            assert names(tmp_path) == ["g-" + key, "g-old", "g.lock", f"in-use-g-{key}.lock", "in-use-g-old.lock"]
        print(file=reader.stdin, flush=True)
        assert int(reader.stdout.readline()) == PIXELS.sum()
        reader.send_signal(signal.SIGKILL)
        reader.wait()
    built(tmp_path, "last")
    assert names(tmp_path) == ["g-last", "g.lock", "in-use-g-last.lock"]


def test_an_entry_stays_for_as_long_as_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether this process has written it or only opened it."""
    monkeypatch.setattr(rows, "_MOST_OPEN", 1)
    for key in ("new", "newer"):
        images = built(tmp_path, "old").rows
        built(tmp_path, key)
        np.testing.assert_array_equal(images.read(np.arange(40)), PIXELS)
    del images
    built(tmp_path, "newest")
    assert names(tmp_path) == ["g-newest", "g.lock", "in-use-g-newest.lock"]


def test_who_waited_for_an_entry_that_goes_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock is then on a file that is no more."""
    built(tmp_path, "old")
    found: list[Entry] = []
    opener = threading.Thread(target=lambda: found.append(built(tmp_path, "old")))
    asked = threading.Event()
    plain = locks._opened

    def noted(path: Path) -> int:
        descriptor = plain(path)
        asked.set()
        return descriptor

    removing = cache.removed

    def slowly(path: Path) -> None:
        if path.name == "index.json" and not asked.is_set():
            opener.start()
            assert asked.wait(10)  # it has the lock's file open, and waits
        removing(path)

    with monkeypatch.context() as patch:
        patch.setattr(locks, "_opened", noted)
        patch.setattr(cache, "removed", slowly)
        cache._remove_unused(tmp_path / "g-old")
        opener.join(10)
    np.testing.assert_array_equal(found[0].rows.read(np.arange(40)), PIXELS)
    built(tmp_path, "new")
    assert "g-old" in names(tmp_path)


def test_a_held_lock_is_one_on_the_file_that_is_there(tmp_path: Path) -> None:
    path, found = tmp_path / "lock", []
    waiter = threading.Thread(target=lambda: found.append(locks.held(path)))
    with locks.claimed(path) as mine:
        assert mine
        first = path.stat()
        waiter.start()
        waiter.join(0.1)
        assert waiter.is_alive()
        path.rename(tmp_path / "elsewhere")  # as if removed, without its number being given to another file
    waiter.join(10)
    assert found[0] is not None and not os.path.samestat(first, path.stat())
    assert os.path.samestat(os.fstat(found[0].descriptor), path.stat())
    with locks.claimed(path) as mine:
        assert not mine
    found.clear()
    with locks.claimed(path) as mine:
        assert mine
    assert locks.held(tmp_path / "none" / "lock") is None


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is open is read on; nobody can know of it, so the old entry goes."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    images = built(tmp_path, "old").rows
    built(tmp_path, "new")
    assert names(tmp_path) == ["g-new", "g.lock", "in-use-g-new.lock"]
    np.testing.assert_array_equal(images.read(np.arange(40)), PIXELS)


def test_a_network_disk_wants_files_open_for_what_they_are_locked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS refuses a shared lock on a file that is open for writing only, and one alone on one for reading only."""
    plain = fcntl.flock

    def checked(descriptor: int, kind: int) -> None:
        unfit = os.O_RDONLY if kind & fcntl.LOCK_EX else os.O_WRONLY
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == unfit:
            raise OSError(errno.EBADF, "Bad file descriptor")
        plain(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", checked)
    held = built(tmp_path, "old").rows
    built(tmp_path, "new")
    assert "g-old" in names(tmp_path)
    del held
    built(tmp_path, "newer")
    assert names(tmp_path) == ["g-newer", "g.lock", "in-use-g-newer.lock"]
