"""What an isotropic population reads on a sample: the Marchenko-Pastur law against simulations and its closed forms."""

import numpy as np
import pytest

from siamscope.collapse import CollapseError, auc, effective_rank, isotropic, nesum, participation_ratio, spectrum


@pytest.mark.parametrize(
    ("n", "d", "expected"), [(1000, 100, 0.5513), (2000, 100, 0.5375), (10_000, 100, 0.5194), (1024, 512, 0.6122)]
)
def test_auc_of_the_reference(n: int, d: int, expected: float) -> None:
    assert isotropic(n, d).auc_sigma == pytest.approx(expected, abs=1e-4)


@pytest.mark.filterwarnings("ignore::siamscope.collapse.TooFewSamples")
@pytest.mark.parametrize(("n", "d"), [(1000, 100), (250, 100), (100, 100), (50, 100)])
def test_simulations_agree(n: int, d: int) -> None:
    rng = np.random.default_rng(n)
    found = [spectrum(rng.normal(size=(n, d))) for _ in range(8)]
    even = isotropic(n, d)
    for expected, score, within in (
        (even.auc_sigma, lambda s: auc(s.singular_values), 2e-3),
        (even.auc_lambda, lambda s: auc(s.singular_values, of="lambda"), 3e-3),
        (even.effective_rank, lambda s: effective_rank(s.singular_values), 0.5),
        (even.participation_ratio, participation_ratio, 1.0),
        (even.nesum, nesum, 0.1 * even.nesum),
    ):
        assert np.mean([score(s) for s in found]) == pytest.approx(expected, abs=within)
    assert even.auc_sigma - (d + 1) / (2 * d) > 0.03  # the population's own value is far outside


def test_many_samples_give_the_population() -> None:
    for d in (1, 8, 300):
        even = isotropic(10**9, d)
        assert even.auc_sigma == pytest.approx((d + 1) / (2 * d), abs=1e-3)
        for rank in (even.effective_rank, even.participation_ratio, even.nesum):
            assert rank == pytest.approx(d, rel=2e-3)


def test_closed_forms() -> None:
    even = isotropic(401, 100)
    assert even.participation_ratio == pytest.approx(100 / 1.25)
    assert even.nesum == pytest.approx(100 / 1.5**2)
    assert isotropic(400, 100, center=False).nesum == pytest.approx(even.nesum)
    assert isotropic(51, 100).participation_ratio == pytest.approx(100 / 3)


def test_limits_and_refusals() -> None:
    for n, d in ((2, 1), (2, 5000), (3, 2)):
        even = isotropic(n, d)
        assert (d + 1) / (2 * d) <= even.auc_sigma <= even.auc_lambda <= 1
        assert 1 <= even.nesum <= even.participation_ratio <= even.effective_rank <= d
    for n, d in ((1, 3), (10, 0)):
        with pytest.raises(CollapseError, match="n >= 2"):
            isotropic(n, d)
