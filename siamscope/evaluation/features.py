"""Frozen features of a data set: what every evaluation starts from."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

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
                    "Pool and flatten its output first, as siamscope.evaluation.pooled does."
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


class Pooled(nn.Module):
    """Features (B, d) of any module, made of a layer's output: what `extract` wants of an encoder.

    An output (B, C, H, W) is averaged over places, (B, T, C) over tokens (or its first token is taken); (B, d) stays.
    """

    def __init__(
        self, module: nn.Module, layer: str | None = None, *, tokens: Literal["mean", "first"] = "mean"
    ) -> None:
        """See `pooled`."""
        super().__init__()
        if tokens not in ("mean", "first"):
            raise EvaluationError(f"tokens={tokens!r}: choose 'mean' or 'first' (the class token).")
        self.module, self.layer, self.tokens = module, layer, tokens
        if layer is not None and layer not in dict(module.named_modules()):
            near = difflib.get_close_matches(layer, [name for name, _ in module.named_modules()], n=3, cutoff=0.3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise EvaluationError(f"there is no layer {layer!r} in {type(module).__name__}{hint}")

    def forward(self, x: Tensor) -> Tensor:
        """Images to features."""
        if self.layer is None:
            return self._pool(self.module(x))
        seen: list[Any] = []
        hook = self.module.get_submodule(self.layer).register_forward_hook(lambda _, __, out: seen.append(out))
        try:
            self.module(x)
        finally:
            hook.remove()
        if not seen:
            raise EvaluationError(f"layer {self.layer!r} was not run.")
        return self._pool(seen[-1])

    def _pool(self, found: Any) -> Tensor:
        if isinstance(found, tuple | list) and found:  # blocks of some transformers: hidden states and more
            found = found[0]
        if not isinstance(found, Tensor) or not 2 <= found.ndim <= 4:
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise EvaluationError(
                f"layer {self.layer or 'the last'} gave {what}; expected (B, d), (B, T, C) or (B, C, H, W)."
            )
        if found.ndim == 4:
            return found.mean((2, 3))
        if found.ndim == 3:
            return found[:, 0] if self.tokens == "first" else found.mean(1)
        return found


def pooled(module: nn.Module, layer: str | None = None, *, tokens: Literal["mean", "first"] = "mean") -> Pooled:
    """`module` as an encoder that gives the pooled output of `layer`, a name of `named_modules`; by default the last's.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    >>> pooled(net, "1")(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 8])

    Args:
        module: maps images (B, ...) to anything. Its parameters are shared, not copied; the hook is there during a call
            only.
        layer: whose output is taken.
        tokens: of (B, T, C), the mean over tokens or the first.

    Raises:
        EvaluationError: no such layer; when called, one that was not run, or gave another shape.
    """
    return Pooled(module, layer, tokens=tokens)
