"""The sweep: its space and scores, its trials and their ends, its table; with a stand-in for the training."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from siamscope import cli
from siamscope import options as common
from siamscope import recipe as recipes
from siamscope.collapse.forecast import Forecaster
from siamscope.workflow import jobs
from siamscope.workflow.batch import PLAN, PlanError
from siamscope.workflow.fleet import Member
from siamscope.workflow.forecast.file import Context, save
from siamscope.workflow.sweep import command, drive, space, store
from siamscope.workflow.sweep.errors import SweepError
from siamscope.workflow.sweep.score import objective
from siamscope.workflow.sweep.space import Dimension

FAKE = Path(__file__).parent / "fake_trial.py"
MACHINE = {"siamscope": "0", "torch": "2", "cpu": "a processor", "cores": 2, "device": "cpu", "command": "sweep"}
RATES = Dimension("optim.lr", 0.001, 1.0, log=True)


def use_fakes(set_attribute) -> None:
    """Children are the stand-in, the data need no opening, and no figure is drawn."""
    original = jobs.Child._command

    def of_child(self):
        program, dash_m, name, *rest = original(self)
        assert (program, dash_m, name) == (sys.executable, "-m", "siamscope")
        return [sys.executable, "-S", "-E", str(FAKE), *rest]

    def prepared(recipe, asked, jobs, quiet):
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, threads=1))
        data = {"name": "shapes", "fingerprint": "abc", "train_images": 96}
        known = {"asked": asked, "shared": recipes.to_dict(recipe), "started": "2026-01-01T00:00:00Z"}
        return json.loads(json.dumps(known | {"environment": MACHINE, "data": data}))

    set_attribute(jobs.Child, "_command", of_child)
    set_attribute(command.batch, "prepared", prepared)
    set_attribute(command, "write_sweep", lambda *given: given[-1])
    set_attribute(drive, "LOOK_SECONDS", 0.05)


@pytest.fixture
def fakes(monkeypatch):
    use_fakes(monkeypatch.setattr)


@pytest.fixture
def sweep(tmp_path, small, fakes):
    """`sweep(trials=..., lr="0.01,1", ...)`: run a sweep of stand-ins in a folder; answer, facts."""

    def go(out="sw", **given):
        recipe = given.pop("base", small("simsiam", optim={"lr": 0.1}))
        search = command.Search(**{name: given.pop(name) for name in list(given) if name in space.SHORT})
        made = common.with_recipe(command.Options, recipe)
        options = dataclasses.replace(made, out=tmp_path / out, search=search, quiet=True, **given)
        answer = command.run(options)
        return answer, json.loads((tmp_path / out / "sweep.json").read_text())

    return go


def states(facts):
    return {row["trial"]: row["state"] for row in facts["trials"]}


# ------------------------------------------------------------------------------------------ space


@pytest.fixture
def forecast(tmp_path):
    """A file with accuracy = 2 - auc_sigma - loss, fitted on runs of 16 dimensions."""
    rng = np.random.default_rng(0)
    auc, loss = rng.uniform(0.5, 1.0, 40), rng.uniform(-0.9, -0.1, 40)
    fitted = Forecaster(("auc_sigma", "loss")).fit({"auc_sigma": auc, "loss": loss}, 2 - auc - loss)
    context = Context("knn", "test", "abc", "shapes", ("simsiam",), (16,), (320,), 40, {}, "0")
    save(tmp_path / "forecast.json", fitted, context, [])
    return tmp_path / "forecast.json"


def test_a_forecast_joins_scores(small, forecast):
    goal = objective("auc+loss", forecast, small(), [RATES])
    assert (goal.name, goal.direction) == ("expected_knn", "maximize")
    member = Member("", {"auc_sigma": 0.7, "loss": -0.5}, d=16, n=320)
    assert goal.value(member)[0] == pytest.approx(1.8)
    value, why = goal.value(Member("", {"auc_sigma": 0.2, "loss": -0.5}, d=16))
    assert np.isnan(value) and "outside" in why
    assert goal.early({"feature_auc": 0.8, "loss": -0.4, "feature_dim": 16}) == pytest.approx(1.6)
    with pytest.raises(SweepError, match="names other scores"):
        objective("rankme", forecast, small(), [RATES])


# ------------------------------------------------------------------------------------------ trials


def test_a_sweep_finds_the_best_rate_without_labels(sweep, tmp_path):
    answer, facts = sweep(trials=9, lr="0.001,1", jobs="2")
    assert answer.code == 0
    assert set(states(facts).values()) == {"complete"} and len(facts["trials"]) == 9
    found = facts["chosen"]
    assert facts["trials"][0] == found
    assert found["value"] == min(row["value"] for row in facts["trials"])
    first = next(row for row in facts["trials"] if row["trial"] == 0)
    assert first["params"] == {"optim.lr": 0.1}  # the recipe's own value comes first
    assert found["trial"] == 0 and facts["labels"]["regret"] == pytest.approx(0)
    assert facts["labels"]["spearman"] == pytest.approx(1)
    assert first["validation"] == pytest.approx(0.85) and first["accuracy"] == {"knn": pytest.approx(0.9)}
    assert recipes.load(tmp_path / "sw" / "best.toml").optim.lr == 0.1
    rows = list(csv.DictReader((tmp_path / "sw" / "sweep.csv").open()))
    assert len(rows) == 9 and float(rows[0]["auc_sigma"]) == pytest.approx(found["value"])
    assert "regret 0.0 points" in answer.text and "k-NN, validation" in answer.text
    course = first["course"]
    assert list(course) == ["10", "20", "30", "40"] and course["40"] == pytest.approx(0.6)  # step 0 is untrained
    _, facts = sweep(trials=9, lr="0.001,1", jobs="2")
    assert len(facts["trials"]) == 9  # nothing is due
    assert not (tmp_path / "sw" / "trials" / "trial-0000" / "started.txt").read_text().count("\n") > 1
    _, facts = sweep(trials=10, lr="0.001,1")
    assert len(facts["trials"]) == 10
    assert len({row["params"]["optim.lr"] for row in facts["trials"]}) == 10  # a second start repeats nothing


def test_labels_do_not_choose(sweep, monkeypatch):
    _, with_labels = sweep(trials=2, lr="0.001,1")
    monkeypatch.setenv("FAKE_TRIAL", "unlabelled")
    answer, without = sweep(out="other", trials=2, lr="0.001,1")
    key = [(row["trial"], row["params"], row["value"]) for row in with_labels["trials"]]
    assert [(row["trial"], row["params"], row["value"]) for row in without["trials"]] == key
    assert without["labels"] is None and "regret" not in answer.text


def test_collapsing_trials_end_early(sweep, small):
    """By the alarm, by the measurements, by divergence; and none of them is chosen."""
    base = small("simsiam", optim={"lr": 0.1, "weight_decay": 0.05}, train={"steps": 40})
    answer, facts = sweep(base=base, trials=4, space=("optim.weight_decay=0.001,0.05,0.5",), jobs="2", sampler_seed=1)
    found = {row["params"]["optim.weight_decay"]: row for row in facts["trials"]}
    assert found[0.05]["state"] == "pruned"
    assert found[0.05]["reason"] == "collapsed at step 30: the rank is 1.2"  # twice in a row: 20 and 30
    assert found[0.5]["state"] == "pruned" and "the alarm" in found[0.5]["reason"]
    assert facts["chosen"]["params"] == {"optim.weight_decay": 0.001}
    assert facts["training_saved"] > 0.2
    assert "pruned: collapsed at step 30" in answer.text
    path = Path(found[0.05]["path"])
    assert (path / "saved").exists() and recipes.load(path / "recipe.toml").monitor.on_collapse == "stop"

    _, facts = sweep(out="none", base=base, trials=2, space=("optim.weight_decay=0.001,0.05",), prune="none")
    assert set(states(facts).values()) == {"complete"}  # nothing is ended, nothing left out

    _, facts = sweep(out="diverged", trials=2, space=("optim.lr=0.1,3",), sampler_seed=3)
    found = {row["params"]["optim.lr"]: row for row in facts["trials"]}
    assert found[3.0]["state"] == "pruned" and "the loss is nan" in found[3.0]["reason"]


def test_a_forecast_as_the_score(sweep, forecast):
    _, facts = sweep(trials=3, lr="0.01,1", by="auc+loss", forecast=forecast)
    assert facts["score"] == "expected_knn" and facts["direction"] == "maximize"
    assert facts["chosen"]["value"] == pytest.approx(2 - 0.6 + 0.5)


def test_trials_that_all_fail_end_the_sweep(sweep, monkeypatch):
    monkeypatch.setenv("FAKE_TRIAL", "broken")
    with pytest.raises(SweepError, match="3 trials failed one after another, the last one with: nothing works here"):
        sweep(trials=50, lr="0.01,1")


def test_a_signal_lets_the_trials_save_and_the_next_start_goes_on(sweep, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_TRIAL", "slow")
    ready = tmp_path / "sw" / "trials" / "trial-0000" / "seed-0" / "ready"

    def press():
        limit = time.monotonic() + 20
        while not ready.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        presser.start()
        answer, facts = sweep(trials=3, lr="0.01,1", jobs="1")
    finally:
        presser.join()
        signal.signal(signal.SIGINT, former)
    assert answer.code == 130 and "goes on" in answer.text
    assert states(facts) == {0: "running"} and (ready.parent / "saved").exists()
    monkeypatch.delenv("FAKE_TRIAL")
    answer, facts = sweep(trials=3, lr="0.01,1", jobs="1")
    assert answer.code == 0 and states(facts) == dict.fromkeys(range(3), "complete")
    assert (ready.parent.parent / "started.txt").read_text().split() == ["train", "resume"]


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_sweep as t
from siamscope.workflow.sweep import command
t.use_fakes(setattr)
options = t.small_options(sys.argv[1], storage=sys.argv[2])
print(command.run(options).code)
"""


def small_options(out, **given):
    """Options of a sweep of six stand-ins, for processes of their own."""
    recipe = dataclasses.replace(recipes.for_method("simsiam"), optim=recipes.OptimConfig(lr=0.1))
    made = common.with_recipe(command.Options, recipe)
    search = command.Search(lr="0.01,1")
    return dataclasses.replace(made, out=Path(out), search=search, trials=6, jobs="1", quiet=True, **given)


def begin(out, storage="", **environment):
    words = [sys.executable, "-c", SCRIPT.format(tests=str(FAKE.parent)), str(out), storage]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | environment)


def test_a_killed_sweep_goes_on(tmp_path, fakes):
    """The process is killed, its child lives on; the next one waits for it, or goes on with what it left."""
    out = tmp_path / "sw"
    killed = begin(out, FAKE_TRIAL="slow")
    ready = out / "trials" / "trial-0000" / "seed-0" / "ready"
    limit = time.monotonic() + 240
    while not ready.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    assert states_of(out) == {0: "running"}
    command.run(small_options(out))
    assert states_of(out) == dict.fromkeys(range(6), "complete")
    assert (ready.parent.parent / "started.txt").read_text().split() == ["train", "resume"]


def states_of(out):
    opened = store.optuna().load_study(study_name=store.NAME, storage=f"sqlite:///{out / 'study.db'}")
    return {trial.number: trial.state.name.lower() for trial in opened.trials}


def test_several_processes_work_on_one_study(tmp_path):
    """Two in one folder, and one in another as on another machine: each does a part, and none a trial too many."""
    url = f"sqlite:///{tmp_path / 'common.db'}"
    gate, limit = tmp_path / "gate", time.monotonic() + 240
    processes = [begin(tmp_path / folder, url, FAKE_GATE=str(gate)) for folder in ("a", "a", "b")]
    while len(list(tmp_path.glob("*/trials/*/started.txt"))) < 3 and time.monotonic() < limit:
        time.sleep(0.05)
    gate.touch()  # each has a trial
    for process in processes:
        out, errors = process.communicate(timeout=400)
        assert out.decode().strip() == "0", errors.decode()
    opened = store.optuna().load_study(study_name=store.NAME, storage=url)
    rows = [trial for trial in opened.trials if not trial.user_attrs.get("surplus")]
    assert sorted(trial.state.name for trial in rows) == ["COMPLETE"] * 6
    assert len({trial.params["optim.lr"] for trial in rows}) == 6
    assert len({trial.user_attrs["worker"] for trial in rows}) == 3
    assert {Path(trial.user_attrs["out"]).name for trial in rows} == {"a", "b"}
    for folder in ("a", "b"):
        assert len(json.loads((tmp_path / folder / "sweep.json").read_text())["trials"]) == 6


@pytest.fixture
def drive_these(tmp_path, small, fakes):
    """`drive_these(dimensions, [values, ...], prune)`: trials with these values, by one process; the trials' rows."""

    def go(dimensions, values, prune="collapse", before=None):
        recipe = small("simsiam", optim={"lr": 0.1}, train={"threads": 1})
        goal = objective("auc", None, recipe, dimensions)
        opened = store.Store.open(tmp_path / "out", "", store.NAME, dimensions, goal, {}, None, 0)
        for value in values:
            opened.study.enqueue_trial(value)
        driver = drive.Driver(opened, goal, recipe, "abc", 40, prune, None)
        if before:
            before(opened, driver)
        assert driver.work(len(values), 1, 1) == 0
        return opened.rows()

    return go


def test_the_median_ends_what_is_worse(drive_these, monkeypatch):
    monkeypatch.setenv("FAKE_TRIAL", "linger")
    values = [{"optim.lr": rate} for rate in (0.09, 0.1, 0.11, 0.12, 0.002, 0.08)]
    rows = drive_these([RATES], values, "median")
    assert [row["state"] for row in rows] == ["complete"] * 4 + ["pruned", "complete"]
    assert rows[4]["reason"] == "worse than half of the others at step 20"  # at 10 the run is too young
    assert rows[4]["last"] > 0.8 and rows[4]["step"] == 20


def test_a_run_that_ended_after_its_process_is_not_run_again(drive_these):
    def left_behind(opened, driver):
        dead = store.Store(opened.study, opened.out, opened.space, 0, True)  # it holds no lock
        found = driver._made(dead.ask(1))
        jobs.execute([found.run], 1, 1, lambda *told: None)

    (found,) = drive_these([RATES], [{"optim.lr": 0.1}], before=left_behind)
    assert (found["state"], found["value"]) == ("complete", pytest.approx(0.6))
    assert list(found["course"]) == ["10", "20", "30", "40"]
    assert (Path(found["path"]).parent / "started.txt").read_text().split() == ["train"]


def test_values_that_make_no_recipe_are_one_failed_trial(drive_these):
    both = [Dimension("views.cutmix", choices=(0.0, 0.5)), Dimension("views.local_crops", choices=(0, 2))]
    values = [{"views.cutmix": 0.5, "views.local_crops": 2}, {"views.cutmix": 0.5, "views.local_crops": 0}]
    bad, good = drive_these(both, values)
    assert bad["state"] == "fail" and "exclude each other" in bad["reason"]
    assert good["state"] == "complete"


def test_other_images_do_not_count(drive_these):
    (found,) = drive_these([RATES], [{"optim.lr": 0.1}], before=lambda _, d: setattr(d, "fingerprint", "other"))
    assert found["state"] == "fail" and "the data have changed" in found["reason"]


def test_what_is_not_this_sweep_is_refused(sweep, tmp_path, small):
    sweep(trials=1, lr="0.01,1")
    with pytest.raises(PlanError, match=r"another recipe.*space\.optim\.lr"):
        sweep(trials=1, lr="0.01,2")
    with pytest.raises(PlanError, match="by is 'rankme', not 'auc'"):
        sweep(trials=1, lr="0.01,1", by="rankme")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(PlanError, match="no sweep"):
        sweep(out="full", trials=1)
    url = f"sqlite:///{tmp_path / 'sw' / 'study.db'}"
    with pytest.raises(SweepError, match="searches by another recipe or space"):
        sweep(out="new", trials=1, lr="0.02,1", storage=url)
    with pytest.raises(SweepError, match="cannot use the storage"):
        sweep(out="newer", trials=1, storage=f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}")
    with pytest.raises(SweepError, match="--trials"):
        sweep(trials=0)
    plan = json.loads((tmp_path / "sw" / PLAN).read_text())
    (tmp_path / "sw" / PLAN).write_text(json.dumps(plan | {"data": plan["data"] | {"fingerprint": "xyz"}}))
    with pytest.raises(SweepError, match="images is 'xyz', not 'abc'"):
        sweep(trials=2, lr="0.01,1")


def test_without_optuna_the_error_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert cli.run(["sweep", "shapes", "--out", str(tmp_path / "x")]) == 2
    assert "pip install 'siamscope[sweep]'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_help_needs_neither_torch_nor_optuna():
    code = "from siamscope.cli import run\ntry:\n run(['sweep', '--help'])\nexcept SystemExit: pass\n"
    code += "import sys; assert not {'torch', 'optuna'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# ------------------------------------------------------------------------------------------ in earnest


def test_a_sweep_in_earnest(tmp_path, capsys):
    out = tmp_path / "sw"
    words = [
        "sweep", "shapes", "--method", "simsiam", "--lr", "0.01,0.1", "--trials", "2", "--out", str(out), "--json",
        "--size", "16", "--samples", "64", "--data.val-samples", "32", "--data.test-samples", "32", "--width", "0.5",
        "--method.projector.hidden", "32", "--method.projector.out", "16", "--batch-size", "32", "--steps", "2",
        "--precision", "fp32", "--train.channels-last", "off", "--device", "cpu", "--monitor.samples", "32",
        "--monitor.bank", "32", "--evaluation.no-probe", "--quiet", "--by", "rankme",
    ]  # fmt: skip
    assert cli.run(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert states(facts) == {0: "complete", 1: "complete"}
    for item in facts["trials"]:
        assert 0.01 <= item["params"]["optim.lr"] <= 0.1
        assert item["value"] == item["scores"]["rankme"] and {"auc_sigma", "loss"} <= set(item["scores"])
        assert recipes.load(Path(item["path"]) / "recipe.toml").optim.lr == item["params"]["optim.lr"]
    assert facts["chosen"]["value"] == max(item["value"] for item in facts["trials"])
    assert (out / "sweep.png").stat().st_size > 5000
    assert facts["data"]["fingerprint"] and facts["labels"]["n"] == 2
