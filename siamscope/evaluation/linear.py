"""Multinomial logistic regression on fixed features, fitted to convergence."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from siamscope.evaluation.errors import EvaluationError

_ROTATE_UP_TO = 4096  # dimensions whose d x d eigenproblem is still cheaper than the steps it saves
_EMPTY = 1e-12  # variance, relative to the largest, of an axis along which nothing varies
_TOLERANCE = 1e-5  # largest gradient entry, in coordinates of unit curvature: the weights' relative error follows it
_TRIALS = 6  # steps that a line search tries: one or two do, unless what is left to gain is rounding noise
_TILE = 1 << 19  # entries of the features that are worked on at once: 2 MiB of float32
_STALL = 1e-10  # relative decrease of the loss below which float32 can no longer tell a step from rounding


@dataclass(frozen=True)
class LinearClassifier:
    """Softmax regression on standardised features: logits = ((x - mean) / scale) @ weight + bias.

    Attributes:
        mean, scale: (d,) of the training features; a constant feature has scale 1.
        weight, bias: (d, C) and (C,), on standardised features.
        classes: (C,) int64, ascending: the label of each column.
        l2: penalty it was fitted with.
        converged: whether the gradient fell below the tolerance within the iterations allowed.
        iterations: L-BFGS iterations taken.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    classes: Tensor
    l2: float
    converged: bool
    iterations: int

    def logits(self, x: Tensor) -> Tensor:
        """(N, C) logits of raw features (N, d), in the classifier's precision and on its device."""
        x = x.to(self.weight)
        return ((x - self.mean) / self.scale) @ self.weight + self.bias


class LogisticFit:
    """Fits for one training set and any number of penalties, each started from the one before.

    Minimises mean cross-entropy + l2/2 * |weight|^2 (bias not penalised) over standardised features, which is scikit-
    learn's LogisticRegression(C = 1 / (N * l2)).

    The features are rotated into their principal axes, which leaves the penalty as it is, and there each coordinate is
    scaled by the curvature it has at equal class probabilities, sqrt(variance / C + l2). Features that vary a
    thousandfold more in one direction than in another then need tens of L-BFGS iterations instead of thousands.
    """

    def __init__(self, x: Tensor, y: Tensor, *, dtype: torch.dtype = torch.float32) -> None:
        """`x` (N, d) finite features, `y` (N,) integer labels of at least two classes;

        computes in `dtype` on x's device.
        """
        self.classes, self._target = torch.unique(y.to(x.device), return_inverse=True)
        if len(self.classes) < 2:
            raise EvaluationError(f"a probe needs at least 2 classes in the training labels, not {len(self.classes)}.")
        n, d = x.shape
        parts = torch.split(x, max(_TILE // d, 128) if x.device.type == "cpu" else n)
        self.mean = _sum_of(part.sum(0, dtype=torch.float64) for part in parts) / n
        deviation = (_sum_of((part - self.mean).square().sum(0) for part in parts) / n).sqrt()
        constant = deviation <= 1e-12 * torch.maximum(x.amax(0), -x.amin(0))
        self.scale = deviation.masked_fill(constant, 1.0)

        def standard() -> Iterator[Tensor]:
            for part in parts:
                yield ((part - self.mean) / self.scale).masked_fill(constant, 0.0)

        self._variances, self._axes = _principal_axes(standard(), n, d)
        self._x = x.new_empty(n, len(self._variances), dtype=dtype)
        for place, part in zip(torch.split(self._x, len(parts[0])), standard(), strict=True):
            place.copy_(part if self._axes is None else part @ self._axes)
        self._weight: NDArray[np.float64] = np.zeros((self._x.shape[1], len(self.classes)))
        self._bias: NDArray[np.float64] = np.zeros(len(self.classes))

    def fit(self, l2: float, *, max_iter: int = 500) -> LinearClassifier:
        """The minimiser for penalty `l2` > 0, started from the last one fitted."""
        if not l2 > 0:
            raise EvaluationError(f"l2 must be positive, not {l2}: unpenalised, separable classes have no minimum.")
        d, n_classes = self._weight.shape
        scale = 1 / np.sqrt(self._variances.cpu().numpy() / n_classes + l2)[:, None]
        # The bias sees a constant feature of variance 1.
        bias_scale = n_classes**0.5

        def objective(v: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight, bias = v[:-n_classes].reshape(d, n_classes) * scale, v[-n_classes:] * bias_scale
            loss, by_weight, by_bias = self._cross_entropy(weight, bias)
            loss += 0.5 * l2 * float((weight**2).sum())
            return loss, np.concatenate([((by_weight + l2 * weight) * scale).ravel(), by_bias * bias_scale])

        start = np.concatenate([(self._weight / scale).ravel(), self._bias / bias_scale])
        limits = {"maxiter": max_iter, "maxfun": 2 * max_iter, "maxls": _TRIALS}
        options = limits | {"gtol": _TOLERANCE, "ftol": _STALL}
        solution = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self._weight = solution.x[:-n_classes].reshape(d, n_classes) * scale
        self._bias = solution.x[-n_classes:] * bias_scale
        # In float32 the line search can stall a little above the tolerance, on rounding noise of the loss.
        converged = bool(np.abs(solution.jac).max() <= 10 * _TOLERANCE)
        return self._classifier(l2, converged, int(solution.nit))

    def _cross_entropy(
        self, weight: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Mean cross-entropy and its gradients in (rotated) weight and bias."""
        x, n = self._x, len(self._x)
        offset, slope = torch.as_tensor(bias).to(x)[:, None], torch.as_tensor(weight.T).to(x)
        by_weight = slope.new_zeros(slope.shape, dtype=torch.float64)
        by_bias, loss = by_weight.new_zeros(len(slope)), by_weight.new_zeros(())
        # On a CPU as many rows at once as its cache holds between the two products: memory then is read once.
        rows = max(_TILE // x.shape[1], 128) if x.device.type == "cpu" else n
        ones = x.new_ones(rows)
        for part, target in zip(torch.split(x, rows), torch.split(self._target[None], rows, dim=1), strict=True):
            # Class-major (C, rows): with few classes, products and softmax are several times faster this way round.
            log_p = torch.addmm(offset, slope, part.T).log_softmax(0)
            loss -= log_p.gather(0, target).sum(dtype=torch.float64)
            residual = log_p.exp_()
            residual.scatter_add_(0, target, residual.new_full((1, 1), -1.0).expand(target.shape))
            by_weight += residual @ part
            by_bias += residual @ ones[: len(part)]  # several times faster than a sum
        return float(loss) / n, by_weight.T.cpu().numpy() / n, by_bias.cpu().numpy() / n

    def _classifier(self, l2: float, converged: bool, iterations: int) -> LinearClassifier:
        weight = torch.as_tensor(self._weight).to(self.mean)
        bias = torch.as_tensor(self._bias).to(self.mean)
        return LinearClassifier(
            mean=self.mean,
            scale=self.scale,
            weight=weight if self._axes is None else self._axes @ weight,
            bias=bias,
            classes=self.classes,
            l2=l2,
            converged=converged,
            iterations=iterations,
        )


def _sum_of(parts: Iterable[Tensor]) -> Tensor:
    """The sum of tensors that are made one after the other."""
    parts = iter(parts)
    total = next(parts).clone()
    for part in parts:
        total += part
    return total


def _principal_axes(standard: Iterable[Tensor], n: int, d: int) -> tuple[Tensor, Tensor | None]:
    """Variances (r,) along the principal axes and the axes (d, r); the plain variances and None when d is too large.

    Only the r axes along which the features vary at all: fewer samples than dimensions leave the others empty, and the
    penalty keeps the weight there at zero.
    """
    if d > _ROTATE_UP_TO:
        return _sum_of(part.square().sum(0) for part in standard) / n, None
    variances, axes = torch.linalg.eigh(_sum_of(part.T @ part for part in standard) / n)
    kept = variances > _EMPTY * variances[-1]
    if not kept.any():  # constant features
        kept[-1] = True
    return variances[kept].clamp_min(0), axes[:, kept]


def accuracy(logits: Tensor, classes: Tensor, labels: Tensor, top: Sequence[int] = (1,)) -> list[Tensor]:
    """For each k of `top`, whether the label is among the k largest logits:

    (N,) bool. Labels outside `classes` are misses.
    """
    best = classes[logits.topk(min(max(top), len(classes)), dim=1).indices]
    return [(best[:, :k] == labels[:, None]).any(1) for k in top]
