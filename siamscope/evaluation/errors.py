"""The one exception of this room, and the checks that raise it."""

from typing import Any, TypeAlias

import torch
from torch import Tensor

Array: TypeAlias = Any  # np.ndarray or torch.Tensor


class EvaluationError(ValueError):
    """Features, labels or options that cannot be evaluated; the message says what was wrong and what to do."""


def feature_matrix(features: Array, what: str, *, width: int | None = None) -> Tensor:
    """`features` as a detached floating-point tensor (N, d), N >= 1, without copying where possible.

    Raises EvaluationError on another shape, on a width other than `width`, and on NaN or infinite entries.
    """
    x = torch.as_tensor(features).detach()
    if x.ndim != 2 or x.shape[0] < 1 or x.shape[1] < 1:
        raise EvaluationError(f"{what} have shape {tuple(x.shape)}; expected (N, d), one row per image, N >= 1.")
    if width is not None and x.shape[1] != width:
        raise EvaluationError(f"{what} have {x.shape[1]} dimensions, the others {width}; use one encoder for all.")
    if not x.is_floating_point():
        x = x.float()
    if torch.isfinite(x.sum()):  # a single pass: then every entry is finite
        return x
    bad = (~torch.isfinite(x)).any(1)
    if bad.any():
        raise EvaluationError(
            f"{what} hold NaN or infinite entries in {int(bad.sum())} of {len(x)} rows (first: row "
            f"{int(bad.nonzero()[0, 0])}); the encoder has diverged, or half precision overflowed."
        )
    return x


def label_vector(labels: Array, n: int, what: str) -> Tensor:
    """`labels` as an int64 tensor (n,). Raises EvaluationError on another length or on labels that are not integers."""
    y = torch.as_tensor(labels).detach()
    if y.ndim != 1 or y.shape[0] != n:
        raise EvaluationError(f"{what} have shape {tuple(y.shape)}; expected one label for each of {n} features.")
    if y.is_floating_point() or y.is_complex():
        raise EvaluationError(f"{what} are {y.dtype}; class labels must be integers.")
    return y.long()
