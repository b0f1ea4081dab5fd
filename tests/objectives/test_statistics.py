"""The running correlation F: exact, in full precision, shared between ranks, saved."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from draws import unit

from siamscope.objectives import Group, ObjectiveError
from siamscope.objectives.spectral import Spectral
from siamscope.objectives.statistics import Correlation


def relative(found, expected):
    found, expected = found.detach(), expected.detach()
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


def correlation_of(views):
    rows = torch.cat(list(views))
    return rows.T @ rows / len(rows)


def spectral(balance=3.0, rho=0.0, phi="identity", *, d, **cells):
    return Spectral(balance, rho, phi, width=d, **cells).double()


def test_f_is_a_correlation_matrix():
    correlation = Correlation(9, 0.9).double()
    batches = [unit(2, 5, 9, seed=seed) for seed in range(8)]
    for batch in batches:
        correlation.update(list(batch))
    f = correlation.matrix
    assert torch.equal(f, f.T)
    assert torch.linalg.eigvalsh(f).min() >= -1e-12
    assert abs(f.trace() - 1) <= 1e-12
    assert correlation.count == 8
    weights = [0.9**7] + [0.1 * 0.9 ** (7 - k) for k in range(1, 8)]
    explicit = sum(w * correlation_of(b) for w, b in zip(weights, batches, strict=True))
    torch.testing.assert_close(f, explicit, rtol=0, atol=1e-12)
    corrected = explicit / (1 - 0.9**8)  # Adam's correction for the start would be another matrix
    assert (f - corrected).abs().max() > 1e-2


def test_centred_f_follows_the_mean_first():
    correlation = Correlation(4, 0.75, centred=True).double()
    batches = [unit(2, 6, 4, seed=seed) + 0.5 for seed in range(3)]
    centre = f = None
    for batch in batches:
        correlation.update(list(batch))
        rows = batch.reshape(-1, 4)
        centre = rows.mean(0) if centre is None else 0.75 * centre + 0.25 * rows.mean(0)
        new = (rows - centre).T @ (rows - centre) / len(rows)
        f = new if f is None else 0.75 * f + 0.25 * new
    torch.testing.assert_close(correlation.centre, centre, rtol=0, atol=1e-12)
    torch.testing.assert_close(correlation.matrix, f, rtol=0, atol=1e-12)


def test_rho_zero_forgets_even_a_nan():
    correlation = Correlation(3, 0.0).double()
    correlation.update([torch.full((2, 3), float("nan"))])
    assert correlation.matrix.isnan().all()
    batch = unit(2, 5, 3)
    correlation.update(list(batch))
    torch.testing.assert_close(correlation.matrix, correlation_of(batch), rtol=0, atol=1e-15)


def test_f_in_half_precision_stalls_and_ours_does_not():
    """The released code's F is float16: after 3,000 steps towards a constant F it is still percents away."""
    start, goal = unit(1, 40, 6)[0].float(), unit(1, 40, 6, seed=1)[0].float()
    limit = goal.T @ goal / 40
    ours, half = Correlation(6, 0.99).half(), (start.T @ start / 40).half()
    ours.update([start])
    assert ours.matrix.dtype == ours.centre.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3000):
            ours.update([goal])
            half = 0.99 * half + 0.01 * limit.half()
    assert relative(ours.matrix, limit) < 1e-4
    assert relative(half.float(), limit) > 0.01


def test_autocast_changes_nothing():
    u = [z.float() for z in unit(2, 30, 16)]
    values = []
    for enabled in (False, True):
        objective = Spectral(50.0, 0.5, "log", width=16, eps=1e-2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert (u[0] @ u[1].T).dtype == (torch.bfloat16 if enabled else torch.float32)
            objective.prepare(u, u)
            phi = objective.phi_matrix()
            values.append((objective.correlation.matrix, phi, objective(u, u), objective.gradient_terms(u, u).total))
    for plain, cast in zip(*values, strict=True):
        assert cast.dtype == torch.float32 and torch.equal(plain, cast)


def test_f_is_saved():
    u = unit(2, 10, 5)
    objective = spectral(2.0, 0.9, "inverse", d=5, centred=True)
    objective.prepare(u, u)
    assert set(objective.state_dict()) == {"correlation.matrix", "correlation.centre", "correlation.count"}
    other = spectral(2.0, 0.9, "inverse", d=5, centred=True)
    other.prepare(unit(2, 10, 5, seed=1), unit(2, 10, 5, seed=1))
    assert other(u, u) != objective(u, u)
    fresh = spectral(2.0, 0.9, "inverse", d=5, centred=True)
    for loaded in (other, fresh):
        loaded.load_state_dict(objective.state_dict())
        assert loaded(u, u) == objective(u, u)


class Meeting:
    """Processes as threads: `mean` waits until every rank has come with its tensor."""

    def __init__(self, ranks):
        self.ranks, self.slots, self.barrier = ranks, [None] * ranks, threading.Barrier(ranks, timeout=20)

    def group(self, rank):
        def mean(x):
            self.slots[rank] = x
            self.barrier.wait()
            out = torch.stack(self.slots).mean(0)
            self.barrier.wait()
            return out

        return Group(rank, self.ranks, mean=mean)

    def run(self, work):
        with ThreadPoolExecutor(self.ranks) as pool:
            return list(pool.map(lambda rank: work(rank, self.group(rank)), range(self.ranks)))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_f(ranks):
    online, target = [z.requires_grad_() for z in unit(2, 12, 6)], unit(2, 12, 6, seed=1)
    cells = {"balance": 3.0, "rho": 0.6, "phi": "inverse", "centred": True, "eps": 1e-2, "d": 6}
    alone = spectral(**cells)
    for objective_batch in (target + 0.1, target):
        alone.prepare(online, objective_batch)
    whole = alone(online, target)

    def work(rank, group):
        rows = slice(rank * 12 // ranks, (rank + 1) * 12 // ranks)
        objective = spectral(**cells, group=group)
        u, t = [z[rows] for z in online], [z[rows] for z in target]
        objective.prepare(u, [z + 0.1 for z in t])
        objective.prepare(u, t)
        return objective.correlation.matrix, objective(u, t)

    results = Meeting(ranks).run(work)
    loss = torch.stack([loss for _, loss in results]).mean()
    for f, _ in results:
        torch.testing.assert_close(f, alone.correlation.matrix, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=0)
    for found, expected in zip(torch.autograd.grad(loss, online), torch.autograd.grad(whole, online), strict=True):
        assert relative(found, expected) <= 1e-12
    lonely = spectral(**cells)
    lonely.prepare([z[:3] for z in online], [z[:3] for z in target])
    assert relative(lonely.correlation.matrix, alone.correlation.matrix) > 0.1


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Correlation(3).update([]), "embeddings must hold"),
        (lambda: Correlation(3).update([unit(2, 3), unit(3)]), r"embeddings\[1\]"),
        (lambda: Correlation(3).update([unit(0, 3)]), r"embeddings\[0\]"),
        (lambda: Correlation(0), "width"),
        (lambda: Correlation(3, -0.1), "rho"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ObjectiveError, match=word):
        call()
