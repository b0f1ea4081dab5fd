"""The verdict: each rule at its edge, and on clouds made to order."""

from dataclasses import replace

import numpy as np
import pytest

from siamscope.collapse import CollapseError, Vitals, assess, measure
from siamscope.collapse.health import (
    COLLAPSED_RANK,
    COLLAPSED_STD,
    LOST_RANK,
    LOW_RANK,
    SETTLING_STEPS,
    SHRUNKEN_STD,
    rank_thresholds,
)

GOOD = Vitals(embedding_std=0.97, effective_rank=20.0, auc=0.88, n=8000, d=64)
EPS = 1e-9


def test_a_healthy_run_gets_its_numbers_and_no_advice() -> None:
    health = assess(GOOD, GOOD, untrained_features=GOOD, step=1000)
    assert health.status == "healthy" and health.advice == ()
    assert health.reasons == ("embeddings vary along 20.0 of 64 directions (effective rank; AUC 0.880)",)
    assert str(health).startswith("healthy: embeddings vary along")


@pytest.mark.parametrize(
    ("std", "status"),
    [
        (COLLAPSED_STD - EPS, "collapse"),
        (COLLAPSED_STD, "partial collapse"),
        (SHRUNKEN_STD - EPS, "partial collapse"),
        (SHRUNKEN_STD, "healthy"),
    ],
)
def test_edges_of_the_spread(std: float, status: str) -> None:
    health = assess(replace(GOOD, embedding_std=std))
    assert health.status == status
    assert any("stop-gradient" in a for a in health.advice) == (status != "healthy")


@pytest.mark.parametrize(
    ("rank", "status"),
    [
        (COLLAPSED_RANK - EPS, "collapse"),
        (COLLAPSED_RANK, "partial collapse"),
        (LOW_RANK - EPS, "partial collapse"),
        (LOW_RANK, "healthy"),
    ],
)
def test_edges_of_the_rank_of_embeddings_and_of_features(rank: float, status: str) -> None:
    low = replace(GOOD, effective_rank=rank)
    for health, name in ((assess(low), "embeddings"), (assess(GOOD, low), "backbone features")):
        assert health.status == status
        assert any("weight decay" in a for a in health.advice) == (status != "healthy")
        assert health.reasons[0].startswith(name) or status == "healthy"


def test_the_worst_finding_decides_and_comes_first() -> None:
    health = assess(replace(GOOD, embedding_std=0.4), replace(GOOD, effective_rank=2.0))
    assert health.status == "collapse"
    assert health.reasons[0].startswith("backbone features") and len(health.reasons) == 2
    assert len(set(health.advice)) == len(health.advice)


@pytest.mark.parametrize(("kept", "status"), [(LOST_RANK - EPS, "partial collapse"), (LOST_RANK, "healthy")])
def test_rank_lost_in_training(kept: float, status: str) -> None:
    features = replace(GOOD, effective_rank=40 * kept)
    health = assess(GOOD, features, untrained_features=replace(GOOD, effective_rank=40.0))
    assert health.status == status
    assert any("training lost directions" in r for r in health.reasons) == (status != "healthy")
    assert assess(GOOD, features).status == "healthy"  # cannot be told without the reference


def test_an_untrained_network_is_not_judged() -> None:
    untrained = replace(GOOD, embedding_std=0.05)
    assert assess(untrained, step=0).status == "too early"
    assert assess(untrained, step=SETTLING_STEPS - 1).status == "too early"
    assert assess(untrained, step=SETTLING_STEPS).status == "collapse"
    assert assess(untrained).status == "collapse"


def test_few_dimensions_or_samples_lower_the_bar() -> None:
    assert rank_thresholds(512, 8000) == (COLLAPSED_RANK, LOW_RANK)
    assert rank_thresholds(11, 8000)[0] == pytest.approx(3.0)
    assert rank_thresholds(2, 8000) == pytest.approx((1.2, 1.4))
    assert rank_thresholds(512, 3) == pytest.approx((1.2, 1.4))
    assert rank_thresholds(1, 8000) == (1.0, 1.0)  # one direction is all there is: never low
    with pytest.raises(CollapseError):
        rank_thresholds(5, 1)


def test_too_few_samples_are_said_in_words_without_changing_the_verdict() -> None:
    few = replace(GOOD, n=64 * 16 - 1)
    health = assess(few, GOOD)
    assert health.status == "healthy" and "1023 samples in 64 dimensions" in health.notes[0]
    assert not assess(replace(GOOD, n=64 * 16), GOOD).notes


@pytest.mark.parametrize(("n", "d", "status"), [
    (2, 64, "too few samples"), (6, 64, "too few samples"), (7, 64, "healthy"), (4, 4, "too few samples"),
    (4, 3, "healthy"), (2, 1, "healthy"),
])  # fmt: skip
def test_so_few_samples_tell_nothing(n: int, d: int, status: str) -> None:
    """Unless they are collapsed all the same; few dimensions are no fault of the samples."""
    full = replace(GOOD, n=n, d=d, effective_rank=float(min(n - 1, d)))
    for health in (assess(full), assess(None, full), assess(replace(GOOD, n=8000), full)):
        assert health.status == status
        assert (f"{n} samples can vary along {n - 1}" in health.reasons[0]) == (status == "too few samples")
    line = replace(full, effective_rank=1.0)
    assert assess(line).status == ("collapse" if min(n - 1, d) > 1 else status)
    assert assess(replace(full, embedding_std=0.1)).status == "collapse"


def cloud(rank: int, d: int = 128, n: int = 4000, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(rank)
    return rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) + offset


@pytest.mark.parametrize(
    ("z", "status"),
    [
        (cloud(64), "healthy"),
        (cloud(12), "healthy"),
        (cloud(4), "partial collapse"),
        (cloud(1), "collapse"),
        (cloud(2), "collapse"),
        (cloud(64, offset=100.0), "collapse"),
        (np.ones((4000, 128)), "collapse"),
    ],
)
def test_clouds_made_to_order(z: np.ndarray, status: str) -> None:
    assert assess(measure(z)).status == status


def test_a_line_is_caught_though_its_std_looks_alive() -> None:
    vitals = measure(cloud(1))
    assert vitals.embedding_std > SHRUNKEN_STD
    assert assess(vitals).status == "collapse"


def test_measure_keeps_quiet_about_few_samples_and_refuses_nan(recwarn: pytest.WarningsRecorder) -> None:
    vitals = measure(cloud(20, n=60))
    assert (vitals.n, vitals.d) == (60, 128) and not recwarn.list
    with pytest.raises(CollapseError, match="NaN"):
        measure(np.full((5, 3), np.nan))
