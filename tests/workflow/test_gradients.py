"""`siamscope gradients`: each row's gradient against a training step's, the escape rates, and a run from end to end."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from siamscope import methods
from siamscope.gradients import pairs
from siamscope.gradients.predictor import linear_predictor_terms
from siamscope.methods import METHODS, Head
from siamscope.objectives import ObjectiveError, tangent
from siamscope.training.siamese import Branch
from siamscope.workflow import gradients_escape as escape
from siamscope.workflow.gradients_rows import Embeddings, Views, gradient_of, ready

N, D = 24, 8
SMALL = {"projector": Head(layers=2, hidden=16, out=D), "predictor_head": Head(layers=2, hidden=12), "prototypes": 10}


class Lagging(nn.Module):
    """Stands for a momentum network: another embedding of the same images."""

    def forward(self, z):
        return z + 0.3 * z.roll(1, 1)


def row_of(name, **cells):
    row = methods.get(name)
    head = dataclasses.replace(row.predictor_head, layers=2, hidden=12)
    return dataclasses.replace(row, **(SMALL | {"predictor_head": head, "slices": 6} | cells))


def embeddings(seed=0, others=2, features="none", n=N, d=D):
    """Pairs and other samples, with what a momentum network would make of them."""
    every = []
    for k in range(1 + others):
        pair = pairs.draw(100 * seed + k, n, d, features=features)
        online = (3 * pair.u1, 3 * pair.u2) if features == "none" else (pair.u1, pair.u2)
        every.append(Views(online, (Lagging()(online[0]), Lagging()(online[1]))))
    return Embeddings(every[0], tuple(every[1:]))


def of_a_step(subject, views, view):
    """dL/dz of one view by a training step's own forward, the encoder left out."""
    model = copy.deepcopy(subject.model)
    model.online = nn.Identity()
    if model.target is not None:
        model.target = Lagging()
    if subject.row.objective == "slices":  # each step draws other directions
        model.objective.prepare = lambda online, target: None
    leaves = [z.clone().requires_grad_() for z in views.online]
    model(leaves).backward()
    return leaves[view].grad


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))


# ------------------------------------------------------------------------------------------ one row's gradient


@pytest.mark.parametrize("name", METHODS)
def test_the_total_is_the_gradient_of_a_training_step(name):
    for seed in range(3):
        given = embeddings(seed)
        subject = ready(row_of(name), given, seed)
        for view in (0, 1):
            found = gradient_of(subject, given.pairs, view).terms
            wanted = of_a_step(subject, given.pairs, view)
            assert relative(found.total, wanted) < 1e-10
            assert relative(found.pull + found.push, wanted) < 1e-10
        assert relative(1.01 * found.total, wanted) > 1e-3  # a test that can fail


CHANGED = [
    ("simsiam", {"target": "shared"}),
    ("simclr", {"predictor": "linear"}),
    ("mocov3", {"target": "shared"}),
    ("barlow", {"predictor": "mlp"}),
    ("barlow", {"normalise": "l2", "form": "trace"}),
    ("byol", {"normalise": "none", "predictor": "linear"}),
    ("vicreg", {"normalise": "l2", "target": "detached"}),
    ("unigrad", {"normalise": "batch", "predictor": "directpred"}),
    ("corinfomax", {"target": "momentum", "phi": "log"}),
]


@pytest.mark.parametrize(("name", "cells"), CHANGED)
def test_any_cell_can_change(name, cells):
    given = embeddings(1)
    subject = ready(row_of(name, **cells), given, 0)
    assert relative(gradient_of(subject, given.pairs).terms.total, of_a_step(subject, given.pairs, 0)) < 1e-10


@pytest.mark.parametrize("kind", ["variance", "isotropic"])
@pytest.mark.parametrize("name", ["simsiam", "barlow", "directpred", "swav"])
def test_a_regulariser_is_part_of_the_push(name, kind):
    given = embeddings(1)
    row = row_of(name, regulariser=kind, regulariser_weight=0.3)
    subject, bare = ready(row, given, 0), ready(dataclasses.replace(row, regulariser="none"), given, 0)
    assert escape.predicted(row) is None
    model = copy.deepcopy(subject.model)
    model.online = Branch(nn.Identity(), nn.Sequential())
    model.target = Lagging() if model.target is not None else None
    for view in (0, 1):
        leaves = [z.clone().requires_grad_() for z in given.pairs.online]
        copy.deepcopy(model)(leaves).backward()
        found, plain = (gradient_of(one, given.pairs, view).terms for one in (subject, bare))
        assert relative(found.total, leaves[view].grad) < 1e-10
        assert torch.equal(found.pull, plain.pull)
        assert relative(plain.total, found.total) > 1e-4


def test_a_teacher_is_left_out():
    """No teacher is at hand: the row is compared with the other view in its place, and says so."""
    given = embeddings(1)
    row = row_of("simsiam", target="teacher", predictor="none", teacher="nowhere", distance="euclidean")
    subject = ready(row, given, 0)
    assert "the other view in place of the teacher" in subject.remarks
    wanted = ready(dataclasses.replace(row, target="detached"), given, 0)
    a, b = (gradient_of(one, given.pairs, 0).terms.total for one in (subject, wanted))
    assert torch.equal(a, b)


def test_the_parts_are_those_of_the_closed_form():
    """Without a predictor the objective's own terms; with a linear one those through W (reference: gradients room)."""
    given = embeddings(2, features="l2")
    u1, u2 = given.pairs.online
    detached = Embeddings(Views((u1, u2)))
    for name in ("directpred", "directset", "directcopy"):
        subject = ready(row_of(name), detached, 0)
        found = gradient_of(subject, detached.pairs)
        wanted = linear_predictor_terms(u1, u2, subject.model.predictor.matrix.detach())
        factor = 2 if subject.row.distance == "euclidean" else 1
        pull, push = (factor * tangent(part, u1) / 2 for part in (wanted.pull, wanted.push))  # one of two pairs
        assert relative(tangent(found.terms.pull, u1), pull) < 1e-10
        assert relative(tangent(found.terms.push, u1), push) < 1e-10
        assert found.balance == pytest.approx(float(wanted.balance.mean()), rel=1e-10)
    subject = ready(row_of("unigrad", balance=7.0), detached, 0)
    found = gradient_of(subject, detached.pairs)
    f = subject.model.objective.correlation.matrix
    assert relative(tangent(found.terms.push, u1), tangent(7 * u1 @ f, u1) / (2 * N)) < 1e-10
    assert relative(tangent(found.terms.pull, u1), -tangent(u2, u1) / (2 * N)) < 1e-10
    assert found.balance == 7


def test_the_radial_share_is_that_of_the_objective():
    given = embeddings(3, features="l2")
    found = gradient_of(ready(row_of("unigrad"), given, 0), given.pairs)
    u1 = given.pairs.online[0]
    assert 0.05 < found.radial < 1
    assert float((found.terms.total * u1).sum(1).abs().max()) < 1e-12  # nothing of it is left at z


def test_the_length_of_z_does_not_turn_the_gradient():
    one, three = (Embeddings(Views(tuple(c * z for z in embeddings(4).pairs.online))) for c in (1.0, 3.0))
    for name in ("simclr", "unigrad", "directpred"):
        a, b = (gradient_of(ready(row_of(name), e, 0), e.pairs) for e in (one, three))
        assert relative(a.terms.total, 3 * b.terms.total) < 1e-10
        assert a.balance == pytest.approx(b.balance, rel=1e-9)


def test_banks_hold_other_samples_only():
    given = embeddings(5, others=2)
    subject = ready(row_of("mocov2"), given, 0)
    keys = subject.model.objective.bank_keys
    assert len(keys) == 4 * N
    assert subject.remarks[0] == f"bank of {4 * N} keys in place of 65536"
    wanted = torch.cat([z for views in given.others for z in views.target])
    assert torch.allclose(keys, nn.functional.normalize(wanted, dim=1))
    small = ready(row_of("mocov2", bank=10), given, 0).model.objective.bank_keys
    assert torch.allclose(small.norm(dim=1), torch.ones(10, dtype=torch.float64))
    with pytest.raises(ObjectiveError, match="other samples"):
        ready(row_of("nnclr"), embeddings(5, others=0), 0)


def test_whitening_that_does_not_fit():
    with pytest.raises(ObjectiveError, match="covariance is singular"):
        ready(row_of("wmse"), embeddings(n=6, d=8), 0)
    flat = embeddings().pairs.online
    flat = tuple(torch.cat([z[:, :7], z[:, :1]], 1) for z in flat)  # two equal dimensions
    subject = ready(row_of("wmse"), Embeddings(Views(flat)), 0)
    assert "whitened with eps 0.001" in subject.remarks[0]


# ------------------------------------------------------------------------------------------ escape


def test_escape_rates_are_as_predicted():
    changed = {"corinfomax": {"eps": 1e-4}}  # small beside the perturbation's variance it shows in the rate
    known = {name: escape.rate(row_of(name, **changed.get(name, {}))) for name in METHODS}
    closed = {name: rate for name, rate in known.items() if rate.predicted is not None}
    assert set(closed) == {
        "simclr", "mocov2", "directpred", "directset", "directcopy", "isoloss", "unigrad", "tico", "corinfomax",
    }  # fmt: skip
    for name, rate in closed.items():
        assert rate.measured == pytest.approx(rate.predicted, rel=0.01), name
    assert all(rate.linear for name, rate in closed.items() if name != "corinfomax")
    assert closed["simclr"].predicted == pytest.approx(2 / METHODS["simclr"].temperature)
    assert not known["mmcr"].linear  # its push grows as the perturbation shrinks


@pytest.mark.parametrize(
    ("name", "cells", "wanted"),
    [
        ("simsiam", {"predictor": "none"}, 0.0),
        ("barlow", {"normalise": "l2", "form": "trace", "balance": 3.0}, 12.0),
        ("barlow", {"normalise": "l2", "form": "trace", "balance": 3.0, "target": "detached"}, 6.0),
        ("unigrad", {"centred": True}, 0.0),
        ("mocov3", {"predictor": "none", "temperature": 0.25}, 4.0),
    ],
)
def test_escape_rates_of_changed_cells(name, cells, wanted):
    found = escape.rate(row_of(name, **cells))
    assert found.predicted == pytest.approx(wanted, abs=1e-12)
    assert found.measured == pytest.approx(wanted, rel=0.01, abs=1e-3)


def test_learnt_prototypes_are_the_runs_own():
    given = embeddings(6)
    own = ready(row_of("dino"), given, 5).model
    subject = ready(row_of("dino"), given, 0, own)
    assert torch.equal(subject.model.objective.weight, own.objective.weight)
    assert torch.equal(subject.model.objective.target_weight, own.objective.weight)
    assert "prototypes the run's own" in subject.remarks
    assert not torch.equal(ready(row_of("dino"), given, 0).model.objective.weight, own.objective.weight)
