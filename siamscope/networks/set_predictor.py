"""What a predictor that is set from statistics is made of: running moments of the embeddings, and rules from them to W.

Nothing here is trained. `siamscope.networks.predictors.SetPredictor` puts the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn

Reduce = Callable[[Tensor], Tensor]
Norm = Literal["spectral", "frobenius"]

_COLD, _WARM = 64, 32  # vectors of the power iteration, without and with a vector of the last step to start from


class Moments(nn.Module):
    """Running second moments of embeddings f (n, d): F_t = rho F_(t-1) + (1 - rho) E_batch[f f^T], F_0 = first batch.

    `centred`: F less the outer product of the running mean, which follows by the same recurrence (as the authors' code
    does); computed as a sum of squares, so that no digits cancel and F stays positive semi-definite.
    `partitions` > 1: that many hyperplanes through the running mean, with normals drawn once from a fixed seed; each
    side of each has moments of its own, E[f f^T | side], which a batch without a sample there leaves as they were.
    `cross`: also C, the moment E[t f^T] of the target's embeddings t and f.

    Shapes: `correlation` (S, d, d) with S = 1, or 2 * partitions: sides 0 and 1 of the first plane, of the second, ...

    Buffers are at least float32 whatever the module is cast to: in half precision an EMA stalls. NaN in, NaN out.
    """

    correlation: Tensor
    centre: Tensor  # (S, d) mean of the embeddings; kept if centred
    origin: Tensor  # (d,) mean of all embeddings, which the hyperplanes pass through; kept if there are any
    normals: Tensor  # (partitions, d)
    seen: Tensor  # (S,) batches with samples on that side
    cross: Tensor  # (d, d), or empty
    target_centre: Tensor  # (d,)
    top: Tensor  # (d,) latest estimate of the first eigenvector, where power iteration starts

    def __init__(self, width: int, rho: float, *, centred: bool, partitions: int, cross: bool, mean: Reduce) -> None:
        super().__init__()
        self.rho, self.centred, self.partitions, self.mean = rho, centred, partitions, mean
        self.has_cross = cross
        sides = 2 * partitions if partitions > 1 else 1
        planes = partitions if partitions > 1 else 0
        generator = torch.Generator().manual_seed(20210212)  # the same planes on every rank and after a resume
        self.register_buffer("correlation", torch.zeros(sides, width, width))
        self.register_buffer("centre", torch.zeros(sides, width))
        self.register_buffer("origin", torch.zeros(width))
        self.register_buffer("normals", torch.randn(planes, width, generator=generator))
        self.register_buffer("seen", torch.zeros(sides))
        self.register_buffer("cross", torch.zeros(width, width) if cross else torch.zeros(0, 0))
        self.register_buffer("target_centre", torch.zeros(width))
        self.register_buffer("top", torch.zeros(width))

    def update(self, f: Tensor, t: Tensor | None = None) -> None:
        """Take in one batch: f (n, d) online embeddings and, for `cross`, t (n, d), of which row k belongs to f[k]."""
        f = f.to(self.correlation.dtype)
        if self.partitions > 1:
            self._follow_origin(f)
        share, mean = self._shares_and_means(f)
        weight = (share > 0) * self._newest(self.seen)
        target_mean = self._mean_of(t.to(f.dtype)) if t is not None else self.target_centre
        batch = self._batch_moments(f, share, mean, t, target_mean)
        self.correlation.lerp_(batch[: len(share)], weight[:, None, None])
        if self.has_cross:
            self.cross.lerp_(batch[-1], weight[0])
        if self.centred:
            self._follow_means(mean, target_mean, weight)
        self.seen += share > 0

    def sides(self, f: Tensor) -> Tensor:
        """(partitions, n) bool: on which side of each hyperplane the embeddings f (n, d) lie."""
        with torch.autocast(f.device.type, enabled=False):
            return ((f.detach().to(self.origin.dtype) - self.origin) @ self.normals.T >= 0).T

    def _mean_of(self, rows: Tensor) -> Tensor:
        """Mean over all rows of all processes, where it is needed."""
        return self.mean(rows.mean(0)) if self.centred else torch.zeros_like(rows[0])

    def _masks(self, f: Tensor) -> list[Tensor | None]:
        """For each set of moments the samples that belong to it, (n, 1) of 0 and 1; None means all."""
        if self.partitions == 1:
            return [None]
        sides = self.sides(f).to(f.dtype)[:, :, None]
        return [mask for side in sides for mask in (1 - side, side)]

    def _shares_and_means(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Over all processes: (S,) share of the samples on each side, and (S, d) their mean (zero if not centred)."""
        if self.partitions == 1:
            return self.seen.new_ones(1), self._mean_of(f)[None]
        masks = torch.cat([mask for mask in self._masks(f) if mask is not None], 1)
        sums = self.mean(torch.cat([masks.mean(0)[:, None], masks.T @ f / len(f)], 1))
        share = sums[:, 0]
        mean = sums[:, 1:] / _above_zero(share)[:, None]
        return share, mean if self.centred else torch.zeros_like(mean)

    def _batch_moments(self, f: Tensor, share: Tensor, mean: Tensor, t: Tensor | None, target_mean: Tensor) -> Tensor:
        """(S, d, d), and one more for the cross moment: second moments of this batch, averaged over the processes."""
        moments = []
        for side, mask in enumerate(self._masks(f)):
            rows = f - mean[side] if self.centred else f
            moments.append((rows if mask is None else rows * mask).T @ rows / len(f))
        if t is not None:
            target, rows = (t.to(f.dtype) - target_mean, f - mean[0]) if self.centred else (t.to(f.dtype), f)
            moments.append(target.T @ rows / len(f))
        batch = self.mean(torch.stack(moments))
        batch[: len(share)] /= _above_zero(share)[:, None, None]
        return batch

    def _follow_means(self, mean: Tensor, target_mean: Tensor, weight: Tensor) -> None:
        """EMA of the means, and what a move of the mean adds to the EMA of the covariances: w (1 - w) move move^T."""
        move, spread = mean - self.centre, weight * (1 - weight)
        self.correlation += spread[:, None, None] * move[:, :, None] * move[:, None, :]
        if self.has_cross:
            self.cross += spread[0] * torch.outer(target_mean - self.target_centre, move[0])
            self.target_centre.lerp_(target_mean, weight[0])
        self.centre.lerp_(mean, weight[:, None])

    def _follow_origin(self, f: Tensor) -> None:
        self.origin.lerp_(self.mean(f.mean(0)), self._newest(self.seen.sum()))

    def _newest(self, seen: Tensor) -> Tensor:
        """Weight of the newest batch: 1 - rho, and 1 for the first."""
        return torch.where(seen > 0, torch.full_like(seen, 1 - self.rho), torch.ones_like(seen))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts as every module, but never below float32."""
        before = dict(self.named_buffers(recurse=False))
        out: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, before[name].to(buffer.device))
        return out


def directpred(f: Tensor, *, eps: float, rule: Literal["paper", "code"], shift: float) -> Tensor:
    """DirectPred of F (..., d, d): W = U diag(p) U^T for the eigenvalues s and eigenvectors U of F.

    `paper` (eq. 18): p = sqrt(max(s - shift, 0)) + eps * max(s). `code`: p = sqrt(max(s / max(s) - shift, 0)) + eps,
    free of the embeddings' scale; the published tables of eps (table 6) and of the shift (table 7) were made with it.
    (The code also raises p to at least 1e-4, which eps does here.) A normalised prediction does not see the scale of W;
    IsoLoss and the Euclidean distance do.

    Of F = 0 it is 0 (`paper`; with a shift below 0, sqrt(-shift) I) or eps I (`code`, without shift).
    Source: Tian, Chen & Ganguli 2021 (arXiv:2102.06810), eq. 18, section 4; `code`: the released byol_trainer.py.
    """
    s, vectors = _eigh(f)
    largest = s.amax(-1, keepdim=True)
    if rule == "paper":
        return _assemble(vectors, (s - shift).clamp(min=0).sqrt() + eps * largest)
    relative = s / largest.clamp(min=torch.finfo(s.dtype).tiny)
    return _assemble(vectors, (relative - shift).clamp(min=0).sqrt() + eps)


def directset(f: Tensor, *, power: float, eps: float, norm: Norm) -> Tensor:
    """DirectSet of F (d, d): F^power / |F^power| + eps I, by an eigendecomposition. Of F = 0 it is eps I.

    Source: Wang, Chen, Du & Tian 2021 (arXiv:2110.04947).
    """
    s, vectors = _eigh(f)
    p = (s / _above_zero(s.amax(-1))) ** power
    return _assemble(vectors, (p / _above_zero(p.norm()) if norm == "frobenius" else p) + eps)


def directcopy(f: Tensor, size: Tensor, *, power: int = 1, eps: float, norm: Norm) -> Tensor:
    """The same for a whole `power` by matrix products; power 1 is DirectCopy, F / |F| + eps I. `size` is |F|."""
    w: Tensor = torch.linalg.matrix_power(f / _above_zero(size), power)
    if norm == "frobenius" and power > 1:
        w = w / _above_zero(torch.linalg.matrix_norm(w))
    w = (w + w.T) / 2
    w.diagonal().add_(eps)
    return w


def optimal(f: Tensor, cross: Tensor, *, eps: float) -> Tensor:
    """The linear predictor of least squares, E[t f^T] (E[f f^T] + r I)^-1 with ridge r = eps * tr(F) / d.

    A ridge of machine precision remains at eps = 0, so that a singular F gives a finite result; of F = 0 it is 0.
    Source: Tian, Chen & Ganguli 2021 (arXiv:2102.06810), table 1, without their symmetrisation.
    """
    trace, limits = f.diagonal().sum(), torch.finfo(f.dtype)
    ridge = (max(eps / len(f), limits.eps) * trace).clamp(min=limits.tiny)
    solution: Tensor
    solution, _ = torch.linalg.solve_ex(f + ridge * torch.eye(len(f), dtype=f.dtype, device=f.device), cross.T)
    return solution.T


def spectral_norm(f: Tensor, start: Tensor, *, cold: bool) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of a symmetric positive semi-definite F (d, d), and a unit vector to start from next time.

    Power iteration, and the best combination of all its iterates in place of the last one alone (Lanczos). On spectra
    that are dense near the top, 64 iterates are within 1e-3 where as many plain steps err by more than twice that
    (tests/networks/test_predictor_rules.py). `start` is mixed with a fixed direction, so that an eigenvector that lost
    the first place does not hold the iteration. F = 0 gives 0.
    """
    d, count = len(f), min(_COLD if cold else _WARM, len(f))
    fixed = torch.randn(d, generator=torch.Generator().manual_seed(0)).to(f)
    v = _unit(fixed) if cold else _unit(start + 0.1 * _unit(fixed))
    basis, images = f.new_zeros(count, d), f.new_zeros(count, d)
    for i in range(count):
        basis[i], images[i] = v, f @ v
        rest, known = images[i], basis[: i + 1]
        for _ in range(2):  # once is not enough to be orthogonal to rounding
            rest = rest - known.T @ (known @ rest)
        left = rest.norm()  # when only rounding is left, the iterates span an invariant space, and the rest stays zero
        v = torch.where(left > 1e-5 * images[i].norm(), rest / _above_zero(left), torch.zeros_like(rest))
    value, weights = _largest(basis @ images.T)
    return value, _unit(basis.T @ weights)


def _largest(small: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue and its vector of a small symmetric matrix with eigenvalues >= 0, by squaring it 20 times."""
    power = small
    for _ in range(20):
        power = power / _above_zero(torch.linalg.matrix_norm(power))
        power = power @ power
    value = (power * small).sum() / _above_zero(power.diagonal().sum())
    column = power.index_select(1, power.diagonal().argmax().reshape(1))[:, 0]  # an index that stays on the device
    return value, _unit(column)


def _eigh(f: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., d), none below zero, and vectors; NaN if F holds one (torch's own would raise an error)."""
    finite = f.isfinite().flatten(-2).all(-1)[..., None]
    safe = torch.where(finite[..., None], f, torch.zeros_like(f))
    try:
        s, vectors = torch.linalg.eigh(safe)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # float32 may fail to converge on many equal eigenvalues
        s, vectors = (x.to(f.dtype) for x in torch.linalg.eigh(safe.double()))
    return torch.where(finite, s.clamp(min=0), torch.full_like(s, float("nan"))), vectors


def _assemble(vectors: Tensor, p: Tensor) -> Tensor:
    """U diag(p) U^T, symmetric to the last bit."""
    w = (vectors * p[..., None, :]) @ vectors.mT
    return (w + w.mT) / 2


def _above_zero(x: Tensor) -> Tensor:
    """A divisor: 0 becomes the smallest number, so that 0 / 0 is 0."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def _unit(v: Tensor) -> Tensor:
    return v / _above_zero(v.norm())
