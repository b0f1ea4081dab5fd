"""Studies: what they run, how they go on, what they say and refuse; with a stand-in for the training."""

import csv
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from siamscope import cli
from siamscope import recipe as recipes
from siamscope.networks.errors import NetworkError
from siamscope.rundir import RunDir
from siamscope.sections import OrderConfig
from siamscope.workflow import batch, jobs
from siamscope.workflow.batch import PlanError
from siamscope.workflow.study import distill, order, plan, remedies, runner, size

FAKE = Path(__file__).parent / "fake_study_run.py"
MACHINE = {
    "siamscope": "0",
    "torch": "2",
    "cpu": "a processor",
    "cores": 2,
    "device": "cpu",
    "command": "siamscope study",
}


@pytest.fixture
def fakes(monkeypatch):
    """Children are the stand-in, and the data are prepared without being opened: 1,000 training images."""
    original = jobs.Child._command

    def command(self):
        program, dash_m, name, *rest = original(self)
        assert (program, dash_m, name) == (sys.executable, "-m", "siamscope")
        return [sys.executable, "-S", "-E", str(FAKE), *rest]

    def prepared(recipe, asked, wanted, quiet):
        data = {"name": "shapes", "fingerprint": "abc", "train_images": 1000}
        return {
            "asked": asked, "shared": recipes.to_dict(recipe), "started": "2026-01-01", "environment": MACHINE,
            "data": data,
        }  # fmt: skip

    monkeypatch.setattr(jobs.Child, "_command", command)
    monkeypatch.setattr(batch, "prepared", prepared)
    monkeypatch.setattr(runner, "write_page", lambda source: source.with_suffix(".html"))


def given(module, out, args=(), **changes):
    """Options as the command line would give them."""
    return replace(module.default(list(args)), out=out, quiet=True, jobs="2", **changes)


def facts(out):
    return json.loads((out / "study.json").read_text())


def lines(out):
    return {line["key"]: line for line in facts(out)["lines"]}


def outcomes(out, claim):
    return {v["about"]: v["outcome"] for v in facts(out)["verdicts"] if v["claim"] == claim}


def started(out, line):
    file = out / "runs" / line / "started.txt"
    return file.read_text().split() if file.exists() else []


# ------------------------------------------------------------------------------------------ words


def test_sizes_widths_and_backbones():
    assert plan.shares("1, 0.1,0.01,0.1") == (0.01, 0.1, 1)
    assert plan.widths("2,0.25") == (0.25, 2)
    assert plan.backbones("", "resnet8") == ("resnet8",)
    assert plan.backbones("resnet20,mlp", "resnet8") == ("resnet20", "mlp")
    for text in ("60000", "0", "-0.1", "1.01"):
        with pytest.raises(PlanError, match="shares of the training images"):
            plan.shares(text)
    for text in ("", "a", "nan", "0.1,inf"):
        with pytest.raises(PlanError, match="must be numbers"):
            plan.shares(text)
    for text in ("0", "17"):
        with pytest.raises(PlanError, match="--widths"):
            plan.widths(text)
    with pytest.raises(NetworkError, match="did you mean 'resnet8'"):
        plan.backbones("resnet9", "resnet8")


def test_orders_in_words():
    asked = OrderConfig("current", chunks=7, shift="class", buffer=64)
    assert order.order_of("iid", asked, 5) == OrderConfig()
    assert order.order_of("hybrid@0.4", asked, 5) == OrderConfig("hybrid", chunks=5, switch=0.4, shift="class")
    replay = order.order_of("current+replay=0.25", asked, 5)
    assert (replay.name, replay.replay, replay.buffer) == ("current", 0.25, 64)
    for text, why in {
        "random": "unknown order 'random'", "last": "unknown order", "hybrid": "takes a switch point",
        "iid@0.4": "no other order does", "hybrid@2": "above 0 and below 1", "current+replay=x": "above 0 and below 1",
        "cumulative+replay=0.5": "only current and hybrid", "current+more=1": "only current and hybrid",
    }.items():  # fmt: skip
        with pytest.raises(PlanError, match=why):
            order.order_of(text, asked, 5)


# ------------------------------------------------------------------------------------------ size


def test_the_size_study(fakes, tmp_path):
    out = tmp_path / "s"
    answer = size.run(given(size, out, sizes="0.1,1", widths="0.25,1", seeds="0,1,2"))
    assert answer.code == 0
    found = lines(out)
    assert list(found) == ["resnet8-w0.25-s0.1", "resnet8-w0.25-s1", "resnet8-w1-s0.1", "resnet8-w1-s1"]
    small = found["resnet8-w0.25-s1"]
    assert small["figures"]["auc_sigma"] == pytest.approx({"mean": 0.75 + 0.1 - 0.0125 + 0.001, "sd": 0.001, "n": 3})
    least = 65 / 128  # of a flat spectrum with 64 values
    assert small["figures"]["auc_relative"]["mean"] == pytest.approx((0.8385 - least) / (1 - least))
    assert small["figures"]["loss"]["mean"] == -0.5
    assert (small["images"], small["d"], small["finished"]) == (1000, 64, 3)
    assert found["resnet8-w1-s0.1"]["images"] == 100
    assert small["spectrum"] == {
        "place": [1, 2, 3, 4], "sigma": [2, 1, 0.5, 0.25], "ratio": [1, 0.5, 0.25, 0.125],
        "cev": pytest.approx([8 / 15, 12 / 15, 14 / 15, 1], abs=1e-4),
        "of": "the monitor's sample at the last measurement",
    }  # fmt: skip
    judged = found["resnet8-w1-s1"]["spectrum"]
    assert judged["sigma"] == [3, 2, 1] and judged["of"] == "the images that AUC is of"
    assert judged["cev"] == pytest.approx([1 / 2, 5 / 6, 1], abs=1e-4)
    recipe = RunDir(out / "runs" / "resnet8-w1-s0.1" / "seed-2").recipe()
    assert (recipe.order, recipe.network.width, recipe.train.seed) == (OrderConfig("last", subset=0.1), 1, 2)
    steps = {RunDir(path).recipe().train.steps for path in (out / "runs").glob("*/seed-*") if path.is_dir()}
    assert steps == {recipes.load("study").train.steps}  # the same for every size


def test_the_size_study_in_words(fakes, tmp_path):
    out = tmp_path / "s"
    text = size.run(given(size, out, sizes="0.1,1", widths="0.25,1", seeds="0,1,2")).text
    assert outcomes(out, size.CLAIMS["a"]) == {
        "width 0.25, 1,000 against 100 images": "replicates", "width 0.25, images against AUC": "replicates",
        "width 1, 1,000 against 100 images": "replicates", "width 1, images against AUC": "replicates",
    }  # fmt: skip
    assert outcomes(out, size.CLAIMS["b"]) == {
        "100 images, width 0.25 against width 1": "replicates",
        "1,000 images, width 0.25 against width 1": "replicates",
    }
    assert list(outcomes(out, size.CLAIMS["c"]).values()) == ["replicates"]
    assert "+0.090 ± 0.000 in AUC over 3 seeds" in text
    assert "| width 0.25 | all images | 1,000 | 64 | 0.839 ± 0.001 |" in text
    assert "| untrained, width 0.25 |  |  |  | 0.900 ± 0.000 |" in text
    assert "| raw pixels |" in text
    line = facts(out)["forecast"]["line"]  # linear = 1.6 - AUC by the stand-in's rule
    assert line == pytest.approx({"intercept": 1.6, "slope": -1.0})
    rows = list(csv.DictReader((out / "study.csv").open()))
    assert float(rows[0]["auc_sigma_mean"]) == pytest.approx(0.7485)
    assert rows[-1]["line"] == "raw pixels" and float(rows[-1]["knn_mean"]) == 0.2


def test_what_does_not_replicate_is_said(fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_STUDY", "reversed")
    out = tmp_path / "s"
    text = size.run(given(size, out, sizes="0.1,1", widths="0.25,1", seeds="0,1,2")).text
    assert set(outcomes(out, size.CLAIMS["a"]).values()) == {"contradicted"}
    assert set(outcomes(out, size.CLAIMS["b"]).values()) == {"contradicted"}
    assert "contradicted" in text and "−0.090" in text


def test_one_seed_has_no_spread(fakes, tmp_path):
    out = tmp_path / "s"
    text = size.run(given(size, out, sizes="0.1,1", widths="0.25", seeds="3")).text
    assert lines(out)["resnet8-w0.25-s1"]["figures"]["auc_sigma"]["sd"] is None
    assert "| 0.841 |" in text and "no spread to judge it by" in text
    assert set(outcomes(out, size.CLAIMS["a"]).values()) == {"not judged"}


def test_controls_stand_beside(fakes, tmp_path):
    out = tmp_path / "s"
    size.run(given(size, out, sizes="1", widths="0.25,1", seeds="0,1", controls="byol"))
    found = lines(out)
    assert [key for key, line in found.items() if line["control"]] == ["byol-resnet8-w0.25", "byol-resnet8-w1"]
    row = RunDir(out / "runs" / "byol-resnet8-w1" / "seed-0").recipe().method
    assert (row.name, row.projector.out) == ("byol", recipes.load("study").method.projector.out)
    about = "byol, width 0.25, against the study's"
    assert outcomes(out, size.CLAIMS["f"])[about] == "replicates"  # the stand-in gives momentum targets 0.03 less
    assert facts(out)["forecast"]["sets"][0]["n"] == 4  # without the controls
    with pytest.raises(PlanError, match="did you mean 'byol'"):
        size.run(given(size, tmp_path / "t", controls="bylo"))


# ------------------------------------------------------------------------------------------ going on


def test_run_again_and_further(fakes, tmp_path, monkeypatch):
    out = tmp_path / "s"
    monkeypatch.setenv("FAKE_STUDY", "diverge=resnet8-w0.25-s0.1")
    text = size.run(given(size, out, sizes="0.1,1", widths="0.25", seeds="0")).text
    assert "failed: the loss is nan at step 7" in text
    assert lines(out)["resnet8-w0.25-s0.1"]["figures"]["auc_sigma"]["mean"] is None
    monkeypatch.delenv("FAKE_STUDY")
    size.run(given(size, out, sizes="0.1,0.5,1", widths="0.25", seeds="0,1"))
    assert started(out, "resnet8-w0.25-s1") == ["train"] * 2  # one for each seed, none twice
    assert started(out, "resnet8-w0.25-s0.1") == ["train"] * 2  # the failed one is left alone
    assert lines(out)["resnet8-w0.25-s0.5"]["finished"] == 2
    size.run(given(size, out, sizes="0.1,0.5,1", widths="0.25", seeds="0,1", retry=True))
    assert lines(out)["resnet8-w0.25-s0.1"]["finished"] == 2


def test_ctrl_c_saves_and_the_study_goes_on(fakes, tmp_path, monkeypatch):
    out = tmp_path / "s"
    monkeypatch.setenv("FAKE_STUDY", "wait=resnet8-w0.25-s0.1")
    ready = out / "runs" / "resnet8-w0.25-s0.1" / "seed-0" / "ready"

    def press():
        limit = time.monotonic() + 30
        while not ready.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    answer = size.run(replace(given(size, out, sizes="0.1,1", widths="0.25", seeds="0"), jobs="1"))
    presser.join()
    assert answer.code == 130
    assert "run the same command again" in answer.text
    assert started(out, "resnet8-w0.25-s1") == []
    answer = size.run(given(size, out, sizes="0.1,1", widths="0.25", seeds="0"))
    assert answer.code == 0
    assert started(out, "resnet8-w0.25-s0.1") == ["train", "resume"]


def test_folders_and_data_that_are_refused(fakes, tmp_path, monkeypatch):
    out = tmp_path / "s"
    size.run(given(size, out, sizes="1", widths="0.25", seeds="0"))
    with pytest.raises(PlanError, match=r"another recipe \(study is 'order', not 'size'\)"):
        order.run(given(order, out, seeds="0"))
    with pytest.raises(PlanError, match=r"optim\.lr is 9"):
        size.run(replace(given(size, out, seeds="0"), optim=replace(recipes.load("study").optim, lr=9.0)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    with pytest.raises(PlanError, match="no study"):
        size.run(given(size, tmp_path / "full"))
    train = replace(recipes.load("study").train, batch_size=1024)
    with pytest.raises(PlanError, match="1000 training images, fewer than a batch of 1024"):
        size.run(replace(given(size, tmp_path / "large"), train=train))
    for bad, why in (({"seeds": "x"}, "--seeds"), ({"jobs": "0"}, "--jobs"), ({"sizes": "2"}, "--sizes")):
        with pytest.raises(PlanError, match=why):
            size.run(replace(given(size, tmp_path / "bad"), **bad))
    assert not (tmp_path / "bad").exists()
    monkeypatch.setenv("FAKE_STUDY", "otherdata")
    size.run(given(size, tmp_path / "o", sizes="1", widths="0.25", seeds="0"))
    (line,) = lines(tmp_path / "o").values()
    assert line["problems"] == ["failed: its images are not the study's (the data changed)"]


def test_images_without_labels(fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_STUDY", "unlabelled")
    out = tmp_path / "s"
    text = size.run(given(size, out, sizes="0.1,1", widths="0.25", seeds="0,1")).text
    assert "no labels" in text
    assert outcomes(out, size.CLAIMS["c"]) == {} and facts(out)["forecast"] == {}


# ------------------------------------------------------------------------------------------ the other studies


def test_the_order_study(fakes, tmp_path):
    out = tmp_path / "s"
    words = "iid,current,cumulative,hybrid@0.4"
    text = order.run(given(order, out, orders=words, widths="0.25", chunks=4, seeds="0,1")).text
    assert [line["variant"] for line in lines(out).values()] == words.split(",")
    recipe = RunDir(out / "runs" / "resnet8-w0.25-hybrid0.4" / "seed-1").recipe()
    assert recipe.order == OrderConfig("hybrid", chunks=4, switch=0.4)
    assert outcomes(out, order.CLAIMS["d"]) == {
        "width 0.25, cumulative against iid": "replicates", "width 0.25, hybrid@0.4 against iid": "replicates",
    }  # fmt: skip
    assert outcomes(out, order.CLAIMS["single"]) == {"width 0.25, current against iid": "undecided"}
    assert outcomes(out, order.CLAIMS["e"]) == {"width 0.25, hybrid@0.4 against iid": "replicates"}
    assert "+2.0 ± 0.0 points over 2 seeds" in text
    with pytest.raises(PlanError, match="--orders names none"):
        order.run(given(order, tmp_path / "t", orders=","))


def test_remedies_change_one_thing_each(fakes, tmp_path):
    out = tmp_path / "s"
    remedies.run(given(remedies, out, seeds="0"))
    key = next(iter(lines(out))).removesuffix("-base")
    base = recipes.to_dict(RunDir(out / "runs" / f"{key}-base" / "seed-0").recipe())
    for name, remedy in remedies.REMEDIES.items():
        one = recipes.to_dict(RunDir(out / "runs" / f"{key}-{name}" / "seed-0").recipe())
        changed = [text.partition(" is ")[0] for text in batch.differences(base, one)]
        field = "order.name" if remedy.order else f"method.{next(iter(remedy.cells))}"
        assert changed == [field], name
    assert lines(out)[f"{key}-momentum"]["variant"] == "--target momentum"
    with pytest.raises(PlanError, match="'prayer' is not one of"):
        remedies.run(given(remedies, tmp_path / "t", remedies="prayer"))


def test_a_remedy_that_has_no_meaning_for_the_row_is_a_line_with_its_reason(fakes, tmp_path):
    out = tmp_path / "s"
    asked = given(remedies, out, seeds="0", remedies="momentum,directpred")
    row = replace(asked.method, predictor_options=replace(asked.method.predictor_options, partitions=2),
                  predictor="directpred")  # fmt: skip
    remedies.REMEDIES["none"] = remedies.Remedy("--predictor none", {"predictor": "none"})
    try:
        text = remedies.run(replace(asked, method=row, remedies="none")).text
    finally:
        del remedies.REMEDIES["none"]
    assert "refused: " in text and "partitions" in text


def test_a_teacher_comes_before_its_pupil(fakes, tmp_path):
    out = tmp_path / "s"
    text = distill.run(given(distill, out, seeds="0,1", small=0.25, large=1.0)).text
    pupil = RunDir(out / "runs" / "small-distilled" / "seed-1").recipe()
    assert (pupil.method.target, pupil.method.predictor, pupil.method.projector.layers) == ("teacher", "none", 1)
    assert Path(pupil.method.teacher) == (out / "runs" / "large" / "seed-1").resolve()
    taught = (out / "runs" / "small-distilled" / "started.txt").stat().st_mtime_ns
    assert (out / "runs" / "large" / "seed-0.json").stat().st_mtime_ns < taught
    assert outcomes(out, "The large encoder is less collapsed") == {"large, alone against small, alone": "replicates"}
    assert "It is optimisation: distilled, the small encoder is less collapsed" in text
    with pytest.raises(PlanError, match="--small must be below --large"):
        distill.run(given(distill, tmp_path / "t", small=1.0, large=0.5))


# ------------------------------------------------------------------------------------------ in earnest


def test_a_study_in_earnest(tmp_path, capsys):
    """Real runs of two steps through the command line; the second time nothing runs."""
    out = tmp_path / "s"
    words = [
        "study", "size", "shapes", "--seeds", "0", "--sizes", "0.1,1", "--widths", "0.25", "--steps", "2",
        "--size", "16", "--samples", "160", "--data.val-samples", "80", "--data.test-samples", "32", "--out", str(out),
        "--batch-size", "32", "--device", "cpu", "--evaluation.bank", "64", "--evaluation.queries", "32",
        "--monitor.samples", "64", "--monitor.bank", "64", "--evaluation.no-probe", "--quiet", "--json",
    ]  # fmt: skip
    assert cli.run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(line["images"], line["finished"], line["d"]) for line in found["lines"]] == [(16, 1, 64), (160, 1, 64)]
    assert all(0.5 < line["figures"]["auc_sigma"]["mean"] <= 1 for line in found["lines"])
    assert found["lines"][0]["spectrum"]["cev"][-1] == pytest.approx(1)
    assert any("holds an image more than once" in note for note in found["notes"])
    assert cli.run(words) == 0
    assert started(out, "resnet8-w0.25-s1") == []
    assert cli.run(["study", "size", "shapes", "--sizes", "60000", "--out", str(out)]) == 2
    assert "shares of the training images" in capsys.readouterr().err
