"""Closed forms against autograd, stored values of the official formulas, and formulas that must fail."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from siamscope.objectives import Asymmetric, Contrastive, Group, ObjectiveError, create


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def draws():
    for seed in range(50):
        g = torch.Generator().manual_seed(seed)
        n, d = (int(torch.randint(low, 64, (), generator=g)) for low in (4, 3))
        yield unit(2, n, d, seed=seed), unit(2, n, d, seed=seed + 1000)


@pytest.mark.parametrize(
    "objective", [Asymmetric("cosine"), Asymmetric("euclidean"), Contrastive(0.2), Contrastive(1.0)], ids=str
)
def test_closed_form_is_autograd(objective):
    for online, target in draws():
        u = [z.clone().requires_grad_() for z in online]
        objective(u, list(target)).backward()
        for view in (0, 1):
            closed = objective.gradient_terms(online, target, view).total
            assert torch.linalg.norm(closed - u[view].grad) <= 1e-10 * torch.linalg.norm(u[view].grad)


def test_shared_target_adds_the_second_bracket():
    """SimCLR's full gradient: each key's own row pushes back (unigrad.md 1.1); without it the form errs."""
    tau, n = 0.3, 12
    z = unit(2, n, 8)
    u = z.clone().requires_grad_()
    Contrastive(tau)([u[0], u[1]], [u[0], u[1]]).backward()
    everyone = torch.cat([z[0], z[1]])
    logits = (everyone @ everyone.T / tau).fill_diagonal_(float("-inf"))
    share = logits.softmax(1)
    u2 = torch.cat([z[1], z[0]])
    first = -u2 + share @ everyone
    second = -u2 + share.T @ everyone
    expected = (first + second) / (tau * 2 * n)
    torch.testing.assert_close(torch.cat([u.grad[0], u.grad[1]]), expected, rtol=1e-10, atol=1e-13)
    assert torch.linalg.norm(first / (tau * 2 * n) - expected) > 0.1 * torch.linalg.norm(expected)


def test_own_key_must_be_left_out():
    """Keeping the own view's key as a negative changes the gradient by more than 1 % (unigrad.md, defect 2)."""
    online, target = unit(2, 16, 8, seed=1), unit(2, 16, 8, seed=1)
    keys = torch.cat([target[1], target[0]])
    wrong = -target[1] + (online[0] @ keys.T / 0.2).softmax(1) @ keys
    right = Contrastive(0.2).gradient_terms(online, target)
    assert torch.linalg.norm(wrong - right.total / right.scale) > 0.01 * torch.linalg.norm(wrong)


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


def test_half_precision_is_computed_in_float32():
    u = unit(2, 32, 16).float()
    exact = Contrastive(0.1)(list(u), list(u))
    half = Contrastive(0.1)([u[0].bfloat16(), u[1].bfloat16()], [u[0].bfloat16(), u[1].bfloat16()])
    assert half.dtype == torch.float32
    assert abs(half - exact) < 0.02 * abs(exact)


def test_ranks_share_the_batch():
    """The mean of the ranks' losses is the loss of the whole batch, when keys are gathered; alone they are not."""
    u, t = unit(2, 12, 6, seed=3), unit(2, 12, 6, seed=4)
    whole = Contrastive(0.2)(list(u), list(t))
    parts = []
    for rank in range(3):
        rows = slice(4 * rank, 4 * rank + 4)
        everyone = {id(z): full for z, full in ((local[rows], full) for local, full in zip(t, t, strict=True))}
        queue = iter(everyone.values())
        group = Group(rank, 3, lambda _, queue=queue: next(queue))
        parts.append(Contrastive(0.2, group)([z[rows] for z in u], [z[rows] for z in t]))
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-12, atol=0)
    alone = torch.stack([Contrastive(0.2)([z[:4] for z in u], [z[:4] for z in t])])
    assert abs(alone.mean() - whole) > 0.1


def test_create_takes_only_its_cells():
    cells = {"temperature": 0.7, "distance": "euclidean", "name": "x"}
    assert create("contrastive", cells).temperature == 0.7
    assert create("asymmetric", cells).distance == "euclidean"


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Contrastive(0.0), "temperature"),
        (lambda: Contrastive(float("nan")), "temperature"),
        (lambda: Asymmetric("manhattan"), "distance"),
        (lambda: create("nothing", {}), "unknown objective"),
        (lambda: Asymmetric()([unit(4, 3), unit(5, 3)], [unit(4, 3), unit(4, 3)]), r"online\[1\]"),
        (lambda: Asymmetric()([unit(4, 3)], [unit(4, 3)]), "two or more views"),
        (lambda: Contrastive()([unit(1, 3)] * 2, [unit(1, 3)] * 2), "at least 2 samples"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()
