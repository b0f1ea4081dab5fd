"""Decoding a folder of image files into the cache, and opening it a second time: `python benchmarks/decode.py FOLDER`.

Prints JSON. Each start is a fresh Python process that opens the folder with an empty, then with the filled cache. Wall
time counts from the process's start, imports included; CPU time is that of the process and of its workers together.
On a machine that does other work too, judge by `cpu_ms_per_image`: `images_per_s_of_free_cores` is derived from it.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder of image files, as for `siamscope train`")
    parser.add_argument("--size", type=int, default=32, help="side of the stored images in pixels")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes; 0: one for each usable core")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    parser.add_argument("--child", metavar="CACHE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(open_once(arguments)))
        return
    with tempfile.TemporaryDirectory() as cache:
        first, second = start(arguments, cache), start(arguments, cache)
    if first["fingerprint"] != second["fingerprint"]:
        raise SystemExit("the second start gave other images than the first")
    cores = arguments.workers or len(os.sched_getaffinity(0))
    per_image = first["cpu_s"] / first["images"]
    result = {
        "folder_images": first["images"],
        "rejected": first["rejected"],
        "size": arguments.size,
        "workers": cores,
        "first_start": {
            "wall_s": round(first["wall_s"], 2),
            "cpu_s": round(first["cpu_s"], 2),
            "images_per_s": round(first["images"] / first["wall_s"]),
            "cpu_ms_per_image": round(per_image * 1000, 4),
            "images_per_s_of_free_cores": round(cores / per_image),
        },
        "second_start": {"wall_s": round(second["wall_s"], 3), "cpu_s": round(second["cpu_s"], 3)},
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "machine": machine(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def start(arguments: argparse.Namespace, cache: str) -> dict[str, float]:
    """What a fresh process reports, with its wall time."""
    options = ["--size", str(arguments.size), "--workers", str(arguments.workers), "--child", cache]
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, arguments.folder, *options], check=True, stdout=subprocess.PIPE, text=True
    )
    return {"wall_s": time.perf_counter() - begin, **json.loads(done.stdout)}


def open_once(arguments: argparse.Namespace) -> dict[str, object]:
    from siamscope.data import DataConfig, open_dataset

    config = DataConfig(
        source=arguments.folder, size=arguments.size, workers=arguments.workers, cache_dir=arguments.child
    )
    dataset = open_dataset(config)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "images": sum(map(len, (dataset.train, dataset.val, dataset.test or []))),
        "rejected": len(dataset.rejected),
        "fingerprint": dataset.fingerprint,
        "cpu_s": sum(usage.ru_utime + usage.ru_stime for usage in used),
    }


def machine() -> dict[str, object]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    versions = {name: version(name) for name in ("pillow", "numpy")}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    } | versions


if __name__ == "__main__":
    main()
