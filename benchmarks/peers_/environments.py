"""The environments of the libraries, made by pip from nothing, and what they weigh."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peers_.worker import environment

REPOSITORY = Path(__file__).resolve().parents[2]
TORCH, VISION = "torch==2.13.0", "torchvision==0.28.0"
PACKAGES = {
    "siamscope": ["-e", str(REPOSITORY)],
    "lightly": ["lightly==1.6.0", "timm"],
    "spt": ["stable-pretraining==0.1.8"],
    "sklearn": ["scikit-learn"],
}
BASE = {"pip", "setuptools", "wheel"}
IMPORTS = {
    "siamscope": "import siamscope.workflow.train, siamscope.views, siamscope.evaluation",
    "lightly": "import lightly.loss, lightly.transforms, lightly.models.modules, lightly.data",
    "spt": "import stable_pretraining as spt; spt.Module, spt.data.DataModule; import lightning.pytorch",
}
VISION_FIRST = "from peers_ import plain; plain.define_vision_operators(); "


def python_of(work: Path, name: str) -> Path:
    folder = work / f"environment-{name}"
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def make(work: Path, name: str) -> Path:
    """The interpreter of a library's environment; it is made if it is not there. Notes what torch alone brings."""
    python = python_of(work, name)
    ready = python.parents[1] / "ready"
    if ready.exists():
        return python
    print(f"making the environment of {name}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(python.parents[1])], check=True)
    pins = [TORCH] if name == "siamscope" else [TORCH, VISION]
    constraints = work / f"constraints-{name}.txt"
    constraints.write_text("\n".join([*pins, (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")]))
    install = [str(python), "-m", "pip", "install", "-qqq", "--constraint", str(constraints)]
    if name != "sklearn":
        subprocess.run([*install, TORCH], check=True)
        (python.parents[1] / "torch.json").write_text(json.dumps(installed(python)))
    if name in ("lightly", "spt"):
        subprocess.run([*install, "--no-deps", VISION], check=True)
    subprocess.run([*install, *PACKAGES[name]], check=True)
    ready.touch()
    return python


def installed(python: Path) -> dict[str, str]:
    """Packages of an environment with their versions, without pip's own."""
    code = (
        "import importlib.metadata as m, json; print(json.dumps({d.metadata['Name'].lower(): d.version "
        "for d in m.distributions() if d.metadata['Name']}))"
    )
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return {name: version for name, version in sorted(found.items()) if name not in BASE}


def gpu(python: Path) -> str:
    """The name of the GPU. Ends the program if an environment's torch sees none."""
    code = "import torch; print(torch.cuda.get_device_name())"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"torch sees no GPU: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return done.stdout.strip()


def weight(python: Path) -> dict[str, Any]:
    """Number and names of the packages beside torch and what torch itself needs."""
    alone = json.loads((python.parents[1] / "torch.json").read_text())
    beside = [name for name in installed(python) if name not in alone]
    return {"packages": len(beside), "names": beside}


def cost(python: Path, *arguments: str, repeats: int = 5) -> dict[str, float]:
    """Processor and wall seconds of an interpreter with these arguments: the least of several starts after a first."""
    seconds, walls = [], []
    variables = environment(1) | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    for _ in range(repeats + 1):
        before, begin = _children(), time.perf_counter()
        subprocess.run(
            [str(python), *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables,
            cwd=python.parents[1],
        )  # fmt: skip
        seconds.append(_children() - before)
        walls.append(time.perf_counter() - begin)
    return {"cpu": round(min(seconds[1:]), 3), "wall": round(min(walls[1:]), 3)}


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
