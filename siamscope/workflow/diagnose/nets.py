"""Networks that can be diagnosed: of a run, a checkpoint, an encoder file or timm, with what they must be fed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from siamscope.data import Dataset
from siamscope.data.config import DataConfig
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, RunError, read_jsonl
from siamscope.training import checkpoint
from siamscope.training.build import Normalisation, build_backbone, build_model, specs_of, view_size
from siamscope.training.checkpoint import Checkpoint
from siamscope.training.progress import Reporter, Silent
from siamscope.views import ViewSpec, get_policy
from siamscope.workflow.diagnose.loaded import DiagnoseError
from siamscope.workflow.encoder import Trained
from siamscope.workflow.opening import opened
from siamscope.workflow.train import normalisation

POLICY = "simclr"
"""Views of an encoder whose recipe is not known."""


@dataclass(frozen=True)
class Net:
    """A network and how it is fed.

    Attributes:
        kind: run, checkpoint, encoder or timm.
        backbone, projector: eval mode, CPU; no projector where the input has none.
        size, norm: side of the images in pixels, and their normalisation.
        channels: of the images.
        specs: distributions of random views.
        data: the data section of the run, if the input belongs to one.
        fingerprint: of the images the run was trained on; empty if unknown.
        untrained: makes the encoder before training; None if it cannot be made.
        seed, step, method: of the run; training steps behind the weights.
        course: what the run measured while training.
        notes: what the reader should know.
    """

    kind: str
    backbone: nn.Module
    projector: nn.Module | None
    size: int
    norm: Normalisation
    channels: int
    specs: tuple[ViewSpec, ...]
    data: DataConfig | None = None
    fingerprint: str = ""
    untrained: Callable[[], nn.Module] | None = None
    seed: int = 0
    step: int | None = None
    method: str = ""
    course: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> str:
        """Hash of the backbone's weights and statistics."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.backbone.state_dict().items()):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


def of_run(path: Path, reporter: Reporter) -> tuple[Net, Dataset | None]:
    """The network at a run's last checkpoint (with its projector), or else its exported encoder.

    The second value is the run's data, if they had to be opened for their normalisation.

    Raises:
        RunError, CheckpointError: no run, or one without a checkpoint.
    """
    run = RunDir.open(path)
    recipe = run.recipe()
    point, damaged = checkpoint.load_latest(run, recipe)
    if point is not None:
        net, dataset = _of_point(run, recipe, point, reporter)
        finished = run.evaluation.is_file()
        notes = [] if finished else [f"the run is not finished: these are its weights after step {point.step:,}"]
        return replace(net, kind="run", notes=(*damaged, *notes)), dataset
    if not (path / "encoder.json").is_file():
        raise RunError(f"{path} has neither a checkpoint nor an encoder yet; let it train longer, or resume it")
    trained = Trained.load(path)
    net = _of_trained(trained, "run")
    note = "the run has no checkpoint: no projector, so only the backbone is judged"
    found = replace(
        net, data=trained.data, fingerprint=_fingerprint(run), notes=(note,), specs=specs_of(recipe),
        untrained=lambda: build_backbone(recipe, net.channels), seed=recipe.train.seed, method=recipe.method.name,
        course=_course(run),
    )  # fmt: skip
    return found, None


def of_checkpoint(path: Path, reporter: Reporter) -> tuple[Net, Dataset | None]:
    """The network of one checkpoint of a run; see `of_run`.

    Raises:
        CheckpointError: damaged, or no checkpoint of siamscope.
    """
    point, recipe = checkpoint.load_alone(path)
    return _of_point(RunDir(path.absolute().parent.parent), recipe, point, reporter)


def _of_point(run: RunDir, recipe: Recipe, point: Checkpoint, reporter: Reporter) -> tuple[Net, Dataset | None]:
    exported = run.path / "encoder.json"
    dataset: Dataset | None = None
    if exported.is_file():
        fed = Trained.load(run.path).meta["normalisation"]
        norm = Normalisation(tuple(fed["mean"]), tuple(fed["std"]))
    else:
        dataset = opened(recipe.data, reporter)
        norm = normalisation(dataset)
    channels = recipe.data.channels or len(norm.mean)
    with torch.random.fork_rng(devices=[]):
        model = build_model(recipe, channels)
    try:
        model.load_state_dict(point.model)
    except RuntimeError as error:
        raise DiagnoseError(f"the checkpoint does not fit the recipe of {run.path}: {str(error)[:200]}") from error
    net = Net(
        "checkpoint", model.online.backbone.eval(), model.online.projector.eval(), view_size(recipe), norm, channels,
        specs_of(recipe), recipe.data, _fingerprint(run), lambda: build_backbone(recipe, channels), recipe.train.seed,
        point.step, recipe.method.name, _course(run, point.step),
    )  # fmt: skip
    return net, dataset


def of_encoder(path: Path) -> Net:
    """An exported encoder.

    Raises:
        NetworkError: no encoder there, or a damaged one.
    """
    return _of_trained(Trained.load(path), "encoder")


def _of_trained(trained: Trained, kind: str) -> Net:
    encode = trained.encode(torch.device("cpu"))
    channels = trained.backbone.spec.in_channels or len(encode.norm.mean)
    method = str(trained.meta.get("method", ""))
    return Net(
        kind, trained.backbone.eval(), None, encode.size, encode.norm, channels, get_policy(POLICY, encode.size),
        method=method,
    )  # fmt: skip


def of_timm(name: str) -> Net:
    """A model of timm with its published weights.

    Raises:
        NetworkError: timm is missing (the extra [timm]), or has no such model or no weights.
    """
    from siamscope.networks.pretrained import pretrained

    found = pretrained(name)
    norm = Normalisation(found.mean, found.std)
    return Net("timm", found.backbone, None, found.size, norm, len(found.mean), get_policy(POLICY, found.size))


def open_data(net: Net, source: str, size: int, reporter: Reporter | None = None) -> Dataset:
    """Other images than the run's, as the network takes them (of `size` pixels if that is not 0)."""
    config = DataConfig(source, size=size or (net.data.size if net.data else net.size), channels=net.channels)
    if net.data is not None:
        old = net.data
        config = replace(config, max_pixels=old.max_pixels, min_side=old.min_side, cache_dir=old.cache_dir)
    dataset = opened(config, reporter or Silent())
    if dataset.train.channels != net.channels:
        raise DiagnoseError(
            f"the encoder takes images of {net.channels} channels, {dataset.name} has {dataset.train.channels}"
        )
    return dataset


def _fingerprint(run: RunDir) -> str:
    with contextlib.suppress(OSError, ValueError):
        about: Any = json.loads(run.environment.read_text(encoding="utf-8"))
        return str(about.get("data_fingerprint", ""))
    return ""


def _course(run: RunDir, until: float = math.inf) -> tuple[dict[str, Any], ...]:
    lines = read_jsonl(run.metrics) if run.metrics.is_file() else []
    return tuple(line for line in lines if line.get("kind") == "monitor" and line.get("step", 0) <= until)
