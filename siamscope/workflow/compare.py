"""`siamscope compare`: the same backbone, views, optimiser and budget for all methods; only the row changes.

A directory holds one comparison: `plan.json` (the shared recipe, settled once), `runs/CELL/seed-N` (run directories),
and the results `compare.json`, `.csv`, `.md`, `.png` and `.html`. Torch-free; every run is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamscope import recipe as recipes
from siamscope.recipe import Recipe
from siamscope.report.methods import write as write_page
from siamscope.rundir import RunDir, explained, finite, write_text
from siamscope.workflow import compare_plan as plan
from siamscope.workflow import compare_table as table
from siamscope.workflow.compare_plan import Cell, CompareError
from siamscope.workflow.jobs import Run, Status, due, execute

PLAN = "plan.json"
MEMORY_A_RUN = 2 * 1024**3  # bytes that `auto` leaves for each run on a CPU; a small one takes less than half

Say = Callable[[str], None]


@dataclass(frozen=True)
class Compared:
    """What a comparison ends with: the content of compare.json, the text to print, and the signal that stopped it."""

    facts: dict[str, Any]
    text: str
    signal: int


def compare(
    recipe: Recipe,
    out: str | Path,
    *,
    methods: str = "all",
    seeds: str = "0,1,2",
    cells: Sequence[str] = (),
    variants: bool = False,
    jobs: str = "auto",
    retry: bool = False,
    say: Say | None = None,
) -> Compared:
    """Run what is missing of a comparison, and write its results.

    `recipe` is shared by all runs but for its method and seed (see `compare_plan`); `cells` are dotted names of cells
    of `recipe.method` that go into every row. Finished runs are kept, unfinished ones resumed, failed ones only
    run again with `retry`. A run that fails is a line of the table and stops nothing.

    Raises:
        CompareError: unknown methods, seeds or jobs; data that cannot be used; `out` holds something else, or a
            comparison by another recipe.
        RunError: `out` cannot be written, or another process works in it.
    """
    recipes.validate(recipe)
    names, numbers, wanted = plan.chosen(methods), plan.seeds_of(seeds), _jobs(jobs)
    folder = Path(out)
    known = _known(folder, recipe, cells) or _prepared(recipe, cells, wanted, quiet=say is None)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with RunDir(folder).lock():
        write_text(folder / PLAN, json.dumps(known, indent=1) + "\n")
        shared = recipes.from_dict(known["shared"])
        lines = plan.cells(shared, names, cells, variants)
        runs = [
            Run(cell.key, cell.label, seed, plan.recipe_of(shared, cell, seed), folder / "runs" / cell.key)
            for seed in numbers  # seed by seed: one that is stopped early has compared all methods once
            for cell in lines
            if cell.row is not None
        ]
        todo = [run for run in runs if due(run, retry)]
        on_gpu = str(known["environment"]["device"]).startswith("cuda")
        at_once = wanted or (1 if on_gpu else _affordable(shared.train.threads))
        threads = shared.train.threads or max(_cores() // at_once, 1)
        stopped = execute(todo, at_once, threads, _Teller(say, len(todo), at_once))
        facts = _facts(known, shared, lines, numbers, runs) | {"jobs": at_once, "threads": threads}
        facts["notes"] = _notes(facts)
        text = _write(folder, facts) + ("\nstopped; run the same command again to go on" if stopped else "")
    return Compared(facts, text, stopped)


# ------------------------------------------------------------------------------------------ before


def _jobs(text: str) -> int:
    """Runs at once; 0 for `auto`."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise CompareError(f"--jobs must be auto or a whole number from 1, got {text!r}")
    return int(text)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _affordable(threads: int) -> int:
    """How many runs this machine holds at once, by its cores and its free memory."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        free = MEMORY_A_RUN * _cores()
    return max(min(_cores() // max(threads, 1), free // MEMORY_A_RUN), 1)


def _known(folder: Path, recipe: Recipe, cells: Sequence[str]) -> dict[str, Any] | None:
    """The plan of a comparison that lies there already.

    Raises:
        CompareError: something else lies there, or a comparison by another recipe.
    """
    if folder.is_file():
        raise CompareError(f"{folder} is a file; give another --out")
    if not folder.is_dir() or not any(not item.name.startswith(".") for item in folder.iterdir()):
        return None
    try:
        found: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        former = found["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CompareError(f"{folder} holds files but no comparison (no readable {PLAN}); give another --out") from None
    changed = list(plan.differences(former, plan.asked(recipe, cells)))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise CompareError(
            f"{folder} holds a comparison by another recipe ({'; '.join(changed[:3])}{more}); give another --out"
        )
    return found


def _prepared(recipe: Recipe, cells: Sequence[str], jobs: int, quiet: bool) -> dict[str, Any]:
    """The plan of a new comparison: data opened, device, threads and number format decided in a process of its own.

    Raises:
        CompareError: the data or the device cannot be used.
    """
    threads = recipe.train.threads or (max(_cores() // jobs, 1) if jobs else 1)
    command = [sys.executable, "-m", "siamscope.workflow.compare_prepare", str(threads), "1" if quiet else "0"]
    text = recipes.to_toml(recipe).encode("utf-8", "surrogateescape")
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise CompareError(f"preparing the data failed with exit code {done.returncode}; see above") from None
    if "error" in found:
        raise CompareError(found["error"])
    command_line = " ".join([Path(sys.argv[0]).name.replace("__main__.py", "siamscope"), *sys.argv[1:]])
    found["environment"] |= {"command": command_line, "cores": _cores()}
    return {"asked": plan.asked(recipe, cells), "shared": found.pop("recipe"), "started": _now()} | found


# ------------------------------------------------------------------------------------------ during


class _Teller:
    """Says how each run ended, and how long the rest may take."""

    def __init__(self, say: Say | None, total: int, at_once: int) -> None:
        self.say, self.total, self.at_once = say, total, at_once
        self.ended = 0
        self.began = time.monotonic()
        if say and total:
            say(f"{total} runs, {at_once} at once")

    def __call__(self, run: Run, status: Status, reason: str) -> None:
        self.ended += 1
        if self.say is None:
            return
        text = f"[{self.ended}/{self.total}] {run.label}, seed {run.seed}: {status}"
        if status == "finished":
            found = table.figures(run.dir)
            text += f" in {run.state()['seconds']:.0f} s"
            text += "" if found["knn"] is None else f", k-NN {100 * found['knn']:.1f} %"
            text += f", {found['health']}"
        elif reason:
            text += f": {reason.splitlines()[0]}"
        left = (time.monotonic() - self.began) / self.ended * (self.total - self.ended)
        self.say(text + (f"; about {_duration(left)} left" if self.ended < self.total else ""))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


# ------------------------------------------------------------------------------------------ after


def _facts(
    known: dict[str, Any], shared: Recipe, lines: Sequence[Cell], seeds: Sequence[int], runs: Sequence[Run]
) -> dict[str, Any]:
    """All that compare.json says, but for the notes."""
    digest = plan.shared_digest(shared)
    collected = [table.collect(run, digest, known["data"]["fingerprint"]) for run in runs]
    by_cell = {cell.key: [run for run in collected if run["cell"] == cell.key] for cell in lines}
    cells = [table.summary(cell, by_cell[cell.key], len(seeds)) for cell in lines]
    done = [run for run in collected if run["status"] == "finished"]
    figure = "knn" if any(run["labels"] for run in done) else "effective_rank"
    first = done[0] if done else {}
    return {
        "kind": "siamscope comparison",
        "started": known["started"],
        "written": _now(),
        "environment": known["environment"],
        "data": known["data"] | {key: first.get(key) for key in ("split", "n_queries", "n_bank", "k")},
        "seeds": list(seeds),
        "figure": figure,
        "shared_digest": digest,
        "shared": plan.shared_part(shared),
        "given_cells": known["asked"]["cells"],
        "cells": table.ranked(cells, figure),
        "baselines": table.baselines(collected),
        "momentum": table.paired(collected, lines, figure),
        "runs": collected,
    }


def _notes(facts: dict[str, Any]) -> list[str]:
    """What one must know to read the figures."""
    data, machine, shared = facts["data"], facts["environment"], facts["shared"]
    width = shared["projector"]
    notes = []
    if facts["figure"] == "knn":
        images = {"test": "test images", "validation": "validation images (the data have no test images)"}
        notes.append(
            f"Accuracies are on {data['n_queries']:,} {images.get(data['split'], 'images')} of {data['name']}, "
            f"{data['k']} neighbours among {data['n_bank']:,} training images. They are reported once: this command "
            "chooses nothing by them, and the order of the table describes, it does not select."
        )
    elif any(line["finished"] for line in facts["cells"]):
        notes.append("The images have no labels: the order is by effective rank, which does not say what is useful.")
    notes += [
        f"Shared by all runs (digest {facts['shared_digest']}): data, views, backbone, optimiser, budget, and the "
        f"projector's {width['layers']} layers of {width['hidden']} and {width['out']} units. All other cells are the "
        "method's own, from its shipped small recipe. A method may do better with an optimiser and a projector of its "
        "own: this shows what changes with the row alone.",
        "± is the standard deviation over seeds (of weights, order and views; n - 1); the images are the same.",
        "AUC and effective rank are of the encoder's features on validation images, at the end of the run.",
        f"Images/s and memory: runs {facts['jobs']} at once, threads a run: {facts['threads']}; on {machine['cpu']} "
        f"({machine['cores']} cores), device {machine.get('gpu', machine['device'])}, {shared['train']['precision']}; "
        "memory is the peak of the process in main memory.",
        f"siamscope {machine['siamscope']}, torch {machine['torch']}, {facts['written'][:10]}: {machine['command']}",
    ]
    if facts["given_cells"]:
        named = ", ".join(f"{name} = {value}" for name, value in facts["given_cells"].items())
        notes.append(f"Given for every method: {named}.")
    if any(cell["rho"] is not None and not cell["published"] for cell in facts["cells"]):
        notes.append(
            "A momentum target and a slow F (rho near 1) both lag behind the network: on a short run a gain from "
            "momentum can be no more than F's staleness, so it is shown at rho 0 as well."
        )
    return notes


def _write(folder: Path, facts: dict[str, Any]) -> str:
    """Write the results; the text for the terminal."""
    text = table.markdown(facts)
    write_text(folder / "compare.json", json.dumps(finite(facts), indent=1) + "\n")
    write_text(folder / "compare.csv", table.as_csv(facts["cells"], facts["baselines"]))
    write_text(folder / "compare.md", text)
    page = write_page(folder / "compare.json")
    return f"{text}\npage     {page}\nfigure   {page.with_suffix('.png')}\ntable    {page.with_suffix('.csv')}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
