"""Pull to the positive, push from other samples by softmax: SimCLR, MoCo v2 and v3, NNCLR, DCL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from siamscope.objectives import bank as memory
from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, full, ordered_pairs
from siamscope.objectives.terms import GradientTerms

Negatives = Literal["both-views", "other-view", "bank"]


class Contrastive(Objective):
    """Mean over pairs (i, j) of the cross-entropy of sample n's key in view j among the keys of the pair.

    An anchor u_n of online view i competes for its key in target view j against the negatives

    - `both-views`: the keys of views j and i without its own key in view i (keeping that one changes the gradient by a
      quarter). A view without a target, a local crop, has the keys of view j only. SimCLR's NT-Xent.
    - `other-view`: the keys of view j. MoCo v3, whose official loss is 4 * temperature times this mean.
    - `bank`: the last `bank` keys of earlier batches, of all target views. MoCo v2, here over both ordered pairs.

    `decoupled` leaves the positive out of the denominator (DCL). `neighbour` replaces each key by its nearest neighbour
    in the bank, without gradient: positives and negatives are then neighbours, and the anchor is the online prediction.
    (NNCLR's eq. 3 is the transpose: the neighbour is the anchor, and it competes among the predictions of the batch.)
    The bank takes the targets themselves, after the loss.

    Keys are gathered from every process; each process scores its own anchors. The bank holds `width`-dimensional keys
    in the buffers `bank_keys` (K, d) and `bank_oldest`, and starts from random unit vectors.

    Vectors of zero have similarity zero to every key; what is not finite comes out not finite.

    Sources: Chen et al. 2020 (arXiv:2002.05709), eq. 1; Chen et al. 2020 (arXiv:2003.04297); Chen et al. 2021
    (arXiv:2104.02057), eq. 1; Dwibedi et al. 2021 (arXiv:2104.14548), eq. 3; Yeh et al. 2022 (arXiv:2110.06848), eq. 6.

    Raises:
        ObjectiveError: a temperature not above 0, unknown negatives, a bank that is missing, unused or without `width`,
            or neighbours with negatives from the bank (each positive would be among its own negatives).
    """

    bank_keys: Tensor
    bank_oldest: Tensor

    def __init__(
        self,
        temperature: float = 0.5,
        negatives: Negatives = "both-views",
        bank: int = 0,
        neighbour: bool = False,
        decoupled: bool = False,
        width: int | None = None,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ObjectiveError(f"temperature must be a number above 0, got {temperature}")
        if negatives not in get_args(Negatives):
            raise ObjectiveError(f"negatives must be one of {', '.join(get_args(Negatives))}; got {negatives!r}")
        self.temperature = temperature
        self.negatives = negatives
        self.neighbour = neighbour
        self.decoupled = decoupled
        self.bank = bank
        self.group = group or Group()
        self._create_bank(width)

    def _create_bank(self, width: int | None) -> None:
        if self.neighbour and self.negatives == "bank":
            raise ObjectiveError("neighbour: the positives come from the bank, so take the negatives from the batch")
        used = self.neighbour or self.negatives == "bank"
        if used != (self.bank > 0):
            wanted = "at least 1" if used else f"0 with negatives {self.negatives!r} and without neighbour"
            raise ObjectiveError(f"bank (the number of keys in memory) must be {wanted}, got {self.bank}")
        if used:
            if width is None or width < 1:
                raise ObjectiveError(f"width: a bank needs the dimension of the embeddings, got {width}")
            self.register_buffer("bank_keys", memory.random_keys(self.bank, width))
            self.register_buffer("bank_oldest", torch.zeros((), dtype=torch.long))

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        u, t = self._checked(online, target)
        with torch.autocast(u[0].device.type, enabled=False):
            keys = self._keys(t)
            bank_only = self.negatives == "bank"  # then the batch's keys compete with nobody, and stay at home
            everyone = self._pools(keys if bank_only else [self.group.gather(k) for k in keys], u[0].dtype)
            own = torch.arange(len(u[0]), device=u[0].device) + self.group.rank * len(u[0])
            pairs = list(ordered_pairs(len(u), len(t)))
            wanted = {(i, pool) for i, j in pairs for pool in self._competitors(i, j, len(t))}
            push = {(i, pool): self._logits(u[i], everyone[pool], own).logsumexp(1) for i, pool in wanted}
            losses = []
            for i, j in pairs:
                positive = (u[i] * keys[j]).sum(1) / self.temperature
                negative = torch.stack([push[i, pool] for pool in self._competitors(i, j, len(t))]).logsumexp(0)
                # -log(e^p / (e^p + e^n)) = -log sigmoid(p - n) keeps its digits where the positive dominates.
                losses.append(negative - positive if self.decoupled else -F.logsigmoid(positive - negative))
            return torch.stack(losses).mean()

    @torch.no_grad()
    def commit(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """The bank takes the keys of every process: those of the first target view, then of the second.

        Raises:
            ObjectiveError: they are more than the bank holds.
        """
        if self.bank:
            memory.push(self.bank_keys, self.bank_oldest, torch.cat([self.group.gather(full(t)) for t in target]))

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """Positive: the other views' keys. Negative: the keys, weighted by their softmax; balance 1, scale 1/(tau N).

        `shared` adds what the anchors do to this view's keys: the positive's pull again, and the push with weights from
        the softmax in the other samples' rows. Neighbours pass no gradient. Exact.

        Source: Tao et al. 2022 (arXiv:2112.05141), and the second bracket that it drops.
        """
        u, t = self._checked(online, target)
        keys = self._keys(t)
        pairs = list(ordered_pairs(len(u), len(t)))
        divisor = max(1, sum(i == view for i, _ in pairs))
        pull, push = torch.zeros_like(u[view]), torch.zeros_like(u[view])
        for i, j in pairs:
            as_key = shared and not self.neighbour and view < len(t) and view in (i, j)
            if i != view and not as_key:
                continue
            shares = self._shares(u[i], keys, i, j)
            if i == view:
                pull += keys[j]
                push += torch.stack([share @ pool for share, pool in shares.values()]).sum(0)
            if as_key:
                pull += u[i] if j == view else 0
                push += shares[view][0].T @ u[i] if view in shares else 0
        scale = divisor / (self.temperature * len(pairs) * len(u[view]))
        return GradientTerms(pull / divisor, push / divisor, pull.new_ones(()), scale)

    def _shares(self, anchor: Tensor, keys: list[Tensor], i: int, j: int) -> dict[int, tuple[Tensor, Tensor]]:
        """By pool of keys: the softmax weights (N, M) of the pair's keys, the positive's included, and the keys."""
        own = torch.arange(len(anchor), device=anchor.device)
        pools = self._pools(keys, anchor.dtype)
        names = self._competitors(i, j, len(keys))
        logits = [self._logits(anchor, pools[name], own) for name in names]
        positive = (anchor * keys[j]).sum(1, keepdim=True) / self.temperature
        kept = torch.full_like(positive, float("-inf")) if self.decoupled else positive
        share = torch.cat([kept, *logits], dim=1).softmax(1)
        first, *rest = torch.split(share, [1, *(x.shape[1] for x in logits)], dim=1)
        shares = {name: (share, pools[name]) for name, share in zip(names, rest, strict=True)}
        if j in shares:
            shares[j] = (shares[j][0] + first.flatten().diag(), keys[j])
        else:
            shares[j] = (first.flatten().diag(), keys[j])
        return shares

    def _checked(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        u, t = checked(online, target)
        if self.negatives != "bank" and len(u[0]) * self.group.world_size < 2:
            raise ObjectiveError("online: contrastive learning needs at least 2 samples a batch, got 1")
        if self.bank and u[0].shape[1] != self.bank_keys.shape[1]:
            raise ObjectiveError(f"online: the bank's keys have width {self.bank_keys.shape[1]}, got {u[0].shape[1]}")
        return u, t

    def _keys(self, target: list[Tensor]) -> list[Tensor]:
        """This process's keys: the targets, or the nearest neighbours of the targets."""
        if not self.neighbour:
            return target
        keys = self.bank_keys.to(target[0].dtype)
        return [memory.nearest(keys, t.detach()) for t in target]

    def _pools(self, keys: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """The target views' keys, then the bank's."""
        return [*keys, self.bank_keys.to(dtype)] if self.negatives == "bank" else keys

    def _competitors(self, i: int, j: int, targets: int) -> list[int]:
        """Pools of negatives for the pair (i, j): numbers of target views, or their count for the bank."""
        if self.negatives == "bank":
            return [targets]
        return [j, i] if self.negatives == "both-views" and i < targets else [j]

    def _logits(self, anchor: Tensor, pool: Tensor, own: Tensor) -> Tensor:
        """(n, M): similarities to the keys of a pool, without the anchor's own key (the bank has none)."""
        logits = (anchor / self.temperature) @ pool.T
        return logits if self.negatives == "bank" else logits.scatter_(1, own[:, None], float("-inf"))
