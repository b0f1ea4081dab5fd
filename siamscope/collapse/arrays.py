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

_CHUNK_ENTRIES = 1 << 20  # 8 MiB in float64: near the cache; several times faster than going over all rows at once
_BLOCK_CHUNKS = 16
_DIGITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}


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
    """Raise CollapseError unless `x` is an array or tensor of real numbers with two axes and at least one column."""
    require_numbers(x, what)
    shape = tuple(x.shape)
    if len(shape) != 2 or shape[1] < 1:
        raise CollapseError(f"{what} has shape {shape}; expected (N, d), one row per image and d >= 1.")


def require_numbers(x: Array, what: str) -> None:
    """Raise CollapseError unless `x` is an array or tensor of real numbers, none of them masked."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise CollapseError(
            f"{what} is of type {type(x).__name__}; expected an array or tensor (N, d), as numpy.asarray(...) makes it."
        )
    kind = "c" if "complex" in str(x.dtype) else getattr(x.dtype, "kind", "f")
    if kind in "cOSUMm":
        raise CollapseError(f"{what} holds entries of type {x.dtype}; expected real numbers.")
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise CollapseError(f"{what} has masked entries; leave those rows out, or fill them.")


def require_finite(x: Array, what: str) -> None:
    """Raise CollapseError when the float64 `x` holds NaN or infinity."""
    if not is_finite(x):
        raise CollapseError(
            f"{what} holds NaN or infinite entries, so it has no spectrum; "
            "look for a diverged loss or an overflow in half precision."
        )


def number_format(rows: Array) -> tuple[str, float]:
    """Name of the rows' number format, and half the gap between 1 and the next number in it; 0 for whole numbers."""
    name = str(rows.dtype).removeprefix("torch.")
    return name, rounding_of(name)


def rounding_of(name: str) -> float:
    """Half the gap between 1 and the next number in the number format of this name; 0 for whole numbers."""
    digits = _DIGITS.get(name, 0)
    return 2.0**-digits if digits else 0.0


def in_blocks(x: Array) -> Iterator[Array]:
    """Consecutive blocks of rows of `x`, each of some chunks of `in_chunks`."""
    step = _BLOCK_CHUNKS * _chunk_rows(x)
    for start in range(0, x.shape[0], step):
        yield x[start : start + step]


def in_chunks(x: Array) -> Iterator[Array]:
    """Consecutive blocks of rows of `x`: small, but at least d rows, so that d x d work per block stays minor."""
    step = _chunk_rows(x)
    for start in range(0, x.shape[0], step):
        yield x[start : start + step]


def _chunk_rows(x: Array) -> int:
    return max(_CHUNK_ENTRIES // int(x.shape[1]), int(x.shape[1]))


def scratch(x: Array) -> Float64 | None:
    """Room for one chunk of an array `x`, to be filled again and again; None for a tensor, whose library keeps some."""
    return None if is_tensor(x) else np.empty((min(_chunk_rows(x), x.shape[0]), x.shape[1]))


def subtract(x: Array, y: Array, out: Float64 | None) -> Array:
    """x - y, y of float64, in the first rows of `out` if that is given; it may be `x` itself."""
    return x - y if out is None else np.subtract(x, y, out=out[: x.shape[0]])


def unit_rows(x: Array, out: Float64 | None = None) -> Array:
    """Rows of the float64 matrix `x` (N, d) divided by their L2 norm; a zero row stays zero.

    With `out`, in its first rows; an array `x` may then be of any numbers.
    """
    if out is not None:
        rows = out[: x.shape[0]]
        np.copyto(rows, x)
        rows /= _norms(rows)
        return rows
    return x / _norms(x)


def _norms(x: Array) -> Array:
    """(N, 1) norms of rows, 1 for those of zeros."""
    squares = (x * x).sum(1) if is_tensor(x) else np.einsum("ij,ij->i", x, x)  # without a copy of x
    norm = (squares**0.5)[:, None]
    return norm + (norm == 0)
