"""Intervals: closed forms of the jackknife, coverage on populations, groups kept together, and what fails instead."""

import math

import numpy as np
import pytest
import torch

from siamscope.collapse import CollapseError, Moments, moment_scores, moments
from siamscope.collapse.intervals import bootstrap, dealt, groups_of, jackknife, leave_out, resampled

D = 24
SCORES = ("auc_sigma", "effective_rank", "rankme", "nesum", "participation_ratio", "self_cluster", "embedding_std")


def draw(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=(n, D)) * np.arange(1, D + 1) ** -0.5 + 0.3


def some(state: Moments) -> dict[str, float]:
    found = moment_scores(state)
    return {name: found[name] for name in SCORES}


def test_the_jackknife_of_a_mean_is_the_standard_error_of_block_means() -> None:
    x = np.random.default_rng(0).normal(size=200)
    found = leave_out(x, lambda rows: float(rows.mean()), blocks=10, seed=3)
    means = np.array([x[dealt(np.arange(200), 10, 3) == k].mean() for k in range(10)])
    error = means.std(ddof=1) / math.sqrt(10)
    assert found.error == pytest.approx(error, rel=1e-10)
    assert found.bias == pytest.approx(0, abs=1e-12)
    assert found.high - x.mean() == pytest.approx(2.262157 * error, rel=1e-6)  # t of 9 degrees
    assert x.mean() - found.low == pytest.approx(2.262157 * error, rel=1e-6)


def test_the_jackknife_knows_the_bias_of_a_variance() -> None:
    """The variance with divisor n is low by 1/n of itself, and the jackknife of single rows finds exactly that."""
    x = np.random.default_rng(1).normal(size=40)
    found = leave_out(x, lambda rows: float(rows.var()), blocks=40)
    assert x.var() - found.bias == pytest.approx(x.var(ddof=1), rel=1e-12)


def test_unequal_blocks_are_weighed() -> None:
    x = np.random.default_rng(2).normal(size=103)
    found = leave_out(x, lambda rows: float(rows.mean()), blocks=10)
    assert found.bias == pytest.approx(0, abs=1e-12)  # a plain (K - 1) / K formula would find one
    block = dealt(np.arange(103), 10, 0)
    left = np.array([x[block != k].mean() for k in range(10)])
    assert abs(9 * (left.mean() - x.mean())) > 1e-6


@pytest.fixture(scope="module")
def samples() -> tuple[list[np.ndarray], list[dict[str, float]], dict[str, float]]:
    """100 samples of 240 rows, their scores, and the scores' means."""
    rng = np.random.default_rng(4)
    drawn = [draw(rng, 240) for _ in range(100)]
    scores = [some(moments(x)) for x in drawn]
    return drawn, scores, {name: float(np.mean([s[name] for s in scores])) for name in SCORES}


def test_jackknife_intervals_hold_the_expected_score_as_often_as_they_say(samples) -> None:
    drawn, scores, expected = samples
    intervals = [jackknife(x, some, moments(x), seed=k) for k, x in enumerate(drawn)]
    for name in SCORES:
        covered = np.mean([i[name].low <= expected[name] <= i[name].high for i in intervals])
        assert 0.88 <= covered <= 1, name
        deviation = np.std([s[name] for s in scores], ddof=1)
        assert np.mean([i[name].error for i in intervals]) == pytest.approx(deviation, rel=0.25), name
    # The bias is seen: 240 rows read too much collapse, by what the jackknife says, to a fifth of it.
    population = some(moments(draw(np.random.default_rng(5), 100_000)))
    for name in ("auc_sigma", "effective_rank"):
        bias = expected[name] - population[name]
        deviation = np.std([s[name] for s in scores], ddof=1)
        assert abs(bias) > 1.5 * deviation, name
        assert np.mean([i[name].bias for i in intervals]) == pytest.approx(bias, rel=0.2), name


def test_intervals_of_the_draws_own_percentiles_do_not_cover(samples) -> None:
    """Copies shift a bootstrap's spectra: percentiles miss the score they belong to; the scatter about it is right."""
    drawn, _, expected = samples
    missed, covered = [], []
    for k, x in enumerate(drawn[:24]):
        whole = moments(x)
        values = [s["auc_sigma"] for s in resampled(x, some, False, groups=None, draws=40, seed=k)]
        low, high = np.quantile(values, (0.025, 0.975))
        missed.append(not low <= expected["auc_sigma"] <= high)
        found = bootstrap(x, some, whole, draws=40, seed=k)["auc_sigma"]
        assert found.error == pytest.approx(np.std(values, ddof=1), rel=1e-9) and math.isnan(found.bias)
        covered.append(found.low <= expected["auc_sigma"] <= found.high)
    assert np.mean(missed) > 0.7
    assert np.mean(covered) > 0.8


def test_rows_of_one_image_stay_together() -> None:
    rng = np.random.default_rng(6)
    x = draw(rng, 300)
    copies = np.repeat(x, 4, axis=0)
    ids = np.repeat([f"image {k:03d}" for k in range(300)], 4)
    alone = jackknife(x, some, moments(x))
    together = jackknife(copies, some, moments(copies), groups=ids)
    apart = jackknife(copies, some, moments(copies))
    for name in ("auc_sigma", "effective_rank", "nesum"):
        assert together[name].error == pytest.approx(alone[name].error, rel=1e-6)
        assert apart[name].error < 0.75 * alone[name].error  # four times the rows, and no more images
    grouped = bootstrap(copies, some, moments(copies), groups=torch.arange(300).repeat_interleave(4), draws=30)
    plain = bootstrap(x, some, moments(x), draws=30)
    assert grouped["auc_sigma"].error == pytest.approx(plain["auc_sigma"].error, rel=1e-6)


def test_blocks_do_not_follow_the_order_of_rows() -> None:
    """Rows sorted by class: blocks cut where they lie would lack a class each, and the error would be far too large."""
    rng = np.random.default_rng(7)
    centres = 3 * rng.normal(size=(20, D))
    x = np.concatenate([draw(rng, 30) + centre for centre in centres])
    mixed = x[rng.permutation(len(x))]
    errors = [jackknife(rows, some, moments(rows))["effective_rank"].error for rows in (x, mixed)]
    assert errors[0] == pytest.approx(errors[1], rel=0.6)
    whole, cut = some(moments(x))["effective_rank"], []
    for k in range(20):
        cut.append(some(moments(np.delete(x, np.s_[30 * k : 30 * k + 30], axis=0)))["effective_rank"])
    as_they_lie = math.sqrt(19 / 20 * ((np.array(cut) - whole) ** 2).sum())
    assert as_they_lie > 2 * errors[0]


def test_dealing() -> None:
    block = dealt(np.arange(103), 10, 0)
    assert sorted(np.bincount(block)) == [10] * 7 + [11] * 3
    assert (block == dealt(np.arange(103), 10, 0)).all() and (block != dealt(np.arange(103), 10, 1)).any()
    assert list(groups_of(4, ["b", "a", "b", "c"])) == [1, 0, 1, 2]
    assert list(groups_of(3, None)) == [0, 1, 2]


def test_tensors_and_scores_without_a_value() -> None:
    x = draw(np.random.default_rng(8), 200)[:, :15]
    found = jackknife(torch.tensor(x), moment_scores, moments(torch.tensor(x)))
    expected = jackknife(x, moment_scores, moments(x))
    assert "alpha_req" not in found and found.keys() == expected.keys()  # not enough dimensions for an exponent
    assert found["auc_sigma"].error == pytest.approx(expected["auc_sigma"].error, rel=1e-9)


def test_what_cannot_be_done_is_refused() -> None:
    x = draw(np.random.default_rng(9), 50)
    whole = moments(x)
    for call, message in (
        (lambda: jackknife(x, some, whole, level=1.0), "level"),
        (lambda: jackknife(x, some, whole, groups=np.zeros(50)), "1 images cannot be dealt"),
        (lambda: jackknife(x, some, whole, groups=np.zeros(49)), "one id a row"),
        (lambda: bootstrap(x, some, whole, draws=1), "at least 2 draws"),
        (lambda: bootstrap(x, some, whole, level=0.0), "level"),
        (lambda: dealt(np.arange(5), 6, 0), "from 2 to 5"),
    ):
        with pytest.raises(CollapseError, match=message):
            call()
