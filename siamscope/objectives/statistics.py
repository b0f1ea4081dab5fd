"""Second moments of embeddings: the running correlation F, and sums over pairs of samples without a (d, d) matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn

from siamscope.objectives.base import Group, ObjectiveError, full


class Correlation(nn.Module):
    """The running correlation F of embeddings, `matrix` (d, d), in at least float32.

    F_batch is the mean of v v^T over views, samples and processes, and F <- rho F + (1 - rho) F_batch. The first batch
    sets F without a correction for the start; rho = 0 is F of the batch alone. With `centred` v is less `centre` (d,),
    the mean that follows with the same rho and is updated first. F is symmetric and positive semi-definite; when it is
    not centred its trace is one for unit vectors.

    A NaN in an embedding stays in F: the training loop stops on the loss. `mean` averages a tensor over the processes.

    Sources: Tao et al. 2022 (arXiv:2112.05141), F of UniGrad, whose released code keeps F in float16, where its EMA
    stalls (tests/objectives/test_statistics.py); Ozsoy et al. 2022 (arXiv:2209.07999) for the centred one.
    """

    matrix: Tensor
    centre: Tensor
    count: Tensor

    def __init__(
        self, width: int, rho: float = 0.99, centred: bool = False, mean: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        if width < 1:
            raise ObjectiveError(f"width must be at least 1, got {width}")
        if not 0 <= rho <= 1:
            raise ObjectiveError(f"rho, the share of the old F, must lie in [0, 1], got {rho}")
        self.rho = rho
        self.centred = centred
        self.mean = mean or Group().mean
        self.register_buffer("matrix", torch.zeros(width, width))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self._started = False  # so that a GPU is asked for `count` at most once

    @property
    def started(self) -> bool:
        """Whether F has seen a batch."""
        self._started = self._started or bool(self.count > 0)
        return self._started

    @torch.no_grad()
    def update(self, embeddings: Sequence[Tensor]) -> None:
        """Take in a batch: one (n, d) tensor a view, this process's rows.

        Raises:
            ObjectiveError: no view, or one that is not (n, d) with d = `width`.
        """
        width = len(self.centre)
        for i, z in enumerate(embeddings):
            if z.ndim != 2 or z.shape[1] != width or not len(z):
                raise ObjectiveError(
                    f"embeddings[{i}] must be (n, d) with n >= 1 and d = {width}, got {tuple(z.shape)}"
                )
        if len(embeddings) == 0:
            raise ObjectiveError("embeddings must hold at least one view")
        with torch.autocast(embeddings[0].device.type, enabled=False):
            rows = torch.cat([full(z) for z in embeddings])
            rows = rows.to(torch.promote_types(rows.dtype, self.matrix.dtype))
            if self.centred:
                self._follow(self.centre, self.mean(rows.mean(0)))
                rows = rows - self.centre
            batch = rows.T @ rows / len(rows)
            self._follow(self.matrix, self.mean((batch + batch.T) / 2))
        self.count += 1
        self._started = True

    def _follow(self, state: Tensor, batch: Tensor) -> None:
        if self.rho == 0:
            state.copy_(batch)  # 0 * NaN would keep a NaN for ever
            return
        keep = (self.count > 0).to(state.dtype) * self.rho  # on the device: no wait for `count`
        state.copy_(keep * state + (1 - keep) * batch.to(state.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts as every module, but never below float32."""

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return cast("Self", super()._apply(at_least_float32, recurse))  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        return f"width={len(self.centre)}, rho={self.rho}, centred={self.centred}"


def square_norm(a: Tensor, b: Tensor) -> Tensor:
    """|a^T b|_F^2 for (N, d) tensors, through (N, N) products when N < d.

    The second way needs memory N^2 in place of d^2: 256 kB in place of 256 MB for 256 samples of 8,192 dimensions.
    """
    if len(a) >= a.shape[1]:
        return (a.T @ b).square().sum()
    left = a @ a.T
    return (left * (left if a is b else b @ b.T)).sum()


def weighted_rows(x: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """(N, d) with row n = sum_v (x_n . b_v) a_v, in the cheaper order of the two products."""
    return (x @ b.T) @ a if len(a) < a.shape[1] else x @ (b.T @ a)


def whole_batch(group: Group, branches: Sequence[Sequence[Tensor]], batch: int) -> list[list[Tensor]]:
    """The rows of all processes, each tensor gathered once (shared targets are the online tensors themselves).

    Raises:
        ObjectiveError: fewer than `batch` samples in all.
    """
    everyone = {id(z): z for branch in branches for z in branch}
    gathered = {key: group.gather(z) for key, z in everyone.items()}
    samples = len(next(iter(gathered.values())))
    if samples < batch:
        raise ObjectiveError(f"online: this objective needs at least {batch} samples a batch, got {samples}")
    return [[gathered[id(z)] for z in branch] for branch in branches]
