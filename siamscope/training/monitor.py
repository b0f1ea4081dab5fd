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
from siamscope.training.distributed import World
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
    """This process's share of `count` images, (n, C, H, W) uint8 on the device; the labels (count,) of all, if any."""

    images: Tensor
    labels: Tensor | None
    count: int


@dataclass(frozen=True)
class _Seen:
    """What the networks make of the images of all processes; of the bank and by the target, where it is used."""

    features: Tensor
    embeddings: Tensor
    views: Pair
    projected: Pair
    bank: Tensor | None
    lag: Pair | None


class Monitor:
    """Measures the representation on the same images every time: every process its share, and rank 0 the whole.

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
        world: World | None = None,
    ) -> None:
        self.config = config
        self.sample, self.bank = sample, bank
        self.specs, self.size, self.mean, self.std = specs, size, mean, std
        self.precision = precision
        self.seed = seed
        self.rates = rates
        self.world = world or World()

    def measure(self, model: Siamese, step: int, reference: dict[str, Any] | None) -> dict[str, Any]:
        """All figures after `step` steps; `reference` holds those of step 0, to tell what training lost.

        Called by all processes; nothing but on rank 0.
        """
        with evaluating(model):
            found = self._look(model)
        if found is None:
            return {}
        features, embeddings, seen, pair = found.features, found.embeddings, found.views, found.projected
        out: dict[str, Any] = {"positive_similarity": collapse.positive_similarity(*pair)}
        if found.bank is not None:
            out["knn"] = self._knn(found.bank, features)
        out |= _aligned(model, embeddings)
        out |= theory.figures(model, self.rates, *pair, lambda: found.lag)
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

    def _look(self, model: Siamese) -> _Seen | None:
        """Each process's share through the networks, then all rows on rank 0."""
        backbone, share = model.online.backbone, self.sample.images
        features = self._encode(backbone, share) if len(share) else None
        embeddings = self._project(model, features) if features is not None else None
        views = self._views(model)
        projected = [self._project(model, view) if view is not None else None for view in views]
        lag, bank = self._lag(model, embeddings), None
        if self.sample.labels is not None and self.bank.labels is not None:
            bank = self._encode(backbone, self.bank.images) if len(self.bank.images) else None
        *rows, bank, online, target = map(self.world.gathered, (features, embeddings, *views, *projected, bank, *lag))
        if not self.world.first:
            return None
        z = [part for part in rows if part is not None]  # all of them: rank 0 has the whole sample
        followed = (online, target) if online is not None and target is not None else None
        return _Seen(z[0], z[1], (z[2], z[3]), (z[4], z[5]), bank, followed)

    def _encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        return torch.cat([self._run(encoder, self._clean(chunk)) for chunk in torch.split(images, CHUNK)])

    def _project(self, model: Siamese, features: Tensor) -> Tensor:
        return torch.cat([self._run(model.online.projector, chunk) for chunk in torch.split(features, CHUNK)])

    def _views(self, model: Siamese) -> tuple[Tensor | None, Tensor | None]:
        """Features of two views of every image of this process; the same views at every measurement."""
        generator = torch.Generator().manual_seed(self.seed)
        features: tuple[list[Tensor], list[Tensor]] = ([], [])
        images, total = self.sample.images, self.sample.count
        done = 0
        for start in range(0, total, CHUNK):
            n = min(CHUNK, total - start)
            mine = self.world.within(total, start, start + n)
            if mine.start == mine.stop:
                views.skip_views(n, images.shape, self.specs, generator)
                continue
            chunk = images[done : done + mine.stop - mine.start]
            done += len(chunk)
            batch = views.make_views(
                chunk, self.specs, generator, colour="fast", mean=self.mean, std=self.std, rows=mine, global_batch=n
            )
            for kept, view in zip(features, batch[:2], strict=True):
                kept.append(self._run(model.online.backbone, self.precision.layout(view)))
        first, second = (torch.cat(kept) if kept else None for kept in features)
        return first, second

    def _lag(self, model: Siamese, embeddings: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Embeddings of the first images by the online network and by the momentum target, if they are of use."""
        mine = self.world.within(self.sample.count, 0, min(LAGGING, self.sample.count))
        if model.target is None or matrix_of(model) is None or embeddings is None or mine.start == mine.stop:
            return None, None
        images = self.sample.images[: mine.stop - mine.start]
        return embeddings[: len(images)], self._run(model.target, self._clean(images))

    def _knn(self, bank: Tensor, features: Tensor) -> float:
        assert self.bank.labels is not None  # or there were no bank
        assert self.sample.labels is not None
        k = min(self.config.k, len(bank))
        result = knn(
            bank, self.bank.labels, features, self.sample.labels,
            ks=(k,), temperature=self.config.temperature,
        )  # fmt: skip
        return float(result.accuracy[k])

    def _clean(self, images: Tensor) -> Tensor:
        return self.precision.layout(views.eval_view(images, self.size, self.mean, self.std))

    def _run(self, module: nn.Module, batch: Tensor) -> Tensor:
        with torch.inference_mode(), self.precision.autocast(batch.device):
            return module(batch).float().clone()  # type: ignore[no-any-return]


def matrix_of(model: Siamese) -> Tensor | None:
    """The predictor, if it is one matrix and not one for each part of the space."""
    matrix: Tensor | None = getattr(model.predictor, "matrix", None)
    return matrix if matrix is not None and matrix.ndim == 2 else None


def _aligned(model: Siamese, embeddings: Tensor) -> dict[str, Any]:
    """How a predictor that is a matrix W stands to the embeddings' correlation F, and the spectra of both."""
    matrix = matrix_of(model)
    if matrix is None:
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
