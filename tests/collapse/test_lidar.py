"""LiDAR against constructions whose value is known, and against what others compute in its name."""

import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from siamscope.collapse import CollapseError, TooFewSamples, group_views, lidar

D = 64


def construction(dims: int = D) -> np.ndarray:
    """Means +- the rows of a Hadamard matrix, of which the first `dims` columns vary; views +- sqrt(.1) e_k."""
    h = hadamard(D).astype(float)
    h[:, dims:] = 0
    means = np.vstack([h, -h])
    noise = np.sqrt(0.1) * np.vstack([np.eye(D), -np.eye(D)])
    return means[:, None] + noise[None]


def random_views(n: int = 400, q: int = 6, d: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(n, 1, d)) * np.arange(1, d + 1)
    return means + rng.normal(size=(n, q, d)) * np.arange(d, 0, -1) + 2


def by_definition(x: np.ndarray, delta: float, eps: float) -> float:
    n, q, d = x.shape
    means = x.mean(1)
    gap = means - means.mean(0)
    within = (x - means[:, None]).reshape(-1, d)
    values, vectors = np.linalg.eigh(within.T @ within / (n * q) + delta * np.eye(d))
    half = vectors / np.sqrt(values) @ vectors.T
    spectrum = np.linalg.svd(half @ (gap.T @ gap / n) @ half, compute_uv=False)
    p = spectrum / spectrum.sum() + eps
    return float(np.exp(-(p * np.log(p)).sum()))


def test_the_construction() -> None:
    assert lidar(construction()) == pytest.approx(64, rel=1e-9)
    assert lidar(construction(10)) == pytest.approx(10, rel=1e-9)
    assert lidar(construction(1)) == pytest.approx(1, rel=1e-9)


def test_what_others_give_for_it() -> None:
    """reptrix 0.1.0 runs PCA on the matrix Sw^-1/2 Sb Sw^-1/2 as if it were data, so one direction is lost; an eps
    outside the division adds to every value."""
    lda = 10 * np.eye(D)  # the matrix of the construction, but for delta
    values = np.linalg.eigvalsh(np.cov(lda.T))
    p = np.clip(values, 0, None) / values.sum() + 1e-7
    assert np.exp(-(p * np.log(p)).sum()) == pytest.approx(63.0013, abs=1e-4)
    eps = 1e-7
    closed_form = (1 / D + eps) ** -(1 + D * eps)
    assert lidar(construction(), eps=eps) == pytest.approx(closed_form, rel=1e-9)
    assert closed_form > 64.001


@pytest.mark.parametrize(("delta", "eps"), [(1e-4, 0.0), (0.5, 0.0), (1e-4, 1e-7)])
def test_the_definition(delta: float, eps: float) -> None:
    x = random_views()
    assert lidar(x, delta=delta, eps=eps) == pytest.approx(by_definition(x, delta, eps), rel=1e-9)
    assert lidar(torch.from_numpy(x), delta=delta, eps=eps) == pytest.approx(lidar(x, delta=delta, eps=eps), rel=1e-9)


def test_invariances_and_the_scale_that_delta_sets() -> None:
    x = random_views()
    full = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    assert lidar(x @ full + 5) == pytest.approx(lidar(x), rel=1e-8)
    assert lidar(x[::-1, ::-1]) == pytest.approx(lidar(x), rel=1e-9)
    skewed = x @ (full * np.arange(1, 9))  # Sw cancels it while delta does not matter
    assert lidar(skewed) == pytest.approx(lidar(x), rel=1e-3)
    assert abs(lidar(x * 1e-4) - lidar(x)) > 0.5
    assert lidar(x * 1e-4, delta=1e-12) == pytest.approx(lidar(x), rel=1e-9)


def test_groups_must_be_images() -> None:
    """Chunks of a queue in place of views of one image give another number: that is why ids are asked for."""
    x = random_views()
    rows = x.reshape(-1, 8)
    mixed = np.random.default_rng(2).permutation(len(rows)).reshape(x.shape[:2])
    assert abs(lidar(rows[mixed]) - lidar(x)) > 0.3
    ids = np.repeat([f"image {i}" for i in range(400)], 6)
    order = np.random.default_rng(3).permutation(len(rows))
    grouped = group_views(rows[order], ids[order])
    assert grouped.shape == (400, 6, 8)
    assert lidar(grouped) == pytest.approx(lidar(x), rel=1e-9)


def test_group_views_keeps_kinds_and_order() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    expected = np.stack([rows[[1, 4]], rows[[0, 2]], rows[[3, 5]]])
    ids = [3, 1, 3, 9, 1, 9]
    assert (group_views(rows, ids) == expected).all()
    found = group_views(torch.from_numpy(rows), torch.tensor(ids))
    assert found.dtype == torch.float32
    assert (found.numpy() == expected).all()


def test_collapse_and_bounds() -> None:
    constant = np.ones((20, 3, 4))
    assert lidar(constant) == 1
    jitter = np.tile(np.random.default_rng(4).normal(size=(1, 3, 4)), (20, 1, 1))
    assert lidar(jitter) == 1  # all images have one mean
    same_views = np.repeat(np.random.default_rng(5).normal(size=(50, 1, 4)), 3, axis=1)
    assert 3 < lidar(same_views) <= 4
    with pytest.warns(TooFewSamples, match="cannot pass 9"):
        assert lidar(np.random.default_rng(6).normal(size=(10, 3, 40))) <= 9 + 1e-9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lidar(np.random.default_rng(6).normal(size=(41, 3, 40)))


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.ones((5, 4)), {}, "group_views"),
        (np.ones((5, 1, 4)), {}, "2 views"),
        (np.ones((1, 5, 4)), {}, "2 images"),
        (np.ones((5, 2, 0)), {}, "shape"),
        (np.full((5, 2, 2), np.nan), {}, "NaN"),
        (np.ones((5, 2, 2)), {"delta": 0.0}, "delta"),
        (np.ones((5, 2, 2)), {"eps": -1.0}, "eps"),
    ],
)
def test_what_is_refused(x: np.ndarray, options: dict, words: str) -> None:
    with pytest.raises(CollapseError, match=words):
        lidar(x, **options)


def test_groups_that_are_refused() -> None:
    with pytest.raises(CollapseError, match=r"b has 1 and a has 2"):
        group_views(np.ones((3, 2)), ["a", "b", "a"])
    with pytest.raises(CollapseError, match="one id"):
        group_views(np.ones((3, 2)), [1, 2])
