"""A trained encoder from a run or a file, and what one does with it: `siamscope evaluate` and `siamscope embed`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siamscope import networks
from siamscope.data import Dataset
from siamscope.data.config import DataConfig
from siamscope.data.source import Source
from siamscope.networks.backbone import Backbone
from siamscope.recipe import RecipeError
from siamscope.rundir import RunDir, RunError, write_atomically
from siamscope.sections import EvaluationConfig
from siamscope.training.build import Normalisation
from siamscope.training.distributed import choose_device
from siamscope.training.progress import Reporter, Silent
from siamscope.workflow.features import Encode, Split
from siamscope.workflow.judge import figures
from siamscope.workflow.opening import opened
from siamscope.workflow.ordering import known_files


@dataclass(frozen=True)
class Trained:
    """An encoder with what it must be fed; `data` is the data section of the run it comes from, if it is a run, and
    `known` the files that it began with, if its folder may have grown since."""

    backbone: Backbone
    meta: dict[str, Any]
    data: DataConfig | None
    known: dict[str, list[str]] | None = None

    @classmethod
    def load(cls, path: str | Path) -> Trained:
        """From a run directory, encoder.json or encoder.safetensors.

        Raises:
            RunError: a run that has no encoder yet.
            NetworkError: no encoder there, or a damaged one.
        """
        where = Path(path)
        is_run = (where / "recipe.toml").is_file()
        if is_run and not (where / "encoder.json").is_file():
            raise RunError(
                f"{where} has no encoder yet: the run is not complete; continue it with 'siamscope resume {where}'"
            )
        backbone, meta = networks.load_encoder(where)
        if not is_run:
            return cls(backbone, meta, None)
        run = RunDir.open(where)
        return cls(backbone, meta, run.recipe().data, known_files(run))

    def encode(self, device: torch.device) -> Encode:
        self.backbone.to(device)
        fed = self.meta["normalisation"]
        norm = Normalisation(tuple(fed["mean"]), tuple(fed["std"]))
        return Encode(int(self.meta["input_size"]), norm, device)

    def open(self, data: DataConfig | None, reporter: Reporter) -> Dataset:
        """The data asked for, or that of the run; checked against the encoder's channels."""
        config = data or self.data
        if config is None:
            raise RecipeError("--data is needed: an encoder file does not say which images to use")
        dataset = opened(config, reporter, self.known if data is None else None)
        expected = self.backbone.spec.in_channels
        if dataset.train.channels != expected:
            raise RecipeError(
                f"the encoder takes images of {expected} channels, {dataset.name} has {dataset.train.channels}; "
                f"set --data.channels {expected}"
            )
        return dataset


def evaluate(
    path: str | Path,
    data: DataConfig | None = None,
    config: EvaluationConfig | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """k-NN and linear probe of an encoder, with raw pixels and an untrained encoder of the same shape beside it.

    Raises:
        RecipeError: the data have no labels, or other channels than the encoder.
    """
    reporter = reporter or Silent()
    trained = Trained.load(path)
    dataset = trained.open(data, reporter)
    where = choose_device(device)
    encoders = {"trained": trained.backbone, "untrained": _untrained(trained, seed).to(where)}
    encode = trained.encode(where)
    out = figures(encoders, encode, dataset, config or EvaluationConfig(), seed)
    if not out["labels"]:
        raise RecipeError(
            f"{dataset.name} has no labels: k-NN and linear probe need them (CLASS/ sub-folders, or a key y)"
        )
    return out | {"data": dataset.name}


def _untrained(trained: Trained, seed: int) -> Backbone:
    """An encoder of the same shape with fresh weights, the baseline."""
    torch.manual_seed(seed)
    spec = trained.backbone.spec
    return networks.create(
        spec.name,
        in_channels=spec.in_channels or 3,
        width=spec.width,
        stem=spec.stem or "cifar",
        input_size=int(trained.meta["input_size"]),
        features=spec.features,
    )


def embed(
    path: str | Path,
    data: DataConfig,
    out: str | Path,
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write features (N, d) float32, file names and labels (if any) of all images of `data` to an npz file."""
    reporter = reporter or Silent()
    trained = Trained.load(path)
    dataset = trained.open(data, reporter)
    encode = trained.encode(choose_device(device))
    parts = [("train", dataset.train), ("validation", dataset.val)] + ([("test", dataset.test)] if dataset.test else [])
    features, names, split = [], [], []
    for name, source in parts:
        everything = Split(source, np.arange(len(source), dtype=np.int64))
        features.append(encode(trained.backbone, everything).numpy())
        names += [str(item) for item in source.names]
        split += [name] * len(source)
    arrays = {"features": np.concatenate(features), "names": np.array(names), "split": np.array(split)}
    arrays |= _labels([source for _, source in parts])
    target = Path(out)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(target, lambda stream: stream.write(buffer.getbuffer()))
    n, d = arrays["features"].shape
    return {"out": str(target), "n": n, "d": d, "labels": "labels" in arrays, "rejected": len(dataset.rejected)}


def _labels(sources: list[Source]) -> dict[str, Any]:
    known = [source.labels for source in sources]
    if any(part is None for part in known):
        return {}
    names = np.array(list(sources[0].class_names or ()), dtype=str)
    return {"labels": np.concatenate([part for part in known if part is not None]), "class_names": names}
