"""Orders by chunks: the paper's arithmetic at ImageNet's size, what a batch holds, and that steps alone decide it."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch

from siamscope.data.chunks import Pace, Passes, bounds, exactly, permutation, suffix_length
from siamscope.data.errors import DataError
from siamscope.data.loader import Loader
from siamscope.data.order import IidOrder, Order, rows
from siamscope.data.orders import ChunkOrder, HybridOrder, LastOrder
from siamscope.data.replay import Replay
from siamscope.data.source import ArraySource

IMAGENET, CHUNKS, BATCH, PER_EPOCH = 1_281_167, 100, 256, 5004


@pytest.fixture(autouse=True)
def five_seconds() -> Iterator[None]:
    """What the paper's code does for a chunk smaller than a batch is to wait for ever."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("an order hangs")

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def current(count: int = 60, batch: int = 4, seed: int = 0, steps: int = 36, chunks: int = 6, **more) -> ChunkOrder:
    return ChunkOrder("current", count, batch, seed, steps, chunks, **more)


def cumulative(count: int = 60, batch: int = 4, seed: int = 0, steps: int = 36, chunks: int = 6, **more) -> ChunkOrder:
    return ChunkOrder("cumulative", count, batch, seed, steps, chunks, **more)


def stream(order: Order, steps: int) -> list[list[int]]:
    return [order.batch(step).tolist() for step in range(steps)]


# --- the paper's arithmetic ---


def test_chunks_of_imagenet() -> None:
    order = ChunkOrder("current", IMAGENET, BATCH, 10, CHUNKS * PER_EPOCH, CHUNKS)
    parts = [order.members(k) for k in range(CHUNKS)]
    assert order.steps_per_epoch == PER_EPOCH
    assert order.pace.steps == 500_400
    assert {len(part) for part in parts} == {12_811, 12_812}
    assert np.array_equal(np.concatenate(parts), order.permutation)  # disjoint, and nothing left out
    assert np.array_equal(np.sort(order.permutation), np.arange(IMAGENET))
    assert [order.pace.first(k) for k in (0, 1, 40, 100)] == [0, PER_EPOCH, 40 * PER_EPOCH, 500_400]


def test_cumulative_chunks_of_imagenet_are_nested() -> None:
    order = ChunkOrder("cumulative", IMAGENET, BATCH, 10, CHUNKS * PER_EPOCH, CHUNKS)
    sizes = [len(order.members(k)) for k in range(CHUNKS)]
    assert sizes == [IMAGENET * (k + 1) // CHUNKS for k in range(CHUNKS)]
    assert all(np.array_equal(order.members(k + 1)[: sizes[k]], order.members(k)) for k in (0, 17, 98))


def test_the_last_fifth_of_imagenet() -> None:
    order = LastOrder(IMAGENET, BATCH, 10, 0.2, CHUNKS)
    assert len(order.members) == 256_234
    assert 256_234 == -(-IMAGENET * 20 // 100) != IMAGENET * 20 // 100  # a ceiling, as -N c // E is a floor
    assert np.array_equal(order.members, permutation(IMAGENET, 10)[-256_234:])
    assert order.steps_per_epoch == PER_EPOCH
    assert len(LastOrder(IMAGENET, BATCH, 10, 0, CHUNKS).members) == 12_812


@pytest.mark.parametrize(("count", "chunks"), [(1, 1), (7, 7), (10, 3), (97, 10), (1000, 999)])
def test_bounds_share_out_evenly(count: int, chunks: int) -> None:
    edges = [bounds(count, chunks, k) for k in range(chunks)]
    assert edges[0][0] == 0
    assert edges[-1][1] == count
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    assert {b - a for a, b in edges} <= {count // chunks, -(-count // chunks)}


def test_shares_are_what_they_are_written_as() -> None:
    """A tenth of 30 images is 3: the float 0.1 is a little more, and its ceiling would be 4."""
    assert suffix_length(30, exactly(0.1)) == 3
    assert int(np.ceil(np.longdouble(0.1) * 30)) == 4
    for share in (0.01, 0.07, 0.29, 0.57):
        assert suffix_length(100, exactly(share)) == round(100 * share)
    assert suffix_length(7, exactly(1.0)) == 7
    assert suffix_length(7, exactly(1e-07)) == 1


def test_subsets_of_a_seed_are_nested() -> None:
    members = [set(LastOrder(997, 16, 3, share, 10).members.tolist()) for share in (0.001, 0.01, 0.2, 0.5, 1.0)]
    assert [len(part) for part in members] == [1, 10, 200, 499, 997]
    assert all(small < large for small, large in pairwise(members))
    assert set(LastOrder(997, 16, 4, 0.2, 10).members.tolist()) != members[2]


# --- what a batch holds ---


@pytest.mark.parametrize("steps", [6, 7, 36, 100])
def test_each_chunk_has_its_time(steps: int) -> None:
    """Every step shows images of the chunk floor(step chunks / steps), and of no other."""
    order = current(steps=steps)
    for step in range(steps):
        assert set(order.batch(step).tolist()) <= set(order.members(step * 6 // steps).tolist())
    counts = np.bincount([order.pace.segment(step) for step in range(steps)], minlength=6)
    assert set(counts) <= {steps // 6, -(-steps // 6)}
    assert [order.pace.segment(order.pace.first(k)) for k in range(6)] == list(range(6))


def test_passes_over_a_chunk_leave_out_the_rest() -> None:
    """Ten images, batches of four: two batches a pass without repetition, and another rest every time."""
    order = current(steps=6 * 40)
    left = set()
    for turn in range(0, 40, 2):
        seen = np.concatenate([order.batch(turn), order.batch(turn + 1)]).tolist()
        assert len(set(seen)) == 8
        left |= set(order.members(0).tolist()) - set(seen)
    assert left == set(order.members(0).tolist())


@pytest.mark.parametrize("batch", [7, 10, 11, 25, 50])
def test_a_chunk_smaller_than_the_batch_does_not_hang(batch: int) -> None:
    """Passes follow on one another: after any number of batches the images have been shown equally often, but for 1."""
    order = current(batch=batch, steps=60)
    segment = [order.batch(step) for step in range(10)]
    assert all(len(part) == batch for part in segment)
    if batch <= 10:
        assert all(len(set(part.tolist())) == batch for part in segment)
    else:
        for turns in range(1, 11):
            shown = np.bincount(np.concatenate(segment[:turns]), minlength=60)[order.members(0)]
            assert shown.max() - shown.min() <= 1


def test_one_image_in_a_chunk() -> None:
    order = current(count=40, batch=40, steps=40, chunks=40)
    assert [set(batch) for batch in stream(order, 40)] == [{int(order.permutation[step])} for step in range(40)]


def test_the_permutation_within_a_chunk_is_uniform() -> None:
    """First place of a pass over five images: each equally often (chi-square, 4 degrees, p = 1e-4)."""
    first = [
        Passes(seed).batch(segment, 5, 5, turn)[0] for seed in range(5) for segment in range(4) for turn in range(50)
    ]
    assert ((np.bincount(first, minlength=5) - 200) ** 2 / 200).sum() < 23.5


def test_rounds_come_back_to_every_chunk() -> None:
    order = current(steps=72, rounds=3)
    visited = [
        sorted(set(np.concatenate([order.batch(s) for s in range(4 * k, 4 * k + 4)]).tolist())) for k in range(18)
    ]
    assert all(set(visited[k]) <= set(order.members(k % 6).tolist()) for k in range(18))
    assert stream(order, 4) != [order.batch(24 + step).tolist() for step in range(4)]  # in another succession
    again = cumulative(steps=72, rounds=3)
    assert [len(again.members(k)) for k in range(18)] == [10, 20, 30, 40, 50, 60] * 3


def test_cumulative_shows_all_so_far() -> None:
    order = cumulative(steps=600)
    for k in (0, 2, 5):
        shown = set(np.concatenate([order.batch(step) for step in range(100 * k, 100 * k + 100)]).tolist())
        assert shown == set(order.permutation[: 10 * (k + 1)].tolist())


@pytest.mark.parametrize("kind", ["current", "cumulative"])
@pytest.mark.parametrize("steps", [30, 37])
def test_hybrid_is_the_first_order_and_then_iid(kind, steps: int) -> None:
    first = ChunkOrder(kind, 60, 4, 5, steps, 6)
    order = HybridOrder(ChunkOrder(kind, 60, 4, 5, steps, 6), 5, 0.4)
    switch = steps * 2 // 5
    assert order.switch_step == switch
    assert order.steps_per_epoch == 15
    assert stream(order, steps)[:switch] == stream(first, switch)
    iid = IidOrder(60, 4, 5)
    assert stream(order, steps)[switch:] == [iid.batch(step).tolist() for step in range(switch, steps)]
    assert stream(first, steps)[switch:] != stream(order, steps)[switch:]


def test_the_paper_switches_after_40_of_100_chunks() -> None:
    order = HybridOrder(ChunkOrder("current", 1000, 5, 0, 20_000, 100), 0, 0.4)
    assert order.switch_step == order.first.pace.first(40) == 8_000


# --- replay ---


def test_replayed_rows_are_of_earlier_chunks() -> None:
    order = current(batch=8, steps=60, replay=Replay(8, 0.25, 0, 0))
    for step in range(60):
        batch, chunk = order.batch(step), set(order.members(step // 10).tolist())
        earlier = set(order.permutation[: 10 * (step // 10)].tolist())
        assert len(set(batch.tolist())) == 8
        assert len(set(batch.tolist()) & chunk) == (6 if step >= 10 else 8)
        assert set(batch.tolist()) - chunk <= earlier


def test_replay_draws_all_earlier_images_equally_often() -> None:
    """40 images seen, 2 a step (chi-square, 39 degrees, p = 1e-4); and not from a stale buffer."""
    replay = Replay(4, 0.5, 0, 1)
    counts = np.bincount(np.concatenate([replay.draw(step, 40) for step in range(2000)]), minlength=40)
    assert len(counts) == 40
    assert ((counts - 100) ** 2 / 100).sum() < 82.1
    stale = np.bincount(np.concatenate([Replay(4, 0.5, 20, 1).draw(step, 40) for step in range(2000)]), minlength=40)
    assert ((stale - 100) ** 2 / 100).sum() > 82.1


def test_the_buffer_is_a_uniform_sample_that_only_loses() -> None:
    counts = np.zeros(50)
    for seed in range(400):
        replay = Replay(4, 0.5, 10, seed)
        held = [set(replay._buffer.held(seen).tolist()) for seen in (5, 10, 30, 50)]  # type: ignore[union-attr]
        assert [len(part) for part in held] == [5, 10, 10, 10]
        assert held[3] & set(range(30)) <= held[2]  # what went does not come back
        counts[list(held[3])] += 1
    assert ((counts - 80) ** 2 / 80).sum() < 49 * 2.2  # mean 80, variance below 80


def test_the_buffer_does_not_depend_on_who_asks_when() -> None:
    large = 2 * 2**16 + 5
    grown, fresh = Replay(4, 0.5, 1000, 0)._buffer, Replay(4, 0.5, 1000, 0)._buffer
    assert grown is not None
    assert fresh is not None
    for seen in (7, 1000, 2**16 - 1, 2**16 + 1, large, 50):
        found = grown.held(seen).tolist()
        assert found == Replay(4, 0.5, 1000, 0)._buffer.held(seen).tolist()  # type: ignore[union-attr]
        assert found == sorted(found)
        assert found[-1] < seen
    assert fresh.held(large).tolist() == grown.held(large).tolist()


def test_a_small_buffer_is_not_drawn_from_twice() -> None:
    order = current(batch=8, steps=60, replay=Replay(8, 0.5, 3, 0))
    for step in (10, 35, 59):
        batch = order.batch(step).tolist()
        chunk = set(order.members(step // 10).tolist())
        assert len(set(batch)) == 8
        assert len(set(batch) - chunk) == 3


def test_replay_in_a_later_round_spares_the_present_chunk() -> None:
    for buffer in (0, 30):
        order = current(batch=8, steps=120, rounds=2, replay=Replay(8, 0.5, buffer, 0))
        for step in range(60, 120):
            batch = order.batch(step).tolist()
            assert len(set(batch)) == 8
            assert len(set(batch) & set(order.members(step // 10).tolist())) == 4


def test_replay_shows_both_kinds_in_every_part_of_a_batch() -> None:
    order = current(count=600, batch=32, steps=60, replay=Replay(32, 0.5, 0, 0))
    halves = [np.isin(order.batch(step)[:16], order.members(step // 10)).sum() for step in range(10, 60)]
    assert 6 < np.mean(halves) < 10


def test_hybrid_with_replay() -> None:
    plain = current(batch=8, steps=60, replay=Replay(8, 0.25, 0, 0))
    order = HybridOrder(current(batch=8, steps=60, replay=Replay(8, 0.25, 0, 0)), 0, 0.5)
    assert stream(order, 30) == stream(plain, 30)


# --- steps alone decide ---


ORDERS = {
    "current": lambda seed=0: current(seed=seed),
    "cumulative": lambda seed=0: cumulative(seed=seed),
    "last": lambda seed=0: LastOrder(60, 4, seed, 0.3, 6),
    "hybrid": lambda seed=0: HybridOrder(current(seed=seed), seed, 0.4),
    "replay": lambda seed=0: current(seed=seed, replay=Replay(4, 0.5, 9, seed)),
    "rounds": lambda seed=0: current(seed=seed, rounds=2),
    "small chunks": lambda seed=0: current(batch=14, seed=seed),
}


@pytest.mark.parametrize("name", ORDERS)
def test_a_batch_is_a_function_of_seed_and_step(name: str) -> None:
    make = ORDERS[name]
    expected = stream(make(), 36)
    backward = make()
    assert [backward.batch(step).tolist() for step in reversed(range(36))] == expected[::-1]
    assert make().batch(23).tolist() == expected[23]
    assert stream(make(1), 36) != expected
    order = make()
    with ThreadPoolExecutor(4) as threads:
        assert [batch.tolist() for batch in threads.map(order.batch, range(36))] == expected
    order.batch(3)[:] = -1  # the caller's copy
    assert order.batch(3).tolist() == expected[3]


@pytest.mark.parametrize("name", ORDERS)
def test_processes_share_the_batch(name: str) -> None:
    order = ORDERS[name]()
    pixels = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8)
    for resident in (True, False):
        loaders = [
            Loader(ArraySource(pixels), order, rank=rank, world=2, device_resident=resident) for rank in range(2)
        ]
        for step, parts in zip(
            range(5, 36), zip(*(loader.batches(5, 36) for loader in loaders), strict=True), strict=True
        ):
            shown = torch.cat([images[:, 0, 0, 0] for images, _ in parts]).tolist()
            assert shown == order.batch(step).tolist()
        for loader in loaders:
            loader.close()
    assert [order.batch(9)[rows(rank, 2, order.batch_size)].tolist() for rank in range(2)] == [
        order.batch(9).tolist()[: order.batch_size // 2],
        order.batch(9).tolist()[order.batch_size // 2 :],
    ]


# --- a distribution that shifts ---


def purity(order: ChunkOrder, labels: np.ndarray, steps: int) -> float:
    """Mean share of the commonest class in a batch."""
    return float(np.mean([np.bincount(labels[order.batch(step)]).max() / order.batch_size for step in range(steps)]))


def test_chunks_that_follow_the_classes() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(6), 50))
    order = current(count=300, batch=10, steps=60, groups=labels)
    assert [sorted(set(labels[order.members(k)].tolist())) for k in range(6)] == [[k] for k in range(6)]
    assert purity(order, labels, 60) == 1
    assert purity(current(count=300, batch=10, steps=60), labels, 60) < 0.5  # without a shift: chance
    other = current(count=300, batch=10, steps=60, groups=labels, seed=1)
    assert sorted(other.members(0).tolist()) == sorted(order.members(0).tolist())
    assert other.members(0).tolist() != order.members(0).tolist()  # random within a class
    assert sorted(order.permutation.tolist()) == list(range(300))


def test_uneven_classes_spread_over_chunks() -> None:
    labels = np.repeat([0, 1, 2], [100, 15, 5])
    order = current(count=120, batch=4, steps=60, groups=labels)
    assert [np.bincount(labels[order.members(k)], minlength=3).tolist() for k in range(6)] == [
        [20, 0, 0], [20, 0, 0], [20, 0, 0], [20, 0, 0], [20, 0, 0], [0, 15, 5],
    ]  # fmt: skip


# --- what cannot be ---


def test_refused_orders() -> None:
    with pytest.raises(DataError, match=r"order.chunks = 61 is more than the 60 training images"):
        current(chunks=61, steps=100)
    with pytest.raises(DataError, match=r"order.chunks = 61 is more than the 60 training images"):
        LastOrder(60, 4, 0, 0, 61)
    assert len(LastOrder(60, 4, 0, 0.5, 61).members) == 30  # the share alone decides
    with pytest.raises(DataError, match=r"12 chunks to present .*more than the 11 steps.*at most 11"):
        current(steps=11, rounds=2)
    with pytest.raises(DataError, match=r"61 images is larger than the data"):
        current(batch=61)
    with pytest.raises(DataError, match=r"order.replay = 0.97 leaves no row of a batch of 8"):
        Replay(8, 0.97, 0, 0)
    for step in (-1, 36):
        with pytest.raises(DataError, match=f"steps 0 to 35; got {step}"):
            current().batch(step)
    with pytest.raises(DataError, match="from 0"):
        LastOrder(60, 4, 0, 0.5, 6).batch(-1)
    assert Pace(6, 6).segment(5) == 5
