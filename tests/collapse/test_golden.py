"""AUC of the spectra published with Li, Efros & Pathak (2022): ResNet-18 SimSiam on p % of ImageNet."""

import numpy as np
import pytest

from siamscope.collapse import alpha_req, auc, dead_directions, effective_rank, nesum, participation_ratio

# p: AUC of sigma, AUC of lambda, effective rank of sigma
GOLDEN = {
    1: (0.6097620476, 0.738175, 465.21),
    5: (0.7480321571, 0.881578, 323.49),
    10: (0.8449220501, 0.970364, 186.49),
    20: (0.8787150303, 0.983347, 140.03),
    50: (0.8714194135, 0.971918, 161.35),
    100: (0.8577546604, 0.979324, 165.56),
}


@pytest.mark.parametrize("percent", GOLDEN)
def test_published_spectra(spectra: dict[str, np.ndarray], percent: int) -> None:
    sigma = spectra[f"p{percent}"]
    of_sigma, of_lambda, rank = GOLDEN[percent]
    assert auc(sigma) == pytest.approx(of_sigma, abs=1e-6)
    assert auc(sigma, of="lambda") == pytest.approx(of_lambda, abs=1e-6)
    assert effective_rank(sigma) == pytest.approx(rank, abs=0.01)


# p: participation ratio, NESum, alpha over indices 11..100, singular values below 1e-4 of the largest
MORE = {
    1: (160.53, 31.357, 0.7245, 3),
    5: (66.93, 18.755, 1.0259, 62),
    10: (12.80, 4.786, 1.8350, 64),
    20: (5.20, 2.505, 1.9251, 74),
    50: (14.92, 5.287, 1.8819, 72),
    100: (4.19, 2.103, 1.8163, 81),
}


@pytest.mark.parametrize("percent", MORE)
def test_published_spectra_by_other_scores(spectra: dict[str, np.ndarray], percent: int) -> None:
    sigma = spectra[f"p{percent}"]
    ratio, sum_over_largest, alpha, dead = MORE[percent]
    assert participation_ratio(sigma) == pytest.approx(ratio, abs=0.006)
    assert nesum(sigma) == pytest.approx(sum_over_largest, abs=6e-4)
    assert alpha_req(sigma).alpha == pytest.approx(alpha, abs=6e-5)
    assert dead_directions(sigma) == dead
