"""Least squares on few standardised columns, with what tells a fit from a coincidence: leave-one-out errors in closed
form, leverages, a bootstrap of the coefficients, shuffled targets, and whole groups left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siamscope.collapse.arrays import Float64
from siamscope.collapse.errors import CollapseError

_RANK = 1e-8  # of the smallest singular value to the largest, below which columns say the same
_SLACK = 1e-9  # of rounding, when a point is compared with the edge of what was seen
MARGIN = 3
"""Rows beyond the number of columns that a fit needs: one residual degree of freedom is left when one row is out."""


@dataclass(frozen=True)
class LeastSquares:
    """y = intercept + sum_j weights_j (x_j - mean_j) / scale_j over n rows and p columns, p = 0 being the mean of y.

    Attributes:
        inverse: (p, p) (Z^T Z + alpha I)^-1 of the standardised columns.
        leverage: (n,) diagonal of the hat matrix H, y_hat = H y.
        fitted, residuals: (n,).
        sigma: standard deviation of the residuals, over n - trace(H) degrees of freedom.
        freedom: n - trace(H).
    """

    mean: Float64
    scale: Float64
    weights: Float64
    intercept: float
    inverse: Float64
    leverage: Float64
    fitted: Float64
    residuals: Float64
    sigma: float
    freedom: float

    def at(self, x: Float64) -> Float64:
        """(m,) values at the rows of x (m, p)."""
        out: Float64 = self.intercept + (x - self.mean) / self.scale @ self.weights
        return out

    def leverage_at(self, x: Float64) -> Float64:
        """(m,) 1/n + z^T (Z^T Z + alpha I)^-1 z of other rows: how far they lie from the rows of the fit."""
        z = (x - self.mean) / self.scale
        out: Float64 = 1 / len(self.fitted) + np.einsum("ij,jk,ik->i", z, self.inverse, z)
        return out

    def left_out(self) -> Float64:
        """(n,) value at each row of the fit without that row: y - e / (1 - h), exact at this scaling of the columns."""
        y = self.fitted + self.residuals
        out: Float64 = y - self.residuals / (1 - self.leverage)
        return out


def solve(x: Float64, y: Float64, alpha: float = 0.0, names: Sequence[str] = ()) -> LeastSquares:
    """Minimise |y - b - Z w|^2 + alpha |w|^2 over w and b, Z being the columns of x (n, p) standardised (ddof 0).

    Raises:
        CollapseError: too few rows, a column or target that does not vary, columns of which one follows from others.
    """
    n, p = x.shape
    if n < p + MARGIN:
        raise CollapseError(f"{n} runs are too few for {p} features: at least {p + MARGIN} are needed.")
    mean, scale = x.mean(0), x.std(0)
    flat = [str(names[j] if names else j) for j in range(p) if np.ptp(x[:, j]) <= 1e-12 * max(abs(mean[j]), 1e-300)]
    if flat:
        raise CollapseError(f"feature {flat[0]} is the same in all {n} runs: nothing can be learnt from it.")
    if np.ptp(y) == 0:
        raise CollapseError(f"all {n} runs have the same accuracy: there is nothing to forecast.")
    z, intercept = (x - mean) / scale, float(y.mean())
    if p == 0:
        u, s, v = np.zeros((n, 0)), np.zeros(0), np.zeros((0, 0))
    else:
        u, s, v = np.linalg.svd(z, full_matrices=False)
        if alpha == 0 and s[-1] < _RANK * s[0]:
            raise CollapseError(
                f"the features {', '.join(names) or p} are linearly dependent over these runs: leave one out, or give "
                "alpha above 0."
            )
    shrunk = s**2 + alpha
    weights = v.T @ (s / shrunk * (u.T @ (y - intercept)))
    leverage = 1 / n + (u**2 * (s**2 / shrunk)).sum(1)
    fitted = intercept + z @ weights
    freedom = float(n - leverage.sum())
    residuals = y - fitted
    return LeastSquares(
        mean=mean,
        scale=scale,
        weights=weights,
        intercept=intercept,
        inverse=(v.T / shrunk) @ v,
        leverage=leverage,
        fitted=fitted,
        residuals=residuals,
        sigma=float(np.sqrt((residuals**2).sum() / freedom)),
        freedom=freedom,
    )


def edge(value: float) -> float:
    """`value`, a largest leverage, with room for rounding."""
    return value * (1 + _SLACK)


def explained(y: Float64, predicted: Float64) -> float:
    """R^2 = 1 - sum (y - y_hat)^2 / sum (y - mean)^2. Left-out means are a little below 0."""
    return 1 - float(((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def rmse(y: Float64, predicted: Float64) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(((y - predicted) ** 2).mean()))


def ranks(x: Float64) -> Float64:
    """Ranks from 1, ties sharing their mean rank."""
    _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    out: Float64 = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return out


def spearman(a: Float64, b: Float64) -> float:
    """Rank correlation; NaN of fewer than three pairs, or where one of them does not vary."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def bootstrap(x: Float64, y: Float64, fit: LeastSquares, alpha: float, draws: int, seed: int) -> Float64:
    """(draws', 1 + p) intercept and slopes, per unit of the columns, of fits to runs drawn with replacement.

    Draws in which the columns are linearly dependent have no fit; they are left out.
    """
    n, p = x.shape
    z = np.concatenate([np.ones((n, 1)), (x - fit.mean) / fit.scale], axis=1)
    rows = np.random.default_rng(seed).integers(0, n, (draws, n))
    penalty = alpha * np.diag([0.0, *[1.0] * p])
    gram = np.einsum("bni,bnj->bij", z[rows], z[rows])
    usable = np.linalg.cond(gram) < 1e12
    moment = np.einsum("bni,bn->bi", z[rows], y[rows])
    w = np.linalg.solve(gram[usable] + penalty, moment[usable][:, :, None])[:, :, 0]
    slopes = w[:, 1:] / fit.scale
    return np.concatenate([w[:, :1] - slopes @ fit.mean[:, None], slopes], axis=1)


def shuffled(x: Float64, y: Float64, fit: LeastSquares, alpha: float, draws: int, seed: int) -> Float64:
    """(draws,) leave-one-out R^2 of the same features against targets in random order: what chance alone gives."""
    z = (x - fit.mean) / fit.scale
    hat = 1 / len(y) + z @ fit.inverse @ z.T
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(len(y)), (draws, 1)), axis=1)
    targets = y[order]
    errors = (targets - targets @ hat) / (1 - fit.leverage)
    out: Float64 = 1 - (errors**2).sum(1) / ((y - y.mean()) ** 2).sum()
    return out


@dataclass(frozen=True)
class GroupOut:
    """How a fit to the other groups predicts one group.

    Attributes:
        spearman: rank correlation of predicted and measured within the group; NaN of fewer than three runs.
        mae: mean absolute error.  bias: mean of predicted less measured.
        outside: how many of its runs lie outside what the others cover; `Forecaster.predict` would refuse them.
        reason: why there is no fit; the figures are then NaN.
    """

    group: str
    n: int
    spearman: float
    mae: float
    bias: float
    outside: int
    reason: str = ""


def groups_out(
    x: Float64, y: Float64, groups: Sequence[str], alpha: float, names: Sequence[str] = ()
) -> list[GroupOut]:
    """Leave each group out in turn. Predictions are taken as they are, outside of the other groups' range too."""
    out = []
    labels = np.asarray([str(group) for group in groups])
    for group in dict.fromkeys(labels.tolist()):
        own = labels == group
        try:
            fit = solve(x[~own], y[~own], alpha, names)
        except CollapseError as error:
            nan = float("nan")
            out.append(GroupOut(group, int(own.sum()), nan, nan, nan, 0, str(error)))
            continue
        predicted, measured = fit.at(x[own]), y[own]
        gap = predicted - measured
        beyond = ~inside(x[own], fit, x[~own].min(0), x[~own].max(0))
        rank = spearman(predicted, measured) if x.shape[1] else float("nan")
        out.append(GroupOut(group, int(own.sum()), rank, float(abs(gap).mean()), float(gap.mean()), int(beyond.sum())))
    return out


def inside(x: Float64, fit: LeastSquares, low: Float64, high: Float64) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(m,) which rows lie inside the range of every column, and nowhere further out than the fit's own rows.

    Leverage is a convex function, so every mixture of the fit's rows passes.
    """
    slack = _SLACK * np.maximum(abs(low), abs(high))
    box = ((x >= low - slack) & (x <= high + slack)).all(1)
    return np.asarray(box & (fit.leverage_at(x) <= edge(float(fit.leverage.max()))))
