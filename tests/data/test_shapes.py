"""The procedural data set: an image depends on (seed, index) only; its class is there, but not for raw neighbours."""

import numpy as np
import pytest

from siamscope.data.errors import DataError
from siamscope.data.shapes import MAX_CLASSES, MAX_INDEX, ShapesSpec, class_names, generate, labels


def test_an_image_is_the_same_in_any_batch() -> None:
    spec = ShapesSpec(seed=3)
    indices = np.arange(300)
    images, classes = generate(indices, spec)
    shuffled = np.random.default_rng(0).permutation(300)
    again, again_classes = generate(shuffled, spec)
    np.testing.assert_array_equal(again, images[shuffled])
    np.testing.assert_array_equal(again_classes, classes[shuffled])
    for index in (0, 7, 128, 299):
        np.testing.assert_array_equal(generate(np.array([index]), spec)[0][0], images[index])


def test_labels_alone_equal_the_labels_of_the_images() -> None:
    spec = ShapesSpec(seed=5, classes=7)
    indices = np.array([0, 9, 2**40, MAX_INDEX - 1])
    np.testing.assert_array_equal(labels(indices, spec), generate(indices, spec)[1])


def test_the_endless_stream_does_not_repeat() -> None:
    far = np.concatenate([np.arange(2000), np.arange(2**32, 2**32 + 2000), MAX_INDEX - 1 - np.arange(2000)])
    images, _ = generate(far, ShapesSpec(size=16))
    assert len({image.tobytes() for image in images}) == len(far)


def test_another_seed_is_another_data_set() -> None:
    indices = np.arange(64)
    one, one_classes = generate(indices, ShapesSpec(seed=0))
    two, two_classes = generate(indices, ShapesSpec(seed=1))
    assert (one != two).mean() > 0.9
    assert (one_classes == two_classes).mean() < 0.4
    # the seeds' counters must not overlap: no image of one seed appears under another index of its neighbour
    assert not {image.tobytes() for image in one} & {image.tobytes() for image in two}


def test_labels_are_pinned() -> None:
    """Integer arithmetic only, so exact on every machine; a change here would make old runs incomparable."""
    assert labels(np.arange(16), ShapesSpec()).tolist() == [3, 1, 1, 0, 8, 8, 1, 3, 7, 7, 0, 2, 7, 2, 4, 3]


@pytest.mark.parametrize("classes", [2, 10, MAX_CLASSES])
def test_labels_are_balanced(classes: int) -> None:
    count = 40_000
    counts = np.bincount(labels(np.arange(count), ShapesSpec(classes=classes)), minlength=classes)
    assert len(counts) == classes
    expected = count / classes
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    degrees = classes - 1
    assert chi2 < degrees + 5 * np.sqrt(2 * degrees) + 5  # five standard deviations and the skew of few degrees


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_form_and_range(size: int, channels: int) -> None:
    images, classes = generate(np.arange(200), ShapesSpec(size=size, channels=channels))
    assert images.dtype == np.uint8 and images.shape == (200, channels, size, size)
    assert classes.dtype == np.int64 and classes.shape == (200,)
    assert images.min() < 40
    assert images.std((1, 2, 3)).min() > 3  # no image is empty


def test_no_indices_give_no_images() -> None:
    images, classes = generate(np.arange(0), ShapesSpec())
    assert images.shape == (0, 3, 32, 32) and classes.shape == (0,)


def test_grey_is_the_luma_of_colour() -> None:
    colour, _ = generate(np.arange(50), ShapesSpec())
    grey, _ = generate(np.arange(50), ShapesSpec(channels=1))
    luma = np.tensordot(np.array([0.299, 0.587, 0.114]), colour.astype(np.float64), (0, 1))
    # each channel has noise of its own and grey has one; both are clipped
    assert abs((luma - grey[:, 0]).mean()) < 1
    assert np.corrcoef(luma.ravel(), grey.ravel())[0, 1] > 0.98


def test_a_larger_size_is_the_same_picture() -> None:
    small = generate(np.arange(30), ShapesSpec(size=32))[0].astype(np.float64)
    large = generate(np.arange(30), ShapesSpec(size=128))[0].astype(np.float64)
    reduced = large.reshape(30, 3, 32, 4, 32, 4).mean((3, 5))
    assert np.corrcoef(small.ravel(), reduced.ravel())[0, 1] > 0.97
    assert np.corrcoef(small.ravel(), np.roll(reduced, 1, 0).ravel())[0, 1] < 0.5


def test_names_are_distinct_pairs() -> None:
    names = class_names(ShapesSpec(classes=MAX_CLASSES))
    assert len(set(names)) == MAX_CLASSES == 56
    assert names[:2] == class_names(ShapesSpec(classes=2)) == ("disc-plain", "star-stripes")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1), ("seed", 2**63), ("seed", 1.5), ("size", 15), ("size", 513), ("size", "32"), ("size", True),
        ("classes", 1), ("classes", 57), ("channels", 2), ("channels", "3"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(field: str, value: object) -> None:
    with pytest.raises(DataError, match=f"shapes: {field} is {value!r}"):
        ShapesSpec(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("indices", [np.array([-1]), np.array([2**62]), np.array([0.5]), np.zeros((2, 2), np.int64)])
def test_bad_indices_are_refused(indices: np.ndarray) -> None:
    with pytest.raises(DataError, match="indices"):
        generate(indices, ShapesSpec())
    with pytest.raises(DataError, match="indices"):
        labels(indices, ShapesSpec())


# --- is the class in the image, and not in the raw pixels? ---


@pytest.fixture(scope="module")
def samples() -> tuple[np.ndarray, np.ndarray]:
    return generate(np.arange(4000), ShapesSpec())


def _linear_accuracy(features: np.ndarray, classes: np.ndarray, train: int) -> float:
    """Held-out accuracy of a ridge regression onto one-hot labels."""
    features = (features - features[:train].mean(0)) / (features[:train].std(0) + 1e-9)
    features = np.c_[features, np.ones(len(features))]
    x, y = features[:train], np.eye(10)[classes[:train]]
    weights = np.linalg.solve(x.T @ x + 100 * np.eye(x.shape[1]), x.T @ y)
    return float(((features[train:] @ weights).argmax(1) == classes[train:]).mean())


def _spectrum(images: np.ndarray) -> np.ndarray:
    """Log magnitudes of the Fourier transform of the luma: blind to position and colour by construction."""
    grey = images.astype(np.float64).mean(1)
    grey -= grey.mean((1, 2), keepdims=True)
    grey /= grey.std((1, 2), keepdims=True)
    return np.log(np.abs(np.fft.rfft2(grey)) + 1.0).reshape(len(images), -1)


def test_the_class_is_in_the_image(samples: tuple[np.ndarray, np.ndarray]) -> None:
    images, classes = samples
    features = _spectrum(images)
    assert _linear_accuracy(features, classes, 3000) > 0.85
    shuffled = np.random.default_rng(0).permutation(classes)
    assert _linear_accuracy(features, shuffled, 3000) < 0.16  # chance is 0.10, and four standard deviations are 0.04


def test_colour_alone_does_not_give_the_class(samples: tuple[np.ndarray, np.ndarray]) -> None:
    images, classes = samples
    mean_colour = images.astype(np.float64).mean((2, 3))
    assert _linear_accuracy(mean_colour, classes, 3000) < 0.25


def test_neighbours_of_raw_pixels_rarely_share_the_class(samples: tuple[np.ndarray, np.ndarray]) -> None:
    images, classes = samples
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)  # the stronger form
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    bank, queries = slice(0, 2000), slice(2000, 4000)
    nearest = np.argsort(-(flat[queries] @ flat[bank].T), axis=1)[:, :20]
    votes = np.stack([(classes[bank][nearest] == c).sum(1) for c in range(10)], 1)
    accuracy = (votes.argmax(1) == classes[queries]).mean()
    assert 0.10 < accuracy <= 0.45
