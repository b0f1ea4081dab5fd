"""The spectrum against numpy's SVD, and its conventions."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from siamscope.collapse import CollapseError, CovarianceState, TooFewSamples, auc, spectrum


def svd(x: np.ndarray, *, center: bool = True) -> np.ndarray:
    return np.linalg.svd(x - x.mean(0) if center else x, compute_uv=False)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 20)) * np.arange(1, 21) ** -1.0 + 2


@pytest.mark.parametrize("center", [True, False])
def test_equals_svd(features: np.ndarray, center: bool) -> None:
    found = spectrum(features, center=center)
    np.testing.assert_allclose(found.singular_values, svd(features, center=center), rtol=1e-10)
    assert found.singular_values.dtype == np.float64
    assert (found.n, found.d, found.center, found.row_norm) == (300, 20, center, False)
    assert found.mean_norm == pytest.approx(np.linalg.norm(features.mean(0)), rel=1e-12)
    assert abs(found.singular_values[0] / svd(features, center=not center)[0] - 1) > 0.5


def test_eigenvalues_are_those_of_the_covariance(features: np.ndarray) -> None:
    expected = np.linalg.eigvalsh(np.cov(features.T, ddof=0))[::-1]
    np.testing.assert_allclose(spectrum(features).eigenvalues, expected, rtol=1e-9)


def test_row_norm_divides_rows_before_centring(features: np.ndarray) -> None:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(spectrum(features, row_norm=True).singular_values, svd(unit), rtol=1e-10)
    assert spectrum(features, row_norm=True).row_norm


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("center", [True, False])
def test_fewer_samples_than_dimensions_are_padded_with_zeros(center: bool, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(30, 100)) + 1
    with pytest.warns(TooFewSamples, match="30 samples in 100 dimensions"):
        found = spectrum(x, center=center)
    assert found.singular_values.shape == (100,)
    rank = 30 - center
    np.testing.assert_allclose(found.singular_values[:rank], svd(x, center=center)[:rank], rtol=1e-10)
    assert (found.singular_values[rank:] == 0).all()
    with pytest.warns(TooFewSamples):
        streamed = CovarianceState(100).update(x).spectrum(center=center)
    np.testing.assert_allclose(streamed.singular_values[:rank], found.singular_values[:rank], rtol=1e-9)
    assert streamed.mean_norm == pytest.approx(found.mean_norm, rel=1e-12)


def test_padding_is_what_makes_few_samples_comparable() -> None:
    x = np.random.default_rng(2).normal(size=(100, 512))
    with pytest.warns(TooFewSamples):
        sigma = spectrum(x).singular_values
    assert auc(sigma) == pytest.approx(0.917, abs=0.003)
    assert auc(sigma[:100]) == pytest.approx(0.576, abs=0.006)  # what dividing by N instead of d would say


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_give_what_arrays_give(features: np.ndarray, dtype: torch.dtype) -> None:
    tensor = torch.tensor(features, dtype=dtype, requires_grad=True)
    before = tensor.detach().clone()
    found = spectrum(tensor)
    np.testing.assert_allclose(found.singular_values, spectrum(before.double().numpy()).singular_values, rtol=1e-9)
    assert torch.equal(tensor.detach(), before)


def test_inference_tensors_are_accepted(features: np.ndarray) -> None:
    with torch.inference_mode():
        tensor = torch.tensor(features) * 1
    np.testing.assert_allclose(spectrum(tensor).singular_values, svd(features), rtol=1e-10)


def test_a_large_offset_in_float32_costs_nothing_beyond_its_own_rounding() -> None:
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(4000, 16)) * np.arange(1, 17) ** -1.0 + 1e3).astype(np.float32)
    assert auc(spectrum(x).singular_values) == pytest.approx(auc(svd(x.astype(np.float64))), abs=1e-10)
    in_float32 = np.linalg.svd(x - x.mean(0), compute_uv=False)
    assert abs(auc(in_float32) - auc(svd(x.astype(np.float64)))) > 1e-8  # negative control


def test_the_floor_of_squaring_hardly_moves_auc() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2000, 10)) @ np.linalg.qr(rng.normal(size=(512, 10)))[0].T
    sigma = spectrum(x).singular_values
    assert abs(auc(sigma) - auc(svd(x))) < 1e-7
    assert sigma[10:].max() / sigma[0] < 5e-8


def test_sampling_bias_is_the_documented_one() -> None:
    x = np.random.default_rng(5).normal(size=(1000, 100))
    assert auc(spectrum(x).singular_values) == pytest.approx(0.5516, abs=0.003)


def test_identical_rows_have_no_spectrum_at_all() -> None:
    for n in (7, 5000):  # fewer and more rows than dimensions
        x = np.tile(np.random.default_rng(6).normal(size=(1, 64)).astype(np.float32), (n, 1))
        state = CovarianceState(64).update(x[: n // 2]).update(x[n // 2 :])
        assert (state.m2 == 0).all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TooFewSamples)
            assert (spectrum(x).singular_values == 0).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((1, 4)), "at least 2"),
        (np.ones((0, 4)), "at least 2"),
        (np.ones((4, 0)), "shape"),
        (np.ones(4), "shape"),
        (np.array([[1.0, 2.0], [np.nan, 0.0], [1.0, 0.0]]), "NaN"),
        (np.array([[1.0, np.inf, 0.0]] * 2), "NaN or infinite"),
    ],
)
def test_bad_features_are_refused(bad: np.ndarray, message: str) -> None:
    with pytest.raises(CollapseError, match=message):
        spectrum(bad)
    if bad.ndim == 2:
        with pytest.raises(CollapseError, match=message):
            spectrum(torch.tensor(bad))


def test_the_room_does_not_import_torch() -> None:
    code = "import sys, numpy, siamscope.collapse as c; c.measure(numpy.eye(3)); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
