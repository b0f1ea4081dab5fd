"""LeJEPA: closed form against autograd of the formula, the integral against its knots, and formulas that must fail."""

import copy
import math

import numpy as np
import pytest
import torch
from draws import draws
from ranks import mean_over_ranks
from scipy.integrate import quad

from siamscope.objectives import ObjectiveError, Slices, create
from siamscope.objectives.slices import integral_gradient, integral_statistic, quadrature, slice_gradient


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b))


def sigreg(z, directions, knots=17, reach=3.0):
    """The statistic with a cosine and a sine a knot, trapezoid over [0, reach] taken twice."""
    w = torch.linspace(0, reach, knots, dtype=z.dtype)
    phase = (z @ directions)[..., None] * w
    bell = torch.exp(-w * w / 2)
    error = ((phase.cos().mean(0) - bell) ** 2 + phase.sin().mean(0) ** 2) * bell
    return 2 * len(z) * torch.trapezoid(error, w, dim=-1).mean()


def by_hand(objective, online, target):
    """The loss from its definition."""
    a, share = objective.directions(online[0]), objective.balance
    pairs = [(u, t) for i, u in enumerate(online) for j, t in enumerate(target) if i != j]
    losses = [(1 - share) * ((u - t) / 2).square().mean() + share * sigreg(u, a, objective.knots) for u, t in pairs]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("balance", [0.0, 0.02, 0.6, 1.0])
def test_closed_form_is_autograd(shared, balance):
    for seed, (online, target) in enumerate(draws()):
        width = online.shape[2] ** 0.5
        objective = Slices(balance, slices=11, knots=(17, 5, 2)[seed % 3])
        gradients = []
        for loss in (lambda u, t, objective=objective: by_hand(objective, u, t), objective):
            u = [(width * z).requires_grad_() for z in online]
            value = loss(u, u[: len(target)] if shared else list(width * target))
            value.backward()
            gradients.append([value.detach()] + [z.grad for z in u])
        t = width * (online[: len(target)] if shared else target)
        for view, expected in enumerate(gradients[0][1:]):
            closed = objective.gradient_terms(width * online, t, view, shared=shared).total
            assert relative(closed, expected) <= 1e-10
            assert relative(gradients[1][1 + view], expected) <= 1e-10
        assert relative(gradients[1][0], gradients[0][0]) <= 1e-12


def test_both_halves_of_the_push_are_needed():
    """Without the repulsion or without the confinement the gradient errs by more than 1 %."""
    u = gaussian(2, 20, 6).requires_grad_()
    objective = Slices(1.0, slices=50)
    objective(list(u), list(u.detach())).backward()
    repulsion, confinement = objective.gaussian_terms(u[0].detach())
    assert relative((repulsion + confinement) / 2, u.grad[0]) <= 1e-10
    assert relative(repulsion / 2, u.grad[0]) > 0.01
    assert relative(confinement / 2, u.grad[0]) > 0.01


def test_integral_is_the_integral():
    """Closed form against numerical integration over the line, and its gradient against autograd."""
    x = gaussian(7, 3)
    for k in range(3):
        column = x[:, k].numpy()

        def integrand(w, column=column):
            return abs(np.exp(1j * w * column).mean() - math.exp(-w * w / 2)) ** 2 * math.exp(-w * w / 2)

        numerical = len(column) * quad(integrand, -12, 12, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
        assert integral_statistic(x)[k].item() == pytest.approx(numerical, abs=1e-11)
    leaf = x.clone().requires_grad_()
    integral_statistic(leaf).sum().backward()
    repulsion, confinement = integral_gradient(x)
    assert relative(repulsion + confinement, leaf.grad) <= 1e-10
    assert relative(2 * repulsion + confinement, leaf.grad) > 0.01


def test_knots_against_the_integral():
    """unigrad.md, section 5, gives a distance of 4.8e-3: on spread-out samples. It grows to 2 % on samples that are
    Gaussian already (the two parts nearly cancel), and it is the end of the range, not the number of knots."""

    def distance(x, knots=17):
        return relative(sum(slice_gradient(x, knots)), sum(integral_gradient(x)))

    for seed in range(5):
        assert 4e-3 < distance(1.5 * gaussian(128, 32, seed=seed)) < 6.5e-3
        assert 8e-3 < distance(gaussian(128, 32, seed=seed)) < 2.5e-2
    x = gaussian(64, 16)
    assert distance(x, 200) > 0.9 * distance(x)
    wide = x.clone().requires_grad_()
    (16 * sigreg(wide, torch.eye(16, dtype=torch.float64), knots=200, reach=12.0)).backward()
    assert relative(wide.grad, sum(integral_gradient(x))) < 1e-10


def test_constants_of_the_reference():
    """Trapezoid of 17 points on [0, 3], twice, times the window; two views as far from their centre."""
    knot, weight = quadrature(17, torch.zeros((), dtype=torch.float64))
    assert knot.tolist() == [k * 3 / 16 for k in range(17)]
    assert weight[0] == 3 / 16 and weight[8].item() == pytest.approx(2 * 3 / 16 * math.exp(-(1.5**2) / 2))
    assert weight[16].item() == pytest.approx(3 / 16 * math.exp(-4.5))
    z = gaussian(4, 9, 5)
    for views in (2, 3, 4):
        centre = (z[:views] - z[:views].mean(0)).square().mean()
        pairs = Slices(0.0)(list(z[:views]), list(z[:views]))
        assert (centre / pairs).item() == pytest.approx(2 * (views - 1) / views, abs=1e-12)


def test_directions_follow_the_draws():
    objective, twin = Slices(slices=6), Slices(slices=6)
    u = list(gaussian(2, 5, 4))
    first = objective.directions(u[0])
    torch.testing.assert_close(first.norm(dim=0), torch.ones(6).double(), rtol=1e-12, atol=0)
    assert objective(u, u) == objective(u, u) and torch.equal(first, twin.directions(u[0]))  # forward draws nothing
    objective.prepare(u, u)
    second = objective.directions(u[0])
    assert objective.draws == 1 and not torch.equal(first, second)
    assert torch.equal(copy.deepcopy(objective).directions(u[0]), second)
    twin.load_state_dict(objective.state_dict())
    assert torch.equal(twin.directions(u[0]), second)
    assert objective.half().draws.dtype == torch.long


def test_targets_are_not_held_to_the_gaussian():
    u, t = gaussian(2, 8, 3).requires_grad_(), gaussian(2, 8, 3, seed=1).requires_grad_()
    Slices(1.0, slices=8)(list(u), list(t)).backward()
    assert u.grad.abs().max() > 0 and t.grad.abs().max() == 0


def test_gaussian_samples_score_best():
    """Collapse, samples on a line and samples of twice the length score worse; so do samples half the length."""
    objective = Slices(1.0, slices=256)
    z = gaussian(200, 8)
    best = objective([z, z], [z, z])
    others = [0 * z + 1, z[:, :1].expand(200, 8), 2 * z, 0.5 * z]
    assert min(objective([x, x], [x, x]) for x in others) > 3 * best


def test_descent_undoes_collapse():
    z = (1 + 1e-3 * gaussian(64, 4)).requires_grad_()
    objective, step = Slices(1.0, slices=16), torch.optim.SGD([z], lr=0.2)
    for _ in range(200):
        objective.prepare([z, z], [z, z])
        step.zero_grad()
        objective([z, z], [z, z]).backward()
        step.step()
    spread = torch.linalg.eigvalsh(torch.cov(z.detach().T))
    assert z.detach().mean(0).abs().max() < 0.1 and spread.min() > 0.6 and spread.max() < 1.4


@pytest.mark.parametrize("shared", [False, True])
def test_ranks_average_the_characteristic_function(shared):
    def both(loss):
        u = gaussian(3, 12, 7).requires_grad_()
        value = loss(list(u), None if shared else list(gaussian(2, 12, 7, seed=1)))
        value.backward()
        return value.detach(), u.grad

    whole, gradient = both(lambda u, t: Slices(0.5, 9)(u, u if t is None else t))
    value, mean = both(lambda u, t: mean_over_ranks(lambda group: Slices(0.5, 9, group=group), u, t, 3))
    parts = both(lambda u, t: mean_over_ranks(lambda _: Slices(0.5, 9), u, t, 3))
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(mean, gradient, rtol=1e-10, atol=1e-13)
    assert abs(parts[0] - whole) > 0.01 * whole


def test_single_precision():
    for seed in range(5):
        online, target = gaussian(2, 64, 16, seed=seed), gaussian(2, 64, 16, seed=seed + 9)
        objective = Slices(0.5, slices=32)
        exact = objective.gradient_terms(online, target).total
        u = [z.float().requires_grad_() for z in online]
        loss = objective(u, list(target.float()))
        loss.backward()
        assert loss.dtype == torch.float32
        assert relative(u[0].grad, exact) < 1e-5
        assert relative(objective.gradient_terms(online.float(), target.float()).total, exact) < 1e-5


def test_zeros_and_not_finite():
    zero = torch.zeros(6, 3, requires_grad=True)
    loss = Slices(0.5)([zero, zero], [zero, zero])
    loss.backward()
    assert torch.isfinite(loss) and torch.equal(zero.grad, torch.zeros(6, 3))
    bad = gaussian(2, 6, 3)
    bad[0, 0, 0] = float("nan")
    assert torch.isnan(Slices()(list(bad), list(bad)))
    assert torch.isnan(Slices().gradient_terms(bad, bad).total).any()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Slices(-0.1), "balance"),
        (lambda: Slices(1.1), "balance"),
        (lambda: Slices(float("nan")), "balance"),
        (lambda: Slices(slices=0), "slices"),
        (lambda: Slices(knots=1), "knots"),
        (lambda: Slices()([gaussian(1, 3)] * 2, [gaussian(1, 3)] * 2), "at least 2 samples"),
        (lambda: Slices().gradient_terms([gaussian(1, 3)] * 2, [gaussian(1, 3)] * 2), "at least 2 samples"),
        (lambda: Slices()([gaussian(4, 3), gaussian(5, 3)], [gaussian(4, 3)] * 2), r"online\[1\]"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()


def test_created_from_a_row():
    made = create("slices", {"balance": 0.1, "slices": 5, "knots": 9}, 8)
    assert (made.balance, made.slices, made.knots, made.unit_length) == (0.1, 5, 9, False)
