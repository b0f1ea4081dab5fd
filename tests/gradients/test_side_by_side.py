"""Methods side by side: norms, cosines and geometry against their definitions."""

import csv
import io
import math

import pytest
import torch
from gradient_cases import CASES, error, unit

from siamscope.gradients.compare import compare, cosine_matrix, geometry, terms_of
from siamscope.objectives import GradientTerms, ObjectiveError, radial, tangent

BY_NAME = {case.name: case for case in CASES}
L2 = ("cosine", "simclr", "unigrad", "barlow-trace", "dino")


def prepared(names, u, t):
    found = {name: BY_NAME[name].make(u[0].shape[1]) for name in names}
    for objective in found.values():
        objective.prepare(u, t)
    return found


def batch(n=40, d=8, seed=0):
    return list(unit(2, n, d, seed=seed)), list(unit(2, n, d, seed=seed + 70))


@pytest.fixture(scope="module")
def found():
    u, t = batch()
    terms = terms_of(prepared(L2, u, t), u, t)
    return u, terms, compare(terms, u[0])


def test_radial_and_tangent_add_up(found):
    u, terms, _ = found
    for name in L2:
        total = terms[name].total
        parts = tangent(total, u[0]), radial(total, u[0])
        assert error(parts[0] + parts[1], total) <= 1e-12
        assert (parts[0] * parts[1]).sum(1).abs().max() <= 1e-15
        assert error(terms[name].pull + terms[name].push, total) <= 1e-12


def test_norms(found):
    u, terms, result = found
    assert result.names == L2
    for name, norm in zip(result.names, result.norms, strict=True):
        term = terms[name]
        assert norm.pull == pytest.approx(torch.linalg.norm(tangent(term.pull, u[0])).item(), rel=1e-12)
        assert norm.push == pytest.approx(torch.linalg.norm(tangent(term.push, u[0])).item(), rel=1e-12, abs=1e-15)
        assert norm.balance == pytest.approx(term.balance.mean().item())
        whole = torch.linalg.norm(term.total).item()
        assert norm.total**2 + (norm.radial * whole) ** 2 == pytest.approx(whole**2)
    cosine = result.norms[0]
    assert cosine.push == 0 and cosine.ratio == 0 and result.norms[1].ratio > 0


def test_cosine_matrices(found):
    u, terms, result = found
    for matrix, part in ((result.total_cosines, "total"), (result.negative_cosines, "push")):
        assert torch.equal(matrix, matrix.T) and torch.equal(matrix.diagonal(), torch.ones(len(L2)).double())
        assert matrix.abs().max() <= 1
        a, b = (tangent(getattr(terms[name], part), u[0]).flatten() for name in ("simclr", "unigrad"))
        assert matrix[1, 2].item() == pytest.approx((a @ b / a.norm() / b.norm()).item(), rel=1e-10)
    assert result.negative_cosines[0, 1:].abs().max() == 0  # the cosine loss has no negative: no NaN
    whole = cosine_matrix([terms[name].push for name in ("simclr", "unigrad")])
    assert abs(whole[0, 1] - result.negative_cosines[1, 2]) > 0.01  # the radial part contaminates


def test_scale_does_not_change_cosines_and_a_radial_part_does_not_count(found):
    u, terms, result = found
    bent = {}
    for name, term in terms.items():
        positive = 3 * (term.positive + 0.7 * u[0])
        bent[name] = GradientTerms(positive, 3 * term.negative, term.balance, term.scale)
    again = compare(bent, u[0])
    torch.testing.assert_close(again.total_cosines, result.total_cosines, rtol=1e-10, atol=1e-12)
    assert again.norms[1].total == pytest.approx(3 * result.norms[1].total, rel=1e-10)


def test_rows_survive_a_csv(found):
    _, _, result = found
    rows = result.rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    text.seek(0)
    back = list(csv.DictReader(text))
    assert [row["method"] for row in back] == list(L2)
    assert float(back[1]["cos_push:unigrad"]) == result.negative_cosines[1, 2].item()
    assert float(back[2]["ratio"]) == result.norms[2].ratio


def test_other_features_are_pulled_back():
    """Barlow's terms through batch normalisation are autograd's gradient w.r.t. the raw embeddings."""
    z, _ = batch(seed=4)
    barlow = BY_NAME["barlow"].make(8)

    def normalise(x):
        return (x - x.mean(0)) / x.std(0, correction=0)

    for shared in (False, ["barlow"]):
        got = terms_of({"barlow": barlow}, z, z, shared=shared, normalise={"barlow": normalise})["barlow"]
        leaf = z[0].clone().requires_grad_()
        u = [normalise(leaf), normalise(z[1])]
        t = u if shared else [v.detach() for v in u]
        expected = torch.autograd.grad(barlow(u, t), leaf)[0]
        assert error(got.total, expected) <= 1e-10
    plain = terms_of({"barlow": barlow}, [normalise(x) for x in z], [normalise(x) for x in z])["barlow"]
    assert error(got.total, plain.total) > 0.1


def test_shared_may_be_named():
    u, _ = batch(seed=6)
    objectives = prepared(("simclr", "unigrad"), u, u)
    some, none, every = (terms_of(objectives, u, u, shared=s) for s in (["simclr"], False, True))
    assert torch.equal(some["simclr"].total, every["simclr"].total)
    assert torch.equal(some["unigrad"].total, none["unigrad"].total)
    assert not torch.equal(none["simclr"].total, every["simclr"].total)


def test_geometry_by_hand():
    eye = torch.eye(4)
    flat = geometry(3 * eye, eye, top=2)
    assert (flat.positive_mean, flat.positive_std) == (1, 0)
    assert (flat.negative_mean, flat.negative_std) == (0, 0)
    assert flat.effective_rank == pytest.approx(4) and flat.top == pytest.approx((0.25, 0.25))
    collapsed = geometry(torch.ones(5, 3), torch.ones(5, 3))
    assert collapsed.effective_rank == pytest.approx(1) and collapsed.negative_mean == pytest.approx(1)
    assert collapsed.top[0] == pytest.approx(1)
    assert geometry(torch.zeros(3, 2), torch.zeros(3, 2)).effective_rank == 0
    a, b = unit(2, 30, 5)
    found = geometry(a, b)
    off = (a @ b.T)[~torch.eye(30, dtype=torch.bool)]
    assert found.negative_std == pytest.approx(off.std(correction=0).item())
    both = torch.cat([a, b])
    values = torch.linalg.eigvalsh(both.T @ both / 60)
    assert found.effective_rank == pytest.approx(math.exp(-(values * values.log()).sum()))
    assert found.top == pytest.approx(tuple(values.flip(0).tolist()))
    assert found.row()["eigenvalue_1"] == found.top[0] and "top" not in found.row()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda u: compare({}, u[0]), "at least one method"),
        (lambda u: compare({"a": GradientTerms(u[0][:2], u[0], torch.ones(()), 1.0)}, u[0]), r"terms\['a'\]"),
        (lambda u: terms_of({"cosine": BY_NAME["cosine"].make(8)}, u, u, shared=["simclr"]), "not simclr"),
        (lambda u: geometry(u[0], u[1][:3]), "first and second"),
        (lambda u: geometry(u[0], u[1], -1), "top"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call(batch()[0])
