"""SimSiam and BYOL with ResNet-18 on CIFAR-10 on one GPU: everything that is claimed of it, in one call.

    python benchmarks/gpu.py CIFAR --minutes 9 --out benchmarks/results/gpu.json
    python benchmarks/gpu.py CIFAR --minutes 9 --parts limit,recipe --record benchmarks/results/record.json

CIFAR: a folder or array file as `siamscope train` takes it. The parts, in this order; JSON is written after each:

limit    TFLOP/s of a large bfloat16 matrix product: what the share of the limit is of.
speed    images a second of the whole step (views, passes, optimiser, target), images on the device, plain and compiled,
         with exact and fast colour, and of the views alone. GFLOP of the backbone's passes alone are counted: 3.33 a
         view forward and backward, 1.11 forward (555 million multiplications), so heads only lower the share.
lightly  the same network, batch and views by lightly's own parts (float32, its transform in as many workers as there
         are cores), if lightly can be imported.
recipe   lightly's SimSiam recipe of 200 epochs (batch 512, SGD 0.9, rate 0.06 unscaled, decay 5e-4, cosine to 0) with
         k-NN (k = 200, temperature 0.1, test on all training images) every `--every` epochs and of the last epoch, and
         the seconds of training until 80, 85 and 90 % (evaluation not counted, compiling counted). A k-NN and a few
         steps are timed first, undone, and not counted. If the epochs do not fit into what is left of `--minutes`, so
         many are run as do, with their own cosine, and the answer says so (`shortened`). If the time runs out all the
         same, the run breaks off after an epoch, in the middle of its cosine, and the answer says that (`broken_off`).

`--record FILE` appends the recipe's times, with both of these, to a table that later work can beat. A trial without a
GPU: `shapes --device cpu --backbone resnet8 --batch 64 --steps 2 --epochs 1`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamscope import networks, views
from siamscope import recipe as recipes
from siamscope.data import DataConfig, Dataset, channel_stats, open_dataset
from siamscope.data.cores import usable_cores
from siamscope.evaluation.features import extract
from siamscope.evaluation.knn import knn
from siamscope.recipe import Recipe
from siamscope.training import compile as compiling
from siamscope.training import machine
from siamscope.training.build import Normalisation, build_trainer
from siamscope.training.distributed import World
from siamscope.training.precision import Precision
from siamscope.training.step import Trainer
from siamscope.workflow import environment

PASS = 1.11e9  # floating-point operations of ResNet-18's forward pass at 32 px; backward twice as many
MARKS = (0.80, 0.85, 0.90)
Row = dict[str, Any]


class Bench:
    """The arguments, the images on the device, and the time that is left."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.started = args, time.monotonic()
        self.device = torch.device(args.device)
        self.data: Dataset = open_dataset(DataConfig(source=args.source, samples=args.samples, val_samples=2))
        self.norm = Normalisation(*(tuple(x) for x in channel_stats(self.data.train, 10_000, 0)))
        self.images = self._all(self.data.train).to(self.device)
        if self.data.test is None or self.data.test.labels is None or self.data.train.labels is None:
            raise SystemExit(f"{args.source}: the k-NN needs labels and a test split")
        self.labels, self.test_labels = (torch.from_numpy(s.labels) for s in (self.data.train, self.data.test))
        self.test = self._all(self.data.test).to(self.device)
        self.per_epoch = len(self.images) // args.batch
        if not self.per_epoch:
            raise SystemExit(f"--batch {args.batch}: there are only {len(self.images)} training images")

    @staticmethod
    def _all(source: Any) -> Tensor:
        return torch.from_numpy(source.read(torch.arange(len(source)).numpy()))

    def left(self) -> float:
        return 60 * self.args.minutes - (time.monotonic() - self.started)

    def wait(self) -> float:
        """The clock, once the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, job: Callable[[], object], times: int) -> float:
        """Mean seconds of a job, after three first ones."""
        for _ in range(min(times, 3)):
            job()
        start = self.wait()
        for _ in range(times):
            job()
        return (self.wait() - start) / times

    def recipe(self, method: str, **train: Any) -> Recipe:
        """The published recipe of CIFAR-10 with this benchmark's backbone, batch and colour."""
        base = recipes.load(f"{method}-cifar10")
        settings = {"batch_size": self.args.batch, "device": self.args.device, **train}
        return dataclasses.replace(
            base,
            data=self.data.config,
            network=dataclasses.replace(base.network, backbone=self.args.backbone),
            views=dataclasses.replace(base.views, colour=self.args.colour),
            train=dataclasses.replace(base.train, **settings),
        )

    def trainer(self, recipe: Recipe) -> Trainer:
        precision = Precision(bf16=True, channels_last=True)
        return build_trainer(recipe, 3, self.per_epoch, self.norm, World(device=self.device), precision)


def limit(bench: Bench) -> Row:
    """TFLOP/s of a bfloat16 product, the best of three sizes."""
    rates = {}
    for n in (2048, 4096, 8192) if bench.device.type == "cuda" else (1024,):
        a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
        rates[str(n)] = round(2 * n**3 / bench.seconds(lambda a=a, b=b: a @ b, 30) / 1e12, 2)
    return {"tflops": rates, "best": max(rates.values())}


def speed(bench: Bench, tflops: float | None) -> list[Row]:
    rows = []
    for method, colour, compiled in (
        ("simsiam", "fast", "off"), ("simsiam", "fast", "on"), ("simsiam", "exact", "off"),
        ("byol", "fast", "off"), ("byol", "fast", "on"),
    ):  # fmt: skip
        try:
            rows.append({"method": method, "colour": colour} | _speed(bench, method, colour, compiled, tflops))
        except (RuntimeError, ValueError) as error:  # out of memory, a compiler that fails: the other rows count still
            rows.append({"method": method, "colour": colour, "compile": compiled, "error": str(error)[:300]})
        print(rows[-1], flush=True)
    return rows


def _speed(bench: Bench, method: str, colour: Any, compiled: str, tflops: float | None) -> Row:
    recipe = bench.recipe(method, steps=10_000)
    state = bench.trainer(dataclasses.replace(recipe, views=dataclasses.replace(recipe.views, colour=colour)))
    choice = compiling.choose(compiled, state, 10_000)
    batch, numbers, generator = bench.images[: bench.args.batch], iter(range(1, 10_000)), torch.Generator()

    def once() -> None:  # the images are drawn anew, as in a run
        drawn = torch.randint(len(bench.images), (len(batch),), device=bench.device)
        state.step(next(numbers), bench.images[drawn])

    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    step = bench.seconds(once, bench.args.steps)
    made = bench.seconds(lambda: state.make_views(batch, generator), bench.args.steps)
    rate, passes = len(batch) / step, 3 * len(state.specs) + (2 if state.model.target is not None else 0)
    row: Row = {
        "compile": choice.reason,
        "images_per_second": round(rate),
        "views_alone": round(len(batch) / made),
    }
    if bench.args.backbone == "resnet18":  # PASS is of no other
        row["tflops"] = round(rate * passes * PASS / 1e12, 2)
        if tflops:
            row["share_of_limit"] = round(row["tflops"] / tflops, 3)
    if bench.device.type == "cuda":
        row["peak_gib"] = round(torch.cuda.max_memory_allocated(bench.device) / 2**30, 2)
    return row


def lightly(bench: Bench) -> Row:
    """Images a second of a loop as lightly's documentation writes it, on at most 20,000 images. As many first steps
    as the workers are batches ahead are not counted: what was made before the clock started would be."""
    if not importlib.util.find_spec("lightly"):
        return {"missing": "lightly is not installed here"}
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
    from lightly.transforms import SimSiamTransform
    from PIL import Image

    pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in bench.images[:20_000].cpu()]
    transform = SimSiamTransform(input_size=32, gaussian_blur=0.0)

    class Views(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> Any:
            return transform(pictures[index])

    workers = usable_cores()
    first, data = 2 * workers + 3, Views()  # a worker is two batches ahead
    drawn = torch.utils.data.RandomSampler(data, num_samples=(first + bench.args.steps) * bench.args.batch)
    loader = torch.utils.data.DataLoader(
        data, batch_size=bench.args.batch, sampler=drawn, num_workers=workers, pin_memory=bench.device.type == "cuda"
    )
    backbone = networks.create(bench.args.backbone).to(bench.device)
    projector = SimSiamProjectionHead(backbone.feature_dim, 2048, 2048).to(bench.device)
    predictor = SimSiamPredictionHead(2048, 512, 2048).to(bench.device)
    parts = [backbone, projector, predictor]
    optimizer = torch.optim.SGD([p for m in parts for p in m.parameters()], lr=0.06, momentum=0.9, weight_decay=5e-4)
    criterion, start = NegativeCosineSimilarity(), 0.0
    for number, (x0, x1) in enumerate(loader, 1):
        z0, z1 = (projector(backbone(x.to(bench.device))) for x in (x0, x1))
        loss = 0.5 * (criterion(predictor(z0), z1.detach()) + criterion(predictor(z1), z0.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if number == first:
            start = bench.wait()
    images = bench.args.steps * bench.args.batch
    return {"images_per_second": round(images / (bench.wait() - start)), "workers": workers}


def test_knn(bench: Bench, state: Trainer) -> float:
    """Accuracy of the test images (k = 200, temperature 0.1) among all training images, on cached features."""

    def features(images: Tensor) -> Tensor:
        return extract(
            state.model.online.backbone,
            lambda rows: images[torch.from_numpy(rows).to(images.device)],
            len(images),
            transform=lambda x: state.precision.layout(views.eval_view(x, 32, bench.norm.mean, bench.norm.std)),
            autocast=torch.bfloat16,
            batch_size=2048,
        )

    k = min(200, len(bench.images))
    found = knn(features(bench.images), bench.labels, features(bench.test), bench.test_labels, ks=(k,))
    return found.accuracy[k]


def epochs_that_fit(bench: Bench, state: Trainer) -> tuple[int, float]:
    """How many of the epochs that are asked for fit into the time that is left, and the seconds of one with its share
    of the k-NN: by a k-NN and a few steps on the clock, after which the weights are as they were."""
    weights = {name: value.clone() for name, value in state.model.state_dict().items()}
    start = bench.wait()
    test_knn(bench, state)
    judging, batch, numbers = bench.wait() - start, bench.images[: bench.args.batch], iter(range(1, 1_000))
    step = bench.seconds(lambda: state.step(next(numbers), batch), min(bench.args.steps, 20))
    state.model.load_state_dict(weights)
    state.optimizer.state.clear()
    epoch = bench.per_epoch * step + judging / bench.args.every
    fit = int((0.97 * bench.left() - 10 - judging) / epoch)  # the last epoch is judged whatever `--every` is
    return max(1, min(bench.args.epochs, fit)), epoch


def recipe(bench: Bench) -> Row:
    """Train; seconds of training, k-NN along the way and at the end, and seconds to each mark."""
    args, per_epoch = bench.args, bench.per_epoch
    base = bench.recipe("simsiam", epochs=float(args.epochs))
    row = dataclasses.replace(base.method, projector=dataclasses.replace(base.method.projector, last_norm="batch"))
    optim = dataclasses.replace(base.optim, lr=0.06, lr_scaling=False, constant_predictor_lr=False)
    state = bench.trainer(dataclasses.replace(base, method=row, optim=optim))
    epochs, seconds = epochs_that_fit(bench, state)
    start = bench.wait()
    choice = compiling.choose(args.compile, state, epochs * per_epoch)
    spent, curve, number = bench.wait() - start, [], 0
    if args.compile != "off":  # what compiling saves and costs is known by now
        epochs, seconds = epochs_that_fit(bench, state)
    state.steps = epochs * per_epoch  # the length of the cosine
    for epoch in range(1, epochs + 1):
        start = bench.wait()
        order = torch.randperm(len(bench.images), generator=torch.Generator().manual_seed(epoch)).to(bench.device)
        for rows in order[: per_epoch * args.batch].view(per_epoch, args.batch):
            number += 1
            state.step(number, bench.images[rows])
        spent += bench.wait() - start
        late = epoch < epochs and bench.left() < 5 + seconds
        if epoch % args.every == 0 or epoch == epochs or late:
            curve.append({"epoch": epoch, "seconds": round(spent, 2), "knn": round(test_knn(bench, state), 4)})
            print(curve[-1], flush=True)
        if late:
            break
    reached = {f"{mark:.0%}": next((p["seconds"] for p in curve if p["knn"] >= mark), None) for mark in MARKS}
    done = curve[-1]["epoch"]
    return {
        "method": "simsiam", "backbone": args.backbone, "images": len(bench.images), "batch": args.batch,
        "epochs": done, "epochs_of_the_cosine": epochs, "epochs_asked": args.epochs, "epochs_of_the_recipe": 200,
        "shortened": epochs < args.epochs, "broken_off": done < epochs,
        "train_seconds": curve[-1]["seconds"], "knn_of_the_last_epoch": curve[-1]["knn"], "compile": choice.reason,
        "seconds_of_200_epochs": round(200 * curve[-1]["seconds"] / done, 1),
        "seconds_to": reached, "curve": curve,
    }  # fmt: skip


def keep_record(path: Path, row: Row, about: Row) -> None:
    """Append a line to the record table (JSON, a list)."""
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    names = (
        "method", "backbone", "images", "batch", "epochs", "epochs_of_the_cosine", "epochs_asked", "shortened",
        "broken_off", "train_seconds", "knn_of_the_last_epoch", "compile", "seconds_to",
    )  # fmt: skip
    machine_names = ("gpu", "cpu", "torch", "siamscope", "date")
    table.append({n: row[n] for n in names} | {n: about[n] for n in machine_names if n in about})
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="shapes", help="folder or array file of CIFAR-10, or shapes")
    parser.add_argument("--minutes", type=float, default=9.0, help="end by then, after an epoch at least")
    parser.add_argument("--parts", default="limit,speed,lightly,recipe")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--record", type=Path, help="append the recipe's times to this table")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="epochs between two k-NN")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60, help="timed steps of a speed")
    parser.add_argument("--samples", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--colour", choices=("exact", "fast"), default="fast")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    machine.keep_memory()
    bench, parts = Bench(args), args.parts.split(",")
    about = environment.describe(bench.device) | {"date": environment.now(), "command": " ".join(sys.argv)}
    results: Row = {"machine": about, "images": bench.data.name, "batch": args.batch, "backbone": args.backbone}

    def keep(name: str, found: Any) -> Any:
        results[name] = found
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        return found

    tflops = keep("limit", limit(bench))["best"] if "limit" in parts else None
    rows = keep("speed", speed(bench, tflops)) if "speed" in parts else []
    rates = [r["images_per_second"] for r in rows if r["method"] == "simsiam" and "images_per_second" in r]
    if "lightly" in parts:
        found = keep("lightly", lightly(bench))
        if rates and "images_per_second" in found:
            keep("ratio_to_lightly", round(max(rates) / found["images_per_second"], 2))
    if "recipe" in parts:
        found = keep("recipe", recipe(bench))
        if args.record:
            keep_record(args.record, found, about)
    print(json.dumps({name: value for name, value in results.items() if name != "machine"}, indent=1))


if __name__ == "__main__":
    main()
