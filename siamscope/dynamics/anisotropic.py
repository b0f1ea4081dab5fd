"""Data of unequal variances: the scalar network (w_p, w, w_a) and the fixed points of appendix D.

Source: Tian, Chen & Ganguli 2021 (arXiv:2102.06810), appendix D; its Sigma^d is X and its Sigma^s is X + X'.
Where everything commutes, `Modes(signal=..., sigma2=...)` is the same flow in p = w_p, s = w^2, tau = w_a / w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import linalg

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float, Rate
from siamscope.dynamics.systems import Layout, System

ScalarTarget = Literal["ema", "online", "frozen"]


@dataclass(frozen=True, eq=False)
class ScalarNetwork(System):
    """A network of one weight a layer, with stop-gradient; e = signal w_a - (signal + sigma2) w_p w:

    dw_p/dt = alpha_p e w - eta_p w_p,   dw/dt = w_p e - eta w,   dw_a/dt = beta (w - w_a).

    target: "ema"; "online": w_a = w at all times (SimSiam); "frozen": w_a stays at `frozen`.
    predictor: False holds w_p at 1.
    The state has the weights that move: w_p if there is a predictor, w, and w_a if the target is "ema".
    """

    alpha_p: Rate = 1.0
    eta: Rate = 0.0
    beta: Rate = 1.0
    signal: Rate = 1.0
    sigma2: Rate = 0.0
    eta_p: Rate | None = None
    target: ScalarTarget = "ema"
    frozen: Rate = 1.0
    predictor: bool = True

    def __post_init__(self) -> None:
        errors.choice("target", self.target, ("ema", "online", "frozen"))
        errors.flag("predictor", self.predictor)
        self._set(
            alpha_p=errors.rate("alpha_p", self.alpha_p, above=True),
            eta=errors.rate("eta", self.eta),
            beta=errors.rate("beta", self.beta),
            signal=errors.rate("signal", self.signal),
            sigma2=errors.rate("sigma2", self.sigma2),
            frozen=errors.rate("frozen", self.frozen, low=-np.inf),
        )
        if self.eta_p is not None:
            self._set(eta_p=errors.rate("eta_p", self.eta_p))

    @property
    def layout(self) -> Layout:
        moving = (self.predictor, True, self.target == "ema")
        return Layout(tuple((name, ()) for name, moves in zip(("w_p", "w", "w_a"), moving, strict=True) if moves))

    def rhs(self, t: float | Float, y: Float) -> Float:
        w_p = y[..., 0] if self.predictor else 1.0
        w = y[..., int(self.predictor)]
        w_a = y[..., -1] if self.target == "ema" else w if self.target == "online" else self.frozen
        gap = self.signal * w_a - (self.signal + self.sigma2) * w_p * w
        out = np.empty_like(y)
        if self.predictor:
            out[..., 0] = self.alpha_p * gap * w - (self.eta if self.eta_p is None else self.eta_p) * w_p
        out[..., int(self.predictor)] = w_p * gap - self.eta * w
        if self.target == "ema":
            out[..., -1] = self.beta * (w - w_a)
        return out


def jacobian(system: System, y: npt.ArrayLike, t: float = 0.0) -> Float:
    """d rhs / dy (size, size) at one state y (size,), by central differences; relative error about 1e-10."""
    state = errors.array("y", y, (system.layout.size,))
    if state.ndim != 1:
        raise DynamicsError(f"y must be one state; it has shape {state.shape}.")
    step = 6e-6 * np.maximum(np.abs(state), 1.0)
    moves = np.diag(step)
    columns = [(system.rhs(t, state + move) - system.rhs(t, state - move)) / (2 * move.sum()) for move in moves]
    return np.stack(columns, axis=-1)


def fixed_points(x: npt.ArrayLike, x_noise: npt.ArrayLike, rows: npt.ArrayLike) -> tuple[Float, Float]:
    """(W, W_p) at rest without weight decay: W (k, n) of the chosen left eigenvectors of X (X + X')^-1, W_p (k, k)
    diagonal with their eigenvalues, largest first. With W_a = W. Any invertible S gives another: S W, S W_p S^-1.

    Args:
        x, x_noise: (n, n), positive semi-definite, with X + X' invertible.
        rows: which eigenvectors, 0 being that of the largest eigenvalue.
    """
    signal, noise = errors.psd("x", x), errors.psd("x_noise", x_noise)
    if signal.shape != noise.shape:
        raise DynamicsError(f"x_noise has shape {noise.shape}; x has {signal.shape}.")
    try:  # v^T X (X + X')^-1 = m v^T  <=>  X v = m (X + X') v
        values, vectors = linalg.eigh(signal, signal + noise)
    except linalg.LinAlgError:
        raise DynamicsError("x + x_noise must be invertible.") from None
    picked = np.asarray(rows)
    if picked.ndim != 1 or picked.dtype.kind not in "iu" or (picked < 0).any() or (picked >= len(values)).any():
        raise DynamicsError(
            f"rows must be a list of whole numbers from 0 to {len(values) - 1}; it is {errors.shown(rows)}."
        )
    return np.asarray(vectors.T[::-1][picked], dtype=np.float64), np.diag(values[::-1][picked])


def multiplicative(x: npt.ArrayLike, kept: npt.ArrayLike, scrambled: npt.ArrayLike) -> tuple[Float, Float]:
    """(X, X') of augmentation x -> (P + U B U^T) x with B random of mean 0 and E[B U^T Sx U B^T] = U^T Sx U.

    `kept` (n, k) and `scrambled` (n, n - k) hold orthonormal columns that span the kept and the scrambled subspace.
    X = P Sx P with P = kept kept^T, and X + X' = Sx, provided that Sx does not mix the two subspaces.
    """
    sx = errors.psd("x", x)
    keep, lose = errors.real("kept", kept), errors.real("scrambled", scrambled)
    matrices = keep.ndim == lose.ndim == 2 and len(keep) == len(lose)
    both = np.concatenate([keep, lose], axis=1) if matrices else np.zeros((0, 0))
    if both.shape != sx.shape or not np.allclose(both.T @ both, np.eye(len(sx)), atol=1e-10):
        raise DynamicsError("kept and scrambled must together hold an orthonormal basis in their columns.")
    if not np.allclose(keep.T @ sx @ lose, 0, atol=1e-10 * max(1.0, float(np.abs(sx).max()))):
        raise DynamicsError("x mixes kept and scrambled: x_noise would not be positive semi-definite.")
    projector = keep @ keep.T
    signal = projector @ sx @ projector
    return signal, sx - signal
