"""Predictors: what their gradients are, and those that are trained."""

import copy

import pytest
import torch
from predictor_cases import SET, relative, second_moment, set_by, shapes, views
from torch.nn import functional as F

from siamscope import networks
from siamscope.networks.errors import NetworkError
from siamscope.networks.heads_spec import LayerSpec
from siamscope.networks.predictors import KINDS, LinearPredictor, SymmetricPredictor, create_predictor


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def gradient(predictor, z, t, loss):
    z = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(predictor(z), t), z)
    return grad


def cosine_loss(p, t):
    return -(F.normalize(p, dim=1) * F.normalize(t, dim=1)).sum(1).mean()


def euclidean_loss(p, t):
    return (p - t).square().sum(1).mean()


@pytest.mark.parametrize("kind", ["linear", "symmetric", *SET])
def test_gradient_of_any_linear_predictor(kind):
    """d/du of -cos(W u, t) is (-W^T t + lambda W^T W u) / (|W u| N), lambda = (u W^T t) / (u W^T W u), for unit t."""
    for n, d in shapes(50, 5):
        u, t = (F.normalize(x, dim=1) for x in views(n, d))
        predictor = create_predictor(kind, d).double()
        predictor.prepare([u, t], [u, t])
        w = predictor.matrix.detach()
        p = u @ w.T
        balance = (p * t).sum(1, keepdim=True) / p.square().sum(1, keepdim=True)
        expected = (-t @ w + balance * p @ w) / (p.norm(dim=1, keepdim=True) * n)
        found = gradient(predictor, u, t, cosine_loss)
        assert relative(found, expected) < 1e-10
        if kind == "linear":  # W is far from symmetric
            assert relative(found, (-t @ w.T + balance * p @ w.T) / (p.norm(dim=1, keepdim=True) * n)) > 0.01


def test_directpreds_negative_holds_the_mixed_term():
    """W^T W = G + 2 eps G^(1/2) + eps^2 I with G = F / s_max; what leaves the mixed term out errs visibly."""
    for eps in (0.05, 0.1, 0.3, 0.5):
        z = [F.normalize(x, dim=1) for x in views(400, 16)]
        w = set_by(z, eps=eps, rule="code").matrix
        s, u = torch.linalg.eigh(second_moment(z))
        s = s / s[-1]
        root, eye = (u * s.sqrt()) @ u.T, torch.eye(16, dtype=torch.float64)
        exact = (u * s) @ u.T + 2 * eps * root + eps**2 * eye
        assert relative(w.T @ w, exact) < 1e-12

        def tangent(q, z=z[0]):
            g = z @ q
            return g - (g * z).sum(1, keepdim=True) * z

        without = tangent(exact - 2 * eps * root)
        assert 0.02 < relative(without, tangent(exact)) < 0.5
        assert F.cosine_similarity(without.flatten(), tangent(exact).flatten(), dim=0) > 0.97


def isoloss_euclidean(z, p, t):
    """|z - stop(t + z - p)|^2, the Euclidean IsoLoss."""
    return (z - (t + z - p).detach()).square().sum(1).mean()


def isoloss_cosine(z, p, half, t):
    """The cosine IsoLoss: -cos(p, t) with p's gradient written out; half = W^(1/2) z, whose square is z^T W z."""
    length, size = p.norm(dim=1).detach(), t.norm(dim=1)
    inner = (p * t).sum(1).detach()
    return -((z * t).sum(1) / (length * size) - 0.5 * inner / (length**3 * size) * half.square().sum(1)).mean()


def test_straight_through_is_isoloss():
    for n, d in shapes(50, 6):
        z, t = views(n, d)
        predictor, usual = set_by([z, t], straight_through=True), set_by([z, t])
        w = predictor.matrix
        s, u = torch.linalg.eigh(w)
        half = (u * s.clamp(min=0).sqrt()) @ u.T
        x = z.clone().requires_grad_()
        (cosine,) = torch.autograd.grad(isoloss_cosine(x, x @ w.T, x @ half, t), x)
        (euclidean,) = torch.autograd.grad(isoloss_euclidean(x, x @ w.T, t), x)
        for loss, expected in ((cosine_loss, cosine), (euclidean_loss, euclidean)):
            found, ordinary = gradient(predictor, z, t, loss), gradient(usual, z, t, loss)
            assert relative(found, expected) < 1e-10
            assert relative(ordinary, found @ w) < 1e-10  # the factor W^T that IsoLoss leaves out
            assert relative(ordinary, expected) > 0.01
        assert torch.equal(predictor(z), usual(z))  # the prediction itself is the same


@pytest.mark.parametrize("kind", KINDS[1:])
def test_straight_through_trains_the_predictor_as_usual(kind):
    z, t = views(20, 6)
    head = [LayerSpec(9, True, "batch", "relu"), LayerSpec(9, True, "none", "none")]
    predictor = create_predictor(kind, 6, hidden_layers=head, options={"straight_through": True, "every": 2}).double()
    usual = copy.deepcopy(predictor)
    usual.straight_through = False
    for one in (predictor, usual):
        one.prepare([z, t], [z, t])
        cosine_loss(one(z), t).backward()
    pairs = list(zip(predictor.parameters(), usual.parameters(), strict=True))
    assert pairs and all(torch.equal(a.grad, b.grad) for a, b in pairs)
    p = predictor(z).detach().requires_grad_()
    assert relative(gradient(predictor, z, t, cosine_loss), torch.autograd.grad(cosine_loss(p, t), p)[0]) < 1e-12


def test_linear_is_a_linear_layer():
    torch.manual_seed(3)
    predictor = LinearPredictor(7)
    torch.manual_seed(3)
    layer = torch.nn.Linear(7, 7, bias=False)
    z = torch.randn(5, 7)
    assert torch.equal(predictor(z), layer(z))
    assert list(predictor.state_dict()) == list(layer.state_dict())
    assert torch.equal(predictor(z), F.linear(z, predictor.matrix))


def make_optimizer(name, params):
    return {
        "sgd": lambda: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2),
        "adamw": lambda: torch.optim.AdamW(params, lr=1e-2, weight_decay=1e-2),
    }[name]()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_symmetric_stays_symmetric_to_the_last_bit(name):
    losses = {}
    for kind in (SymmetricPredictor, LinearPredictor):
        predictor = kind(9)
        optimizer = make_optimizer(name, predictor.parameters())
        for _ in range(30):
            z, t = views(16, 9, dtype=torch.float32)
            loss = cosine_loss(predictor(z), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[kind] = (predictor.weight - predictor.weight.T).abs().max().item()
    assert losses[SymmetricPredictor] == 0
    assert losses[LinearPredictor] > 1e-3


def test_symmetric_takes_the_projected_gradient_step():
    """One SGD step is the linear predictor's step followed by (W + W^T) / 2."""
    predictor = SymmetricPredictor(6).double()
    plain = LinearPredictor(6).double()
    plain.weight.data.copy_(predictor.matrix.detach())
    z, t = views(20, 6)
    for one in (predictor, plain):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.3)
        cosine_loss(one(z), t).backward()
        optimizer.step()
    w = plain.matrix.detach()
    assert relative(predictor.matrix.detach(), (w + w.T) / 2) < 1e-14


def test_symmetric_starts_positive_at_a_linear_layers_size():
    for d in (32, 128):
        w = SymmetricPredictor(d).matrix.detach()
        assert torch.linalg.eigvalsh(w)[0] > -1e-6
        assert w.norm() == pytest.approx(float(LinearPredictor(d).matrix.detach().norm()), rel=0.15)
        random = LinearPredictor(d).matrix.detach()
        assert torch.linalg.eigvalsh((random + random.T) / 2)[0] < -0.1


def test_mlp_is_the_head():
    head = [LayerSpec(9, False, "batch", "relu"), LayerSpec(100, True, "none", "relu")]
    torch.manual_seed(4)
    predictor = create_predictor("mlp", 6, hidden_layers=head)
    torch.manual_seed(4)
    expected = networks.mlp(6, [head[0], LayerSpec(6, True, "none", "none")])
    z = torch.randn(5, 6)
    assert torch.equal(predictor(z), expected(z))
    assert list(predictor.state_dict()) == list(expected.state_dict())
    with pytest.raises(NetworkError, match="hidden_layers"):
        create_predictor("mlp", 6)


def test_none_passes_everything():
    z = torch.randn(3, 4)
    assert create_predictor("none", 4)(z) is z
    with pytest.raises(NetworkError, match="straight_through"):
        create_predictor("none", 4, options={"straight_through": True})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_prepares_and_predicts(kind):
    layers = [LayerSpec(9, True, "none", "relu"), LayerSpec(4, True, "none", "none")]
    predictor = create_predictor(kind, 4, hidden_layers=layers, options={"rho": 0.5})
    z = torch.randn(6, 4, requires_grad=True)
    predictor.prepare([z, z], [z, z])
    p = predictor(z)
    assert p.shape == z.shape and p.requires_grad
    assert not any(b.requires_grad for b in predictor.buffers())
