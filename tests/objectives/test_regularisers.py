"""Regularisers: closed form against autograd, their bounds, and what each of them can and cannot see."""

import math

import pytest
import torch
from draws import draws, relative, unit
from ranks import mean_over_ranks

from siamscope.gradients.surrogate import regularised
from siamscope.objectives import Group, ObjectiveError
from siamscope.objectives.regularisers import REGULARISERS, Isotropic, Variance, create_regulariser

KINDS = list(REGULARISERS)


def leaves(views):
    return [z.detach().clone().requires_grad_() for z in views]


def uneven(views):
    """Raw embeddings of unlike lengths, dimensions of unlike spread, and a common mean."""
    d = views.shape[-1]
    lengths = torch.linspace(0.1, 7.0, views.shape[-2], dtype=views.dtype)[:, None]
    return lengths * (views * torch.linspace(0.1, 2.0, d, dtype=views.dtype) + 0.1)


@pytest.mark.parametrize("name", KINDS)
def test_closed_form_is_autograd(name):
    regulariser = REGULARISERS[name]()
    for online, _ in draws():
        z = leaves(uneven(online))
        for view, expected in enumerate(torch.autograd.grad(regulariser(z), z)):
            terms = regulariser.gradient_terms(z, view)
            assert relative(terms.total, expected) <= 1e-10
            assert relative(terms.push, expected) <= 1e-12
            assert not terms.pull.any()
            wrong = terms.total + (terms.total * z[view]).sum(1, keepdim=True) * z[view] + 0.01 * terms.total
            assert relative(wrong, expected) > 1e-3  # the tolerance has teeth


@pytest.mark.parametrize("name", KINDS)
def test_the_surrogate_has_value_and_gradient(name):
    regulariser = REGULARISERS[name]()
    z, other = (leaves(uneven(unit(2, 12, 5))) for _ in range(2))
    loss, stand_in = regulariser(z), regularised(regulariser, other)
    torch.testing.assert_close(stand_in, loss, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(stand_in, other), torch.autograd.grad(loss, z), strict=True):
        assert relative(a, b) <= 1e-10


@pytest.mark.parametrize("name", KINDS)
def test_scale_is_not_seen(name):
    regulariser, z = REGULARISERS[name](), uneven(unit(2, 40, 8))
    scales = torch.rand(40, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    torch.testing.assert_close(regulariser(list(z * scales)), regulariser(list(z)), rtol=1e-12, atol=0)
    for view in (0, 1):  # so the gradient is orthogonal to each embedding
        gradient = regulariser.gradient_terms(list(z), view).total
        assert (gradient * z[view]).sum(1).abs().max() <= 1e-14


def test_isotropic_in_closed_form():
    """r of d axes used alike: log(d / r); all at one point: log d, as on a line; log(d PR^-1) in general."""
    d = 16
    regulariser = Isotropic()
    for r in (1, 2, 5, 16):
        basis = torch.eye(d, dtype=torch.float64)[:r].repeat(6, 1)
        signs = torch.arange(len(basis)) // r % 2 * 2.0 - 1
        assert float(regulariser([basis * signs[:, None]])) == pytest.approx(math.log(d / r), abs=1e-12)
    point = unit(1, d).expand(9, d)
    assert float(regulariser([point])) == pytest.approx(math.log(d), rel=1e-12)
    u = unit(50, d)
    share = torch.linalg.eigvalsh(u.T @ u / 50)
    expected = math.log(d * float(share.square().sum()))
    assert float(regulariser([3.7 * u])) == pytest.approx(expected, rel=1e-12)
    assert expected > 0.01
    distance = float((u.T @ u / 50 - torch.eye(d, dtype=torch.float64) / d).square().sum())
    assert math.exp(expected) - 1 == pytest.approx(d * distance, rel=1e-10)  # the same distance from I / d


def test_few_samples_have_a_floor_without_gradient():
    n, d = 5, 12
    z = [torch.eye(d, dtype=torch.float64)[:n] * 2]
    assert float(Isotropic()(z)) == pytest.approx(math.log(d / n), rel=1e-12)
    assert Isotropic().gradient_terms(z).total.abs().max() <= 1e-15


def test_variance_in_closed_form():
    """+-e_k along every axis: variance d / (N - 1) a dimension, at rest; a dead axis counts 1 - sqrt(eps)."""
    d = 6
    axes = torch.cat([torch.eye(d), -torch.eye(d)]).double()
    assert float(Variance()([axes])) == 0
    assert not Variance().gradient_terms([axes]).total.any()
    dead = torch.cat([torch.eye(d)[:-2], -torch.eye(d)[:-2]]).double()
    assert float(Variance()([dead])) == pytest.approx(2 / d * (1 - 0.01), rel=1e-12)
    point = unit(1, d).expand(9, d)
    assert float(Variance()([point])) == pytest.approx(1 - 0.01, rel=1e-12)


def test_only_isotropic_sees_a_line_askew():
    """Embeddings on a line that is turned from the axes: every dimension varies, and one direction is used."""
    d = 64
    signs = torch.where(torch.arange(200) % 2 == 0, 1.0, -1.0).double()[:, None]
    line = signs * torch.ones(1, d, dtype=torch.float64)
    assert float(Variance()([line])) == 0
    assert float(Isotropic()([line])) == pytest.approx(math.log(d), rel=1e-12)


@pytest.mark.parametrize(("name", "dims"), [("variance", 3), ("isotropic", 3)])
def test_descent_undoes_collapse(name, dims):
    """Samples in a few dimensions (isotropic) or near a point (variance) spread when only the term pulls at them."""
    g = torch.Generator().manual_seed(0)
    z = 0.01 * torch.randn(64, 16, generator=g, dtype=torch.float64)
    if name == "isotropic":
        z[:, :dims] += torch.randn(64, dims, generator=g, dtype=torch.float64)
    else:
        z += 0.3
    regulariser = REGULARISERS[name]()

    def figure(z):
        u = torch.nn.functional.normalize(z, dim=1)
        u = u - u.mean(0)
        share = torch.linalg.eigvalsh(u.T @ u)
        return float(share.sum() ** 2 / share.square().sum()) if name == "isotropic" else float(u.std(0).mean() * 4)

    before, start = figure(z), float(regulariser([z]))
    for _ in range(300):
        z = z - 2.0 * regulariser.gradient_terms([z]).total
    assert float(regulariser([z])) < 0.5 * start
    assert figure(z) > 2 * before


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("d", [5, 30])
def test_ranks_share_the_batch(name, d):
    """Losses of the ranks, with gathered rows, average to the loss of the whole batch, and so do gradients."""
    kind = REGULARISERS[name]
    z, whole = (leaves(uneven(unit(2, 12, d))) for _ in range(2))

    def make(group):
        return lambda u, t: kind(group=group)(u)

    loss, expected = mean_over_ranks(make, z, None, 3), kind()(whole)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(loss, z), torch.autograd.grad(expected, whole), strict=True):
        assert relative(a, b) <= 1e-12
    alone = kind()([view[:4] for view in whole])
    assert abs(alone - expected) > 1e-3  # without the exchange it is another loss


@pytest.mark.parametrize("name", KINDS)
def test_half_precision_is_computed_in_float32(name):
    z = list(uneven(unit(2, 32, 8)).float())
    exact = REGULARISERS[name]()(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(REGULARISERS[name]()(z), exact)
    half = REGULARISERS[name]()([view.bfloat16() for view in z])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("name", KINDS)
def test_zeros_and_nan(name):
    z = torch.zeros(6, 4, dtype=torch.float64).requires_grad_()
    loss = REGULARISERS[name]()([z])
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()
    assert torch.isfinite(REGULARISERS[name]().gradient_terms([z]).total).all()
    assert REGULARISERS[name]()([z * float("nan")]).isnan()


def test_bad_input():
    assert create_regulariser("none") is None
    assert isinstance(create_regulariser("variance", Group()), Variance)
    for call, word in (
        (lambda: create_regulariser("variances"), "unknown regulariser 'variances'"),
        (lambda: Variance(eps=0.0), "eps must be above 0"),
        (lambda: Isotropic()([]), "one or more views"),
        (lambda: Isotropic()([unit(1, 4)]), "at least 2 samples"),
        (lambda: Isotropic()([unit(4, 4), unit(4, 5)]), r"z\[1\]"),
        (lambda: Isotropic().gradient_terms([unit(4, 4)], 1), "view must lie in"),
        (lambda: Isotropic().gradient_terms([unit(1, 4)]), "at least 2 samples"),
    ):
        with pytest.raises(ObjectiveError, match=word):
            call()
