"""Alignment of predictor and correlation: closed forms, and predictors that do not align."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from siamscope.collapse.alignment import alignment
from siamscope.collapse.errors import CollapseError


def orthogonal(d, rng):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def test_shared_eigenvectors_align():
    rng = np.random.default_rng(0)
    for d in (3, 10, 33):
        u = orthogonal(d, rng)
        s = np.sort(rng.uniform(0.1, 2, d))[::-1]
        p = rng.uniform(0.1, 2, d)
        found = alignment((u * s) @ u.T, (u * p) @ u.T, k=5)
        assert found.cosines == pytest.approx(np.ones(min(5, d)), abs=1e-12)
        assert found.cosine == pytest.approx(1, abs=1e-12)
        assert max(found.commutator, found.asymmetry) < 1e-14
        assert found.smallest == pytest.approx(p.min(), abs=1e-12)
        assert found.correlation_spectrum == pytest.approx(s, abs=1e-12)
        assert found.matrix_spectrum == pytest.approx(np.sort(p)[::-1], abs=1e-12)


def test_sign_and_null_directions():
    found = alignment(np.diag([4.0, 3, 2, 1]), np.diag([1.0, -2, 0, 1e-9]), k=4)
    assert list(found.cosines) == [1, -1, 0, 0]  # 1e-9 of W is rounding, not a direction
    assert found.cosine == 0
    assert found.smallest == -2


def test_a_plane_rotation():
    """F = diag(2, 1) and W a rotation by t: cosines cos t, |W - W^T| = 2 sin t |W|, |[F, W]| = sqrt(2) sin t."""
    t = 0.3
    w = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    found = alignment(np.diag([2.0, 1]), w)
    assert found.cosines == pytest.approx([np.cos(t)] * 2, abs=1e-15)
    assert found.asymmetry == pytest.approx(2 * np.sin(t), abs=1e-15)
    assert found.commutator == pytest.approx(np.sqrt(2) * np.sin(t) / np.sqrt(5 * 2), abs=1e-15)
    assert found.matrix_spectrum == pytest.approx([np.cos(t)] * 2, abs=1e-15)


def test_a_rotated_predictor_aligns_less():
    """W with F's spectrum but eigenvectors turned by t in the first plane: cosine (p1 c^2 + p2 s^2) / |W u_1|."""
    t, p1, p2 = 0.5, 3.0, 1.0
    r = np.eye(4)
    r[:2, :2] = [[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]
    w = r @ np.diag([p1, p2, 1, 1]) @ r.T
    found = alignment(np.diag([4.0, 3, 2, 1]), w, k=1)
    inner = p1 * np.cos(t) ** 2 + p2 * np.sin(t) ** 2
    length = np.sqrt(p1**2 * np.cos(t) ** 2 + p2**2 * np.sin(t) ** 2)
    assert found.cosine == pytest.approx(inner / length, abs=1e-14)
    assert found.cosine < 0.95
    assert found.commutator > 0.01


def test_a_random_predictor_does_not_align():
    rng = np.random.default_rng(1)
    d = 64
    x = rng.standard_normal((500, d)) * np.arange(1, d + 1) ** -0.5
    found = alignment(x.T @ x / 500, rng.standard_normal((d, d)))
    assert abs(found.cosine) < 0.2  # ten cosines of standard deviation 1 / 8: 0.2 is five deviations of their mean
    assert found.asymmetry == pytest.approx(np.sqrt(2), abs=0.1)  # independent entries
    assert found.commutator > 0.1
    assert found.smallest < -1


def test_cosines_do_not_see_scale_and_commutator_does_not_either():
    rng = np.random.default_rng(2)
    f, w = np.diag([3.0, 2, 1]), rng.standard_normal((3, 3))
    a, b = alignment(f, w), alignment(1e-3 * f, 1e6 * w)
    assert b.cosines == pytest.approx(a.cosines, rel=1e-12)
    assert b.commutator == pytest.approx(a.commutator, rel=1e-12)
    assert b.asymmetry == pytest.approx(a.asymmetry, rel=1e-12)


def test_zero_matrices_are_finite():
    found = alignment(np.zeros((3, 3)), np.zeros((3, 3)))
    assert (found.cosine, found.asymmetry, found.commutator, found.smallest) == (0, 0, 0, 0)
    assert alignment(np.eye(3), np.zeros((3, 3))).cosine == 0


def test_tensors_and_k_beyond_d():
    f = torch.diag(torch.tensor([2.0, 1.0]))
    found = alignment(f, f.requires_grad_(), k=10)
    assert found.cosines.shape == (2,)
    assert isinstance(found.cosines, np.ndarray)


@pytest.mark.parametrize(
    ("f", "w", "k", "message"),
    [
        (np.eye(3), np.eye(4), 1, "one size"),
        (np.ones((3, 4)), np.eye(3), 1, "correlation has shape"),
        (np.eye(3), np.ones(3), 1, "matrix has shape"),
        (np.eye(3), np.full((3, 3), np.nan), 1, "matrix holds NaN"),
        (np.full((3, 3), np.inf), np.eye(3), 1, "correlation holds NaN"),
        (np.triu(np.ones((3, 3))), np.eye(3), 1, "correlation must be symmetric"),
        (np.eye(3), np.eye(3), 0, "k must be"),
    ],
)
def test_bad_input(f, w, k, message):
    with pytest.raises(CollapseError, match=message):
        alignment(f, w, k)


def test_torch_is_not_imported():
    check = "import sys, siamscope.collapse.alignment\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)
