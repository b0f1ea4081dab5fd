"""Scores of a spectrum against closed forms, and their conventions."""

import numpy as np
import pytest
import torch

from siamscope.collapse import (
    CollapseError,
    alpha_req,
    dead_directions,
    effective_rank,
    nesum,
    participation_ratio,
    participation_ratio_corrected,
    pseudo_condition,
    rankme,
    spectrum,
    stable_rank,
)
from siamscope.collapse.spectral import ALPHA_POINTS, FLOOR


def flat(rank: int, d: int) -> np.ndarray:
    return np.r_[np.ones(rank), np.zeros(d - rank)]


@pytest.mark.parametrize("d", [1, 10, 512, 2048])
@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-7, 1e-5])
def test_rankme_of_equal_directions_by_its_epsilon(d: int, eps: float) -> None:
    expected = (1 / d + eps) ** -(1 + d * eps)
    assert rankme(np.full(d, 3.7), eps=eps) == pytest.approx(expected, rel=1e-12)
    if eps == 0:
        assert expected == pytest.approx(d, rel=1e-9)


@pytest.mark.parametrize(("eps", "expected"), [(1e-12, 2048.00003), (1e-7, 2050.78), (1e-5, 2345.10)])
def test_rankme_of_2048_equal_directions(eps: float, expected: float) -> None:
    assert rankme(np.ones(2048), eps=eps) == pytest.approx(expected, abs=0.006)
    inside = 1 / 2048 / (1 + eps)  # eps inside the division, as sigma / (sum + eps): d, whatever eps
    assert 2048 ** (2048 * inside) != pytest.approx(expected, rel=1e-9)


def test_rankme_of_few_directions_counts_epsilon_too() -> None:
    assert rankme(flat(1, 2048), eps=1e-5) == pytest.approx(1.266, abs=5e-4)
    assert rankme(flat(100, 2048), eps=1e-5) == pytest.approx(125.6, abs=0.05)
    assert rankme(flat(100, 2048), eps=0) == pytest.approx(100, rel=1e-12)


def test_rankme_takes_no_more_shares_than_samples() -> None:
    sigma = flat(100, 2048)
    alone = rankme(sigma, n=100, eps=1e-5)
    assert alone == pytest.approx((1 / 100 + 1e-5) ** -(1 + 100 * 1e-5), rel=1e-12)
    assert rankme(sigma, eps=1e-5) - alone > 20
    x = np.random.default_rng(0).normal(size=(30, 100))
    with pytest.warns(UserWarning, match="30 samples"):
        few = spectrum(x, center=False)
    assert rankme(few, eps=1e-3) == pytest.approx(rankme(few.singular_values[:30], eps=1e-3), rel=1e-12)


def test_rankme_without_epsilon_is_the_effective_rank_and_an_offset_lowers_it() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 64))
    sigma = spectrum(x, center=False).singular_values
    assert rankme(sigma, eps=0) == pytest.approx(effective_rank(sigma), rel=1e-12)
    assert rankme(sigma, eps=0) == pytest.approx(63.87, abs=0.1)
    moved = spectrum(x + 5, center=False)
    assert rankme(moved) == pytest.approx(24.47, abs=0.1)
    assert effective_rank(spectrum(x + 5).singular_values) == pytest.approx(63.87, abs=0.1)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("span", [(11, 100), (3, 50), (1, 512), (11, 10_000)])
def test_alpha_of_an_exact_power_law(alpha: float, span: tuple[int, int]) -> None:
    sigma = 7 * np.arange(1, 513) ** (-alpha / 2)
    before = sigma.copy()
    found = alpha_req(sigma, span=span)
    assert found.alpha == pytest.approx(alpha, abs=1e-9)
    assert found.r2 == pytest.approx(1, abs=1e-12)
    assert (found.first, found.last) == (span[0], min(span[1], 512))
    np.testing.assert_array_equal(sigma, before)
    assert alpha_req(np.ascontiguousarray(sigma[::-1]), span=span).alpha == pytest.approx(alpha, abs=1e-9)


def test_alpha_is_a_weighted_fit() -> None:
    rng = np.random.default_rng(2)
    sigma = np.sort(np.arange(1, 201) ** -0.6 * np.exp(0.3 * rng.normal(size=200)))[::-1]
    index = np.arange(11, 101)
    y = 2 * np.log(sigma[10:100])
    slope, _ = np.polyfit(np.log(index), y, 1, w=index**-0.5)  # polyfit squares its weights
    found = alpha_req(sigma)
    assert found.alpha == pytest.approx(-slope, rel=1e-10)
    assert 0.8 < found.r2 < 1
    unweighted, _ = np.polyfit(np.log(index), y, 1)
    assert abs(found.alpha + unweighted) > 1e-3


def test_the_range_of_alpha_changes_it() -> None:
    j = np.arange(1, 257.0)
    broken = np.where(j < 50, j**-0.25, 50**0.75 * j**-1.0)  # lambda falls as j^-.5, then as j^-2
    assert alpha_req(broken, span=(3, 40)).alpha == pytest.approx(0.5, abs=1e-9)
    assert alpha_req(broken, span=(60, 256)).alpha == pytest.approx(2, abs=1e-9)


def test_alpha_of_a_flat_spectrum_is_zero() -> None:
    assert alpha_req(np.ones(200)).alpha == 0 and alpha_req(np.ones(200)).r2 == 1


def test_alpha_refuses_what_has_no_logarithm_and_too_few_points() -> None:
    for bad, message in (
        (flat(60, 512), "only 60 eigenvalues"),
        (np.r_[np.ones(99), np.nan], "NaN"),
        (np.ones(10 + ALPHA_POINTS - 1), f"at least {ALPHA_POINTS}"),
    ):
        with pytest.raises(CollapseError, match=message):
            alpha_req(bad)
    assert alpha_req(np.ones(10 + ALPHA_POINTS)).last == 20
    assert alpha_req(flat(60, 512), span=(11, 60)).alpha == 0
    for span in ((0, 50), (30, 20)):
        with pytest.raises(CollapseError, match="from 1 on"):
            alpha_req(np.ones(100), span=span)


def test_alpha_of_features_refuses_what_is_rounding_of_the_scatter() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 50)) @ rng.normal(size=(50, 128))
    found = spectrum(x)
    assert 0 < found.singular_values[60] < FLOOR * found.singular_values[0]  # not zero, and not of the features
    with pytest.raises(CollapseError, match="only 50 eigenvalues"):
        alpha_req(found)
    few = rng.normal(size=(40, 128))
    with pytest.warns(UserWarning, match="40 samples"):
        assert alpha_req(spectrum(few)).last == 39


def test_sums_over_the_largest() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 30)) * np.arange(1, 31) ** -0.8 + 2
    centred, uncentred = spectrum(x), spectrum(x, center=False)
    c = x - x.mean(0)
    assert nesum(centred) == pytest.approx((c**2).sum() / np.linalg.norm(c, 2) ** 2, rel=1e-12)
    assert nesum(centred) == pytest.approx(stable_rank(spectrum(c, center=False)), rel=1e-12)
    assert stable_rank(uncentred) == pytest.approx((x**2).sum() / np.linalg.norm(x, 2) ** 2, rel=1e-12)
    assert nesum(centred) - stable_rank(uncentred) > 0.5


@pytest.mark.parametrize("score", [nesum, stable_rank, participation_ratio])
def test_equal_directions_are_counted(score) -> None:
    for rank, d in ((1, 1), (10, 10), (10, 512), (512, 512)):
        assert score(5 * flat(rank, d)) == pytest.approx(rank, rel=1e-12)


def test_participation_ratio_and_its_correction() -> None:
    sigma = np.array([2.0, 1.0, 1.0])
    assert participation_ratio(sigma) == pytest.approx(36 / 18)
    assert participation_ratio_corrected(sigma, 10) == pytest.approx(1 / (1 / 2 - 1 / 10))
    rng = np.random.default_rng(5)
    for n, naive in ((200, 66.7), (1000, 90.9)):
        found = spectrum(rng.normal(size=(n, 100)))
        assert participation_ratio(found) == pytest.approx(naive, abs=1.5)
        assert participation_ratio_corrected(found) == pytest.approx(100, abs=3)
    assert participation_ratio(np.arange(1, 9)) < effective_rank(np.arange(1, 9) ** 2)  # Hill numbers of order 2 and 1
    with pytest.raises(CollapseError, match="too few samples"):
        participation_ratio_corrected(np.ones(10), 10)
    with pytest.raises(CollapseError, match="number of samples"):
        participation_ratio_corrected(np.ones(10))


def test_smallest_over_largest_and_dead_directions() -> None:
    assert pseudo_condition([4.0, 1.0, 2.0]) == 0.25
    assert pseudo_condition(flat(3, 4)) == 0
    assert dead_directions([1.0, 1e-4, 0.99e-4, 0.0]) == 2
    assert dead_directions(np.zeros(5)) == 4
    x = np.random.default_rng(6).normal(size=(200, 8))
    x[:, 5] = x[:, 4]
    assert pseudo_condition(spectrum(x, center=False)) == 0  # below what the scatter resolves
    assert dead_directions(spectrum(x)) == 1
    with pytest.raises(CollapseError, match="no ratio"):
        pseudo_condition(np.zeros(3))


def test_the_wrong_spectrum_is_refused() -> None:
    x = np.random.default_rng(7).normal(size=(300, 40))
    centred, uncentred = spectrum(x), spectrum(x, center=False)
    for score in (rankme, stable_rank, pseudo_condition):
        assert score(uncentred) == pytest.approx(score(centred.singular_values), rel=0.1)
        with pytest.raises(CollapseError, match="of the uncentred features"):
            score(centred)
    for score in (alpha_req, nesum, participation_ratio, participation_ratio_corrected):
        score(centred)
        with pytest.raises(CollapseError, match="of the centred features"):
            score(uncentred)


def test_a_spectrum_of_zeros_has_rank_one() -> None:
    zeros = np.zeros(6)
    for score in (rankme, nesum, stable_rank, participation_ratio):
        assert score(zeros) == 1
    assert participation_ratio_corrected(zeros, 10) == 1
    with pytest.raises(CollapseError):
        alpha_req(np.zeros(100))


@pytest.mark.parametrize("bad", [[1.0, np.nan], [np.inf, 1.0], [1.0, -1e-3], [], [[1.0, 2.0]]])
def test_what_is_not_a_spectrum_is_refused(bad: list[float]) -> None:
    for score in (rankme, alpha_req, nesum, stable_rank, participation_ratio, pseudo_condition, dead_directions):
        with pytest.raises(CollapseError):
            score(np.array(bad))
    for options in ({"eps": -1e-9}, {"eps": np.nan}, {"n": 0}):
        with pytest.raises(CollapseError):
            rankme([1.0, 2.0], **options)


def test_scale_and_kind_do_not_matter() -> None:
    sigma = np.arange(1, 120) ** -0.7
    for scale in (1e-160, 1e160):
        for score in (rankme, nesum, stable_rank, participation_ratio, pseudo_condition):
            assert score(sigma * scale) == pytest.approx(score(sigma), rel=1e-12)
        assert alpha_req(sigma * scale).alpha == pytest.approx(1.4, abs=1e-9)
    assert rankme(torch.tensor(sigma)) == rankme(sigma)
