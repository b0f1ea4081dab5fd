"""k-NN against a brute-force loop and scikit-learn, and its rules for ties, clipping and leave-one-out."""

import numpy as np
import pytest
import torch

from siamscope.evaluation import EvaluationError, knn

KS = (1, 5, 20, 200)


def random_problem(n: int = 600, q: int = 150, d: int = 12, classes: int = 7, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, d)) * 0.6
    y, t = rng.integers(classes, size=n), rng.integers(classes, size=q)
    return (
        (centres[y] + rng.normal(size=(n, d))).astype(np.float32),
        y * 3 + 2,  # labels need not be 0..C-1
        (centres[t] + rng.normal(size=(q, d))).astype(np.float32),
        t * 3 + 2,
    )


def brute_force(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int, temperature: float, *, uniform: bool = False
) -> np.ndarray:
    out = []
    unit = bank.astype(np.float64) / np.linalg.norm(bank.astype(np.float64), axis=1, keepdims=True)
    for query in queries.astype(np.float64):
        similarity = unit @ (query / np.linalg.norm(query))
        nearest = np.argsort(-similarity, kind="stable")[:k]
        votes = dict.fromkeys(sorted(set(labels)), 0.0)
        for i in nearest:
            votes[labels[i]] += 1.0 if uniform else np.exp(similarity[i] / temperature)
        out.append(max(votes, key=lambda c: votes[c]))  # the first of equals: the smallest label
    return np.array(out)


@pytest.mark.parametrize("weighting", ["softmax", "uniform"])
def test_every_k_of_one_pass_equals_brute_force(weighting: str) -> None:
    bank, y, queries, t = random_problem()
    result = knn(bank, y, queries, t, ks=KS, temperature=0.07, weighting=weighting, return_predictions=True)
    for k in KS:
        expected = brute_force(bank, y, queries, k, 0.07, uniform=weighting == "uniform")
        np.testing.assert_array_equal(result.predictions[k].numpy(), expected)
        assert result.accuracy[k] == pytest.approx((expected == t).mean(), abs=1e-12)
    assert (result.n_bank, result.n_queries, result.n_classes, result.note) == (600, 150, 7, "")
    assert 0.2 < result.accuracy[20] < 0.99  # neither chance nor certainty, or the comparison shows nothing


def test_equals_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    bank, y, queries, t = random_problem(seed=1)
    result = knn(bank, y, queries, t, ks=KS, temperature=0.1, return_predictions=True)
    for k in KS:
        oracle = neighbors.KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d) / 0.1), metric="cosine")
        np.testing.assert_array_equal(result.predictions[k].numpy(), oracle.fit(bank, y).predict(queries))


def test_temperature_weighting_and_normalisation_matter() -> None:
    bank, y, queries, t = random_problem()
    bank = bank * np.random.default_rng(2).uniform(0.2, 5, size=(len(bank), 1)).astype(np.float32)
    base = knn(bank, y, queries, t, ks=(200,), temperature=0.1, return_predictions=True).predictions[200]

    def changed(**options: object) -> int:
        other = knn(bank, y, queries, t, ks=(200,), return_predictions=True, **options)  # type: ignore[arg-type]
        return int((other.predictions[200] != base).sum())

    assert changed(temperature=1.0) > 5
    assert changed(weighting="uniform") > 5
    assert changed(temperature=0.1) == 0
    scaled = knn(3 * bank, y, 0.1 * queries, t, ks=(200,), return_predictions=True).predictions[200]
    assert torch.equal(scaled, base)


@pytest.mark.parametrize("chunk", [1, 7, 150, 1000])
def test_chunks_do_not_change_the_answer(chunk: int) -> None:
    bank, y, queries, t = random_problem()
    whole = knn(bank, y, queries, t, ks=KS, return_predictions=True)
    parts = knn(bank, y, queries, t, ks=KS, chunk=chunk, return_predictions=True)
    for k in KS:
        assert torch.equal(parts.predictions[k], whole.predictions[k])


def test_separate_clusters_are_classified_without_error() -> None:
    rng = np.random.default_rng(3)
    y = np.repeat(np.arange(10), 50)
    x = np.eye(10)[y] * 10 + rng.normal(size=(500, 10)) * 0.1
    result = knn(x, y, x[::7] + 0.05, y[::7], ks=(1, 5, 20))
    assert set(result.accuracy.values()) == {1.0}


def test_leave_one_out() -> None:
    bank, _, _, _ = random_problem(n=300)
    y = np.random.default_rng(4).integers(2, size=300)  # labels that the features know nothing of
    counted = knn(bank, y, bank, y, ks=(1,))
    assert counted.accuracy[1] == 1.0  # what self-matches would claim
    fair = knn(bank, y, bank, y, ks=(1, 5), exclude_self=True, chunk=64, return_predictions=True)
    assert 0.35 < fair.accuracy[1] < 0.65
    without = [brute_force(np.delete(bank, i, 0), np.delete(y, i), bank[i : i + 1], 5, 0.1)[0] for i in range(300)]
    np.testing.assert_array_equal(fair.predictions[5].numpy(), without)
    with pytest.raises(EvaluationError, match="the bank itself"):
        knn(bank, y, bank[::-1].copy(), y, exclude_self=True)


def test_leave_one_out_never_counts_the_sample_even_when_k_takes_all() -> None:
    x, y = np.eye(3), np.array([0, 1, 1])
    result = knn(x, y, x, y, ks=(200,), weighting="uniform", exclude_self=True, return_predictions=True)
    assert result.predictions[200].tolist() == [1, 0, 0]  # with itself, sample 1 would have had two votes of three
    assert "clipped to the 2" in result.note


def test_equally_near_neighbours_are_taken_in_bank_order() -> None:
    bank = np.ones((40, 3), dtype=np.float32)
    labels = np.arange(40)[::-1].copy()
    result = knn(bank, labels, bank[:2], labels[:2], ks=(1, 3), weighting="uniform", return_predictions=True)
    assert result.predictions[1].tolist() == [39, 39]  # bank index 0
    assert result.predictions[3].tolist() == [37, 37]  # indices 0, 1, 2 tie with one vote each: the smallest label


def test_ties_across_the_boundary_of_k() -> None:
    rng = np.random.default_rng(5)
    bank = rng.normal(size=(4000, 4)).astype(np.float32)
    bank[[17, 1800, 1801, 3999]] = [1, 2, 3, 4]
    labels = np.arange(4000)
    query = np.array([[1.0, 2, 3, 4]])
    for k, label in ((1, 17), (2, 17), (3, 17)):
        found = knn(bank, labels, query, [17], ks=(k,), weighting="uniform", return_predictions=True)
        assert found.predictions[k].tolist() == [label]


@pytest.mark.parametrize("seed", range(8))
def test_ties_inside_the_largest_k_are_in_order_for_the_smaller_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bank = rng.normal(size=(300, 4)).astype(np.float32)
    same = rng.choice(300, size=12, replace=False)
    bank[same] = [1, 2, 3, 4]
    result = knn(bank, np.arange(300), [[1.0, 2, 3, 4]], [0], ks=(1, 200), return_predictions=True)
    assert result.predictions[1].item() == same.min()


def test_k_beyond_the_bank_is_clipped_and_said() -> None:
    bank, y, queries, t = random_problem(n=50)
    result = knn(bank, y, queries, t, ks=(5, 200, 50))
    assert list(result.accuracy) == [5, 50, 200]
    assert result.accuracy[200] == result.accuracy[50]
    assert result.note == "k = 200 clipped to the 50 samples there are"


def test_labels_the_bank_lacks_count_as_wrong_and_are_said() -> None:
    bank, y, queries, t = random_problem()
    strange = t.copy()
    strange[:30] = 99
    right = knn(bank, y, queries, t, ks=(5,), return_predictions=True)
    result = knn(bank, y, queries, strange, ks=(5,))
    assert result.accuracy[5] == pytest.approx((right.predictions[5].numpy() == strange).mean())
    assert result.note.startswith("30 queries have labels the bank lacks")


def test_low_temperature_does_not_overflow() -> None:
    bank, y, queries, t = random_problem()
    cold = knn(bank, y, queries, t, ks=(1, 200), temperature=1e-5, return_predictions=True)
    assert torch.equal(cold.predictions[200], cold.predictions[1])


def test_inference_tensors_and_zero_rows_are_accepted() -> None:
    with torch.inference_mode():
        x = torch.eye(4) * 2
    x2 = torch.cat([x, torch.zeros(1, 4)])
    result = knn(x2, [0, 1, 2, 3, 4], x, torch.arange(4), ks=(1,))
    assert result.accuracy[1] == 1 and result.predictions == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bank": np.full((3, 2), np.nan)}, "NaN or infinite entries in 3 of 3 rows"),
        ({"queries": np.ones((2, 5))}, "5 dimensions, the others 2"),
        ({"queries": np.ones((0, 2))}, "shape"),
        ({"bank_labels": np.zeros(4, dtype=int)}, "one label for each of 3"),
        ({"bank_labels": np.zeros(3)}, "must be integers"),
        ({"ks": ()}, "positive integers"),
        ({"ks": (0,)}, "positive integers"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"weighting": "distance"}, "weighting"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "bank": np.eye(3, 2),
        "bank_labels": np.arange(3),
        "queries": np.eye(2),
        "query_labels": np.arange(2),
    }
    with pytest.raises(EvaluationError, match=message):
        knn(**(arguments | change))  # type: ignore[arg-type]
