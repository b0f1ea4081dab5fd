"""Push along a spectral function of the running correlation: UniGrad, TiCo, CorInfoMax, matrix entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from siamscope.objectives.base import Group, Objective, ObjectiveError, checked, ordered_pairs
from siamscope.objectives.pairs import partners, weighted_mean
from siamscope.objectives.statistics import Correlation
from siamscope.objectives.terms import GradientTerms

Phi = Literal["identity", "inverse", "inverse-sqrt", "log"]


class Spectral(Objective):
    """Mean over ordered pairs (i, j) of -<u_i, t_j> + (balance / 2) u_i^T phi(F) u_i, with F held fixed.

    F is the running correlation (`Correlation`) of the target views, or of as many first online views; `prepare` takes
    a batch in, `forward` uses what is there. With `centred` F and the u of the quadratic are less the running mean.

    phi(F)          method                    with F of the batch (rho = 0), the gradient of -<u_i, t_j> plus
    identity        F: UniGrad, TiCo          (balance / 4) |F|_F^2: the spectral contrastive loss
    inverse         -(F + eps)^-1: CorInfoMax -(balance / 2) log det(F + eps)
    inverse-sqrt    -(F + eps)^-1/2           -balance tr (F + eps)^1/2
    log             log(F + eps) + I          (balance / 2) tr (F + eps) log(F + eps): minus the matrix entropy

    TiCo with weight w of its covariance term is `identity` with balance 2 w and statistics 'online'. CorInfoMax's
    gradient (2/N)(alpha (u1 - u2) - (R + eps)^-1 (u1 - mean)) is 2 alpha times that of `inverse` on shared targets with
    balance 2 / alpha, centred, but for a part along u1 that unit vectors do not feel; R is here the mean of the two
    views' covariances where the paper has one each. With rho > 0 the paper differentiates through the (1 - rho) share
    of the new batch, so there alpha is that of the paper over 1 - rho.

    The natural unit of balance is the dimension: for unit vectors tr F = 1, and balance / d is comparable between
    widths (100 / 2048 = 0.05 for UniGrad). Zero vectors: loss and gradient are finite.

    Sources: Tao et al. 2022 (arXiv:2112.05141); Zhu et al. 2022 (arXiv:2206.10698); Ozsoy et al. 2022
    (arXiv:2209.07999); HaoChen et al. 2021 (arXiv:2106.04156); Skean et al. 2023 (arXiv:2310.02903).
    """

    def __init__(
        self,
        balance: float = 100.0,
        rho: float = 0.99,
        phi: Phi = "identity",
        *,
        width: int,
        statistics: Literal["target", "online"] = "target",
        centred: bool = False,
        eps: float = 1e-4,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        _check(balance, phi, statistics, eps)
        self.balance = balance
        self.phi: Phi = phi
        self.statistics = statistics
        self.eps = eps
        self.correlation = Correlation(width, rho, centred, (group or Group()).mean)
        self._known: tuple[Tensor, int, Tensor] | None = None  # F, its version, phi(F)

    def prepare(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        self.correlation.update(target if self.statistics == "target" else online[: len(target)])

    def forward(self, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        u, t = checked(online, target)
        with torch.autocast(u[0].device.type, enabled=False):
            push = self.balance / 2 * torch.stack([self._quadratic(v) for v in u])
            losses = [push[i] - (u[i] * t[j]).sum(1).mean() for i, j in ordered_pairs(len(u), len(t))]
        return torch.stack(losses).mean()

    def _quadratic(self, u: Tensor) -> Tensor:
        """Mean over samples of u^T phi(F) u, without an (N, N) product."""
        u = self._centre(u)
        return (self._push(u) * u).sum(1).mean()

    def _centre(self, u: Tensor) -> Tensor:
        return u - self.correlation.centre if self.correlation.centred else u

    def _push(self, u: Tensor) -> Tensor:
        """phi(F) u for every row of u (n, d)."""
        if not self.correlation.started:
            raise ObjectiveError("spectral: F has seen no batch yet; call prepare(online, target) before the loss")
        matrix = self.phi_matrix()
        if u.shape[1] != len(matrix):
            raise ObjectiveError(f"online: F is of width {len(matrix)}, got embeddings of {u.shape[1]} dimensions")
        return u @ matrix.to(u.dtype)

    def phi_matrix(self) -> Tensor:
        """phi(F), (d, d), without graph; computed once for every F."""
        matrix = self.correlation.matrix
        if self.phi == "identity":
            return matrix
        if self._known is None or self._known[0] is not matrix or self._known[1] != matrix._version:
            with torch.no_grad(), torch.autocast(matrix.device.type, enabled=False):
                self._known = (matrix, matrix._version, spectral_function(matrix, self.phi, self.eps))
        return self._known[2]

    def gradient_terms(
        self, online: Sequence[Tensor], target: Sequence[Tensor], view: int = 0, *, shared: bool = False
    ) -> GradientTerms:
        """Positive: the mean of the views it is paired with. Negative: phi(F) u.

        Balance is `balance`; with `shared` the pull comes from both roles of the view and the push from one, so it is
        half of that for two views.
        """
        u, t = checked(online, target)
        share, pulls = partners(u, t, view, shared=shared)
        positive, total = weighted_mean(pulls, u[view])
        pushed = len(t) > (view < len(t))  # whether the view is the online one of any pair
        balance = torch.full((), self.balance * pushed / (total or 1), dtype=u[0].dtype, device=u[0].device)
        with torch.autocast(u[0].device.type, enabled=False):
            negative = self._push(self._centre(u[view]))
        return GradientTerms(positive, negative, balance, share * total / len(u[0]))


def spectral_function(matrix: Tensor, phi: Phi, eps: float) -> Tensor:
    """phi of a symmetric positive semi-definite matrix (d, d); eigenvalues below 0 (rounding) count as 0.

    The inverse goes by Cholesky, four times as fast as the eigenvectors at d = 2048, unless rounding makes the matrix
    indefinite. NaN in, NaN out.
    """
    if phi == "identity":
        return matrix
    if phi == "inverse":
        inverse, trusted = _inverse(matrix, eps)
        if trusted:
            return -inverse
    try:
        s, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return torch.full_like(matrix, float("nan"))
    s = s.clamp_min(0) + eps
    values: Tensor = -1 / s if phi == "inverse" else -s.rsqrt() if phi == "inverse-sqrt" else s.log() + 1
    out: Tensor = (vectors * values) @ vectors.T
    return out


def _inverse(matrix: Tensor, eps: float) -> tuple[Tensor, bool]:
    """(matrix + eps)^-1, and whether to trust it: an entry above 1/eps shows an eigenvalue below 0."""
    shifted = matrix + eps * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    inverse = torch.cholesky_inverse(factor)
    return inverse, bool((failed == 0) & (inverse.diagonal().max() * eps <= 1.001))


def _check(balance: float, phi: str, statistics: str, eps: float) -> None:
    if not 0 <= balance < float("inf"):
        raise ObjectiveError(f"balance must be a number of at least 0, got {balance}")
    if phi not in get_args(Phi):
        raise ObjectiveError(f"phi must be one of {', '.join(get_args(Phi))}, got {phi!r}")
    if statistics not in ("target", "online"):
        raise ObjectiveError(f"statistics must be 'target' or 'online', got {statistics!r}")
    if not 0 <= eps < float("inf"):
        raise ObjectiveError(f"eps must be a number of at least 0, got {eps}")
    if eps == 0 and phi != "identity":
        raise ObjectiveError(f"eps must be above 0 with phi {phi!r}, which is infinite where F has no variance; got 0")
