"""Streaming and merging, against two passes over everything; the naive formula must fail the same test."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from siamscope.collapse import CollapseError, CovarianceState, auc, spectrum

N, D = 20_000, 48


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) / D**0.5


def ragged(x: np.ndarray, parts: int = 60) -> list[np.ndarray]:
    cuts = np.sort(np.random.default_rng(1).integers(0, len(x), size=parts - 1))
    return np.split(x, cuts)


def relative_error(m2: np.ndarray, x: np.ndarray) -> float:
    centred = x - x.mean(0)
    expected = centred.T @ centred
    return float(np.abs(np.asarray(m2) - expected).max() / np.abs(expected).max())


def naive(x: np.ndarray) -> np.ndarray:
    total, squares = np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2)
    for rows in ragged(x):
        total += rows.sum(0)
        squares += rows.T @ rows
    return squares - np.outer(total, total) / len(x)


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e6])
def test_stream_equals_two_passes_where_the_naive_sum_of_squares_does_not(cloud: np.ndarray, shift: float) -> None:
    x = cloud + shift
    state = CovarianceState(D)
    for rows in ragged(x):
        state.update(rows)
    assert state.n == N
    # At a shift of 1e6 the last digits of x itself are gone; the reference loses as much.
    assert relative_error(state.m2, x) < (1e-10 if shift <= 1e3 else 1e-8)
    np.testing.assert_allclose(state.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    if shift:
        assert relative_error(naive(x), x) > (1e-9 if shift <= 1e3 else 1e-3)


def shards(x: np.ndarray) -> list[CovarianceState]:
    states = [CovarianceState(D).update(rows) for rows in ragged(x, 8)]
    return [*states, CovarianceState(D)]  # the last one has seen nothing


def test_merging_in_any_order_and_shape_gives_the_same(cloud: np.ndarray) -> None:
    x = cloud + 100
    forward, backward, left, right = (CovarianceState(D) for _ in range(4))
    for state in shards(x):
        forward.merge(state)
    for state in reversed(shards(x)):
        backward.merge(state)
    for i, state in enumerate(shards(x)):
        (left if i % 2 else right).merge(state)
    reference = auc(spectrum(x).singular_values)
    for state in (forward, backward, left.merge(right)):
        assert state.n == N
        assert relative_error(state.m2, x) < 1e-10
        assert auc(state.spectrum().singular_values) == pytest.approx(reference, abs=1e-10)


def test_merge_leaves_the_other_as_it_was(cloud: np.ndarray) -> None:
    other = CovarianceState(D).update(cloud[:100])
    mean, m2 = other.mean.copy(), other.m2.copy()
    CovarianceState(D).merge(other).update(cloud[100:200])
    np.testing.assert_array_equal(other.mean, mean)
    np.testing.assert_array_equal(other.m2, m2)
    assert other.n == 100


def test_tensors_and_arrays_may_be_mixed(cloud: np.ndarray) -> None:
    mixed = CovarianceState(D).update(torch.tensor(cloud[:50])).update(cloud[50:80])
    mixed.merge(CovarianceState(D).update(cloud[80:]))
    assert isinstance(mixed.m2, torch.Tensor)
    assert relative_error(mixed.m2.numpy(), cloud) < 1e-10
    other_way = CovarianceState(D).update(cloud[:50]).update(torch.tensor(cloud[50:]))
    assert isinstance(other_way.m2, np.ndarray)
    assert relative_error(other_way.m2, cloud) < 1e-10


class Summing:
    """A sum over threads, standing in for an all-reduce over processes."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=20)
        self.lock = threading.Lock()
        self.total: np.ndarray | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        with self.lock:
            self.total = x.copy() if self.total is None else self.total + x
        self.barrier.wait()
        result = self.total
        if self.barrier.wait() == 0:
            self.total = None
        self.barrier.wait()
        assert result is not None
        return result


def all_reduced(states: list[CovarianceState], method: Callable[[CovarianceState, Summing], object]) -> None:
    summing = Summing(len(states))
    threads = [threading.Thread(target=method, args=(s, summing)) for s in states]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def test_all_reduce_gives_every_process_the_whole(cloud: np.ndarray) -> None:
    x = cloud + 1e3
    states = shards(x)  # one of them empty
    all_reduced(states, CovarianceState.all_reduce)
    reference = auc(spectrum(x).singular_values)
    for state in states:
        assert state.n == N
        assert relative_error(state.m2, x) < 1e-10
        assert auc(state.spectrum().singular_values) == pytest.approx(reference, abs=1e-10)


def test_all_reduce_of_nothing_stays_nothing() -> None:
    states = [CovarianceState(3), CovarianceState(3)]
    all_reduced(states, CovarianceState.all_reduce)
    assert [s.n for s in states] == [0, 0]
    with pytest.raises(CollapseError, match="at least 2"):
        states[0].spectrum()


def test_reference_puts_an_empty_state_among_tensors() -> None:
    state = CovarianceState(3, reference=torch.zeros(1))
    assert isinstance(state.mean, torch.Tensor) and state.mean.dtype == torch.float64


def test_wrong_widths_are_refused() -> None:
    state = CovarianceState(3)
    for wrong in (
        lambda: state.update(np.ones((2, 4))),
        lambda: state.merge(CovarianceState(4)),
        lambda: CovarianceState(0),
    ):
        with pytest.raises(CollapseError):
            wrong()
    assert state.update(np.ones((0, 3))).n == 0
    with pytest.raises(CollapseError, match="NaN"):
        state.update(np.full((2, 3), np.nan))
    assert state.n == 0  # a refused batch leaves no trace
