"""What every method does with embeddings that are hard: zeros, NaN, a batch of one, half precision, other shapes."""

import dataclasses

import pytest
import torch
from torch import nn

from siamscope import methods
from siamscope.objectives import ObjectiveError
from siamscope.row import Head
from siamscope.training.siamese import Siamese

D = 6


class Embedded(Siamese):
    """A method on given embeddings: the network is the identity."""

    def __init__(self, name: str, **cells) -> None:
        torch.manual_seed(0)
        row = methods.get(name)
        small = {"prototypes": 10, "slices": 7, "bank": 64 if row.bank else 0}
        row = dataclasses.replace(
            row, projector=Head(layers=1, out=D), predictor_head=Head(hidden=16), **small, **cells
        )
        super().__init__(nn.Flatten(), D, row)
        self.online.projector = nn.Identity()
        if self.target is not None:
            self.target.projector = nn.Identity()


def value(name: str, views: list[torch.Tensor], **cells) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss, and gradients of the embeddings."""
    leaves = [view.clone().requires_grad_() for view in views]
    loss = Embedded(name, **cells).to(views[0].dtype).train()(leaves)
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves]


def pair(n: int = 16, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    z = torch.randn(3, n, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [(z[0] + 0.5 * noise).to(dtype) for noise in z[1:]]


@pytest.mark.parametrize("name", list(methods.METHODS))
@pytest.mark.parametrize("rows", [slice(None), slice(0, 3)], ids=["all", "some"])
def test_zero_vectors_are_no_silent_nan(name, rows):
    """A finite loss and finite gradients, or (nothing to whiten) an error that says what to do."""
    views = pair()
    for view in views:
        view[rows] = 0
    if methods.get(name).objective == "whitening" and rows == slice(None):
        with pytest.raises(ObjectiveError, match="eps"):
            value(name, views)
        return
    loss, grads = value(name, views)
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_equal_embeddings_are_no_silent_nan(name):
    """Complete collapse: all samples at one point."""
    views = [torch.ones(16, D, dtype=torch.float64)] * 2
    if methods.get(name).objective == "whitening":
        with pytest.raises(ObjectiveError, match="collapsed"):
            value(name, views)
        return
    loss, grads = value(name, views)
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_nan_in_nan_out(name):
    """The loop stops on a loss that is not finite; it must be one. (Bank and prototypes are not asked to find it.)"""
    views = pair()
    for view in views:
        view[2, 1] = float("nan")
    loss, _ = value(name, views)
    assert torch.isnan(loss)


# What a batch of one means: samples that repel, or dimensions that must differ, need others.
NEEDS_OTHERS = {"simclr", "mocov3", "nnclr", "barlow", "vicreg", "wmse", "mmcr", "lejepa"}


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_batch_of_one(name):
    views = pair(1)
    cells = {"predictor": "linear"} if methods.get(name).predictor == "mlp" else {}  # batch norm itself refuses one
    if name in NEEDS_OTHERS:
        with pytest.raises((ObjectiveError, ValueError), match=r"batch|sample|more than 1 value"):
            value(name, views, **cells)
        return
    loss, grads = value(name, views, **cells)
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_embeddings_in_bf16_give_float32_gradients_close_to_exact(name):
    """The loss of bf16 embeddings is the float32 loss of the rounded numbers, and within 2 % of the exact gradient."""
    exact, half = pair(64, torch.float32), [z.bfloat16() for z in pair(64, torch.float32)]
    model = Embedded(name).train()
    rounded = [z.float().requires_grad_() for z in half]
    leaves = [z.requires_grad_() for z in half]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(leaves)
    assert loss.dtype == torch.float32
    for key, buffer in {**dict(model.objective.named_buffers()), **dict(model.predictor.named_buffers())}.items():
        assert not buffer.is_floating_point() or buffer.dtype == torch.float32, key
    if model.row.predictor in ("mlp", "linear"):
        return  # the predictor itself computes in bf16
    same = Embedded(name).train()(rounded)
    assert loss.item() == pytest.approx(same.item(), rel=2e-2, abs=2e-2)
    loss_exact, grads = value(name, exact)
    same.backward()
    assert same.item() == pytest.approx(loss_exact.item(), rel=2e-2, abs=2e-2)
    gap = torch.cat([a.grad - b for a, b in zip(rounded, grads, strict=True)]).norm()
    assert gap <= 2e-2 * torch.cat(grads).norm() or model.row.objective == "prototypes"


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_views_of_different_batches_are_refused(name):
    views = pair()
    with pytest.raises((ObjectiveError, ValueError), match=r"shape|online|must|size"):
        value(name, [views[0], views[1][:10]])
