"""Features of images by a network: pooled, in eval mode, without augmentation, running statistics untouched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from siamscope.data import Dataset
from siamscope.evaluation.features import evaluating
from siamscope.training.distributed import choose_device
from siamscope.training.progress import Reporter
from siamscope.workflow.diagnose.loaded import EMBEDDINGS, Ask, DiagnoseError, Loaded
from siamscope.workflow.diagnose.nets import Net, open_data
from siamscope.workflow.features import Encode, Split, of_views, transform_hash
from siamscope.workflow.opening import opened

CHUNK = 512


def load(name: str, net: Net, dataset: Dataset | None, ask: Ask, reporter: Reporter) -> Loaded:
    """Features of a network's images; `dataset`: that of its run, if it is open already.

    Raises:
        DiagnoseError: no data named, no such split, or --embeddings without a projector.
        DataError: the data cannot be used.
    """
    if ask.embeddings and net.projector is None:
        raise DiagnoseError(f"{name} has no projector, so there are no embeddings; give a run or a checkpoint")
    notes = list(net.notes)
    if ask.data:
        dataset = open_data(net, ask.data, ask.size, reporter)
    elif net.data is None:
        raise DiagnoseError(f"{name} does not say which images to use: give --data (shapes, a folder, an array file)")
    else:
        dataset = dataset or opened(net.data, reporter)
        if net.fingerprint and net.fingerprint != dataset.fingerprint:
            notes.append(f"the images of {dataset.name} have changed since the run was made")
    split = ask.split if ask.split != "auto" else "all" if ask.data else "validation"
    seed = net.seed if ask.seed is None else ask.seed
    parts = drawn(dataset, split, ask.samples, seed)
    device = choose_device(ask.device)
    reporter.say(f"{name}: features of {sum(map(len, parts)):,} images ({split})")
    encode = Encode(net.size, net.norm, device)
    features = _encoded(net.backbone.to(device), encode, parts)
    embeddings = None if net.projector is None else _projected(net.projector.to(device), features, device)
    untrained = None
    if net.untrained is not None and not ask.embeddings:
        with torch.random.fork_rng(devices=[]):
            untrained = _encoded(net.untrained().to(device), encode, parts)
    grouped = None
    if ask.views:
        head = net.projector if ask.embeddings else None
        grouped = of_views(net.backbone, encode, parts, net.specs, ask.views, ask.view_images, seed, head)
    about: dict[str, Any] = {
        "kind": net.kind,
        "layer": EMBEDDINGS if ask.embeddings else "backbone, after pooling",
        "split": split,
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "augmented": False,
        "transform": f"centre square, {net.size} px, antialiased bilinear, normalised",
        "transform_hash": transform_hash(net.size, net.norm),
        "weights_hash": net.weights,
        "dtype": "float32",
        "seed": seed,
        "method": net.method,
        "step": net.step,
    }
    if ask.views:
        about["views"] = {"per_image": ask.views, "images": 0 if grouped is None else len(grouped)}
    measured = embeddings if ask.embeddings and embeddings is not None else features
    return Loaded(
        name,
        measured.numpy(),
        None if grouped is None else grouped.numpy(),
        None if embeddings is None or ask.embeddings else embeddings.numpy(),
        None if untrained is None else untrained.numpy(),
        about,
        net.step,
        net.course,
        tuple(notes),
    )


def drawn(dataset: Dataset, split: str, most: int, seed: int) -> list[Split]:
    """At most `most` images (0: all) of a split, drawn by the seed; of `all`, from the three splits together.

    Raises:
        DiagnoseError: there is no such split, or it has fewer than two images.
    """
    sources = {"train": dataset.train, "validation": dataset.val, "test": dataset.test}
    if split == "all":
        chosen = [source for source in sources.values() if source is not None]
    else:
        source = sources[split]
        if source is None:
            raise DiagnoseError(f"{dataset.name} has no test split; choose --split train, validation or all")
        chosen = [source]
    total = sum(map(len, chosen))
    if total < 2:
        raise DiagnoseError(f"the {split} split of {dataset.name} has {total} image; a spectrum needs at least 2")
    if len(chosen) == 1:
        return [Split.of(chosen[0], most or total, seed)]
    order = np.random.Generator(np.random.PCG64([seed, 11])).permutation(total)[: most or total]
    starts = np.cumsum([0, *map(len, chosen)])
    parts = []
    for source, start in zip(chosen, starts, strict=False):
        here = np.sort(order[(order >= start) & (order < start + len(source))] - start)
        if len(here):
            parts.append(Split(source, here.astype(np.int64)))
    return parts


def _encoded(encoder: nn.Module, encode: Encode, parts: Sequence[Split]) -> Tensor:
    return torch.cat([encode(encoder, part) for part in parts])


@torch.inference_mode()
def _projected(projector: nn.Module, features: Tensor, device: torch.device) -> Tensor:
    with evaluating(projector):
        return torch.cat([projector(chunk.to(device)).float().cpu() for chunk in torch.split(features, CHUNK)])
