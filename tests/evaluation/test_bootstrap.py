"""The bootstrap interval of an accuracy."""

import numpy as np
import pytest

from siamscope.evaluation import EvaluationError, accuracy_interval


def answers(hits: int, n: int) -> np.ndarray:
    return np.arange(n) < hits


def test_binomial_counts_have_the_distribution_of_resampled_indices() -> None:
    correct = answers(140, 200)
    index = np.random.default_rng(1).integers(200, size=(20_000, 200))
    expected = np.quantile(correct[index].mean(1), [0.025, 0.975])
    assert accuracy_interval(correct, draws=20_000) == pytest.approx(expected, abs=0.0051)  # one count in 200


def test_agrees_with_the_normal_approximation_and_shrinks_with_n() -> None:
    for n in (1000, 100_000):
        low, high = accuracy_interval(answers(int(0.8 * n), n), level=0.9)
        half = 1.6449 * (0.8 * 0.2 / n) ** 0.5
        assert (high - low) / 2 == pytest.approx(half, rel=0.06)
        assert (low + high) / 2 == pytest.approx(0.8, abs=0.1 * half)


def test_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for seed in range(400):
        low, high = accuracy_interval(rng.random(500) < 0.7, draws=1000, seed=seed)
        inside += low <= 0.7 <= high
    assert 0.91 <= inside / 400 <= 0.98


def test_seed_decides() -> None:
    correct = answers(3000, 4001)
    assert accuracy_interval(correct, seed=1) == accuracy_interval(correct, seed=1)
    assert accuracy_interval(correct, draws=99, seed=1) != accuracy_interval(correct, draws=99, seed=2)


def test_certainty_has_no_width() -> None:
    assert accuracy_interval(answers(50, 50)) == (1.0, 1.0)
    assert accuracy_interval(answers(0, 50)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("correct", "options"),
    [([], {}), ([0.5, 1], {}), ([[True]], {}), ([True], {"level": 1.0}), ([True], {"draws": 0})],
)
def test_bad_input_is_refused(correct: list, options: dict) -> None:
    with pytest.raises(EvaluationError):
        accuracy_interval(correct, **options)
