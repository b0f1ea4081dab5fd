"""The one exception of this room, and the checks that raise it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Rate = float | Float
"""One number, or one for each of a batch of trajectories (n,)."""


class DynamicsError(ValueError):
    """A system, a starting point or a setting that makes no sense; the message names it and says what it must be."""


def shown(value: object) -> str:
    """A value in one line of a message, shortened."""
    try:
        line = " ".join(repr(value).split())
    except ValueError:  # an integer of too many digits
        line = f"a {type(value).__name__}"
    return line if len(line) <= 80 else line[:77] + "..."


def choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise DynamicsError(f"{name}={shown(value)}: choose one of {', '.join(allowed)}.")


def flag(name: str, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        raise DynamicsError(f"{name} must be True or False; it is {shown(value)}.")


def number(name: str, value: object, *, low: float = -np.inf, high: float = np.inf, above: bool = False) -> float:
    """A finite real number in [low, high], or in (low, high] if `above`."""
    array = _real(name, value)
    if array.ndim:
        raise DynamicsError(f"{name} must be one number; it has shape {array.shape}.")
    _within(name, array, low, high, above)
    return float(array)


def rate(name: str, value: object, *, low: float = 0.0, above: bool = False) -> Rate:
    """A number of at least `low` (more than it if `above`), or a vector (n,) of them, one for each trajectory."""
    array = _real(name, value)
    if array.ndim > 1 or not array.size:
        raise DynamicsError(f"{name} must be a number, or a vector with one for each trajectory; shape {array.shape}.")
    _within(name, array, low, np.inf, above)
    return array if array.ndim else float(array)


def per_row(value: Rate, axes: int) -> Rate:
    """A rate to multiply a batch of arrays of so many axes with: a vector (n,) becomes (n, 1, ...)."""
    if isinstance(value, float) or not np.ndim(value):  # the first is quick, and what single trajectories have
        return value
    return np.reshape(value, (*np.shape(value), *[1] * axes))


def transposed(a: Float) -> Float:
    """The last two axes exchanged: the transpose of each matrix of a batch."""
    return np.swapaxes(a, -1, -2)


def of_time(name: str, function: Callable[[float | Float], float | Float], t: float | Float) -> float | Float:
    """What a user's function of time gives at t, a real number or one for each t. NaN passes: it ends a trajectory.

    TypeError and ValueError are what a function that does not take arrays raises: they become DynamicsError. Whatever
    else it raises goes through as it is, with its traceback: that is a fault inside of it.
    """
    try:
        value = function(t)
    except (TypeError, ValueError) as error:
        raise DynamicsError(f"{name}(t) must take a time or an array of them: {error}") from error
    if isinstance(value, float):
        return value
    out = real(f"{name}(t)", value)
    if out.shape not in ((), np.shape(t)):
        raise DynamicsError(f"{name}(t) must give one number for each t; of {np.shape(t)} times it gives {out.shape}.")
    return out


def whole(name: str, value: object, *, low: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value < 1 << 53:
        raise DynamicsError(f"{name} must be a whole number of at least {low}; it is {shown(value)}.")
    return int(value)


def times(name: str, value: object) -> Float:
    """A vector (T,) of finite times, T at least 1."""
    out = _real(name, value)
    if out.ndim != 1 or not out.size:
        raise DynamicsError(f"{name} must be a vector of one time or more; it has shape {out.shape}.")
    _within(name, out, -np.inf, np.inf, False)
    return out


def array(name: str, value: object, shape: tuple[int, ...]) -> Float:
    """A finite float64 array (..., *shape); the leading axes are a batch."""
    out = _real(name, value)
    if out.shape[out.ndim - len(shape) :] != shape or out.ndim < len(shape):
        raise DynamicsError(f"{name} must have shape {shape}, after any batch axes; it has {out.shape}.")
    _within(name, out, -np.inf, np.inf, False)
    return out


def symmetric(name: str, value: Float) -> None:
    """(..., d, d) equal to its transpose to 1e-10 of its largest entry."""
    gap = float(np.abs(value - transposed(value)).max(initial=0.0))
    if gap > 1e-10 * float(np.abs(value).max(initial=0.0)):
        raise DynamicsError(f"{name} must be symmetric; it differs from its transpose by {gap:.3g}. Use (A + A.T) / 2.")


def psd(name: str, value: object) -> Float:
    """A symmetric positive semi-definite matrix (d, d); eigenvalues down to -1e-10 of the largest count as zero."""
    out = _real(name, value)
    if out.ndim != 2 or out.shape[0] != out.shape[1] or not out.size:
        raise DynamicsError(f"{name} must be a square matrix; it has shape {out.shape}.")
    _within(name, out, -np.inf, np.inf, False)
    symmetric(name, out)
    eigenvalues = np.linalg.eigvalsh(out)
    if eigenvalues[0] < -1e-10 * max(abs(float(eigenvalues[-1])), float(np.finfo(np.float64).tiny)):
        raise DynamicsError(f"{name} must be positive semi-definite; its smallest eigenvalue is {eigenvalues[0]:.3g}.")
    return np.asarray((out + out.T) / 2, dtype=np.float64)


def real(name: str, value: object) -> Float:
    """Real numbers as float64, of any shape, NaN among them; not copied where they need not be."""
    try:
        out = np.asarray(value)
        if out.dtype.kind not in "fiu":
            raise TypeError
        return out.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise DynamicsError(f"{name} must hold real numbers; it is {shown(value)}.") from None


def _real(name: str, value: object) -> Float:
    """A copy, so that nobody changes a parameter from outside."""
    return real(name, value).copy()


def _within(name: str, value: Float, low: float, high: float, above: bool) -> None:
    if not np.isfinite(value).all():
        raise DynamicsError(f"{name} holds NaN or infinity.")
    if (value < low).any() or (above and (value <= low).any()) or (value > high).any():
        worst = value.min() if (value <= low).any() else value.max()
        span = f"{'more than' if above else 'at least'} {low:g}" + (f" and at most {high:g}" if high < np.inf else "")
        raise DynamicsError(f"{name} must be {span}; it is {worst:g}.")
