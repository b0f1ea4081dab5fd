"""Memory and time of a large folder of images: `python benchmarks/large_data.py`.

Draws small JPEGs (1,000,000 by default, and two smaller folders for the slope), opens each folder with an empty and
then with the filled cache, reads every image once in shuffled batches as training does, trains some steps, and notes
the memory of the process all along. Every stage is a fresh Python process. Also measured: the same shuffled reads
through a memory map (what not to do), the reads from a disk whose page cache was dropped against bare reads of the same
rows, and what JPEG's draft mode saves on large photographs.

Writes benchmarks/results/large_data.json and docs/images/memory.png. `--keep FOLDER` uses and keeps the drawn folders.
`rss_mb` is what the process holds (VmRSS), of which `anon_mb` is its own and the rest pages of files; the decoding
processes are counted apart.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BATCH, SIZE, CLASSES = 256, 32, 10
STAGES = ("build", "second", "read", "mapped", "cold", "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="JPEGs of the largest folder")
    parser.add_argument("--steps", type=int, default=20, help="training steps on the largest folder")
    parser.add_argument("--keep", type=Path, help="draw the folders here and leave them")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/large_data.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/images/memory.png")
    parser.add_argument("--redraw", action="store_true", help="draw the figure of the JSON that is there")
    parser.add_argument("--child", nargs=4, metavar=("STAGE", "FOLDER", "CACHE", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        stage, folder, cache, steps = arguments.child
        print(json.dumps(staged(stage, Path(folder), Path(cache), int(steps))))
        return
    if not arguments.redraw:
        counts = [arguments.count // 100, arguments.count // 10, arguments.count]
        with tempfile.TemporaryDirectory() as scratch:
            place = arguments.keep or Path(scratch)
            result = {"machine": machine(arguments.count), "large_jpegs": draft()}
            result["folders"] = [measured(place, count, arguments.steps * (count == counts[-1])) for count in counts]
        result["machine"]["load_after"] = round(os.getloadavg()[0], 1)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result = json.loads(arguments.out.read_text(encoding="utf-8"))
    draw(result, arguments.figure)


def measured(place: Path, count: int, steps: int) -> dict[str, Any]:
    """All stages of one folder; without steps there is no training."""
    folder, cache = place / f"images-{count}", place / f"cache-{count}"
    begin = time.perf_counter()
    if not folder.is_dir():
        generate(folder, count)
    out: dict[str, Any] = {"images": count, "drawn_in_s": round(time.perf_counter() - begin)}
    for stage in STAGES if steps else STAGES[:-1]:
        command = [sys.executable, __file__, "--child", stage, str(folder), str(cache), str(steps)]
        begin = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        out[stage] = {"process_s": round(time.perf_counter() - begin, 2), **json.loads(done.stdout)}
        print(f"{count:,} images, {stage}: {shown(out[stage])}", file=sys.stderr, flush=True)
    return out


def shown(stage: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in stage.items() if name != "curve")


def generate(folder: Path, count: int) -> None:
    """JPEGs of `shapes`, in CLASS/NNNN/ with a thousand files each."""
    folder.mkdir(parents=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_write, ((str(folder), first, min(1000, count - first)) for first in range(0, count, 1000))))


def _write(part: tuple[str, int, int]) -> None:
    from PIL import Image

    from siamscope.data.shapes import ShapesSpec
    from siamscope.data.shapes import generate as shapes

    root, first, count = part
    images, labels = shapes(np.arange(first, first + count), ShapesSpec(0, SIZE, CLASSES, 3))
    for label in range(CLASSES):
        Path(root, f"class{label}", f"{first // 1000:04d}").mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True), first):
        held = BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(held, "jpeg", quality=75)
        Path(root, f"class{label}", f"{first // 1000:04d}", f"{number:07d}.jpg").write_bytes(held.getvalue())


def staged(stage: str, folder: Path, cache: Path, steps: int) -> dict[str, Any]:
    done = [0]
    with watched(done) as curve:
        facts = globals()[f"stage_{stage}"](folder, cache, steps, done)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = {name: max(point[name] for point in curve) for name in ("rss_mb", "anon_mb", "workers_mb")}
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    thinned = curve[:: max(1, len(curve) // 60)]
    return {**facts, "cpu_s": round(cpu, 2), "peak": peak, "curve": thinned}


@contextmanager
def watched(done: list[int]) -> Iterator[list[dict[str, float]]]:
    """Note memory and progress every tenth of a second."""
    curve: list[dict[str, float]] = []
    begin, ended = time.perf_counter(), threading.Event()

    def note() -> None:
        own = memory("self")
        workers = sum(memory(child)["VmRSS"] for child in children())
        names = ("s", "images", "rss_mb", "anon_mb", "workers_mb")
        now = (time.perf_counter() - begin, done[0], own["VmRSS"], own["RssAnon"], workers)
        curve.append({name: round(value, 2) for name, value in zip(names, now, strict=True)})

    def watch() -> None:
        while not ended.wait(0.1):
            note()

    thread = threading.Thread(target=watch, daemon=True)
    note()
    thread.start()
    try:
        yield curve
    finally:
        ended.set()
        thread.join()
        note()


def memory(process: str) -> dict[str, float]:
    """VmRSS and RssAnon in MB of 1,000,000 bytes; 0 if the process is gone."""
    out = {"VmRSS": 0.0, "RssAnon": 0.0}
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in out:
                out[name] = int(value.split()[0]) * 1024 / 1e6
    return out


def children() -> list[str]:
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found += (task / "children").read_text().split()
    return found


def opened(folder: Path, cache: Path, done: list[int]) -> Any:
    from siamscope.data import DataConfig, open_dataset

    def progress(what: str, count: int, total: int) -> None:
        done[0] = count

    config = DataConfig(source=str(folder), size=SIZE, cache_dir=str(cache), memory_budget_mb=1)
    return open_dataset(config, progress)


def stage_build(folder: Path, cache: Path, steps: int, done: list[int]) -> dict[str, Any]:
    begin = time.perf_counter()
    dataset = opened(folder, cache, done)
    seconds = time.perf_counter() - begin
    shards = list(cache.glob("*/*.u8"))
    return {
        "s": round(seconds, 2),
        "images_per_s": round((len(dataset.train) + len(dataset.val)) / seconds),
        "shards": len(shards),
        "cache_mb": round(sum(path.stat().st_size for path in shards) / 1e6, 1),
    }


def stage_second(folder: Path, cache: Path, steps: int, done: list[int]) -> dict[str, Any]:
    from siamscope.data.folder import list_images

    before = memory("self")["RssAnon"]
    begin = time.perf_counter()
    listing = list_images(folder)
    listed = time.perf_counter() - begin
    held = memory("self")["RssAnon"] - before
    bytes_a_file = round(held * 1e6 / len(listing.paths))
    del listing
    begin = time.perf_counter()
    opened(folder, cache, done)
    return {
        "listing_s": round(listed, 3),
        "open_s": round(time.perf_counter() - begin, 3),
        "listing_bytes_a_file": bytes_a_file,
    }


def stage_read(folder: Path, cache: Path, steps: int, done: list[int]) -> dict[str, Any]:
    """Every image once, shuffled, as a training run on data larger than its memory budget gets them."""
    import torch  # noqa: F401 -- its import takes a second

    from siamscope.data import IidOrder, Loader

    dataset = opened(folder, cache, done)
    assert dataset.streams
    batches = len(dataset.train) // BATCH
    begin = time.perf_counter()
    with Loader(dataset.train, IidOrder(len(dataset.train), BATCH, 0), device_resident=False) as loader:
        for number, _ in enumerate(loader.batches(0, batches), 1):
            done[0] = number * BATCH
    return {"images_per_s": round(done[0] / (time.perf_counter() - begin))}


def stage_mapped(folder: Path, cache: Path, steps: int, done: list[int]) -> dict[str, Any]:
    """The same rows in the same order through maps of the shards."""
    from siamscope.data import IidOrder

    dataset = opened(folder, cache, done)
    rows = dataset.train.source.images
    files = [np.memmap(path, np.uint8, "r").reshape(-1, *rows.shape[1:]) for path in sorted(cache.glob("*/*.u8"))]
    order, chosen = IidOrder(len(dataset.train), BATCH, 0), dataset.train.indices
    begin = time.perf_counter()
    for step in range(len(dataset.train) // BATCH):
        wanted = np.sort(chosen[order.batch(step)])
        for place in np.unique(wanted // len(files[0])):
            part = wanted[wanted // len(files[0]) == place] - place * len(files[0])
            _ = files[place][part]
        done[0] = (step + 1) * BATCH
    return {"images_per_s": round(done[0] / (time.perf_counter() - begin))}


def stage_cold(folder: Path, cache: Path, steps: int, done: list[int]) -> dict[str, Any]:
    """Shuffled batches with nothing in the page cache, and the same rows by bare preads of four threads."""
    import torch  # noqa: F401 -- its import takes a second

    from siamscope.data import IidOrder

    dataset = opened(folder, cache, done)
    order = IidOrder(len(dataset.train), BATCH, 0)
    batches = min(200, len(dataset.train) // BATCH)
    speeds = {}
    for name, work in (("loader", _by_loader), ("bare", _by_preads)):
        forget(cache)
        begin = time.perf_counter()
        work(dataset, order, batches, cache)
        speeds[f"{name}_images_per_s"] = round(batches * BATCH / (time.perf_counter() - begin))
    return speeds


def forget(cache: Path) -> None:
    """Drop the shards from the page cache."""
    for path in cache.glob("*/*.u8"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _by_loader(dataset: Any, order: Any, batches: int, cache: Path) -> None:
    from siamscope.data import Loader

    with Loader(dataset.train, order, device_resident=False) as loader:
        for _ in loader.batches(0, batches):
            pass


def _by_preads(dataset: Any, order: Any, batches: int, cache: Path) -> None:
    paths = sorted(cache.glob("*/*.u8"))
    row = 3 * SIZE * SIZE
    per_file = paths[0].stat().st_size // row
    files = [os.open(path, os.O_RDONLY) for path in paths]
    for descriptor in files:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def one(step: int) -> None:
        for index in np.sort(dataset.train.indices[order.batch(step)]).tolist():
            os.pread(files[index // per_file], row, index % per_file * row)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(batches)))
    for descriptor in files:
        os.close(descriptor)


def stage_train(folder: Path, cache: Path, steps: int, done: list[int]) -> dict[str, Any]:
    """`siamscope train` on the folder, streaming."""
    import siamscope.recipe as recipes
    from siamscope.training.progress import Silent
    from siamscope.workflow.train import train

    class Counting(Silent):
        def step(self, *arguments: Any, **more: Any) -> None:
            done[0] += BATCH

    with tempfile.TemporaryDirectory() as out:
        settings = {
            "data": {"source": str(folder), "cache_dir": str(cache), "memory_budget_mb": 1},
            "network": {"backbone": "resnet8", "width": 0.25},
            "train": {"steps": steps, "batch_size": BATCH, "device": "cpu", "compile": "off"},
        }
        begin = time.perf_counter()
        train(recipes.from_dict(settings), Path(out) / "run", reporter=Counting())
        return {"s": round(time.perf_counter() - begin, 1), "steps": steps}


def draft(count: int = 24) -> dict[str, Any]:
    """Decoding JPEGs of 2000 × 1500 pixels with and without draft mode, interleaved: CPU time, and how far apart."""
    from PIL import Image, JpegImagePlugin

    from siamscope.data.decode import DecodeOptions, decode

    rng = np.random.default_rng(0)
    out: dict[str, Any] = {"pixels": [2000, 1500], "files": count}
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"{number}.jpg" for number in range(count)]
        for path in paths:
            coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
            coarse.resize((2000, 1500), Image.Resampling.BICUBIC).save(path, quality=85)
        plain = Image.Image.draft
        jpeg = JpegImagePlugin.JpegImageFile
        used = jpeg.draft
        for size in (32, 64, 224):
            options = DecodeOptions(size, 3)
            spent, images = {"with": 0.0, "without": 0.0}, {"with": [], "without": []}
            for path in paths:
                for name, method in (("with", used), ("without", plain)):
                    jpeg.draft = method
                    begin = time.process_time()
                    images[name].append(decode(str(path), options).astype(int))
                    spent[name] += time.process_time() - begin
            jpeg.draft = used
            apart = np.abs(np.array(images["with"]) - np.array(images["without"])).mean()
            out[f"to_{size}"] = {
                **{f"{name}_draft_ms": round(1000 * seconds / count, 2) for name, seconds in spent.items()},
                "times_faster": round(spent["without"] / spent["with"], 2),
                "mean_difference_in_grey_levels": round(float(apart), 3),
            }
    return out


def machine(count: int) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return {
        "cpu": next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "pillow", "torch")},
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python benchmarks/large_data.py --count {count}",
        "load_before": round(os.getloadavg()[0], 1),
    }


def draw(result: dict[str, Any], out: Path) -> None:
    """Memory against images handled: while the cache is built, and while all images are read in shuffled batches."""
    from siamscope.report.dynamics_style import COLLAPSE, DPI, LINES, SERIES, dress, new_figure
    from siamscope.report.figure import save_png

    figure = new_figure(11, 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"build": "Decoding the folder into the cache", "read": "Reading every training image once, shuffled"}
    lines: list[tuple[Any, dict[str, Any], str, Any, Any, str]] = [
        (panel, folder, stage, colour, line, f"{folder['images']:,} images")
        for panel, stage in zip(panels, titles, strict=True)
        for colour, line, folder in zip(SERIES, LINES, result["folders"], strict=False)
    ]
    last = result["folders"][-1]
    lines.append((panels[1], last, "mapped", COLLAPSE, LINES[4], f"{last['images']:,} images, memory-mapped"))
    for panel, folder, stage, colour, line, label in lines:
        most = max(point["images"] for point in folder[stage]["curve"])
        reached = {point["images"]: point["rss_mb"] for point in folder[stage]["curve"] if point["images"]}
        if len(reached) > 3:  # the last one is noted when the process ends
            del reached[most]
        shares = [100 * images / most for images in reached]
        mark = "o" if len(reached) < 3 else None
        panel.plot(shares, reached.values(), color=colour, ls=line, lw=1.9, marker=mark, label=label)
    for panel, (stage, title) in zip(panels, titles.items(), strict=True):
        dress(panel, title, "images done (%)", "resident memory (MB)" * (stage == "build"), grid=True)
        panel.set_ylim(bottom=0)
        panel.legend(frameon=False, fontsize=9.5, loc="center right")
    save_png(figure, out, DPI)


if __name__ == "__main__":
    main()
