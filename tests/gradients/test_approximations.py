"""Approximations err by what is published of them, and what is declared exact does not."""

import itertools
import math

import pytest
import torch
from gradient_cases import error
from torch.nn import functional as F

from siamscope.gradients import pairs
from siamscope.gradients.approximations import APPROXIMATIONS, Approximation, errors, measure
from siamscope.objectives import Contrastive, ObjectiveError, create, tangent

SEEDS = range(3)


def test_directpreds_dropped_term():
    """Error between .02 and .5, cosine above .97, over flat and falling spectra (reference 1.2)."""
    for decay in (0.0, 0.5, 1.0):
        for dimensions in (16, 64):
            found = measure("directpred-q", SEEDS, dimensions=dimensions, decay=decay)
            assert 0.02 < found.error_low <= found.error <= found.error_high < 0.5
            assert 0.97 < found.cosine_low <= found.cosine < 1


LIMITS = {  # error between, cosine between; measured over 5 seeds with 256 samples in 64 dimensions
    "directpred-q": (0.02, 0.5, 0.97, 0.9999),
    "directpred-identity": (0.5, 0.95, 0.85, 0.97),
    "barlow-identity": (0.1, 0.5, 0.9, 0.99),
    "barlow-identity-batch": (4.0, 16.0, 0.97, 0.999),
    "vicreg-centred": (0.7, 1.0, 0.2, 0.7),
    "simclr-first-bracket": (0.45, 0.55, 0.99, 0.9999),
    "own-key": (0.01, 0.3, 0.97, 0.9999),
    "softmax-linear": (1e-4, 0.02, 0.999, 1.0),
    "sigreg-knots": (1e-3, 0.05, 0.999, 1.0),
}


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_every_approximation_errs_by_a_known_amount(name):
    low, high, least, most = LIMITS[name]
    found = measure(name, SEEDS)
    assert found.seeds == 3 and found.error_low <= found.error <= found.error_high
    assert low < found.error < high
    assert least < found.cosine <= most


def test_an_exact_form_has_no_error():
    """The measure itself: a form against itself, and against itself plus a radial part, which nobody feels."""
    exact = APPROXIMATIONS["simclr-first-bracket"].exact
    batch = pairs.draw(0)
    assert errors(Approximation("x", "", exact, exact), batch)[0] == 0
    bent = Approximation("x", "", exact, lambda b: exact(b) + b.u1)
    assert errors(bent, batch)[0] <= 1e-12
    longer = Approximation("x", "", exact, lambda b: 1.5 * exact(b))
    assert errors(longer, batch) == pytest.approx((0.5, 1.0), abs=1e-12)


def autograd(loss, u):
    leaf = u.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def test_exact_counterparts_are_exact():
    """Each against autograd of its loss (DirectPred: tests/gradients/test_predictor.py)."""
    b, batch = pairs.draw(1, 24, 10), pairs.draw(1, 24, 10, features="batch")
    simclr = autograd(lambda u: Contrastive(0.2)([u, b.u2], [u, b.u2]), b.u1)
    assert error(APPROXIMATIONS["simclr-first-bracket"].exact(b), simclr) <= 1e-10

    def barlow(u, balance, x):
        w = u.T @ x.u2 / x.size
        off = w - torch.diag(w.diagonal())
        return (w.diagonal() - 1).square().sum() + balance * off.square().sum()

    for name, x, balance in (("barlow-identity", b, 3.0), ("barlow-identity-batch", batch, 0.0051)):
        expected = autograd(lambda u, x=x, balance=balance: barlow(u, balance, x), x.u1)
        assert error(APPROXIMATIONS[name].exact(x), expected) <= 1e-10

    vicreg = create("covariance", {}, 10)  # (25 / d) x this form, and half the mean over two ordered pairs
    expected = autograd(lambda u: 2 * 10 / 25 * vicreg([u, b.u2], [b.u2, b.u2]), b.u1)
    assert error(APPROXIMATIONS["vicreg-centred"].exact(b), expected) <= 1e-10

    keys = torch.cat([b.u2, b.key1])
    mask = torch.zeros(24, 48).double()
    mask[:, 24:] = torch.diag(torch.full((24,), -math.inf)).nan_to_num(0.0, neginf=-math.inf)
    momentum = autograd(lambda u: F.cross_entropy(u @ keys.T / 0.2 + mask, torch.arange(24)), b.u1)
    assert error(APPROXIMATIONS["own-key"].exact(b), momentum) <= 1e-10


def test_contrastive_tends_to_unigrad():
    """softmax mean = mean + covariance u / tau + O(1/tau^2): the residual falls 3.5 to 4.5 times a doubling of tau."""
    b = pairs.draw(0)
    offset = b.u2 - b.u2.mean(0)
    covariance = offset.T @ offset / b.size
    residuals = []
    for tau in (1.0, 2.0, 4.0, 8.0, 16.0):
        negative = (b.u1 @ b.u2.T / tau).softmax(1) @ b.u2
        residuals.append(torch.linalg.norm(tangent(negative - b.u2.mean(0) - b.u1 @ covariance / tau, b.u1)).item())
    for before, after in itertools.pairwise(residuals):
        assert 3.5 < before / after < 4.5


def test_a_form_that_drops_more_errs_more():
    """Negative control of the table: the linearised softmax is worse at a lower temperature."""
    from siamscope.gradients.approximations import _softmax

    b = pairs.draw(0)
    found = [errors(Approximation("x", "", _softmax(False, t), _softmax(True, t)), b)[0] for t in (0.2, 1.0, 4.0)]
    assert found[0] > 4 * found[1] > 16 * found[2]


def test_draws_are_what_they_say():
    b = pairs.draw(3, 40, 6)
    torch.testing.assert_close(b.u1.norm(dim=1), torch.ones(40).double())
    assert b.correlation.trace().item() == pytest.approx(1)
    batch = pairs.draw(3, 40, 6, features="batch")
    torch.testing.assert_close(batch.u1.mean(0), torch.zeros(6).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(batch.u1.var(0, correction=0), torch.ones(6).double())
    assert torch.equal(pairs.draw(3).u1, pairs.draw(3).u1) and not torch.equal(pairs.draw(3).u1, pairs.draw(4).u1)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: measure("best"), "unknown approximation"),
        (lambda: measure("own-key", []), "seeds"),
        (lambda: measure("own-key", samples=1), "at least 2 samples"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()
