"""What watching costs: the alarm's look as a share of the training, a full measurement, and an update of the moments.

    python benchmarks/monitor_cost.py --out benchmarks/results/monitor_cost.json

On one thread, in processor time, steps and looks in turn, so that a busy machine disturbs neither the figures nor their
ratio much. The share is a look's time over the time of the steps between two looks, at the spacing that a recipe with
monitor.watch = 0 has on this device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siamscope import collapse
from siamscope import recipe as recipes
from siamscope.collapse import CovarianceState
from siamscope.training.build import build_monitor, build_trainer, build_watch
from siamscope.training.distributed import World
from siamscope.training.precision import Precision
from siamscope.training.progress import Silent
from siamscope.workflow import environment
from siamscope.workflow.opening import opened
from siamscope.workflow.train import normalisation

CASES = (("resnet8", 256, 6), ("resnet8", 64, 8), ("resnet18", 64, 2))


def seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def of_training(backbone: str, batch: int, repeats: int) -> dict[str, Any]:
    """SimSiam on 32-pixel shapes."""
    base = recipes.for_method("simsiam")
    recipe = replace(
        base,
        data=replace(base.data, source="shapes", size=32, samples=4096, val_samples=2048, test_samples=64),
        network=replace(base.network, backbone=backbone),
        train=replace(base.train, steps=400, batch_size=batch, device="cpu", precision="fp32", channels_last="off"),
    )
    dataset, world, precision = opened(recipe.data, Silent()), World(), Precision()
    norm = normalisation(dataset)
    trainer = build_trainer(recipe, dataset.train.channels, len(dataset.train) // batch, norm, world, precision)
    watch = build_watch(recipe, dataset.val, norm, world, precision)
    monitor = build_monitor(recipe, dataset.train, dataset.val, norm, world, precision)
    images = torch.from_numpy(dataset.train.read(np.arange(batch)))
    trainer.step(1, images)
    watch.look(trainer.model, 1)
    steps, looks = [], []
    for number in range(2, 2 + repeats):
        steps.append(seconds(lambda n=number: trainer.step(n, images)))
        looks.append(seconds(lambda n=number: watch.look(trainer.model, n)))
    step, look = statistics.median(steps), statistics.median(looks)
    measured = seconds(lambda: monitor.measure(trainer.model, 100, None))
    return {
        "backbone": backbone, "pixels": 32, "batch": batch, "method": "simsiam",
        "step_ms": round(1e3 * step, 1), "look_ms": round(1e3 * look, 2), "look_images": len(watch.images),
        "steps_between_looks": watch.every, "share": look / (watch.every * step),
        "measurement_ms": round(1e3 * measured, 1), "measurement_images": len(monitor.sample.images),
        "measurement_in_steps": measured / step,
    }  # fmt: skip


def of_update(rows: int = 256, d: int = 512, repeats: int = 200) -> dict[str, Any]:
    """A batch of features into the streaming covariance, and the numbers that the alarm takes from a few."""
    generator = np.random.default_rng(0)
    array = generator.normal(size=(rows, d)).astype(np.float32)
    out: dict[str, Any] = {"rows": rows, "d": d}
    for name, batch in (("array", array), ("tensor", torch.from_numpy(array))):
        state = CovarianceState(d)
        state.update(batch)
        out[f"update_ms_{name}"] = round(
            1e3 * statistics.median(seconds(lambda b=batch, s=state: s.update(b)) for _ in range(repeats)), 3
        )
    few = torch.from_numpy(array[:128])
    collapse.measure(few)
    out["vitals_of_128_ms"] = round(
        1e3 * statistics.median(seconds(lambda: collapse.measure(few)) for _ in range(20)), 3
    )
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "monitor_cost.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": environment.describe(torch.device("cpu")), "threads": 1, "update": of_update()}
    report["training"] = []
    print(json.dumps(report["update"]), flush=True)
    for case in CASES:
        report["training"].append(of_training(*case))
        print(json.dumps(report["training"][-1]), flush=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
