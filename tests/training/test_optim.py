"""Optimisers against their formulas, schedules at their end points, the momentum target."""

import math

import pytest
import torch
from torch import nn

from siamscope.sections import OptimConfig
from siamscope.training.optim import LARS, build, rate_factor, set_rates
from siamscope.training.target import momentum_at, update_target


def test_lars_is_its_formula():
    """Two steps by hand: g' = g + wd w; v = m v + (trust |w| / |g'|) g'; w -= lr v."""
    torch.manual_seed(0)
    w = torch.randn(5, 3, dtype=torch.float64)
    grads = [torch.randn(5, 3, dtype=torch.float64) for _ in range(2)]
    parameter = nn.Parameter(w.clone())
    optimizer = LARS([parameter], lr=0.3, momentum=0.9, weight_decay=0.01, trust=0.02)
    velocity = torch.zeros_like(w)
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
        full = grad + 0.01 * w
        velocity = 0.9 * velocity + 0.02 * w.norm() / full.norm() * full
        w = w - 0.3 * velocity
    torch.testing.assert_close(parameter.data, w, rtol=1e-12, atol=0)
    plain = nn.Parameter(w.clone())
    plain.grad = grads[0].clone()
    LARS([{"params": [plain], "adapt": False}], lr=0.3).step()
    torch.testing.assert_close(plain.data, w - 0.3 * grads[0], rtol=1e-12, atol=0)


def test_lars_of_a_group_at_once_is_one_weight_after_another():
    """As on a GPU, where a weight or a gradient of zeros takes the plain step."""
    torch.manual_seed(0)
    shapes = [(4, 3), (7,), (2, 2, 3, 3), (5, 1), (3, 2)]
    start = [torch.randn(s, dtype=torch.float64) for s in shapes[:-2]] + [torch.zeros(5, 1), torch.randn(3, 2)]
    grads = [torch.randn(s, dtype=torch.float64) for s in shapes[:-2]] + [torch.randn(5, 1), torch.zeros(3, 2)]
    both = []
    for at_once in (True, False):
        weights = [nn.Parameter(w.clone()) for w in start]
        optimizer = LARS(weights, lr=0.3, momentum=0.9, trust=0.02)
        for _ in range(2):
            for w, g in zip(weights, grads, strict=True):
                w.grad = g.clone()
            if at_once:
                with torch.no_grad():
                    optimizer._update(weights, optimizer.param_groups[0])
            else:
                optimizer.step()
        both.append(weights)
    for together, alone, before in zip(*both, start, strict=True):
        assert torch.equal(together, alone)
        assert torch.isfinite(together).all()
        assert torch.equal(together, before) == (before.shape == (3, 2)), "only a gradient of zeros leaves its weight"


def test_rates_at_the_end_points():
    assert rate_factor(1, 100, 10, 0.0) == pytest.approx(0.1)
    assert rate_factor(10, 100, 10, 0.0) == 1.0
    assert rate_factor(100, 100, 10, 0.0) == pytest.approx(0.0, abs=1e-15)
    assert rate_factor(100, 100, 0, 0.25) == pytest.approx(0.25)
    assert rate_factor(1, 100, 0, 0.0) == 1.0
    assert rate_factor(41, 101, 0, 0.0) == pytest.approx(0.5 * (1 + math.cos(0.4 * math.pi)))  # 0.6545, collapse.md 14
    assert rate_factor(1, 1, 0, 0.0) == 1.0


def test_groups_and_the_constant_predictor_rate():
    encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    predictor = nn.Linear(4, 4)
    config = OptimConfig(lr=0.1, weight_decay=0.5, exclude_norm_and_bias=True, constant_predictor_lr=True)
    optimizer = build(config, encoder, predictor, nn.Identity(), batch_size=512)
    set_rates(optimizer, 0.5)
    seen = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert seen[id(encoder[0].weight)] == (0.1, 0.5)  # peak 0.1 * 512 / 256, halved by the schedule
    assert seen[id(encoder[0].bias)] == (0.1, 0.0)
    assert seen[id(encoder[1].weight)] == (0.1, 0.0)
    assert seen[id(predictor.weight)] == (0.2, 0.5)
    assert len(seen) == 6


def test_momentum_schedule():
    assert momentum_at(1, 50, 0.996, 1.0) == 0.996
    assert momentum_at(50, 50, 0.996, 1.0) == 1.0
    middle = momentum_at(26, 51, 0.9, 1.0)
    assert middle == pytest.approx(0.95)
    assert momentum_at(7, 50, 0.99, 0.99) == pytest.approx(0.99, abs=1e-15)
    assert momentum_at(1, 1, 0.996, 1.0) == 0.996


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
def test_update_of_the_target(momentum):
    torch.manual_seed(1)
    online, target = (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(2))
    for net in (online, target):
        net(torch.randn(8, 3) * torch.rand(()) * 5)
    before = [p.clone() for p in target.parameters()]
    update_target(target, online, momentum)
    for p, old, new in zip(target.parameters(), before, online.parameters(), strict=True):
        torch.testing.assert_close(p, momentum * old + (1 - momentum) * new)
        if momentum == 0:
            assert torch.equal(p, new)
        if momentum == 1:
            assert torch.equal(p, old)
    assert torch.equal(target[1].running_var, online[1].running_var)


def test_buffers_can_be_averaged():
    online, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    online.running_mean.fill_(1.0)
    online.num_batches_tracked.fill_(7)
    update_target(target, online, 0.75, "average")
    assert target.running_mean.tolist() == [0.25, 0.25]
    assert target.num_batches_tracked.item() == 7
