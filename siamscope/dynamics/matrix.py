"""The linear Siamese network as a gradient flow: W (n2, n1), predictor W_p (n2, n2), target W_a (n2, n1).

    J = 1/2 E |W_p W x1 - W_a x2|^2                                                          (1)
    G = W_a X - W_p W (X + X')
    dW_p/dt = alpha_p G W^T - eta_p W_p                                                      (2)
    dW/dt   = W_p^T G - eta W                                                                (3)
    dW_a/dt = beta (W - W_a)                                                                 (4)

x1 and x2 are two augmented views of a sample; X = E[m m^T] for the mean m of a sample's views, X' is the mean
covariance of the views around it. Equation numbers are those of Tian, Chen & Ganguli 2021 (arXiv:2102.06810).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from siamscope.dynamics import errors
from siamscope.dynamics.errors import DynamicsError, Float, Rate, per_row
from siamscope.dynamics.errors import transposed as _t
from siamscope.dynamics.systems import Layout, System

Target = Literal["ema", "online"]
Predictor = Literal["trained", "symmetric", "none", "optimal"]


@dataclass(frozen=True, eq=False)
class MatrixFlow(System):
    """Gradient flow of W, W_p, W_a for any X, X' and any widths. Parts of the state: W, W_p if trained, W_a if EMA.

    x, x_noise: X and X' (n1, n1), symmetric positive semi-definite.  width: n2.  The rates are numbers, or vectors (n,)
        with one value for each trajectory.
    alpha_p: the predictor's learning rate over the encoder's.  eta, eta_p: weight decay of W, of W_p (None: the same).
    target: "ema" with rate beta (BYOL); "online", W_a = W at all times (SimSiam).
    stop_gradient: False lets the gradient through the target too, which needs target "online".
    predictor: "trained"; "symmetric", where the symmetric part of its gradient acts (assumption 3; W_p must start
        symmetric); "none", W_p = I; "optimal", W_p = W_a X W^T [W (X + X') W^T]^-1 at all times, in its least-
        norm form where that inverse does not exist.
    """

    x: Float
    x_noise: Float
    width: int
    alpha_p: Rate = 1.0
    eta: Rate = 0.0
    beta: Rate = 1.0
    eta_p: Rate | None = None
    target: Target = "ema"
    stop_gradient: bool = True
    predictor: Predictor = "trained"

    def __post_init__(self) -> None:
        errors.choice("target", self.target, ("ema", "online"))
        errors.choice("predictor", self.predictor, ("trained", "symmetric", "none", "optimal"))
        errors.flag("stop_gradient", self.stop_gradient)
        self._set(x=errors.psd("x", self.x), x_noise=errors.psd("x_noise", self.x_noise))
        if self.x.shape != self.x_noise.shape:
            raise DynamicsError(f"x_noise has shape {self.x_noise.shape}; x has {self.x.shape}.")
        self._set(
            width=errors.whole("width", self.width),
            alpha_p=errors.rate("alpha_p", self.alpha_p, above=True),
            eta=errors.rate("eta", self.eta),
            beta=errors.rate("beta", self.beta),
        )
        if self.eta_p is not None:
            self._set(eta_p=errors.rate("eta_p", self.eta_p))
        if not self.stop_gradient and self.target != "online":
            raise DynamicsError("stop_gradient=False needs target='online': no gradient reaches an EMA target anyway.")

    @cached_property
    def layout(self) -> Layout:
        n2, n1 = self.width, len(self.x)
        parts: list[tuple[str, tuple[int, ...]]] = [("W", (n2, n1))]
        if self._moves:
            parts.append(("W_p", (n2, n2)))
        if self.target == "ema":
            parts.append(("W_a", (n2, n1)))
        return Layout(tuple(parts))

    @property
    def _moves(self) -> bool:
        return self.predictor in ("trained", "symmetric")

    @cached_property
    def moment(self) -> Float:
        """X + X' = E[x1 x1^T]."""
        return self.x + self.x_noise

    def check_start(self, parts: Mapping[str, Float]) -> None:
        if self.predictor == "symmetric":
            errors.symmetric("W_p", parts["W_p"])

    def weights(self, y: Float) -> tuple[Float, Float | None, Float]:
        """(W, W_p, W_a) of the states y (..., size); W_p is None where it is the identity."""
        parts = self.layout.unpack(y)
        w = parts["W"]
        w_a = parts.get("W_a", w)
        if self.predictor == "optimal":
            return w, _optimal(w, w_a, self.x, self.moment), w_a
        return w, parts.get("W_p"), w_a

    def rhs(self, t: float | Float, y: Float) -> Float:
        w, w_p, w_a = self.weights(y)
        seen = w if w_p is None else w_p @ w
        g = w_a @ self.x - seen @ self.moment
        dw = (g if w_p is None else _t(w_p) @ g) - per_row(self.eta, 2) * w
        if not self.stop_gradient:
            dw += seen @ self.x - w_a @ self.moment
        parts = {"W": dw}
        if self._moves and w_p is not None:
            step = g @ _t(w)
            if self.predictor == "symmetric":
                step = (step + _t(step)) / 2
            parts["W_p"] = per_row(self.alpha_p, 2) * step - per_row(self.decay_p, 2) * w_p
        if self.target == "ema":
            parts["W_a"] = per_row(self.beta, 2) * (w - w_a)
        return self.layout.pack(parts)

    @property
    def decay_p(self) -> Rate:
        """The predictor's weight decay."""
        return self.eta if self.eta_p is None else self.eta_p

    def objective(self, y: Float) -> Float:
        """J (...,) of eq. (1), without weight decay. NaN in, NaN out."""
        w, w_p, w_a = self.weights(y)
        return _objective(w, w_p, w_a, self.x, self.moment)

    def predictor_at(self, y: Float) -> Float:
        """W_p (..., n2, n2), whichever kind of predictor it is."""
        w, w_p, _ = self.weights(y)
        return np.broadcast_to(np.eye(self.width), (*w.shape[:-2], self.width, self.width)) if w_p is None else w_p

    def balance(self, y: Float) -> Float:
        """W W^T - W_p^T W_p / alpha_p (..., n2, n2), which decays as exp(-2 eta t): theorem 1, eq. (5).

        For any data, if eta_p = eta. The paper's appendix leaves out 1 / alpha_p. With predictor "symmetric" it does
        not hold; its trace does.
        """
        w, w_p = self.weights(y)[0], self.predictor_at(y)
        return np.asarray(w @ _t(w) - _t(w_p) @ w_p / per_row(self.alpha_p, 2))


def objective(w: Float, w_p: Float | None, w_a: Float, x: npt.ArrayLike, x_noise: npt.ArrayLike) -> Float:
    """J = 1/2 tr[W_p W (X + X') W^T W_p^T - 2 W_p W X W_a^T + W_a (X + X') W_a^T], (...,); eq. (1) in closed form.

    x, x_noise: symmetric. Estimates from a sample, which need not be positive semi-definite, are taken.

    Raises:
        DynamicsError: shapes that do not fit, NaN or infinity, a matrix that is not symmetric.
    """
    signal, moment = _pair(x, x_noise)
    w, w_p, w_a = _weights(w, w_p, w_a, len(signal))
    return _objective(w, w_p, w_a, signal, moment)


def _objective(w: Float, w_p: Float | None, w_a: Float, signal: Float, moment: Float) -> Float:
    seen = w if w_p is None else w_p @ w
    entries = (seen @ moment) * seen - 2 * (seen @ signal) * w_a + (w_a @ moment) * w_a
    return np.asarray(entries.sum((-2, -1)) / 2, dtype=np.float64)


def gradients(w: Float, w_p: Float, w_a: Float, x: npt.ArrayLike, x_noise: npt.ArrayLike) -> tuple[Float, Float, Float]:
    """dJ/dW, dJ/dW_p, dJ/dW_a, each (..., of its argument's shape); lemma 1. Weight decay is not in them.

    Takes and refuses what `objective` does.
    """
    signal, moment = _pair(x, x_noise)
    w, p, w_a = _weights(w, w_p, w_a, len(signal))
    if p is None:
        raise DynamicsError("w_p must be a matrix; without a predictor it is the identity.")
    g = w_a @ signal - p @ w @ moment
    return -_t(p) @ g, -g @ _t(w), w_a @ moment - p @ w @ signal


def hessian(w_p: npt.ArrayLike, x: npt.ArrayLike, x_noise: npt.ArrayLike, eta: float = 0.0) -> Float:
    """H (n1 n2, n1 n2) of theorem 2: without stop-gradient and with W_a = W, d vec(W)/dt = -H vec(W).

    H = X' (x) (W_p^T W_p + I) + X (x) (W_p - I)^T (W_p - I) + eta I, where vec stacks columns: W.ravel(order="F"). For
    numpy's row-major ravel the factors of each Kronecker product change places. Eq. (6).

    x, x_noise: symmetric positive semi-definite, without which H need not be.
    """
    signal, noise = errors.psd("x", x), errors.psd("x_noise", x_noise)
    _pair(signal, noise)
    p = errors.array("w_p", w_p, ())
    if p.ndim != 2 or p.shape[0] != p.shape[1]:
        raise DynamicsError(f"w_p must be square; it has shape {p.shape}.")
    one = np.eye(len(p))
    decay = errors.number("eta", eta, low=0) * np.eye(len(p) * len(signal))
    return np.asarray(np.kron(noise, p.T @ p + one) + np.kron(signal, (p - one).T @ (p - one)) + decay)


def optimal_predictor(w: Float, w_a: Float, x: npt.ArrayLike, x_noise: npt.ArrayLike) -> Float:
    """W_a X W^T [W (X + X') W^T]^-1 (..., n2, n2), the W_p of least J; of several, that of least norm.

    Takes and refuses what `objective` does.
    """
    signal, moment = _pair(x, x_noise)
    w, _, w_a = _weights(w, None, w_a, len(signal))
    return _optimal(w, w_a, signal, moment)


def _optimal(w: Float, w_a: Float, signal: Float, moment: Float) -> Float:
    return least_squares(w @ moment @ _t(w), w_a @ signal @ _t(w))


def least_squares(gram: Float, cross: Float) -> Float:
    """cross gram^-1 (..., n2, n2) for symmetric gram = E[f f^T] and cross = E[f_a f^T]; of several, that of least norm.

    NaN in, NaN out.
    """
    try:
        return np.asarray(_t(np.linalg.solve(gram, _t(cross)).astype(np.float64, copy=False)))
    except np.linalg.LinAlgError:
        fine = np.isfinite(gram).all((-2, -1), keepdims=True)
        inverse = np.linalg.pinv(np.where(fine, gram, 0.0), hermitian=True)
        return np.where(fine, cross @ inverse, np.nan)


def subspace(dimension: int, rank: int, sigma2: float) -> tuple[Float, Float]:
    """(X, X') = (I, sigma2 P_B): unit variance everywhere, noise on all but the first `rank` coordinates.

    The setting of Wang, Chen, Du & Tian 2021 (arXiv:2110.04947); rank 0 is assumption 2 of DirectPred, X' = sigma2 I.
    """
    errors.whole("dimension", dimension)
    if errors.whole("rank", rank, low=0) > dimension:
        raise DynamicsError(f"rank={rank} is more than dimension={dimension}.")
    noisy = np.arange(dimension) >= rank
    return np.eye(dimension), np.diag(errors.number("sigma2", sigma2, low=0) * noisy)


def _pair(x: npt.ArrayLike, x_noise: npt.ArrayLike) -> tuple[Float, Float]:
    """X and X + X', of finite numbers and symmetric."""
    signal, noise = errors.array("x", x, ()), errors.array("x_noise", x_noise, ())
    if signal.ndim != 2 or signal.shape[0] != signal.shape[1] or signal.shape != noise.shape:
        raise DynamicsError(f"x and x_noise must be two square matrices of one size; {signal.shape}, {noise.shape}.")
    errors.symmetric("x", signal)
    errors.symmetric("x_noise", noise)
    return signal, signal + noise


def _weights(w: Float, w_p: Float | None, w_a: Float, n1: int) -> tuple[Float, Float | None, Float]:
    """Weights (..., n2, n1), (..., n2, n2), (..., n2, n1) of finite numbers, batch axes that fit together."""
    w, w_a = errors.array("w", w, ()), errors.array("w_a", w_a, ())
    p = None if w_p is None else errors.array("w_p", w_p, ())
    shapes = [w.shape, None if p is None else p.shape, w_a.shape]
    n2 = w.shape[-2] if w.ndim >= 2 else 0
    want = [(n2, n1), (n2, n2), (n2, n1)]
    if any(shape is not None and shape[-2:] != last for shape, last in zip(shapes, want, strict=True)):
        raise DynamicsError(f"w, w_p, w_a must be (n2, {n1}), (n2, n2), (n2, {n1}), batch axes first; {shapes}.")
    try:
        np.broadcast_shapes(*(shape[:-2] for shape in shapes if shape is not None))
    except ValueError:
        raise DynamicsError(f"w, w_p, w_a have batch axes that do not fit together: {shapes}.") from None
    return w, p, w_a
