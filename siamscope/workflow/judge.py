"""The final judgement of a trained encoder: evaluation.json and gallery.npz, with the baselines beside every figure."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamscope import views
from siamscope.data import Dataset
from siamscope.evaluation.baselines import raw_pixels
from siamscope.evaluation.knn import knn
from siamscope.evaluation.probe import linear_probe
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, read_jsonl, write_atomically
from siamscope.sections import EvaluationConfig
from siamscope.training.build import Normalisation, build_backbone, specs_of, view_size
from siamscope.training.distributed import World
from siamscope.training.siamese import TARGET_VIEWS, Siamese
from siamscope.workflow import scored
from siamscope.workflow.features import Encode, Split
from siamscope.workflow.together import Together

COMPARED_PIXELS = 3072  # 32 x 32 RGB
PROBED_PIXELS = 768  # a linear probe on more costs much and gains little
PIECE = 2048
MAP_POINTS, QUERIES, NEIGHBOURS, PAIRS = 2000, 8, 6, 6


def judge(
    run: RunDir, recipe: Recipe, model: Siamese, dataset: Dataset, norm: Normalisation, here: World
) -> dict[str, Any] | None:
    """Judge the model of a run that just ended; writes evaluation.json and gallery.npz and returns the former.

    In float32, whatever the training ran in, so that `siamscope evaluate` finds the same figures. Called by all
    processes: each extracts its share of the features, and rank 0 has the figures (None elsewhere).
    """
    untrained = build_backbone(recipe, dataset.train.channels).to(here.device)
    encoders = {"trained": model.online.backbone, "untrained": untrained}
    encode = Together(view_size(recipe), norm, here, encoders, dataset)
    if not here.first:
        encode.serve()
        return None
    try:
        return _judged(run, recipe, model, dataset, encode)
    finally:
        encode.dismiss()


def _judged(run: RunDir, recipe: Recipe, model: Siamese, dataset: Dataset, encode: Together) -> dict[str, Any]:
    encoders = encode.encoders
    found = figures(encoders, encode, dataset, recipe.evaluation, recipe.train.seed)
    label_free = scored.of_encoders(encoders, encode, dataset, specs_of(recipe), recipe.train.seed)
    result = {"verdict": verdict(run, found)} | found | label_free
    run.write_json(run.evaluation, result)
    gallery(run, recipe, model, encode, dataset)
    return result


def verdict(run: RunDir, found: dict[str, Any]) -> dict[str, Any]:
    """The last measurement's words, and what the labelled figures add to them (`found`, as `figures` gives them).

    "Healthy" says that the representation is not collapsed; whether it is useful, the comparison with the untrained
    encoder says.
    """
    measured = [line for line in read_jsonl(run.metrics) if line.get("kind") == "monitor"]
    if not measured:
        return {"status": "unknown", "reasons": ["nothing was measured"], "advice": []}
    last = measured[-1]
    reasons, advice = list(last.get("reasons", [])), list(last.get("advice", []))
    if found["labels"]:
        k = found["k"]
        trained, untrained = (100 * found["knn"][name][str(k)] for name in ("trained", "untrained"))
        word = "above" if trained > untrained else "not above"
        reasons.append(f"{k}-NN accuracy is {trained:.1f} %, {word} the untrained encoder's {untrained:.1f} %")
        if trained <= untrained and not advice:
            advice.append("train longer: the encoder has not yet learnt what the labels measure")
    return {"status": last["health"], "reasons": reasons, "advice": advice}


def figures(
    encoders: Mapping[str, nn.Module], encode: Encode, dataset: Dataset, config: EvaluationConfig, seed: int
) -> dict[str, Any]:
    """k-NN and linear probe of every encoder and of raw pixels; without labels only the sizes.

    The test split gives the figures if there is one, else the validation split; the probe's penalty is always chosen on
    the validation split (on a held-out part of the training images when validation itself gives the figures).
    """
    held, split = (dataset.test, "test") if dataset.test is not None else (dataset.val, "validation")
    bank, queries = Split.of(dataset.train, config.bank, seed), Split.of(held, config.queries, seed)
    out: dict[str, Any] = {
        "split": split,
        "n_bank": len(bank),
        "n_queries": len(queries),
        "k": 20 if 20 in config.ks else config.ks[0],
        "temperature": config.temperature,
    }
    out["labels"] = bank.labels is not None and queries.labels is not None
    if not out["labels"]:
        return out
    chooser = Split.of(dataset.val, config.queries, seed)
    if split == "validation":  # choosing the penalty on the images that give the figure would flatter it
        chooser, bank = Split(bank.source, bank.indices[::10]), Split(bank.source, np.delete(bank.indices, np.s_[::10]))
    out |= {"n_bank": len(bank), "knn": {}, "probe": {}, "seconds": {}, "notes": []}
    of: dict[str, Callable[[Split], Tensor]] = {name: partial(encode, encoder) for name, encoder in encoders.items()}
    of["raw_pixels"] = partial(_pixels, most=COMPARED_PIXELS)
    for name, features in of.items():
        started = time.monotonic()
        x, q = features(bank), features(queries)
        found = knn(x, bank.labels, q, queries.labels, ks=config.ks, temperature=config.temperature)
        out["knn"][name] = {str(k): accuracy for k, accuracy in found.accuracy.items()}
        out["notes"] += [found.note] if found.note and found.note not in out["notes"] else []
        if config.probe:
            if name == "raw_pixels":
                features = partial(_pixels, most=PROBED_PIXELS)
                x, q = features(bank), features(queries)
            out["probe"][name], note = _probe(
                x, bank.labels, features(chooser), chooser.labels, q, queries.labels, seed
            )
            out["notes"] += [f"linear probe, {name.replace('_', ' ')}: {note}"] if note else []
        out["seconds"][name] = round(time.monotonic() - started, 2)
    return out


def _pixels(part: Split, most: int) -> Tensor:
    """Pixels as features, in pieces; larger images are shrunk to at most `most` values: memory stays bounded."""
    rows = np.arange(len(part), dtype=np.int64)
    pieces = np.split(rows, range(PIECE, len(rows), PIECE))
    return torch.cat([raw_pixels(part.read(piece), max_features=max(most, part.source.channels)) for piece in pieces])


def _probe(
    x: Tensor, y: Any, val_x: Tensor, val_y: Any, test_x: Tensor, test_y: Any, seed: int
) -> tuple[dict[str, Any], str]:
    """The figures of a linear probe, and what one must know before quoting them."""
    found = linear_probe(x, y, val_x, val_y, test_x, test_y, seed=seed)
    figures = {
        "top1": found.top1,
        "top5": found.top5,
        "interval": list(found.interval),
        "l2": found.l2,
        "converged": found.converged,
    }
    return figures, found.note


def gallery(run: RunDir, recipe: Recipe, model: Siamese, encode: Encode, dataset: Dataset) -> None:
    """Write gallery.npz: the map of validation features, nearest neighbours, and augmented pairs."""
    seed = recipe.train.seed
    part = Split.of(dataset.val, MAP_POINTS, seed)
    features = encode(model.online.backbone, part)
    names = [str(dataset.val.names[int(i)]) for i in part.indices]
    labels = part.labels if part.labels is not None else np.full(len(part), -1)
    points, explained = principal_plane(features)
    queries, neighbours, similarity = nearest(features, min(QUERIES, len(part)), NEIGHBOURS)
    arrays: dict[str, Any] = {
        "map": points, "map_labels": labels, "map_explained": explained, "map_names": np.array(names),
        "class_names": np.array(list(dataset.train.class_names or ()), dtype=str),
        "query_images": part.read(queries), "query_labels": labels[queries],
        "query_names": np.array(names)[queries],
        "neighbour_images": np.stack([part.read(row) for row in neighbours]),
        "neighbour_labels": labels[neighbours], "neighbour_names": np.array(names)[neighbours],
        "neighbour_similarity": similarity.astype(np.float32),
        "view_images": augmented(recipe, part.read(np.arange(min(PAIRS, len(part)), dtype=np.int64))),
    }  # fmt: skip
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(run.gallery, lambda stream: stream.write(buffer.getbuffer()))


def principal_plane(features: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(n, 2) coordinates on the first two principal axes, and the share of the variance that each explains."""
    centred = features.double() - features.double().mean(0)
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    axes = v[:2]
    plane = torch.zeros(len(features), 2, dtype=torch.float64)
    plane[:, : len(axes)] = centred @ axes.T
    total = s.square().sum().clamp_min(1e-30)
    explained = np.zeros(2)
    explained[: len(axes)] = (s[:2].square() / total).numpy()
    return plane.float().numpy(), explained


def nearest(features: Tensor, queries: int, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(q,) evenly spread query rows, (q, k) their nearest other rows by cosine, (q, k) the similarities."""
    rows = torch.linspace(0, len(features) - 1, queries).round().long()
    rows = torch.unique(rows)
    unit = torch.nn.functional.normalize(features, dim=1)
    similarity = unit[rows] @ unit.T
    similarity[torch.arange(len(rows)), rows] = -2  # not oneself
    best = similarity.topk(min(k, len(features) - 1), dim=1)
    return rows.numpy(), best.indices.numpy(), best.values.double().numpy()


def augmented(recipe: Recipe, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(m, 1 + V, C, H, W): each image as it is evaluated, then two draws of the recipe's views (without
    local crops), as uint8."""
    batch = torch.from_numpy(images)
    generator = torch.Generator().manual_seed(recipe.train.seed)
    size = view_size(recipe)
    shown = [views.eval_view(batch, size)]
    for _ in range(2):
        shown += views.make_views(batch, specs_of(recipe)[:TARGET_VIEWS], generator, colour=recipe.views.colour)
    stacked = torch.stack(shown, dim=1).mul(255).round().clamp(0, 255)
    return stacked.to(torch.uint8).numpy()
