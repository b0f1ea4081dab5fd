"""Choice without labels: which way each score points, sums of ranks, regret."""

import math

import numpy as np
import pytest

from siamscope.collapse.errors import CollapseError
from siamscope.collapse.selection import DIRECTIONS, parts, rank_sum, regret

# Reference 6.1, SimSiam on synthetic vectors: rate .03/.1/.3 x decay 1e-4/5e-4/2e-3.
AUC = np.array([0.855, 0.858, 0.866, 0.869, 0.867, 0.931, 0.884, 0.930, 0.993])
PROBE = np.array([0.273, 0.278, 0.272, 0.279, 0.270, 0.223, 0.263, 0.214, 0.213])


def test_the_measured_grid_of_the_reference():
    """Acceptance row 19: the least AUC costs at most a quarter of the range (.0056 of .0662, Spearman -.80)."""
    preference = rank_sum({"auc_sigma": AUC}, "auc")
    chosen = int(np.nanargmax(preference))
    found = regret(preference, PROBE, chosen)
    assert chosen == 0 and found.share <= 0.25
    assert found.regret == pytest.approx(0.279 - 0.273) and found.best - found.worst == pytest.approx(0.066)
    assert found.spearman == pytest.approx(0.8, abs=0.06)
    wrong = regret(-preference, PROBE, int(np.argmax(AUC)))  # the most collapsed run
    assert wrong.share == 1 and wrong.spearman == pytest.approx(-found.spearman)


def test_each_score_points_its_own_way():
    values = np.array([0.4, 1.1, 3.0])
    assert np.argmax(rank_sum({"auc_sigma": values}, "auc")) == 0
    assert np.argmax(rank_sum({"rankme": values}, "rankme")) == 2
    assert np.argmax(rank_sum({"loss": values}, "loss")) == 0
    assert np.argmax(rank_sum({"alpha_req": values}, "alpha_req")) == 1  # best near 1


def test_the_sum_of_ranks_counts_scores_alike():
    scores = {"auc_sigma": np.array([0.6, 0.7, 0.8, np.nan]), "loss": np.array([3.0, 1.0, 2.0, -9.0])}
    found = rank_sum(scores, "auc+loss")
    np.testing.assert_array_equal(found[:3], [(3 + 1) / 2, (2 + 3) / 2, (1 + 2) / 2])
    assert math.isnan(found[3])
    stretched = scores | {"loss": scores["loss"] * 1000}
    np.testing.assert_array_equal(rank_sum(stretched, "auc+loss")[:3], found[:3])


def test_unknown_scores():
    assert parts("auc+loss+auc_sigma") == ("auc_sigma", "loss")
    assert parts("std+erank+alpha") == ("embedding_std", "effective_rank", "alpha_req")
    for by in ("acc", "", "auc+", "twonn", "coherence"):
        with pytest.raises(CollapseError, match="cannot choose by"):
            parts(by)
    with pytest.raises(CollapseError, match="none of these runs has rankme; there are loss"):
        rank_sum({"loss": np.ones(2)}, "rankme")
    with pytest.raises(CollapseError, match="none of these runs has loss"):
        rank_sum({"loss": np.full(2, np.nan)}, "loss")


def test_regret_against_what_labels_of_other_images_choose():
    preference, accuracy = np.array([3.0, 2.0, 1.0]), [0.5, 0.8, 0.7]
    found = regret(preference, accuracy, 0, validation=[0.1, 0.2, 0.9])
    assert (found.labelled, found.to_labelled) == (0.7, pytest.approx(0.2))
    assert found.regret == pytest.approx(0.3) and found.share == pytest.approx(1.0)
    without = regret(preference, accuracy, 0)
    assert math.isnan(without.labelled) and without.regret == found.regret
    assert regret(preference, [math.nan, 0.8, 0.7], 0) is None
    assert regret(preference, [0.5, math.nan, math.nan], 0) is None
    same = regret(preference, [0.5, 0.5, 0.5], 0)
    assert same.share == 0 and math.isnan(same.spearman)
    excluded = regret(np.array([math.nan, 2.0, 1.0]), [0.9, 0.8, 0.7], 1)  # one that may not compete is still a loss
    assert excluded.regret == pytest.approx(0.1)


def test_the_directions_are_those_of_the_definitions():
    from siamscope.collapse.definitions import DEFINITIONS

    assert set(DEFINITIONS) - set(DIRECTIONS) == {"twonn", "coherence"}
    assert set(DIRECTIONS) - set(DEFINITIONS) == {"loss", "loss_in_method", "auc_relative"}
    for name, way in DIRECTIONS.items():
        if way and name in DEFINITIONS and DEFINITIONS[name].collapsed != "either":
            assert way == {"high": -1, "low": 1}[DEFINITIONS[name].collapsed], name
