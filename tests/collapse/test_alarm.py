"""The alarm: both kinds told apart, before the level is reached, without crying wolf; and on the reference's toy."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from siamscope.collapse import CollapseError, Vitals, measure
from siamscope.collapse.alarm import Alarm, Limits, Look, Watching, advance, directions, replay
from siamscope.collapse.health import SETTLING_STEPS

STEPS = range(50, 1050, 25)
LEVELS_ONLY = Limits(ahead=0)


def vitals(std: float = 0.95, rank: float = 20.0, d: int = 64, auc: float | None = None) -> Vitals:
    """Of a flat spectrum of that rank, 128 images, unless `auc` says otherwise."""
    return Vitals(std, rank, 1 - (rank - 1) / (2 * d) if auc is None else auc, 128, d)


def history(std: Callable[[int], float] = lambda s: 0.95, rank: Callable[[int], float] = lambda s: 20.0) -> list[Look]:
    """Looks at `STEPS`, embeddings as the two functions of the step say, healthy features."""
    return [Look(step, vitals(std(step), rank(step)), vitals()) for step in STEPS]


def first(looks: list[Look], state: str = "alarm", limits: Limits | None = None) -> Alarm | None:
    return next((alarm for alarm in replay(looks, limits) if alarm.state == state), None)


def decay(start: float, end: float, begin: int = 300, finish: int = 800) -> Callable[[int], float]:
    """`start` until `begin`, then exponentially to `end` at `finish`, and there."""
    return lambda step: start * (end / start) ** min(max((step - begin) / (finish - begin), 0.0), 1.0)


def test_a_cloud_that_shrinks_to_a_point() -> None:
    """Complete, and said before the level: .3 is reached at step 556, .5 at 443."""
    looks = history(std=decay(0.95, 0.1))
    alarm, late = first(looks), first(looks, limits=LEVELS_ONLY)
    assert alarm is not None and late is not None
    assert alarm.kind == late.kind == "complete"
    assert alarm.step < late.step < 556
    assert first(looks, "suspect").step < 443  # before any level
    assert "will be below 0.3 soon" in alarm.reasons[0]
    assert any("stop-gradient" in line for line in alarm.advice)


def test_directions_that_are_lost() -> None:
    """Dimensional, with a spread that stays perfect: rank 6 is passed at step 516, 3 at 641."""
    looks = history(rank=decay(20.0, 1.5))
    alarm, late = first(looks), first(looks, limits=LEVELS_ONLY)
    assert alarm is not None and late is not None
    assert alarm.kind == late.kind == "dimensional"
    assert alarm.step < 516 < late.step < 641  # by the trend before any level
    assert first(looks, "suspect").step < 516
    assert any("weight decay" in line for line in alarm.advice)


def test_the_backbone_alone_may_collapse() -> None:
    looks = [Look(s, vitals(), vitals(rank=decay(20.0, 1.5)(s))) for s in STEPS]
    alarm = first(looks)
    assert alarm is not None and alarm.kind == "dimensional"
    assert all("backbone" in reason for reason in alarm.reasons)


def test_spread_and_rank_each_miss_what_the_other_sees() -> None:
    """Negative controls: an alarm on the std alone is blind to rank 1, one on rank and AUC alone to a point.

    The second is BYOL without predictor as measured (std .16, rank 12; benchmarks/results/alarm.json).
    """
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.normal(size=(64, 64)))[0]
    line = measure(np.outer(generator.normal(size=128), turn[0]))
    assert line.embedding_std > 0.7 and line.effective_rank == pytest.approx(1, abs=1e-4)
    point = vitals(std=0.16, rank=12.0)
    for seen, kind in ((line, "dimensional"), (point, "complete")):
        alarm = first([Look(s, seen, vitals()) for s in STEPS])
        assert alarm is not None and alarm.kind == kind
    assert first([Look(s, vitals(std=line.embedding_std), vitals()) for s in STEPS]) is None
    assert first([Look(s, replace(point, embedding_std=0.95), vitals()) for s in STEPS]) is None


def test_directions_mean_the_same_in_every_dimension() -> None:
    """A flat spectrum of rank r gives r; a fixed limit on AUC, .95, calls a healthy run of 512 dimensions collapsed."""
    for d in (8, 64, 512, 2048):
        for rank in (1, 2, 8):
            assert directions(vitals(rank=rank, d=d)) == pytest.approx(rank, rel=1e-12)
    healthy = vitals(rank=48.0, d=512, auc=0.964)  # measured; see siamscope.collapse.health
    assert healthy.auc > 0.95
    assert first([Look(s, healthy, healthy) for s in STEPS], "suspect") is None


def test_noise_is_no_alarm() -> None:
    """A tenth on every figure, 20 runs of 40 looks; also at the poorest healthy rank that was measured, 7.2."""
    for level in (20.0, 9.0):
        for seed in range(20):
            noise = np.random.default_rng(seed).normal(0, 0.1, (len(STEPS), 3))
            looks = []
            for step, (a, b, c) in zip(STEPS, noise, strict=True):
                rank, shown = level * math.exp(a), level * math.exp(b)
                looks.append(Look(step, vitals(0.9 * math.exp(c), rank, auc=1 - (shown - 1) / 128), vitals()))
            assert {alarm.state for alarm in replay(looks)} == {"quiet"}, (level, seed)


def test_what_healthy_runs_do_at_first_is_no_alarm() -> None:
    """Ranks fall by half and settle: SimSiam on Fashion-MNIST as measured, quiet; a steeper one, suspect at most."""
    for ranks, worst in (
        ([34.3, 33.7, 33.0, 28.6, 33.6, 25.8, 31.6, 34.2, 32.6], "quiet"),
        ([52.4, 46.0, 45.4, 41.9, 41.2, 41.1], "quiet"),
        ([60.0, 40.0, 28.0, 22.0, 20.0, 19.0, 19.0, 19.0, 19.0], "suspect"),
    ):
        looks = [Look(50 + 25 * i, vitals(rank=rank), vitals()) for i, rank in enumerate(ranks)]
        states = [alarm.state for alarm in replay(looks)]
        assert max(states, key=("quiet", "suspect", "alarm").index) == worst
        assert states[-1] == "quiet"


def test_one_bad_look_is_none_two_are_an_alarm() -> None:
    for bad, kind in ((vitals(std=0.1), "complete"), (vitals(rank=1.2), "dimensional")):
        for count, expected in ((1, "quiet"), (2, "alarm")):
            looks = [Look(s, bad if 10 <= i < 10 + count else vitals(), vitals()) for i, s in enumerate(STEPS)]
            states = [alarm.state for alarm in replay(looks)]
            assert max(states[: 10 + count], key=("quiet", "suspect", "alarm").index) == expected
            assert (first(looks).kind if count == 2 else first(looks)) == (kind if count == 2 else None)


def test_a_slight_finding_that_lasts_is_an_alarm() -> None:
    """Rank 4.5 is between the limits 3 and 6: suspect at the second look, alarm at the fourth."""
    low = [Look(s, vitals(rank=4.5), vitals()) for s in STEPS][:4]
    assert [alarm.state for alarm in replay(low)] == ["quiet", "suspect", "suspect", "alarm"]
    gaps = [4.5, 20, 4.5, 20, 4.5, 20, 4.5, 20, 4.5]  # never twice in a row, and three of six
    assert {a.state for a in replay([Look(50 + i, vitals(rank=r), vitals()) for i, r in enumerate(gaps)])} == {"quiet"}


def test_it_takes_three_clean_looks_to_be_quiet_again() -> None:
    ranks = [1.2, 1.2, 20, 20, 1.2, 20, 20, 20, 20]
    looks = [Look(50 + 25 * i, vitals(rank=rank), vitals()) for i, rank in enumerate(ranks)]
    found = replay(looks, LEVELS_ONLY)
    assert [alarm.state for alarm in found] == ["quiet"] + ["alarm"] * 6 + ["quiet"] * 2
    assert found[2].reasons == ("nothing new at this look",)
    assert found[2].kind == "dimensional"
    assert str(found[-1]) == "step 250: no sign of collapse"


def test_what_has_not_settled_is_not_judged() -> None:
    """An untrained network in eval mode looks collapsed."""
    early = [Look(s, vitals(std=0.05, rank=1.1), vitals()) for s in range(SETTLING_STEPS)]
    assert {alarm.state for alarm in replay(early)} == {"quiet"}
    assert first([*early, *[Look(s, vitals(), vitals()) for s in STEPS]], "suspect") is None


def test_a_trend_needs_the_auc_to_agree() -> None:
    ranks = decay(20.0, 1.5)
    agree = history(rank=ranks)
    steady = [Look(s, vitals(rank=ranks(s), auc=vitals().auc), vitals()) for s in STEPS]
    assert first(agree, "suspect").step < first(steady, "suspect").step == first(steady, "suspect", LEVELS_ONLY).step


def test_a_trend_follows_no_single_look() -> None:
    """One look at a tenth of the others among falling ones moves a least-squares line, not this one."""
    for place in range(6):
        ranks = [20.0, 19.0, 20.5, 19.5, 20.0, 19.0]
        ranks[place] = 7.0
        looks = [Look(50 + 25 * i, vitals(rank=r), vitals()) for i, r in enumerate(ranks)]
        assert first(looks, "suspect") is None


def test_it_is_a_function_of_the_looks() -> None:
    looks = history(std=decay(0.95, 0.1), rank=decay(20.0, 1.5, 200, 900))
    whole = replay(looks)
    watching = Watching()
    for look, expected in zip(looks, whole, strict=True):
        watching = advance(watching, look)
        assert watching.alarm == expected
    assert replay(looks[:20]) == whole[:20]
    with pytest.raises(CollapseError, match="cannot follow"):
        advance(watching, looks[0])


def toy(stop_gradient: bool, steps: int = 1000, width: int = 32, n: int = 4096) -> tuple[Vitals, list[Alarm]]:
    """SimSiam on synthetic vectors (reference 6.1): embeddings of 2,048 fresh ones in eval mode, and the alarm."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, 33).float() ** -0.5
    data, fresh = (torch.randn(count, 32, generator=generator) * scale for count in (n, 2048))

    def mlp(*sizes: int, last: nn.Module) -> nn.Sequential:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
        return nn.Sequential(*layers[:-2], last) if not isinstance(last, nn.ReLU) else nn.Sequential(*layers)

    encoder = mlp(32, width, width, 64, last=nn.ReLU())
    projector = mlp(64, 64, 64, 64, last=nn.BatchNorm1d(64, affine=False))
    predictor = nn.Sequential(nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 64))
    online = nn.Sequential(encoder, projector)
    groups = [{"params": list(online.parameters())}, {"params": list(predictor.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=5e-4, foreach=True)
    watching, alarms = Watching(), []
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * (step - 1) / steps))
        x = data[torch.randint(n, (256,), generator=generator)]
        z = [online(x + 0.35 * torch.randn(256, 32, generator=generator)) for _ in range(2)]
        t = [v.detach() if stop_gradient else v for v in z]
        loss = -sum(cosine_similarity(predictor(a), b).mean() for a, b in zip(z, t[::-1], strict=True)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0:
            online.eval()
            with torch.no_grad():
                features = encoder(fresh[:128])
                look = Look(step, measure(projector(features)), measure(features))
            watching = advance(watching, look)
            alarms.append(watching.alarm)
            online.train()
    online.eval()
    with torch.no_grad():
        return measure(online(fresh)), alarms


def test_the_reference_controls() -> None:
    """Rows 16 and 6.1: without stop-gradient std < .3 and AUC > .99; SimSiam above .9 and below .95. Loss reveals
    neither; the alarm does, by step 150, and stays quiet over SimSiam."""
    collapsed, alarms = toy(stop_gradient=False)
    assert collapsed.embedding_std < 0.3
    assert collapsed.auc > 0.99
    sounded = next(alarm for alarm in alarms if alarm.state == "alarm")
    assert sounded.step <= 150
    assert alarms[-1].state == "alarm" and alarms[-1].kind == "complete"
    healthy, alarms = toy(stop_gradient=True)
    assert healthy.embedding_std > 0.9
    assert healthy.auc < 0.95
    assert {alarm.state for alarm in alarms} == {"quiet"}
