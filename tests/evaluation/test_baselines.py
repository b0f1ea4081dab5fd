"""Raw pixels as features."""

import numpy as np
import pytest
import torch

from siamscope.evaluation import EvaluationError, raw_pixels

IMAGES = np.random.default_rng(0).integers(0, 256, size=(11, 3, 8, 12), dtype=np.uint8)


def test_values_are_scaled_centred_per_image_and_flattened() -> None:
    found = raw_pixels(IMAGES)
    flat = IMAGES.reshape(11, -1) / 255
    np.testing.assert_allclose(found.numpy(), flat - flat.mean(1, keepdims=True), atol=1e-6)
    assert found.dtype == torch.float32 and found.shape == (11, 288)
    assert torch.equal(raw_pixels(torch.as_tensor(IMAGES)), found)


def test_cosine_is_the_correlation_of_the_images() -> None:
    a, b = raw_pixels(IMAGES[:2]).double()
    expected = np.corrcoef(IMAGES[0].ravel(), IMAGES[1].ravel())[0, 1]
    assert float(a @ b / (a.norm() * b.norm())) == pytest.approx(expected, abs=1e-6)


def test_brightness_does_not_count_and_a_constant_image_is_zero() -> None:
    dark = (IMAGES // 2).astype(np.uint8)
    torch.testing.assert_close(raw_pixels(dark + 100), raw_pixels(dark), atol=1e-6, rtol=0)
    assert raw_pixels(np.full((1, 3, 4, 4), 77, dtype=np.uint8)).abs().max() < 1e-6


def test_shrinking_averages_areas() -> None:
    found = raw_pixels(IMAGES, max_features=3 * 4 * 6)
    areas = (IMAGES / 255).reshape(11, 3, 4, 2, 6, 2).mean((3, 5))
    expected = (areas - areas.mean((1, 2, 3), keepdims=True)).reshape(11, -1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 28, 28), (3, 100, 7), (3, 7, 100), (1, 1, 5000), (5, 64, 48)])
@pytest.mark.parametrize("limit", [10, 768, 10**6])
def test_the_limit_holds_for_any_shape(shape: tuple[int, int, int], limit: int) -> None:
    found = raw_pixels(np.zeros((2, *shape), dtype=np.uint8), max_features=limit)
    assert shape[0] <= found.shape[1] <= min(limit, int(np.prod(shape)))
    assert found.shape[1] >= min(limit, int(np.prod(shape))) * 0.3  # nor is more thrown away than needed


@pytest.mark.parametrize("bad", [IMAGES / 255, IMAGES[0], IMAGES[:0]])
def test_other_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(EvaluationError, match="uint8"):
        raw_pixels(bad)
    with pytest.raises(EvaluationError, match="less than one pixel"):
        raw_pixels(IMAGES, max_features=2)
