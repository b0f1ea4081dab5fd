"""Spectral negatives: closed forms, and what each phi is the gradient of."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from draws import draws, unit
from scipy.linalg import fractional_matrix_power, logm
from torch.nn.functional import normalize

from siamscope.objectives import ObjectiveError, create, tangent
from siamscope.objectives.spectral import Spectral, spectral_function

PHIS = ("identity", "inverse", "inverse-sqrt", "log")


def relative(found, expected):
    found, expected = found.detach(), expected.detach()
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


def spectral(balance=3.0, rho=0.0, phi="identity", *, d, **cells):
    return Spectral(balance, rho, phi, width=d, **cells).double()


def leaves(views):
    return [z.detach().clone().requires_grad_() for z in views]


def gradient(loss, views):
    return torch.autograd.grad(loss, views)


# ------------------------------------------------------------------------------------------------- the closed form


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("phi", PHIS)
def test_closed_form_is_autograd(phi, shared):
    for seed, (online, target) in enumerate(draws()):
        objective = spectral(
            4.0, 0.7, phi, d=online.shape[2], statistics=("target", "online")[seed % 2], centred=seed % 3 == 0, eps=1e-2
        )
        objective.prepare(unit(*online.shape, seed=seed + 7), unit(*target.shape, seed=seed + 8))
        u = leaves(online)
        t = u[: len(target)] if shared else list(target)
        objective.prepare(u, t)
        grads = gradient(objective(u, t), u)
        for view, expected in enumerate(grads):
            closed = objective.gradient_terms(u, t, view, shared=shared)
            assert relative(closed.total, expected) <= 1e-10
            assert relative(closed.pull + closed.push, expected) <= 1e-12


def test_shared_targets_are_not_fixed_ones():
    """The two forms differ, so that the test above can tell them apart."""
    u = unit(2, 20, 6)
    objective = spectral(d=6)
    objective.prepare(u, u)
    fixed, shared = (objective.gradient_terms(u, u, 0, shared=s).total for s in (False, True))
    assert relative(fixed, shared) > 0.1


def test_float32_keeps_five_digits():
    for phi in PHIS:
        for online, target in list(draws())[:20]:
            exact = spectral(5.0, phi=phi, d=online.shape[2], eps=1e-2)
            rough = copy.deepcopy(exact).float()
            exact.prepare(online, target)
            rough.prepare(online.float(), target.float())
            closed = rough.gradient_terms(online.float(), target.float())
            assert closed.total.dtype == torch.float32
            assert relative(closed.total.double(), exact.gradient_terms(online, target).total) <= 1e-5


def test_view_without_a_partner_has_no_gradient():
    """One target: online view 0 is in no pair, and only as shared target it is pulled (and not pushed)."""
    u = leaves(unit(3, 9, 5))
    objective = spectral(d=5)
    objective.prepare(u, u[:1])
    assert not objective.gradient_terms(u, unit(1, 9, 5), 0).total.any()
    grads = gradient(objective(u, u[:1]), u)
    terms = objective.gradient_terms(u, u[:1], 0, shared=True)
    assert relative(terms.total, grads[0]) <= 1e-12 and terms.balance == 0


def test_loss_is_the_mean_over_pairs_and_local_crops_never_enter_f():
    online, target = unit(4, 11, 6), unit(2, 11, 6, seed=1)
    for statistics in ("target", "online"):
        objective = spectral(2.0, d=6, statistics=statistics)
        objective.prepare(online, target)
        source = target if statistics == "target" else online[:2]
        rows = source.reshape(-1, 6)
        f = rows.T @ rows / len(rows)
        torch.testing.assert_close(objective.correlation.matrix, f, rtol=0, atol=1e-15)
        pairs = [
            (-(online[i] * target[j]).sum(1) + 1.0 * torch.einsum("nd,de,ne->n", online[i], f, online[i])).mean()
            for i in range(4)
            for j in range(2)
            if i != j
        ]
        torch.testing.assert_close(objective(online, target), torch.stack(pairs).mean(), rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------------- what it is equal to


def primitive(f, phi, eps):
    """tr G(F) with G' = phi."""
    s = torch.linalg.eigvalsh(f) + (0 if phi == "identity" else eps)
    return {
        "identity": lambda: s.square().sum() / 2,
        "inverse": lambda: -s.log().sum(),
        "inverse-sqrt": lambda: -2 * s.sqrt().sum(),
        "log": lambda: (s * s.log()).sum(),
    }[phi]()


def correlation_of(views, centred=False):
    rows = torch.cat(list(views))
    rows = rows - rows.mean(0) * centred
    return rows.T @ rows / len(rows)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("phi", PHIS)
def test_detached_batch_f_is_the_gradient_of_a_function_of_the_spectrum(phi, centred):
    """rho = 0: the gradient is that of -mean <u_i, u_j> + (balance / 2) tr G(F), G' = phi, fully differentiated."""
    for views in (2, 3):
        u = leaves(unit(views, 40, 7, seed=views))
        objective = spectral(3.0, phi=phi, d=7, centred=centred, eps=1e-2)
        objective.prepare(u, u)
        pull = torch.stack([-(u[i] * u[j]).sum(1).mean() for i in range(views) for j in range(views) if i != j]).mean()
        full = gradient(pull + 1.5 * primitive(correlation_of(u, centred), phi, 1e-2), u)
        for view in range(views):
            assert relative(objective.gradient_terms(u, u, view, shared=True).total, full[view]) <= 1e-10


def test_unigrad_with_batch_f_is_the_spectral_contrastive_loss():
    """HaoChen et al.: -2 E u.u+ + E (u.u')^2 over all pairs of samples, here halved, with balance 2."""
    u = leaves(unit(2, 15, 8))
    objective = spectral(2.0, d=8)
    objective.prepare(u, u)
    everyone = torch.cat(u)
    loss = -(u[0] * u[1]).sum(1).mean() + (everyone @ everyone.T).square().mean() / 2
    for view, expected in enumerate(gradient(loss, u)):
        assert relative(objective.gradient_terms(u, u, view, shared=True).total, expected) <= 1e-10


def test_forgetting_the_detach_doubles_the_negative():
    u = leaves(unit(2, 15, 8))
    objective = spectral(2.0, d=8)
    objective.prepare(u, u)
    detached = objective.gradient_terms(u, u).push
    f = correlation_of(u)
    wrong = gradient(torch.stack([torch.einsum("nd,de,ne->n", v, f, v).mean() for v in u]).mean(), u)[0]
    assert relative(wrong, 2 * detached) <= 1e-10
    assert not objective.correlation.matrix.requires_grad


def test_tico_is_unigrad_with_twice_its_weight():
    """TiCo: 1 - mean <z1, z2> + w mean z1' C z1 with C <- beta C + (1 - beta) mean z z', held fixed."""
    weight, beta, d = 8.0, 0.9, 6
    objective = spectral(2 * weight, beta, d=d, statistics="online")
    c = None
    for step in range(5):
        u, t = leaves(unit(2, 12, d, seed=step)), unit(2, 12, d, seed=step + 50)
        with torch.no_grad():
            c = correlation_of(u) if c is None else beta * c + (1 - beta) * correlation_of(u)
        tico = (1 - (u[0] * t[1]).sum(1) + weight * ((u[0] @ c) * u[0]).sum(1)).mean()
        objective.prepare(u, t)
        terms = objective.gradient_terms(u, t)
        assert relative(terms.total, gradient(tico, u[:1])[0] / 2) <= 1e-12  # the other pair is the other half
        assert relative(terms.push, terms.scale * 2 * weight * u[0] @ c) <= 1e-12


def test_corinfomax_is_the_inverse():
    """(alpha / N) sum |u1 - u2|^2 - log det(R1 + eps) - log det(R2 + eps), differentiated through R and the means.

    View 2 holds the same vectors as view 1 in another order, so that R1 = R2 = F; otherwise F is their mean.
    """
    alpha, eps, d = 5.0, 1e-3, 6
    u = unit(1, 30, d)[0]
    views = leaves([u, u[torch.randperm(30, generator=torch.Generator().manual_seed(0))]])
    objective = spectral(2 / alpha, phi="inverse", d=d, statistics="online", centred=True, eps=eps)
    objective.prepare(views, views)

    def paper(f1, f2):
        return alpha * (views[0] - views[1]).square().sum(1).mean() + primitive(f1, "inverse", eps) + f2

    r1, r2 = (correlation_of([v], centred=True) for v in views)
    expected = gradient(paper(r1, primitive(r2, "inverse", eps)), views)[0]
    closed = objective.gradient_terms(views, views, 0, shared=True).total
    along = 2 * alpha / 30 * views[0]  # alpha |u1|^2: unit vectors do not feel it
    assert relative(2 * alpha * closed + along, expected) <= 1e-10
    assert relative(tangent(2 * alpha * closed, views[0]), tangent(expected, views[0])) <= 1e-10
    assert relative(2 * alpha * closed, expected) > 0.01  # the part along u1 is there
    inverse = torch.linalg.inv(r1.detach() + eps * torch.eye(d, dtype=torch.float64))
    dossier = 2 / 30 * (alpha * (views[0] - views[1]) - (views[0] - views[0].mean(0)) @ inverse)
    assert relative(dossier, expected) <= 1e-10


def test_corinfomax_with_memory_weighs_the_new_batch_by_its_share():
    """-log det(rho R_old + (1 - rho) R_batch): its gradient is 1 - rho times the push with F held fixed."""
    rho, d = 0.8, 5
    objective = spectral(2.0, rho, "inverse", d=d, statistics="online", eps=1e-3)
    first, u = unit(2, 9, d, seed=4), leaves(unit(2, 9, d, seed=5))
    objective.prepare(first, first)
    objective.prepare(u, u)
    f = rho * correlation_of(first) + (1 - rho) * correlation_of(u)
    through = gradient(primitive(f, "inverse", 1e-3), u)[0]
    assert relative((1 - rho) * objective.gradient_terms(u, u).push, through) <= 1e-10


def test_isotropic_f_does_not_push():
    d = 12
    objective = spectral(100.0, d=d)
    objective.prepare([torch.eye(d, dtype=torch.float64)] * 2, [torch.eye(d, dtype=torch.float64)] * 2)
    u = unit(2, 20, d)
    push = objective.gradient_terms(u, u).push
    assert tangent(push, u[0]).abs().max() <= 1e-15 < 1e-3 < push.abs().max()


def test_contrastive_tends_to_mean_and_covariance():
    """The softmax-weighted negatives are mean + Cov u / tau, up to 1 / tau^2: four times less per doubling of tau."""
    u, keys = unit(1, 64, 16)[0], unit(1, 200, 16, seed=1)[0]
    covariance = torch.cov(keys.T, correction=0)
    errors = []
    for tau in (1.0, 2.0, 4.0, 8.0, 16.0):
        negatives = (u @ keys.T / tau).softmax(1) @ keys
        errors.append(torch.linalg.norm(negatives - keys.mean(0) - u @ covariance / tau))
    assert all(3.5 <= a / b <= 4.5 for a, b in pairwise(errors))


def test_balance_is_counted_in_dimensions():
    """Of isotropic features in d dimensions the push on a unit vector is balance / d, whatever the width."""
    for d in (8, 64):
        eye = torch.eye(d, dtype=torch.float64)
        objective = spectral(0.05 * d, d=d)
        objective.prepare([eye, eye], [eye, eye])
        assert objective([eye, eye], [0 * eye, 0 * eye]).item() == pytest.approx(0.05 / 2, rel=1e-12)


# ------------------------------------------------------------------------------------------------- phi


def test_phi_against_scipy():
    f = correlation_of(unit(2, 20, 7)).numpy()
    shifted = f + 0.01 * np.eye(7)
    oracle = {
        "identity": f,
        "inverse": -np.linalg.inv(shifted),
        "inverse-sqrt": -fractional_matrix_power(shifted, -0.5),
        "log": logm(shifted) + np.eye(7),
    }
    for phi, expected in oracle.items():
        found = spectral_function(torch.from_numpy(f), phi, 0.01).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("phi", PHIS[1:])
def test_negative_eigenvalues_of_rounding_count_as_zero(phi):
    """With -0.9 eps (Cholesky works, the inverse is ten times too large) and -3 eps (it does not)."""
    eps = 1e-3
    q = torch.linalg.qr(unit(1, 4, 4)[0]).Q
    at_zero = {"inverse": -1 / eps, "inverse-sqrt": -1 / math.sqrt(eps), "log": math.log(eps) + 1}[phi]
    for low in (0.0, -0.9 * eps, -3 * eps):
        f = (q * torch.tensor([low, 0.2, 0.3, 0.5], dtype=torch.float64)) @ q.T
        assert (q[:, 0] @ spectral_function(f, phi, eps) @ q[:, 0]).item() == pytest.approx(at_zero, rel=1e-6)


@pytest.mark.parametrize("phi", PHIS)
def test_collapse_and_zero_vectors_are_finite(phi):
    """F of rank one, and F = 0; in float32, with CorInfoMax's eps."""
    for u in (torch.ones(16, 8) / math.sqrt(8), torch.zeros(16, 8)):
        for centred in (False, True):
            objective = Spectral(1.0, 0.0, phi, width=8, eps=1e-8, centred=centred)
            objective.prepare([u, u], [u, u])
            assert objective([u, u], [u, u]).isfinite()
            assert objective.gradient_terms([u, u], [u, u]).total.isfinite().all()


@pytest.mark.parametrize("phi", PHIS)
def test_nan_in_nan_out(phi):
    u = unit(2, 6, 4)
    u[0, 0, 0] = float("nan")
    objective = spectral(phi=phi, d=4)
    objective.prepare(u, u)
    assert objective(u, u).isnan()


# ------------------------------------------------------------------------------------------------- bad input


def test_create():
    objective = create("spectral", {"balance": 7.0, "rho": 0.5, "phi": "log", "group": 3, "statistics": "online"}, 12)
    assert (
        isinstance(objective, Spectral) and objective.balance == 7.0 and objective.correlation.matrix.shape == (12, 12)
    )


def seen(**cells):
    objective = spectral(d=4, **cells)
    objective.prepare(unit(2, 5, 4), unit(2, 5, 4))
    return objective


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: spectral(d=4)(unit(2, 5, 4), unit(2, 5, 4)), "prepare"),
        (lambda: spectral(d=4).gradient_terms(unit(2, 5, 4), unit(2, 5, 4)), "prepare"),
        (lambda: spectral(d=4).prepare(unit(2, 5, 3), unit(2, 5, 3)), "d = 4"),
        (lambda: seen()(unit(2, 5, 3), unit(2, 5, 3)), "width 4"),
        (lambda: seen()(unit(2, 5, 4), unit(2, 6, 4)), r"target\[0\]"),
        (lambda: seen().gradient_terms(unit(2, 5, 4), unit(2, 5, 4), 2), "view"),
        (lambda: spectral(-1.0, d=4), "balance"),
        (lambda: spectral(float("nan"), d=4), "balance"),
        (lambda: spectral(rho=1.5, d=4), "rho"),
        (lambda: spectral(phi="cube", d=4), "phi"),
        (lambda: spectral(statistics="both", d=4), "statistics"),
        (lambda: spectral(eps=-1.0, d=4), "eps"),
        (lambda: spectral(phi="log", eps=0.0, d=4), "eps must be above 0"),
        (lambda: spectral(d=0), "width"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()


def test_tangent_lemma_at_work():
    """What `inverse` lacks of the paper's gradient lies along u and dies in the normaliser."""
    z = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g = unit(1, 9, 5)[0]
    along = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None] * normalize(z.detach(), dim=1)
    with_part, without = (torch.autograd.grad((normalize(z, dim=1) * h).sum(), z)[0] for h in (g + along, g))
    assert (with_part - without).abs().max() <= 1e-12
