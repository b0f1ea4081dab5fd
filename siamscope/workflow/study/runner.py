"""Runs what is missing of a study, and writes its results: study.json, .csv, .md, .png and .html. Torch-free.

A directory holds one study: `plan.json` (the shared recipe, settled once), `runs/LINE/seed-N` (run directories), and
the results. The same command goes on where it was stopped; sizes, widths, orders and seeds may change between.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siamscope import recipe as recipes
from siamscope.data.cores import usable_cores
from siamscope.recipe import Recipe
from siamscope.report.study import write as write_page
from siamscope.rundir import RunDir, explained, finite, write_text
from siamscope.sections import OrderConfig
from siamscope.workflow import batch, facts
from siamscope.workflow.answer import Answer
from siamscope.workflow.batch import PLAN, PlanError, Say
from siamscope.workflow.jobs import Run, due, execute
from siamscope.workflow.study import collect, forecast, table
from siamscope.workflow.study.collect import Record
from siamscope.workflow.study.plan import Common, Line, checked, recipe_of
from siamscope.workflow.study.verdicts import Verdict, as_facts

Lines = Callable[[Recipe, int], Sequence[Line]]
Judge = Callable[[Sequence[Line], Sequence[Record]], Sequence[Verdict]]


@dataclass(frozen=True)
class Study:
    """What makes one study differ from another.

    Attributes:
        kind: size, order, ...: its command.
        title: of its page.
        across: what the lines of one model differ in: `images` makes an axis, all else names.
        lines: from the shared recipe and the number of training images.
        judge: what the runs say of the claims.
        notes: what one must know to read it, beside what is said of every study.
    """

    kind: str
    title: str
    across: str
    lines: Lines
    judge: Judge
    notes: tuple[str, ...] = ()


def run(study: Study, given: Common, out: Path) -> Answer:
    """Run what is missing and write the results.

    Raises:
        PlanError: data that cannot be used; `out` holds something else, or a study by another recipe.
        RunError: `out` cannot be written, or another process works in it.
    """
    recipe, seeds, wanted = recipe_of(given), batch.seeds_of(given.seeds), batch.jobs_of(given.jobs)
    base = replace(recipe, order=OrderConfig())
    recipes.validate(base)
    say: Say | None = None if given.quiet else lambda text: print(text, file=sys.stderr, flush=True)
    asked = _asked(study, recipe)
    known = batch.known(out, asked, "study") or batch.prepared(base, asked, wanted, quiet=say is None)
    shared = _with_steps(replace(recipes.from_dict(known["shared"]), order=recipe.order), known)
    lines = [checked(line) for line in study.lines(shared, int(known["data"]["train_images"]))]
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    with RunDir(out).lock():
        write_text(out / PLAN, json.dumps(known, indent=1) + "\n")
        at_once = batch.at_once(wanted, known, shared.train.threads)
        threads = shared.train.threads or max(usable_cores() // at_once, 1)
        runs, signal = _executed(lines, seeds, out / "runs", at_once, threads, given.retry, say)
        found = _facts(study, known, shared, lines, seeds, runs) | {"jobs": at_once, "threads": threads}
        found["notes"] = [*_notes(found), *study.notes]
        text = _write(out, found) + ("\nstopped; run the same command again to go on" if signal else "")
    return Answer(json.dumps(finite(found)) if given.json else text, 128 + signal if signal else 0)


def _asked(study: Study, recipe: Recipe) -> dict[str, Any]:
    """What a command line asks for, to recognise the study when it is run again."""
    asked: dict[str, Any] = json.loads(json.dumps(recipes.to_dict(recipe), default=str))
    asked["train"].pop("seed")
    return {"study": study.kind} | asked


def _with_steps(shared: Recipe, known: Mapping[str, Any]) -> Recipe:
    """The recipe with a number of steps, equal for all runs, where it counts epochs.

    Raises:
        PlanError: fewer training images than a batch.
    """
    images, batch_size = int(known["data"]["train_images"]), shared.train.batch_size
    if images < batch_size:
        raise PlanError(
            f"{known['data']['name']} has {images} training images, fewer than a batch of {batch_size}: "
            f"give --train.batch-size {images} or less, or more images"
        )
    steps = shared.train.steps or max(round(shared.train.epochs * (images // batch_size)), 1)
    return replace(shared, train=replace(shared.train, steps=steps))


def _executed(
    lines: Sequence[Line], seeds: Sequence[int], folder: Path, at_once: int, threads: int, retry: bool, say: Say | None
) -> tuple[list[tuple[Line, Run]], int]:
    """All runs, those that are due run; and the signal that stopped it, or 0. Teachers come before those they teach."""
    planned = [
        (line, Run(line.key, line.label, seed, line.with_seed(seed, folder), folder / line.key))
        for seed in seeds  # seed by seed: a study that is stopped early has every line once
        for line in lines
        if line.recipe is not None
    ]
    signal = 0
    for taught in (False, True):
        todo = [run for line, run in planned if bool(line.teacher) is taught and due(run, retry)]
        if todo and not signal:
            signal = execute(todo, at_once, threads, batch.Teller(say, len(todo), at_once, _in_words))
    return planned, signal


def _in_words(run: Run) -> str:
    """A finished run in a few words."""
    known = facts.read(run.dir.path)
    auc = f"AUC {known.scores['auc_sigma']:.3f}, " if "auc_sigma" in known.scores else ""
    accuracy = f"k-NN {100 * known.accuracy['knn']:.1f} %, " if "knn" in known.accuracy else ""
    return f"{auc}{accuracy}{known.health}"


def _facts(
    study: Study,
    known: Mapping[str, Any],
    shared: Recipe,
    lines: Sequence[Line],
    seeds: Sequence[int],
    runs: Sequence[tuple[Line, Run]],
) -> dict[str, Any]:
    """All that study.json says, but for the notes."""
    records = [collect.collect(run, line, known["data"]["fingerprint"]) for line, run in runs]
    of_line = {line.key: [record for record in records if record["line"] == line.key] for line in lines}
    done = [record for record in records if record["status"] == "finished"]
    return {
        "kind": f"siamscope study {study.kind}",
        "title": study.title,
        "across": study.across,
        "started": known["started"],
        "written": batch.now(),
        "environment": known["environment"],
        "data": dict(known["data"]) | {"split": done[0]["split"] if done else ""},
        "seeds": list(seeds),
        "shared": {key: part for key, part in recipes.to_dict(shared).items() if key != "order"},
        "lines": [collect.summary(line, of_line[line.key], len(seeds)) for line in lines],
        "baselines": collect.baselines(records),
        "verdicts": as_facts(study.judge(lines, records)),
        "forecast": forecast.of(records),
        "runs": [{key: item for key, item in record.items() if key != "spectrum"} for record in records],
    }


def _notes(found: Mapping[str, Any]) -> list[str]:
    """What one must know to read any study."""
    train, data, machine = found["shared"]["train"], found["data"], found["environment"]
    small = [line["images"] for line in found["lines"] if line["images"] < train["batch_size"]]
    split = {"test": "test images", "validation": "validation images (the data have no test images)"}
    scored = next((run["n_scored"] for run in found["runs"] if run.get("n_scored")), 0)
    notes = [
        f"{train['steps']:,} steps of {train['batch_size']} images for every run. All training images give the "
        "normalisation, the bank of the k-NN and the linear probe's training set, whatever a run was trained on.",
        f"AUC (sigma, centred), relative AUC and effective rank: of pooled backbone features of {scored:,} validation "
        "images without augmentation. Spectra: of the fewer images that the monitor measures, mean over the seeds. "
        "± is the standard deviation over the seeds (n - 1).",
        "AUC is compared at one number of features only. Relative AUC is 0 for a flat spectrum and 1 for rank one at "
        "any number. An untrained encoder has a spectrum of its own: a low AUC alone does not say that anything was "
        "learnt.",
        "A direction is said to replicate, or to be contradicted, when the mean of the differences between runs of one "
        "seed is more than twice their standard deviation; else it is undecided.",
        f"siamscope {machine['siamscope']}, torch {machine['torch']}, {machine['cpu']} ({machine['cores']} cores), "
        f"device {machine.get('gpu', machine['device'])}, {found['jobs']} runs at once, {found['written'][:10]}: "
        f"{machine['command']}",
    ]
    if data["split"]:
        notes.insert(2, f"Accuracies are on {split.get(data['split'], 'images')} of {data['name']}.")
    else:
        notes.insert(2, "The images have no labels, so no accuracies: what is said is of the spectrum only.")
    if small:
        notes.append(f"With {min(small)} images a batch of {train['batch_size']} holds an image more than once.")
    return notes


def _write(folder: Path, found: dict[str, Any]) -> str:
    """Write the results; the text for the terminal."""
    text = table.markdown(found)
    write_text(folder / "study.json", json.dumps(finite(found)) + "\n")
    write_text(folder / "study.csv", table.as_csv(found))
    write_text(folder / "study.md", text)
    page = write_page(folder / "study.json")
    return f"{text}\npage     {page}\nfigure   {page.with_suffix('.png')}\ntable    {page.with_suffix('.csv')}"
