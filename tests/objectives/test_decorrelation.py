"""Barlow Twins: the official formula, its closed form through batch norm, and its form with A = I."""

from itertools import pairwise

import pytest
import torch
from draws import draws, unit
from torch.nn.functional import batch_norm

from siamscope.objectives import Group, ObjectiveError, create
from siamscope.objectives.decorrelation import Decorrelation


def relative(found, expected):
    found, expected = found.detach(), expected.detach()
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


def leaves(views):
    return [z.detach().clone().requires_grad_() for z in views]


def standard(z, correction=0):
    """Mean 0 and variance 1 per dimension over the batch; of (V, n, d) every view by itself."""
    return (z - z.mean(-2, keepdim=True)) / z.std(-2, correction=correction, keepdim=True)


def official(z1, z2, balance, correction=0):
    """On raw features: normalise, W = z1^T z2 / N, on- and off-diagonal sums."""
    n, d = z1.shape
    w = standard(z1, correction).T @ standard(z2, correction) / n
    on = (w.diagonal() - 1).square().sum()
    return on + balance * w[~torch.eye(d, dtype=torch.bool)].square().sum()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("form", ["exact", "trace"])
@pytest.mark.parametrize("balance", [0.0051, 0.5, 1.0])
def test_closed_form_is_autograd(balance, form, shared):
    objective = Decorrelation(balance, form)
    wider = 0
    for online, target in draws():
        wider += online.shape[1] < online.shape[2]
        u, fixed = leaves(standard(online)), list(standard(target))
        t = u[: len(target)] if shared else fixed
        for view, expected in enumerate(torch.autograd.grad(objective(u, t), u)):
            terms = objective.gradient_terms(u, t, view, shared=shared)
            assert relative(terms.total, expected) <= 1e-10
            assert relative(terms.pull + terms.push, expected) <= 1e-12
    assert 10 <= wider <= 40  # both ways of |W|^2 were taken


def test_float32_keeps_five_digits():
    for online, target in list(draws())[:20]:
        u, t = standard(online), standard(target)
        for form in ("exact", "trace"):
            exact = Decorrelation(0.5, form).gradient_terms(u, t).total
            leaf = leaves(u.float())
            rough = torch.autograd.grad(Decorrelation(0.5, form)(leaf, list(t.float())), leaf)[0]
            assert rough.dtype == torch.float32 and relative(rough.double(), exact) <= 1e-5


@pytest.mark.parametrize(("n", "d"), [(64, 32), (16, 48)])
def test_official_formula(n, d):
    z = unit(2, n, d) * 3 + unit(1, 1, d, seed=9)
    u = standard(z)
    found = Decorrelation(0.005)(u, u)
    torch.testing.assert_close(found, official(z[0], z[1], 0.005), rtol=1e-12, atol=0)


def test_unbiased_variance_leaves_a_floor_of_d_over_n_squared():
    """Identical views are the minimum; with the unbiased deviation W_ii = (N - 1) / N and the loss stays at d / N^2."""
    for n, d in ((16, 8), (128, 2048)):
        z = unit(1, n, d)[0]
        u = standard(z)
        assert abs(Decorrelation(0.0)([u, u], [u, u])) <= 1e-20 * d
        assert official(z, z, 0.0, correction=1).item() == pytest.approx(d / n**2, rel=1e-9)


def test_dropping_a_is_not_barlow():
    """With A = I in the positive the gradient on batch-normalised features errs by more than 1 %."""
    u = leaves(standard(unit(1, 40, 12)[0] + 0.5 * unit(2, 40, 12, seed=1)))
    exact = torch.autograd.grad(Decorrelation(0.0051)(u, [u[1], u[1].detach()]), u)[0]
    terms = Decorrelation(0.0051).gradient_terms(u, u)
    assert relative(terms.total, exact) <= 1e-10
    without = terms.scale * (terms.balance * terms.negative - u[1])
    assert relative(without, exact) > 0.01
    diagonal = (u[0] * u[1]).mean(0)
    assert diagonal.min() > 0.3  # W_ii is near one there; on unit vectors it is 1 / d, and A near I


def test_trace_form_is_barlow_and_a_diagonal_term():
    """-2 tr W + b |W|^2 = exact + (b - 1) sum W_ii^2 - d, and its gradient is (2 / N)(-u2 + b W u2)."""
    balance, u = 3.0, leaves(unit(2, 20, 8))
    w = u[0].T @ u[1].detach() / 20
    trace, exact = (Decorrelation(balance, form)(u, [u[1].detach()] * 2) for form in ("trace", "exact"))
    pair = -2 * w.trace() + balance * w.square().sum()
    grads = [torch.autograd.grad(x, u[0], retain_graph=True)[0] for x in (trace, pair)]
    assert relative(2 * grads[0], grads[1]) <= 1e-12  # the mean of two ordered pairs, of which one has u[0] online
    assert relative(grads[1], 2 / 20 * (-u[1] + balance * u[1] @ w.T)) <= 1e-12
    v = unit(2, 20, 8, seed=3)
    w = v[0].T @ v[1] / 20
    trace, exact = (Decorrelation(balance, form)(v, v) for form in ("trace", "exact"))
    torch.testing.assert_close(trace, exact + (balance - 1) * w.diagonal().square().sum() - 8, rtol=1e-12, atol=1e-12)


def test_closed_form_through_batch_norm():
    """dL/dx = (g - mean g - u mean(g u)) / sigma with g of the closed form."""
    x = leaves(unit(2, 24, 10) * 2)
    u = [batch_norm(z, None, None, training=True, eps=1e-14) for z in x]
    objective = Decorrelation(0.0051)
    for view, expected in enumerate(torch.autograd.grad(objective(u, u), x, retain_graph=True)):
        g = objective.gradient_terms(u, u, view, shared=True).total
        through = (g - g.mean(0) - u[view] * (g * u[view]).mean(0)) / x[view].std(0, correction=0)
        assert relative(through, expected) <= 1e-10
        assert relative(g / x[view].std(0, correction=0), expected) > 0.01


def test_without_pair_noise_the_negative_is_unigrads():
    """W u2 = F u1 when the views agree, and further from it the noisier the pair."""
    base, noise = unit(1, 200, 16)[0], torch.randn(2, 200, 16, generator=torch.Generator().manual_seed(1)).double()
    errors = []
    for size in (0.0, 0.05, 0.1, 0.2, 0.4):
        u = torch.nn.functional.normalize(base + size * noise, dim=-1)
        f = u[0].T @ u[0] / 200
        errors.append(relative(Decorrelation(1.0, "trace").gradient_terms(u, u).negative, u[0] @ f))
    assert errors[0] <= 1e-12 and all(a < b for a, b in pairwise(errors)) and errors[-1] > 0.3


def test_loss_is_the_mean_over_pairs():
    online, target = standard(unit(4, 11, 6)), standard(unit(2, 11, 6, seed=1))
    objective = Decorrelation(0.1)
    pairs = [objective([online[i], online[i]], [target[j], target[j]]) for i in range(4) for j in range(2) if i != j]
    torch.testing.assert_close(objective(online, target), torch.stack(pairs).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("d", [5, 30])
@pytest.mark.parametrize("shared", [False, True])
def test_ranks_share_the_batch(shared, d):
    """Ranks that see each other's rows: the mean of their losses and of their gradients is that of the whole batch."""
    online, target = standard(unit(2, 12, d)), standard(unit(2, 12, d, seed=1))
    whole = leaves(online)
    loss = Decorrelation(0.1)(whole, whole if shared else list(target))
    local = [leaves(z[4 * rank : 4 * rank + 4] for z in online) for rank in range(3)]
    fixed = [[z[4 * rank : 4 * rank + 4] for z in target] for rank in range(3)]
    everyone = {id(z): torch.cat([u[v] for u in local]) for u in local for v, z in enumerate(u)}
    everyone |= {id(z): target[v] for t in fixed for v, z in enumerate(t)}
    losses = [
        Decorrelation(0.1, group=Group(rank, 3, lambda z: everyone[id(z)]))(u, u if shared else fixed[rank])
        for rank, u in enumerate(local)
    ]
    mean = torch.stack(losses).mean()
    torch.testing.assert_close(mean, loss, rtol=1e-12, atol=0)
    found = torch.autograd.grad(mean, [z for u in local for z in u])
    expected = torch.autograd.grad(loss, whole)
    for view in (0, 1):
        assert relative(torch.cat(found[view::2]), expected[view]) <= 1e-12
    alone = Decorrelation(0.1)(local[0], local[0] if shared else fixed[0])
    assert abs(alone - loss) > 0.1


def test_half_precision_is_computed_in_float32():
    u = standard(unit(2, 32, 16)).float()
    exact = Decorrelation(0.5)(u, u)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Decorrelation(0.5)(u, u), exact)
    half = Decorrelation(0.5)(u.bfloat16(), u.bfloat16())
    assert half.dtype == torch.float32 and abs(half - exact) < 0.02 * exact


def test_zero_vectors_and_nan():
    zero = torch.zeros(6, 4).requires_grad_()
    loss = Decorrelation(0.5)([zero, zero], [zero, zero])
    assert loss == 4 and torch.autograd.grad(loss, zero)[0].isfinite().all()
    assert Decorrelation(0.5)([zero * float("nan"), zero], [zero, zero]).isnan()


def test_create():
    objective = create("decorrelation", {"balance": 50.0, "form": "trace", "group": 3}, 12)
    assert isinstance(objective, Decorrelation) and objective.balance == 50.0 and objective.form == "trace"
    assert not objective.unit_length and objective.group == Group()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Decorrelation(-0.1), "balance"),
        (lambda: Decorrelation(float("inf")), "balance"),
        (lambda: Decorrelation(form="cross"), "form"),
        (lambda: Decorrelation()(unit(2, 1, 4), unit(2, 1, 4)), "at least 2 samples"),
        (lambda: Decorrelation().gradient_terms(unit(2, 1, 4), unit(2, 1, 4)), "at least 2 samples"),
        (lambda: Decorrelation().gradient_terms(unit(2, 3, 4), unit(2, 3, 4), 2), "view"),
        (lambda: Decorrelation()(unit(2, 5, 4), unit(2, 5, 3)), r"target\[0\]"),
        (lambda: Decorrelation()([], []), "two or more views"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()
