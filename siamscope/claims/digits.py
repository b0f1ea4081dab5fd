"""The digits network: a small non-linear network on scikit-learn's digits (1,797 images of 8x8), for every ablation.

MLP 64-256-128, projector 128-128 (batch norm, ReLU)-32, loss -2 cos summed over both views, SGD with rate 0.05,
momentum 0.9 and weight decay 4e-4 (coupled, as torch's), batches of 130, 60 epochs, moving average 0.99. The views are
ours: a shift by up to one pixel each way, with probability 1/2 a square of 2x2 pixels erased, Gaussian noise of
deviation 0.1 (pixels are 0 to 1).

Network, objective and target are those that `siamscope train` uses (`siamscope.training.siamese.Siamese`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from siamscope import collapse
from siamscope.claims.base import ClaimError
from siamscope.claims.digits_table import FEATURES, Settings
from siamscope.evaluation.knn import knn
from siamscope.evaluation.probe import linear_probe
from siamscope.training.siamese import Siamese

SIDE, HIDDEN = 8, 256
LOSS_SCALE = 4.0
"""-2 cos summed over both views, over the mean of -cos that the objective gives."""
MODES = 10
"""Leading modes whose alignment is averaged."""
VALIDATION, TEST = 200, 397


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8) from 0 to 1 and labels (n,), split by a fixed seed: 1,200 to train, 200 and 397 kept."""

    train: Tensor
    train_labels: Tensor
    val: Tensor
    val_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load() -> Digits:
    """scikit-learn's digits.

    Raises:
        ClaimError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ClaimError(
            "the digits network needs scikit-learn, whose digits it is trained on: pip install scikit-learn"
        ) from None
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    x = torch.tensor(pixels[order] / 16, dtype=torch.float32).view(-1, 1, SIDE, SIDE)
    y = torch.tensor(labels[order])
    kept = VALIDATION + TEST
    return Digits(x[:-kept], y[:-kept], x[-kept:-TEST], y[-kept:-TEST], x[-TEST:], y[-TEST:])


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random view of every image (n, 1, 8, 8)."""
    n, grid = len(images), torch.arange(SIDE)
    shift = torch.randint(0, 3, (2, n, 1), generator=generator) + grid  # of the padded image
    padded = nn.functional.pad(images[:, 0], (1, 1, 1, 1))
    out = padded[torch.arange(n)[:, None, None], shift[0][:, :, None], shift[1][:, None, :]]
    corner = torch.randint(0, SIDE - 1, (2, n, 1), generator=generator)
    inside = (grid >= corner) & (grid < corner + 2)
    erased = inside[0][:, :, None] & inside[1][:, None, :] & (torch.rand(n, 1, 1, generator=generator) < 0.5)
    out = out.masked_fill(erased, 0.0)
    return (out + 0.1 * torch.randn(out.shape, generator=generator))[:, None]


def backbone() -> nn.Module:
    """Images (n, 1, 8, 8) to features (n, 128)."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE**2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, FEATURES), nn.ReLU()
    )  # fmt: skip


def train(settings: Settings, data: Digits, seed: int) -> Siamese:
    """The network after training; `seed` draws weights, order and views."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Siamese(backbone(), FEATURES, settings.row)
    optimizer = _optimizer(model, settings)
    model.train()
    for batch in _batches(data.train, settings, generator):
        loss = LOSS_SCALE * model([view(batch, generator), view(batch, generator)])
        optimizer.zero_grad()
        loss.backward()
        model.commit()
        optimizer.step()
        model.follow(settings.ema)
    if settings.epochs == 0:  # batch norm has seen no image: give it the statistics of the training images
        with torch.no_grad():
            cast("nn.BatchNorm1d", model.online.projector[1]).momentum = None
            model.online(data.train)
    return model.eval()


def _batches(images: Tensor, settings: Settings, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(settings.epochs):
        order = torch.randperm(len(images), generator=generator)
        for first in range(0, len(order) - settings.batch + 1, settings.batch):
            yield images[order[first : first + settings.batch]]


def _optimizer(model: Siamese, settings: Settings) -> torch.optim.SGD:
    own = settings.weight_decay if settings.weight_decay_p is None else settings.weight_decay_p
    groups: list[dict[str, Any]] = [{"params": list(model.online.parameters())}]
    trained = [p for p in model.predictor.parameters() if p.requires_grad]
    if trained:
        groups.append({"params": trained, "lr": settings.alpha_p * settings.lr, "weight_decay": own})
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)


@torch.no_grad()
def measure(model: Siamese, data: Digits, *, probe: bool = True) -> dict[str, float]:
    """What the table shows, on test images as they are.

    std: standard deviation of z / |z| over samples, times sqrt(d): 1 is isotropic, 0 collapse.  rank, rank_variance:
    effective rank of the embeddings from singular values and from their squares.  alignment: mean cosine of u_j and
    W u_j over the ten leading eigenvectors u_j of F = E[z z^T].  asymmetry: |W - W^T| / |W|. Both are NaN where the
    predictor is no one matrix.  size: |z|.
    knn, probe: accuracy in percent, of features; they do not show collapse (an untrained network has 96 %).
    """
    z = model.online(data.test).double()
    spectrum = collapse.spectrum(z.numpy()).singular_values
    out = {
        "std": collapse.embedding_std(z.numpy()),
        "rank": collapse.effective_rank(spectrum),
        "rank_variance": collapse.effective_rank(spectrum**2),
        **_of_predictor(model, z),
        "size": float(z.norm(dim=1).mean()),
    }
    return out | _accuracy(model.online.backbone, data) if probe else out


def _of_predictor(model: Siamese, z: Tensor) -> dict[str, float]:
    matrix = getattr(model.predictor, "matrix", None)
    if matrix is None or matrix.ndim != 2:
        return {"alignment": float("nan"), "asymmetry": float("nan")}
    f = (z.T @ z / len(z)).numpy()
    found = collapse.alignment(f, matrix.double().numpy(), MODES)
    return {"alignment": found.cosine, "asymmetry": found.asymmetry}


def _accuracy(encoder: nn.Module, data: Digits) -> dict[str, float]:
    train_x, val_x, test_x = encoder(data.train), encoder(data.val), encoder(data.test)
    near = knn(train_x, data.train_labels, test_x, data.test_labels, ks=(5,)).accuracy[5]
    found = linear_probe(train_x, data.train_labels, val_x, data.val_labels, test_x, data.test_labels)
    return {"knn": 100 * float(near), "probe": 100 * found.top1}


def run(settings: Settings, seed: int, data: Digits | None = None, *, probe: bool = True) -> dict[str, float]:
    """Train and measure, on one thread: at this size more only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = data or load()
        return measure(train(settings, data, seed), data, probe=probe)
    finally:
        torch.set_num_threads(threads)
