"""CutMix and multi-crop in the network: targets are mixed by the pixels' shares, local crops only follow."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from siamscope import methods, recipe
from siamscope.recipe import RecipeError
from siamscope.row import Head
from siamscope.training.siamese import Siamese
from siamscope.views import Mix, apply_mix, partners

SMALL = {"prototypes": 10, "slices": 7}


def network(name: str = "unigrad", **cells) -> Siamese:
    torch.manual_seed(0)
    row = methods.get(name)
    cells = SMALL | {"projector": Head(layers=2, hidden=16, out=6), "predictor_head": Head(hidden=8)} | cells
    row = dataclasses.replace(row, bank=64 if row.bank else 0, **cells)
    return Siamese(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), 10, row).double().train()


def views(count: int = 2, n: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return list(torch.randn(count, n, 3, 4, 4, generator=generator, dtype=torch.float64))


BOX = Mix(4, top=1, bottom=3, left=0, right=3)


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_an_empty_box_is_no_box(name):
    """A step without a box is bit-equal to a step of a run without CutMix."""
    plain, empty = network(name), network(name)
    a, b = plain(views()), empty(views(), Mix(4))
    a.backward()
    b.backward()
    assert torch.equal(a, b)
    for p, q in zip(plain.parameters(), empty.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad)


def test_the_pull_is_to_the_mixed_targets():
    """UniGrad's positive gradient at the mixed view is weight * g(t) + (1 - weight) * g(t of the partner), to 1e-10."""
    model = network(balance=0.0, rho=0.0)
    model(views(), BOX).backward()
    expected = network(balance=0.0, rho=0.0)
    u = [normalize(expected.online(apply_mix(view, BOX)), dim=1) for view in views()]
    with torch.no_grad():
        t = [normalize(expected.target(view), dim=1) for view in views()]
        swap = partners(16)
        mixed = [BOX.weight * x + (1 - BOX.weight) * x[swap] for x in t]
    (-(u[0] * mixed[1]).sum(1).mean() / 2 - (u[1] * mixed[0]).sum(1).mean() / 2).backward()
    assert BOX.weight == 10 / 16
    for p, q in zip(model.online.parameters(), expected.online.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-13)
    wrong = network(balance=0.0, rho=0.0)
    wrong(views()).backward()
    assert not torch.allclose(next(wrong.online.parameters()).grad, next(model.online.parameters()).grad, rtol=1e-3)


@pytest.mark.parametrize("target", ["shared", "detached", "momentum"])
@pytest.mark.parametrize("name", ["simclr", "unigrad", "barlow", "swav", "directpred", "mmcr"])
def test_on_mixed_views_the_gradient_form_is_the_loss_form(name, target):
    if name == "swav" and target == "shared":
        pytest.skip("prototypes have no shared target")
    grads = []
    for form in ("loss", "gradient"):
        model = network(name, target=target, objective_form=form)
        model(views(), BOX).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.online.parameters()]))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["unigrad", "byol", "mocov3", "barlow", "dino", "swav", "directpred", "vicreg"])
def test_multi_crop_is_the_mean_over_pairs(name):
    """Loss of two global and two local views = mean over the six pairs (online i, target j != i) of a pair's loss.

    (SimCLR's and LeJEPA's pairs depend on further views: negatives of the own view, SIGReg of all.)
    """
    model = network(name)
    seen = {}

    def spy(online, target):
        seen["online"], seen["target"] = online, target
        return type(model.objective).forward(model.objective, online, target)

    model.objective.forward = spy
    loss = model(views(4))
    assert len(seen["online"]) == 4
    assert len(seen["target"]) == 2
    if name in (
        "simclr",
        "lejepa",
    ):  # a pair's loss depends on the other views: own-view negatives; SIGReg of all views
        return
    del model.objective.forward
    u, t = ([x.detach() for x in seen[key]] for key in ("online", "target"))
    pairs = [(i, j) for j in range(2) for i in range(4) if i != j]
    values = [_pair(model.objective, u[i], t[j]) for i, j in pairs]
    torch.testing.assert_close(loss.detach(), torch.stack(values).mean(), rtol=1e-10, atol=1e-12)


def _pair(objective, u, t):
    """The loss of one pair: target 0 belongs to online view 0, so online view 1 is scored against it alone."""
    return objective([t, u], [t])


@pytest.mark.parametrize("name", ["unigrad", "tico", "corinfomax", "dino", "directpred", "mocov2"])
def test_local_crops_never_enter_statistics(name):
    """The statistics after a step with local crops are those of a step without, bit for bit; those of others differ."""
    states = []
    for batch in (views(2), views(4), [*views(4)[2:], *views(4)[:2]]):
        model = network(name)
        model(batch).backward()
        model.commit()
        buffers = {**dict(model.objective.named_buffers()), **dict(model.predictor.named_buffers())}
        states.append({key: value.clone() for key, value in buffers.items() if value.is_floating_point()})
    assert states[0].keys() == states[1].keys() and states[0]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[1][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize(
    ("section", "changes", "word"),
    [
        ("views", {"cutmix": 0.5, "local_crops": 2}, "exclude each other"),
        ("views", {"cutmix": 1.5}, "views.cutmix"),
        ("views", {"local_crops": 2, "local_min": 0.5, "local_max": 0.1}, "views.local_min"),
    ],
)
def test_recipes_that_cannot_be(small, section, changes, word):
    with pytest.raises(RecipeError, match=word):
        recipe.validate(small("unigrad", **{section: changes}))


def test_cutmix_needs_an_even_part(small):
    with pytest.raises(RecipeError, match="even part"):
        recipe.validate(small("unigrad", views={"cutmix": 0.5}, train={"batch_size": 30, "accumulate": 2}))
