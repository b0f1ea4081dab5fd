"""W-MSE: closed form against autograd, the whitening's identities, and formulas that must fail."""

import numpy as np
import pytest
import torch
from draws import draws
from ranks import mean_over_ranks

from siamscope.objectives import Group, ObjectiveError, Whitening, create


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    """Correlated, off-centre samples: what a projector gives."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(shape[-1], shape[-1], generator=g, dtype=torch.float64)
    return torch.randn(*shape, generator=g, dtype=torch.float64) @ mix + torch.randn(shape[-1], generator=g).double()


def by_hand(online, target, eps=0.0):
    """The loss in numpy, one sample after the other."""

    def whiten(x):
        x = x.detach().numpy()
        x = x - x.mean(0)
        c = (1 - eps) * x.T @ x / (len(x) - 1) + eps * np.eye(x.shape[1])
        return (np.linalg.inv(np.linalg.cholesky(c)) @ x.T).T

    pairs = [(whiten(u), whiten(t)) for i, u in enumerate(online) for j, t in enumerate(target) if i != j]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for x, y in pairs for a, b in zip(x, y, strict=True)]
    return 2 - 2 * float(np.mean(cosines))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_closed_form_is_autograd(shared, eps):
    for seed, (online, target) in enumerate(draws()):
        n = len(online[0])
        d = max(2, min(online.shape[2], 3 * n // 4))
        size = n // 2 if seed % 2 and n % 2 == 0 and n // 2 > d else 0
        objective = Whitening(size, eps)
        u = [z.clone().requires_grad_() for z in online[..., :d]]
        t = u[: len(target)] if shared else list(target[..., :d])
        objective(u, t).backward()
        for view, z in enumerate(u):
            terms = objective.gradient_terms([x.detach() for x in u], [x.detach() for x in t], view, shared=shared)
            assert relative(terms.total, z.grad) <= 1e-10


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_value_is_that_of_the_formula(eps):
    for seed in range(5):
        online, target = gaussian(3, 20, 5, seed=seed), gaussian(2, 20, 5, seed=seed + 9)
        assert Whitening(eps=eps)(list(online), list(target)).item() == pytest.approx(
            by_hand(online, target, eps), abs=1e-12
        )


def test_whitened_dimensions_are_uncorrelated():
    x = gaussian(2, 30, 6)
    for y in Whitening()._whiten(x).whitened:
        torch.testing.assert_close(y[0].T @ y[0] / 29, torch.eye(6).double(), rtol=0, atol=1e-12)
        assert y[0].mean(0).abs().max() < 1e-12


def test_whitening_undoes_scales_and_shears_but_not_turns():
    """Multiplying by a lower-triangular matrix changes nothing (Cholesky's freedom); a rotation of one view does."""
    u = gaussian(2, 24, 5)
    shear = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tril()
    shear.diagonal().abs_().add_(0.5)
    loss = Whitening()(list(u), list(u))
    torch.testing.assert_close(Whitening()([u[0] @ shear.T + 3, u[1]], [u[0], u[1]]), loss, rtol=1e-10, atol=0)
    turn = torch.linalg.qr(shear.T + 1).Q
    assert abs(Whitening()([u[0] @ turn, u[1]], [u[0], u[1]]) - loss) > 0.01


def test_gradient_needs_every_part():
    """The whitening matrix held constant, or the mean not removed, errs by more than 1 %."""
    online, target = gaussian(2, 24, 6), gaussian(2, 24, 6, seed=1)
    u = [z.clone().requires_grad_() for z in online]
    Whitening()(u, list(target)).backward()
    terms = Whitening().gradient_terms(online, target)
    assert relative(terms.pull, u[0].grad) > 0.01
    assert relative(terms.push, u[0].grad) > 0.01
    assert u[0].grad.sum(0).abs().max() < 1e-12  # a common shift has no effect
    lower = (u[0].grad.T @ online[0]).tril()
    assert lower.abs().max() < 1e-10 * torch.linalg.norm(u[0].grad.T @ online[0])  # nor has a shear


def test_groups_are_whitened_apart():
    u, t = gaussian(2, 30, 4), gaussian(2, 30, 4, seed=1)
    parts = [Whitening()([z[k : k + 10] for z in u], [z[k : k + 10] for z in t]) for k in (0, 10, 20)]
    grouped = Whitening(10)(list(u), list(t))
    torch.testing.assert_close(grouped, torch.stack(parts).mean(), rtol=1e-12, atol=0)
    assert abs(grouped - Whitening()(list(u), list(t))) > 0.01


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", [0, 6, 12])  # 6 fits into a rank's rows, 12 does not
def test_ranks_whiten_the_whole_batch(size, shared):
    def both(loss):
        u = gaussian(2, 24, 4).requires_grad_()
        value = loss(list(u), None if shared else list(gaussian(2, 24, 4, seed=1)))
        value.backward()
        return value.detach(), u.grad

    whole, gradient = both(lambda u, t: Whitening(size)(u, u if t is None else t))
    value, mean = both(lambda u, t: mean_over_ranks(lambda group: Whitening(size, group=group), u, t, 4))
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(mean, gradient, rtol=1e-10, atol=1e-13)


def test_whole_groups_on_a_rank_are_not_gathered():
    def refuse(_):
        raise AssertionError

    u = list(gaussian(2, 12, 3))
    Whitening(6, group=Group(0, 2, refuse))(u, u)
    with pytest.raises(AssertionError):
        Whitening(8, group=Group(0, 2, refuse))(u, u)


def test_a_sample_at_the_mean_is_finite():
    online = gaussian(2, 9, 3)
    online[0, 0] = online[0, 1:].mean(0)
    u = [z.clone().requires_grad_() for z in online]
    Whitening()(u, [z.detach() for z in u]).backward()
    assert torch.isfinite(u[0].grad).all()
    zeros = torch.cat([online, torch.zeros(2, 1, 3)], dim=1)
    assert torch.isfinite(Whitening()(list(zeros), list(zeros)))


def test_single_precision():
    for seed in range(10):
        online, target = gaussian(2, 64, 8, seed=seed), gaussian(2, 64, 8, seed=seed + 99)
        exact = Whitening(eps=1e-3).gradient_terms(online, target).total
        u = [z.float().requires_grad_() for z in online]
        Whitening(eps=1e-3)(u, [t.float() for t in target]).backward()
        closed = Whitening(eps=1e-3).gradient_terms([z.detach() for z in u], target.float()).total
        assert closed.dtype == torch.float32
        assert max(relative(u[0].grad, exact), relative(closed, exact)) < 1e-5


def test_not_finite_in_not_finite_out():
    u = gaussian(2, 12, 3)
    u[0, 0, 0] = float("nan")
    assert torch.isnan(Whitening()(list(u), list(u)))
    assert torch.isnan(Whitening().gradient_terms(u, u).total).any()


def test_collapse_is_named_and_eps_lets_it_pass():
    noise = 3 + 1e-7 * gaussian(2, 40, 8).float()  # constant but for the rounding of float32
    for x in (torch.zeros(2, 40, 8), torch.ones(2, 40, 8), noise, gaussian(2, 40, 1).float() * torch.arange(1, 9) / 7):
        with pytest.raises(ObjectiveError, match=r"singular.*raise eps"):
            Whitening()(list(x), list(x))
        u = x.clone().requires_grad_()
        Whitening(eps=0.01)(list(u), list(u)).backward()
        assert torch.isfinite(u.grad).all()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Whitening(eps=-0.1), "eps"),
        (lambda: Whitening(eps=1.0), "eps"),
        (lambda: Whitening(eps=float("nan")), "eps"),
        (lambda: Whitening(1), "whiten_group"),
        (lambda: Whitening(-4), "whiten_group"),
        (lambda: Whitening()(list(gaussian(2, 8, 8)), list(gaussian(2, 8, 8))), r"projector\.out below 8.*batch size"),
        (lambda: Whitening(4)(list(gaussian(2, 8, 5)), list(gaussian(2, 8, 5))), "whiten_group of 0 or above 5"),
        (lambda: Whitening(5)(list(gaussian(2, 8, 3)), list(gaussian(2, 8, 3))), "do not divide a batch of 8"),
        (lambda: Whitening()(list(gaussian(2, 1, 1)), list(gaussian(2, 1, 1))), "whitening 1 samples"),
        (lambda: Whitening()([gaussian(8, 3), gaussian(9, 3)], [gaussian(8, 3)] * 2), r"online\[1\]"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()


def test_created_from_a_row():
    made = create("whitening", {"whiten_group": 16, "eps": 0.5, "group": "not this"}, 8)
    assert (made.whiten_group, made.eps, made.unit_length, made.group) == (16, 0.5, False, Group())
