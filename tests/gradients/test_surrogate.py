"""A step from the closed form of the gradient is the step from the loss."""

import pytest
import torch
from gradient_cases import CASES, Case, Net, error, unit

from siamscope.gradients import Composed, surrogate
from siamscope.objectives import Group, ObjectiveError, create

BY_NAME = {case.name: case for case in CASES}
WIDTH = 5


def images(views: int = 2, n: int = 16, seed: int = 5) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, n, 7, generator=g).double() + 0.5 * torch.randn(views, n, 7, generator=g).double()


def embeddings(case: Case, target: str, predictor: bool, views: int, targets: int):
    """A network, its online embeddings and its targets."""
    net = Net(case, WIDTH, predictor)
    x = images(views)
    both = [net.embed(view) for view in x]
    online = [u for u, _ in both]
    if target == "momentum":
        t = [z.detach() for _, z in (Net(case, WIDTH, predictor, seed=1).embed(view) for view in x[:targets])]
    else:
        t = [z if target == "shared" else z.detach() for _, z in both[:targets]]
    return net, online, t


def prepared(case: Case, online, target):
    """The objective in the middle of a run: statistics of an older batch, and of this one."""
    objective = case.make(WIDTH)
    old = [unit(16, WIDTH, seed=40 + i) for i in range(2)]
    for batch in ((old, old), (online, target)):
        objective.prepare([u.detach() for u in batch[0]], [t.detach() for t in batch[1]])
        if batch[0] is old:
            objective.commit(*batch)
    return objective


def gradients(scalar, *modules):
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(scalar, parameters, allow_unused=True, retain_graph=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found)])  # noqa: B905


@pytest.mark.parametrize("views", [(2, 2), (3, 2)], ids=["two views", "multi-crop"])
@pytest.mark.parametrize("predictor", [False, True], ids=["no predictor", "predictor"])
@pytest.mark.parametrize("target", ["shared", "detached", "momentum"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parameter_gradients_are_those_of_the_loss(case, target, predictor, views):
    if target == "shared" and not case.shared:
        pytest.skip("assignments are targets without gradient")
    net, online, t = embeddings(case, target, predictor, *views)
    objective = prepared(case, online, t)
    loss = objective(online, t)
    form = surrogate(objective, online, t, shared=target == "shared")
    assert form.item() == loss.item()
    expected = gradients(loss, net, objective)
    assert torch.linalg.norm(expected) > 1e-6
    assert error(gradients(form, net, objective), expected) <= 1e-10


def test_a_shared_target_is_not_a_detached_one():
    """Negative control: leaving out the target's role changes the gradient."""
    for predictor in (False, True):
        net, online, t = embeddings(BY_NAME["simclr"], "shared", predictor, 2, 2)
        objective = prepared(BY_NAME["simclr"], online, t)
        wrong = gradients(surrogate(objective, online, t), net)
        assert error(wrong, gradients(objective(online, t), net)) > 0.1


def fake_group(rank: int, size: int, whole: list[torch.Tensor]) -> Group:
    """A group whose other members hold the other rows of the `whole` embeddings."""

    def gather(local: torch.Tensor) -> torch.Tensor:
        n = len(local)
        return next(z for z in whole if torch.allclose(z[rank * n : rank * n + n], local, rtol=1e-12, atol=1e-14))

    return Group(rank, size, gather)


RANKED = ["cosine", "simclr", "mocov2", "unigrad", "tico", "dino", "barlow-trace"]


@pytest.mark.parametrize("name", RANKED)
def test_ranks_average_to_the_whole_batch(name):
    """The mean over ranks of values and of parameter gradients is that of one process with the whole batch."""
    case = BY_NAME[name]
    net = Net(case, WIDTH, predictor=False).eval()  # batch norm's statistics fixed: rows do not touch each other
    x = images(2, 12)
    whole = [net.embed(view)[0] for view in x]
    target = [net.embed(view + 0.1)[0].detach() for view in x]
    objective = prepared(case, whole, target)
    expected = gradients(surrogate(objective, whole, target), net, objective)
    value = objective(whole, target)
    parts, values = [], []
    for rank in range(3):
        rows = slice(4 * rank, 4 * rank + 4)
        group = fake_group(rank, 3, [z.detach() for z in (*whole, *target)])
        mine = case.make(WIDTH, group)
        mine.load_state_dict(objective.state_dict())
        online = [net.embed(view[rows])[0] for view in x]
        form = surrogate(mine, online, [t[rows] for t in target], group=group)
        parts.append(gradients(form, net, mine))
        values.append(form.detach())
    assert error(torch.stack(parts).mean(0), expected) <= 1e-10
    assert error(torch.stack(values).mean(), value) <= 1e-10


def test_half_precision_embeddings_give_a_float32_value():
    u = [z.bfloat16().requires_grad_() for z in unit(2, 16, 8)]
    form = surrogate(create("contrastive", {"temperature": 0.2}, 8), u, [z.detach() for z in u])
    form.backward()
    assert form.dtype == torch.float32 and u[0].grad.dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------------------ composed


def pair(seed: int = 0):
    return list(unit(2, 12, 6, seed=seed)), list(unit(2, 12, 6, seed=seed + 9))


@pytest.mark.parametrize("name", ["simclr", "unigrad", "barlow-trace", "dino"])
def test_a_method_composed_with_itself_is_itself(name):
    online, target = pair()
    objective = BY_NAME[name].make(6)
    objective.prepare(online, target)
    composed = Composed(objective, objective, 1.0)
    for view in (0, 1):
        assert torch.equal(
            composed.gradient_terms(online, target, view).total, objective.gradient_terms(online, target, view).total
        )


def test_composed_takes_one_term_of_each():
    online, target = pair(3)
    pull, push = BY_NAME["cosine"].make(6), BY_NAME["unigrad"].make(6)
    composed = Composed(pull, push, 0.5)
    composed.prepare(online, target)  # delegated: the spectral part now has its correlation
    terms = composed.gradient_terms(online, target)
    correlation = sum(t.T @ t for t in target) / 24
    n = len(online[0])
    expected = (-target[1] + 0.5 * 5.0 * online[0] @ correlation) / (2 * n)
    assert error(terms.total, expected) <= 1e-12


def test_composed_delegates():
    """Statistics, bank and own weights of both parts; a part that serves twice is told once."""
    calls = []

    class Spy(type(create("asymmetric", {}, 6))):
        def __init__(self, name):
            super().__init__()
            self.label = name

        def prepare(self, online, target):
            calls.append(("prepare", self.label))

        def commit(self, online, target):
            calls.append(("commit", self.label))

        def update_target(self, momentum):
            calls.append(("update", self.label))

        def parameter_gradients(self, online, target):
            return [(torch.zeros(()), torch.zeros(()))]

    a, b = Spy("a"), Spy("b")
    both = Composed(a, b)
    online, target = pair()
    both.prepare(online, target)
    both.commit(online, target)
    both.update_target(0.9)
    assert calls == [(what, who) for what in ("prepare", "commit", "update") for who in "ab"]
    assert len(both.parameter_gradients(online, target)) == 2
    calls.clear()
    Composed(a, a).prepare(online, target)
    assert calls == [("prepare", "a")]


def test_composed_trains_without_a_loss():
    """Forward refuses; the surrogate reports the sum of <gradient, u>, and its gradient is the composed one."""
    online, target = pair(5)
    composed = Composed(BY_NAME["cosine"].make(6), BY_NAME["simclr"].make(6), 0.7)
    with pytest.raises(ObjectiveError, match="no loss"):
        composed(online, target)
    u = [z.clone().requires_grad_() for z in online]
    form = surrogate(composed, u, target)
    form.backward()
    totals = [composed.gradient_terms(online, target, view).total for view in (0, 1)]
    assert error(form.detach(), sum((g * z).sum() for g, z in zip(totals, online, strict=True))) <= 1e-12
    for z, g in zip(u, totals, strict=True):
        assert error(z.grad, g) <= 1e-12
    alone = Composed(BY_NAME["cosine"].make(6), BY_NAME["cosine"].make(6))
    cosine = BY_NAME["cosine"].make(6)
    assert surrogate(alone, online, target).item() == pytest.approx(cosine(online, target).item(), rel=1e-12)


@pytest.mark.parametrize("balance", [-1.0, float("nan"), float("inf")])
def test_bad_balance(balance):
    part = BY_NAME["cosine"].make(6)
    with pytest.raises(ObjectiveError, match="balance"):
        Composed(part, part, balance)
