"""Weighted k-nearest-neighbour classification of frozen features, for several k in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from siamscope.evaluation import screen
from siamscope.evaluation.errors import Array, EvaluationError, feature_matrix, label_vector

_CHUNK_ENTRIES = 1 << 25  # similarities held at once: 128 MiB of float32

Weighting = Literal["softmax", "uniform"]


@dataclass(frozen=True)
class KnnResult:
    """Accuracies (fractions) by k, with what they were computed from.

    Attributes:
        accuracy: asked-for k -> accuracy, in ascending k.
        n_bank, n_queries, n_classes: sizes; classes are those of the bank.
        weighting, temperature: how neighbours voted.
        note: what a reader must know before quoting the figures (clipped k, labels the bank lacks); "" if nothing.
        predictions: k -> (n_queries,) int64 predicted labels on the CPU; empty unless asked for.
    """

    accuracy: dict[int, float]
    n_bank: int
    n_queries: int
    n_classes: int
    weighting: Weighting
    temperature: float
    note: str
    predictions: dict[int, Tensor]


def knn(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    query_labels: Array,
    *,
    ks: Sequence[int] = (1, 5, 20, 200),
    temperature: float = 0.1,
    weighting: Weighting = "softmax",
    chunk: int | None = None,
    exclude_self: bool = False,
    return_predictions: bool = False,
) -> KnnResult:
    """Classify `queries` (Q, d) by their nearest neighbours in `bank` (N, d) under cosine similarity.

    A neighbour with similarity s votes with weight exp(s / temperature) ("softmax", Wu et al. 2018) or 1 ("uniform").
    Everything is float32 on the bank's device: in bfloat16 about one vote in twenty changes (on a CPU with matrix units
    it rules out the rows that cannot be near). Ties are settled by rule:
    among equally near neighbours the lower bank index is nearer; among equal votes the smaller label wins. A zero row
    has similarity 0 to everything.

    `ks` and `temperature` are the caller's to fix beforehand or to choose on held-out *training* data, never on test
    data.

    Args:
        chunk: queries compared at once; by default as many as keep the similarities within 128 MiB.
        exclude_self: leave-one-out: `queries` must be the bank itself, and no sample is its own neighbour.
        return_predictions: keep the predicted labels for each k.

    A k larger than the bank is clipped to it, and `note` says so. Raises EvaluationError on bad shapes, NaN or
    infinity, labels that are not integers, k < 1 or temperature <= 0.
    """
    bank = normalize(feature_matrix(bank, "bank features").float())
    queries = feature_matrix(queries, "query features", width=bank.shape[1]).float()
    queries = normalize(queries.to(bank.device))
    labels = label_vector(bank_labels, len(bank), "bank labels").to(bank.device)
    truth = label_vector(query_labels, len(queries), "query labels").to(bank.device)
    _check_options(ks, temperature, weighting, chunk)
    if exclude_self and not torch.equal(bank, queries):
        raise EvaluationError("exclude_self=True is for classifying the bank itself; these queries are other features.")
    available = len(bank) - exclude_self
    if available < 1:
        raise EvaluationError("leave-one-out needs at least 2 samples.")

    classes, members = torch.unique(labels, return_inverse=True)
    used = sorted({min(k, available) for k in ks})
    search = _Search(bank, used[-1], exclude_self)
    chunk = chunk or search.chunk
    parts: list[Tensor] = []
    for start in range(0, len(queries), chunk):
        values, nearest = search.nearest(queries[start : start + chunk], start)
        weights = _weights(values, temperature, weighting)
        parts.append(_vote(weights, members[nearest], used, len(classes)))
    predicted = classes[torch.cat(parts, dim=1)]  # (number of k, Q)

    by_k = {k: predicted[used.index(min(k, available))] for k in sorted(set(ks))}
    return KnnResult(
        accuracy={k: float((p == truth).double().mean()) for k, p in by_k.items()},
        n_bank=len(bank),
        n_queries=len(queries),
        n_classes=len(classes),
        weighting=weighting,
        temperature=temperature,
        note=_note(ks, available, int((~torch.isin(truth, classes)).sum())),
        predictions={k: p.cpu() for k, p in by_k.items()} if return_predictions else {},
    )


def _check_options(ks: Sequence[int], temperature: float, weighting: str, chunk: int | None) -> None:
    if not ks or min(ks) < 1:
        raise EvaluationError(f"ks must be one or more positive integers, not {tuple(ks)}.")
    if not temperature > 0:
        raise EvaluationError(f"temperature must be positive, not {temperature}.")
    if weighting not in ("softmax", "uniform"):
        raise EvaluationError(f"weighting={weighting!r}: choose 'softmax' or 'uniform'.")
    if chunk is not None and chunk < 1:
        raise EvaluationError(f"chunk must be at least 1, not {chunk}.")


class _Search:
    """The k nearest rows of the bank: screened in bfloat16 where that pays, which changes nothing (see `screen`)."""

    def __init__(self, bank: Tensor, k: int, exclude_self: bool) -> None:
        self.bank, self.k, self.exclude_self = bank, k, exclude_self
        self.screen = screen.Screen(bank, k, exclude_self) if screen.worth_it(bank, k) else None
        self.chunk = max(1, _CHUNK_ENTRIES // len(bank))
        if self.screen:  # its scores take half the room, and more queries at once than these gain nothing
            self.chunk = min(2 * self.chunk, 1024)

    def nearest(self, queries: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Similarities and columns (B, k), descending; `start`: the bank's row of the first query, if they are its."""
        if self.screen is None or not self.screen.usable:
            return self._of_all(queries, torch.arange(start, start + len(queries), device=queries.device))
        (near, named), left = self.screen.nearest(queries, start)
        values, places = _nearest(near, self.k)
        columns = named.gather(1, places)
        if len(left):
            values[left], columns[left] = self._of_all(queries[left], left + start)
        return values, columns

    def _of_all(self, queries: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        similarity = queries @ self.bank.T
        if self.exclude_self:
            similarity[torch.arange(len(own), device=own.device), own] = -torch.inf
        return _nearest(similarity, self.k)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (B, N), descending, and their columns; among equals the lower column comes first."""
    n = similarity.shape[1]
    values, columns = similarity.topk(min(k + 1, n), dim=1)
    columns, beyond = columns[:, :k], values[:, k:]
    # Which of several equals top-k picks is unspecified: where the k-th value goes on beyond the picked, sort instead.
    crowded = (beyond == values[:, k - 1 : k]).any(1).nonzero()[:, 0]
    if len(crowded):
        order = similarity[crowded].sort(dim=1, descending=True, stable=True).indices
        columns[crowded] = order[:, :k]
    columns = _ascending(columns)
    values, order = similarity.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _ascending(columns: Tensor) -> Tensor:
    """Every row sorted; on a CPU by numpy, which is eight times as fast as torch at it."""
    if columns.device.type == "cpu":
        return torch.from_numpy(np.sort(columns.numpy(), axis=1))
    return columns.sort(dim=1).values


def _weights(similarity: Tensor, temperature: float, weighting: Weighting) -> Tensor:
    """Votes (B, k) of neighbours in descending similarity, in float64 so that the order of summing cannot decide."""
    if weighting == "uniform":
        return torch.ones_like(similarity, dtype=torch.float64)
    similarity = similarity.double()
    relative = similarity - similarity[:, :1]  # to the nearest, so that a low temperature does not overflow
    return (relative / temperature).exp()


def _vote(weights: Tensor, classes: Tensor, ks: Sequence[int], n_classes: int) -> Tensor:
    """Winning class for each k of the ascending `ks`: (len(ks), B). Votes are added up once, from one k to the next."""
    votes = weights.new_zeros(len(weights), n_classes)
    winners, done = [], 0
    for k in ks:
        votes.scatter_add_(1, classes[:, done:k], weights[:, done:k])
        winners.append(votes.argmax(1))  # the first of equals: the smallest label
        done = k
    return torch.stack(winners)


def _note(ks: Sequence[int], available: int, strangers: int) -> str:
    notes = []
    clipped = sorted({k for k in ks if k > available})
    if clipped:
        notes.append(f"k = {', '.join(map(str, clipped))} clipped to the {available} samples there are")
    if strangers:
        notes.append(f"{strangers} queries have labels the bank lacks and count as wrong")
    return "; ".join(notes)
