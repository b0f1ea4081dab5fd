"""`siamscope select` on fabricated runs: rules, groups, health, regret, and one run's own course."""

import json

import fabricated
import numpy as np
import pytest

from siamscope import cli

# Reference 6.1: rate .03/.1/.3 x decay 1e-4/5e-4/2e-3, AUC and probe.
GRID = {
    (lr, wd): (auc, probe)
    for (lr, wd), auc, probe in zip(
        [(lr, wd) for lr in (0.03, 0.1, 0.3) for wd in (1e-4, 5e-4, 2e-3)],
        (0.855, 0.858, 0.866, 0.869, 0.867, 0.931, 0.884, 0.930, 0.993),
        (0.273, 0.278, 0.272, 0.279, 0.270, 0.223, 0.263, 0.214, 0.213),
        strict=True,
    )
}


def select(capsys, *words):
    """Exit code, what `--json` prints, and errors."""
    code = cli.run(["select", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def text_of(capsys, *words):
    cli.run(["select", *map(str, words)])
    return capsys.readouterr().out


@pytest.fixture
def grid(tmp_path):
    for i, ((lr, wd), (auc, probe)) in enumerate(GRID.items()):
        fabricated.run(
            tmp_path / "grid" / f"{i}", auc=auc, linear=probe, validation=probe + 0.01 * (i == 1), lr=lr,
            weight_decay=wd, health="collapse" if auc > 0.99 else "healthy",
        )  # fmt: skip
    return tmp_path / "grid"


def test_the_grid_of_the_reference(grid, capsys):
    """Acceptance row 19."""
    code, found, _ = select(capsys, grid, "--by", "auc")
    (group,) = found["groups"]
    assert code == 0 and found["by"] == "auc_sigma" and group["chosen"].endswith("/0")
    lost = group["regret"]
    assert lost["share"] <= 0.25 and lost["regret"] == pytest.approx(0.006) and lost["n"] == 9
    assert lost["best"] - lost["worst"] == pytest.approx(0.066)
    assert lost["labelled"] == pytest.approx(0.278)  # the validation images' favourite, not the test images'
    assert lost["to_labelled"] == pytest.approx(0.005)
    assert set(group["candidates"][0]["fields"]) == {"optim.lr", "optim.weight_decay"}
    text = text_of(capsys, grid)
    assert "regret 0.60 points, 9 % of the range" in text and "linear test" in text and "weight_decay" in text
    assert "0.50 points" in text


def test_a_collapsed_run_never_wins(grid, capsys):
    fabricated.run(grid / "dead", auc=0.5, linear=0.1, health="collapse")
    for rule in ("auc", "loss", "auc+loss"):
        _, found, _ = select(capsys, grid, "--by", rule)
        assert not found["groups"][0]["chosen"].endswith("dead")
        assert (
            next(row for row in found["groups"][0]["candidates"] if row["run"].endswith("dead"))["preference"] is None
        )
    assert found["groups"][0]["regret"]["worst"] == 0.1  # it still counts for the range


def test_all_collapsed(tmp_path, capsys):
    for i in range(3):
        fabricated.run(tmp_path / f"{i}", auc=0.9 + 0.01 * i, health="collapse")
    code, found, _ = select(capsys, tmp_path)
    assert code == 0 and found["chosen"] == [] and found["groups"][0]["regret"] is None
    assert "none is chosen" in text_of(capsys, tmp_path)


def test_auc_with_loss_is_the_mean_of_ranks(tmp_path, capsys):
    for name, auc, loss in (("low-auc", 0.6, -0.5), ("both", 0.65, -0.9), ("low-loss", 0.9, -0.95)):
        fabricated.run(tmp_path / name, auc=auc, loss=loss)
    chosen = {rule: select(capsys, tmp_path, "--by", rule)[1]["chosen"][0] for rule in ("auc", "loss", "auc+loss")}
    assert {rule: name.rpartition("/")[2] for rule, name in chosen.items()} == {
        "auc": "low-auc", "loss": "low-loss", "auc+loss": "both",
    }  # fmt: skip
    assert "a collapsed run may have the best loss" in text_of(capsys, tmp_path, "--by", "loss")


def test_other_scores(tmp_path, capsys):
    fabricated.run(tmp_path / "a", scores={"rankme": 50.0, "lidar": 20.0, "alpha_req": 0.4, "effective_rank": 9.0})
    fabricated.run(tmp_path / "b", scores={"rankme": 40.0, "lidar": 30.0, "alpha_req": 1.2, "effective_rank": 8.0})
    chosen = {
        rule: select(capsys, tmp_path, "--by", rule)[1]["chosen"][0][-1]
        for rule in ("rankme", "lidar", "alpha_req", "effective_rank")
    }
    assert chosen == {"rankme": "a", "lidar": "b", "alpha_req": "b", "effective_rank": "a"}


def test_lidar_of_too_few_images_is_said(tmp_path, capsys):
    for i, viewed in enumerate((64, 128)):
        fabricated.run(tmp_path / f"{i}", scores={"lidar": 20.0 + i}, viewed=viewed)
    notes = {rule: select(capsys, tmp_path, "--by", rule)[1]["notes"] for rule in ("lidar", "auc")}
    (said,) = [note for note in notes["lidar"] if "no more images than features" in note]
    assert f"({tmp_path / '0'})" in said and notes["auc"] == []


def test_methods_and_dimensions_do_not_compete(tmp_path, capsys):
    fabricated.run(tmp_path / "a", auc=0.7)
    fabricated.run(tmp_path / "b", auc=0.8)
    fabricated.run(tmp_path / "c", auc=0.6, method="byol")
    fabricated.run(tmp_path / "d", auc=0.65, d=128, width=2.0)
    _, found, _ = select(capsys, tmp_path)
    assert [group["group"] for group in found["groups"]] == ["simsiam, d = 64", "byol, d = 64", "simsiam, d = 128"]
    assert [name[-1] for name in found["chosen"]] == ["a", "c", "d"]
    assert any("3 groups" in note for note in found["notes"])
    _, found, _ = select(capsys, tmp_path, "--across", "d,method")
    assert found["by"] == "auc_relative" and len(found["chosen"]) == 1
    assert any("methods are mixed" in note for note in found["notes"])
    _, found, _ = select(capsys, tmp_path, "--across", "d", "--by", "auc_lambda+loss")
    assert found is None  # no run has it


def test_relative_auc_across_widths(tmp_path, capsys):
    """The wide run has the lower AUC, and more of its own range."""
    fabricated.run(tmp_path / "narrow", auc=0.66, d=4, width=0.25)  # least .625: relative .093
    fabricated.run(tmp_path / "wide", auc=0.57, d=64)  # least .508: relative .127
    _, found, _ = select(capsys, tmp_path, "--across", "d")
    assert found["chosen"][0].endswith("narrow")
    assert found["groups"][0]["candidates"][0]["auc_relative"] == pytest.approx((0.66 - 0.625) / 0.375)


def test_without_labels_nothing_is_said_about_regret(tmp_path, capsys):
    for i in range(3):
        fabricated.run(tmp_path / f"{i}", auc=0.7 + 0.01 * i, labels=False, lr=0.1 * (i + 1))
    _, found, _ = select(capsys, tmp_path)
    assert found["chosen"][0].endswith("0") and found["groups"][0]["regret"] is None
    assert "nothing can be said about the regret" in text_of(capsys, tmp_path)


def test_figures_of_validation_images_are_not_compared_with_themselves(tmp_path, capsys):
    for i in range(3):
        fabricated.run(tmp_path / f"{i}", auc=0.7 + 0.01 * i, linear=0.5 + 0.01 * i, split="validation")
    _, found, _ = select(capsys, tmp_path)
    assert found["groups"][0]["regret"]["labelled"] is None and found["groups"][0]["split"] == "validation"


def test_knn_stands_in_for_a_probe_that_was_not_fitted(tmp_path, capsys):
    for i in range(3):
        fabricated.run(tmp_path / f"{i}", auc=0.7 + 0.01 * i, linear=None, knn=0.5 - 0.01 * i)
    _, found, _ = select(capsys, tmp_path)
    assert found["groups"][0]["target"] == "knn" and found["groups"][0]["regret"]["regret"] == pytest.approx(0)


def test_by_a_forecast(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(12):
        auc, loss = rng.uniform(0.6, 0.9), rng.uniform(-0.95, -0.7)
        fabricated.run(tmp_path / "fit" / f"{i}", auc=auc, loss=loss, linear=0.2 + 0.5 * auc + 0.01 * rng.normal())
    forecast = tmp_path / "forecast.json"
    assert cli.run(["forecast", "fit", str(tmp_path / "fit"), "--out", str(forecast)]) == 0
    capsys.readouterr()
    for name, auc in (("low", 0.7), ("high", 0.8), ("beyond", 0.99)):
        fabricated.run(tmp_path / "new" / name, auc=auc, loss=-0.8)
    _, found, _ = select(capsys, tmp_path / "new", "--forecast", forecast)  # here accuracy grows with AUC
    assert found["chosen"][0].endswith("high")
    assert next(r for r in found["groups"][0]["candidates"] if r["run"].endswith("beyond"))["preference"] is None
    code, _, err = select(capsys, tmp_path / "new", "--forecast", tmp_path / "none.json")
    assert code == 2 and "cannot read the forecast" in err


def course(knn=True):
    """Four measurements: the untrained network, an early one, the best, and one on its way to collapse."""
    names = ("step", "feature_auc", "feature_effective_rank", "feature_rankme", "feature_lidar", "health", "knn")
    rows = [
        (0, 0.55, 40, 30, 9, "too early", 0.2),
        (25, 0.6, 35, 28, 8, "healthy", 0.3),
        (50, 0.7, 30, 29, 12, "healthy", 0.6),
        (100, 0.95, 3, 2, 4, "collapse", 0.4),
    ]
    known = names if knn else names[:-1]
    return [{"kind": "monitor", "feature_dim": 64} | dict(zip(known, row, strict=False)) for row in rows]


def test_one_run_offers_its_measurements(tmp_path, capsys):
    run = fabricated.run(tmp_path / "run", course=course())
    found = {rule: select(capsys, run, "--by", rule)[1] for rule in ("auc", "rankme", "lidar")}
    assert found["auc"]["chosen"] == ["step 25"]  # never step 0, whose AUC is the least
    assert found["rankme"]["chosen"] == ["step 50"] and found["lidar"]["chosen"] == ["step 50"]
    losses = [row["loss"] for row in found["auc"]["groups"][0]["candidates"]]
    assert losses == pytest.approx([-0.4, -0.4, -0.9])  # means since the measurement before
    lost = found["auc"]["groups"][0]["regret"]
    assert lost["regret"] == pytest.approx(0.3) and found["auc"]["groups"][0]["split"] == "validation"
    assert any("no checkpoint of step 25" in note for note in found["auc"]["notes"])
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step-000025.pt").write_bytes(b"")
    assert "its weights are" in text_of(capsys, run)


def test_the_last_measurement_is_the_exported_encoder(tmp_path, capsys):
    lines = course(knn=False)[:3]
    lines[-1]["step"] = 100
    run = fabricated.run(tmp_path / "run", course=lines)
    text = text_of(capsys, run, "--by", "rankme")
    assert "chosen: step 100" in text and "encoder.safetensors" in text and "nothing can be said" in text


def two(folder, **changes):
    return [fabricated.run(folder / str(i), **{name: value[i] for name, value in changes.items()}) for i in range(2)]


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (lambda folder: None, (), "no run directory, folder of runs or table"),
        (lambda folder: fabricated.run(folder, finished=False), (), "is not finished"),
        (lambda folder: fabricated.run(folder, course=course()[:1]), (), "no measurement after its first step"),
        (lambda folder: folder.write_text("auc_sigma\n.5\n"), (), "nothing to choose from"),
        (lambda folder: two(folder, data=("a", "b")), (), "images differ"),
        (two, ("--by", "colour"), "cannot choose by 'colour'"),
        (two, ("--by", "rankme"), "none of these runs has rankme"),
        (two, ("--across", "data"), "takes d, method"),
    ],
)
def test_bad_input(tmp_path, capsys, make, words, message):
    make(tmp_path / "in")
    code, _, err = select(capsys, tmp_path / "in", *words)
    assert code == 2 and message in err
    assert select(capsys)[0] == 2


def test_a_table(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    table.write_text("run,auc_sigma,loss,linear,lr,method\na,.9,1,.5,.1,x\nb,.7,2,.6,.3,x\nc,.8,3,,.9,x\n")
    _, found, _ = select(capsys, table)
    assert found["chosen"] == ["b"] and found["groups"][0]["regret"]["n"] == 2
    assert found["groups"][0]["candidates"][0]["fields"]["lr"] == 0.1


def test_what_has_learnt_least_is_not_chosen_without_a_word(tmp_path, capsys):
    for i in range(6):  # the least AUC has the highest loss
        fabricated.run(tmp_path / f"{i}", auc=0.6 + 0.03 * i, loss=-0.3 - 0.1 * i, linear=0.3 + 0.1 * i)
    _, found, _ = select(capsys, tmp_path, "--by", "auc")
    assert found["chosen"][0].endswith("0")
    (said,) = [note for note in found["notes"] if "prefers candidates with a high loss" in note]
    assert "(rank correlation -1.00)" in said and "--by auc+loss" in said
    _, found, _ = select(capsys, tmp_path)
    assert found["by"] == "auc_sigma+loss" and not any("high loss" in note for note in found["notes"])


def test_auc_alone_where_losses_do_not_compare(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    table.write_text("run,auc_sigma\na,.9\nb,.7\n")
    _, found, _ = select(capsys, table)
    assert found["by"] == "auc_sigma" and found["chosen"] == ["b"]
    assert any("auc_sigma alone chooses" in note for note in found["notes"])
    code, _, err = select(capsys, table, "--by", "rankme+loss")
    assert code == 2 and "none of these runs has rankme" in err


@pytest.mark.parametrize("word", ["collapse", "complete collapse"])
def test_both_words_for_collapse_are_understood(tmp_path, capsys, word):
    table = tmp_path / "runs.csv"
    table.write_text(f"run,auc_sigma,loss,health\ndead,.5,-1,{word}\nb,.7,2,partial collapse\nc,.8,3,healthy\n")
    assert select(capsys, table)[1]["chosen"] == ["b"]


def test_a_forecast_of_other_images_advises_what_select_can_do(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(8):
        auc, loss = rng.uniform(0.6, 0.9), rng.uniform(-0.95, -0.7)
        fabricated.run(tmp_path / "fit" / f"{i}", auc=auc, loss=loss, linear=0.2 + 0.5 * auc + 0.01 * rng.normal())
        fabricated.run(tmp_path / "new" / f"{i}", auc=auc, loss=loss, data="others")
    assert cli.run(["forecast", "fit", str(tmp_path / "fit"), "--out", str(tmp_path / "f.json")]) == 0
    capsys.readouterr()
    code, _, err = select(capsys, tmp_path / "new", "--forecast", tmp_path / "f.json")
    assert code == 2 and "images differ" in err and "--allow-mixed" not in err and "choose by --by" in err
