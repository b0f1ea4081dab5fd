"""The nearest rows of a large bank on a CPU with matrix units: bfloat16 rules out what cannot be near, float32 decides.

Unit rows q (of the queries) and b (of the bank), the bank's mean c, and a hat for rounding to bfloat16. A product in
bfloat16 with its sums in float32, which is four to eight times as fast as one in float32, gives a(j), close to
q_hat . d_hat(j) with d(j) = b(j) - c, and stores it as s(j), rounded to bfloat16. Then

    |q . b(j) - q . c - a(j)| <= eps = |q - q_hat| D + |q| E + 2 n 2^-24 |q_hat| D,
    D = max |d_hat(j)|,   E = max (|d(j) - d_hat(j)| + 2^-23 |d(j)|),

for rows of n entries: Cauchy-Schwarz for the rounding of either factor (2^-23: of the subtraction), and the sums'
rounding in any order. float32 finds x(j), at most rho = 1.01 n 2^-24 |q| max |b| from q . b(j). Of k rows with s >= t,
a >= t - u|t|, u slightly more than 2^-9, and hence x >= q . c + t - u|t| - eps - rho. Rounding is monotonic: a row with
s < tau has a <= tau + u |tau|, so that with

    tau = L - 1.01 u |L|,   L = t - u |t| - 2 (eps + rho)

every such row has an x below those of k others. Only the rows with s >= tau are computed in float32, and the k nearest
of all, ties included, are exactly those that computing x for every row would find.

The threshold t is the k-th largest of the maxima of blocks of rows, a lower bound of the k-th largest of all.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

GROUP = 8  # rows whose maximum is taken first: a group
BLOCK = 5  # groups whose maximum bounds the threshold: a block
HALF_ULP = 1.01 * 2.0**-9
INFLATED = 1.001  # for the rounding of the bounds themselves
LEAST = 8192  # rows of a bank that is worth it
CROWDED = 25  # one in so many rows: beyond it, a query is compared with all of them in float32

Nearest = tuple[Tensor, Tensor]


class Screen:
    """Finds the k nearest rows of `bank` (N, d), float32 on the CPU, by their product with a query.

    Attributes:
        usable: whether the last chunk was worth its screening, and the bound held where it was looked at.
    """

    def __init__(self, bank: Tensor, k: int, exclude_self: bool = False) -> None:
        self.bank, self.k, self.exclude_self = bank, k, exclude_self
        n, d = bank.shape
        self.groups = -(-n // (GROUP * BLOCK)) * BLOCK
        self.limit = max(n // CROWDED, k)
        self.centre = bank.mean(0)
        self.rough = torch.zeros(self.groups * GROUP, d, dtype=torch.bfloat16)
        self.largest = self.rounding = self.longest = 0.0
        for part, rough in zip(torch.split(bank, 4096), torch.split(self.rough[:n], 4096), strict=True):
            moved = part - self.centre
            back = rough.copy_(moved).float()
            lost = (moved - back).norm(dim=1) + 2.0**-23 * moved.norm(dim=1)
            self.largest = max(self.largest, INFLATED * float(back.norm(dim=1).max()))
            self.rounding = max(self.rounding, INFLATED * float(lost.max()))
            self.longest = max(self.longest, INFLATED * float(part.norm(dim=1).max()))
        self.buffer = torch.empty(0, dtype=torch.bfloat16)
        self.usable, self._checked = True, False

    def margin(self, queries: Tensor, rough: Tensor) -> Tensor:
        """eps + rho of the module's docstring for every query, (B,) float64."""
        d, back = queries.shape[1], rough.float()
        lost, length = (queries - back).norm(dim=1).double(), queries.norm(dim=1).double()
        sums = 2 * d * 2.0**-24 * back.norm(dim=1).double() * self.largest
        rho = 1.01 * d * 2.0**-24 * length * self.longest
        bound: Tensor = INFLATED * (lost * self.largest + length * self.rounding + sums + rho) + 1e-30
        return bound

    def nearest(self, queries: Tensor, start: int) -> tuple[Nearest, Tensor]:
        """Similarities (B, M) and columns of those that may be the nearest, by ascending column and then -inf; and the
        queries without any, since too many rows are about as near. `start`: the bank's row of the first query."""
        count, n = len(queries), len(self.bank)
        if self.buffer.numel() < len(self.rough) * count:
            self.buffer = torch.empty(len(self.rough) * count, dtype=torch.bfloat16)
        rough, scores = queries.bfloat16(), self.buffer[: len(self.rough) * count].view(-1, count)
        torch.mm(self.rough, rough.T, out=scores)  # this way round the large factor lies as the processor wants it
        scores[n:] = -torch.inf
        margin = self.margin(queries, rough)
        if not self._checked and not self._holds(queries[:16], scores[:n, :16], margin[:16]):
            self.usable = False
            return (torch.zeros(count, self.k), torch.zeros(count, self.k, dtype=torch.int64)), torch.arange(count)
        self._checked = True
        table = scores.view(self.groups, GROUP, count)
        maxima = table.amax(1)
        least = self._least(maxima.view(-1, BLOCK, count).amax(1), margin)
        row, query, crowded = self._candidates(table, maxima, least)
        self.usable = len(crowded) <= count // 2
        return self._decided(queries, row, query, start), crowded

    def _least(self, maxima: Tensor, margin: Tensor) -> Tensor:
        """tau for every query, rounded down to bfloat16, (B,)."""
        wanted = self.k + self.exclude_self  # the query itself may be one of them
        if wanted > len(maxima):
            return torch.full((maxima.shape[1],), -torch.inf, dtype=torch.bfloat16)
        by_query = maxima.float().T.contiguous().numpy()  # numpy partitions four times as fast as torch's top-k
        t = torch.from_numpy(np.partition(by_query, -wanted, axis=1)[:, -wanted]).double()
        bound = t - HALF_ULP * t.abs() - 2 * margin
        tau = bound - 1.01 * HALF_ULP * bound.abs()
        rounded = tau.bfloat16()
        below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
        return torch.where(rounded.double() > tau, below, rounded)

    def _candidates(self, table: Tensor, maxima: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the bank and queries for which they may be among the nearest, and the crowded queries."""
        near = maxima >= least
        group, query = near.nonzero(as_tuple=True)
        crowded = (torch.bincount(query, minlength=len(least)) > self.limit).nonzero()[:, 0]
        if len(crowded):
            near[:, crowded] = False
            group, query = near.nonzero(as_tuple=True)
        which, inside = (table[group, :, query] >= least[query, None]).nonzero(as_tuple=True)
        return group[which] * GROUP + inside, query[which], crowded

    def _decided(self, queries: Tensor, row: Tensor, query: Tensor, start: int) -> Nearest:
        """The candidates' products in float32."""
        count = len(queries)
        near = _products(self.bank, queries, row, query)
        each = np.diff(near.indptr)
        values = torch.full((count, max(int(each.max()), self.k)), -torch.inf)
        columns = torch.zeros(values.shape, dtype=torch.int64)
        query = torch.from_numpy(np.repeat(np.arange(count), each))
        place = torch.from_numpy(np.arange(near.nnz) - np.repeat(near.indptr[:-1].astype(np.int64), each))
        found, exact = torch.from_numpy(near.indices).long(), torch.from_numpy(near.data)
        if self.exclude_self:
            exact[found == query + start] = -torch.inf
        values[query, place], columns[query, place] = exact, found
        return values, columns

    def _holds(self, queries: Tensor, scores: Tensor, margin: Tensor) -> bool:
        """Whether the bound holds for some queries against every row: whether this machine sums in float32."""
        rough = scores.T.double()
        plain = (queries @ self.bank.T).double() - (queries.double() @ self.centre.double())[:, None]
        return bool(((plain - rough).abs() <= margin[:, None] + HALF_ULP * rough.abs()).all())


def _products(bank: Tensor, queries: Tensor, row: Tensor, query: Tensor) -> scipy.sparse.csc_matrix:
    """The products of pairs, each summed in the same order: a column for each query, rows of the bank ascending.

    Computed row by row of the bank, each of which then is read once; the conversions are sorts by counting.
    """
    pairs = (row.to(torch.int32).numpy(), query.to(torch.int32).numpy())
    shape = (len(bank), len(queries))
    named = scipy.sparse.coo_matrix((np.zeros(len(row), np.float32), pairs), shape=shape).tocsr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # sparse CSR is in beta
        ends, columns, values = (torch.from_numpy(part) for part in (named.indptr, named.indices, named.data))
        pattern = torch.sparse_csr_tensor(ends, columns, values, size=shape, check_invariants=False)
        named.data = torch.sparse.sampled_addmm(pattern, bank, queries.T, beta=0.0).values().numpy()
    return named.tocsc()


def worth_it(bank: Tensor, k: int) -> bool:
    """Whether the bank lies on a CPU with matrix units and is large beside k."""
    able = getattr(torch.cpu, "_is_amx_tile_supported", None)
    large = len(bank) >= LEAST and len(bank) >= 2 * CROWDED * k
    return large and bank.device.type == "cpu" and bool(able and able())
