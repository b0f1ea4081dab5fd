"""Embeddings and predictors that the tests of predictors share."""

import numpy as np
import torch

from siamscope.networks.predictors import SetPredictor

SET = ("directpred", "directset", "directcopy", "optimal")


def views(n, d, count=2, *, dtype=torch.float64, offset=0.0):
    """Embeddings of uneven spectrum, `count` views of the same samples."""
    base = torch.randn(n, d, dtype=dtype) * torch.arange(1, d + 1, dtype=dtype) ** -0.5
    return [base + 0.3 * torch.randn(n, d, dtype=dtype) + offset for _ in range(count)]


def set_by(z, kind="directpred", **options):
    """A predictor after one step on the views z, each the other's target."""
    predictor = SetPredictor(z[0].shape[1], kind, **options).to(z[0].dtype)
    predictor.prepare(z, z)
    return predictor


def second_moment(z):
    rows = torch.cat(list(z))
    return rows.T @ rows / len(rows)


def shapes(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n, d = (int(x) for x in rng.integers((4, 3), (65, 64)))
        yield n, d + (n == d)


def relative(a, b):
    return float((a - b).norm() / b.norm())
