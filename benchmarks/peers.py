"""siamscope beside lightly 1.6.0 and stable-pretraining 0.1.8, each in its own environment, in interleaved runs.

    python benchmarks/peers.py --work ../peers [--data FOLDER] [--parts views,step] [--quick]
    python benchmarks/peers.py --work ../peers [--data FOLDER] --device cuda [--workers N]
    python benchmarks/peers.py --table docs/results/performance.md

Every library makes its own views and trains by its own loop, as its documentation shows it, on the same images (an
.npz in --work; `shapes` or a folder TRAIN/CLASS/), the same network with the same first weights, batch, optimiser, rate
and seed. Figures are images a second of processor time, all with --threads (1) and no loader processes, so that they
are per core. On a GPU they are by the wall clock, with --workers loader processes (all cores) for the sides that make
views on the CPU; the batches that these made ahead are not counted. A ratio is the median over rounds that take turns.
Each part is written to --out (peers.json, peers-cuda.json) when it is done and joined to what is there. The
environments come from PyPI by pip; --python NAME=PATH takes one that is there. --table writes the Markdown table from
--out without measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers_ import environments
from peers_.parts import LIBRARIES, PARTS, Bench
from peers_.table import page

RESULTS = environments.REPOSITORY / "benchmarks" / "results"
SHOWN = ("torch", "numpy", "lightly", "stable-pretraining", "lightning", "torchvision", "scikit-learn", "siamscope")


def machine(bench: Bench) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor()),
        "cores": environments.cores(),
        "instructions": [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "device": bench.device,
    } | (
        {} if bench.device == "cpu" else {"gpu": environments.gpu(bench.python("siamscope")), "workers": bench.workers}
    )


def versions(bench: Bench) -> dict[str, dict[str, str]]:
    found = {name: environments.installed(bench.python(name)) for name in (*LIBRARIES, "sklearn")}
    return {name: {p: v for p, v in packages.items() if p in SHOWN} for name, packages in found.items()}


def command(arguments: argparse.Namespace) -> str:
    """The command without the machine's paths."""
    words = ["python benchmarks/peers.py --work DIR"]
    if arguments.data != "shapes":
        words.append(f"--data {Path(arguments.data).name}/")
    for name, default in (("device", "cpu"), ("threads", 1), ("seed", 0)):
        if getattr(arguments, name) != default:
            words.append(f"--{name} {getattr(arguments, name)}")
    if arguments.workers:
        words.append(f"--workers {arguments.workers}")
    return " ".join(words + ["--quick"] * arguments.quick + ["--no-compile"] * arguments.no_compile)


def load() -> list[float]:
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else []


def measure(arguments: argparse.Namespace) -> None:
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    data = arguments.data if arguments.data == "shapes" else str(Path(arguments.data).resolve())
    given = dict(pair.split("=", 1) for pair in arguments.python)
    bench = Bench(
        work, data, arguments.device, arguments.threads, arguments.workers, arguments.seed, arguments.quick,
        not arguments.no_compile, {name: Path(path).absolute() for name, path in given.items()},
    )  # fmt: skip
    known = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {"parts": {}}
    others = {row["machine"]["device"] for row in known["parts"].values()} - {arguments.device}
    if others:
        raise SystemExit(f"{arguments.out} holds figures of another device ({', '.join(others)}): name another --out")
    about = {"machine": machine(bench), "versions": versions(bench)}
    for name in arguments.parts:
        print(f"{name} ...", end="", flush=True)
        began, before = time.perf_counter(), load()
        found = PARTS[name](bench)
        spent = round(time.perf_counter() - began, 1)
        stamp = {"date": datetime.now(UTC).isoformat(timespec="minutes"), "seconds": spent, "load": before}
        known["parts"][name] = {"found": found, **stamp, "command": f"{command(arguments)} --parts {name}", **about}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        partial = arguments.out.with_suffix(".partial")
        partial.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        partial.replace(arguments.out)
        print(f" {spent:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for environments and data, outside the repository")
    parser.add_argument("--data", default="shapes", help="shapes, or a folder of image files in train/CLASS/")
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ",".join(PARTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, help="loader processes: on a GPU all cores, on a CPU none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works")
    parser.add_argument("--no-compile", action="store_true", help="leave out siamscope's compiled step")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="an interpreter to use")
    parser.add_argument("--out", type=Path, help="benchmarks/results/peers.json, or peers-cuda.json for a GPU")
    parser.add_argument("--table", type=Path, help="write the Markdown page from --out here, and measure nothing")
    arguments = parser.parse_args()
    arguments.out = arguments.out or RESULTS / ("peers.json" if arguments.device == "cpu" else "peers-cuda.json")
    if arguments.table:
        found = page(json.loads(arguments.out.read_text(encoding="utf-8")))
        there = arguments.table.read_text(encoding="utf-8") if arguments.table.exists() else ""
        _, heading, notes = there.partition("\n## Notes\n")  # written by hand, they stay
        arguments.table.write_text(found + heading + notes, encoding="utf-8")
        return
    if arguments.work is None or arguments.work.resolve().is_relative_to(environments.REPOSITORY):
        parser.error("--work must be a folder outside the repository")
    arguments.parts = arguments.parts.split(",")
    unknown = [name for name in arguments.parts if name not in PARTS]
    if unknown:
        parser.error(f"unknown parts {', '.join(unknown)} (there are {', '.join(PARTS)})")
    if arguments.workers is None:
        arguments.workers = 0 if arguments.device == "cpu" else environments.cores()
    if arguments.workers < 0 or (arguments.workers and arguments.device == "cpu"):
        parser.error("--workers is for a GPU: processor time does not see loader processes that still run")
    measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
