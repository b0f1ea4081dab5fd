"""`siamscope compare`: the same backbone, views, optimiser and budget for all methods; only the row changes.

A directory holds one comparison: `plan.json` (the shared recipe, settled once), `runs/CELL/seed-N` (run directories),
and the results `compare.json`, `.csv`, `.md`, `.png` and `.html`. Torch-free; every run is a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamscope import recipe as recipes
from siamscope.data.cores import usable_cores
from siamscope.recipe import Recipe
from siamscope.report.methods import write as write_page
from siamscope.rundir import RunDir, explained, finite, write_text
from siamscope.workflow import batch
from siamscope.workflow import compare_plan as plan
from siamscope.workflow import compare_table as table
from siamscope.workflow.batch import PLAN, Say
from siamscope.workflow.compare_plan import Cell
from siamscope.workflow.jobs import Run, due, execute


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
        PlanError: unknown methods, seeds or jobs; data that cannot be used; `out` holds something else, or a
            comparison by another recipe.
        RunError: `out` cannot be written, or another process works in it.
    """
    recipes.validate(recipe)
    names, numbers, wanted = plan.chosen(methods), batch.seeds_of(seeds), batch.jobs_of(jobs)
    folder, asked = Path(out), plan.asked(recipe, cells)
    known = batch.known(folder, asked, "comparison") or batch.prepared(recipe, asked, wanted, quiet=say is None)
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
        at_once = batch.at_once(wanted, known, shared.train.threads)
        threads = shared.train.threads or max(usable_cores() // at_once, 1)
        stopped = execute(todo, at_once, threads, batch.Teller(say, len(todo), at_once, _in_words))
        facts = _facts(known, shared, lines, numbers, runs) | {"jobs": at_once, "threads": threads}
        facts["notes"] = _notes(facts)
        text = _write(folder, facts) + ("\nstopped; run the same command again to go on" if stopped else "")
    return Compared(facts, text, stopped)


# ------------------------------------------------------------------------------------------ after


def _in_words(run: Run) -> str:
    """A finished run in a few words."""
    found = table.figures(run.dir)
    accuracy = "" if found["knn"] is None else f"k-NN {100 * found['knn']:.1f} %, "
    return f"{accuracy}{found['health']}"


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
        "written": batch.now(),
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
