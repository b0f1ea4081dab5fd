"""`siamscope sweep`: rates, decays, widths and other fields searched by a label-free score.

A folder holds one sweep: `plan.json` (the recipe of all trials, settled once), `study.db` (the Optuna study, unless
another storage is given), `trials/trial-NNNN/seed-S` (run directories), and the results `sweep.json`, `sweep.csv`,
`sweep.png` and `best.toml`. Torch-free; every trial is a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from siamscope import options as common
from siamscope import recipe as recipes
from siamscope.data.cores import usable_cores
from siamscope.recipe import Recipe
from siamscope.report.sweep_figure import Axis, Dot, write_sweep
from siamscope.rundir import explained, finite, write_text
from siamscope.workflow import batch
from siamscope.workflow.answer import Answer
from siamscope.workflow.fleet import flat
from siamscope.workflow.sweep import space as spaces
from siamscope.workflow.sweep import table
from siamscope.workflow.sweep.drive import Driver, Prune, Say
from siamscope.workflow.sweep.errors import SweepError
from siamscope.workflow.sweep.score import Objective, objective
from siamscope.workflow.sweep.space import Dimension
from siamscope.workflow.sweep.store import LOCK, NAME, Store, held, optuna


@dataclass(frozen=True)
class Search:
    """What is searched; two values with a comma between them after --lr, --weight-decay, --temperature or --width mean
    the same as here. Without any: rate and decay, a factor of ten to either side of the recipe's."""

    lr: str = ""
    """LOW,HIGH of the base rate, evenly in its logarithm."""
    weight_decay: str = ""
    """LOW,HIGH of the decay, evenly in its logarithm."""
    width: str = ""
    """Widths with commas between them; compare them at one dimension (--network.features) or by auc_relative."""
    temperature: str = ""
    """LOW,HIGH of the temperature, evenly in its logarithm."""


@dataclass(frozen=True)
class Options(Recipe):
    """The recipe is that of all trials but for what is searched; labels choose nothing, and are shown afterwards."""

    source: Annotated[str, Positional, arg(metavar="DATA")] = ""
    """shapes, fashion-mnist, a folder of images, or a file of arrays (as --data.source)."""
    search: Search = field(default_factory=Search)
    space: tuple[str, ...] = ()
    """Any other field of the recipe: FIELD=LOW:HIGH, FIELD=LOW:HIGH:log or FIELD=A,B,C, as optim.momentum=0.8:0.99."""
    by: str = "auc"
    """Score to search by: auc, effective_rank, rankme, lidar, auc_relative, ...; with --forecast those of the file."""
    forecast: Path | None = None
    """File of 'siamscope forecast fit': search for the accuracy that it expects (as from auc+loss)."""
    trials: int = 20
    """Trials of the study, all processes together."""
    jobs: str = "auto"
    """Trials at once in this process; auto = processor cores / threads of a run (one on a GPU)."""
    prune: Prune = "collapse"
    """End trials early: collapse (alarm or verdict), median (also those worse than half of the others at the same
    step, after a third of the run), none."""
    storage: str = ""
    """Optuna storage, as postgresql://HOST/DB; several machines may work on one (default: study.db in --out)."""
    study: str = NAME
    """Name of the study in the storage."""
    sampler_seed: int = 0
    """Seed of the search (that of the runs is --seed)."""
    out: Path = Path("runs/sweep")
    """Folder of the sweep; run again, it goes on where it was."""
    recipe: str | None = None
    """TOML file, or name of a shipped recipe, whose fields come before the method's defaults."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print the figures as JSON."""


def arguments(args: list[str]) -> list[str]:
    """`--lr 0.01,1` as `--search.lr 0.01,1`; with a single value it stays the recipe's option."""
    out = list(args)
    for name in spaces.SHORT:
        option = f"--{name.replace('_', '-')}"
        for i, word in enumerate(out):
            key, equals, value = word.partition("=")
            given = value if equals else out[i + 1] if i + 1 < len(out) else ""
            if key.replace("_", "-") == option and "," in given:
                out[i] = f"--search.{option[2:]}{equals}{value}"
    return out


def default(args: list[str]) -> Options:
    """Defaults that depend on the command line: the layered recipe."""
    made: Options = common.with_recipe(Options, common.layered(args))
    return made


def run(options: Options) -> Answer:
    """Search, and write the results.

    Raises:
        SweepError: Optuna missing, a space, score or storage that cannot be used, or trials that all fail.
        PlanError: data that cannot be used, or another sweep in the folder.
    """
    optuna()
    if options.trials < 1:
        raise SweepError(f"--trials must be at least 1, got {options.trials}")
    recipe = common.recipe_of(options)
    if options.source:
        recipe = replace(recipe, data=replace(recipe.data, source=options.source))
    recipes.validate(recipe)
    space = spaces.read(recipe, asdict(options.search), options.space)
    goal = objective(options.by, options.forecast, recipe, space)
    say = None if options.quiet else lambda text: print(text, file=sys.stderr)
    plan, out = _planned(options, recipe, space, goal), options.out
    shared = recipes.from_dict(plan["shared"])
    first = spaces.own_values(shared, space)
    store = Store.open(out, options.storage, options.study, space, goal, _agreed(plan), first, options.sampler_seed)
    stopped = _work(options, store, goal, shared, plan, say)
    facts = _facts(options, store.rows(), goal, space, plan, shared)
    text = _write(out, facts, goal, space, shared)
    if stopped:
        text += "\nstopped; the same command goes on"
    return Answer(json.dumps(finite(facts)) if options.json else text, 128 + stopped if stopped else 0)


def _work(
    options: Options, store: Store, goal: Objective, shared: Recipe, plan: Mapping[str, Any], say: Say | None
) -> int:
    at_once = batch.at_once(batch.jobs_of(options.jobs), plan, shared.train.threads)
    threads = shared.train.threads or max(usable_cores() // at_once, 1)
    driver = Driver(store, goal, shared, plan["data"]["fingerprint"], _steps(shared, plan), options.prune, say)
    return driver.work(options.trials, at_once, threads)


def _planned(options: Options, recipe: Recipe, space: Sequence[Dimension], goal: Objective) -> dict[str, Any]:
    """The plan that lies in the folder, or a new one; a second process waits for the first one's."""
    asked, out = _asked(recipe, space, goal), options.out
    with held(out / LOCK):
        found = batch.known(out, asked, "sweep")  # the lock's own file begins with a dot and does not count
        if found is None:
            found = batch.prepared(recipe, asked, batch.jobs_of(options.jobs), options.quiet)
            write_text(out / batch.PLAN, json.dumps(found, indent=1) + "\n")
        return found


def _asked(recipe: Recipe, space: Sequence[Dimension], goal: Objective) -> dict[str, Any]:
    """What a sweep is, to recognise it."""
    searched = {dimension.field for dimension in space}
    known = {name: value for name, value in flat(recipe).items() if name not in searched}
    asked: dict[str, Any] = {
        "recipe": {name: value for name, value in known.items() if not spaces.of_machine(name)},
        "space": {dimension.field: str(dimension) for dimension in space},
        "by": goal.by,
        "forecast": goal.forecaster.to_dict()["state"] if goal.forecaster else None,
    }
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _agreed(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What all processes of one study must agree on: the images may lie at another place, but must be the same."""
    recipe = {name: value for name, value in plan["asked"]["recipe"].items() if name != "data.source"}
    agreed: dict[str, Any] = plan["asked"] | {"recipe": recipe, "images": plan["data"]["fingerprint"]}
    return agreed


def _steps(recipe: Recipe, plan: Mapping[str, Any]) -> int:
    """Steps of a trial."""
    epoch = max(plan["data"]["train_images"] // recipe.train.batch_size, 1)
    return recipe.train.steps or max(round(recipe.train.epochs * epoch), 1)


def _facts(
    options: Options, rows: list[dict[str, Any]], goal: Objective, space: Sequence[Dimension], plan: Mapping[str, Any],
    shared: Recipe,
) -> dict[str, Any]:  # fmt: skip
    """All that sweep.json says."""
    rows = table.ordered(rows, goal)
    choice = table.chosen(rows, goal)
    spared = table.saved(rows, _steps(shared, plan))
    states = {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "fail", "running")}
    known: dict[str, Any] = finite(
        {
            "kind": "siamscope sweep",
            "started": plan["started"],
            "written": batch.now(),
            "environment": plan["environment"],
            "data": plan["data"],
            "by": goal.by,
            "score": goal.name,
            "direction": goal.direction,
            "space": [asdict(dimension) for dimension in space],
            "study": options.study,
            "prune": options.prune,
            "counts": states,
            "training_saved": spared,
            "trials": rows,
            "chosen": choice,
            "with_loss": table.with_loss(rows, goal),
            "notes": _notes(goal, states, spared, rows),
        }
    )
    return known | {"labels": table.cost(rows, goal, choice)}


def _notes(goal: Objective, states: Mapping[str, int], spared: float, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What one must know to read the table."""
    notes = [
        f"{states['complete']} trials finished, {states['pruned']} pruned, {states['fail']} failed, "
        f"{states['running']} in progress; pruning saved {100 * spared:.0f} % of the training"
    ]
    if goal.name == "loss":
        notes.append("a collapsed network has a low loss: the loss alone says little")
    if any(row["state"] == "complete" and row["health"] != "healthy" for row in rows):
        notes.append("trials whose verdict is not 'healthy' took part in the choice")
    return notes


def _write(out: Path, facts: dict[str, Any], goal: Objective, space: Sequence[Dimension], shared: Recipe) -> str:
    """Write the results; the text for the terminal."""
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    write_text(out / "sweep.json", json.dumps(finite(facts), indent=1) + "\n")
    write_text(out / "sweep.csv", table.as_csv(facts["trials"], space))
    files = [out / "sweep.json", out / "sweep.csv"]
    choice = facts["chosen"]
    if choice is not None:
        best = spaces.applied(shared, choice["params"])
        write_text(out / "best.toml", recipes.to_toml(best))
        files.append(out / "best.toml")
    dots = _dots(facts)
    if dots:
        axes = [Axis(d.field, d.log, isinstance((d.choices or (0,))[0], str | bool), d.low, d.high) for d in space]
        files.append(write_sweep(dots, axes, goal.name, goal.direction == "maximize", out / "sweep.png"))
    return f"{table.text(facts, goal, space)}\nfiles   {', '.join(map(str, files))}"


def _dots(facts: Mapping[str, Any]) -> list[Dot]:
    """The trials that have a number to draw."""
    number = facts["chosen"]["trial"] if facts["chosen"] else None
    return [
        Dot(row["trial"], row["params"], value, row["state"] == "pruned", row["trial"] == number)
        for row in sorted(facts["trials"], key=lambda row: row["trial"])
        if row["state"] in ("complete", "pruned")
        and (value := row["value"] if row["state"] == "complete" else row["last"]) is not None
    ]
