"""DirectCopy is cheap for a reason: no eigendecomposition anywhere in a training step, and work that grows as d^2.

Operations are counted, not timed; what a step takes is measured by `benchmarks/dynamics.py`.
"""

import dataclasses

import pytest
import torch
from predictor_cases import views
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from siamscope import methods
from siamscope.networks.predictors import SetPredictor
from siamscope.row import Head
from siamscope.training.siamese import Siamese

DECOMPOSITIONS = ("eig", "svd", "qr", "cholesky", "inv", "solve", "lstsq")


class Operations(TorchDispatchMode):
    """Every operation that reaches torch's dispatcher, whichever function it was called by."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
        self.names.add(str(function))
        return function(*arguments, **(options or {}))

    @property
    def decompositions(self) -> list[str]:
        return sorted(name for name in self.names if any(word in name for word in DECOMPOSITIONS))


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def step(name: str) -> Operations:
    """The operations of the second training step, forward, backward, update and all."""
    row = dataclasses.replace(methods.get(name), projector=Head(layers=1, out=16), target="momentum")
    model = Siamese(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), 10, row).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        with Operations() as seen:
            optimizer.zero_grad()
            loss = model([torch.randn(32, 3, 2, 2) for _ in range(2)])
            loss.backward()
            model.commit()
            optimizer.step()
        assert torch.isfinite(loss)
    return seen


def test_no_decomposition_in_a_training_step():
    assert step("directcopy").decompositions == []
    assert any("eigh" in name for name in step("directpred").decompositions)  # the control: they would be seen


def products(kind: str, d: int, **options) -> int:
    """Floating-point operations in matrix products of one step after the first, less those of E[f f^T]."""
    z = views(64, d, dtype=torch.float32)
    predictor = SetPredictor(d, kind, **options)
    predictor.prepare(z, z)
    with FlopCounterMode(display=False) as counter:
        predictor.prepare(z, z)
    return counter.get_total_flops() - sum(2 * len(view) * d * d for view in z)


@pytest.mark.parametrize("norm", ["spectral", "frobenius"])
def test_work_grows_as_the_square_of_the_width(norm):
    """Of DirectPred as the cube, its eigendecomposition not even counted."""
    small, large = (products("directcopy", d, norm=norm) for d in (256, 512))
    assert large <= 4.2 * max(small, 1) and large < 40 * 512**2
    assert products("directpred", 512) > 7.5 * products("directpred", 256) > 0
    assert products("directpred", 512) > 20 * large


@pytest.mark.parametrize("d", [256, 512])
def test_the_norm_is_good_at_every_step_of_a_training(d):
    """The iteration starts from the last step's vector, with few steps: within 1e-3 while features drift and fall in
    rank, in single precision."""
    predictor = SetPredictor(d, "directcopy", rho=0.5, eps=0.3)
    falling = torch.arange(1, d + 1.0)
    mix = torch.linalg.qr(torch.randn(d, d))[0]
    for k in range(8):
        spectrum = falling ** -(0.1 + 0.15 * k)
        mix = torch.linalg.qr(mix + 0.01 * torch.randn(d, d))[0]
        z = [torch.randn(256, d) * spectrum @ mix.T for _ in range(2)]
        predictor.prepare(z, z)
        f = predictor.correlation.double()
        used = f.norm() / (predictor.matrix.double() - 0.3 * torch.eye(d)).norm()
        exact = torch.linalg.eigvalsh(f)[-1]
        assert abs(float(used / exact) - 1) < 1e-3
        assert k or used < 0.5 * torch.linalg.matrix_norm(f)  # and is no Frobenius norm
