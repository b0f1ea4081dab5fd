"""torchrun for the tests of several processes, and a recipe small enough for them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from siamscope import methods, recipe
from siamscope.recipe import Recipe
from siamscope.rundir import read_jsonl

LAUNCHER = [sys.executable, "-m", "torch.distributed.run"]
FAST = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=2"


def write_recipe(path: Path, method: str, data: dict | None = None, **train) -> Path:
    """A recipe on 16-pixel images with a half-width ResNet-8, written as TOML."""
    row = methods.get(method)
    head, predictor = replace(row.projector, hidden=32, out=16), replace(row.predictor_head, hidden=8)
    config = Recipe(method=replace(row, projector=head, predictor_head=predictor, bank=0))
    sections = {
        "data": {"size": 16, "samples": 96, "val_samples": 41, "test_samples": 32} | (data or {}),
        "network": {"width": 0.5},
        "train": {
            "batch_size": 16, "precision": "fp32", "channels_last": "off", "device": "cpu", "threads": 1,
            "compile": "off", **train,
        },
        "monitor": {"interval": 12, "samples": 41, "bank": 37},
        "evaluation": {"bank": 64, "queries": 32, "probe": False},
    }  # fmt: skip
    for name, values in sections.items():
        config = replace(config, **{name: replace(getattr(config, name), **values)})
    path.write_text(recipe.to_toml(config))
    return path


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | more


def start(
    options: list[str], command: list[str], log: Path, prefix: list[str] | None = None, **more: str
) -> subprocess.Popen:
    """torchrun in the background; `more`: environment variables."""
    whole = [*(prefix or []), *LAUNCHER, *options, *command]
    with log.open("wb") as file:
        return subprocess.Popen(whole, stdout=file, stderr=file, env=environment(**more))


def train(recipe: Path, out: Path | str) -> list[str]:
    return ["-m", "siamscope", "train", "--recipe", str(recipe), "--out", str(out)]


def steps(run: Path) -> dict[int, float]:
    """The loss of every step in a run's log."""
    if not (run / "metrics.jsonl").is_file():
        return {}
    return {line["step"]: line["loss"] for line in read_jsonl(run / "metrics.jsonl") if line["kind"] == "step"}


def figures(run: Path) -> dict[str, float]:
    """All figures of the measurements and of the judgement, flat."""
    out = {}
    for line in read_jsonl(run / "metrics.jsonl"):
        if line["kind"] == "monitor":
            out |= {f"{line['step']} {name}": value for name, value in line.items() if isinstance(value, float)}
    judged = json.loads((run / "evaluation.json").read_text())
    out |= {f"score {name}": value for name, value in judged["scores"].items()}
    out |= {f"{who} {k}": value for who, found in judged["knn"].items() for k, value in found.items()}
    return {name: value for name, value in out.items() if "seconds" not in name}


def wait_for(run: Path, step: int, seconds: float = 120) -> None:
    """Until the run's log holds a step."""
    until = time.monotonic() + seconds
    while max(steps(run), default=0) < step:
        assert time.monotonic() < until, f"step {step} never came"
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return int(server.getsockname()[1])


def rank(number: int, launcher: subprocess.Popen) -> int:
    """The process of a rank under a launcher."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid and f"RANK={number}" in (folder / "environ").read_text().split("\0"):
                return int(folder.name)
    raise AssertionError(f"no rank {number}")


def end(launcher: subprocess.Popen) -> None:
    """Kill a launcher and all that it started; its processes have sessions of their own."""
    for number in () if launcher.poll() is not None else range(4):
        with contextlib.suppress(AssertionError, ProcessLookupError):
            os.kill(rank(number, launcher), signal.SIGKILL)
    launcher.kill()
    launcher.wait()
