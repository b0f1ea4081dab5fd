"""Batch norm over the whole batch of a process group, on any device.

torch's own SyncBatchNorm refuses CPU tensors. This one gathers each process's (mean, sum of squared deviations, count)
and merges them (Chan, Golub & LeVeque 1983), which does not cancel as E[x^2] - E[x]^2 does; backward reduces the two
sums that batch norm's gradient needs. Every process ends with bit-identical statistics.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from siamscope.networks.errors import NetworkError

Group = dist.ProcessGroup | None


class SyncBatchNorm(_BatchNorm):
    """Drop-in for BatchNorm1d/2d/3d, input (B, C) or (B, C, ...); parameters and buffers have the same names.

    Training with more than one process: statistics of all processes' samples (local batches may differ in size, down to
    none), in float32 or better; each process's input gradient is that of the sum of all processes' losses, and the
    gradients of weight and bias are local, for DistributedDataParallel to reduce. Otherwise ordinary batch norm. Every
    process must call forward, and backward, the same number of times.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Group = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise NetworkError(f"expected input of shape (B, {self.num_features}, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        world = _world_size(self.process_group)
        if not self.training or world == 1:
            return super().forward(input)
        self._check_input_dim(input)
        dtype = torch.promote_types(input.dtype, torch.float32)
        mean, m2, count = _global_moments(input.detach(), self.process_group, world)
        if count < 2:
            raise NetworkError(
                f"batch norm in training needs more than one value a channel, got {count:.0f} over all processes"
            )
        var = m2 / count
        self._track(mean, m2 / (count - 1))
        out: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, mean.to(dtype), var.to(dtype), count, self.eps, self.process_group
        )
        return out

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        rate = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(unbiased_var.to(self.running_var.dtype), rate)


def _global_moments(x: Tensor, group: Group, world: int) -> tuple[Tensor, Tensor, float]:
    """Mean (C,) and sum of squared deviations (C,) over all processes, float64, and the number of values a channel."""
    channels = x.shape[1]
    count = x.numel() // channels
    mean, var = _local_moments(x) if count else (x.new_zeros(channels), x.new_zeros(channels))
    # float64: the counts stay exact and the merge adds nothing to the error; it is 2C + 1 numbers.
    local = torch.cat([mean.double(), var.double() * count, mean.new_full((1,), count, dtype=torch.float64)])
    gathered = [torch.empty_like(local) for _ in range(world)]
    dist.all_gather(gathered, local, group=group)
    table = torch.stack(gathered)
    means, m2s, counts = table[:, :channels], table[:, channels:-1], table[:, -1:]
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    m2 = (m2s + counts * (means - mean) ** 2).sum(0)
    return mean, m2, float(total)


def _local_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, float32 or better, by the kernel behind batch norm itself."""
    # That kernel returns the dtype of the running statistics it is given; with momentum 0 it leaves them alone.
    unused = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    mean, var = torch.batch_norm_update_stats(x, unused, unused.clone(), 0.0)
    return mean, var


class _Normalise(torch.autograd.Function):
    """Normalise by given global statistics; backward takes into account that they depend on every process's input."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: float,
        eps: float,
        group: Group,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.count, ctx.eps, ctx.group = count, eps, group
        # With the statistics given, eval-mode batch norm is the fused kernel wanted here.
        scale, shift = (None if t is None else t.to(mean.dtype) for t in (weight, bias))
        return F.batch_norm(x, mean, var, scale, shift, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        gain = torch.ones_like(mean) if weight is None else weight.to(mean.dtype)
        if x.numel():
            # As if the statistics were constants: scale * g, sum(g * x_hat), sum(g); scale is gain / std.
            grad_x, sum_grad_x_hat, sum_grad = torch.ops.aten.native_batch_norm_backward(
                grad.to(x.dtype), x, gain, mean, var, None, None, False, ctx.eps, [ctx.needs_input_grad[0], True, True]
            )
        else:  # the kernel divides by the number of samples
            grad_x, sum_grad_x_hat, sum_grad = torch.zeros_like(x), torch.zeros_like(mean), torch.zeros_like(mean)
        if ctx.needs_input_grad[0]:
            sums = torch.cat([sum_grad, sum_grad_x_hat])
            dist.all_reduce(sums, group=ctx.group)
            mean_grad, mean_grad_x_hat = (sums / ctx.count).chunk(2)
            # But dx = scale * (g - mean(g) - x_hat * mean(g * x_hat)): what is still missing normalises x once more.
            scale = gain * torch.rsqrt(var + ctx.eps)
            rest = (scale * mean_grad_x_hat, scale * mean_grad)
            grad_x -= F.batch_norm(x, mean, var, *rest, training=False, eps=ctx.eps)
        local = (None, None) if weight is None else (sum_grad_x_hat.to(weight.dtype), sum_grad.to(weight.dtype))
        return grad_x, *local, None, None, None, None, None


def convert_sync_batchnorm(module: nn.Module, process_group: Group = None) -> nn.Module:
    """Replace every batch norm inside `module`, in place, by a synchronised one, and return the module.

    On CUDA torch's own SyncBatchNorm takes its place, elsewhere `SyncBatchNorm`; parameters and buffers are the same
    objects under the same names, so state dicts and optimisers stay valid. Call it before DistributedDataParallel.

    Raises:
        NetworkError: a batch norm with a forward of its own (timm's fuse the activation), which a plain one would drop.
    """
    fallback = next((p.device for p in module.parameters()), torch.device("cpu"))
    return _convert(module, process_group, fallback, "", {})


def _convert(
    module: nn.Module, group: Group, fallback: torch.device, path: str, done: dict[int, nn.Module]
) -> nn.Module:
    if id(module) in done:  # a module used in two places stays one module
        return done[id(module)]
    if isinstance(module, _BatchNorm):
        done[id(module)] = _synchronised(module, group, fallback, path)
        return done[id(module)]
    done[id(module)] = module
    for name, child in module._modules.items():  # named_children() would skip a second name of one module
        if child is None:
            continue
        setattr(module, name, _convert(child, group, fallback, f"{path}.{name}" if path else name, done))
    return module


def _synchronised(norm: _BatchNorm, group: Group, fallback: torch.device, path: str) -> nn.Module:
    if isinstance(norm, SyncBatchNorm | nn.SyncBatchNorm):
        return norm
    if type(norm).forward is not _BatchNorm.forward:
        raise NetworkError(
            f"{path or 'the module'} is a {type(norm).__name__}, a batch norm with a forward of its own, and cannot be "
            "synchronised; train on one process, or choose a backbone with plain batch norm"
        )
    device = next((t.device for t in (norm.weight, norm.running_mean) if t is not None), fallback)
    kind = nn.SyncBatchNorm if device.type == "cuda" else SyncBatchNorm
    new = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, group)
    # The same tensors, so that an optimiser that already holds them goes on working.
    new._parameters = norm._parameters
    new._buffers = norm._buffers
    new.training = norm.training
    return new


def _world_size(group: Group) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
