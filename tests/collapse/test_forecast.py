"""Forecast of accuracy from label-free scores: planted coefficients, closed forms against brute force, refusals."""

import json
import math

import numpy as np
import pytest

from siamscope.collapse.errors import CollapseError
from siamscope.collapse.forecast import Forecaster
from siamscope.collapse.forecast_quality import compare, quality
from siamscope.collapse.least_squares import groups_out, ranks, shuffled, solve, spearman


def planted(n=40, noise=0.0, seed=0):
    """Runs whose accuracy is .9 - 1.5 AUC - .2 loss, with a third score that says nothing."""
    rng = np.random.default_rng(seed)
    table = {"auc_sigma": rng.uniform(0.6, 0.9, n), "loss": rng.uniform(-0.95, -0.7, n), "other": rng.normal(size=n)}
    return table, 0.9 - 1.5 * table["auc_sigma"] - 0.2 * table["loss"] + noise * rng.normal(size=n)


def array(table, names=("auc_sigma", "loss")):
    return np.stack([table[name] for name in names], axis=1)


def test_planted_coefficients_are_recovered():
    table, y = planted()
    for x in (table, array(table), [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]):
        found = Forecaster().fit(x, y)
        np.testing.assert_allclose([found.intercept_, *found.coef_], [0.9, -1.5, -0.2], atol=1e-10)
        np.testing.assert_allclose(found.predict(x), y, atol=1e-12)
    assert found.quality_.loo_r2 > 1 - 1e-12


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_the_same_as_scikit_learn(alpha):
    from sklearn.linear_model import LinearRegression, Ridge

    table, y = planted(noise=0.05)
    x = array(table)
    found = Forecaster(alpha=alpha).fit(x, y)
    z = (x - x.mean(0)) / x.std(0)
    oracle = Ridge(alpha).fit(z, y) if alpha else LinearRegression().fit(z, y)
    np.testing.assert_allclose(found.coef_ * x.std(0), oracle.coef_, atol=1e-12)
    np.testing.assert_allclose(found.predict(x), oracle.predict(z), atol=1e-12)
    assert found.score(x, y) == pytest.approx(oracle.score(z, y), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_left_out_predictions_are_those_of_fits_without_the_run(alpha):
    table, y = planted(n=15, noise=0.05)
    x = array(table)
    fit = solve(x, y, alpha)
    brute = np.empty(15)
    for i in range(15):
        rest = np.arange(15) != i
        z = np.column_stack([np.ones(15), (x - fit.mean) / fit.scale])
        penalty = alpha * np.diag([0, 1, 1])
        brute[i] = z[i] @ np.linalg.solve(z[rest].T @ z[rest] + penalty, z[rest].T @ y[rest])
    np.testing.assert_allclose(fit.left_out(), brute, atol=1e-12)
    assert abs(fit.fitted - brute).max() > 1e-3  # the predictions of the full fit are not left-out ones
    spread = ((y - y.mean()) ** 2).sum()
    found = quality(table, y, ("auc_sigma", "loss"), alpha=alpha)
    assert found.loo_r2 == pytest.approx(1 - ((y - brute) ** 2).sum() / spread, abs=1e-12)
    assert found.loo_rmse == pytest.approx(math.sqrt(((y - brute) ** 2).mean()), abs=1e-12)
    wrong = 1 - (((y - fit.fitted) / (1 - 3 / 15)) ** 2).sum() / spread  # generalised cross-validation is not the same
    assert abs(found.loo_r2 - wrong) > 1e-3


def test_the_mean_left_out_has_a_closed_form():
    _, y = planted(n=20)
    found = quality({}, y, ())
    assert found.loo_r2 == pytest.approx(1 - (20 / 19) ** 2, abs=1e-12)
    assert found.r2 == pytest.approx(0, abs=1e-12)
    assert math.isnan(found.loo_spearman)


def test_shuffled_targets_cannot_be_forecast():
    table, y = planted(n=40, noise=0.02)
    rng = np.random.default_rng(3)
    by_chance = [quality(table, rng.permutation(y), ("auc_sigma", "loss")) for _ in range(20)]
    assert np.median([item.loo_r2 for item in by_chance]) <= 0
    assert np.median([item.r2 for item in by_chance]) > 0  # while R^2 of the fit always flatters
    assert 0.2 < np.mean([item.p_value for item in by_chance]) < 0.8
    real = quality(table, y, ("auc_sigma", "loss"))
    assert real.loo_r2 > 0.9 and real.p_value == pytest.approx(1 / 1001)


def test_shuffles_in_one_product_are_fits_to_shuffled_targets():
    table, y = planted(n=12, noise=0.05)
    x = array(table)
    fit = solve(x, y)
    found = shuffled(x, y, fit, 0.0, 3, 7)
    order = np.random.default_rng(7).permuted(np.tile(np.arange(12), (3, 1)), axis=1)
    spread = ((y - y.mean()) ** 2).sum()
    slow = [1 - ((y[row] - solve(x, y[row]).left_out()) ** 2).sum() / spread for row in order]
    np.testing.assert_allclose(found, slow, atol=1e-12)


def test_prediction_intervals_cover_as_often_as_they_say():
    hits = []
    for seed in range(40):
        table, y = planted(n=100, noise=0.03, seed=seed)
        train = {name: column[:30] for name, column in table.items()}
        rest = {name: column[30:] for name, column in table.items()}
        interval = Forecaster(confidence=0.8, draws=100).fit(train, y[:30]).predict_interval(rest)
        seen = np.isfinite(interval[:, 0])
        hits.append(((interval[:, 0] <= y[30:]) & (y[30:] <= interval[:, 1]))[seen])
    assert np.concatenate(hits).mean() == pytest.approx(0.8, abs=0.03)


def test_bootstrap_intervals_cover_the_planted_coefficients():
    covered = []
    for seed in range(30):
        table, y = planted(n=60, noise=0.05, seed=seed)
        low, high = Forecaster(confidence=0.9, draws=200).fit(table, y).coef_interval_.T
        covered.append((low <= [0.9, -1.5, -0.2]) & (high >= [0.9, -1.5, -0.2]))
    assert np.mean(covered) == pytest.approx(0.9, abs=0.08)
    assert not (np.array(low) <= 0).all()  # an interval that held everything would cover too


def test_nothing_is_said_outside_what_the_fit_has_seen():
    table, y = planted(noise=0.01)
    x = array(table)
    found = Forecaster().fit(x, y)
    mixture = np.random.default_rng(1).dirichlet(np.ones(len(x)), 50) @ x  # inside the hull of the runs
    assert np.isfinite(found.predict(mixture)).all() and np.isfinite(found.predict(x)).all()
    outside = np.array([[0.95, -0.8], [0.75, -0.5], [0.75, math.nan]])
    assert np.isnan(found.predict(outside)).all() and np.isnan(found.predict_interval(outside)).all()
    reasons = [item.reason for item in found.expect(outside)]
    assert "auc_sigma 0.95 lies outside the fit's" in reasons[0] and reasons[1].startswith("loss -0.5")
    assert reasons[2] == "loss is missing or not finite"
    assert math.isnan(found.score(outside, [0.1, 0.2, 0.3]))
    with pytest.raises(CollapseError, match="run 1: auc_sigma"):
        found.set_params(strict=True).predict([[0.75, -0.8], [0.95, -0.8]])


def test_a_corner_of_the_box_that_no_run_comes_near_is_refused():
    rng = np.random.default_rng(0)
    auc = rng.uniform(0.6, 0.9, 40)
    x = np.column_stack([auc, auc - 1.6 + 0.01 * rng.normal(size=40)])  # the two go together
    found = Forecaster().fit(x, auc + 0.01 * rng.normal(size=40))
    (corner,) = found.expect([[x[:, 0].min(), x[:, 1].max()]])
    assert "leverage" in corner.reason and math.isnan(corner.value) and corner.leverage > found.most_leverage_


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, y: ({k: v[:4] for k, v in t.items()}, y[:4]), "4 runs are too few for 2 features: at least 5"),
        (lambda t, y: (t | {"loss": np.full(40, 0.3)}, y), "loss is the same in all 40 runs"),
        (lambda t, y: (t | {"loss": 2 * t["auc_sigma"] + 1}, y), "linearly dependent"),
        (lambda t, y: (t | {"loss": np.where(np.arange(40) == 3, np.nan, t["loss"])}, y), "loss is missing .* being 3"),
        (lambda t, y: (t, np.full(40, 0.5)), "the same accuracy"),
        (lambda t, y: (t, np.where(np.arange(40) == 3, np.inf, y)), "finite number"),
        (lambda t, y: ({"loss": t["loss"]}, y), "no column auc_sigma; there are loss"),
        (lambda t, y: (t, y[:39]), "shape .* for 39 accuracies"),
        (lambda t, y: (array(t, ("loss",)), y), "one column for each of auc_sigma, loss"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    with pytest.raises(CollapseError, match=message):
        Forecaster().fit(*change(*planted()))


@pytest.mark.parametrize(
    ("params", "message"),
    [({"features": "loss"}, "names"), ({"features": ()}, "names"), ({"alpha": -1.0}, "alpha"), ({"draws": 3}, "draws"),
     ({"confidence": 1.0}, "confidence"), ({"alpha": math.nan}, "alpha")],
)  # fmt: skip
def test_arguments_out_of_range(params, message):
    with pytest.raises(CollapseError, match=message):
        Forecaster(**params).fit(*planted())
    with pytest.raises(CollapseError, match="no parameter 'depth'"):
        Forecaster().set_params(depth=3)
    with pytest.raises(CollapseError, match="not fitted"):
        Forecaster().predict([[0.7, -0.8]])


def test_baselines_are_always_there():
    table, y = planted(noise=0.02)
    found = Forecaster(features=("auc_sigma", "other")).fit(table, y)
    names = [item.name for item in found.baselines_]
    assert names == ["mean", "loss", "auc_sigma", "other"]
    assert found.quality_.name == "auc_sigma + other"
    by_name = {item.name: item for item in compare(table, y, [("auc_sigma", "loss"), ("auc_sigma",), ("loss",), ()])}
    assert by_name["auc_sigma + loss"].loo_r2 > by_name["auc_sigma"].loo_r2 > by_name["mean"].loo_r2
    assert compare(table | {"flat": np.ones(40)}, y, [("flat",)]) == []


def test_a_group_is_predicted_by_the_others():
    table, y = planted(n=30, noise=0.02)
    x, groups = array(table), ["a", "b", "c"] * 10
    own = np.array(groups) == "b"
    found = {item.group: item for item in groups_out(x, y, groups, 0.0)}
    design = np.column_stack([np.ones(30), x])
    w = np.linalg.lstsq(design[~own], y[~own], rcond=None)[0]
    gap = design[own] @ w - y[own]
    assert found["b"].mae == pytest.approx(abs(gap).mean(), abs=1e-12) and found["b"].n == 10
    assert found["b"].bias == pytest.approx(gap.mean(), abs=1e-12)
    y[own] += 0.3  # what only this group has cannot be known from the others
    moved = {item.group: item for item in groups_out(x, y, groups, 0.0)}["b"]
    assert moved.bias == pytest.approx(found["b"].bias - 0.3, abs=1e-9)
    assert moved.spearman == pytest.approx(found["b"].spearman)
    fitted = Forecaster().fit(table, y, groups)
    assert fitted.quality_.group_spearman == pytest.approx(np.mean([item.spearman for item in fitted.groups_]))
    assert [item.group for item in fitted.groups_] == ["a", "b", "c"]


def test_a_group_outside_the_others_range_is_counted():
    table, y = planted(n=30)
    groups = np.where(table["auc_sigma"] > 0.8, "far", "near")
    far = next(item for item in groups_out(array(table), y, groups, 0.0) if item.group == "far")
    assert far.outside == far.n == int((table["auc_sigma"] > 0.8).sum())
    alone = groups_out(array(table), y, ["all"] * 30, 0.0)
    assert "too few" in alone[0].reason and math.isnan(alone[0].mae)


def test_ranks_and_spearman_are_scipys():
    from scipy import stats

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 30).astype(float), rng.normal(size=30)
    np.testing.assert_array_equal(ranks(a), stats.rankdata(a))
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
    assert math.isnan(spearman(np.ones(5), b[:5])) and math.isnan(spearman(a[:2], b[:2]))


def test_a_forecast_goes_through_json():
    table, y = planted(noise=0.02)
    found = Forecaster(alpha=0.1, draws=100).fit(table, y, ["a", "b"] * 20)
    again = Forecaster.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(again.predict(table), found.predict(table))
    np.testing.assert_array_equal(again.predict_interval(table), found.predict_interval(table))
    assert again.quality_ == found.quality_ and again.get_params()["alpha"] == 0.1
    assert [item.name for item in again.baselines_] == [item.name for item in found.baselines_]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t.pop("state"),
        lambda t: t["state"].pop("coef"),
        lambda t: t["state"].update(coef=[1.0]),
        lambda t: t["state"].update(sigma=math.inf),
        lambda t: t["params"].update(colour="red"),
        lambda t: t["params"].update(features="loss"),
    ],
)
def test_a_spoilt_file_is_refused(spoil):
    table = Forecaster(draws=100).fit(*planted(noise=0.02)).to_dict()
    spoil(table)
    with pytest.raises(CollapseError):
        Forecaster.from_dict(table)


def test_it_works_in_scikit_learn():
    from sklearn.base import clone

    table, y = planted(noise=0.02)
    original = Forecaster(features=("auc_sigma", "loss"), alpha=0.5)
    assert clone(original).get_params() == original.get_params()
    assert not hasattr(clone(original.fit(table, y)), "coef_")


def test_the_toy_of_the_reference():
    """Reference 6.1 and 1.4: SimSiam on vectors, 3 widths x 5 sizes, means of 3 seeds; 1.4 takes all 45 runs.

    There: AUC only R^2 .720 (left out .693, RMSE with the loss .0215), fitted on widths 8 and 32 and applied to 128 a
    mean error of .030 and a rank correlation of .864; AUC against RankMe -.997.
    """
    auc = [0.800, 0.838, 0.879, 0.894, 0.896, 0.719, 0.784, 0.852, 0.861, 0.878, 0.684, 0.739, 0.828, 0.866, 0.872]
    ranks_of = [34.5, 27.6, 20.3, 17.9, 17.4, 46.9, 36.4, 24.2, 23.1, 20.2, 51.1, 43.1, 28.5, 21.8, 21.1]
    probe = [0.263, 0.231, 0.218, 0.219, 0.207, 0.316, 0.288, 0.259, 0.223, 0.235, 0.314, 0.338, 0.288, 0.268, 0.251]
    widths = np.repeat([8, 32, 128], 5)
    table = {"auc_sigma": np.array(auc), "rankme": np.array(ranks_of)}
    found = Forecaster(("auc_sigma",), draws=100).fit(table, probe, widths)
    assert found.quality_.loo_r2 == pytest.approx(0.693, abs=0.02) and found.quality_.r2 == pytest.approx(
        0.72, abs=0.08
    )
    widest = found.groups_[-1]
    assert widest.group == "128" and widest.mae == pytest.approx(0.030, abs=0.002)
    assert widest.spearman == pytest.approx(0.864, abs=0.05)  # the rank carries over where the level does not
    assert spearman(table["auc_sigma"], table["rankme"]) == pytest.approx(-0.997, abs=0.001)
