"""The order of samples and the loader: permutations, shards, resuming, streaming against in memory."""

import threading

import numpy as np
import pytest
import torch

from siamscope.data.errors import DataError
from siamscope.data.loader import Loader
from siamscope.data.order import IidOrder, Order, rows
from siamscope.data.source import ArraySource, Source


def test_every_epoch_is_a_permutation() -> None:
    order: Order = IidOrder(60, 12, seed=1)
    assert order.steps_per_epoch == 5
    epochs = [np.concatenate([order.batch(e * 5 + s) for s in range(5)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(60))
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    assert order.batch(0).dtype == np.int64


def test_incomplete_batches() -> None:
    dropped, kept = IidOrder(25, 10, 0), IidOrder(25, 10, 0, drop_last=False)
    assert (dropped.steps_per_epoch, kept.steps_per_epoch) == (2, 3)
    assert [len(kept.batch(step)) for step in range(4)] == [10, 10, 5, 10]
    assert sorted(np.concatenate([kept.batch(step) for step in range(3)]).tolist()) == list(range(25))
    left_out = [set(range(25)) - {*dropped.batch(2 * e).tolist(), *dropped.batch(2 * e + 1).tolist()} for e in range(4)]
    assert all(len(left) == 5 for left in left_out) and left_out[0] != left_out[1]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    forward, backward = IidOrder(50, 7, 3), IidOrder(50, 7, 3)
    steps = range(30)
    expected = [forward.batch(step).tolist() for step in steps]
    assert [backward.batch(step).tolist() for step in reversed(steps)] == expected[::-1]
    assert IidOrder(50, 7, 3).batch(17).tolist() == expected[17]
    assert IidOrder(50, 7, 4).batch(17).tolist() != expected[17]
    forward.batch(0)[:] = -1  # the caller's copy
    assert forward.batch(0).tolist() == expected[0]


def test_places_are_uniform() -> None:
    """The first place of an epoch takes each of 5 samples equally often (chi-square, 4 degrees, p = 1e-4)."""
    first = [int(IidOrder(5, 5, seed).batch(epoch)[0]) for seed in range(20) for epoch in range(50)]
    counts = np.bincount(first, minlength=5)
    assert ((counts - 200) ** 2 / 200).sum() < 23.5


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_shards_partition_the_batch(world: int) -> None:
    batch = IidOrder(100, 12, 0).batch(4)
    parts = [batch[rows(rank, world, 12)] for rank in range(world)]
    assert {len(part) for part in parts} == {12 // world}
    assert np.concatenate(parts).tolist() == batch.tolist()


def test_refused_orders() -> None:
    with pytest.raises(DataError, match=r"256 images.*\(100 training images\).*at most 100"):
        IidOrder(100, 256, 0)
    with pytest.raises(DataError, match="at least 1"):
        IidOrder(100, 0, 0)
    with pytest.raises(DataError, match="no images"):
        IidOrder(0, 1, 0)
    with pytest.raises(DataError, match=r"10 images.*3 processes.*multiple of 3, such as 9"):
        rows(0, 3, 10)
    with pytest.raises(DataError, match="such as 4"):
        rows(0, 4, 2)
    with pytest.raises(DataError, match="rank"):
        rows(3, 3, 9)
    with pytest.raises(DataError, match="from 0"):
        IidOrder(10, 1, 0).batch(-1)


def images(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), np.uint8)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2)])
def test_both_ways_give_the_batches_of_the_order(resident: bool, rank: int, world: int) -> None:
    pixels, order = images(), IidOrder(40, 8, 2)
    with Loader(ArraySource(pixels), order, rank=rank, world=world, device_resident=resident, prefetch=3) as loader:
        for start in (3, 0, 11):  # any step, in any succession
            for step, (batch, indices) in enumerate(loader.batches(start, start + 7), start):
                expected = order.batch(step)[rows(rank, world, 8)]
                assert indices.tolist() == expected.tolist()
                assert batch.dtype == torch.uint8
                np.testing.assert_array_equal(batch.numpy(), pixels[expected])
            assert step == start + 6
        batch, indices = loader.batch(5)
        np.testing.assert_array_equal(batch.numpy(), pixels[order.batch(5)[rows(rank, world, 8)]])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("siamscope-read")]


class Broken(ArraySource):
    """Fails at one image, and counts its reads."""

    reads = 0

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.reads += 1
        if 33 in indices:
            raise OSError("the disk is gone")
        return super().read(indices)


def test_an_error_while_reading_ahead_reaches_the_consumer() -> None:
    source: Source = Broken(images())
    order = IidOrder(40, 8, 0)
    bad = next(step for step in range(5) if 33 in order.batch(step))
    with Loader(source, order, device_resident=False) as loader:
        batches = loader.batches(0, 5)
        for _ in range(bad):
            next(batches)
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)


def test_reading_ahead_is_bounded_and_stops() -> None:
    source = Broken(images(30))
    with Loader(source, IidOrder(30, 3, 0), device_resident=False, prefetch=2) as loader:
        endless = loader.batches(0)
        next(endless)
        endless.close()
    assert 1 <= source.reads <= 3


def test_refused_loaders() -> None:
    source = ArraySource(images())
    with pytest.raises(DataError, match="multiple of 3"):
        Loader(source, IidOrder(40, 8, 0), world=3)
    with pytest.raises(DataError, match="prefetch"):
        Loader(source, IidOrder(40, 8, 0), prefetch=0)
