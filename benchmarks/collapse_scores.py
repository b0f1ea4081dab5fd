"""Seconds for the spectrum and the label-free scores of 50,000 x 512 features, and of 1,000,000 x 512 as a stream.

    python benchmarks/collapse_scores.py --out collapse_scores.json

Features are float32, a power law of variances turned at random. Every figure is the best of several rounds, in wall
time (two threads of BLAS where there are two cores) and in processor time of all threads; on a machine that others use,
OMP_NUM_THREADS=1 and the processor time say more. The stream is read from a .npy file through a memory map, and, in a
process of its own whose peak memory is watched, from a generator; making the rows is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from siamscope import collapse
from siamscope.collapse import intervals
from siamscope.workflow import environment

D = 512
BLOCK = 8192


def features(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0].astype(np.float32)
    x = rng.standard_normal((n, D), dtype=np.float32) * np.arange(1, D + 1, dtype=np.float32) ** -0.5
    return np.asarray(x @ turn + 0.1, dtype=np.float32)


def best(job: Callable[[], object], rounds: int) -> dict[str, float]:
    """Least wall and least processor seconds over the rounds."""
    wall, cpu = [], []
    for _ in range(rounds):
        start, start_cpu = time.perf_counter(), time.process_time()
        job()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return {"wall": round(min(wall), 3), "processor": round(min(cpu), 3)}


def repeated(pool: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """n rows in blocks, out of a pool that is already there."""
    for start in range(0, n, BLOCK):
        at = start % (len(pool) - BLOCK + 1)
        yield pool[at : at + min(BLOCK, n - start)]


def scored(source: object) -> dict[str, float]:
    return collapse.moment_scores(collapse.moments(source))


def card_jobs(n: int) -> dict[str, tuple[Callable[[], object], int]]:
    """The job of every figure, and by how much fewer rounds it gets."""
    x = features(n)
    whole = collapse.moments(x)
    views = x[:1000, None] + np.float32(0.1) * np.random.default_rng(1).standard_normal((1000, 10, D), np.float32)
    tensor = torch.from_numpy(x)
    return {
        "spectrum": (partial(collapse.spectrum, x), 1),
        "quick (8 scores, one pass)": (partial(collapse.quick, x), 1),
        "quick, of a torch tensor": (partial(collapse.quick, tensor), 1),
        "all scores of the default card": (partial(collapse.diagnose, x, interval="none"), 1),
        "of these, coherence": (partial(collapse.coherence, x, moment=whole.second_moment()), 1),
        "of these, uniformity (4,096 rows)": (partial(collapse.uniformity, x), 1),
        "intervals, jackknife of 20 blocks": (partial(intervals.jackknife, x, collapse.moment_scores, whole), 2),
        "intervals, bootstrap, one draw": (lambda: list(_one_draw(x)), 2),
        "LiDAR (1,000 images x 10 views)": (partial(collapse.lidar, views), 1),
        "TwoNN (5,000 rows)": (partial(collapse.twonn, x), 2),
        "CLID learnability (5,000 rows)": (partial(collapse.clid_learnability, x), 2),
    }


def _one_draw(x: np.ndarray) -> Iterator[object]:
    return intervals.resampled(x, collapse.moment_scores, False, groups=None, draws=1, seed=0)


def stream_from_file(n: int, rounds: int) -> dict[str, float]:
    """All scores of one pass from a .npy file through a memory map; the file is in the page cache after its writing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        pool = features(65_536)
        out = np.lib.format.open_memmap(path, "w+", np.float32, (n, D))
        at = 0
        for rows in repeated(pool, n):
            out[at : at + len(rows)] = rows
            at += len(rows)
        del out, pool
        return best(lambda: scored(np.load(path, mmap_mode="r")), rounds)


def stream_and_peak(n: int) -> None:
    """In a process of its own: prints seconds, and the peak of its memory before and after the stream, in MiB."""
    pool = features(65_536)
    scored(pool[:BLOCK])  # libraries and their buffers are there
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is held now
    before = _peak()
    found = best(lambda: scored(repeated(pool, n)), 1)
    print(json.dumps(found | {"MiB_before": before, "MiB_peak": _peak(), "MiB_of_all_rows": n * D * 4 >> 20}))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("collapse_scores.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--stream-rows", type=int, default=1_000_000)
    parser.add_argument("--peak", action="store_true", help="only the stream of a generator, in this process; Linux")
    args = parser.parse_args()
    if args.peak:
        stream_and_peak(args.stream_rows)
        return
    load = [round(os.getloadavg()[0], 1)]
    results: dict[str, object] = {}
    for name, (job, fewer) in card_jobs(args.rows).items():
        results[name] = best(job, max(args.rounds // fewer, 1))
        print(f"{name:<40} {results[name]}", flush=True)
    stream = {"memory map": stream_from_file(args.stream_rows, max(args.rounds // 2, 1))}
    command = [sys.executable, __file__, "--peak", "--stream-rows", str(args.stream_rows)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(2)]
    stream["generator"] = min(runs, key=lambda run: run["wall"])
    for name, row in stream.items():
        print(f"{args.stream_rows:,} rows, {name:<26} {row}", flush=True)
    load.append(round(os.getloadavg()[0], 1))
    about = environment.describe(torch.device("cpu")) | {
        "date": environment.now(),
        "system": platform.system(),
        "blas": np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"],
        "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "not set"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "load_average_before_and_after": load,
    }
    out = {
        "machine": about,
        "unit": "seconds, best of the rounds: wall, and processor time of all threads",
        f"{args.rows} x {D} float32": results,
        f"{args.stream_rows} x {D} float32, streamed": stream,
    }
    args.out.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
