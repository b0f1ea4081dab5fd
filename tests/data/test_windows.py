"""The order of a stream: every image once a pass, near to where it lies, whatever reads it."""

import numpy as np
import pytest

from siamscope.data.errors import DataError
from siamscope.data.order import rows
from siamscope.data.windows import StreamOrder, even_edges

COUNT, BATCH, WINDOW, BLOCK = 5000, 40, 200, 50


def order(seed: int = 0, window: int = WINDOW) -> StreamOrder:
    return StreamOrder(even_edges(COUNT, BLOCK), BATCH, seed, window)


def test_edges() -> None:
    assert even_edges(10, 4).tolist() == [0, 4, 8, 10]
    assert even_edges(8, 4).tolist() == [0, 4, 8]


def test_every_image_once_a_pass() -> None:
    stream = order()
    for number in range(2):
        steps = range(number * stream.steps_per_epoch, (number + 1) * stream.steps_per_epoch)
        seen = np.concatenate([stream.batch(step) for step in steps])
        assert stream.steps_per_epoch == 125 and sorted(seen.tolist()) == list(range(COUNT))


def test_a_pure_function_of_seed_and_step() -> None:
    first = [order().batch(step).tolist() for step in (130, 0, 60)]
    stream = order()
    assert [stream.batch(step).tolist() for step in (130, 0, 60)] == first
    assert order(seed=1).batch(0).tolist() != first[1] and stream.batch(125).tolist() != first[1]


def test_processes_share_out_the_global_batch() -> None:
    whole = order().batch(3)
    parts = [order().batch(3)[rows(rank, 4, BATCH)] for rank in range(4)]
    assert np.concatenate(parts).tolist() == whole.tolist()


def most_blocks_held(stream: StreamOrder) -> int:
    """Blocks that must be held so that none is read twice in a pass."""
    blocks = np.concatenate([stream.batch(step) for step in range(stream.steps_per_epoch)]) // BLOCK
    first, last = {}, {}
    for place, block in enumerate(blocks.tolist()):
        first.setdefault(block, place)
        last[block] = place
    return max(sum(first[b] <= place <= last[b] for b in first) for place in range(0, len(blocks), BATCH))


def test_reading_is_local() -> None:
    """A window of 200 spans at most 5 or 6 blocks of 50; an order without windows needs all 100 of them."""
    assert most_blocks_held(order()) <= 2 * WINDOW // BLOCK + 2
    assert most_blocks_held(order(window=COUNT)) > 60


def test_images_are_mixed() -> None:
    """Within a batch hardly any image is followed by its neighbour; without a window nearly all are."""

    def neighbours(stream: StreamOrder) -> float:
        return float(np.mean([(np.diff(stream.batch(step)) == 1).mean() for step in range(125)]))

    assert neighbours(order()) < 0.02 and neighbours(order(window=1)) > 0.95


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(DataError, match="larger than the data"):
        StreamOrder(even_edges(8), 9, 0, 4)
