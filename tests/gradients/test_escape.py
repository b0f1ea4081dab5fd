"""Rates of escape from collapse: predicted in closed form, measured on perturbed points."""

import pytest
import torch
from gradient_cases import CASES

from siamscope.gradients.escape import directpred_rate, escape_rate, escape_table, spectral_rate
from siamscope.objectives import Contrastive, ObjectiveError, create

BY_NAME = {case.name: case for case in CASES}


def close(measured: float, predicted: float) -> bool:
    return abs(measured - predicted) <= (0.01 * abs(predicted) if predicted else 1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_table(seed):
    """Within 1 %, and the two that do not escape below 1e-3 (reference 1.6)."""
    rows = {row.name: row for row in escape_table(seed=seed)}
    assert len(rows) == 7 and all(close(row.measured, row.predicted) for row in rows.values())
    expected = {"contrastive": 5.0, "unigrad": 100.0, "barlow l2": 200.0, "directpred": 0.1775}
    expected |= {"no negative": 0.0, "vicreg l2 centred": 0.0, "directpred (paper's Q)": 0.1482}
    assert {name: row.predicted for name, row in rows.items()} == pytest.approx(expected, rel=1e-3)


def test_the_table_follows_its_parameters():
    rows = {row.name: row for row in escape_table(temperature=0.5, balance=7.0, predictor_eps=0.1)}
    assert rows["contrastive"].measured == pytest.approx(2, rel=0.01)
    assert rows["barlow l2"].measured == pytest.approx(14, rel=0.01)
    assert rows["directpred"].measured == pytest.approx(0.1 / 1.1 / 1.1, rel=0.01)
    assert all(close(row.measured, row.predicted) for row in rows.values())


def test_the_form_of_directpred_matters():
    """Negative control: the exact rate and the printed form's differ by more than the tolerance."""
    assert not close(directpred_rate(0.3, "paper"), directpred_rate(0.3, "exact"))


@pytest.mark.parametrize(
    ("phi", "eps", "balance", "centred"),
    [
        ("identity", 1e-4, 20.0, False),
        ("identity", 1e-4, 20.0, True),
        ("inverse", 0.01, 0.5, False),
        ("inverse", 0.01, 0.5, True),
        ("inverse-sqrt", 0.01, 0.5, False),
        ("log", 0.01, 0.5, False),
    ],
)
@pytest.mark.parametrize("rho", [0.0, 0.99])
def test_spectral_objectives(phi, eps, balance, centred, rho):
    cells = {"phi": phi, "eps": eps, "balance": balance, "centred": centred, "rho": rho}
    predicted = spectral_rate(balance, phi, eps, centred)
    assert close(escape_rate(create("spectral", cells, 16)), predicted)
    assert centred or predicted > 0


def test_objectives():
    """Pull alone never escapes; a contrastive loss at 1/tau, whatever its keys; the objective is left as it was."""
    assert abs(escape_rate(create("asymmetric", {}, 16))) < 1e-3
    for name in ("simclr", "mocov3"):
        assert escape_rate(BY_NAME[name].make(16)) == pytest.approx(1 / 0.3, rel=0.01)
    bank = create("contrastive", {"temperature": 0.3, "negatives": "bank", "bank": 512}, 16)
    state = {name: value.clone() for name, value in bank.state_dict().items()}
    assert escape_rate(bank) == pytest.approx(1 / 0.3, rel=0.01)
    assert all(torch.equal(value, state[name]) for name, value in bank.state_dict().items())
    trace = create("decorrelation", {"form": "trace", "balance": 3.0}, 16)
    assert escape_rate(trace) == pytest.approx(6, rel=0.01)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: escape_rate(Contrastive(), 0.0), "eps"),
        (lambda: escape_rate(Contrastive(), samples=2), "at least 3 samples"),
        (lambda: spectral_rate(1.0, "square"), "phi"),
        (lambda: spectral_rate(1.0, "inverse", 0.0), "eps"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()
