"""MMCR: closed form against autograd of an SVD, identities of the nuclear norm, and formulas that must fail."""

import pytest
import torch
from draws import draws, unit
from ranks import mean_over_ranks

from siamscope.objectives import Centroids, ObjectiveError, create
from siamscope.objectives.pairs import partners


def by_svd(online, target):
    """The loss from torch's singular values."""
    pairs = [(u, t) for i, u in enumerate(online) for j, t in enumerate(target) if i != j]
    return -torch.stack([torch.linalg.svdvals((u + t) / 2).sum() for u, t in pairs]).mean()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b))


@pytest.mark.parametrize("shared", [False, True])
def test_closed_form_is_autograd(shared):
    for online, target in draws():
        gradients = []
        for loss in (by_svd, Centroids()):
            u = [z.clone().requires_grad_() for z in online]
            value = loss(u, u[: len(target)] if shared else list(target))
            value.backward()
            gradients.append([value.detach()] + [z.grad for z in u])
        t = online[: len(target)] if shared else target
        for view, expected in enumerate(gradients[0][1:]):
            closed = Centroids().gradient_terms(online, t, view, shared=shared).total
            assert relative(closed, expected) <= 1e-10
            assert relative(gradients[1][1 + view], expected) <= 1e-10
        assert relative(gradients[1][0], gradients[0][0]) <= 1e-12


def test_values_by_hand():
    """Orthonormal centroids: N singular values of 1; all the same: one of sqrt(N); opposite views: none."""
    eye = torch.eye(4, 6, dtype=torch.float64)
    assert Centroids()([eye, eye], [eye, eye]).item() == pytest.approx(-4, abs=1e-12)
    assert Centroids(per_sample=True)([eye, eye], [eye, eye]).item() == pytest.approx(-1, abs=1e-12)
    one = eye[:1].expand(4, 6)
    assert Centroids()([one, one], [one, one]).item() == pytest.approx(-2, abs=1e-12)
    assert Centroids()([eye, -eye], [eye, -eye]).item() == 0


def test_two_views_in_the_form_of_the_reference():
    """-(1/4) (C^T C)^(-1/2) u2 - (1/4) (C^T C)^(-1/2) u1 (unigrad.md, section 5), and not with -F^(-1)."""
    u = unit(2, 30, 7)
    terms = Centroids().gradient_terms(u, u, 0, shared=True)
    c = (u[0] + u[1]) / 2
    values, v = torch.linalg.eigh(c.T @ c)
    root = v / values.sqrt() @ v.T
    assert relative(terms.pull, -u[1] @ root / 4) <= 1e-10
    assert relative(terms.push, -u[0] @ root / 4) <= 1e-10
    wrong = -(u[0] + u[1]) @ (v / values @ v.T)
    assert relative(wrong / wrong.norm(), terms.total / terms.total.norm()) > 0.01


def test_euler():
    """The norm is homogeneous: <dL/du, u> over both roles is the loss, and the gradient does not feel the scale."""
    u = unit(2, 9, 15)
    gradients = [Centroids().gradient_terms(u, u, view, shared=True).total for view in (0, 1)]
    product = sum((g * z).sum() for g, z in zip(gradients, u, strict=True))
    torch.testing.assert_close(product, Centroids()(list(u), list(u)), rtol=1e-12, atol=0)
    torch.testing.assert_close(Centroids().gradient_terms(7 * u, 7 * u, 0, shared=True).total, gradients[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collapse_is_finite_and_unstable(dtype):
    """Equal centroids: the gradient stays along them. The plain inverse root is not finite there, and a small
    perturbation is pushed with full strength."""
    c = unit(1, 6, seed=3).to(dtype)
    u = c.expand(12, 6).clone().requires_grad_()
    Centroids()([u, u], [u, u]).backward()
    torch.testing.assert_close(u.grad, -(c / 12**0.5).expand(12, 6), rtol=1e-4, atol=1e-5)
    terms = Centroids().gradient_terms([u.detach()] * 2, [u.detach()] * 2, shared=True)
    assert torch.isfinite(terms.positive).all() and torch.isfinite(terms.negative).all()
    gram = (c.expand(12, 6).T @ c.expand(12, 6)).double()
    assert not torch.linalg.eigvalsh(gram).rsqrt().nan_to_num(torch.inf).max() < 1e6
    moved = (u.detach() + 1e-2 * torch.randn(12, 6, generator=torch.Generator().manual_seed(0))).requires_grad_()
    Centroids()([moved, moved], [moved, moved]).backward()
    assert torch.linalg.norm(moved.grad) > 0.99 * 6**0.5  # the polar factor: six singular values of 1


def test_zero_and_not_finite():
    zero = torch.zeros(5, 3, requires_grad=True)
    loss = Centroids()([zero, zero], [zero, zero])
    loss.backward()
    assert loss == 0 and (zero.grad == 0).all()
    for dtype in (torch.float32, torch.float64):
        for shape in ((5, 3), (3, 5)):
            bad = torch.full(shape, 0.1, dtype=dtype)
            bad[0, 0] = float("nan")
            bad.requires_grad_()
            loss = Centroids()([bad, bad], [bad, bad])
            loss.backward()
            assert torch.isnan(loss) and torch.isnan(bad.grad).any()


def test_single_precision():
    for shape in ((64, 16), (16, 64)):
        for seed in range(5):
            online, target = unit(2, *shape, seed=seed), unit(2, *shape, seed=seed + 50)
            exact = Centroids().gradient_terms(online, target).total
            u = [z.float().requires_grad_() for z in online]
            loss = Centroids()(u, [t.float() for t in target])
            loss.backward()
            assert loss.dtype == torch.float32
            assert relative(loss.detach().double(), by_svd(online, target)) < 1e-6
            assert relative(u[0].grad, exact) < 1e-5
            assert relative(Centroids().gradient_terms(online.float(), target.float()).total, exact) < 1e-5
    half = [z.bfloat16() for z in unit(2, 16, 8)]
    assert Centroids()(half, half).dtype == torch.float32


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_ranks_share_the_centroids(shared, per_sample):
    def both(loss):
        u = unit(3, 12, 7).requires_grad_()
        value = loss(list(u), None if shared else list(unit(2, 12, 7, seed=1)))
        value.backward()
        return value.detach(), u.grad

    whole, gradient = both(lambda u, t: Centroids(per_sample)(u, u if t is None else t))
    value, mean = both(lambda u, t: mean_over_ranks(lambda group: Centroids(per_sample, group), u, t, 3))
    alone = both(lambda u, t: Centroids(per_sample)([z[:4] for z in u], [z[:4] for z in (u if t is None else t)]))
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(mean, gradient, rtol=1e-10, atol=1e-13)
    assert abs(alone[0] - whole) > 0.01


def test_partners():
    """Three online views and two targets: 4 pairs; view 2 is never a target."""
    u, t = [torch.full((), float(k)) for k in range(3)], [torch.full((), 10.0 + k) for k in range(2)]

    def found(view, shared):
        share, met = partners(u, t, view, shared=shared)
        return share, sorted((int(z), weight) for z, weight in met)

    assert found(0, False) == (1 / 4, [(11, 1.0)])
    assert found(2, False) == (2 / 4, [(10, 0.5), (11, 0.5)])
    assert found(0, True) == (1 / 4, [(1, 2.0), (2, 1.0)])
    assert found(2, True) == (2 / 4, [(0, 0.5), (1, 0.5)])
    assert partners(u[:2], t[:1], 0) == (1.0, [])


@pytest.mark.parametrize("rows", [(1, 3), (0, 3)])
def test_too_few_samples(rows):
    z = [torch.ones(*rows)] * 2
    with pytest.raises(ObjectiveError, match="at least"):
        Centroids()(z, z)
    with pytest.raises(ObjectiveError, match="at least"):
        Centroids().gradient_terms(z, z)


def test_bad_shapes():
    with pytest.raises(ObjectiveError, match=r"target\[1\]"):
        Centroids()([unit(4, 3)] * 2, [unit(4, 3), unit(4, 2)])
    assert create("centroids", {"eps": 1.0}, 8).per_sample is False
