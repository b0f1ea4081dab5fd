"""What is measured while training: from detached, eval-mode tensors of a fixed validation sample."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamscope import collapse, views
from siamscope.collapse import Vitals
from siamscope.evaluation.features import evaluating
from siamscope.evaluation.knn import knn
from siamscope.sections import MonitorConfig
from siamscope.training import theory
from siamscope.training.precision import Precision
from siamscope.training.siamese import Siamese
from siamscope.views.policies import ViewSpec

CHUNK = 512
LAGGING = 128  # images that the momentum target sees: enough for one ratio, and a quarter of a training step's cost
DECOMPOSED = 512  # dimensions of embeddings at most for RankMe and LiDAR of theirs, whose cost is cubic
ALIGNED = 10  # eigenvectors of the correlation whose images under the predictor are followed


Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sample:
    """Images (n, C, H, W) uint8 on the device, and their labels (n,) if there are any."""

    images: Tensor
    labels: Tensor | None


class Monitor:
    """Measures the representation on the same images every time.

    `sample` is drawn from the validation split, `bank` from the training split (used only with labels).
    """

    def __init__(
        self,
        config: MonitorConfig,
        sample: Sample,
        bank: Sample,
        specs: tuple[ViewSpec, ...],
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        precision: Precision,
        seed: int,
        rates: theory.Rates | None = None,
    ) -> None:
        self.config = config
        self.sample, self.bank = sample, bank
        self.specs, self.size, self.mean, self.std = specs, size, mean, std
        self.precision = precision
        self.seed = seed
        self.rates = rates

    def measure(self, model: Siamese, step: int, reference: dict[str, Any] | None) -> dict[str, Any]:
        """All figures after `step` steps; `reference` holds those of step 0, to tell what training lost."""
        with evaluating(model):
            features = self._encode(model.online.backbone, self.sample.images)
            embeddings = self._project(model, features)
            seen, pair = self._views(model)
            out: dict[str, Any] = {"positive_similarity": collapse.positive_similarity(*pair)}
            if self.sample.labels is not None and self.bank.labels is not None:
                out["knn"] = self._knn(model, features, self.bank.labels, self.sample.labels)
            out |= _aligned(model, embeddings)
            out |= theory.figures(model, self.rates, *pair, lambda: self._lag(model, embeddings))
        of_embeddings, spectrum = _vitals(embeddings)
        of_features, feature_spectrum = _vitals(features)
        out |= {f"feature_{name}": value for name, value in _ranks(features, seen).items()}
        if of_embeddings.d <= DECOMPOSED:
            out |= _ranks(embeddings, pair)
        untrained = None
        if reference:
            untrained = replace(of_features, effective_rank=reference["feature_effective_rank"])
        health = collapse.assess(of_embeddings, of_features, untrained_features=untrained, step=step)
        return out | {
            "embedding_std": of_embeddings.embedding_std,
            "effective_rank": of_embeddings.effective_rank,
            "auc": of_embeddings.auc,
            "feature_std": of_features.embedding_std,
            "feature_effective_rank": of_features.effective_rank,
            "feature_auc": of_features.auc,
            "health": health.status,
            "reasons": list(health.reasons),
            "advice": list(health.advice),
            "notes": list(health.notes),
            "embedding_dim": of_embeddings.d,
            "feature_dim": of_features.d,
            **_logged("embeddings", spectrum),
            **_logged("features", feature_spectrum),
        }

    def _encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        return torch.cat([self._run(encoder, self._clean(chunk)) for chunk in torch.split(images, CHUNK)])

    def _project(self, model: Siamese, features: Tensor) -> Tensor:
        return torch.cat([self._run(model.online.projector, chunk) for chunk in torch.split(features, CHUNK)])

    def _views(self, model: Siamese) -> tuple[Pair, Pair]:
        """Features, and embeddings, of two views of every image, the same views at every measurement."""
        generator = torch.Generator().manual_seed(self.seed)
        features: tuple[list[Tensor], list[Tensor]] = ([], [])
        for chunk in torch.split(self.sample.images, CHUNK):
            batch = views.make_views(chunk, self.specs, generator, colour="fast", mean=self.mean, std=self.std)
            for kept, view in zip(features, batch[:2], strict=True):
                kept.append(self._run(model.online.backbone, self.precision.layout(view)))
        first, second = torch.cat(features[0]), torch.cat(features[1])
        return (first, second), (self._project(model, first), self._project(model, second))

    def _lag(self, model: Siamese, embeddings: Tensor) -> tuple[Tensor, Tensor] | None:
        """Embeddings of the first images by the online network and by the momentum target, if there is one."""
        if model.target is None:
            return None
        images = self.sample.images[:LAGGING]
        return embeddings[: len(images)], self._run(model.target, self._clean(images))

    def _knn(self, model: Siamese, features: Tensor, bank_labels: Tensor, labels: Tensor) -> float:
        bank = self._encode(model.online.backbone, self.bank.images)
        k = min(self.config.k, len(bank))
        result = knn(
            bank, bank_labels, features, labels,
            ks=(k,), temperature=self.config.temperature,
        )  # fmt: skip
        return float(result.accuracy[k])

    def _clean(self, images: Tensor) -> Tensor:
        return self.precision.layout(views.eval_view(images, self.size, self.mean, self.std))

    def _run(self, module: nn.Module, batch: Tensor) -> Tensor:
        with torch.inference_mode(), self.precision.autocast(batch.device):
            return module(batch).float().clone()  # type: ignore[no-any-return]


def _aligned(model: Siamese, embeddings: Tensor) -> dict[str, Any]:
    """How a predictor that is a matrix W stands to the embeddings' correlation F, and the spectra of both."""
    matrix = getattr(model.predictor, "matrix", None)
    if matrix is None or matrix.ndim != 2:  # no matrix, or one for each part of the space
        return {}
    z = embeddings.double()
    if not bool(torch.isfinite(z).all()):
        return {}  # the assessment that follows says so
    found = collapse.alignment((z.T @ z / len(z)).cpu().numpy(), matrix.detach().double().cpu().numpy(), k=ALIGNED)
    return {
        "alignment": found.cosine,
        "alignment_cosines": [round(float(value), 6) for value in found.cosines],
        "asymmetry": found.asymmetry,
        "commutator": found.commutator,
        "smallest_eigenvalue": found.smallest,
        **_logged("correlation", found.correlation_spectrum),
        **_logged("predictor", found.matrix_spectrum),
    }


def _vitals(matrix: Tensor) -> tuple[Vitals, NDArray[np.float64]]:
    """The label-free numbers of a set of features, and their singular values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", collapse.TooFewSamples)  # the verdict says so itself
        found = collapse.spectrum(matrix)
    sigma = found.singular_values
    std = collapse.embedding_std(matrix)
    return Vitals(std, collapse.effective_rank(sigma), collapse.auc(sigma), found.n, found.d), sigma


def _ranks(matrix: Tensor, pair: Pair) -> dict[str, float]:
    """RankMe of a set of features, and LiDAR of two views of each image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", collapse.TooFewSamples)
        return {
            "rankme": collapse.rankme(collapse.spectrum(matrix, center=False)),
            "lidar": collapse.lidar(torch.stack(pair, dim=1)),
        }


def _logged(name: str, spectrum: NDArray[np.float64], most: int = 512) -> dict[str, Any]:
    """A spectrum for the log, six digits; of more than `most` values a geometric selection, with its 1-based places."""
    places = np.arange(1, len(spectrum) + 1)
    if len(spectrum) > most:
        places = np.unique(np.geomspace(1, len(spectrum), most).astype(int))
    out: dict[str, Any] = {f"spectrum_{name}": [float(f"{value:.6g}") for value in spectrum[places - 1]]}
    if len(places) < len(spectrum):
        out[f"spectrum_{name}_index"] = places.tolist()
    return out
