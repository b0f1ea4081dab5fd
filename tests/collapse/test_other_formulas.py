"""What other libraries compute under the same names (reference section 4), beside the closed form that ours gives.

Each of theirs is restated here in a few lines, so that the difference is pinned and nobody takes it for ours.
"""

import numpy as np
import pytest

from siamscope.collapse import TooFewSamples, alpha_req, auc, rankme, spectrum


def rankme_with_a_large_epsilon(sigma: np.ndarray) -> float:
    """stable-pretraining (torch): eps = 1e-5."""
    p = sigma / sigma.sum() + 1e-5
    return float(np.exp(-(p * np.log(p)).sum()))


def rankme_of_eigenvalues(eigenvalues: np.ndarray) -> float:
    """reptrix 0.1.0: exp of the entropy of the centred covariance's eigenvalues."""
    p = eigenvalues / eigenvalues.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def alpha_on_a_linear_index(sigma: np.ndarray) -> float:
    """google-research graph_embedding/metrics: slope of log sigma on evenly spaced numbers from 1 to 0."""
    return float(np.polyfit(np.linspace(1, 0, len(sigma)), np.log(sigma), 1)[0])


def rankme_with_epsilon_twice(sigma: np.ndarray, eps: float) -> float:
    """The same: eps also in the sum."""
    p = sigma / (sigma + eps).sum() + eps
    return float(np.exp(-(p * np.log(p)).sum()))


def auc_over_the_samples(x: np.ndarray) -> float:
    """The official code of Li et al.: the divisor is the number of singular values that the SVD gives, min(N, d)."""
    sigma = np.linalg.svd(x - x.mean(0), compute_uv=False)
    return float((np.cumsum(sigma) / sigma.sum()).mean())


def test_rankme_with_a_large_epsilon_passes_the_number_of_dimensions() -> None:
    sigma = np.ones(2048)
    assert rankme_with_a_large_epsilon(sigma) == pytest.approx(2345.10, abs=0.01)
    assert rankme(sigma, eps=0) == pytest.approx(2048, rel=1e-9)
    assert rankme(sigma) == pytest.approx(2050.78, abs=0.005)


def test_rankme_of_eigenvalues_is_another_number() -> None:
    eigenvalues = 1 / np.arange(1, 257)
    assert rankme_of_eigenvalues(eigenvalues) == pytest.approx(74.6, abs=0.05)
    assert rankme(np.sqrt(eigenvalues), eps=0) == pytest.approx(209.1, abs=0.1)


@pytest.mark.parametrize(("alpha", "theirs"), [(0.5, 0.731), (1.0, 1.463), (2.0, 2.925)])
def test_alpha_on_a_linear_index_is_no_exponent(alpha: float, theirs: float) -> None:
    sigma = np.arange(1, 257) ** (-alpha / 2)
    assert alpha_on_a_linear_index(sigma) == pytest.approx(theirs, abs=1e-3)
    assert alpha_req(sigma).alpha == pytest.approx(alpha, abs=1e-9)


def test_alpha_of_sigma_is_half() -> None:
    sigma = np.arange(1, 257) ** -0.5
    slope = -np.polyfit(np.log(np.arange(11, 101)), np.log(sigma[10:100]), 1)[0]
    assert slope == pytest.approx(0.5, abs=1e-9)
    assert alpha_req(sigma).alpha == pytest.approx(1, abs=1e-9)


def test_epsilon_twice_is_not_the_papers_rankme() -> None:
    sigma = np.full(512, 1e-3)  # small singular values, where an epsilon beside them counts
    ours = rankme(sigma, eps=1e-5)
    assert ours == pytest.approx((1 / 512 + 1e-5) ** -(1 + 512e-5), rel=1e-12)
    assert abs(rankme_with_epsilon_twice(sigma, 1e-5) - ours) > 1


def test_auc_over_the_samples_hides_how_few_they_are() -> None:
    x = np.random.default_rng(0).normal(size=(100, 512))
    assert auc_over_the_samples(x) == pytest.approx(0.576, abs=0.01)
    with pytest.warns(TooFewSamples):
        assert auc(spectrum(x).singular_values) == pytest.approx(0.917, abs=0.003)
