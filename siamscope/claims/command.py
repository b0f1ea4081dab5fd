"""`siamscope reproduce PAPER`: the claims of a paper, listed, resolved or measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from siamscope.claims import collapse, directpred, show
from siamscope.claims.base import Ablation, Claim, ClaimError, NotOffered, Order, Preset, Verdict, judge, judge_order
from siamscope.claims.runs import Data, Plan
from siamscope.workflow.answer import Answer

PAPERS = {directpred.NAME: directpred, collapse.NAME: collapse}


@dataclass(frozen=True)
class Options:
    """Exit code 0, 1 if a claim does not hold, 2 for bad input. Without --only the claims are listed."""

    paper: Annotated[str, Positional, arg(metavar="PAPER")]
    """directpred, or collapse (SimSiam on synthetic vectors)."""
    only: str = ""
    """Ids or patterns with commas between them, as A21*,A22* or T6.rho3.*; '*' = all that need no data."""
    list: bool = False
    """Show the claims: id, what was printed, what is expected, cost."""
    dry_run: bool = False
    """Resolve the recipe of every claim and show its SHA-256."""
    seeds: int = 5
    """Seeds 0, 1, ..., so many."""
    data: Path | None = None
    """Labelled images with a test split, for the claims of a table: STL-10 or CIFAR, as the claim says."""
    pretrain: Path | None = None
    """Other images to train on, without labels (STL-10: train and unlabelled together)."""
    epochs: float = 0.0
    """Shorten the runs of tables; the printed figures then do not compare."""
    steps: int = 0
    """The same in steps."""
    device: str = ""
    """Device of the runs of tables: auto, cpu, cuda or cuda:N."""
    out: Path | None = None
    """Folder of the runs, and of results.json; a finished run there is not repeated. Tables: runs/reproduce-PAPER."""
    json: bool = False
    """Print as JSON."""


def run(options: Options) -> Answer:
    """What the options ask for.

    Raises:
        ClaimError: an unknown paper or pattern, options that do not go together, data that are missing or unfit.
    """
    paper = _paper(options)
    claims = show.matching(paper.claims(), options.only or "*", options.paper)
    if options.dry_run:
        return Answer(show.dry_run(claims, options.json))
    if options.list or not options.only:
        return Answer(show.listing(claims, paper.differences(), options.json))
    chosen = _with_parts(claims, paper.claims())
    plan = _plan(options, chosen)
    measured, signal = _Session(options, plan).run(chosen)
    verdicts = [verdict for verdict in measured if verdict.claim in claims]
    facts = show.facts(options.paper, verdicts, range(options.seeds))
    if options.out:
        show.write(options.out / "results.json", facts)
    text = json.dumps(facts, allow_nan=False) if options.json else show.table(verdicts)
    failed = any(verdict.outcome == "does not hold" for verdict in verdicts)
    return Answer(text, 128 + signal if signal else 1 if failed else 0)


def _paper(options: Options) -> Any:
    if options.paper not in PAPERS:
        raise ClaimError(f"unknown paper {options.paper!r} (known: {', '.join(PAPERS)})")
    if options.seeds < 1:
        raise ClaimError(f"--seeds must be at least 1, got {options.seeds}")
    if options.epochs < 0 or options.steps < 0:
        raise ClaimError("--epochs and --steps must be above 0, or left out")
    if options.pretrain and not options.data:
        raise ClaimError("--pretrain goes with --data, the labelled images that the probe needs")
    return PAPERS[options.paper]


def _with_parts(claims: list[Claim], known: tuple[Claim, ...]) -> list[Claim]:
    """The claims, and those that a direction among them compares, first."""
    by_id = {claim.id: claim for claim in known}
    parts = [
        by_id[part]
        for claim in claims
        if isinstance(order := claim.experiment, Order)
        for part in (order.higher, order.lower)
    ]
    return sorted(dict.fromkeys([*parts, *claims]), key=lambda claim: isinstance(claim.experiment, Order))


def _plan(options: Options, claims: list[Claim]) -> Plan | None:
    """How the presets among the claims are run; None without data."""
    presets = [claim for claim in claims if isinstance(claim.experiment, Preset)]
    needed = sorted({claim.experiment.data for claim in presets if isinstance(claim.experiment, Preset)})
    if options.data is None:
        if presets and not any(isinstance(claim.experiment, Ablation) for claim in claims):
            raise ClaimError(
                f"{presets[0].id} trains on {' or '.join(needed)}, for hours on a GPU: give --data FOLDER with its "
                "images (train/CLASS/, test/CLASS/); --dry-run shows the recipes, and A21*, A22*, A23* run without data"
            )
        return None
    if not presets:
        raise ClaimError(f"--data: {options.only!r} names no claim that trains on images of yours; leave it out")
    if len(needed) > 1:
        raise ClaimError(
            f"--only names claims on {' and '.join(needed)}; one data set at a time, as --only 'T8.{needed[0]}*'"
        )
    out = options.out or Path("runs") / f"reproduce-{options.paper}"
    data = Data(options.data, options.pretrain)
    return Plan(data, out, range(options.seeds), options.epochs, options.steps, options.device)


class _Session:
    """One call: every experiment is run once, whatever number of claims it answers."""

    def __init__(self, options: Options, plan: Plan | None) -> None:
        self.options, self.plan = options, plan
        self.ablations: dict[str, Any] = {}
        self.presets: dict[Path, Any] = {}
        self.done: dict[str, Verdict] = {}
        self.signal: int | None = None

    def run(self, claims: list[Claim]) -> tuple[list[Verdict], int | None]:
        """Verdicts in the order of the claims, and the signal that stopped the work or None."""
        if self.plan:
            from siamscope.claims import runs

            runs.check(self.plan, next(c.experiment for c in claims if isinstance(c.experiment, Preset)))
        for claim in claims:
            self.done[claim.id] = self._verdict(claim)
        return list(self.done.values()), self.signal

    def _verdict(self, claim: Claim) -> Verdict:
        match claim.experiment:
            case NotOffered(reason):
                return Verdict(claim, "not offered", note=reason)
            case Ablation(experiment, name):
                measures = self._ablation(experiment)
                others = {key: values for key, values in measures.items() if key != name}
                return judge(claim, measures[name], details=others)
            case Order(higher, lower):
                return self._order(claim, self.done[higher], self.done[lower])
            case Preset() as preset:
                return self._preset(claim, preset)

    def _ablation(self, name: str) -> Any:
        if name not in self.ablations:
            from siamscope.claims import experiments

            self.ablations[name] = experiments.run(name, range(self.options.seeds), self.options.out, show.say)
        return self.ablations[name]

    def _preset(self, claim: Claim, preset: Preset) -> Verdict:
        if self.plan is None:
            return Verdict(claim, "not run", note=f"needs --data with {preset.data}")
        if self.signal:
            return Verdict(claim, "not run", note="stopped")
        folder = self.plan.folder(preset)
        if folder not in self.presets:
            from siamscope.claims import runs
            from siamscope.training import progress

            show.say(claim.id)
            reporter = progress.Silent() if self.options.json else progress.reporter()
            self.presets[folder] = runs.measure(self.plan, preset, reporter, show.say)
        found = self.presets[folder]
        self.signal = found.signal
        few = [f"{len(found.values)} of 5 seeds"] if len(found.values) < 5 else []
        note = "; ".join([*found.reasons, *few])
        return judge(claim, found.values, comparable=not found.reasons, note=note)

    def _order(self, claim: Claim, higher: Verdict, lower: Verdict) -> Verdict:
        comparable = "not comparable" not in (higher.outcome, lower.outcome)
        note = "; ".join(dict.fromkeys(note for note in (higher.note, lower.note) if note))
        return judge_order(claim, higher.values, lower.values, comparable=comparable, note=note)
