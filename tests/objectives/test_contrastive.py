"""The contrastive family against loops over its formulas, autograd, a plain queue, several ranks, and wrong forms."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from draws import autograd, draws, in_ranks, relative, unit

from siamscope.objectives import Contrastive, ObjectiveError, create, tangent
from siamscope.objectives.bank import nearest

FORMS = [
    {"temperature": 0.1},
    {"temperature": 1.0},
    {"temperature": 0.2, "decoupled": True},
    {"temperature": 0.2, "negatives": "other-view"},
    {"temperature": 0.2, "negatives": "other-view", "decoupled": True},
    {"temperature": 0.2, "negatives": "bank", "bank": 40},
    {"temperature": 0.1, "negatives": "bank", "bank": 40, "decoupled": True},
    {"temperature": 0.2, "negatives": "other-view", "neighbour": True, "bank": 40},
    {"temperature": 0.2, "negatives": "both-views", "neighbour": True, "bank": 40},
]


def build(form, width, **more):
    return Contrastive(**form, width=width, **more).double()


def by_loops(online, target, memory, temperature, negatives="both-views", decoupled=False, neighbour=False, **_):
    """The loss written out sample by sample in numpy, with nothing shared with the implementation."""
    online, target, memory = np.asarray(online), np.asarray(target), np.asarray(memory)
    if neighbour:
        target = np.stack([[memory[np.linalg.norm(memory - t, axis=1).argmin()] for t in view] for view in target])
    views, n, _ = online.shape
    losses = []
    for i in range(views):
        for j in range(len(target)):
            if i == j:
                continue
            for a in range(n):
                keys = [target[j, b] for b in range(n) if b != a]
                if negatives == "both-views" and i < len(target):
                    keys += [target[i, b] for b in range(n) if b != a]
                if negatives == "bank":
                    keys = list(memory)
                positive = float(online[i, a] @ target[j, a]) / temperature
                denominator = sum(math.exp(float(online[i, a] @ k) / temperature) for k in keys)
                denominator += 0 if decoupled else math.exp(positive)
                losses.append(math.log(denominator) - positive)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_loss_is_the_formula(form):
    for online, target in [(unit(2, 6, 5), unit(2, 6, 5, seed=1)), (unit(4, 5, 3), unit(2, 5, 3, seed=1))]:
        objective = build(form, online.shape[2])
        memory = objective.bank_keys if objective.bank else []
        expected = by_loops(online, target, memory, **form)
        assert objective(list(online), list(target)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_closed_form_is_autograd(form, shared):
    for online, target in draws():
        objective = build(form, online.shape[2])
        t = online[: len(target)] if shared else target
        u = [z.clone().requires_grad_() for z in online]
        objective(u, u[: len(target)] if shared else list(target)).backward()
        for view, leaf in enumerate(u):
            assert relative(objective.gradient_terms(online, t, view, shared=shared).total, leaf.grad) <= 1e-10


def test_shared_target_adds_the_second_bracket():
    """SimCLR's full gradient (unigrad.md 1.1): the softmax of the other samples' rows pushes as well.

    On noisy pairs it is nearly as long as the first one's push (there 0.97, here 0.968), and leaving it out changes the
    gradient's direction little (cosine there 0.995, here 0.988) but halves its length.
    """
    tau, n, d = 0.1, 32, 16
    z = unit(1, n, d) + torch.stack([torch.zeros(n, d), unit(n, d, seed=5)])
    z = torch.nn.functional.normalize(z, dim=-1)
    keys = torch.cat([z[0], z[1]])
    share = (keys @ keys.T / tau).fill_diagonal_(float("-inf")).softmax(1)
    u2 = torch.cat([z[1], z[0]])
    first, second = -u2 + share @ keys, -u2 + share.T @ keys
    expected = (first + second) / (tau * 2 * n)
    full = torch.cat([Contrastive(tau).gradient_terms(z, z, view, shared=True).total for view in (0, 1)])
    half = torch.cat([Contrastive(tau).gradient_terms(z, z, view).total for view in (0, 1)])
    torch.testing.assert_close(full, expected, rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(half, first / (tau * 2 * n), rtol=1e-10, atol=1e-15)
    assert relative(half, expected) > 0.4  # dropping the bracket halves the gradient
    s_term, t_term = tangent(share @ keys, keys), tangent(share.T @ keys, keys)
    assert 0.95 < torch.linalg.norm(t_term) / torch.linalg.norm(s_term) < 0.99
    cosine = torch.nn.functional.cosine_similarity(tangent(full, keys).flatten(), tangent(half, keys).flatten(), dim=0)
    assert 0.98 < cosine < 0.999


def test_own_key_must_be_left_out():
    """Keeping the own view's key as a negative changes the gradient by more than 1 % (unigrad.md, defect 2)."""
    online = unit(2, 16, 8, seed=1)
    keys = torch.cat([online[1], online[0]])
    wrong = -online[1] + (online[0] @ keys.T / 0.2).softmax(1) @ keys
    right = Contrastive(0.2).gradient_terms(online, online)
    change = tangent(wrong - right.total / right.scale, online[0])
    assert torch.linalg.norm(change) > 0.01 * torch.linalg.norm(tangent(right.total / right.scale, online[0]))


@pytest.mark.parametrize("form", FORMS[2:5], ids=str)
def test_the_forms_differ(form):
    """No option is without effect: each gradient is at least 1 % from plain NT-Xent's."""
    online, target = unit(2, 16, 8), unit(2, 16, 8, seed=1)
    plain = Contrastive(form["temperature"]).gradient_terms(online, target).total
    assert relative(build(form, 8).gradient_terms(online, target).total, plain) > 0.01


def test_single_precision():
    for form in FORMS:
        for online, target in draws(6):
            objective = Contrastive(**form, width=online.shape[2])
            single = autograd(objective, online.float(), target.float())
            assert relative(single, autograd(objective.double(), online, target)) <= 4e-4


def test_a_dominant_positive_keeps_its_digits():
    """At a small temperature the loss is e^-40; a difference of two logarithms in float32 would return zero."""
    eye = torch.eye(3)
    loss = Contrastive(1 / 40)([eye, eye], [eye, eye])
    assert loss.item() == pytest.approx(4 * math.exp(-40), rel=1e-4, abs=0)


# ------------------------------------------------------------------------------------------------ the memory bank


def test_bank_is_first_in_first_out():
    """Bit-equal to a plain queue, over several turns and with steps that do not divide it."""
    objective = Contrastive(negatives="bank", bank=17, width=3)
    queue = deque(objective.bank_keys.clone(), maxlen=17)
    for step in range(9):
        target = unit(2, 3 + step % 3, 3, seed=step).float()
        objective.commit(list(target), list(target))
        queue.extend(target.flatten(0, 1))
        oldest_first = objective.bank_keys.roll(-int(objective.bank_oldest), 0)
        assert torch.equal(oldest_first, torch.stack(list(queue)))


def test_bank_starts_from_the_same_random_unit_keys_everywhere():
    state = torch.get_rng_state()
    first, second = (Contrastive(negatives="bank", bank=50, width=7).bank_keys for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(first.norm(dim=1), torch.ones(50))
    assert (first @ first.T).fill_diagonal_(0).abs().max() < 0.999


def test_bank_is_saved_and_goes_on():
    objective = Contrastive(negatives="bank", bank=10, width=3)
    steps = unit(6, 2, 3, 3).float()
    for target in steps[:3]:
        objective.commit(list(target), list(target))
    resumed = Contrastive(negatives="bank", bank=10, width=3)
    resumed.load_state_dict(objective.state_dict())
    for target in steps[3:]:
        for one in (objective, resumed):
            one.commit(list(target), list(target))
    assert torch.equal(objective.bank_keys, resumed.bank_keys)
    assert int(resumed.bank_oldest) == 36 % 10
    assert not torch.equal(resumed.bank_keys, Contrastive(negatives="bank", bank=10, width=3).bank_keys)


def test_forward_leaves_the_bank_and_a_full_bank_may_be_replaced_at_once():
    objective = Contrastive(negatives="bank", bank=8, width=3)
    before = objective.bank_keys.clone()
    target = unit(2, 4, 3).float()
    objective.prepare(list(target), list(target))
    objective(list(target), list(target))
    assert torch.equal(objective.bank_keys, before)
    objective.commit(list(target), list(target))
    assert torch.equal(objective.bank_keys, target.flatten(0, 1))


def test_bank_keys_stay_in_float32():
    objective = Contrastive(negatives="bank", bank=8, width=3).half()
    assert objective.bank_keys.dtype == torch.float32
    target = unit(2, 2, 3).half()
    objective.commit(list(target), list(target))
    assert objective(list(target), list(target)).dtype == torch.float32
    assert torch.equal(objective.bank_keys[:4], target.flatten(0, 1).float())


def test_local_crops_never_enter_the_bank():
    objective = Contrastive(negatives="bank", bank=8, width=3)
    online, target = unit(4, 3, 3).float(), unit(2, 3, 3, seed=1).float()
    objective.commit(list(online), list(target))
    assert torch.equal(objective.bank_keys[:6], target.flatten(0, 1))
    assert int(objective.bank_oldest) == 6


def test_neighbours_of_keys_in_the_bank_are_themselves():
    """With the targets in the bank, NNCLR is MoCo v3; before that it is not."""
    online, target = unit(2, 6, 5), unit(2, 6, 5, seed=1)
    neighbours = build({"temperature": 0.2, "negatives": "other-view", "neighbour": True, "bank": 30}, 5)
    plain = Contrastive(0.2, negatives="other-view")(list(online), list(target))
    assert relative(neighbours(list(online), list(target)), plain) > 0.01
    neighbours.commit(list(online), list(target))
    assert relative(neighbours(list(online), list(target)), plain) <= 1e-14


def test_the_neighbour_is_the_nearest_and_not_the_longest():
    """Keys need not have length one (normalise 'batch', 'none'): the distance decides, not the inner product."""
    lengths = torch.linspace(0.2, 3, 40)[:, None]
    keys, queries = lengths * unit(40, 3).float(), unit(25, 3, seed=1).float()
    expected = keys[torch.cdist(queries, keys).argmin(1)]
    assert torch.equal(nearest(keys, queries), expected)
    assert not torch.equal(keys[(queries @ keys.T).argmax(1)], expected)


# ------------------------------------------------------------------------------------------------ several ranks


@pytest.mark.parametrize("form", [FORMS[0], FORMS[3], FORMS[5], FORMS[7]], ids=str)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batch(form, world):
    """Loss, gradient (shared targets: through the keys of all ranks as well) and bank are those of one process."""
    u, t = unit(3, 8, 6, seed=3), unit(2, 8, 6, seed=4)
    alone = build(form, 6)
    for shared in (True, False):
        expected = alone(list(u), list(u if shared else t))
        wanted = autograd(alone, u, None if shared else t)
        leaf = u.clone().requires_grad_()

        def rank(group, leaf=leaf, shared=shared):
            rows = slice(group.rank * 8 // world, (group.rank + 1) * 8 // world)
            online = [z[rows] for z in leaf]
            return build(form, 6, group=group)(online, online if shared else [z[rows] for z in t])

        loss = torch.stack(in_ranks(world, rank)).mean()
        loss.backward()
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)
        assert relative(leaf.grad, wanted) <= 1e-12


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_keep_the_same_bank(world):
    alone = Contrastive(negatives="bank", bank=20, width=3)
    batches = [unit(2, 8, 3, seed=seed).float() for seed in range(3)]

    def rank(group):
        rows = slice(group.rank * 8 // world, (group.rank + 1) * 8 // world)
        objective = Contrastive(negatives="bank", bank=20, width=3, group=group)
        for batch in batches:
            objective.commit([z[rows] for z in batch], [z[rows] for z in batch])
        return objective

    for batch in batches:
        alone.commit(list(batch), list(batch))
    for objective in in_ranks(world, rank):
        assert torch.equal(objective.bank_keys, alone.bank_keys)
        assert torch.equal(objective.bank_oldest, alone.bank_oldest)


def test_without_gathering_the_loss_is_another():
    u, t = unit(2, 12, 6, seed=3), unit(2, 12, 6, seed=4)
    whole = Contrastive(0.2)(list(u), list(t))
    parts = [Contrastive(0.2)([z[a : a + 4] for z in u], [z[a : a + 4] for z in t]) for a in (0, 4, 8)]
    assert abs(torch.stack(parts).mean() - whole) > 0.1


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Contrastive(0.0), "temperature"),
        (lambda: Contrastive(float("nan")), "temperature"),
        (lambda: Contrastive(negatives="none"), "negatives"),
        (lambda: Contrastive(negatives="bank", width=4), "at least 1"),
        (lambda: Contrastive(neighbour=True, negatives="other-view", width=4), "at least 1"),
        (lambda: Contrastive(bank=16, width=4), "must be 0"),
        (lambda: Contrastive(negatives="bank", bank=16), "width"),
        (lambda: Contrastive(negatives="bank", bank=16, neighbour=True, width=4), "neighbour"),
        (lambda: Contrastive()([unit(1, 3)] * 2, [unit(1, 3)] * 2), "at least 2 samples"),
        (lambda: build(FORMS[5], 4)([unit(5, 3)] * 2, [unit(5, 3)] * 2), "width 4, got 3"),
        (lambda: build(FORMS[5], 3).commit([unit(21, 3)] * 2, [unit(21, 3)] * 2), "at least 42"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()


def test_one_sample_is_enough_with_a_bank():
    assert build(FORMS[5], 3)([unit(1, 3)] * 2, [unit(1, 3)] * 2).isfinite()


def test_create_gives_the_width():
    cells = {"negatives": "bank", "bank": 12, "temperature": 0.2}
    assert create("contrastive", cells, width=5).bank_keys.shape == (12, 5)
