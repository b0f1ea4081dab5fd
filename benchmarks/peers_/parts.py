"""The parts of the comparison. Each gives a dictionary of figures; rounds are interleaved over the libraries."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from peers_ import environments
from peers_.worker import Worker

K, TEMPERATURE = 200, 0.1
PROBE_TOLERANCES = (1e-4, 1e-5)
"""scikit-learn's: its default, with which it stops early here, and one with which it converges."""
LIBRARIES = ("siamscope", "lightly", "spt")
HOW = {
    "": {}, "compiled": {"compile": "on"}, "float32": {"plain": True},
    "float32, views by Pillow": {"plain": True, "pillow": True},
}  # fmt: skip
"""siamscope's settings by what stands behind its name."""


@dataclass
class Bench:
    """Where things are and how much is measured."""

    work: Path
    data: str
    device: str
    threads: int
    workers: int
    seed: int
    quick: bool
    compiled: bool
    given: dict[str, Path]
    _images: dict[str, Any] = field(default_factory=dict)

    def python(self, name: str) -> Path:
        return self.given.get(name) or environments.make(self.work, name)

    def worker(self, module: str, **settings: Any) -> Worker:
        """A worker; `data` and `pil` run in siamscope's environment."""
        name = module if module in environments.PACKAGES else "siamscope"
        shared = {"device": self.device, "threads": self.threads, "workers": self.workers, "seed": self.seed}
        return Worker(self.python(name), module, shared | settings, self.work / f"{module}.log")

    def amount(self, of_cpu: int) -> int:
        """How many steps or images are timed: a GPU does too many a second for the numbers that do for a core."""
        return of_cpu if self.device == "cpu" else of_cpu * (4 if self.quick else 50)

    @property
    def samples(self) -> int:
        return 512 if self.quick else 5_000

    @property
    def archive(self) -> str:
        return str(self.work / f"images-{self.samples}-{Path(self.data).name}.npz")

    def images(self) -> dict[str, Any]:
        """The shared images, made once a run: mean, deviation, number, name."""
        if not self._images:
            with self.worker("data") as worker:
                cache = str(self.work / "cache")
                self._images = worker("prepare", source=self.data, cache=cache, samples=self.samples, out=self.archive)
        return self._images

    def settings(self, backbone: str, batch: int) -> dict[str, Any]:
        """What every side's training starts from, with the first weights in a file."""
        about = self.images()
        weights = str(self.work / f"{backbone}.pt")
        both = {"data": self.archive, "mean": about["mean"], "std": about["std"], "backbone": backbone, "batch": batch}
        with self.worker("siamscope", **both) as worker:
            difference = worker("draw", out=weights)["largest_difference"]
        if difference > 1e-5:
            raise SystemExit(f"the plain {backbone} is not siamscope's: features differ by {difference:g}")
        return both | {"weights": weights}

    def features(self, decay: float = 1.0) -> str:
        """The features that k-NN and probe are timed on: standard deviations fall as 1 / i^decay."""
        bank, queries = (2_000, 500) if self.quick else (50_000, 10_000)
        out = self.work / f"features-{bank}-{decay:g}.npz"
        with self.worker("data") as worker:
            if not out.exists():
                worker("features", bank=bank, queries=queries, dim=512, decay=decay, out=str(out))
        return str(out)


Job = Callable[[], dict[str, Any]]


def interleaved(jobs: dict[str, Job], rounds: int) -> dict[str, Any]:
    """Images a second of every job in each round. The order turns by one from round to round."""
    names = list(jobs)
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seen[name].append(jobs[name]())
    out: dict[str, Any] = {}
    for name, rows in seen.items():
        rates = [row["images"] / row["seconds"] for row in rows]
        out[name] = {"rate": round(statistics.median(rates), 2), "rounds": [round(rate, 2) for rate in rates]}
        out[name]["seconds"] = round(statistics.median(row["seconds"] for row in rows), 3)
        if "peak_mb" in rows[-1]:
            out[name]["peak_mb"] = rows[-1]["peak_mb"]
    return out


def ratio(found: dict[str, Any], ours: str, theirs: str) -> float:
    """How many times faster: the median over rounds, each within itself."""
    pairs = zip(found[ours]["rounds"], found[theirs]["rounds"], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 2)


def started(bench: Bench, stack: ExitStack, settings: dict[str, Any], extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """Workers by name, ready to train: the libraries, siamscope compiled (if it can be here) and in the libraries'
    number format, and `extra`; what siamscope chose."""
    workers: dict[str, Worker] = {}
    chosen = {}
    own = ["siamscope compiled"] if bench.compiled else []
    names = [*LIBRARIES, *own, "siamscope float32", *extra]
    for name in names:
        module, _, how = name.partition(" ")
        more = HOW[how]
        workers[name] = stack.enter_context(bench.worker(module, **settings, **more))
        about = workers[name]("start")
        if about:
            chosen[name] = about
        if how == "compiled" and not about["compiled"]:  # the reason stays among what was chosen
            workers.pop(name)
    return {"workers": workers, "chosen": chosen}


def views(bench: Bench) -> dict[str, Any]:
    settings = bench.settings("resnet8", 64)
    count, few = map(bench.amount, (256, 64) if bench.quick else (4096, 512))
    with ExitStack() as stack:
        ours, lightly, spt = (stack.enter_context(bench.worker(name, **settings)) for name in LIBRARIES)
        for worker in (ours, lightly, spt):
            worker("start")
        jobs: dict[str, Job] = {
            "siamscope exact": lambda: ours("views", count=count, colour="exact"),
            "siamscope fast": lambda: ours("views", count=count, colour="fast"),
            "lightly": lambda: lightly("views", count=few),
            "spt": lambda: spt("views", count=few),
        }
        return interleaved(jobs, 2 if bench.quick else 7)


def step(bench: Bench) -> dict[str, Any]:
    with ExitStack() as stack:
        made = started(bench, stack, bench.settings("resnet18", 8 if bench.quick else 64))
        steps = bench.amount(2)
        jobs = {n: (lambda w=w: w("step", steps=steps)) for n, w in made["workers"].items()}
        return {"resnet18": interleaved(jobs, 1 if bench.quick else 3), "chosen": made["chosen"]}


def end(bench: Bench) -> dict[str, Any]:
    """ResNet-18, batch 64; ResNet-8, batch 256, beside the usual loop and, on a CPU, siamscope with the usual views (on
    a GPU these would be made by one thread, the other sides' by the loader workers)."""
    out: dict[str, Any] = {"chosen": {}}
    usual = ("pil", "siamscope float32, views by Pillow") if bench.device == "cpu" else ("pil",)
    for backbone, batch, few, extra in (("resnet18", 64, 2, ()), ("resnet8", 256, 4, usual)):
        steps = bench.amount(few)
        with ExitStack() as stack:
            size = batch // 8 if bench.quick else batch
            made = started(bench, stack, bench.settings(backbone, size), extra)
            jobs = {n: (lambda w=w, steps=steps: w("end", steps=steps)) for n, w in made["workers"].items()}
            out[backbone] = interleaved(jobs, 1 if bench.quick else 3)
            out["chosen"][backbone] = made["chosen"]
    return out


def knn(bench: Bench) -> dict[str, Any]:
    features = bench.features()
    files = {name: str(bench.work / f"votes-{name}.npy") for name in LIBRARIES}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(bench.worker(name)) for name in LIBRARIES}
        asked = {"features": features, "k": K, "temperature": TEMPERATURE}
        jobs = {n: (lambda w=w, n=n: w("knn", out=files[n], **asked)) for n, w in workers.items()}
        found = interleaved(jobs, 1 if bench.quick else 3)
    with bench.worker("data") as worker:
        one, other = files["siamscope"], files["lightly"]
        found["votes"] = worker("votes", features=features, one=one, other=other, k=K, temperature=TEMPERATURE)
    return found


def probe(bench: Bench) -> dict[str, Any]:
    """On features whose spectrum is flat enough for scikit-learn to converge; tolerances: PROBE_TOLERANCES."""
    features, most = bench.features(decay=0.25), 100 if bench.quick else 1000
    with bench.worker("siamscope") as ours, bench.worker("sklearn") as theirs:
        jobs: dict[str, Job] = {"siamscope": lambda: ours("probe", features=features)}
        for tolerance in PROBE_TOLERANCES:
            jobs[f"sklearn {tolerance:g}"] = partial(theirs, "probe", features=features, most=most, tolerance=tolerance)
        rounds = [{name: job() for name, job in jobs.items()} for _ in range(1 if bench.quick else 2)]
    found = {name: rounds[-1][name] for name in jobs}
    for name, row in found.items():
        row["rounds"] = [one[name]["seconds"] for one in rounds]
        pairs = zip(row["rounds"], [one["siamscope"]["seconds"] for one in rounds], strict=True)
        row["ratio"] = round(statistics.median(a / b for a, b in pairs), 2)
    return found


def start(bench: Bench) -> dict[str, Any]:
    """The second start on a folder of 60,000 files, in a process of its own, and the command's own start."""
    count = 600 if bench.quick else 60_000
    bench.images()
    root = bench.work / f"files-{count}"
    cache = bench.work / "cache-files"
    shutil.rmtree(cache, ignore_errors=True)
    with bench.worker("data") as worker:
        worker("files", data=bench.archive, folder=str(root), count=count)
    starts = []
    for _ in range(3):
        begin = time.perf_counter()
        with bench.worker("data") as worker:
            found = worker("open", folder=str(root / "images"), cache=str(cache))
            starts.append(found | {"process_wall": time.perf_counter() - begin})
    if len({found["fingerprint"] for found in starts}) > 1:
        raise SystemExit("a later start gave other images than the first")
    shutil.rmtree(cache)
    python = bench.python("siamscope")
    shown = environments.cost(python, "-m", "siamscope", "--help", repeats=2 if bench.quick else 9)
    keep = ("wall", "seconds", "process_wall", "images")
    named = {
        name: {key: round(found[key], 3) for key in keep}
        for name, found in zip(("first", "second", "third"), starts, strict=True)
    }
    return named | {"help": shown}


def size(bench: Bench) -> dict[str, Any]:
    """Packages beside torch's own, and what an import costs beyond torch's."""
    out: dict[str, Any] = {}
    for name in LIBRARIES:
        python = bench.python(name)
        before = "" if name == "siamscope" else environments.VISION_FIRST
        repeats = 1 if bench.quick else 3
        torch = environments.cost(python, "-c", "import torch", repeats=repeats)
        whole = environments.cost(python, "-c", before + environments.IMPORTS[name], repeats=repeats)
        out[name] = environments.weight(python) | {"torch_import": torch, "import": whole}
        out[name]["import_beyond_torch"] = round(whole["cpu"] - torch["cpu"], 3)
    return out


SAME_AS = {("spt", "Barlow Twins"): "Barlow Twins, unbiased"}
"""stable-pretraining divides by the unbiased deviation plus 1e-5: compared with our loss of features made so."""


def parity(bench: Bench) -> dict[str, Any]:
    """Losses of the same embeddings, and how far apart they are as a share."""
    path = str(bench.work / "embeddings.npz")
    with bench.worker("data") as worker:
        about = worker("embeddings", out=path)
    values = {}
    for name in LIBRARIES:
        with bench.worker(name) as worker:
            values[name] = worker("losses", embeddings=path)
    rows = {}
    for name in LIBRARIES[1:]:
        for loss, value in values[name].items():
            ours = values["siamscope"][SAME_AS.get((name, loss), loss)]
            rows[f"{loss}, {name}"] = {"ours": ours, "theirs": value, "apart": abs(ours - value) / abs(value)}
    return about | {"losses": rows, "largest": max(row["apart"] for row in rows.values())}


def accuracy(bench: Bench) -> dict[str, Any]:
    """k-NN of the features after the same number of epochs of ResNet-8, batch 64; one judge for all."""
    settings = bench.settings("resnet8", 64)
    epochs = 1 if bench.quick else 6
    out: dict[str, Any] = {"epochs": epochs, "images": bench.images()["images"], "data": bench.images()["name"]}
    with bench.worker("data") as judge:
        path = str(bench.work / "features-untrained.npz")
        judge(
            "untrained", data=bench.archive, mean=settings["mean"], std=settings["std"], weights=settings["weights"],
            out=path,
        )  # fmt: skip
        out["untrained"] = judge("judge", features=path, k=20)
        for name in LIBRARIES:
            path = str(bench.work / f"features-{name}.npz")
            with bench.worker(name, **settings) as worker:
                if name != "siamscope":
                    worker("start")
                taken = worker("train", epochs=epochs, out=path)
            out[name] = judge("judge", features=path, k=20) | {"seconds": taken["seconds"], "steps": taken["steps"]}
    return out


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "size": size, "parity": parity, "views": views, "knn": knn, "start": start, "step": step, "end": end,
    "probe": probe, "accuracy": accuracy,
}  # fmt: skip
