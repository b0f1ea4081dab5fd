"""The score card: what it holds, its flags and conventions, degenerate input, and that it can be written as JSON."""

import json
import math
import sys

import numpy as np
import pytest
import torch

import siamscope
import siamscope.collapse as c
from siamscope.collapse import DEFINITIONS, CollapseError, Conventions, Diagnosis, diagnose, moments

D = 40
SLOW = {"twonn", "clid_learnability", "lidar"}
NOISE = np.random.default_rng(5).normal(size=(100, 3, 8))
ROUNDED = (3 * (1 + 6e-8 * NOISE)).astype(np.float32)
"""Three views each of 100 images that differ by the rounding of float32 alone."""
ONE_PASS = {name for name, about in DEFINITIONS.items() if about.needs == "spectrum"}


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(1000, D)) * np.arange(1, D + 1) ** -0.5 + 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def views(features: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=(200, 3, D))
    return features[:200, None] + 0.1 * noise


@pytest.fixture(scope="module")
def card(features: np.ndarray, views: np.ndarray) -> Diagnosis:
    return diagnose(features, views=views, slow=True)


def test_it_holds_every_score_as_its_own_function_gives_it(card: Diagnosis, features, views) -> None:
    assert list(card.scores) == list(DEFINITIONS)
    one_pass = c.moment_scores(moments(features))
    expected = one_pass | {
        "coherence": c.coherence(features),
        "uniformity": c.uniformity(features),
        "twonn": c.twonn(features),
        "clid_learnability": c.clid_learnability(features),
        "lidar": c.lidar(views),
        "alignment": np.mean([c.view_alignment(views[:, i], views[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]),
    }
    for name, value in expected.items():
        assert card[name] == pytest.approx(value, rel=1e-12), name
    np.testing.assert_array_equal(card.spectrum.singular_values, c.spectrum(features).singular_values)
    assert card.status == "healthy" and card.baseline == c.isotropic(1000, D)


def test_vitals_are_those_of_measure(card: Diagnosis, features: np.ndarray) -> None:
    expected = c.measure(features)
    assert (card.vitals.n, card.vitals.d) == (expected.n, expected.d)
    for name in ("embedding_std", "effective_rank", "auc"):
        assert getattr(card.vitals, name) == pytest.approx(getattr(expected, name), rel=1e-10)


def test_every_value_is_in_its_range_and_intervals_hold_it(card: Diagnosis) -> None:
    for name, score in card.scores.items():
        low, high = score.bounds
        assert low <= score.value <= high, name
        expected = name in ONE_PASS or name in ("lidar", "alignment")
        assert (score.interval is not None) == expected, name
        if score.interval:
            assert low <= score.interval.low <= score.value <= score.interval.high <= high, name
    assert card.scores["auc_sigma"].bounds == ((D + 1) / (2 * D), 1)
    assert card.scores["lidar"].bounds == (1, D)
    assert card.scores["alpha_req"].details["fitted_on"] == [11, D]


def test_definitions_are_complete() -> None:
    for name, about in DEFINITIONS.items():
        assert min(len(x) for x in (about.title, about.formula, about.source, about.advice)) > 4, name
        low, high = about.bounds(5000, 64)
        assert low < high, name
        if about.at_a_point is not None:
            assert low <= about.at_a_point <= high, name
            if about.collapsed == "high":
                assert about.at_a_point == high, name
            if about.collapsed == "low":
                assert about.at_a_point == low, name


def test_json_has_numbers_conventions_and_no_nan(card: Diagnosis) -> None:
    read = json.loads(json.dumps(card.to_dict(), allow_nan=False))
    assert (read["n"], read["d"]) == (1000, D)
    about = read["conventions"]
    assert about["siamscope"] == siamscope.__version__ and about["dtype"] == "float32"
    assert (about["center"], about["row_norm"], about["rankme_eps"]) == (True, False, 1e-7)
    assert about["lidar_delta"] == 1e-4
    assert about["alpha_range"] == [11, 100] and about["views"] == [200, 3, D]
    assert read["scores"]["auc_sigma"]["value"] == card["auc_sigma"]
    assert read["scores"]["alpha_req"]["range"] == [0, None]
    assert read["scores"]["rankme"]["interval"]["method"] == "jackknife"
    assert len(read["singular_values"]) == D and "singular_values" not in card.to_dict(spectrum=False)


def test_default_is_cheap_and_only_chooses(features: np.ndarray, views: np.ndarray) -> None:
    assert set(diagnose(features, interval="none").scores) == set(DEFINITIONS) - SLOW - {"alignment"}
    chosen = diagnose(features, views=views, only=["twonn", "auc_sigma", "alignment"])
    assert list(chosen.scores) == ["auc_sigma", "twonn", "alignment"]
    assert chosen["auc_sigma"] == diagnose(features)["auc_sigma"] and not math.isnan(chosen.vitals.effective_rank)
    for only, message in ((["auc"], "no score 'auc'"), (["lidar"], "lidar needs several views")):
        with pytest.raises(CollapseError, match=message):
            diagnose(features, only=only)


def test_a_stream_gives_what_one_pass_can(features: np.ndarray, card: Diagnosis) -> None:
    streamed = diagnose(features[k : k + 300] for k in range(0, 1000, 300))
    assert set(streamed.scores) == ONE_PASS
    for name in ONE_PASS:
        assert streamed[name] == pytest.approx(card[name], rel=1e-9), name
        assert streamed.scores[name].interval is None
    assert "no intervals: a stream is read once" in streamed.notes
    assert diagnose(moments(features)).values() == pytest.approx({name: card[name] for name in ONE_PASS}, rel=1e-12)
    with pytest.raises(CollapseError, match="uniformity needs the rows"):
        diagnose(iter([features]), only=["uniformity"])
    with pytest.raises(CollapseError, match="row_norm=False"):
        diagnose(moments(features), row_norm=True)


def test_tensors_give_what_arrays_give(card: Diagnosis, features: np.ndarray, views: np.ndarray) -> None:
    found = diagnose(torch.from_numpy(features), views=torch.from_numpy(views), slow=True)
    for name, value in card.values().items():
        assert found[name] == pytest.approx(value, rel=1e-7), name
    assert found.scores["auc_sigma"].interval.error == pytest.approx(card.scores["auc_sigma"].interval.error, rel=1e-6)


def test_the_bootstrap_can_be_had_too(features: np.ndarray, card: Diagnosis) -> None:
    found = diagnose(features[:, :8], only=["auc_sigma"], interval="bootstrap")
    other = diagnose(features[:, :8], only=["auc_sigma"])
    assert found.scores["auc_sigma"].interval.method == "bootstrap"
    assert found.scores["auc_sigma"].interval.error == pytest.approx(other.scores["auc_sigma"].interval.error, rel=0.6)


def test_conventions_and_row_norm_are_kept(features: np.ndarray) -> None:
    found = diagnose(features + 1, interval="none", conventions=Conventions(False, 0.0, (5, 30)))
    assert not found.spectrum.center and found["effective_rank"] == pytest.approx(found["rankme"], rel=1e-12)
    assert found.vitals.effective_rank == pytest.approx(c.measure(features + 1).effective_rank, rel=1e-9)
    assert found.scores["alpha_req"].details["fitted_on"] == [5, 30]
    unit = diagnose(features, interval="none", row_norm=True)
    norms = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    expected = diagnose(features / norms, interval="none")
    for name in expected.scores:
        assert unit[name] == pytest.approx(expected[name], rel=1e-9), name
    assert unit.row_norm and abs(unit["auc_sigma"] - diagnose(features, interval="none")["auc_sigma"]) > 1e-3


def test_a_value_out_of_its_range_is_flagged() -> None:
    q = np.linalg.qr(np.random.default_rng(2).normal(size=(64, 64)))[0]
    found = diagnose(np.concatenate([q, -q]), conventions=Conventions(eps=1e-3), interval="none")
    rank = found.scores["rankme"]
    assert rank.value > 64 + 1 and rank.bounds == (1, 64)
    assert len(rank.flags) == 1 and "out of its range" in rank.flags[0] and "outside the division" in rank.flags[0]
    assert found.scores["effective_rank"].flags == ()
    few = diagnose(np.random.default_rng(3).normal(size=(300, 4)), only=["participation_ratio_corrected"])
    assert few["participation_ratio_corrected"] > 4
    assert "out of its range" in few.scores["participation_ratio_corrected"].flags[0]


def test_few_samples_are_said() -> None:
    rng = np.random.default_rng(4)
    enough, few, fewer = (diagnose(rng.normal(size=(n, 20))) for n in (320, 319, 39))
    assert enough.notes == ()
    assert "less than 16 d = 320" in few.notes[0] and few.scores["auc_sigma"].interval
    assert fewer.scores["auc_sigma"].interval is None and any("at least 2 d rows" in note for note in fewer.notes)
    flags = few.scores["auc_sigma"].flags
    assert len(flags) == 1 and "biased by the size of the sample" in flags[0]


@pytest.mark.filterwarnings("error")
def test_fewer_samples_than_dimensions(features: np.ndarray) -> None:
    found = diagnose(features[:20], slow=True)
    assert found["effective_rank"] <= 19 and found.scores["effective_rank"].bounds == (1, 19)
    assert found.scores["alpha_req"].value is None and "eigenvalues" in found.scores["alpha_req"].flags[0]
    assert math.isnan(found["alpha_req"]) and "alpha_req" not in found.values()


@pytest.mark.parametrize(
    "rows",
    [
        np.full((100, 8), 0.1),
        np.zeros((100, 8)),
        np.full((3, 8), 5),
        np.full((100, 1), -2.0),
        ROUNDED[:, 0],
    ],
)
def test_constant_rows_are_complete_collapse(rows: np.ndarray) -> None:
    views = np.repeat(rows[:, None], 2, axis=1)
    found = diagnose(rows, views=views, slow=True)
    assert found.status == "complete collapse" and found["auc_sigma"] == 1 and found["effective_rank"] == 1
    for name, score in found.scores.items():
        if DEFINITIONS[name].needs != "views":
            assert score.value == DEFINITIONS[name].at_a_point, name
            assert "all rows are one point" in score.flags[0] and score.interval is None, name
    assert found["lidar"] == 1 and found["alignment"] == 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_rounding_is_a_point_in_views_too_and_leaves_nothing_to_draw() -> None:
    rows = ROUNDED[:, 0]
    assert rows.std(0).max() > 0 and np.abs(ROUNDED[:, 0] - ROUNDED[:, 1]).max() > 0
    found = diagnose(rows, views=ROUNDED, slow=True)
    assert found.status == "complete collapse"
    for name, score in found.scores.items():
        assert score.value == DEFINITIONS[name].at_a_point, name
        assert "all rows are one point" in score.flags[0] and score.interval is None, name
    assert not found.spectrum.singular_values.any() and found.dead_directions == 7
    assert any("no more than the rounding of float32" in note for note in found.notes)
    apart = 3 + np.random.default_rng(1).normal(size=(100, 3, 8))  # other views: then they are no point
    assert diagnose(rows, views=apart, only=["lidar", "alignment"])["alignment"] > 0.01
    alive = diagnose((3 * (1 + 1e-5 * NOISE)).astype(np.float32)[:, 0], views=3 * (1 + 1e-5 * NOISE), slow=True)
    assert alive["effective_rank"] > 7 and alive["lidar"] > 1.5


def test_without_centring_there_is_a_rank_more() -> None:
    basis = np.eye(8, 16)
    found = diagnose(basis, conventions=Conventions(center=False), interval="none")
    for name in ("effective_rank", "nesum", "participation_ratio"):
        assert found[name] == pytest.approx(8) and found.scores[name].bounds == (1, 8), name
        assert found.scores[name].flags == (), name
        assert diagnose(basis, interval="none").scores[name].bounds == (1, 7), name


def test_two_rows_of_one_column() -> None:
    found = diagnose(np.array([[1.0], [2.0]]))
    assert found["auc_sigma"] == 1 and all(score.interval is None for score in found.scores.values())
    assert any("at least 3 rows" in note for note in found.notes)
    assert diagnose(np.array([[1.0], [2.0], [4.0]])).scores["embedding_std"].interval is not None


def test_what_is_dead_is_counted(features: np.ndarray) -> None:
    dead = features.copy()
    dead[:, [3, 17]] = 0
    dead[:, 5] = 2.5
    found = diagnose(dead, interval="none")
    assert found.dead_columns == (3, 5, 17) and found.dead_directions == 3
    assert any("3 of 40 columns are constant" in note for note in found.notes)
    alive = np.delete(dead, [3, 5, 17], axis=1)
    assert found["auc_sigma"] == pytest.approx((37 * diagnose(alive, interval="none")["auc_sigma"] + 3) / 40, abs=1e-9)
    assert diagnose(features, interval="none").dead_columns == ()


def test_a_large_common_offset_in_float32_is_said(features: np.ndarray) -> None:
    moved = (features.astype(np.float64) + 1e4).astype(np.float32)
    assert any("rounding of float32" in note for note in diagnose(moved, interval="none").notes)
    assert not any("rounding" in note for note in diagnose(features + 1, interval="none").notes)
    assert not any("rounding" in note for note in diagnose(moved.astype(np.float64), interval="none").notes)


def test_one_column(features: np.ndarray) -> None:
    found = diagnose(features[:, :1], slow=True)
    assert found["auc_sigma"] == 1 and found["effective_rank"] == 1 and found.status == "healthy"
    assert found.scores["alpha_req"].value is None
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((1, 4)), "at least 2"),
        (np.ones(4), "shape"),
        (np.ones((4, 0)), "shape"),
        (np.array([[1.0, 2.0], [np.nan, 0.0], [1.0, 0.0]]), "NaN"),
        (np.array([[1.0, np.inf, 0.0]] * 2), "NaN or infinite"),
        (iter([]), "empty"),
        (np.ones((4, 2)) * 1j, "complex128; expected real numbers"),
        (torch.ones(4, 2) * 1j, "complex64; expected real numbers"),
        (np.array([["1", "2"], ["3", "4"]]), "expected real numbers"),
        (np.array([[1, None], [3, 4]]), "type object; expected real numbers"),
        (np.ma.masked_greater(np.arange(8.0).reshape(4, 2), 6), "masked entries"),
        ([[1.0, 2.0], [3.0, 4.0]], r"type list; .*numpy.asarray"),
        ([np.ones(3), np.ones(3)], r"shape \(3,\)"),
    ],
)
def test_what_is_no_set_of_features_is_refused(bad, message: str) -> None:
    with pytest.raises(CollapseError, match=message):
        diagnose(bad)


def test_a_masked_array_without_masked_entries_is_an_array(features: np.ndarray) -> None:
    whole = np.ma.masked_array(features, mask=False)
    assert diagnose(whole, interval="none").values() == diagnose(features, interval="none").values()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.where(np.arange(2400).reshape(20, 3, D) == 700, np.nan, 1.0), "views' embeddings holds? NaN or infinite"),
        (np.ones((20, 3, D + 1)), rf"shape \(20, 3, {D + 1}\); expected \(images, views, {D}\)"),
        (np.ones((20, D)), "expected .images, views"),
        (np.ones((20, 3, D)) * 1j, "expected real numbers"),
    ],
)
def test_what_is_no_set_of_views_is_refused(features: np.ndarray, bad: np.ndarray, message: str) -> None:
    with pytest.raises(CollapseError, match=message):
        diagnose(features, views=bad)


def test_row_norm_reads_in_blocks(features: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rows no score may make a copy of all that are of unit length."""
    from siamscope.collapse import arrays, geometry

    seen = []

    def watched(x, out=None):
        seen.append(len(x))
        return arrays.unit_rows(x, out)

    monkeypatch.setattr(geometry, "unit_rows", watched)
    monkeypatch.setattr(sys.modules["siamscope.collapse.diagnose"], "unit_rows", watched)
    monkeypatch.setattr(arrays, "_CHUNK_ENTRIES", 100 * D)
    rows = features[np.random.default_rng(0).integers(0, len(features), 6000)]
    found = diagnose(rows, row_norm=True, slow=True, interval="none")
    assert max(seen) == 5000  # the sample of TwoNN and CLID, by which uniformity's is less
    assert seen.count(100) == 60
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    assert found["coherence"] == pytest.approx(c.coherence(unit), rel=1e-9)
    assert found["twonn"] == pytest.approx(c.twonn(unit), rel=1e-9)


def test_a_collapsed_line_is_not_healthy() -> None:
    rng = np.random.default_rng(6)
    line = rng.normal(size=(2000, 1)) @ rng.normal(size=(1, 64)) + 1e-3 * rng.normal(size=(2000, 64))
    found = diagnose(line, interval="none")
    assert found.status == "collapse" and found["embedding_std"] > 0.7 and found.health.advice


def test_two_rows_are_no_verdict() -> None:
    assert diagnose(np.random.default_rng(0).normal(size=(2, 64))).status == "too few samples"
    assert diagnose(np.ones((2, 64))).status == "complete collapse"
