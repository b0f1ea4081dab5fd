"""Frozen features of a data set: what every evaluation starts from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamscope.evaluation.errors import Array, EvaluationError


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` in eval mode; afterwards restore the mode of each submodule, also one that was frozen on purpose."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def extract(
    encoder: nn.Module,
    read: Callable[[NDArray[np.int64]], Array],
    n: int,
    *,
    transform: Callable[[Tensor], Tensor],
    batch_size: int = 512,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Features of samples 0..n-1, in eval mode, without gradients and without touching the encoder's running
    statistics.

    Args:
        encoder: maps (B, C, H, W) floats to (B, d); must already be on `device`.
        read: indices (B,) int64 -> uint8 images (B, C, H, W), array or tensor.
        n: number of samples, at least 1.
        transform: uint8 images on `device` -> the normalised floats the encoder was trained on. No random views here.
        batch_size: images per forward pass. It bounds the memory and, in eval mode, does not change the result beyond
            rounding.
        device: where to compute; by default, where the encoder's first parameter is.
        autocast: a lower precision to run the encoder in, such as torch.bfloat16; None runs it as it is.

    Returns:
        (n, d) float32 on the CPU.

    Raises:
        EvaluationError: n < 1, a batch of the wrong length, or an encoder output that is not (B, d).
    """
    if n < 1 or batch_size < 1:
        raise EvaluationError(f"n and batch_size must be at least 1, not {n} and {batch_size}.")
    if device is None:
        device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    device = torch.device(device)
    out: Tensor | None = None
    with evaluating(encoder):
        for start in range(0, n, batch_size):
            indices = np.arange(start, min(start + batch_size, n), dtype=np.int64)
            features = _forward(encoder, transform, read(indices), device, autocast)
            if features.ndim != 2 or features.shape[0] != len(indices):
                raise EvaluationError(
                    f"the encoder gave shape {tuple(features.shape)} for {len(indices)} images; expected (B, d). "
                    "Pool and flatten its output first."
                )
            if out is None:
                out = torch.empty(n, features.shape[1], dtype=torch.float32)
            out[start : start + len(indices)] = features
    assert out is not None  # n >= 1
    return out


@torch.inference_mode()
def _forward(
    encoder: nn.Module,
    transform: Callable[[Tensor], Tensor],
    images: Array,
    device: torch.device,
    autocast: torch.dtype | None,
) -> Tensor:
    context = torch.autocast(device.type, dtype=autocast) if autocast is not None else nullcontext()
    with context:
        features = encoder(transform(torch.as_tensor(images).to(device, non_blocking=True)))
    if not isinstance(features, Tensor):
        raise EvaluationError(f"the encoder returned {type(features).__name__}; expected one tensor (B, d).")
    return features
