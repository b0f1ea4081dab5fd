"""The table of a sweep: the choice and what it cost by hand, its warning, its figure."""

import numpy as np
import pytest

from siamscope import recipe as recipes
from siamscope.report.sweep_figure import Axis, Dot, write_sweep
from siamscope.workflow.sweep import drive, table
from siamscope.workflow.sweep.score import objective
from siamscope.workflow.sweep.space import Dimension

RATES = Dimension("optim.lr", 0.001, 1.0, log=True)


def row(number, value, state="complete", knn=0.5, validation=0.5, step=40):
    found = {"trial": number, "state": state, "value": value, "params": {"optim.lr": 0.1 * number}, "step": step}
    return found | {"accuracy": {"knn": knn}, "validation": validation, "health": "healthy", "split": "test"}


def test_the_choice_and_its_cost_by_hand(small):
    rows = [row(0, 0.7, knn=0.6, validation=0.9), row(1, 0.6, knn=0.5, validation=0.1), row(2, 0.8, knn=0.8),
            row(3, None, "pruned", step=10), row(4, None, "fail")]  # fmt: skip
    goal = objective("auc", None, small(), [RATES])
    assert [item["trial"] for item in table.ordered(rows, goal)] == [1, 0, 2, 3, 4]
    choice = table.chosen(rows, goal)
    assert choice["trial"] == 1
    cost = table.cost(rows, goal, choice)
    assert (cost["accuracy_of"], cost["accuracy"], cost["best"]) == ("knn", 0.5, 0.8)
    assert cost["regret"] == pytest.approx(0.3) and cost["share"] == pytest.approx(1)
    assert cost["labelled"] == pytest.approx(0.6)  # the one with the best validation accuracy
    assert cost["spearman"] == pytest.approx(-1)
    assert table.chosen(rows, objective("rankme", None, small(), [RATES]))["trial"] == 2
    assert table.chosen(rows[3:], goal) is None and table.cost(rows[3:], goal, None) is None
    assert table.saved(rows, 40) == pytest.approx(0.75 / 4)


def test_a_sweep_without_the_alarm_stays_without(small):
    off, on = small(monitor={"watch": -1}), small(monitor={"watch": 5})
    assert drive._watched(off, "collapse") == off and drive._watched(on, "none") == on
    assert drive._watched(on, "collapse").monitor.on_collapse == "stop"
    recipes.validate(drive._watched(off, "collapse"))


def test_a_score_that_prefers_what_has_learnt_least_is_warned_of(small):
    goal = objective("auc", None, small(), [RATES])

    def text_of(losses):
        rows = [row(i, 0.6 + 0.01 * i) | {"scores": {"loss": loss}, "path": "run"} for i, loss in enumerate(losses)]
        facts = {"trials": rows, "score": "auc_sigma", "chosen": rows[0], "labels": None, "notes": []}
        found = table.with_loss(rows, goal)
        return found, table.text(facts | {"with_loss": found}, goal, [RATES])

    against, text = text_of([-0.1, -0.2, -0.3, -0.4, -0.5])  # the lowest AUC has the highest loss
    assert against == pytest.approx(-1) and "WARNING auc_sigma prefers trials with a high loss" in text
    along, text = text_of([-0.5, -0.4, -0.3, -0.2, -0.1])
    assert along == pytest.approx(1) and "WARNING" not in text
    few, text = text_of([-0.1, -0.2, -0.3])
    assert np.isnan(few) and "WARNING" not in text


def test_the_figure(tmp_path):
    axes = [Axis("optim.lr", True, False, 0.01, 1.0), Axis("optim.name", False, True)]
    values = {"optim.lr": 0.1, "optim.name": "sgd"}
    dots = [Dot(0, values, 0.7, False, True), Dot(1, values, 0.8, True, False), Dot(2, values, 0.6, False, False)]
    drawn = write_sweep(dots, axes, "auc_sigma", False, tmp_path / "one.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert drawn != write_sweep(dots, axes, "auc_sigma", True, tmp_path / "two.png").read_bytes()  # another best so far
    write_sweep(dots[1:2], [], "auc_sigma", False, tmp_path / "three.png")  # nothing finished, nothing to compare
