"""LiDAR (Thilak et al., ICLR 2024): the effective rank of what tells images apart, beside what views of one differ in.

It needs several views of every image, grouped by image; chunks of a queue of unrelated samples do not do.
"""

import math
import warnings

import numpy as np

from siamscope.collapse.arrays import (
    Array,
    Float64,
    is_tensor,
    number_format,
    require_finite,
    require_matrix,
    require_numbers,
    to_float64,
    to_numpy,
)
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.spectrum import CovarianceState, TooFewSamples

WHAT = "the views' embeddings"
DELTA = 1e-4
"""Added to the diagonal of Sw, as others do."""
_CHUNK_ENTRIES = 1 << 20


def lidar(views: Array, *, delta: float = DELTA, eps: float = 0.0) -> float:
    """exp of the entropy (nats) of p, p_i = lambda_i / sum(lambda) + eps, for the eigenvalues of Sw^-1/2 Sb Sw^-1/2.

    Sb is the covariance of the images' mean embeddings, Sw the mean covariance of the views of one image (divisors n
    and q) plus delta I. From 1 to min(d, n - 1), which is a rank, not a share: compare runs with the same d, n and q.

    `views` (n, q, d): q views of each of n images, an array or a tensor. The paper takes n > d (1,000 to 10,000) and q
    = 50 or 10; its values of delta and eps are not in the text. Others take delta = 1e-4, and so do we; because of it
    the score depends on the scale of embeddings whose views differ by less than about sqrt(delta). eps is added outside
    the division and to all d shares; 0 by default, with 0 log 0 = 0: then the value cannot pass its bound, whereas the
    1e-7 of others reads 64.0013 for 64 equal directions. The score can correlate negatively with accuracy for large
    VICReg embeddings (the paper's own limitation). If all images have one mean, up to rounding (complete collapse), it
    is 1.

    Raises:
        CollapseError: not (n, q, d) with n >= 2 and q >= 2, NaN or infinity, delta not above 0, or eps below 0.
    Warns:
        TooFewSamples: n - 1 < d.
    """
    require_numbers(views, WHAT)
    shape = tuple(views.shape)
    if len(shape) != 3 or shape[2] < 1:
        raise CollapseError(f"{WHAT} have shape {shape}; expected (images, views, d), see group_views.")
    n, q, d = shape
    if n < 2 or q < 2:
        raise CollapseError(f"LiDAR needs at least 2 images with at least 2 views each, not {n} with {q}.")
    if not 0 < delta < math.inf or not 0 <= eps < math.inf:
        raise CollapseError(f"delta must be above 0 and eps at least 0, got {delta} and {eps}.")
    if n - 1 < d:
        warnings.warn(
            f"{n} images in {d} dimensions: LiDAR cannot pass {n - 1}; take more images than dimensions.",
            TooFewSamples,
            stacklevel=2,
        )
    means, within = _scatters(views)
    if means.is_point(number_format(views)[1]):
        return 1.0
    between = to_numpy(means.m2) / n
    root = np.linalg.cholesky(within + delta * np.eye(d))
    half = np.linalg.solve(root, between)
    values = np.linalg.eigvalsh(np.linalg.solve(root, half.T))[::-1]  # those of Sw^-1/2 Sb Sw^-1/2
    values = np.clip(values[: min(d, n - 1)], 0, None)
    if values[0] <= 0:
        return 1.0
    shares = np.zeros(d)
    shares[: len(values)] = values / values.sum()
    shares += eps
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _scatters(views: Array) -> tuple[CovarianceState, Float64]:
    """The images' means, and Sw (d, d) without delta: in chunks of images, each measured from its own mean."""
    n, q, d = views.shape
    means = CovarianceState(d)
    within: Array = 0.0
    step = max(_CHUNK_ENTRIES // (q * d), -(-d // q), 1)
    for start in range(0, n, step):
        block = to_float64(views[start : start + step])
        require_finite(block, WHAT)
        shifted = block - block[:, :1]  # equal views then differ by exactly nothing
        offset = shifted.mean(1)
        rows = (shifted - offset[:, None]).reshape(-1, d)
        within = within + rows.T @ rows
        means.update(block[:, 0] + offset)
    return means, to_numpy(within) / (n * q)


def group_views(features: Array, group_ids: Array) -> Array:
    """Rows (N, d) as (n, q, d), views of one image together: images in the order of their ids, views in that of rows.

    `group_ids` (N,): which image a row is a view of; numbers or names, an array, a tensor or a list.

    Raises:
        CollapseError: another number of ids than of rows, or images with different numbers of views.
    """
    require_matrix(features, "the feature matrix")
    ids = np.asarray(group_ids.detach().cpu().numpy() if is_tensor(group_ids) else group_ids)
    n = features.shape[0]
    if ids.shape != (n,) or n == 0:
        raise CollapseError(f"there are {n} rows and ids of shape {ids.shape}; give one id for each row.")
    names, group, counts = np.unique(ids, return_inverse=True, return_counts=True)
    if counts.min() != counts.max():
        few, many = int(counts.argmin()), int(counts.argmax())
        raise CollapseError(
            f"LiDAR needs as many views of one image as of another, but {names[few]} has {counts[few]} and "
            f"{names[many]} has {counts[many]}; drop the surplus views, or embed the missing ones."
        )
    order = np.argsort(group.reshape(-1), kind="stable")
    rows = (features if is_tensor(features) else np.asarray(features))[order]
    return rows.reshape(len(names), int(counts[0]), features.shape[1])
