"""DINO and SwAV against loops over their formulas, autograd, several ranks and wrong formulas."""

import math

import numpy as np
import pytest
import torch
from draws import autograd, draws, in_ranks, relative, unit

from siamscope.objectives import ObjectiveError, Prototypes, create, radial, tangent
from siamscope.objectives.prototypes import sinkhorn

FORMS = [
    {"assignment": "centred", "target": "momentum"},
    {"assignment": "centred", "target": "detached"},
    {"assignment": "sinkhorn", "target": "detached", "target_temperature": 0.05},
    {"assignment": "sinkhorn", "target": "momentum", "target_temperature": 0.05},
]


def build(form, width, prototypes=20, seed=0, **more):
    """Prototypes with a centre and target weights other than at the start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        objective = Prototypes(width, prototypes, **form, **more).double()
        if objective.target_weight is not None:
            objective.target_weight += 0.3 * torch.randn(prototypes, width)
        if objective.centre is not None:
            objective.centre += 0.1 * torch.randn(prototypes)
    return objective


def softmax(x):
    e = [math.exp(v - max(x)) for v in x]
    return [v / sum(e) for v in e]


def sinkhorn_by_loops(scores, iterations):
    """The algorithm as published: K x B matrix of total one, rows to 1/K, columns to 1/B, columns to one at the end."""
    q = np.exp(np.asarray(scores)).T
    q /= q.sum()
    prototypes, samples = q.shape
    for _ in range(iterations):
        for k in range(prototypes):
            q[k] /= q[k].sum() * prototypes
        for n in range(samples):
            q[:, n] /= q[:, n].sum() * samples
    return (q * samples).T


def by_loops(objective, online, target):
    w = objective.weight.detach()
    v = w if objective.target_weight is None else objective.target_weight
    w, v = (np.asarray(x / x.norm(dim=1, keepdim=True)) for x in (w, v))
    online, target = np.asarray(online), np.asarray(target)
    losses = []
    for i in range(len(online)):
        for j in range(len(target)):
            if i == j:
                continue
            if objective.assignment == "sinkhorn":
                shares = sinkhorn_by_loops(target[j] @ v.T / objective.target_temperature, objective.iterations)
            else:
                centred = (target[j] @ v.T - np.asarray(objective.centre)) / objective.target_temperature
                shares = [softmax(row) for row in centred.tolist()]
            for n in range(online.shape[1]):
                p = softmax((w @ online[i, n] / objective.temperature).tolist())
                losses.append(-sum(a * math.log(b) for a, b in zip(shares[n], p, strict=True)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_loss_is_the_formula(form):
    for online, target in [(unit(2, 6, 5), unit(2, 6, 5, seed=1)), (unit(4, 5, 3), unit(2, 5, 3, seed=1))]:
        objective = build(form, online.shape[2], prototypes=7)
        expected = by_loops(objective, online, target)
        assert objective(list(online), list(target)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_closed_forms_are_autograd(form):
    """The embeddings' gradient, and the weight's through the surrogate sum(gradient.detach() * W)."""
    for seed, (online, target) in enumerate(draws()):
        objective = build(form, online.shape[2], prototypes=5 + seed % 30)
        u = [z.clone().requires_grad_() for z in online]
        objective(u, list(target)).backward()
        for view, leaf in enumerate(u):
            assert relative(objective.gradient_terms(online, target, view).total, leaf.grad) <= 1e-10
        [(w, gradient)] = objective.parameter_gradients(online, target)
        (surrogate,) = torch.autograd.grad((gradient.detach() * w).sum(), objective.weight)
        assert relative(surrogate, objective.weight.grad) <= 1e-10


def test_terms_add_up():
    objective = build(FORMS[0], 6)
    online, target = unit(3, 8, 6), unit(2, 8, 6, seed=1)
    expected = autograd(objective, online, target)
    for view in range(3):
        terms = objective.gradient_terms(online, target, view)
        assert relative(terms.pull + terms.push, expected[view]) <= 1e-12
        parts = radial(terms.total, online[view]) + tangent(terms.total, online[view])
        assert relative(parts, expected[view]) <= 1e-12


def test_one_target_for_many_crops():
    objective = build(FORMS[0], 4)
    online, target = unit(3, 5, 4), unit(1, 5, 4, seed=1)
    expected = autograd(objective, online, target)
    assert not expected[0].any()
    for view in range(3):
        torch.testing.assert_close(objective.gradient_terms(online, target, view).total, expected[view])


@pytest.mark.parametrize("change", ["centre", "target_weight"])
def test_what_the_assignment_depends_on(change):
    """Without centring, or with the online prototypes in place of the target's, the pull is another."""
    online, target = unit(2, 8, 6), unit(2, 8, 6, seed=1)
    right, wrong = build(FORMS[0], 6), build(FORMS[0], 6)
    if change == "centre":
        wrong.centre.zero_()
    else:
        wrong.target_weight.copy_(wrong.weight.detach())
    terms, others = (o.gradient_terms(online, target) for o in (right, wrong))
    assert relative(others.positive, terms.positive) > 0.01
    assert torch.equal(others.negative, terms.negative)


def test_no_gradient_passes_the_assignment():
    for form in FORMS:
        objective = build(form, 6)
        t = unit(2, 8, 6, seed=1).requires_grad_()
        objective(list(unit(2, 8, 6)), list(t)).backward()
        assert t.grad is None
        assert objective.weight.grad is not None


# ------------------------------------------------------------------------------------------------ state


def test_centre_is_the_moving_mean_of_the_scores():
    """Equal to the explicitly weighted sum of all batches; local crops do not count; `forward` leaves it."""
    objective = build({"assignment": "centred", "target": "momentum", "centre_momentum": 0.8}, 5, prototypes=9)
    weights = torch.nn.functional.normalize(objective.target_weight, dim=1)
    expected = objective.centre.clone()
    for step in range(6):
        online, target = unit(4, 7, 5, seed=step), unit(2, 7, 5, seed=step + 50)
        before = objective.centre.clone()
        objective.prepare(list(online), list(target))
        objective(list(online), list(target))
        assert torch.equal(objective.centre, before)
        objective.commit(list(online), list(target))
        scores = torch.cat([target[0] @ weights.T, target[1] @ weights.T])
        expected = 0.8 * expected + 0.2 * scores.mean(0)
    torch.testing.assert_close(objective.centre, expected, rtol=1e-12, atol=1e-15)


def test_target_weight_follows():
    torch.manual_seed(0)
    objective = Prototypes(5, 9).double()
    assert torch.equal(objective.target_weight, objective.weight)
    old, new = objective.target_weight.clone(), torch.randn(9, 5, dtype=torch.float64)
    objective.weight.data.copy_(new)
    objective.update_target(1.0)
    assert torch.equal(objective.target_weight, old)
    objective.update_target(0.9)
    # absolute, because the two terms may nearly cancel: rounding is a share of the terms, not of their sum
    torch.testing.assert_close(objective.target_weight, 0.9 * old + 0.1 * new, rtol=0, atol=1e-14)
    objective.update_target(0.0)
    assert torch.equal(objective.target_weight, new)
    assert not objective.target_weight.requires_grad


def test_momentum_zero_is_detached():
    """Bit-equal: the target's prototypes are the online ones in both cases."""
    online, target = unit(2, 8, 5), unit(2, 8, 5, seed=1)
    for assignment in ("centred", "sinkhorn"):
        momentum = build({"assignment": assignment, "target": "momentum"}, 5)
        momentum.update_target(0.0)
        detached = build({"assignment": assignment, "target": "detached"}, 5)
        if assignment == "centred":
            detached.centre.copy_(momentum.centre)
        assert torch.equal(momentum(list(online), list(target)), detached(list(online), list(target)))


def test_state_is_saved_and_kept_in_float32():
    objective = build(FORMS[0], 5)
    resumed = Prototypes(5, 20, assignment="centred", target="momentum").double()
    resumed.load_state_dict(objective.state_dict())
    online, target = unit(2, 8, 5), unit(2, 8, 5, seed=1)
    assert torch.equal(resumed(list(online), list(target)), objective(list(online), list(target)))
    assert set(objective.state_dict()) == {"weight", "target_weight", "centre"}
    half = Prototypes(5, 20).half()
    assert half.weight.dtype == torch.float16
    assert half.centre.dtype == half.target_weight.dtype == torch.float32
    assert half([z.half() for z in online], [z.half() for z in target]).dtype == torch.float32


# ------------------------------------------------------------------------------------------------ Sinkhorn


def test_sinkhorn_is_the_published_algorithm():
    scores = unit(3, 12, 6) @ unit(8, 6, seed=1).T / 0.05
    for view, q in enumerate(sinkhorn(scores, 3)):
        np.testing.assert_allclose(q, sinkhorn_by_loops(scores[view], 3), rtol=1e-12)
        assert relative(sinkhorn(scores, 2)[view], q) > 0.01


def test_sinkhorn_shares_equally():
    """Each sample's shares sum to one; after many iterations every prototype has the same total."""
    scores = unit(1, 12, 6) @ unit(8, 6, seed=1).T / 0.2
    [q] = sinkhorn(scores, 200)
    torch.testing.assert_close(q.sum(1), torch.ones(12, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(q.sum(0), torch.full((8,), 12 / 8, dtype=torch.float64), rtol=1e-10, atol=0)


def test_sinkhorn_survives_small_temperatures():
    """exp(2 / 0.001) overflows, and 0/0 would follow; in float32 as well."""
    scores = (unit(1, 12, 6) @ unit(8, 6, seed=1).T / 0.001).float()
    [q] = sinkhorn(scores, 3)
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(1), torch.ones(12))
    assert relative(q, sinkhorn(scores.double(), 3)[0]) < 1e-2


# ------------------------------------------------------------------------------------------------ several ranks


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batch(form, world):
    """Loss, both gradients and the centre are those of one process with the whole batch."""
    u, t = unit(3, 8, 6, seed=3), unit(2, 8, 6, seed=4)
    alone = build(form, 6)
    expected = alone(list(u), list(t))
    wanted = autograd(alone, u, t)
    alone.commit(list(u), list(t))
    leaf = u.clone().requires_grad_()

    def rank(group):
        rows = slice(group.rank * 8 // world, (group.rank + 1) * 8 // world)
        objective = copies[group.rank]
        objective.group = group
        online, target = [z[rows] for z in leaf], [z[rows] for z in t]
        loss = objective(online, target)
        objective.commit([z.detach() for z in online], target)
        return loss

    copies = [build(form, 6) for _ in range(world)]
    loss = torch.stack(in_ranks(world, rank)).mean()
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-12, atol=0)
    assert relative(leaf.grad, wanted) <= 1e-12
    assert (
        relative(sum(o.weight.grad for o in copies), alone.weight.grad) <= 1e-12
    )  # of the mean loss: summed = averaged
    if alone.centre is not None:
        for objective in copies:
            torch.testing.assert_close(objective.centre, alone.centre, rtol=1e-12, atol=1e-15)


def test_without_gathering_sinkhorn_is_another():
    u, t = unit(2, 8, 6, seed=3), unit(2, 8, 6, seed=4)
    objective = build(FORMS[2], 6)
    parts = [objective([z[a : a + 4] for z in u], [z[a : a + 4] for z in t]) for a in (0, 4)]
    assert relative(torch.stack(parts).mean(), objective(list(u), list(t))) > 1e-3


# ------------------------------------------------------------------------------------------------ numbers, bad input


def test_single_precision():
    for form in FORMS:
        for online, target in draws(6):
            exact = build(form, online.shape[2])
            single = build(form, online.shape[2]).float()
            expected = autograd(exact, online, target)
            assert relative(autograd(single, online.float(), target.float()), expected) <= 1e-5


def test_nothing_is_hidden_that_is_not_finite():
    for form in FORMS:
        objective = build(form, 4)
        online, target = unit(2, 6, 4), unit(2, 6, 4, seed=1)
        for k in range(2):
            broken = [online.clone(), target.clone()]
            broken[k][0, 2, 1] = float("nan")
            assert objective(list(broken[0]), list(broken[1])).isnan()
            zero = [online.clone(), target.clone()]
            zero[k][0, 2] = 0
            assert autograd(objective, *zero).isfinite().all()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Prototypes(4, temperature=0.0), "^temperature"),
        (lambda: Prototypes(4, target_temperature=-1.0), "target_temperature"),
        (lambda: Prototypes(4, prototypes=0), "prototypes"),
        (lambda: Prototypes(4, iterations=0), "iterations"),
        (lambda: Prototypes(0), "width"),
        (lambda: Prototypes(4, assignment="greedy"), "assignment"),
        (lambda: Prototypes(4, centre_momentum=1.5), "centre_momentum"),
        (lambda: Prototypes(4, target="shared"), "target must be"),
        (lambda: Prototypes(4).gradient_terms(unit(2, 5, 4), unit(2, 5, 4), shared=True), "shared"),
        (lambda: Prototypes(4)([unit(5, 3)] * 2, [unit(5, 3)] * 2), "width 4, got 3"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()


def test_create_gives_the_width_and_the_target():
    cells = {"prototypes": 12, "assignment": "sinkhorn", "target": "detached", "target_temperature": 0.05}
    objective = create("prototypes", cells, width=5)
    assert objective.weight.shape == (12, 5)
    assert objective.target_weight is None and objective.centre is None
