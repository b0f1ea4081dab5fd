"""The comparison: its cells, its runs and their failures, its statistics; with a stand-in for the training."""

import csv
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from siamscope import cli, methods, options
from siamscope import recipe as recipes
from siamscope.rundir import RunDir, RunError
from siamscope.workflow import compare_plan as plan
from siamscope.workflow import compare_table as table
from siamscope.workflow import jobs
from siamscope.workflow.batch import PlanError, seeds_of
from siamscope.workflow.compare import compare

FAKE = Path(__file__).parent / "fake_run.py"
MACHINE = {
    "siamscope": "0",
    "torch": "2",
    "cpu": "a processor",
    "cores": 2,
    "device": "cpu",
    "command": "siamscope compare",
}


@pytest.fixture
def fakes(monkeypatch):
    """Children are the stand-in: started by the real commands, less the program."""
    original = jobs.Child._command

    def command(self):
        program, dash_m, name, *rest = original(self)
        assert (program, dash_m, name) == (sys.executable, "-m", "siamscope")
        return [sys.executable, "-S", "-E", str(FAKE), *rest]

    monkeypatch.setattr(jobs.Child, "_command", command)


@pytest.fixture
def folder(tmp_path, small):
    """A directory with a plan for `small()`, as if the data had been prepared."""
    out = tmp_path / "cmp"
    out.mkdir()
    recipe = small("simclr", train={"threads": 1})
    known = {
        "asked": plan.asked(recipe, ()), "shared": recipes.to_dict(recipe), "started": "2026-01-01T00:00:00Z",
        "environment": MACHINE, "data": {"name": "shapes", "fingerprint": "abc"},
    }  # fmt: skip
    (out / "plan.json").write_text(json.dumps(known))
    return out, recipe


def started(out, cell):
    """The commands that were started for a cell, with their number of threads."""
    file = out / "runs" / cell / "started.txt"
    return file.read_text().splitlines() if file.exists() else []


def with_cells(recipe, **cells):
    return dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, **cells))


def status(done):
    return {(run["cell"], run["seed"]): run["status"] for run in done.facts["runs"]}


# ------------------------------------------------------------------------------------------ cells


def test_names_and_seeds():
    assert plan.chosen("all") == list(methods.METHODS)
    assert plan.chosen("simsiam, direct*,simclr") == ["simclr", "simsiam", "directpred", "directset", "directcopy"]
    assert seeds_of("3, 1,3") == (3, 1)
    with pytest.raises(PlanError, match="did you mean 'simclr'"):
        plan.chosen("simcrl")
    for text in ("", ",", "a", "-1", "1.5"):
        with pytest.raises(PlanError, match="--seeds"):
            seeds_of(text)
    with pytest.raises(PlanError, match="names none"):
        plan.chosen(" , ")


def test_only_the_row_changes(small):
    shared = small("simclr")
    for cell in plan.cells(shared, list(methods.METHODS)):
        assert cell.row is not None, cell.problem
        shipped = recipes.for_method(cell.method).method
        widths = {name: getattr(shared.method.projector, name) for name in plan.WIDTHS}
        assert cell.row == dataclasses.replace(shipped, projector=dataclasses.replace(shipped.projector, **widths))
        run = plan.recipe_of(shared, cell, 5)
        assert (run.train.seed, run.optim, run.views) == (5, shared.optim, shared.views)
        assert plan.shared_digest(run) == plan.shared_digest(shared)


def test_the_digest_sees_what_is_shared(small):
    digests = {
        plan.shared_digest(recipe)
        for recipe in (
            small("simclr"),
            small("simclr", optim={"lr": 0.1}),
            small("simclr", train={"steps": 7}),
            small("simclr", data={"seed": 1}),
            with_cells(small("simclr"), projector=methods.Head(layers=2, hidden=32, out=8)),
        )
    }
    assert len(digests) == 5
    assert plan.shared_digest(small("simclr", train={"seed": 3})) == plan.shared_digest(small("byol"))


def test_momentum_variants_come_with_rho(small):
    lines = {cell.key: cell for cell in plan.cells(small(), ["simclr", "byol", "unigrad"], variants=True)}
    assert list(lines) == [
        "simclr", "simclr-momentum", "byol", "byol-detached",
        "unigrad", "unigrad-detached", "unigrad-rho0", "unigrad-detached-rho0",
    ]  # fmt: skip
    assert [cell.published for cell in lines.values()] == [True, False, True, False, True, False, False, False]
    assert lines["simclr"].target == "shared"
    assert lines["simclr-momentum"].row.target == "momentum"
    assert lines["byol-detached"].row.target == "detached"
    published = recipes.for_method("unigrad").method
    assert [lines[key].row.rho for key in lines if key.startswith("unigrad")] == [published.rho, published.rho, 0, 0]
    assert lines["unigrad-detached-rho0"].label == "unigrad, detached target, rho 0"
    assert lines["byol"].rho is None


def test_cells_that_are_given_go_into_every_row(small):
    shared = with_cells(small("simclr"), normalise="none", temperature=0.7)
    found = plan.cells(shared, ["simclr", "wmse", "vicreg", "mocov3"], ("normalise", "projector.hidden"))
    assert [cell.row is None for cell in found] == [False, False, False, False]
    assert {cell.row.normalise for cell in found} == {"none"}
    assert found[3].row.temperature != 0.7  # only what was named
    (refused,) = plan.cells(with_cells(small("simclr"), normalise="none"), ["simsiam"], ("normalise",))
    assert refused.row is None
    assert "unbounded below" in refused.problem
    with pytest.raises(PlanError, match="unbounded"):
        plan.recipe_of(shared, refused, 0)


def test_which_cells_a_command_line_names():
    words = ["shapes", "--method.predictor-options.no-centred", "--normalise=l2", "--methods", "all", "--rho", "0"]
    assert options.cells_named([*words, "--train.seed", "1"]) == ("predictor_options.centred", "normalise", "rho")
    assert options.cells_named(["--method.predictor_head.hidden", "8"]) == ("predictor_head.hidden",)


# ------------------------------------------------------------------------------------------ statistics


def test_mean_and_deviation_by_hand():
    found = table.mean_sd([1.0, 2.0, 4.0, None, float("nan")])
    assert found["n"] == 3
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["sd"] == pytest.approx(1.5275252316519468)  # sqrt(((4/3)^2 + (1/3)^2 + (5/3)^2) / 2)
    assert found["sd"] != pytest.approx(1.247219128924647)  # with n in place of n - 1
    assert table.mean_sd([3.0]) == {"mean": 3.0, "sd": None, "n": 1}
    assert table.mean_sd([]) == {"mean": None, "sd": None, "n": 0}
    assert table.spread(found, 10) == "23.3 ± 15.3"
    assert table.spread(table.mean_sd([0.5]), 100) == "50.0"


def test_momentum_is_compared_seed_by_seed(small):
    lines = plan.cells(small(), ["byol", "vicreg"], variants=True)
    value = {("byol", 0): 0.5, ("byol", 1): 0.9, ("byol-detached", 0): 0.4, ("byol-detached", 1): 0.7,
             ("vicreg", 0): 0.5, ("vicreg-momentum", 1): 0.6}  # fmt: skip
    runs = [{"cell": c, "seed": s, "status": "finished", "knn": knn} for (c, s), knn in value.items()]
    byol, vicreg = table.paired(runs, lines, "knn")
    assert (byol["with"], byol["without"], byol["without_target"]) == ("byol", "byol-detached", "detached")
    assert byol["difference"]["mean"] == pytest.approx(0.15)
    assert byol["difference"]["sd"] == pytest.approx(0.1 / 2**0.5)
    assert (vicreg["with"], vicreg["without_target"]) == ("vicreg-momentum", "shared")
    assert vicreg["difference"]["n"] == 0  # no seed has both


# ------------------------------------------------------------------------------------------ runs


def test_a_failed_run_is_a_cell_and_stops_nothing(folder, fakes):
    out, recipe = folder
    heard = []
    done = compare(recipe, out, methods="simclr,byol,dino,swav,tico", seeds="0,1", jobs="2", say=heard.append)
    assert done.signal == 0
    assert [run["cell"] for run in done.facts["runs"]][:5] == ["simclr", "byol", "tico", "dino", "swav"]
    found = {cell["key"]: cell for cell in done.facts["cells"]}
    assert [cell["key"] for cell in done.facts["cells"]][:2] == ["byol", "simclr"]  # the better one first
    assert found["dino"]["problems"] == ["failed: the loss is nan at step 7"]
    assert found["swav"]["problems"] == ["failed: killed by SIGKILL (out of memory?)"]
    assert found["tico"]["problems"] == ["failed: exit code 1: RuntimeError: a defect"]
    assert found["tico"]["figures"]["knn"]["mean"] is None
    assert found["byol"]["figures"]["knn"] == pytest.approx({"mean": 0.605, "sd": 0.0070710678, "n": 2})
    assert found["byol"]["figures"]["images_per_second"]["mean"] == 90  # the median, not the mean
    assert found["byol"]["figures"]["effective_rank"]["mean"] == 20
    assert found["byol"]["figures"]["peak_memory_mib"]["mean"] > 1
    assert done.facts["baselines"]["untrained"]["knn"] == pytest.approx({"mean": 0.31, "sd": 0.014142136, "n": 2})
    assert {run["shared_digest"] for run in done.facts["runs"]} == {done.facts["shared_digest"], None}
    assert started(out, "byol") == ["train 1", "train 1"]
    assert len(heard) == 11
    for name in ("compare.json", "compare.md", "compare.csv", "compare.html", "compare.png"):
        assert (out / name).stat().st_size > 500
    text = (out / "compare.md").read_text()
    assert "| byol | 60.5 ± 0.7 | 70.5 ± 0.7 | 0.800 ± 0.000 | 20.0 ± 0.0 | 90 ± 0 |" in text
    assert "- dino: failed: the loss is nan at step 7" in text
    rows = list(csv.DictReader((out / "compare.csv").open()))
    assert [row["cell"] for row in rows][-2:] == ["untrained", "raw_pixels"]
    assert float(rows[0]["knn_mean"]) == pytest.approx(0.605)
    assert rows[-2]["auc_mean"] == "" and rows[-2]["finished"] == "2"


def test_run_again(folder, fakes):
    out, recipe = folder
    first = compare(recipe, out, methods="simclr,dino", seeds="0")
    assert status(first) == {("simclr", 0): "finished", ("dino", 0): "failed"}
    again = compare(recipe, out, methods="simclr,dino,byol", seeds="0,1")
    assert started(out, "simclr") == ["train 1"] * 2  # the finished one is not run again
    assert started(out, "dino") == ["train 1"] * 2  # nor the failed one
    assert status(again)[("dino", 0)] == "failed"
    last = compare(recipe, out, methods="dino", seeds="0", retry=True)
    assert started(out, "dino")[-1] == "train --overwrite 1"  # from the start: it would only diverge again
    assert status(last) == {("dino", 0): "finished"}
    assert last.facts["cells"][0]["figures"]["knn"]["sd"] is None


def test_an_unfinished_run_is_resumed(folder, fakes):
    out, recipe = folder
    compare(recipe, out, methods="simclr", seeds="0")
    run = out / "runs" / "simclr" / "seed-0"
    (run / "evaluation.json").unlink()
    (run.parent / "seed-0.json").write_text(json.dumps({"status": "stopped", "seconds": 100.0, "peak_memory_mib": 9e9}))
    done = compare(recipe, out, methods="simclr", seeds="0")
    assert started(out, "simclr") == ["train 1", "resume 1"]
    (found,) = done.facts["runs"]
    assert found["status"] == "finished"
    assert found["seconds"] > 100  # both pieces together
    assert found["peak_memory_mib"] == 9e9  # the greater of the two


def test_a_run_by_another_recipe_does_not_count(folder, fakes):
    out, recipe = folder
    compare(recipe, out, methods="simclr,byol", seeds="0")
    file = out / "runs" / "simclr" / "seed-0" / "recipe.toml"
    file.write_text(file.read_text().replace("temperature = 0.2", "temperature = 0.3"))
    done = compare(recipe, out, methods="simclr,byol", seeds="0")
    assert status(done) == {("simclr", 0): "failed", ("byol", 0): "finished"}
    assert "another recipe" in done.facts["runs"][0]["reason"]
    done = compare(recipe, out, methods="simclr", seeds="0", retry=True)
    assert status(done) == {("simclr", 0): "finished"}
    assert started(out, "simclr")[-1] == "train --overwrite 1"


@pytest.mark.parametrize(("digest", "fingerprint", "reason"), [
    ("other", "abc", "shared recipe"), (None, "xyz", "the data changed"),
])  # fmt: skip
def test_every_digest_is_checked(folder, fakes, digest, fingerprint, reason):
    out, recipe = folder
    compare(recipe, out, methods="simclr", seeds="0")
    (cell,) = plan.cells(recipe, ["simclr"])
    run = jobs.Run(cell.key, cell.label, 0, plan.recipe_of(recipe, cell, 0), out / "runs" / "simclr")
    right = plan.shared_digest(recipe)
    assert table.collect(run, right, "abc")["status"] == "finished"
    found = table.collect(run, digest or right, fingerprint)
    assert found["status"] == "failed"
    assert reason in found["reason"]
    assert "knn" not in found


def test_a_signal_lets_the_children_save(folder, fakes):
    out, recipe = folder
    ready = out / "runs" / "mocov3" / "seed-0" / "ready"

    def press():
        limit = time.monotonic() + 20
        while not ready.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    former = signal.getsignal(signal.SIGINT)
    presser = threading.Thread(target=press)
    presser.start()
    done = compare(recipe, out, methods="mocov3,byol", seeds="0", jobs="1")
    presser.join()
    assert signal.getsignal(signal.SIGINT) is former
    assert done.signal == signal.SIGINT
    assert (ready.parent / "saved").exists()
    assert status(done) == {("mocov3", 0): "stopped", ("byol", 0): "pending"}
    assert started(out, "byol") == []  # nothing was started after the signal
    again = compare(recipe, out, methods="mocov3,byol", seeds="0", jobs="1")
    assert status(again) == {("mocov3", 0): "finished", ("byol", 0): "finished"}
    assert started(out, "mocov3") == ["train 1", "resume 1"]


def test_a_run_in_other_hands_is_left_alone(folder, fakes):
    out, recipe = folder
    run = RunDir(out / "runs" / "simclr" / "seed-0")
    run.path.mkdir(parents=True)
    heard = []
    with run.lock():
        done = compare(recipe, out, methods="simclr", seeds="0", say=heard.append)
    assert status(done) == {("simclr", 0): "pending"}
    assert "another process" in heard[-1]
    assert started(out, "simclr") == []
    with RunDir(out).lock(), pytest.raises(RunError, match="another process"):
        compare(recipe, out, methods="simclr", seeds="0")


def test_directories_that_are_refused(folder, small, tmp_path):
    out, _ = folder
    with pytest.raises(PlanError, match=r"another recipe \(optim.lr is 0.5, not "):
        compare(small("simclr", train={"threads": 1}, optim={"lr": 0.5}), out)
    with pytest.raises(PlanError, match=r"cells\.normalise"):
        compare(small("simclr", train={"threads": 1}), out, cells=("normalise",))
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="is a file"):
        compare(small(), tmp_path / "file")
    with pytest.raises(PlanError, match="no comparison"):
        compare(small(), tmp_path)
    with pytest.raises(PlanError, match="--jobs"):
        compare(small(), tmp_path / "new", jobs="0")
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------------ in earnest


def test_a_comparison_in_earnest(tmp_path, capsys):
    """Real runs: one that trains, one that its objective refuses, one whose cells have no meaning."""
    out = tmp_path / "cmp"
    words = [
        "compare", "shapes", "--methods", "simclr,wmse,simsiam", "--seeds", "0", "--out", str(out), "--json",
        "--size", "16", "--samples", "64", "--data.val-samples", "32", "--data.test-samples", "32", "--width", "0.5",
        "--method.projector.hidden", "32", "--method.projector.out", "64", "--batch-size", "32", "--steps", "2",
        "--precision", "fp32", "--train.channels-last", "off", "--device", "cpu", "--monitor.samples", "32",
        "--monitor.bank", "32", "--evaluation.no-probe", "--normalise", "none", "--quiet",
    ]  # fmt: skip
    assert cli.run(words) == 0
    facts = json.loads(capsys.readouterr().out)
    found = {cell["key"]: cell for cell in facts["cells"]}
    assert found["simclr"]["finished"] == 1
    assert found["simclr"]["row"]["normalise"] == "none"
    assert 200 < found["simclr"]["figures"]["peak_memory_mib"]["mean"] < 4000
    assert found["wmse"]["problems"][0].startswith("failed: ")
    assert "32" in found["wmse"]["problems"][0] and "64" in found["wmse"]["problems"][0]  # samples and dimensions
    assert found["simsiam"]["problems"][0].startswith("refused: ")
    assert facts["given_cells"] == {"normalise": "none"}
    recipe = RunDir(out / "runs" / "simclr" / "seed-0").recipe()
    assert plan.shared_digest(recipe) == facts["shared_digest"]
    assert recipe.train.threads >= 1
    before = (out / "runs" / "simclr" / "seed-0" / "metrics.jsonl").stat().st_mtime_ns
    assert cli.run(words) == 0
    assert (out / "runs" / "simclr" / "seed-0" / "metrics.jsonl").stat().st_mtime_ns == before


def test_what_cannot_be_prepared_is_said(monkeypatch, tmp_path, capsys):
    """Bad data end the comparison before it begins, with the words that `train` would use."""
    import io

    from siamscope.workflow import compare_prepare

    def in_this_process(command, **given):
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(given["input"])}))
        compare_prepare.main(*command[3:])
        return type("Done", (), {"stdout": capsys.readouterr().out, "returncode": 0})

    monkeypatch.setattr("siamscope.workflow.batch.subprocess.run", in_this_process)
    assert cli.run(["compare", "no-such-images", "--out", str(tmp_path / "x"), "--device", "cpu"]) == 2
    assert "no-such-images" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
