"""Closed forms through predictors against autograd, and the forms that are approximations."""

import pytest
import torch
from gradient_cases import error, unit
from torch import nn

from siamscope.gradients.predictor import (
    coupled_predictor_terms,
    directpred_terms,
    directpred_weight,
    linear_predictor_terms,
    predictor_terms,
)
from siamscope.objectives import ObjectiveError, tangent


def draws():
    for seed in range(50):
        g = torch.Generator().manual_seed(seed)
        n, d = (int(torch.randint(low, 64, (), generator=g)) for low in (4, 3))
        yield seed, unit(n, d, seed=seed), unit(n, d, seed=seed + 500), torch.randn(d, d, generator=g).double()


def autograd(u1, u2, predictor):
    u = u1.clone().requires_grad_()
    p = predictor(u)
    return torch.autograd.grad(-(p * u2).sum(1).div(p.norm(dim=1)).mean(), u)[0]


def test_linear():
    for _, u1, u2, weight in draws():
        expected = autograd(u1, u2, lambda u, w=weight: u @ w.T)
        assert error(linear_predictor_terms(u1, u2, weight).total, expected) <= 1e-10
        assert error(linear_predictor_terms(u1, u2, 7 * weight).total, expected) <= 1e-10  # free of W's scale
        assert error(linear_predictor_terms(u1, u2, weight.T).total, expected) > 1e-2  # W is not symmetric


def test_any_predictor_that_treats_samples_alone():
    for seed, u1, u2, _ in draws():
        torch.manual_seed(seed)
        d = u1.shape[1]
        h = nn.Sequential(nn.Linear(d, 11), nn.GELU(), nn.LayerNorm(11), nn.Linear(11, d)).double()
        assert error(predictor_terms(u1, u2, h).total, autograd(u1, u2, h)) <= 1e-10
        relu = nn.Sequential(nn.Linear(d, 11, bias=False), nn.ReLU(), nn.Linear(11, d, bias=False)).double()
        terms = predictor_terms(u1, u2, relu)  # without biases p = J u1: the gradient has no radial part
        assert (terms.total * u1).sum(1).abs().max() <= 1e-12


def test_a_predictor_with_batch_norm():
    for seed, u1, u2, _ in draws():
        torch.manual_seed(seed)
        d = u1.shape[1]
        h = nn.Sequential(nn.Linear(d, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, d)).double()
        assert error(coupled_predictor_terms(u1, u2, h).total, autograd(u1, u2, h)) <= 1e-10
    with pytest.raises(ObjectiveError, match="coupled_predictor_terms"):
        predictor_terms(u1, u2, h)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3])
def test_directpred(eps):
    """Exact by autograd; eps = 0 is -F^(1/2) u2 + lambda F u1; the printed form errs by a few to 50 percent."""
    for seed, u1, u2, _ in draws():
        v = unit(100, u1.shape[1], seed=seed + 900)
        f = v.T @ v / 100
        weight = directpred_weight(f, eps)
        s, vectors = torch.linalg.eigh(f)
        by_hand = vectors @ torch.diag((s / s[-1]).sqrt() + eps) @ vectors.T
        assert error(weight, by_hand) <= 1e-12
        exact = directpred_terms(u1, u2, f, eps).total
        assert error(exact, autograd(u1, u2, lambda u, w=weight: u @ w.T)) <= 1e-10
        paper = directpred_terms(u1, u2, f, eps, "paper").total
        if eps == 0:
            assert error(paper, exact) <= 1e-10
        else:
            assert error(tangent(paper, u1), tangent(exact, u1)) > 1e-3
        radial = directpred_terms(u1, u2, f, eps, "radial").total
        assert error(tangent(radial, u1), tangent(paper, u1)) <= 1e-12


def test_the_balance_makes_the_gradient_tangent():
    for _, u1, u2, weight in draws():
        terms = linear_predictor_terms(u1, u2, weight)
        assert (terms.total * u1).sum(1).abs().max() <= 1e-12
        without = terms.negative - terms.positive  # negative control: balance 1
        assert (without * u1).sum(1).abs().max() > 1e-3


def test_a_prediction_of_zero_stays_finite():
    u1, u2 = unit(4, 3), unit(4, 3, seed=1)
    for weight in (torch.zeros(3, 3).double(),):
        assert linear_predictor_terms(u1, u2, weight).total.isfinite().all()
    assert torch.equal(directpred_weight(torch.zeros(3, 3).double(), 0.3), 0.3 * torch.eye(3).double())


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda u: linear_predictor_terms(u, u[:2], torch.eye(3)), "u1 and u2"),
        (lambda u: linear_predictor_terms(u, u, torch.eye(4)), "weight"),
        (lambda u: directpred_terms(u, u, torch.eye(4)), "correlation"),
        (lambda u: directpred_terms(u, u, torch.eye(3), -0.1), "eps"),
        (lambda u: directpred_terms(u, u, torch.eye(3).double(), 0.1, "best"), "form"),
        (lambda u: directpred_weight(u), "correlation"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call(unit(5, 3))
