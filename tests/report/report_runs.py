"""Synthetic run directories: what a training run leaves behind, made up from a seed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = ("airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HOSTILE = (
    "<script>alert(1)</script>.jpg",
    '"><img src=x onerror=alert(1)>.png',
    "' onmouseover='alert(1)",
    "invoice\u202egpj.exe",
    "tab\tnew\nline\x00nul\x1b[31m",
    "lone\udcffsurrogate.jpg",
    "a" * 400 + ".jpeg",
    "مرحبا بالعالم.jpg",
    "</style></title><svg onload=alert(1)>&amp;&lt;",
)

RECIPE = """\
# written by siamscope
seed = 3

[data]
source = "folder"
path = "photos/holiday"
size = 32
validation = 0.1

[views]
policy = "simsiam"
crop = [0.2, 1.0]
flip = 0.5

[network]
backbone = "resnet18"
width = 1.0
projector = [512, 512, 128]

[method]
name = "simsiam"
normalise = "l2"
target = "detached"

[optim]
name = "sgd"
rate = 0.06
weight_decay = 5e-4

[train]
epochs = 20
batch_size = 256

[monitor]
interval = 100
"""

ENVIRONMENT: Mapping[str, object] = {
    "python": "3.11.2",
    "torch": "2.13.0+cpu",
    "platform": "Linux-6.1-x86_64",
    "cpu": "Some Processor 9000",
    "cores": 2,
    "device": "cpu",
    "precision": "bf16",
    "channels_last": True,
    "started": "2026-03-01 10:00:00",
    "finished": "2026-03-01 10:04:12",
    "command": "siamscope train photos/holiday --method simsiam",
}


def jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def spectrum(dimension: int, decay: float, scale: float = 10.0) -> list[float]:
    """Singular values that fall as a power of their index."""
    return [scale * float(index) ** -decay for index in range(1, dimension + 1)]


def metrics(
    steps: int = 2000, monitors: int = 20, *, labels: bool = True, collapse: bool = False
) -> list[dict[str, object]]:
    """Step, monitor and event lines of a run that learns, or collapses."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, object]] = [monitor(0, 0.0, labels, collapse)]
    for step in range(1, steps + 1):
        share = step / steps
        row: dict[str, object] = {"kind": "step", "step": step, "epoch": step / 100}
        row["loss"] = float(-0.95 * (1 - np.exp(-8 * share)) + 0.03 * generator.normal())
        row["lr"] = float(0.03 * (1 + np.cos(np.pi * share)))
        row |= {"lr_predictor": 0.06, "grad_norm": float(np.exp(generator.normal() * 0.3) * (1.5 - share))}
        row["images_per_second"] = 850 + 40 * float(generator.normal())
        rows.append(row)
        if monitors and step % (steps // monitors) == 0:
            rows.append(monitor(step, share, labels, collapse))
    rows.append({"kind": "event", "step": steps // 2, "message": "checkpoint saved: checkpoints/last.safetensors"})
    return rows


def monitor(step: int, share: float, labels: bool = True, collapse: bool = False) -> dict[str, object]:
    """One monitor line at a `share` of the training."""
    fall = 1e-6 ** min(1.0, 2 * share) if collapse else 1.0
    row: dict[str, object] = {"kind": "monitor", "step": step, "epoch": step / 100}
    row["embedding_std"] = 0.4 + 0.5 * share if not collapse else 0.4 * fall
    row["effective_rank"] = 8 + 60 * share if not collapse else 1 + 7 * fall
    row["auc"] = 0.95 - 0.25 * share if not collapse else 0.95 + 0.0496 * share
    row["positive_similarity"] = 0.99 - 0.15 * share if not collapse else 0.99 + 0.01 * share
    row |= {
        "feature_effective_rank": 12 + 90 * share,
        "feature_auc": 0.93 - 0.2 * share,
        "feature_std": 0.5 + 0.3 * share,
    }
    row |= {"grad_norm": None if step == 0 else 1.0, "loss": -0.9 * share, "images_per_second": 850.0}
    if labels:
        row["knn"] = 0.28 + 0.35 * (1 - float(np.exp(-3 * share)))
    row["health"] = "collapse" if collapse and share > 0.3 else "healthy" if share > 0.2 else "partial collapse"
    row["spectrum_embeddings"] = spectrum(128, 1.6 - share if not collapse else 2 + 3 * share, 10 * fall)
    row["spectrum_features"] = spectrum(512, 1.8 - share)
    return row


def evaluation(*, labels: bool = True, status: str = "healthy") -> dict[str, object]:
    """`evaluation.json`."""
    value: dict[str, object] = {
        "verdict": {
            "status": status,
            "reasons": [
                "68 of 128 embedding dimensions are in use (untrained: 8).",
                "Embeddings spread over the sphere: std × √d is 0.90.",
            ],
            "advice": ["Train longer: k-NN was still rising at the end (+1.2 points over the last fifth)."],
        },
        "k": 20,
        "split": "validation",
        "n_bank": 9000,
        "n_queries": 1000,
        "labels": labels,
        "seconds": {"features": 12.5, "knn": 0.81, "probe": 7.3},
    }
    if labels:
        value["knn"] = {
            "trained": {"1": 0.5871, "5": 0.6042, "20": 0.6234, "200": 0.5513},
            "untrained": {"1": 0.2713, "5": 0.2791, "20": 0.2817, "200": 0.2544},
            "raw_pixels": {"1": 0.2391, "5": 0.2287, "20": 0.2103, "200": 0.1876},
        }
        value["probe"] = {
            "trained": {"top1": 0.6712, "top5": 0.9634, "interval": [0.6417, 0.7008], "l2": 0.001},
            "untrained": {"top1": 0.3511, "top5": 0.8123, "interval": [0.3214, 0.3809], "l2": 0.01},
            "raw_pixels": {"top1": 0.2876, "top5": 0.7719, "interval": [0.2593, 0.3166], "l2": 1.0},
        }
    return value


def gallery(
    path: Path,
    *,
    channels: int = 3,
    size: int = 32,
    labels: bool = True,
    names: Sequence[str] = (),
    classes: Sequence[str] = CLASSES,
    points: int = 1000,
    queries: int = 8,
) -> None:
    """`gallery.npz` with blobs for embeddings and noise for images."""
    generator = np.random.default_rng(1)
    labelled = generator.integers(0, len(classes), points)
    centres = generator.normal(size=(len(classes), 2)) * 3
    count, near, views = queries, 6, 4

    def label(*shape: int) -> NDArray[np.int64]:
        return generator.integers(0, len(classes), shape) if labels else np.full(shape, -1, dtype=np.int64)

    def pictures(*shape: int) -> NDArray[np.uint8]:
        return generator.integers(0, 256, (*shape, channels, size, size), dtype=np.uint8)

    given = list(names) or [f"holiday/IMG_{index:04d}.jpg" for index in range(count)]
    called = [given[index % len(given)] for index in range(count * (1 + near))]
    np.savez(
        path,
        map=(centres[labelled] + generator.normal(size=(points, 2))).astype(np.float32),
        map_labels=labelled.astype(np.int64) if labels else np.full(points, -1, dtype=np.int64),
        map_explained=np.array([0.1812, 0.0934]),
        class_names=np.array(list(classes) if labels else [], dtype=np.str_),
        query_images=pictures(count),
        query_names=np.array(called[:count], dtype=np.str_),
        query_labels=label(count),
        neighbour_images=pictures(count, near),
        neighbour_names=np.array(called[count:], dtype=np.str_).reshape(count, near),
        neighbour_labels=label(count, near),
        neighbour_similarity=np.sort(generator.uniform(0.5, 0.99, (count, near)))[:, ::-1],
        view_images=pictures(6, 1 + views),
    )


def healthy(path: Path, *, labels: bool = True) -> Path:
    """A complete run."""
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    jsonl(path / "metrics.jsonl", metrics(labels=labels))
    (path / "evaluation.json").write_text(json.dumps(evaluation(labels=labels)), encoding="utf-8")
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT), encoding="utf-8")
    gallery(path / "gallery.npz", labels=labels)
    return path


def collapsed(path: Path) -> Path:
    """A complete run whose embeddings fell onto one point."""
    healthy(path)
    (path / "recipe.toml").write_text(RECIPE.replace("detached", "shared").replace("0.06", "0.12"), encoding="utf-8")
    jsonl(path / "metrics.jsonl", metrics(collapse=True))
    judged = evaluation(status="collapse")
    judged["knn"] = {"trained": {"20": 0.1201}, "untrained": {"20": 0.2817}, "raw_pixels": {"20": 0.2103}}
    judged["probe"] = {}
    judged["verdict"] = {
        "status": "collapse",
        "reasons": ["The embeddings hardly differ: std × √d is 4e-07.", "1 of 128 dimensions is in use."],
        "advice": ['Detach the target (method.target = "detached").', "Lower the learning rate."],
    }
    (path / "evaluation.json").write_text(json.dumps(judged), encoding="utf-8")
    return path


def aborted(path: Path) -> Path:
    """A run killed in the middle of its fourth line, and nothing else but the recipe."""
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    lines = [json.dumps(row) for row in metrics(steps=2, monitors=0)[:3]]
    (path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"kind": "step", "step": 3, "lo', encoding="utf-8")
    return path
