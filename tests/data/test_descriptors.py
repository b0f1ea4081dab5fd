"""A process that may open few files reads a large cache, and says so when it may open none."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from siamscope.data import locks, shards

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such limit")

SETUP = """
import os, resource, sys
from pathlib import Path
import numpy as np
from siamscope.data import rows, shards
from siamscope.data.cache import Written, open_or_build
from siamscope.data.errors import DataError

SHAPE, SHARDS = (200, 1, 4, 4), 100
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
shards._BYTES = 2 * 16
filled = []

def fill(part):
    filled.append(part.first)
    part.file.write_bytes(PIXELS[part.first : part.stop].tobytes())
    return Written(["x"] * (part.stop - part.first), {})

def opened():
    filled.clear()
    return open_or_build(Path(sys.argv[1]), "g", "k", SHAPE, fill, print)

def check(entry):
    order = np.random.default_rng(1).permutation(200)
    assert np.array_equal(entry.rows.read(order), PIXELS[order])

def count():
    return len(os.listdir("/dev/fd"))

def use_up():
    taken = []
    while True:
        try:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return taken

opened()
assert len(filled) == SHARDS
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
"""


def last_line(root: Path, code: str) -> str:
    """What a process with a limit of 64 descriptors prints, on a cache of 100 shards."""
    command = [sys.executable, "-c", SETUP + code, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_cache_of_more_files_than_may_be_open(tmp_path: Path) -> None:
    """With room left for others, and nothing is prepared anew."""
    code = (
        "before = count()\n"
        "entries = [opened() for _ in range(3)]\n"
        "assert not filled\n"
        "[check(entry) for entry in entries]\n"
        "print(count() - before, len(entries[0].rows._open))"
    )
    taken, kept = map(int, last_line(tmp_path, code).split())
    assert kept == 16
    assert taken <= 3 * (kept + 1)  # and a lock each


def test_files_are_closed_for_want_of_descriptors(tmp_path: Path) -> None:
    """When others use the rest up: an entry that is open makes do with what it has, and gives half back."""
    code = (
        "entry = opened()\n"
        "taken = use_up()\n"
        "check(entry)\n"
        "print(len(entry.rows._open))\n"
        "[os.close(one) for one in taken]\n"
        "check(entry)"
    )
    assert last_line(tmp_path, code) == "8"


def test_an_entry_opens_beside_others_that_leave_little(tmp_path: Path) -> None:
    code = (
        "taken = use_up()\n"
        "[os.close(taken.pop()) for _ in range(6)]\n"
        "entry = opened()\n"
        "check(entry)\n"
        "print(len(filled), len(entry.rows._open))"
    )
    assert last_line(tmp_path, code) == "0 2"  # a lock and five files, of which two are kept


@pytest.mark.parametrize("left", [0, 1, 2])
def test_no_descriptor_is_told_as_such(tmp_path: Path, left: int) -> None:
    """None for the lock; for the index; for the files. Not the folder's fault, and whole shards are not filled anew."""
    code = (
        "taken = use_up()\n"
        f"[os.close(taken.pop()) for _ in range({left})]\n"
        "try:\n"
        "    entry = opened()\n"
        "    others = use_up()\n"
        "    entry.rows._open.clear()\n"
        "    others += use_up()\n"
        "    check(entry)\n"
        "except DataError as error:\n"
        "    assert not filled\n"
        "    print(error)"
    )
    text = last_line(tmp_path, code)
    assert "limit 64" in text and "ulimit -n" in text
    assert "folder" not in text and "anew" not in text


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def test_what_cannot_be_opened_for_now_is_not_taken_for_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole shard would be filled anew, and an entry without its lock could be removed under its reader."""
    layout = shards.Layout(tmp_path, (2, 1, 4, 4))
    assert shards.read_card(layout, 0) is None
    assert locks.held(tmp_path / "nowhere" / "lock") is None
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(os, "open", refuse)
    for call in (lambda: shards.read_card(layout, 0), lambda: locks.held(tmp_path / "lock")):
        with pytest.raises(OSError, match="Too many"):
            call()
