"""The little this room needs to treat numpy arrays and torch tensors alike, without importing torch.

Both know ``@``, ``.T``, ``.mean(axis)`` and broadcasting, so the covariance is computed where the features live (on a
GPU if they are there); only conversion and finiteness differ, and those live here.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from siamscope.collapse.errors import CollapseError

Array: TypeAlias = Any  # np.ndarray or torch.Tensor
Float64: TypeAlias = NDArray[np.float64]


_CHUNK_ENTRIES = 1 << 19  # 4 MiB in float64: near the cache; several times faster than going over all rows at once


def is_tensor(x: object) -> bool:
    """True for a torch tensor, recognised by its methods so that torch need not be imported."""
    return hasattr(x, "detach") and hasattr(x, "cpu")


def detached(x: Array) -> Array:
    """`x` as an array, or as a tensor off the graph (on the CPU where the device has no float64), to compute with."""
    if is_tensor(x):
        x = x.detach()
        x = x.cpu() if x.device.type == "mps" else x
        return x if x.is_floating_point() else x.double()
    return np.asarray(x)


def to_float64(x: Array) -> Array:
    """`x` in float64, detached from the graph, on its own device (on the CPU where the device has no float64)."""
    return detached(x).double() if is_tensor(x) else np.asarray(x, dtype=np.float64)


def to_numpy(x: Array) -> Float64:
    """`x` as a float64 numpy array."""
    x = to_float64(x)
    return np.asarray(x.cpu().numpy() if is_tensor(x) else x, dtype=np.float64)


def like(x: Array, reference: Array) -> Array:
    """`x` in the kind (array or tensor) and on the device of `reference`."""
    if not is_tensor(reference):
        return to_numpy(x)
    return x.to(reference.device) if is_tensor(x) else reference.new_tensor(x)


def is_finite(x: Array) -> bool:
    """True when no entry of the float64 `x` is NaN or infinite."""
    return bool((abs(x) < float("inf")).all())  # NaN compares false


def require_matrix(x: Array, what: str) -> None:
    """Raise CollapseError unless `x` has two axes and at least one column."""
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) != 2 or shape[1] < 1:
        raise CollapseError(f"{what} has shape {shape}; expected (N, d), one row per image and d >= 1.")


def require_finite(x: Array, what: str) -> None:
    """Raise CollapseError when the float64 `x` holds NaN or infinity."""
    if not is_finite(x):
        raise CollapseError(
            f"{what} holds NaN or infinite entries, so it has no spectrum; "
            "look for a diverged loss or an overflow in half precision."
        )


def in_chunks(x: Array) -> Iterator[Array]:
    """Consecutive blocks of rows of `x`: small, but at least d rows, so that d x d work per block stays minor."""
    step = max(_CHUNK_ENTRIES // x.shape[1], x.shape[1])
    for start in range(0, x.shape[0], step):
        yield x[start : start + step]


def unit_rows(x: Array) -> Array:
    """Rows of the float64 matrix `x` (N, d) divided by their L2 norm; a zero row stays zero."""
    squares = (x * x).sum(1) if is_tensor(x) else np.einsum("ij,ij->i", x, x)  # without a copy of x
    norm = (squares**0.5)[:, None]
    return x / (norm + (norm == 0))
