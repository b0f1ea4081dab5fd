"""The screened search finds what a search in float32 of every row finds, or leaves the query to one."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from siamscope.evaluation import knn, screen
from siamscope.evaluation.knn import _nearest
from siamscope.evaluation.screen import Screen

K = 20


def features(n: int = 3000, d: int = 24, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, d, generator=g) + offset)


def of_every_row(bank: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest by the screen's own products, of all rows."""
    row = torch.arange(len(bank)).repeat_interleave(len(queries))
    query = torch.arange(len(queries)).repeat(len(bank))
    every = screen._products(bank, queries, row, query).toarray()
    return _nearest(torch.from_numpy(np.ascontiguousarray(every.T)), k)


def screened(bank: torch.Tensor, queries: torch.Tensor, k: int, found: Screen | None = None) -> tuple:
    found = found or Screen(bank, k)
    (near, named), left = found.nearest(queries, 0)
    values, places = _nearest(near, k)
    return values, named.gather(1, places), left, found


@pytest.mark.parametrize("offset", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("n", [3000, 2961])  # a multiple of the block, and not
def test_the_nearest_are_those_of_every_row(offset, n):
    bank, queries = features(n, offset=offset), features(60, seed=1, offset=offset)
    values, columns, left, found = screened(bank, queries, K)
    wanted, where = of_every_row(bank, queries, K)
    assert found.usable and not len(left)
    assert torch.equal(values, wanted) and torch.equal(columns, where)
    by_hand = (queries.double() @ bank.double().T).topk(K).indices
    assert (columns == by_hand).double().mean() > 0.999  # float32 may swap equals, no more


def near_ties(seed: int, count: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    """A query and a bank of which `count` rows differ in similarity by a few thousandths at most, which bfloat16
    hardly tells, and some not at all."""
    g = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(24, 24, generator=g)).Q  # rounding along an axis would keep the order
    slope = 0.11 + 1e-3 * seed + 2e-5 * torch.randperm(count, generator=g)
    rest = normalize(torch.randn(count, 23, generator=g)) * (1 - slope**2).sqrt()[:, None]
    close = torch.cat([slope[:, None], rest], 1)
    close[1::7] = close[0]  # exact ties
    far = features(3000 - count, seed=3)
    far[:, 0] = far[:, 0].clamp(max=0.05)
    bank = torch.cat([close, normalize(far)])[torch.randperm(3000, generator=g)]
    return bank @ turned, turned[:1].clone()


@pytest.mark.parametrize("seed", range(8))
def test_near_ties_are_told_apart_and_equals_keep_their_order(seed):
    bank, query = near_ties(seed)
    values, columns, left, found = screened(bank, query, K)
    wanted, where = of_every_row(bank, query, K)
    assert found.usable and not len(left)
    assert torch.equal(columns, where) and torch.equal(values, wanted)
    rough = (query.bfloat16() @ found.rough[:3000].T).float()[0]
    assert set(rough.topk(K).indices.tolist()) != set(where[0].tolist())  # which bfloat16 alone gets wrong


def test_without_its_margin_the_screen_would_lose_neighbours(monkeypatch):
    monkeypatch.setattr(Screen, "margin", lambda self, queries, rough: torch.zeros(len(queries), dtype=torch.float64))
    monkeypatch.setattr(Screen, "_holds", lambda *_: True)
    monkeypatch.setattr(screen, "HALF_ULP", 0.0)
    problems = [near_ties(seed) for seed in range(8)]
    lost = [not torch.equal(screened(*problem, K)[1], of_every_row(*problem, K)[1]) for problem in problems]
    assert any(lost)


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_the_bound_holds_for_every_pair_and_is_no_wider_than_it_must_be(offset):
    bank, queries = features(offset=offset), features(80, seed=1, offset=offset)
    found = Screen(bank, K)
    rough = queries.bfloat16()
    exact = queries.double() @ bank.double().T - (queries.double() @ found.centre.double())[:, None]
    error = (exact - rough.double() @ found.rough[:3000].double().T).abs()
    margin = found.margin(queries, rough)
    assert bool((error <= margin[:, None]).all())
    assert float((error.amax(1) / margin).max()) > 0.2


def test_a_machine_that_breaks_the_bound_is_noticed(monkeypatch):
    bank, queries = features(), features(40, seed=1)
    found = Screen(bank, K)
    found.rough = (found.rough.float() * 1.02).bfloat16()  # as if products came out 2 % large
    *_, left, _ = screened(bank, queries, K, found)
    assert not found.usable and left.tolist() == list(range(40))


def test_queries_with_too_many_equals_are_left_to_float32():
    bank, queries = features(), features(10, seed=1)
    bank[::5] = bank[0]
    queries[3] = bank[0]  # 600 rows are equally near
    queries[7] = 0.0  # all rows are
    *_, left, found = screened(bank, queries, K)
    assert {3, 7} <= set(left.tolist()) and len(left) < 5 and found.usable
    *_, left, found = screened(bank, torch.zeros(10, 24), K)
    assert len(left) == 10 and not found.usable


@pytest.mark.parametrize("exclude_self", [False, True])
def test_votes_are_the_same_with_and_without(monkeypatch, exclude_self):
    bank = features(2500) + 0.3
    bank[::9] = bank[0]  # more equals than may be screened: both ways in one call
    bank[5:900:3] = bank[4]
    bank[1700:1720] = 0.0
    labels = torch.randint(7, (2500,), generator=torch.Generator().manual_seed(4))
    queries, truth = (bank, labels) if exclude_self else (features(300, seed=5) + 0.3, labels[:300])
    options = {"ks": (1, 5, 40), "exclude_self": exclude_self, "return_predictions": True, "chunk": 128}
    plain = knn(bank, labels, queries, truth, **options)
    used = []
    monkeypatch.setattr(screen, "worth_it", lambda bank, k: not used.append(k))
    found = knn(bank, labels, queries, truth, **options)
    assert used == [40]
    for k, predicted in plain.predictions.items():
        assert torch.equal(found.predictions[k], predicted)


def test_small_banks_and_other_machines_are_not_screened(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert screen.worth_it(torch.empty(20_000, 4), 200)
    assert not screen.worth_it(torch.empty(9_000, 4), 200)  # k is no small part of it
    assert not screen.worth_it(torch.empty(2_000, 4), 5)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not screen.worth_it(torch.empty(20_000, 4), 200)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not screen.worth_it(torch.empty(20_000, 4), 200)
