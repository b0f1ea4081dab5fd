"""VICReg: the official formula, the unified form of its gradient, and the formula that others have."""

import pytest
import torch
from draws import draws, unit
from torch.nn.functional import mse_loss, relu

from siamscope.objectives import Group, ObjectiveError, create
from siamscope.objectives.covariance import Covariance


def relative(found, expected):
    found, expected = found.detach(), expected.detach()
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


def leaves(views):
    return [z.detach().clone().requires_grad_() for z in views]


def spread_out(views):
    """Raw features whose standard deviations lie on both sides of one."""
    d = views.shape[-1]
    return views * torch.linspace(0.2, 2.5, d, dtype=views.dtype) * d**0.5 + 0.3


def official(x, y, halved=2):
    """25 mse + 25 (hinge of x + hinge of y) / 2 + off-diagonal sums / d; other libraries do not halve the hinges."""
    n, d = x.shape
    loss = 25 * mse_loss(x, y)
    for z in (x, y):
        z = z - z.mean(0)
        c = z.T @ z / (n - 1)
        loss = loss + 25 * relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean() / halved
        loss = loss + c[~torch.eye(d, dtype=torch.bool)].square().sum() / d
    return loss


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "weights",
    [(25.0, 25.0, 1.0), (25.0, 25.0, 0.0), (25.0, 0.0, 1.0), (0.0, 25.0, 1.0), (0.0, 25.0, 0.0), (1.0, 0.0, 0.0)],
    ids=str,
)
def test_closed_form_is_autograd(weights, shared):
    objective = Covariance(*weights)
    wider = 0
    for online, target in draws():
        wider += online.shape[1] < online.shape[2]
        u, fixed = leaves(spread_out(online)), list(spread_out(target))
        t = u[: len(target)] if shared else fixed
        for view, expected in enumerate(torch.autograd.grad(objective(u, t), u)):
            terms = objective.gradient_terms(u, t, view, shared=shared)
            assert relative(terms.total, expected) <= 1e-10
            assert relative(terms.pull + terms.push, expected) <= 1e-12
    assert 10 <= wider <= 40  # both ways of |C|^2 were taken


def test_float32_keeps_five_digits():
    for online, target in list(draws())[:20]:
        u, t = spread_out(online), spread_out(target)
        exact = Covariance().gradient_terms(u, t).total
        leaf = leaves(u.float())
        rough = torch.autograd.grad(Covariance()(leaf, list(t.float())), leaf)[0]
        assert rough.dtype == torch.float32 and relative(rough.double(), exact) <= 1e-5


@pytest.mark.parametrize(("n", "d"), [(64, 32), (16, 48)])
def test_official_formula(n, d):
    z = leaves(spread_out(unit(2, n, d)))
    found, expected = Covariance()(z, z), official(*z)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(found, z), torch.autograd.grad(expected, z), strict=True):
        assert relative(a, b) <= 1e-12
    hinges = sum(relu(1 - torch.sqrt(v.var(0) + 1e-4)).mean() for v in z)
    doubled = official(*z, halved=1)
    assert relative(doubled, expected) > 0.01
    torch.testing.assert_close(doubled - found, 25 * hinges / 2, rtol=1e-10, atol=0)


def test_the_unified_form():
    """(2/N)(-u2 + lambda sum (u~.v~/N) v~) + (2 lambda/N)(u1/lambda - B u~), 25 / d times, with l1 = d/25, l2 = d/2."""
    n, d = 20, 7
    u = spread_out(unit(2, n, d))
    terms = Covariance().gradient_terms(u, u)
    l1, l2 = d / 25, d / 2
    balance = 2 * l1 * n**2 / (d * (n - 1) ** 2)
    assert terms.balance.item() == pytest.approx(balance, rel=1e-12)
    assert terms.balance.item() == pytest.approx(0.08, rel=0.15)
    centred = u[0] - u[0].mean(0)
    std = torch.sqrt(u[0].var(0) + 1e-4)
    b = n / (d * balance * (n - 1)) * (2 * l1 * u[0].var(0) + l2 / 2 * (std < 1) / std)
    main = -u[1] + balance * (centred @ centred.T / n) @ centred
    extra = u[0] - balance * b * centred
    expected = 25 / d * 2 / n * (main + extra) / 2  # one of two ordered pairs has view 0 online
    assert relative(terms.total, expected) <= 1e-12
    assert relative(main, main + extra) > 0.1  # the second bracket counts on raw features


def test_loss_is_the_mean_over_pairs():
    online, target = spread_out(unit(4, 11, 6)), spread_out(unit(2, 11, 6, seed=1))
    pairs = [official(online[i], target[j]) for i in range(4) for j in range(2) if i != j]
    torch.testing.assert_close(Covariance()(online, target), torch.stack(pairs).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("d", [5, 30])
@pytest.mark.parametrize("shared", [False, True])
def test_ranks_share_the_batch(shared, d):
    """Ranks that see each other's rows: the mean of their losses and of their gradients is that of the whole batch."""
    online, target = spread_out(unit(2, 12, d)), spread_out(unit(2, 12, d, seed=1))
    whole = leaves(online)
    loss = Covariance()(whole, whole if shared else list(target))
    local = [leaves(z[4 * rank : 4 * rank + 4] for z in online) for rank in range(3)]
    fixed = [[z[4 * rank : 4 * rank + 4] for z in target] for rank in range(3)]
    everyone = {id(z): torch.cat([u[v] for u in local]) for u in local for v, z in enumerate(u)}
    everyone |= {id(z): target[v] for t in fixed for v, z in enumerate(t)}
    losses = [
        Covariance(group=Group(rank, 3, lambda z: everyone[id(z)]))(u, u if shared else fixed[rank])
        for rank, u in enumerate(local)
    ]
    mean = torch.stack(losses).mean()
    torch.testing.assert_close(mean, loss, rtol=1e-12, atol=0)
    found = torch.autograd.grad(mean, [z for u in local for z in u])
    expected = torch.autograd.grad(loss, whole)
    for view in (0, 1):
        assert relative(torch.cat(found[view::2]), expected[view]) <= 1e-12
    alone = Covariance()(local[0], local[0] if shared else fixed[0])
    assert abs(alone - loss) > 0.1


def test_half_precision_is_computed_in_float32():
    u = spread_out(unit(2, 32, 16)).float()
    exact = Covariance()(u, u)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Covariance()(u, u), exact)
    half = Covariance()(u.bfloat16(), u.bfloat16())
    assert half.dtype == torch.float32 and abs(half - exact) < 0.02 * exact


def test_collapse_and_nan():
    """At one point every hinge is 1 - sqrt(eps), and no sample is pushed; finite at zero too."""
    for value in (0.0, 2.0):
        z = torch.full((6, 4), value, dtype=torch.float64).requires_grad_()
        loss = Covariance()([z, z], [z, z])
        assert loss.item() == pytest.approx(25 * (1 - 0.01), rel=1e-12)
        assert not torch.autograd.grad(loss, z)[0].any()
        assert not Covariance().gradient_terms([z, z], [z, z], shared=True).total.any()
    assert Covariance()([z * float("nan"), z], [z, z]).isnan()


def test_create():
    cells = {"invariance": 5.0, "variance": 6.0, "covariance": 7.0, "eps": 1e-3, "group": 3}
    objective = create("covariance", cells, 12)
    assert isinstance(objective, Covariance) and not objective.unit_length and objective.group == Group()
    assert (objective.invariance, objective.variance, objective.covariance, objective.eps) == (5.0, 6.0, 7.0, 1e-3)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Covariance(invariance=-1.0), "invariance"),
        (lambda: Covariance(variance=float("nan")), "variance"),
        (lambda: Covariance(covariance=float("inf")), "covariance"),
        (lambda: Covariance(eps=-1e-4), "eps"),
        (lambda: Covariance(eps=0.0), "eps must be above 0"),
        (lambda: Covariance()(unit(2, 1, 4), unit(2, 1, 4)), "at least 2 samples"),
        (lambda: Covariance().gradient_terms(unit(2, 1, 4), unit(2, 1, 4)), "at least 2 samples"),
        (lambda: Covariance().gradient_terms(unit(2, 3, 4), unit(2, 3, 4), 2), "view"),
        (lambda: Covariance()(unit(2, 5, 4), unit(2, 5, 3)), r"target\[0\]"),
        (lambda: Covariance()([], []), "two or more views"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()
