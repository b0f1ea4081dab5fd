"""Reading: what is damaged or missing becomes a note, and the rest stays exact."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import report_runs as runs

from siamscope.report.gallery import read_gallery
from siamscope.report.metrics import read_metrics
from siamscope.report.read import read_run


def lines(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_metrics_columns(tmp_path: Path) -> None:
    rows = runs.metrics(steps=20, monitors=4)
    runs.jsonl(tmp_path / "m.jsonl", rows)
    read = read_metrics(tmp_path / "m.jsonl")
    np.testing.assert_array_equal(read.steps.get("step"), np.arange(1, 21))
    np.testing.assert_array_equal(read.steps.get("loss"), [row["loss"] for row in rows if row["kind"] == "step"])
    assert len(read.monitors) == 5 and read.monitors.health[-1] == "healthy"
    np.testing.assert_array_equal(read.monitors.embeddings[0].values, runs.spectrum(128, 1.6))
    assert read.monitors.embeddings[0].dimension == 128
    assert read.events[0].message.startswith("checkpoint saved") and not read.notes
    assert math.isnan(read.monitors.table.first("grad_norm"))  # null


def test_thinned_spectrum_says_where_its_values_stand(tmp_path: Path) -> None:
    row = {"kind": "monitor", "step": 1, "spectrum_embeddings": [3.0, 2.0, 1.0]}
    stated = row | {"step": 2, "spectrum_embeddings_index": [1, 2, 900], "embedding_dim": 1024}
    wrong = row | {"step": 3, "spectrum_embeddings_index": [0, 2, 900], "embedding_dim": 2}
    runs.jsonl(tmp_path / "m.jsonl", [row, stated, wrong])
    plain, thinned, repaired = read_metrics(tmp_path / "m.jsonl").monitors.embeddings
    assert (plain.dimension, thinned.dimension, repaired.dimension) == (3, 1024, 3)
    np.testing.assert_array_equal(thinned.index, [1, 2, 900])
    np.testing.assert_array_equal(repaired.index, [1, 2, 3])


def test_null_huge_and_foreign_values(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "m.jsonl",
        '{"kind": "step", "step": 1, "loss": null, "lr": "fast", "grad_norm": true}',
        '{"kind": "step", "step": 2, "loss": NaN, "lr": 1' + "0" * 400 + "}",
        "",
        "[1, 2]",
        "not json",
        '{"kind": "other"}',
        '{"kind": "step", "step": 3, "loss": 0.5}',
    )
    read = read_metrics(path)
    np.testing.assert_array_equal(read.steps.get("loss"), [math.nan, math.nan, 0.5])
    np.testing.assert_array_equal(read.steps.get("lr"), [math.nan, math.inf, math.nan])
    assert not read.steps.has("grad_norm")
    assert read.notes == ("metrics.jsonl: 3 lines are not readable and left out.",)


def test_truncated_last_line(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", '{"kind": "step", "step": 1, "loss": 2.0}', '{"kind": "step", "st')
    read = read_metrics(path)
    assert len(read.steps) == 1
    assert read.notes == ("metrics.jsonl ends in the middle of a line: the run was stopped while writing it.",)


def test_whole_last_line_without_line_end_counts(tmp_path: Path) -> None:
    read = read_metrics(lines(tmp_path / "m.jsonl", '{"kind": "step", "step": 1, "loss": 2.0}'))
    assert len(read.steps) == 1 and not read.notes


def test_resumed_run_keeps_the_later_pass(tmp_path: Path) -> None:
    """Steps 1..6, killed, resumed from the checkpoint at 3: only 1..3 of the first pass count."""
    first = [json.dumps({"kind": "step", "step": step, "loss": 1.0}) for step in range(1, 7)]
    second = [json.dumps({"kind": "step", "step": step, "loss": 2.0}) for step in range(4, 6)]
    read = read_metrics(lines(tmp_path / "m.jsonl", *first, *second))
    np.testing.assert_array_equal(read.steps.get("step"), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(read.steps.get("loss"), [1, 1, 1, 2, 2])


def test_complete_run_has_no_notes(tmp_path: Path) -> None:
    run = read_run(runs.healthy(tmp_path / "run"))
    assert run.notes == () and run.status == "healthy" and run.label == "run"
    assert run.evaluation is not None and run.evaluation.knn["untrained"][200] == 0.2544
    assert run.evaluation.headline("trained") == 0.6234
    assert run.evaluation.probe["trained"].low == 0.6417


def test_every_damaged_file_is_a_note(tmp_path: Path) -> None:
    run = runs.healthy(tmp_path / "run")
    (run / "recipe.toml").write_text("= not toml")
    (run / "evaluation.json").write_text('{"verdict": ')
    (run / "environment.json").write_text("[]")
    (run / "gallery.npz").write_bytes(b"PK\x03\x04 cut")
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe\x00 rubbish\n")
    (run / "rejected.jsonl").write_text("rubbish\n")
    read = read_run(run)
    for name in ("recipe.toml", "evaluation.json", "environment.json", "gallery.npz", "metrics.jsonl"):
        assert sum(note.startswith(name) for note in read.notes) == 1, name
    assert read.recipe is None and read.recipe_text == "= not toml"
    assert read.status is None and read.rejected.count == 1


def test_status_of_an_unevaluated_run(tmp_path: Path) -> None:
    """The untrained network's health is no verdict; a later monitor's is."""
    run = runs.aborted(tmp_path / "run")
    assert read_run(run).status is None
    runs.jsonl(run / "metrics.jsonl", [runs.monitor(0, 0.0), runs.monitor(100, 0.9)])
    assert read_run(run).status == "healthy"


@pytest.mark.parametrize(("wanted", "expected"), [(5, 5), (None, 20), (7, 20), ("5", 20)])
def test_headline_k(tmp_path: Path, wanted: object, expected: int) -> None:
    run = runs.healthy(tmp_path / "run")
    (run / "evaluation.json").write_text(json.dumps(runs.evaluation() | {"k": wanted}))
    read = read_run(run).evaluation
    assert read is not None and read.headline_k == expected


def test_impossible_accuracy_is_left_out(tmp_path: Path) -> None:
    run = runs.healthy(tmp_path / "run")
    judged = runs.evaluation()
    judged["knn"]["trained"]["20"] = 62.3
    (run / "evaluation.json").write_text(json.dumps(judged))
    read = read_run(run)
    assert read.evaluation is not None and math.isnan(read.evaluation.headline("trained"))
    assert any("62.3 is not an accuracy" in note for note in read.notes)


def test_gallery_parts_are_checked_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "g.npz"
    points = np.array([[0, 1], [np.nan, 2], [3, 4]], dtype=np.float32)
    np.savez(path, map=points, view_images=np.zeros((2, 3, 1, 4, 4), dtype=np.float32))
    read = read_gallery(path)
    assert read.map is not None and read.neighbours is None and read.views is None
    np.testing.assert_array_equal(read.map.points, [[0, 1], [3, 4]])
    np.testing.assert_array_equal(read.map.labels, [-1, -1])
    assert len(read.notes) == 2 and "view_images" in read.notes[1] and "1 of 3 map points" in read.notes[0]


def test_gallery_is_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "g.npz", class_names=np.array([Trap()], dtype=object), map=np.zeros((2, 2)))
    read = read_gallery(tmp_path / "g.npz")
    assert not (tmp_path / "sprung").exists()
    assert read.map is not None and "class_names is not readable" in read.notes[0]
    np.load(tmp_path / "g.npz", allow_pickle=True)["class_names"]  # negative control: the trap works
    assert (tmp_path / "sprung").exists()


def test_class_names(tmp_path: Path) -> None:
    runs.gallery(tmp_path / "g.npz", classes=("cat", "dog"))
    read = read_gallery(tmp_path / "g.npz")
    assert [read.class_name(label) for label in (-1, 0, 1, 2)] == [None, "cat", "dog", "class 2"]
