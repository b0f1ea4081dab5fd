"""Scores against closed forms, identities and invariances."""

import numpy as np
import pytest
import torch

from siamscope.collapse import (
    CollapseError,
    auc,
    cumulative_explained,
    effective_rank,
    embedding_std,
    positive_similarity,
    spectrum,
)


def flat(rank: int, d: int) -> np.ndarray:
    return np.r_[np.ones(rank), np.zeros(d - rank)]


@pytest.mark.parametrize(
    ("d", "expected"), [(1, 1.0), (2, 0.75), (10, 0.55), (512, 0.5009765625), (2048, 0.500244140625)]
)
def test_auc_of_a_flat_spectrum(d: int, expected: float) -> None:
    assert auc(np.full(d, 7.3)) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(("rank", "expected"), [(10, 0.9912109375), (256, 0.7509765625), (1, 1.0)])
def test_auc_of_a_flat_spectrum_of_lower_rank(rank: int, expected: float) -> None:
    assert auc(flat(rank, 512)) == pytest.approx(expected, abs=1e-14)
    # Dropping the zeros, as the divisor min(N, d) does, must give another number.
    assert abs(auc(np.ones(rank)) - expected) > (0.2 if rank > 1 else -1)


def test_auc_of_geometric_and_power_law_spectra() -> None:
    k = np.arange(1, 513)
    assert auc(0.97**k) == pytest.approx(0.936849127038358, abs=1e-13)
    assert auc(k**-1.3) == pytest.approx(0.9381265833125436, abs=1e-13)


def test_auc_equals_its_rank_and_gini_forms() -> None:
    rng = np.random.default_rng(0)
    for d in (2, 17, 512):
        sigma = np.sort(rng.gamma(0.5, size=d))[::-1]
        p, k = sigma / sigma.sum(), np.arange(1, d + 1)
        gini = np.abs(sigma[:, None] - sigma[None, :]).sum() / (2 * d * sigma.sum())
        assert auc(sigma) == pytest.approx((d + 1 - (k * p).sum()) / d, abs=1e-14)
        assert auc(sigma) == pytest.approx((1 + gini + 1 / d) / 2, abs=1e-14)
        trapezium = (np.cumsum(p).sum() - 0.5) / d  # with a point at k = 0: not the paper's sum
        assert abs(auc(sigma) - trapezium) > 5e-4


def test_lambda_uses_squares_and_order_does_not_matter() -> None:
    sigma = np.arange(1, 9)[::-1] / 3
    assert auc(sigma, of="lambda") == pytest.approx(auc(sigma**2), abs=1e-15)
    assert auc(sigma, of="lambda") - auc(sigma) > 0.05
    assert auc(sigma[::-1]) == auc(sigma)
    assert cumulative_explained(sigma)[0] == pytest.approx(8 / 36)
    assert cumulative_explained(sigma)[-1] == pytest.approx(1, abs=1e-15)


def test_scale_does_not_overflow() -> None:
    sigma = np.array([3.0, 2.0, 1.0])
    for scale in (1e-200, 1e200):
        assert auc(sigma * scale, of="lambda") == pytest.approx(auc(sigma, of="lambda"), abs=1e-14)


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(700, 24)) * np.arange(1, 25) ** -0.7 @ rng.normal(size=(24, 24)) + 0.3


def of(x: np.ndarray) -> float:
    return auc(spectrum(x).singular_values)


def test_auc_is_invariant_to_what_does_not_change_the_shape(cloud: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    reference = of(cloud)
    for changed in (
        cloud @ rotation,
        cloud * 123.4,
        cloud + rng.normal(size=24),
        cloud[rng.permutation(700)],
        np.repeat(cloud, 3, axis=0),
    ):
        assert of(changed) == pytest.approx(reference, abs=1e-12)
    assert abs(of(cloud * np.arange(1, 25)) - reference) > 1e-3  # a change of shape is seen


def test_dead_dimensions_move_auc_as_they_should(cloud: np.ndarray) -> None:
    d, extra = 24, 10
    padded = np.hstack([cloud, np.zeros((700, extra))])
    assert of(padded) == pytest.approx((d * of(cloud) + extra) / (d + extra), abs=1e-12)


@pytest.mark.parametrize("d", [1, 3, 64, 2048])
def test_effective_rank_counts_equal_directions(d: int) -> None:
    assert effective_rank(np.full(d, 0.1)) == pytest.approx(d, rel=1e-9)
    assert effective_rank(np.r_[np.full(d, 2.0), np.zeros(50)]) == pytest.approx(d, rel=1e-9)


def test_effective_rank_of_two_unequal_directions() -> None:
    p = np.array([0.9, 0.1])
    assert effective_rank(3 * p) == pytest.approx(float(np.prod(p**-p)), rel=1e-12)
    assert effective_rank(3 * p) != pytest.approx(float(np.exp(-(p**2 / 0.82 * np.log(p**2 / 0.82)).sum())), rel=0.05)


def test_no_variation_is_complete_collapse_by_convention() -> None:
    constant = np.full((50, 8), 0.1)
    sigma = spectrum(constant).singular_values
    assert (sigma == 0).all()
    assert auc(sigma) == 1 and auc(sigma, of="lambda") == 1
    assert effective_rank(sigma) == 1
    assert embedding_std(constant) == 0 and embedding_std(np.zeros((5, 3))) == 0


@pytest.mark.parametrize("bad", [[1.0, np.nan], [np.inf, 1.0], [1.0, -1e-3], [], [[1.0, 2.0]]])
def test_what_is_not_a_spectrum_is_refused(bad: list[float]) -> None:
    for score in (auc, effective_rank):
        with pytest.raises(CollapseError):
            score(np.array(bad))


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(CollapseError, match="'sigma'"):
        auc([1.0, 2.0], of="variance")  # type: ignore[arg-type]


def test_embedding_std_of_an_isotropic_cloud_is_one() -> None:
    z = np.random.default_rng(3).normal(size=(20_000, 32))
    assert embedding_std(z) == pytest.approx(1, abs=0.01)
    assert embedding_std(z * 1e-6) == pytest.approx(embedding_std(z), rel=1e-9)


def test_embedding_std_matches_its_definition() -> None:
    z = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    expected = torch.nn.functional.normalize(z).std(dim=0).mean() * 7**0.5
    assert embedding_std(z) == pytest.approx(float(expected), rel=1e-12)
    assert embedding_std(z.numpy()) == pytest.approx(float(expected), rel=1e-12)


def test_embedding_std_is_blind_to_dimensional_collapse_and_rank_is_not() -> None:
    rng = np.random.default_rng(4)
    line = rng.normal(size=(2000, 1)) @ rng.normal(size=(1, 512))
    assert embedding_std(line) == pytest.approx(0.80, abs=0.04)
    sigma = spectrum(line).singular_values
    assert effective_rank(sigma) < 1.001 and auc(sigma) > 0.993


def test_positive_similarity_by_hand() -> None:
    first = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
    second = np.array([[3.0, 0.0], [0.0, -1.0], [1.0, 0.0], [1.0, 0.0]])
    assert positive_similarity(first, second) == pytest.approx((1 - 1 + 0.5**0.5 + 0) / 4, abs=1e-15)
    assert positive_similarity(torch.tensor(first), torch.tensor(second)) == pytest.approx(0.5**0.5 / 4, abs=1e-15)
    for bad in (second[:3], second[:0], second * np.nan):
        with pytest.raises(CollapseError):
            positive_similarity(first[: len(bad)] if len(bad) == 0 else first, bad)


def test_embedding_std_refuses_what_it_cannot_measure() -> None:
    for bad in (np.ones((1, 3)), np.ones(3), np.array([[1.0, np.nan], [0.0, 1.0]]), np.ones((3, 0))):
        with pytest.raises(CollapseError):
            embedding_std(bad)
