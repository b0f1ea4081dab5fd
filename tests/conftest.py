"""Small recipes that train in seconds; measured spectra, where they are at hand."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from siamscope import methods
from siamscope.recipe import Recipe


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def spectra() -> dict[str, np.ndarray]:
    """Singular values of SimSiam's embeddings published with Li, Efros & Pathak (2022), by name: p1 to p100."""
    name = "collapse_spectra_resnet18_simsiam_imagenet.npz"
    shared = os.environ.get("SIAMSCOPE_SHARED")
    root = Path(shared) if shared else Path(__file__).resolve().parents[2] / "shared"
    for path in (root / "data" / name, root / name):
        if path.is_file():
            with np.load(path) as stored:
                return dict(stored)
    pytest.skip(f"{name} is not here; point SIAMSCOPE_SHARED at the folder that holds it")


@pytest.fixture
def small():
    """`small(method, train={...}, ...)`: a recipe on 16-pixel shapes with a quarter-width ResNet-8."""

    def make(method: str = "simsiam", **sections) -> Recipe:
        row = methods.get(method)
        row = dataclasses.replace(
            row,
            projector=dataclasses.replace(row.projector, hidden=32, out=16),
            predictor_head=dataclasses.replace(row.predictor_head, hidden=8),
            bank=128 if row.bank else 0,
            prototypes=12,
            slices=16,
        )
        base = Recipe(method=row)
        defaults = {
            "data": {"size": 16, "samples": 96, "val_samples": 32, "test_samples": 32},
            "network": {"width": 0.5},
            "train": {"steps": 6, "batch_size": 32, "precision": "fp32", "channels_last": "off", "device": "cpu"},
            "monitor": {"interval": 3, "samples": 32, "bank": 32},
            "evaluation": {"bank": 64, "queries": 32, "probe": False},
        }
        for name, values in defaults.items():
            values = values | sections.get(name, {})
            base = dataclasses.replace(base, **{name: dataclasses.replace(getattr(base, name), **values)})
        for name in set(sections) - set(defaults):
            base = dataclasses.replace(base, **{name: dataclasses.replace(getattr(base, name), **sections[name])})
        return base

    return make
