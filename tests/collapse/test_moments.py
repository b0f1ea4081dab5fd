"""One pass gives what each score gives alone; streams, merges and removals agree with it; tensors too."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import siamscope.collapse as c
from siamscope.collapse import CollapseError, Conventions, Moments, moment_scores, moments, quick
from siamscope.collapse.moments import QUICK

N, D = 3000, 32


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(N, D)) * np.arange(1, D + 1) ** -0.6) @ np.linalg.qr(rng.normal(size=(D, D)))[0] + 0.2


def assert_same(found: dict[str, float], expected: dict[str, float], rel: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=rel, abs=1e-12, nan_ok=True), name


def test_one_pass_gives_what_each_score_gives_alone(cloud: np.ndarray) -> None:
    centred, uncentred = c.spectrum(cloud), c.spectrum(cloud, center=False)
    sigma = centred.singular_values
    expected = {
        "auc_sigma": c.auc(sigma),
        "auc_lambda": c.auc(sigma, of="lambda"),
        "effective_rank": c.effective_rank(sigma),
        "rankme": c.rankme(uncentred),
        "alpha_req": c.alpha_req(centred).alpha,
        "nesum": c.nesum(centred),
        "stable_rank": c.stable_rank(uncentred),
        "participation_ratio": c.participation_ratio(centred),
        "participation_ratio_corrected": c.participation_ratio_corrected(centred),
        "pseudo_condition": c.pseudo_condition(uncentred),
        "self_cluster": c.self_cluster(cloud),
        "embedding_std": c.embedding_std(cloud),
    }
    assert_same(moment_scores(moments(cloud)), expected)
    assert_same(quick(cloud), {name: expected[name] for name in QUICK})


def test_self_cluster_leaves_zero_rows_out_as_the_score_does(cloud: np.ndarray) -> None:
    rows = cloud.copy()
    rows[:100] = 0
    assert moments(rows).self_cluster() == pytest.approx(c.self_cluster(rows), rel=1e-10)
    assert abs(moments(rows).self_cluster() - moments(cloud).self_cluster()) < 0.01
    basis = np.eye(64)
    assert moments(basis).self_cluster() == pytest.approx(-1 / 63, abs=1e-12)


def test_a_stream_of_blocks_or_a_memory_map_gives_the_same(cloud: np.ndarray, tmp_path) -> None:
    expected = moment_scores(moments(cloud))

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, N, 700):
            yield cloud[start : start + 700]
            yield cloud[:0]

    assert_same(moment_scores(moments(blocks())), expected)
    np.save(tmp_path / "x.npy", cloud)
    assert_same(moment_scores(moments(np.load(tmp_path / "x.npy", mmap_mode="r"))), expected)
    merged = moments(cloud[:100]).merge(moments(cloud[100:2000])).merge(Moments(D)).merge(moments(cloud[2000:]))
    assert merged.n == N
    assert_same(moment_scores(merged), expected)


def test_a_large_offset_costs_the_stream_no_digits(cloud: np.ndarray) -> None:
    """Centred scores do not move with an offset of 1e3 deviations; from a sum of squares they do."""
    expected = moment_scores(moments(cloud))["auc_sigma"]
    blocks = [cloud[start : start + 700] + 1e3 for start in range(0, N, 700)]
    assert moment_scores(moments(iter(blocks)))["auc_sigma"] == pytest.approx(expected, abs=1e-11)
    x = np.concatenate(blocks).astype(np.float32)  # in which a naive stream is often kept
    total, squares = np.zeros(D, np.float32), np.zeros((D, D), np.float32)
    for start in range(0, N, 700):
        rows = x[start : start + 700]
        total, squares = total + rows.sum(0), squares + rows.T @ rows
    naive = np.linalg.eigvalsh(squares - np.outer(total, total) / N)[::-1]
    assert abs(c.auc(np.sqrt(np.clip(naive, 0, None))) - expected) > 0.01


def test_what_is_taken_away_is_gone(cloud: np.ndarray) -> None:
    whole, part = moments(cloud + 50), moments(cloud[:150] + 50)
    rest = whole.without(part)
    assert rest.n == N - 150 and whole.n == N
    assert_same(moment_scores(rest), moment_scores(moments(cloud[150:] + 50)), rel=1e-7)
    unit = moments(cloud, row_norm=True).without(moments(cloud[:150], row_norm=True))
    assert_same(moment_scores(unit), moment_scores(moments(cloud[150:], row_norm=True)), rel=1e-7)


def test_row_norm_is_the_spectrum_of_unit_rows(cloud: np.ndarray) -> None:
    unit = cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
    assert_same(moment_scores(moments(cloud, row_norm=True)), moment_scores(moments(unit)))
    assert abs(quick(unit)["auc_sigma"] - quick(cloud)["auc_sigma"]) > 1e-3
    with pytest.raises(CollapseError, match="cannot merge"):
        moments(unit).merge(moments(cloud, row_norm=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_give_what_arrays_give_and_stay_as_they_were(cloud: np.ndarray, dtype: torch.dtype) -> None:
    tensor = torch.tensor(cloud, dtype=dtype, requires_grad=True)
    before = tensor.detach().clone()
    state = moments(tensor)
    assert isinstance(state.raw.m2, torch.Tensor) and state.dtype == str(dtype).removeprefix("torch.")
    assert_same(moment_scores(state), moment_scores(moments(before.double().numpy())), rel=1e-8)
    assert torch.equal(tensor.detach(), before)


@pytest.mark.parametrize("dtype", ["float16", "int16", "bool"])
def test_other_number_formats(cloud: np.ndarray, dtype: str) -> None:
    rows = (10 * cloud).astype(dtype)
    expected = moment_scores(moments(rows.astype(np.float64)))
    for x in (rows, torch.from_numpy(rows), np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]):
        assert moments(x).dtype == dtype
        assert_same(moment_scores(moments(x)), expected, rel=1e-8)


def test_invariances(cloud: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    expected = moment_scores(moments(cloud))
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    for changed in (cloud[rng.permutation(N)], cloud * 1e-3, cloud * 77):
        assert_same(moment_scores(moments(changed)), expected, rel=1e-8)
    turned = moment_scores(moments(cloud @ rotation))
    for name in expected.keys() - {"embedding_std"}:
        assert turned[name] == pytest.approx(expected[name], rel=1e-8), name
    doubled = moment_scores(moments(np.repeat(cloud, 2, axis=0)))
    for name in expected.keys() - {"embedding_std", "participation_ratio_corrected", "self_cluster"}:
        assert doubled[name] == pytest.approx(expected[name], rel=1e-8), name
    moved = moment_scores(moments(cloud + 3))
    for name in ("auc_sigma", "auc_lambda", "effective_rank", "alpha_req", "nesum", "participation_ratio"):
        assert moved[name] == pytest.approx(expected[name], rel=1e-8), name
    for name in ("rankme", "stable_rank", "self_cluster", "embedding_std"):  # an offset is seen by these
        assert abs(moved[name] / expected[name] - 1) > 0.05, name


def test_uncentred_conventions_take_the_other_spectrum(cloud: np.ndarray) -> None:
    found = moment_scores(moments(cloud + 1), Conventions(center=False, eps=0))
    sigma = c.spectrum(cloud + 1, center=False).singular_values
    assert found["auc_sigma"] == pytest.approx(c.auc(sigma), rel=1e-12)
    assert found["rankme"] == pytest.approx(found["effective_rank"], rel=1e-12)
    assert found["nesum"] == pytest.approx(found["stable_rank"], rel=1e-12)
    assert found["alpha_req"] == pytest.approx(c.alpha_req(sigma).alpha, rel=1e-9)
    assert abs(found["auc_sigma"] - quick(cloud + 1)["auc_sigma"]) > 0.05


@pytest.mark.parametrize("rows", [np.full((50, 8), 0.1), np.zeros((50, 8)), np.full((50, 8), 3, np.int64)])
def test_one_point_is_complete_collapse(rows: np.ndarray) -> None:
    state = moments(rows)
    assert state.is_constant() and state.noise() == math.inf
    ones = dict.fromkeys(("auc_sigma", "auc_lambda", "effective_rank", "nesum", "participation_ratio"), 1.0)
    assert {name: value for name, value in quick(rows).items() if name in ones} == ones
    assert quick(rows)["rankme"] == pytest.approx(1, abs=1e-4)
    assert quick(rows)["embedding_std"] == 0


def test_rounding_about_a_point_is_no_spread_and_a_small_spread_is() -> None:
    rng = np.random.default_rng(2)
    point = rng.normal(size=64) + 3
    jitter = rng.normal(size=(500, 64))
    rounded = (point * (1 + 6e-8 * jitter)).astype(np.float32)
    assert rounded.std(0).max() > 0
    assert moments(rounded).is_constant()
    noise = c.CovarianceState(64).update(rounded).spectrum()  # knows no number format
    assert c.effective_rank(noise.singular_values) > 50  # what the noise alone would say
    few = rounded[:40]  # fewer rows than dimensions go by another matrix
    for rows in (rounded, torch.from_numpy(rounded), few, torch.from_numpy(few)):
        found = quick(rows)
        assert found["auc_sigma"] == found["effective_rank"] == found["stable_rank"] == 1
        assert found["rankme"] == pytest.approx(1, abs=2e-4) and found["embedding_std"] < 1e-5
        assert moment_scores(moments(rows))["auc_sigma"] == 1
        assert c.measure(rows).effective_rank == 1 and c.assess(None, c.measure(rows)).status == "collapse"
        uncentred = c.spectrum(rows, center=False).singular_values
        assert uncentred[0] == pytest.approx(math.sqrt(len(rows)) * np.linalg.norm(point), rel=1e-6)
        assert not uncentred[1:].any()
    assert not moments((point * (1 + 1e-5 * jitter)).astype(np.float32)).is_constant()
    assert not moments(point * (1 + 6e-8 * jitter)).is_constant()  # in float64 it is a spread


def test_bad_input_is_refused() -> None:
    for bad, message in (
        (np.ones((1, 3)), "at least 2"),
        (np.ones(3), "shape"),
        (np.ones((3, 0)), "shape"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "NaN"),
        (np.array([[1.0, -np.inf], [0.0, 1.0]]), "NaN"),
        (np.full((4, 2), 1e308), "too large"),
        (np.array([[1e308], [-1e308]]), "too large"),
        (np.eye(3) * 1e200, "too large"),
        (np.random.default_rng(0).normal(size=(50, 4)) * 1e-200, "too small to square"),
        (np.random.default_rng(0).normal(size=(5, 40)) * 1e-200, "too small to square"),
        (np.array([[0.0, 0.0], [1e-200, 0.0], [-1e-200, 0.0]]), "too small to square"),
    ):
        with pytest.raises(CollapseError, match=message):
            quick(bad)
    with pytest.raises(CollapseError, match="empty"):
        moments(iter([]))
    with pytest.raises(CollapseError, match="3 columns"):
        moments(iter([np.ones((2, 4)), np.ones((2, 3))]))


def test_small_features_are_features_and_a_small_point_is_a_point(cloud: np.ndarray) -> None:
    assert_same(quick(cloud * 1e-140), quick(cloud), rel=1e-8)
    assert quick((cloud * 1e-30).astype(np.float32))["auc_sigma"] == pytest.approx(quick(cloud)["auc_sigma"], abs=1e-6)
    assert moments(np.full((50, 4), 1e-200)).is_constant()


def test_few_dimensions_and_samples_have_what_they_can() -> None:
    rng = np.random.default_rng(3)
    line = moment_scores(moments(rng.normal(size=(50, 1))))
    assert line["auc_sigma"] == 1 and line["effective_rank"] == 1 and math.isnan(line["alpha_req"])
    few = moment_scores(moments(rng.normal(size=(5, 40))))
    x = rng.normal(size=(30, 40)) + 0.2  # fewer samples than dimensions go by n x n matrices
    for rows in (x, torch.tensor(x)):
        expected = moment_scores(moments(x))
        assert_same(quick(rows), {name: expected[name] for name in QUICK}, rel=1e-6)
    assert few["effective_rank"] <= 4 and few["rankme"] <= 5 + 1e-4 and few["pseudo_condition"] == 0
