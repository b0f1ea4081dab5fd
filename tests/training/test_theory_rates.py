"""The recipe's optimiser in the theory's units, and what the monitor says of a linear predictor."""

import dataclasses

import numpy as np
import pytest
import torch

from siamscope import collapse, dynamics
from siamscope.networks.predictors import create_predictor
from siamscope.row import Head
from siamscope.rundir import read_jsonl
from siamscope.training import theory
from siamscope.training.build import build_model
from siamscope.training.optim import build
from siamscope.workflow.train import train

PLAIN = {"predictor": "symmetric", "normalise": "none", "distance": "euclidean", "projector": Head(layers=0)}


def linear(small, cells=None, **sections):
    """A linear encoder to which the theory applies."""
    sections = {"network": {"backbone": "linear", "width": 0.125}} | sections
    recipe = small("simsiam", **sections)
    return dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, **PLAIN | (cells or {})))


@pytest.mark.parametrize("decay", ["coupled", "per-step"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_rates_are_those_of_the_laboratory(small, decay, momentum, distance):
    """`siamscope.dynamics.rates`, given c times the rate and, of a coupled decay, 1 / c of it, for a loss of c J."""
    options = {"lr": 0.4, "momentum": momentum, "weight_decay": 0.02, "decay": decay, "predictor_lr": 3.0,
               "predictor_weight_decay": 0.05}  # fmt: skip
    recipe = linear(small, {"distance": distance, "normalise": "l2"}, optim=options)
    found = theory.rates(recipe)
    c = 2 if distance == "euclidean" else 1
    share = 1 if decay == "per-step" else 1 / c
    expected = dynamics.rates(
        c * 0.4 * 32 / 256, 0.02 * share, decay=decay.replace("-", " "), momentum=momentum, alpha_p=3.0,
        weight_decay_p=0.05 * share,
    )  # fmt: skip
    assert (found.eta, found.eta_p, found.alpha_p) == pytest.approx((expected.eta, expected.eta_p, 3.0))


def test_no_flow_no_rates(small):
    for recipe in (
        linear(small, optim={"name": "adamw"}),
        linear(small, optim={"predictor_lr": 0.0}),
        linear(small, optim={"momentum": 1.0}),
        small("simclr"),
    ):
        assert theory.rates(recipe) is None
    assert theory.rates(small("byol")).eta == pytest.approx(5e-4 / 2)


@pytest.mark.parametrize(
    ("decay", "momentum", "alpha_p"), [("coupled", 0.0, 1.0), ("coupled", 0.5, 4.0), ("per-step", 0.9, 0.25)]
)
def test_a_trained_encoder_keeps_theorem_1_in_these_units(small, decay, momentum, alpha_p):
    """W W^T - W_p^T W_p / alpha_p = e^(-2 eta t) C with t = 2 lr steps / (1 - momentum), for equal eta; not with eta
    twice as large. The steps are those of the real optimiser and loss."""
    own = 0.4 / alpha_p if decay == "coupled" else 0.0016
    options = {"lr": 0.004, "lr_scaling": False, "momentum": momentum, "decay": decay, "predictor_lr": alpha_p,
               "weight_decay": 0.4 if decay == "coupled" else 0.0016, "predictor_weight_decay": own}  # fmt: skip
    recipe = linear(small, {"predictor": "linear"}, optim=options)
    found = theory.rates(recipe)
    assert found.eta_p == pytest.approx(found.eta)
    model = build_model(recipe, 3).double().train()
    optimizer = build(recipe.optim, model.online, model.predictor, model.objective, 32)
    generator = torch.Generator().manual_seed(1)
    images = 6 * torch.randn(32, 3, 16, 16, generator=generator, dtype=torch.float64)

    def gap():
        w, p = model.online.backbone.matrix.detach(), model.predictor.matrix.detach()
        return w @ w.T - p.T @ p / alpha_p

    start, steps = gap(), 200
    for _ in range(steps):
        views = [images + torch.randn(images.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
        optimizer.zero_grad()
        model(views).backward()
        optimizer.step()
    time = 2 * 0.004 * steps / (1 - momentum)
    assert found.eta * time > 0.1
    kept = torch.exp(torch.tensor(-2 * found.eta * time))
    assert (gap() - kept * start).norm() < 0.05 * start.norm()
    assert (gap() - kept**2 * start).norm() > 0.15 * start.norm()


@pytest.mark.parametrize("target", ["detached", "momentum"])
def test_what_the_monitor_says(small, tmp_path, target):
    recipe = linear(small, {"target": target, "momentum": 0.9}, optim={"lr": 1.0, "predictor_lr": 2.0})
    train(recipe, tmp_path / "run")
    first, *_, line = [m for m in read_jsonl(tmp_path / "run" / "metrics.jsonl") if m["kind"] == "monitor"]
    assert first["target_share"] == pytest.approx(1, abs=1e-6)  # a copy
    assert line["target_share"] == 1 if target == "detached" else line["target_share"] != 1
    assert 0 < line["noise_ratio"] < 10
    assert line["asymmetry"] == 0
    assert {"k_smallest", "balance", "weight_balance"} <= line.keys()


def test_the_figures_are_the_formulas(small):
    """By hand from W, W_p and two sets of images."""
    recipe = linear(small, {"target": "momentum"}, optim={"weight_decay": 0.3, "predictor_lr": 2.0})
    model, found = build_model(recipe, 3).double(), theory.rates(recipe)
    with torch.no_grad():
        for p in model.target.parameters():
            p.mul_(0.25)
    generator = torch.Generator().manual_seed(0)
    base, noise = torch.randn(2, 64, 3, 16, 16, generator=generator, dtype=torch.float64)
    x1, x2 = base + 0.3 * noise, base - 0.3 * noise
    w, p = (m.detach().numpy() for m in (model.online.backbone.matrix, model.predictor.matrix))
    f1, f2 = ((x.flatten(1) / 768**0.5).numpy() @ w.T for x in (x1, x2))
    z = [torch.from_numpy(f) for f in (f1, f2)]
    got = theory.figures(model, found, *z, lambda: (z[0], 0.25 * z[0]))
    f = (f1.T @ f2 + f2.T @ f1) / 2 / 64
    sigma2 = ((f1 - f2) ** 2).sum() / 2 / (f1 * f2).sum()
    signal = np.trace(f) / np.trace(w @ w.T)
    k = (1 + sigma2) * (f + signal * p @ p) - signal * 0.25 * p + (found.eta_p + 2 * found.eta) / 2 * np.eye(8)
    expected = {
        "target_share": 0.25,
        "noise_ratio": sigma2,
        "k_smallest": np.linalg.eigvalsh(k)[0],
        "balance": np.linalg.norm(f - p.T @ p / 2) / np.linalg.norm(f),
        "weight_balance": np.linalg.norm(w @ w.T - p.T @ p / 2) / np.linalg.norm(w @ w.T),
    }
    assert got == pytest.approx(expected, rel=1e-9)


def test_which_figures_are_given(small):
    """Only tau and sigma2 without a flow or for a W that is set; unit vectors where the loss takes those."""
    z = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z[1] += 3 * z[0]
    model = build_model(linear(small), 3)
    nothing = lambda: None  # noqa: E731
    assert theory.figures(model, None, *z, nothing).keys() == {"target_share", "noise_ratio"}
    model.predictor = create_predictor("directpred", 8)
    rates = theory.Rates(0.1, 0.1, 1.0)
    assert theory.figures(model, rates, *z, nothing).keys() == {"target_share", "noise_ratio"}
    model.predictor = create_predictor("mlp", 8, hidden_layers=build_layers())
    assert theory.figures(model, rates, *z, nothing) == {}
    cosine = build_model(linear(small, {"normalise": "l2"}), 3)
    found = theory.figures(cosine, rates, *z, nothing)
    unit = [collapse.arrays.unit_rows(x.numpy()) for x in z]
    assert found["noise_ratio"] == pytest.approx(collapse.noise_ratio(*unit), rel=1e-12)
    assert found == pytest.approx(theory.figures(cosine, rates, 7 * z[0], z[1], nothing), rel=1e-9)  # no scale
    assert "weight_balance" not in found
    for bad in (0 * z, z * float("nan")):
        assert theory.figures(model, rates, *bad, nothing) == {}
    model = build_model(linear(small), 3)
    assert "noise_ratio" not in theory.figures(model, rates, z[0], -z[0], nothing)  # infinite: left out


def build_layers():
    from siamscope.networks.heads_spec import LayerSpec

    return [LayerSpec(8, True, "none", "none")]
