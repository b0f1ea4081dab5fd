"""What all objectives promise, on asymmetric and contrastive ones; asymmetric's numbers."""

import math

import pytest
import torch
from draws import autograd, draws, relative, unit
from torch.nn.functional import normalize

from siamscope.objectives import Asymmetric, Contrastive, ObjectiveError, create, radial, tangent


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_closed_form_is_autograd(distance, shared):
    objective = Asymmetric(distance)
    for online, target in draws():
        t = online[: len(target)] if shared else target
        u = [z.clone().requires_grad_() for z in online]
        objective(u, u[: len(target)] if shared else list(target)).backward()
        for view, leaf in enumerate(u):
            assert relative(objective.gradient_terms(online, t, view, shared=shared).total, leaf.grad) <= 1e-10


@pytest.mark.parametrize("objective", [Asymmetric("cosine"), Asymmetric("euclidean"), Contrastive(0.2)], ids=str)
def test_terms_add_up(objective):
    """pull + push is the gradient, and so are its radial and tangent parts (which meet at a right angle)."""
    for online, target in draws(9):
        expected = autograd(objective, online, target)
        terms = objective.gradient_terms(online, target, 1)
        assert relative(terms.pull + terms.push, expected[1]) <= 1e-12
        along, across = radial(terms.total, online[1]), tangent(terms.total, online[1])
        assert relative(along + across, expected[1]) <= 1e-12
        assert torch.linalg.norm((across * online[1]).sum(1)) <= 1e-12 * torch.linalg.norm(expected[1])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_loss_is_the_mean_over_pairs(distance):
    """Straight from the formula, one sample at a time; local crops have no target."""
    online, target = unit(4, 5, 3), unit(2, 5, 3, seed=1)
    values = []
    for i in range(4):
        for j in range(2):
            for n in range(5):
                p, t = online[i, n].tolist(), target[j, n].tolist()
                dot = -sum(a * b for a, b in zip(p, t, strict=True))
                square = sum((a - b) ** 2 for a, b in zip(p, t, strict=True))
                if i != j:
                    values.append(dot if distance == "cosine" else square)
    assert Asymmetric(distance)(list(online), list(target)).item() == pytest.approx(
        sum(values) / len(values), abs=1e-12
    )


def test_one_target_for_many_crops():
    """A single target view: the view that it came from has no other target, so its gradient is zero."""
    online, target = unit(3, 5, 4), unit(1, 5, 4, seed=1)
    for objective in (Asymmetric(), Contrastive(0.5)):
        expected = autograd(objective, online, target)
        assert not expected[0].any()
        for view in range(3):
            torch.testing.assert_close(objective.gradient_terms(online, target, view).total, expected[view])


def test_shared_target_doubles_the_cosine_pull():
    online = unit(2, 9, 5)
    detached, shared = (Asymmetric().gradient_terms(online, online, shared=s).total for s in (False, True))
    torch.testing.assert_close(shared, 2 * detached, rtol=1e-12, atol=0)


def test_values_by_hand():
    """Orthonormal views: every similarity is known."""
    eye = torch.eye(4, dtype=torch.float64)
    assert Asymmetric("cosine")([eye, eye], [eye, eye]).item() == -1
    assert Asymmetric("euclidean")([eye, eye], [eye.roll(1, 0), eye.roll(1, 0)]).item() == pytest.approx(2)
    tau = 0.5
    by_hand = -1 / tau + math.log(math.exp(1 / tau) + 3 + 3)  # one positive, 2N - 2 = 6 negatives at 0
    assert Contrastive(tau)([eye, eye], [eye, eye]).item() == pytest.approx(by_hand, abs=1e-12)


def test_byol_is_twice_simsiam_through_the_normaliser():
    z, t = torch.randn(2, 9, 5, dtype=torch.float64), unit(2, 9, 5)
    grads = []
    for distance in ("cosine", "euclidean"):
        leaf = z.clone().requires_grad_()
        u = normalize(leaf, dim=-1)
        Asymmetric(distance)([u[0], u[1]], [t[0], t[1]]).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], 2 * grads[0], rtol=1e-12, atol=1e-14)


def test_single_precision():
    for online, target in draws(6):
        exact = autograd(Asymmetric(), online, target)
        assert relative(autograd(Asymmetric(), online.float(), target.float()), exact) <= 1e-5


def test_half_precision_is_computed_in_float32():
    u = unit(2, 32, 16).float()
    exact = Contrastive(0.1)(list(u), list(u))
    half = Contrastive(0.1)([u[0].bfloat16(), u[1].bfloat16()], [u[0].bfloat16(), u[1].bfloat16()])
    assert half.dtype == torch.float32
    assert abs(half - exact) < 0.02 * abs(exact)


def test_nothing_is_hidden_that_is_not_finite():
    """NaN in, NaN out; a zero vector has a finite loss and gradient."""
    online, target = unit(2, 6, 4), unit(2, 6, 4, seed=1)
    for objective in (Asymmetric(), Contrastive(0.2)):
        broken = online.clone()
        broken[0, 2, 1] = float("nan")
        assert objective(list(broken), list(target)).isnan()
        zero = online.clone()
        zero[0, 2] = 0
        assert autograd(objective, zero, target).isfinite().all()


def test_create_takes_only_its_cells():
    cells = {"temperature": 0.7, "distance": "euclidean", "name": "x"}
    assert create("contrastive", cells, width=8).temperature == 0.7
    assert create("asymmetric", cells, width=8).distance == "euclidean"


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Asymmetric("manhattan"), "distance"),
        (lambda: create("nothing", {}, 8), "unknown objective"),
        (lambda: Asymmetric()([unit(4, 3), unit(5, 3)], [unit(4, 3), unit(4, 3)]), r"online\[1\]"),
        (lambda: Asymmetric()([unit(4, 3), unit(4, 3)], [unit(4, 2), unit(4, 3)]), r"target\[0\]"),
        (lambda: Asymmetric()([unit(4, 3)], [unit(4, 3)]), "two or more views"),
        (lambda: Asymmetric()([unit(4, 3)] * 2, [unit(4, 3)] * 3), "not more than online"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()
