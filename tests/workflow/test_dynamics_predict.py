"""`siamscope dynamics predict`: a recipe in the theory's units, and the forecast beside training."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from siamscope import cli
from siamscope import recipe as recipes
from siamscope.dynamics import gradients
from siamscope.dynamics.joint import InputModes, joint_forecast
from siamscope.workflow.dynamics import deep, linear
from siamscope.workflow.dynamics.units import PredictError, times, units

SMALL = [
    "--recipe", "linear", "--data.samples", "1200", "--size", "16", "--width", "0.5", "--batch-size", "128",
    "--train.precision", "fp32", "--train.channels-last", "off",
]  # fmt: skip


def siamscope(*args):
    try:
        return cli.run([str(a) for a in args])
    except SystemExit as stop:
        return int(stop.code or 0)


def with_(recipe, section, **changes):
    return replace(recipe, **{section: replace(getattr(recipe, section), **changes)})


@pytest.fixture(scope="module")
def base():
    recipe = recipes.layered("linear", None)
    return with_(recipe, "optim", lr=0.02, momentum=0.9, weight_decay=6e-3, warmup_epochs=0.0, final_lr=1.0)


# -- units -------------------------------------------------------------------------------------------------------------


def test_a_squared_distance_is_twice_the_theorys_loss(base):
    found = units(base)
    assert found.loss == 2
    assert found.rates.time == pytest.approx(2 * 0.02 / 0.1)
    assert found.rates.eta == found.rates.eta_p == pytest.approx(3e-3)
    assert found.as_weight_decay(np.array([0.1]))[0] == pytest.approx(0.2)
    assert not found.notes


def test_the_predictors_own_rate_and_decay(base):
    quick = with_(base, "optim", predictor_lr=5.0)
    assert units(quick).alpha_p == 5
    assert units(quick).rates.eta_p == pytest.approx(5 * 3e-3)  # coupled decay goes with the rate
    own = with_(base, "optim", predictor_lr=5.0, predictor_weight_decay=6e-3 / 5)
    assert units(own).rates.eta_p == pytest.approx(units(own).rates.eta)


def test_decay_per_step_and_a_momentum_target(base):
    found = units(with_(base, "optim", decay="per-step", weight_decay=4e-4))
    assert found.rates.eta == found.rates.eta_p == pytest.approx(4e-4 / found.rates.time)
    assert found.as_weight_decay(np.array([found.rates.eta]))[0] == pytest.approx(4e-4)
    target = units(with_(base, "method", target="momentum", momentum=0.99, momentum_end=0.99))
    assert target.rates.beta == pytest.approx(0.01 / target.rates.time)


def test_the_cosine_is_the_theorys_loss_on_unit_vectors():
    found = units(recipes.for_method("simsiam"))
    assert found.loss == 1
    assert any("normalised" in note for note in found.notes) and any("schedule" in note for note in found.notes)


def test_time_follows_warm_up_and_schedule(base):
    found = units(base)
    np.testing.assert_allclose(times(found, base, 10, 4), found.rates.time * np.arange(5))
    warm = with_(with_(base, "optim", warmup_epochs=1.0, final_lr=0.0), "train", steps=20)
    at = times(found, warm, 10, 20)
    assert at[10] == pytest.approx(found.rates.time * 5.5)  # 0.1 + 0.2 + ... + 1
    assert at[20] < found.rates.time * 20 and at[20] - at[19] == pytest.approx(0, abs=1e-12)


def test_an_objective_with_negatives_is_refused():
    with pytest.raises(PredictError, match="without negatives"):
        units(recipes.for_method("simclr"))


def test_the_loss_of_the_trainer_is_so_many_times_j(base):
    """Autograd through the trained network against the closed form of J's gradient, times `loss`."""
    import torch

    from siamscope.training.build import build_model

    recipe = with_(with_(base, "data", size=8), "network", width=0.125)
    model = build_model(recipe, 3)
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(4000, 3, 8, 8, generator=generator) for _ in range(2)]
    model(views).backward()
    w, w_p = linear.weights(model)
    a, b = (model.online.backbone.flattened(view).double().numpy() for view in views)
    cross, second = (a.T @ b + b.T @ a) / 8000, (a.T @ a + b.T @ b) / 8000
    dw, _, _ = gradients(w, w_p, w, cross, second - cross)
    trained = model.online.backbone.matrix.grad.double().numpy()
    factor = (trained * dw).sum() / (dw * dw).sum()
    assert factor == pytest.approx(units(recipe).loss, rel=1e-4)
    np.testing.assert_allclose(trained, factor * dw, atol=1e-5 * np.abs(trained).max())


# -- a linear encoder --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a linear encoder and its prediction."""
    folder = tmp_path_factory.mktemp("linear")
    run, out = folder / "run", folder / "out"
    options = ["--lr", "0.1", "--weight-decay", "6e-3", "--optim.warmup-epochs", "0", "--steps", "400"]
    few = ["--evaluation.bank", "64", "--evaluation.queries", "64", "--evaluation.ks", "1", "--evaluation.no-probe"]
    kept = ["--train.checkpoint-steps", "50", "--train.keep", "40", "--monitor.interval", "400", "--quiet"]
    assert siamscope("train", "shapes", *SMALL, *options, *few, *kept, "--out", run) == 0
    assert siamscope("dynamics", "predict", run, "--quiet", "--modes", "24", "--out", out) == 0
    return run, out


def test_the_flow_follows_training_mode_by_mode(trained):
    facts = json.loads((trained[1] / "prediction.json").read_text())
    assert facts["kind"] == "linear" and facts["steps"] == 400
    assert facts["alive"]["trained"] == facts["alive"]["flow"] > 0
    score = facts["agreement"]["flow"]
    assert score["agree"] >= score["modes"] - 2
    assert score["error"] < 0.2
    with (trained[1] / "course.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    steps = sorted({int(row["step"]) for row in rows})
    assert steps[0] == 0 and steps[-1] == 400 and len(steps) >= 8
    first = [row for row in rows if row["step"] == "0"]
    for row in first:  # the run's start is the flow's
        assert float(row["p_flow"]) == pytest.approx(float(row["p_trained"]), rel=1e-4, abs=1e-5)
    top = [row for row in rows if row["k"] == "1" and int(row["step"]) > 0]
    assert max(abs(float(row["p_flow"]) - float(row["p_trained"])) for row in top) < 0.1
    late = {int(row["step"]): float(row["p_trained"]) for row in top}  # half the time would be told: p falls so fast
    assert max(abs(float(row["p_flow"]) - late[2 * int(row["step"])]) for row in top if int(row["step"]) == 50) > 0.2


def test_units_without_the_losss_factor_would_not_fit(trained):
    """Negative control: eta taken as the weight decay itself puts the strongest mode elsewhere."""
    with (trained[1] / "modes.csv").open() as stream:
        modes = list(csv.DictReader(stream))
    facts = json.loads((trained[1] / "prediction.json").read_text())
    best = modes[0]
    signal, sigma2, p = float(best["signal"]), float(best["noise"]), float(best["p"])
    assert abs(p - float(best["p_trained"])) < 0.03
    data = InputModes(np.eye(1), np.array([[signal]]), np.array([[sigma2]]), 1.0)
    assert joint_forecast(data, facts["eta"])[0].p_high[0] == pytest.approx(p, rel=0.02)
    wrong = joint_forecast(data, 2 * facts["eta"])[0].p_high[0]
    assert math.isnan(wrong) or abs(wrong - float(best["p_trained"])) > 2 * abs(p - float(best["p_trained"]))


def test_a_runs_prediction_lies_in_its_folder(trained):
    from siamscope.workflow.dynamics import predict

    assert predict.default([str(trained[0])]).out == trained[0] / "prediction"
    assert predict.default(["shapes"]).out.name == "prediction"


def test_what_is_written(trained):
    out = trained[1]
    names = {"modes.csv", "course.csv", "prediction.json", "prediction.png", "prediction.svg"}
    assert {path.name for path in out.iterdir()} == names
    assert (out / "prediction.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (out / "prediction.svg").read_bytes()


def test_a_recipe_without_a_run_is_forecast_only(tmp_path, capsys):
    out = tmp_path / "p"
    words = ["--images", "512", "--modes", "12", "--steps", "40", "--quiet", "--out", out]
    assert siamscope("dynamics", "predict", "shapes", *SMALL, *words, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["agreement"] == {} and "trained" not in facts["alive"]
    assert siamscope("dynamics", "predict", "shapes", *SMALL, *words, "--weight-decay", "30") == 0
    assert "no mode survives a weight decay of 30: collapse" in capsys.readouterr().out
    assert siamscope("dynamics", "predict", "shapes", *SMALL, *words, "--weight-decay", "0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["can_survive"] == 12


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--predictor", "none"], "no predictor: every mode collapses"),
        (["--predictor", "optimal"], "no mode grows"),
        (["--target", "shared"], "no stop-gradient: every mode collapses"),
    ],
)
def test_what_cannot_learn_is_said_to_collapse_and_the_flow_agrees(words, says, tmp_path, capsys):
    more = ["--images", "256", "--modes", "8", "--steps", "2000", "--quiet", "--out", tmp_path]
    assert siamscope("dynamics", "predict", "shapes", *SMALL, *words, *more) == 0
    assert says in capsys.readouterr().out
    facts = json.loads((tmp_path / "prediction.json").read_text())
    assert facts["can_survive"] == 0 and facts["alive"]["flow"] == 0
    with (tmp_path / "modes.csv").open() as stream:
        assert all(float(row["limit"]) == float(row["margin"]) == 0 for row in csv.DictReader(stream))


@pytest.mark.parametrize("target", ["detached", "momentum"])
def test_a_predictor_that_is_set_has_its_own_flow(target, tmp_path, capsys):
    more = ["--images", "256", "--modes", "8", "--steps", "50", "--quiet", "--out", tmp_path, "--json"]
    words = ["--predictor", "directpred", "--target", target]
    assert siamscope("dynamics", "predict", "shapes", *SMALL, *words, *more) == 0
    facts = json.loads(capsys.readouterr().out)
    assert any("which is set" in note for note in facts["notes"])
    with (tmp_path / "modes.csv").open() as stream:
        assert all(row["p"] == row["s"] == "" and row["p_flow"] for row in csv.DictReader(stream))


# -- any other encoder -------------------------------------------------------------------------------------------------


def test_the_heuristic_is_exact_for_a_linear_network_on_white_data():
    """Embeddings W x of x ~ N(0, I) with noise sigma2: modes, noise, limits and p as they were made."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    s, p, sigma2 = np.array([2.0, 1.0, 0.5, 0.2]), np.array([0.8, 0.6, 0.3, 0.1]), 0.5
    x = rng.standard_normal((200_000, 4))
    views = [(x + math.sqrt(sigma2) * rng.standard_normal(x.shape)) @ (u * np.sqrt(s)).T for _ in range(2)]
    found = units(recipes.for_method("simsiam"))
    seen = deep.of_embeddings(0, *views, found, (u * p) @ u.T)
    np.testing.assert_allclose(seen.strength, s, rtol=0.02)
    np.testing.assert_allclose(seen.forecast.sigma2, sigma2, atol=0.02)
    np.testing.assert_allclose(seen.p, p, atol=0.01)
    np.testing.assert_allclose(seen.forecast.eta_limit, 1 / (4 * 1.5), rtol=0.02)
    share = s / s.sum()
    assert seen.rank == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=0.01)


def test_a_deep_encoder_gets_a_heuristic(tmp_path, capsys):
    out = tmp_path / "p"
    small = ["--data.samples", "200", "--size", "16", "--width", "0.25", "--images", "128", "--quiet", "--out", out]
    assert siamscope("dynamics", "predict", "shapes", "--recipe", "simsiam", "--predictor", "linear", *small) == 0
    shown = capsys.readouterr().out
    assert "A heuristic" in shown and "embeddings are normalised" in shown
    assert "survive a weight decay of" in shown and "margin" in shown
    facts = json.loads((out / "prediction.json").read_text())
    assert facts["kind"] == "heuristic" and len(facts["moments"]) == 1
    assert {path.name for path in out.iterdir()} == {"modes.csv", "prediction.json", "prediction.png", "prediction.svg"}


def test_a_deep_run_is_told_how_well_the_heuristic_did(tmp_path, capsys):
    """A weight decay far above every limit: the theory expects collapse, and says what came of it."""
    run = tmp_path / "run"
    small = ["--data.samples", "160", "--size", "16", "--width", "0.25", "--batch-size", "16", "--steps", "30"]
    few = ["--evaluation.bank", "32", "--evaluation.queries", "32", "--evaluation.ks", "1", "--evaluation.no-probe"]
    words = ["--recipe", "simsiam", "--predictor", "linear", "--weight-decay", "2", "--quiet", "--out", run]
    assert siamscope("train", "shapes", *words, *small, *few) == 0
    (run / "prediction").mkdir()
    (run / "prediction" / "course.csv").write_text("of an older, linear prediction")
    capsys.readouterr()
    assert siamscope("dynamics", "predict", run, "--images", "128", "--quiet") == 0
    shown = capsys.readouterr().out
    assert "expected: collapse; no mode survives a weight decay of 2" in shown
    assert "outcome: from the start 0 of" in shown and "the heuristic" in shown
    assert not (run / "prediction" / "course.csv").exists()


def test_a_run_without_checkpoints_says_so(trained, tmp_path, capsys):
    import shutil

    run = tmp_path / "bare"
    shutil.copytree(trained[0], run, ignore=shutil.ignore_patterns("checkpoints", "prediction"))
    assert siamscope("dynamics", "predict", run, "--quiet") == 2
    assert "there is none; train with" in capsys.readouterr().err


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["shapes", "--recipe", "simclr"], "without negatives"),
        (["shapes", *SMALL, "--images", "1"], "--images"),
        (["shapes", *SMALL, "--modes", "0"], "--modes"),
        (["nowhere", *SMALL], "nowhere"),
        (["shapes", "--recipe", "liner"], "liner"),
    ],
)
def test_bad_input_is_explained(words, says, tmp_path, capsys):
    assert siamscope("dynamics", "predict", *words, "--quiet", "--out", tmp_path / "p") == 2
    assert says in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_noticed_first(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert siamscope("dynamics", "predict", "shapes", *SMALL, "--quiet", "--out", tmp_path / "file") == 2
    assert "Cannot write" in capsys.readouterr().err


def test_a_runs_own_settings_stand(trained, capsys):
    assert siamscope("dynamics", "predict", trained[0], "--weight-decay", "0.1", "--quiet") == 2
    assert "trained with its own optim" in capsys.readouterr().err
