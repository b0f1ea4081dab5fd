"""The cells of a row, as a network: where the gradient goes and where it does not."""

import dataclasses
import types

import pytest
import torch
from torch import nn

from siamscope import methods
from siamscope.methods import Head, MethodError
from siamscope.row import not_read, reads_of_objective
from siamscope.training.siamese import Siamese
from siamscope.training.target import update_target

SMALL = {"bank": 64, "prototypes": 10, "slices": 7}


def network(name: str = "simsiam", **cells) -> Siamese:
    torch.manual_seed(0)
    cells = {"projector": Head(layers=2, hidden=16, out=8), "predictor_head": Head(hidden=4)} | cells
    row = methods.get(name)
    if not row.bank:
        cells.pop("bank", None)
    row = dataclasses.replace(row, **cells)
    return Siamese(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), 10, row).double()


def test_heads_are_the_papers():
    """SimSiam's last batch norm is bare; BYOL's last layers have no bias; SimCLR ends in a batch norm."""
    kinds = {
        name: [type(m).__name__ for m in Siamese(nn.Flatten(), 8, methods.get(name)).online.projector]
        for name in methods.METHODS
    }
    block = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds["simsiam"] == [*block, *block, "Linear", "BatchNorm1d"]
    assert kinds["byol"] == [*block, "Linear"]
    assert kinds["simclr"] == [*block, "Linear", "BatchNorm1d"]
    simsiam, byol = (Siamese(nn.Flatten(), 512, methods.get(name)) for name in ("simsiam", "byol"))
    assert not simsiam.online.projector[-1].affine
    assert simsiam.online.projector[1].affine
    expected = 512 * 2048 + 2 * 2048**2 + 2 * 2 * 2048
    assert sum(p.numel() for p in simsiam.online.projector.parameters()) == expected
    first, *_, last = simsiam.predictor.children()
    assert first.bias is None
    assert last.bias.shape == (2048,)
    assert byol.online.projector[-1].bias is None
    assert [*byol.predictor.children()][-1].bias is None


def views(seed: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(2, 16, 3, 2, 2, generator=generator, dtype=torch.float64))


def gradient(model: Siamese) -> torch.Tensor:
    model.zero_grad()
    model(views()).backward()
    return torch.cat([p.grad.flatten() for p in model.online.parameters()])


def test_stop_gradient():
    """Detached and shared targets give the same loss and different gradients; by hand, the target is a constant."""
    detached, shared = network(target="detached"), network(target="shared")
    assert torch.equal(detached(views()), shared(views()))
    assert not torch.allclose(gradient(detached), gradient(shared))
    z = [detached.online(v) for v in views()]
    p = [detached.normalise(detached.predictor(x)) for x in z]
    t = [detached.normalise(x).detach() for x in z]
    by_hand = -((p[0] * t[1]).sum(1).mean() + (p[1] * t[0]).sum(1).mean()) / 2
    grads = torch.autograd.grad(by_hand, list(detached.online.parameters()))
    expected = torch.cat([g.flatten() for g in grads])
    torch.testing.assert_close(gradient(detached), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("target", "still"), [("detached", True), ("momentum", True), ("shared", False)])
def test_the_stopped_branch_has_a_gradient_of_exactly_zero(target, still):
    """Reference row 15: what only the target branch sees cannot be reached by the loss; with shared weights it can."""
    model = network(target=target)
    shift = torch.zeros(
        8, dtype=torch.float64, requires_grad=True
    )  # added to the embeddings of the target branch alone
    targets = model.targets
    z = [model.online(view) for view in views()]
    reached = targets(views(), [x + shift for x in z])
    online = [model.normalise(model.predictor(x)) for x in z]
    loss = model.objective(online, [model.normalise(t) for t in reached])
    (gradient,) = torch.autograd.grad(loss, shift, allow_unused=True)
    assert (gradient is None or not gradient.any()) == still
    assert all(t.requires_grad != still for t in reached)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_simsiam_loss_lies_between_minus_one_and_one(scale):
    """Reference row 15: a mean of cosines, whatever the embeddings; its ends are reached."""
    model = network()
    for seed in range(20):
        z = [scale * torch.randn(16, 8, generator=torch.Generator().manual_seed(seed + k)).double() for k in (0, 100)]
        u = [model.normalise(x) for x in z]
        for online, target, end in ((u, u[::-1], None), (u, u, -1.0), (u, [-x for x in u], 1.0)):
            loss = float(model.objective(online, target if end is None else target[::-1]))
            assert -1 - 1e-12 <= loss <= 1 + 1e-12
            assert end is None or loss == pytest.approx(end, abs=1e-12)


def test_momentum_zero_is_the_detached_target_bit_for_bit():
    momentum, detached = network(target="momentum"), network(target="detached")
    for _ in range(3):
        update_target(momentum.target, momentum.online, 0.0)
        expected = detached.targets(views(), [detached.online(v) for v in views()])
        for a, b in zip(momentum.targets(views(), None), expected, strict=True):
            assert torch.equal(a, b)
        with torch.no_grad():
            for net in (momentum, detached):
                for p in net.online.parameters():
                    p.mul_(1.01)


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_the_target_network_gets_no_gradient(name):
    model = network(name, target="momentum", **SMALL)
    gradient(model)
    assert all(p.grad is None and not p.requires_grad for p in model.target.parameters())
    assert all(p.grad is not None for p in model.online.parameters())


# The combinations that have no meaning: (objective, cell, value).
REFUSED = {
    ("whitening", "normalise", "l2"), ("whitening", "normalise", "batch"), ("covariance", "normalise", "batch"),
    ("slices", "normalise", "l2"), ("prototypes", "target", "shared"), ("spectral (inverse)", "normalise", "none"),
    ("centroids", "normalise", "none"), ("cosine", "normalise", "none"),
}  # fmt: skip


def refused(row: methods.Method) -> bool:
    kinds = {row.objective, "cosine" if row.objective == "asymmetric" and row.distance == "cosine" else ""}
    kinds.add(f"spectral ({row.phi})" if row.objective == "spectral" else "")
    found = {(kind, cell, getattr(row, cell)) for kind in kinds for cell in ("normalise", "target")}
    return bool(found & REFUSED) or (row.predictor_options.straight_through and row.predictor == "none")


@pytest.mark.parametrize("normalise", ["l2", "batch", "none"])
@pytest.mark.parametrize("target", ["shared", "detached", "momentum"])
@pytest.mark.parametrize("name", list(methods.METHODS))
def test_any_cell_can_change(name, target, normalise):
    """With each predictor: a finite loss and gradient, or a refusal with the reason where the table says so."""
    kinds = ("none", "linear", "mlp", "symmetric", "symmetric-mlp", "directpred", "directset", "directcopy", "optimal")
    for predictor in kinds:
        cells = {"target": target, "normalise": normalise, "predictor": predictor}
        if refused(types.SimpleNamespace(**{**vars(methods.get(name)), **cells})):
            with pytest.raises(MethodError):
                network(name, **cells)
            continue
        model = network(name, predictor_head=Head(hidden=16), **cells, **SMALL)
        loss = model(views())
        loss.backward()
        model.commit()
        model.follow(0.5)
        assert torch.isfinite(loss), cells
        grads = [p.grad for p in model.online.parameters() if p.grad is not None]
        assert grads and all(torch.isfinite(g).all() for g in grads), cells


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_the_objective_never_sees_bf16(name):
    """Under autocast the embeddings are bf16; normalisation, softmax and loss are float32, matrix products too."""
    model = network(name, **SMALL).float()
    seen = []
    forward = model.objective.forward
    model.objective.forward = lambda p, t: seen.append((p[0].dtype, (p[0] @ t[0].T).dtype)) or forward(p, t)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.online(views()[0].float()).dtype == torch.bfloat16
        model([v.float() for v in views()])
    assert seen == [(torch.float32, torch.float32)]


def test_batch_normalised_embeddings_have_unit_variance():
    model = network(normalise="batch")
    z = model.normalise(torch.randn(64, 8, dtype=torch.float64) * 5 + 2)
    torch.testing.assert_close(z.var(0, unbiased=False) * 8, torch.ones(8, dtype=torch.float64), rtol=1e-4, atol=0)
    torch.testing.assert_close(z.mean(0), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("cells", "word"),
    [({"normalise": "none"}, "unbounded"), ({"temperature": 0.0}, "temperature"), ({"momentum": 1.5}, "momentum")],
)
def test_meaningless_cells_are_refused(cells, word):
    with pytest.raises(MethodError, match=word):
        dataclasses.replace(methods.get("simsiam"), **cells)


def test_unknown_method_names_the_nearest():
    with pytest.raises(MethodError, match="did you mean 'simsiam'"):
        methods.get("simsam")


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_composed_with_itself_is_itself(name):
    """Pull and push of the same row, with the row's numbers: the row's own gradient, prototypes included."""
    row = methods.get(name)
    target = "detached" if row.target == "shared" else row.target
    own = network(name, target=target, objective_form="gradient", **SMALL)
    balance = own.row.balance if "balance" in reads_of_objective(own.row) else 1.0
    composed = network(
        name, target=target, objective="composed", objective_form="gradient", positive=name, negative=name,
        balance=balance, **SMALL,
    ) if row.normalise != "none" else None  # fmt: skip
    if composed is None:
        with pytest.raises(MethodError, match="unbounded"):
            network(name, target=target, objective="composed", objective_form="gradient", positive=name, negative=name)
        return
    composed.load_state_dict(
        {k.replace("objective.", "objective.positive."): v for k, v in own.state_dict().items()}, strict=False
    )
    torch.testing.assert_close(gradient(composed), gradient(own), rtol=1e-10, atol=1e-13)


def test_composed_parts_have_the_rows_numbers():
    row = dataclasses.replace(
        methods.get("unigrad"), objective="composed", objective_form="gradient", positive="barlow", negative="simclr",
        temperature=0.05, balance=3.0,
    )  # fmt: skip
    positive, negative = methods.parts(row)
    assert (positive.objective, positive.balance, positive.normalise) == ("decorrelation", 3.0, "l2")
    assert (negative.objective, negative.temperature) == ("contrastive", 0.05)
    with pytest.raises(MethodError, match="bank"):
        methods.parts(dataclasses.replace(row, negative="mocov2"))
    with pytest.raises(MethodError, match="unknown method"):
        methods.parts(dataclasses.replace(row, negative="nothing"))
    with pytest.raises(MethodError, match="whitens"):
        methods.parts(dataclasses.replace(row, positive="wmse"))


@pytest.mark.parametrize(
    ("name", "cells", "unread"),
    [
        ("simsiam", ["temperature", "target"], ["temperature"]),
        ("byol", ["predictor_options.every", "momentum", "predictor_head.hidden"], ["predictor_options.every"]),
        ("simsiam", ["momentum"], ["momentum"]),
        ("directcopy", ["predictor_options.power", "predictor_options.rho"], ["predictor_options.power"]),
        ("unigrad", ["rho", "balance", "projector.out", "eps"], ["eps"]),
        ("swav", ["centre_momentum", "iterations"], ["centre_momentum"]),
        ("simsiam", ["target_init", "predictor_bias", "predictor_head.hidden"], ["target_init", "predictor_bias"]),
        ("byol", ["target_init"], []),
    ],
)
def test_cells_that_a_row_does_not_read(name, cells, unread):
    assert not_read(methods.get(name), cells) == unread


@pytest.mark.parametrize(("kind", "before"), [("variance", True), ("isotropic", False)])
def test_where_a_regulariser_looks(kind, before):
    """Variance: at what the last batch norm is given, since behind it every dimension has its spread again."""
    cells = {"regulariser": kind, "regulariser_weight": 0.7}
    model = network(projector=Head(layers=2, hidden=16, out=8, last_norm="batch-no-affine"), **cells)
    bare = network(projector=Head(layers=2, hidden=16, out=8, last_norm="batch-no-affine"))
    bare.load_state_dict(model.state_dict())
    features = [model.online.backbone(view) for view in views()]
    given = [(model.online.projector[:-1] if before else model.online.projector)(f) for f in features]
    expected = bare(views()) + 0.7 * model.regulariser(given)
    torch.testing.assert_close(model(views()), expected, rtol=1e-12, atol=0)
    other = [(model.online.projector if before else model.online.projector[:-1])(f) for f in features]
    assert abs(model.regulariser(other) - model.regulariser(given)) > 1e-3
    by_form = network(objective_form="gradient", projector=model.row.projector, **cells)
    by_form.load_state_dict(model.state_dict())
    torch.testing.assert_close(gradient(by_form), gradient(model), rtol=1e-10, atol=1e-13)
