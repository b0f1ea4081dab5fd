"""Who is named when processes lose each other, and how those of one start find together."""

import contextlib
import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from siamscope.data.order import IidOrder, rows
from siamscope.training import meeting, pulse
from siamscope.training.distributed import World
from siamscope.training.pulse import Beat, Pulse, concerns_others, diagnosis, shared_memory_hint
from siamscope.workflow.ordering import dealt


class Store(dict):
    """A key-value store in memory."""

    def set(self, key, value):
        self[key] = value.encode()

    def get(self, key):
        return self[key]

    def multi_get(self, keys):
        return [self[key] for key in keys]

    def check(self, keys):
        return all(key in self for key in keys)


def beats(*facts):
    """(count, step, stage, left) of each rank; all have begun as many exchanges."""
    return [
        Beat(rank, count, step, stage, "node", 70 + rank, 3, left)
        for rank, (count, step, stage, left) in enumerate(facts)
    ]


def test_who_does_not_beat_is_gone():
    before = beats((5, 9, 1, None), (5, 9, 1, None), (5, 9, 1, None))
    after = beats((8, 9, 1, None), (5, 9, 1, None), (8, 9, 1, None))
    said = diagnosis(before, after, "Connection closed by peer", mine=0)
    assert said.startswith("rank 1 (process 71 on node, last seen at step 9, where it computes) is gone")
    assert "rank 2" not in said
    assert "rank 0" not in said


def test_who_left_by_itself_is_not_gone():
    before = beats((5, 9, 1, None), (5, 9, 1, "rank 1 ended"), (5, 9, 1, None))
    assert "is gone" not in diagnosis(before, [*before[:1], *beats(*[(6, 9, 1, "x")] * 3)[1:]], "gloo", mine=0)


def test_who_lives_and_is_behind_is_named_after_a_timeout():
    before = beats((5, 9, 1, None), (5, 9, 0, None), (5, 9, 1, None))
    after = beats((8, 9, 1, None), (8, 9, 0, None), (8, 9, 1, None))
    said = diagnosis(before, after, "Timed out waiting 3000ms", mine=0)
    assert said.startswith("rank 1 (process 71 on node, last seen at step 9, where it is waiting for its images)")
    assert "did not come" in said
    assert "cannot talk" in diagnosis(before, after, "Connection closed by peer", mine=0)
    late = [after[0], replace(after[0], rank=1, exchanges=2), after[2]]
    assert diagnosis(before, late, "Timed out waiting 3000ms", mine=0).startswith("rank 1 (")
    level = beats((8, 9, 1, None), (8, 9, 1, None))
    assert "cannot talk" in diagnosis(beats((5, 9, 1, None), (5, 9, 1, None)), level, "Timed out", mine=0)


def test_a_silent_rank_is_found_by_rank_0_and_told_to_all():
    store = Store()
    first, second, third = (Pulse(store, rank, 3, patience=0.1) for rank in range(3))
    second.step, second.advice = 4, lambda: "resume it"
    first.advice = lambda: "resume it"
    for each in (first, second, third):
        each.beat()
    assert first.look() is None
    time.sleep(0.15)
    first.beat()
    third.beat()
    assert third.look() is None, "rank 2 looks at rank 0 alone"
    verdict = first.look()
    assert verdict is not None
    assert verdict.startswith("rank 1 (")
    assert "has not answered for" in verdict
    assert verdict.endswith("resume it")
    assert third.look() == verdict


def test_a_rank_that_beats_or_has_left_is_not_found():
    store = Store()
    first, second, third = (Pulse(store, rank, 3, patience=0.1) for rank in range(3))
    for each in (first, second, third):
        each.beat()
    first.look()
    third.leave()
    time.sleep(0.15)
    first.beat()
    second.beat()
    assert first.look() is None
    assert json.loads(store["2"])[-1] == ""


def test_nccl_without_shared_memory_is_explained():
    said = (
        "NCCL error: unhandled system error: Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)"
    )
    assert "enlarge /dev/shm" in shared_memory_hint(said)
    assert shared_memory_hint("NCCL error: remote process exited") == ""
    assert shared_memory_hint("gloo: No space left on device") == ""


def test_other_errors_are_not_taken_for_a_lost_process():
    assert concerns_others(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    assert not concerns_others(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


# ------------------------------------------------------------------------------ one start


def together(store, size):
    found = {}

    def come(rank):
        found[rank] = meeting.meet(store, rank, size, seconds=5)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in reversed(range(size))]
    for thread in threads:
        thread.start()
        time.sleep(0.03)  # rank 0 comes last: the others see what an earlier start has left
    for thread in threads:
        thread.join()
    return found


def test_a_start_meets_apart_from_the_one_before():
    store = Store()
    first = together(store, 3)
    second = together(store, 3)
    assert len(set(first.values())) == len(set(second.values())) == 1
    assert first[0] != second[0]


def test_who_does_not_come_is_named():
    store = Store()

    def come():
        with contextlib.suppress(TimeoutError):
            meeting.meet(store, 1, 3, seconds=0.5)

    other = threading.Thread(target=come)
    other.start()
    with pytest.raises(TimeoutError, match="rank 2 did not come"):
        meeting.meet(store, 0, 3, seconds=0.3)
    other.join()


# ------------------------------------------------------------------------------ shares


def test_shares_cover_all_rows_once():
    for n in (0, 1, 5, 8, 1000):
        for size in (1, 3, 8):
            ranks = [World(rank, size) for rank in range(size)]
            assert [row for here in ranks for row in range(n)[here.share(n)]] == list(range(n))
            seen = []
            for here in ranks:
                for start in range(0, n, 3):
                    block = range(n)[start : min(start + 3, n)]
                    seen += block[here.within(n, start, start + len(block))]
            assert sorted(seen) == list(range(n))


@pytest.mark.parametrize("processes", [2, 4])
def test_parts_of_a_batch_hold_the_same_images_on_any_number_of_processes(processes):
    order, parts = IidOrder(96, 32, seed=3), 4
    for step in (0, 7):
        alone = order.batch(step).reshape(parts, -1)
        batch = dealt(order, processes, parts).batch(step)
        shares = [batch[rows(rank, processes, 32)].reshape(parts, -1) for rank in range(processes)]
        assert np.array_equal(np.concatenate(shares, axis=1), alone)
        plain = [order.batch(step)[rows(rank, processes, 32)].reshape(parts, -1) for rank in range(processes)]
        assert not np.array_equal(np.concatenate(plain, axis=1), alone), "the order without it would not do"


def test_the_exit_code_is_the_documented_one():
    from siamscope.cli import EXIT_CODES

    assert f"\n  {pulse.LOST}  " in EXIT_CODES


def test_the_watch_outlives_what_it_cannot_read():
    """Nonsense in the store, then a silent rank, and a disk that is gone: the verdict is said all the same."""
    store, said = Store(), []
    watch = Pulse(store, 0, 2, patience=0.4)

    def gone():
        raise OSError("the disk is gone")

    def note(verdict):
        said.append(verdict)
        watch._ended.set()

    watch.advice, watch.end = gone, note
    store["1"] = b"nonsense"
    watch.beat()
    watch.start()
    time.sleep(0.15)
    assert watch.is_alive() and not said
    store.set("1", json.dumps([1, 4, 1, "node", 71, 3, None]))
    watch.join(timeout=10)
    assert len(said) == 1 and "rank 1 (process 71 on node" in said[0] and "not answered" in said[0]
