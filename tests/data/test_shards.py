"""Many shards: who dies leaves whole ones, many write at once, and what was harmed is repaired or said."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from siamscope.data import cache, rows, shards
from siamscope.data.cache import Part, Written, open_or_build
from siamscope.data.errors import DataError
from siamscope.data.memory import _of_container
from siamscope.data.rows import Rows, State

SHAPE = (100, 1, 4, 4)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_BYTES", 16 * 16)  # 15 rows in steps of 5: seven shards


class Filler:
    """Fills shards from PIXELS, and notes which."""

    def __init__(self, fail_at: int = -1, error: BaseException | None = None) -> None:
        self.filled: list[int] = []
        self.fail_at, self.error = fail_at, error

    def __call__(self, part: Part) -> Written:
        assert part.file is not None
        if len(self.filled) == self.fail_at and self.error:
            part.file.write_bytes(b"half of i")
            raise self.error
        part.file.write_bytes(PIXELS[part.first : part.stop].tobytes())
        self.filled.append(part.first // 15)
        digests = [str(PIXELS[i : i + 5].sum()) for i in range(part.first, part.stop, 5)]
        return Written(digests, {50: "black"} if part.first <= 50 < part.stop else {})


def built(root: Path, filler: Filler) -> cache.Entry:
    return open_or_build(root, "g", "k", SHAPE, filler, lambda: None, step=5)


def folder(root: Path) -> Path:
    return root / "g-k"


def check(entry: cache.Entry) -> None:
    np.testing.assert_array_equal(entry.rows.read(np.arange(100)), PIXELS)
    assert entry.rejected == {50: "black"}
    assert entry.digest == cache.chained([str(PIXELS[i : i + 5].sum()) for i in range(0, 100, 5)])


def test_shards_hold_whole_pieces(tmp_path: Path) -> None:
    filler = Filler()
    check(built(tmp_path, filler))
    assert filler.filled == list(range(7))
    sizes = [path.stat().st_size // 16 for path in sorted(folder(tmp_path).glob("*.u8"))]
    assert sizes == [15] * 6 + [10]
    again = Filler()
    check(built(tmp_path, again))
    assert again.filled == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), DataError("a process died")])
def test_whole_shards_stay_and_the_next_start_goes_on(tmp_path: Path, error: BaseException) -> None:
    first = Filler(3, error)
    with pytest.raises(DataError if isinstance(error, OSError) else type(error)):
        built(tmp_path, first)
    kept = sorted(path.name for path in folder(tmp_path).iterdir() if path.suffix != ".lock")
    assert kept == [f"{k:05d}.{ending}" for k in range(3) for ending in ("json", "u8")]  # no half of one
    second = Filler()
    check(built(tmp_path, second))
    assert second.filled == [3, 4, 5, 6]


@pytest.mark.parametrize("harm", ["short", "gone", "other", "swapped", "card"])
def test_only_a_harmed_shard_is_filled_again(tmp_path: Path, harm: str) -> None:
    built(tmp_path, Filler())
    file = folder(tmp_path) / "00002.u8"
    if harm == "short":
        os.truncate(file, 100)
    elif harm == "gone":
        file.unlink()
    elif harm == "other":
        file.write_bytes(bytes(240))
    elif harm == "swapped":  # with another one's pixels and card
        for ending in ("u8", "json"):
            source = folder(tmp_path) / f"00003.{ending}"
            (folder(tmp_path) / f"00002.{ending}").write_bytes(source.read_bytes())
    else:
        (folder(tmp_path) / "00002.json").unlink()
        (folder(tmp_path) / "index.json").unlink()
    filler = Filler()
    check(built(tmp_path, filler))
    assert filler.filled == [2]


def test_a_shard_that_is_cut_short_while_it_is_used(tmp_path: Path) -> None:
    entry = built(tmp_path, Filler())
    os.truncate(folder(tmp_path) / "00002.u8", 100)
    with pytest.raises(DataError, match=r"00002\.u8.*cut short.*start again"):
        entry.rows.read(np.arange(25, 50))
    np.testing.assert_array_equal(entry.rows.read(np.array([99, 0, 14])), PIXELS[[99, 0, 14]])


def test_only_what_asks_for_it_is_tried_again(tmp_path: Path) -> None:
    class Passing(Filler):
        def __call__(self, part: Part) -> Written:
            report = super().__call__(part)
            return Written(report.digests, report.rejected, retry=part.first == 45)

    passing = Passing()
    check(built(tmp_path, passing))
    assert passing.filled == list(range(7))
    again, after = Filler(), Filler()
    check(built(tmp_path, again))
    check(built(tmp_path, after))
    assert again.filled == [3] and after.filled == []


def test_without_pixels_only_hashes_are_kept(tmp_path: Path) -> None:
    def look(part: Part) -> Written:
        assert part.file is None
        digests = [str(PIXELS[i : i + 5].sum()) for i in range(part.first, part.stop, 5)]
        return Written(digests, {50: "black"} if part.first <= 50 < part.stop else {})

    for _ in range(2):
        entry = open_or_build(tmp_path, "h", "k", SHAPE, look, lambda: None, step=5, pixels=False)
        assert entry.images is None and not list((tmp_path / "h-k").glob("*.u8"))
        kept = built(tmp_path, Filler())
        assert (entry.digest, entry.rejected) == (kept.digest, kept.rejected)


HELPER = """
import signal, sys, time
from pathlib import Path
import numpy as np
from siamscope.data import shards
from siamscope.data.cache import Written, open_or_build
shards._BYTES = 64
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
PIXELS = np.arange(40 * 16, dtype=np.uint8).reshape(40, 1, 4, 4)
root, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def fill(part):
    print(part.first // 4, flush=True)
    part.file.write_bytes(PIXELS[part.first : part.stop].tobytes())
    time.sleep(seconds)
    return Written([str(part.first)], {})
print("ready", flush=True)
sys.stdin.readline()
entry = open_or_build(root, "g", "k", PIXELS.shape, fill, lambda: None)
assert (entry.rows.read(np.arange(40)) == PIXELS).all()
print(entry.digest, flush=True)
"""


def helper(root: Path, name: str, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HELPER, str(root), name, str(seconds)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_build_one_entry_together(tmp_path: Path) -> None:
    """Each shard is filled once, by whoever comes to it first, and all end with the same entry."""
    helpers = [helper(tmp_path, str(k), 0.03) for k in range(3)]
    for process in helpers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in helpers:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0].split() for process in helpers]
    assert len({answer[-1] for answer in answers}) == 1
    filled = [answer[:-1] for answer in answers]
    assert sorted(int(k) for part in filled for k in part) == list(range(10))
    assert sum(bool(part) for part in filled) > 1
    assert sorted(path.suffix for path in (tmp_path / "g-k").iterdir()) == [".json"] * 11 + [".u8"] * 10


def test_what_a_killed_process_was_at_is_taken_over(tmp_path: Path) -> None:
    victim = helper(tmp_path, "victim", 0.05)
    assert victim.stdin is not None and victim.stdout is not None
    with victim.stdin, victim.stdout:
        victim.stdin.write("\n")
        victim.stdin.flush()
        lines = [victim.stdout.readline() for _ in range(5)]  # ready, and four shards begun
        assert lines[-1] == "3\n"
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert list((tmp_path / "g-k").glob("*.partial"))  # as it was
    heir = helper(tmp_path, "heir", 0)
    words = heir.communicate("\n")[0].split()
    assert words[1:-1] == [str(k) for k in range(3, 10)]
    assert not list((tmp_path / "g-k").glob("*.partial"))


def test_who_waits_goes_on_when_the_other_fails(tmp_path: Path) -> None:
    """The one that fails takes the empty folder away; the one that waited makes its own."""
    busy = helper(tmp_path, "busy", 60)
    assert busy.stdin is not None and busy.stdout is not None
    with busy.stdin, busy.stdout:
        busy.stdin.write("\n")
        busy.stdin.flush()
        assert [busy.stdout.readline() for _ in range(2)] == ["ready\n", "0\n"]
        other = helper(tmp_path, "other", 0)
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write("\n")
        other.stdin.flush()
        while other.stdout.readline() != "9\n":  # all but the one that the other is at
            pass
        time.sleep(0.05)
        busy.send_signal(signal.SIGINT)
        busy.wait()
    words = other.communicate()[0].split()
    assert words[0] == "0" and len(words) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_a_file_that_may_not_grow_further(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from siamscope.data.cache import open_or_build\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "open_or_build(Path(sys.argv[1]), 'g', 'k', (100, 1, 8, 8), print, print)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "DataError: no space left" in done.stderr and "goes on with what is there" in done.stderr
    assert not list(tmp_path.glob("*/*"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_rows_are_read_in_any_order_and_from_closed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_MOST_OPEN", 2)
    monkeypatch.setattr(rows, "_MOST_VIEWS", 3)
    entry = built(tmp_path, Filler())
    rng = np.random.default_rng(1)
    for count in (0, 1, 7, 400):
        indices = rng.integers(0, 100, count)
        np.testing.assert_array_equal(entry.rows.read(indices), PIXELS[indices])
    np.testing.assert_array_equal(entry.rows.read(np.arange(100)[::-1]), PIXELS[::-1])
    monkeypatch.delattr(os, "preadv")
    np.testing.assert_array_equal(entry.rows.read(indices), PIXELS[indices])
    for bad in ([-1], [100]):
        with pytest.raises(IndexError):
            entry.rows.read(np.array(bad))
    (folder(tmp_path) / "00005.u8").write_bytes(bytes(240))
    with pytest.raises(DataError, match=r"00005\.u8.*changed"):  # opened again, it is not the same file
        entry.rows.read(np.array([0, 80]))


def test_rows_take_one_read_for_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(PIXELS.tobytes())
    status = (tmp_path / "a").stat()
    reader = Rows([tmp_path / "a"], [State(status.st_size, status.st_mtime_ns)], SHAPE, 100)
    calls, plain = [], os.preadv

    def counted(descriptor: int, views: list[memoryview], offset: int) -> int:
        calls.append((offset // 16, [len(view) // 16 for view in views]))
        return plain(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", counted)
    wanted = np.array([7, 3, 90, 4, 5, 91])
    np.testing.assert_array_equal(reader.read(wanted), PIXELS[wanted])
    assert calls == [(3, [1, 2]), (7, [1]), (90, [1, 1])]


def test_a_cache_in_the_page_cache_is_free_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 500\nactive_file 200\n")
    assert _of_container(tmp_path) == 800
    (tmp_path / "memory.max").write_text("max\n")
    assert _of_container(tmp_path) is None


def test_cards_are_json_without_paths(tmp_path: Path) -> None:
    """A cache may be copied to another place."""
    built(tmp_path, Filler())
    for path in folder(tmp_path).glob("*.json"):
        assert str(tmp_path) not in path.read_text() and isinstance(json.loads(path.read_text()), dict)
    folder(tmp_path).parent.joinpath("moved").mkdir()
    folder(tmp_path).rename(tmp_path / "moved" / "g-k")
    filler = Filler()
    check(built(tmp_path / "moved", filler))
    assert filler.filled == []
