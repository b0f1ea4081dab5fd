"""AUC of the spectra published with Li, Efros & Pathak (2022): ResNet-18 SimSiam on p % of ImageNet."""

import os
from pathlib import Path

import numpy as np
import pytest

from siamscope.collapse import auc, effective_rank

NAME = "collapse_spectra_resnet18_simsiam_imagenet.npz"
# p: AUC of sigma, AUC of lambda, effective rank of sigma
GOLDEN = {
    1: (0.6097620476, 0.738175, 465.21),
    5: (0.7480321571, 0.881578, 323.49),
    10: (0.8449220501, 0.970364, 186.49),
    20: (0.8787150303, 0.983347, 140.03),
    50: (0.8714194135, 0.971918, 161.35),
    100: (0.8577546604, 0.979324, 165.56),
}


@pytest.fixture(scope="module")
def spectra() -> dict[str, np.ndarray]:
    shared = os.environ.get("SIAMSCOPE_SHARED")
    root = Path(shared) if shared else Path(__file__).resolve().parents[3] / "shared"
    for path in (root / "data" / NAME, root / NAME):
        if path.is_file():
            with np.load(path) as stored:
                return dict(stored)
    pytest.skip(f"{NAME} is not here; point SIAMSCOPE_SHARED at the folder that holds it")


@pytest.mark.parametrize("percent", GOLDEN)
def test_published_spectra(spectra: dict[str, np.ndarray], percent: int) -> None:
    sigma = spectra[f"p{percent}"]
    of_sigma, of_lambda, rank = GOLDEN[percent]
    assert auc(sigma) == pytest.approx(of_sigma, abs=1e-6)
    assert auc(sigma, of="lambda") == pytest.approx(of_lambda, abs=1e-6)
    assert effective_rank(sigma) == pytest.approx(rank, abs=0.01)
