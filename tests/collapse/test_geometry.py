"""Scores of directions and of neighbours against closed forms; arrays and tensors alike."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import hyp0f1

from siamscope.collapse import (
    CollapseError,
    clid_learnability,
    coherence,
    intrinsic_dimension,
    self_cluster,
    twonn,
    uniformity,
    view_alignment,
)

ONE_MATRIX = [self_cluster, coherence, uniformity, twonn, clid_learnability]


def sphere(n: int, d: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(9).normal(size=(d, d)))[0]


# ------------------------------------------------------------------------------------------ self-clustering


@pytest.mark.parametrize("d", [2, 8, 64])
def test_self_cluster_of_a_basis_and_of_a_line(d: int) -> None:
    assert self_cluster(np.eye(d)) == pytest.approx(-1 / (d - 1), abs=1e-13)
    assert self_cluster(np.repeat(np.ones((1, d)), 50, 0)) == pytest.approx(1, abs=1e-13)
    both_ends = np.random.default_rng(0).normal(size=(50, 1)) * np.ones((1, d))
    assert self_cluster(both_ends) == pytest.approx(1, abs=1e-13)  # squared cosines do not know the sign


def test_self_cluster_is_the_formula_with_all_pairs() -> None:
    x = np.random.default_rng(1).normal(size=(300, 12)) * np.arange(1, 13) + 0.5
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    e = 300 + 300 * 299 / 12
    expected = (np.linalg.norm(u @ u.T) ** 2 - e) / (300**2 - e)
    assert self_cluster(x) == pytest.approx(expected, rel=1e-12)
    raw = (np.linalg.norm(x @ x.T) ** 2 - e) / (300**2 - e)  # without unit rows
    assert abs(raw - expected) > 1
    assert abs(self_cluster(sphere(4000, 64))) < 2e-3
    assert self_cluster(x) == pytest.approx(self_cluster(x * np.linspace(1, 9, 300)[:, None]), rel=1e-12)


def test_rows_without_a_direction() -> None:
    x = sphere(200, 8)
    assert self_cluster(np.vstack([x, np.zeros((100, 8))])) == pytest.approx(self_cluster(x), rel=1e-12)
    assert self_cluster(np.zeros((5, 8))) == 1
    assert self_cluster(np.ones((5, 1))) == 1
    assert uniformity(np.zeros((5, 8))) == 0
    assert view_alignment(np.zeros((5, 8)), x[:5]) == pytest.approx(1)
    assert coherence(np.zeros((5, 3))) == 1


# ------------------------------------------------------------------------------------------ coherence


def test_coherence_of_known_row_weights() -> None:
    orthogonal = rotation(40)[:, :6] * np.arange(1, 7)  # columns orthogonal, so U is the rotation's columns
    expected = 40 / 6 * (rotation(40)[:, :6] ** 2).sum(1).max()
    assert coherence(orthogonal) == pytest.approx(expected, rel=1e-12)
    assert coherence(orthogonal @ rotation(6)) == pytest.approx(expected, rel=1e-10)
    assert coherence(np.vstack([np.eye(4)] * 5)) == pytest.approx(1, abs=1e-12)  # all rows weigh the same
    one_row = np.vstack([np.eye(4)[:1] * 3, np.vstack([np.eye(4)[1:]] * 9)])
    assert coherence(one_row) == pytest.approx(28 / 4, rel=1e-12)  # one row alone spans a direction: n / d


def test_coherence_counts_the_rank_not_the_columns() -> None:
    x = np.random.default_rng(2).normal(size=(60, 5))
    full = coherence(x)
    assert coherence(x @ np.random.default_rng(3).normal(size=(5, 20))) == pytest.approx(full, rel=1e-9)
    u = np.linalg.svd(x @ np.ones((5, 20)), full_matrices=False)[0]  # rank 1: 19 vectors are arbitrary
    arbitrary = 60 / 20 * (u**2).sum(1).max()
    assert abs(arbitrary - coherence(x @ np.ones((5, 20)))) > 0.1
    wide = np.random.default_rng(4).normal(size=(6, 30))
    assert coherence(wide) == pytest.approx(1, abs=1e-10)  # N < d at full rank: every row has weight 1
    assert coherence(np.vstack([wide, wide[:1]])) == pytest.approx(7 / 6, rel=1e-10)
    assert coherence(x, x.T @ x) == full
    assert coherence(x, np.eye(5)) != full


# ------------------------------------------------------------------------------------------ uniformity, alignment


def test_uniformity_closed_forms() -> None:
    assert uniformity(np.eye(64)) == pytest.approx(-4, abs=1e-13)
    assert uniformity(np.eye(64), t=0.5) == pytest.approx(-1, abs=1e-13)
    assert uniformity(np.repeat(sphere(1, 7), 3000, 0)) == pytest.approx(0, abs=1e-12)
    assert uniformity(np.array([[1.0, 0], [-5, 0]])) == pytest.approx(-8, abs=1e-13)
    expected = -4 + math.log(hyp0f1(32, 4.0))
    assert expected == pytest.approx(-3.875236, abs=1e-6)
    assert uniformity(sphere(4000, 64), most=4000) == pytest.approx(expected, abs=5e-3)


def test_uniformity_takes_pairs_once_and_never_a_row_with_itself() -> None:
    x = sphere(2500, 5, seed=3)  # three blocks, the last one short
    i, j = np.triu_indices(2500, 1)
    expected = math.log(np.exp(-2 * ((x[i] - x[j]) ** 2).sum(1)).mean())
    assert uniformity(x * 7) == pytest.approx(expected, rel=1e-12)
    x = x[:20]
    with_itself = math.log(np.exp(-2 * ((x[:, None] - x[None]) ** 2).sum(2)).mean())
    assert uniformity(x) < with_itself - 0.1


def test_a_sample_stands_for_many_rows() -> None:
    x = sphere(3000, 16, seed=4)
    exact, sampled = uniformity(x, most=3000), uniformity(x, most=1000, seed=1)
    assert exact != sampled
    assert sampled == pytest.approx(exact, abs=0.02)
    assert sampled == uniformity(x, most=1000, seed=1) != uniformity(x, most=1000, seed=2)


def test_view_alignment_closed_forms() -> None:
    x = sphere(100, 8)
    assert view_alignment(x, 3 * x) == pytest.approx(0, abs=1e-14)
    assert view_alignment(x, -x) == pytest.approx(4, abs=1e-13)
    assert view_alignment(x, -x, alpha=1) == pytest.approx(2, abs=1e-13)
    assert view_alignment(np.eye(8), np.eye(8)[::-1]) == pytest.approx(2, abs=1e-13)
    y = sphere(100, 8, seed=1)
    assert view_alignment(x, y) == pytest.approx((2 - 2 * (x * y).sum(1)).mean(), rel=1e-12)
    assert abs(view_alignment(x, y) - view_alignment(x, y[::-1])) > 1e-3  # the pairing counts


# ------------------------------------------------------------------------------------------ intrinsic dimension


@pytest.mark.parametrize(("d", "low", "high"), [(2, 1.9, 2.1), (5, 4.5, 5.1), (10, 8.2, 8.9)])
def test_twonn_of_cubes(d: int, low: float, high: float) -> None:
    cube = np.random.default_rng(0).random((3000, d))
    assert low < twonn(cube) < high
    bent = np.hstack([cube, np.sin(cube), cube**2])  # neither embedding nor offset change the dimension
    assert twonn(bent @ rotation(3 * d) + 1e3) == pytest.approx(twonn(cube), rel=0.06)


def test_twonn_is_its_formula_and_leaves_out_copies() -> None:
    x = np.random.default_rng(5).normal(size=(700, 3))  # two blocks
    distances = np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), axis=1)[:, 1:3]
    expected = 700 / np.log(distances[:, 1] / distances[:, 0]).sum()
    assert twonn(x) == pytest.approx(expected, rel=1e-10)
    found = intrinsic_dimension(np.vstack([x, x[:40], x[:1]]))
    assert (found.n, found.duplicates) == (700, 41)
    assert found.dimension == pytest.approx(expected, rel=1e-10)
    assert twonn(x * 1e-200) == pytest.approx(expected, rel=1e-10)
    assert twonn(x + 1e6) == pytest.approx(expected, rel=1e-4)


def test_twonn_of_too_little() -> None:
    assert intrinsic_dimension(np.ones((9, 4))).dimension == 0
    assert intrinsic_dimension(np.ones((9, 4))).duplicates == 8
    with pytest.raises(CollapseError, match="2 distinct"):
        twonn(np.array([[0.0], [1.0], [1.0]]))
    with pytest.raises(CollapseError, match="one distance"):
        twonn(np.eye(9))


# ------------------------------------------------------------------------------------------ learnability


def test_learnability_of_clumps_and_of_a_cloud() -> None:
    rng = np.random.default_rng(6)
    clumps = np.repeat(10 * rng.normal(size=(8, 16)), 50, 0) + 0.1 * rng.normal(size=(400, 16))
    assert clid_learnability(clumps, clusters=8) == 1  # every clump its cluster
    cloud = rng.normal(size=(400, 64))
    assert clid_learnability(cloud) < 0.5  # no clumps: cells of k-means in many dimensions are hard to learn
    assert clid_learnability(cloud) > 1 / 20  # but their borders are not random
    assert clid_learnability(cloud[:, :1]) > 0.9  # intervals of a line are easy
    assert clid_learnability(np.ones((40, 3))) == 1


def test_learnability_is_of_geometry_alone() -> None:
    x = np.random.default_rng(7).normal(size=(500, 6))
    value = clid_learnability(x)
    assert clid_learnability(5 * x @ rotation(6) + 3) == value
    assert clid_learnability(x, seed=1) != value
    assert clid_learnability(x, neighbours=10**6) < value - 0.2  # everybody votes: the largest cluster always wins


def test_the_nearest_decides_a_draw() -> None:
    from siamscope.collapse.intrinsic import _vote

    bank, labels = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([1, 0, 0, 1])
    assert _vote(bank, labels, np.array([[0.0], [5.0], [2.1]]), 4).tolist() == [1, 1, 0]
    assert _vote(bank, labels, np.array([[0.0]]), 3).tolist() == [0]


# ------------------------------------------------------------------------------------------ every score


@pytest.mark.parametrize("score", ONE_MATRIX)
def test_tensors_give_the_same(score) -> None:
    x = np.random.default_rng(8).normal(size=(700, 10)).astype(np.float32) + 0.3
    expected = score(x)
    assert isinstance(expected, float)
    assert score(torch.from_numpy(x).requires_grad_()) == pytest.approx(expected, rel=1e-9, abs=1e-7)
    assert score(x.astype(np.float64)) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    x.setflags(write=False)  # and leaves them as they are
    assert score(x) == expected


def test_view_alignment_of_tensors() -> None:
    x, y = sphere(50, 6), sphere(50, 6, seed=1)
    assert view_alignment(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(view_alignment(x, y), rel=1e-12)


@pytest.mark.parametrize("score", ONE_MATRIX)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(score, bad: float) -> None:
    x = sphere(30, 4)
    x[7, 2] = bad
    with pytest.raises(CollapseError, match="NaN or infinite"):
        score(x)
    with pytest.raises(CollapseError, match="NaN or infinite"):
        view_alignment(sphere(30, 4), x)


@pytest.mark.parametrize("score", ONE_MATRIX)
def test_shapes_that_are_refused(score) -> None:
    for x in (np.ones(5), np.ones((1, 5)), np.ones((5, 0)), np.ones((2, 3, 4))):
        with pytest.raises(CollapseError, match=r"shape|rows"):
            score(x)


@pytest.mark.parametrize("score", ONE_MATRIX)
def test_degenerate_rows_give_a_number_in_silence(score) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (np.ones((40, 3)), np.zeros((40, 3)), np.random.default_rng(0).normal(size=(40, 1))):
            assert math.isfinite(score(x))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: uniformity(x, t=0),
        lambda x: uniformity(x, t=1e9),
        lambda x: uniformity(x, most=1),
        lambda x: view_alignment(x, x[:3]),
        lambda x: view_alignment(x, x, alpha=0),
        lambda x: twonn(x, most=0),
        lambda x: clid_learnability(x, clusters=1),
        lambda x: clid_learnability(x, clusters=25),
        lambda x: clid_learnability(x, neighbours=0),
    ],
)
def test_options_that_are_refused(call) -> None:
    with pytest.raises(CollapseError):
        call(sphere(40, 4))
