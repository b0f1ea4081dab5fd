"""A run on several processes: whether all of them mean the same, and whether torchrun started it before."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import siamscope
from siamscope import recipe as recipes
from siamscope.data import Dataset
from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, RunError
from siamscope.training import checkpoint
from siamscope.training.distributed import World

OWN = {"data.workers", "data.cache_dir", "data.memory_budget_mb", "train.threads"}
"""Fields in which processes may differ: where and how a host computes."""
NAMED = 100_000
"""Files at most whose names are compared when the data differ."""


def agree(here: World, what: str, mine: Mapping[str, Any]) -> None:
    """Let all processes leave with the same message unless their facts are equal; only hashes travel when they are.

    Raises:
        RunError: they differ; every fact that does is named, with who holds which value.
    """
    text = json.dumps(dict(mine), sort_keys=True, default=str)
    if len(set(here.all_said(hashlib.sha256(text.encode()).hexdigest()))) == 1:
        return
    told = here.all_said(dict(mine))
    names = [name for name in dict.fromkeys(name for facts in told for name in facts) if len(_holders(told, name)) > 1]
    differing = "; ".join(f"{name} is {_who(_holders(told, name))}" for name in names[:8])
    more = f"; and {len(names) - 8} more" if len(names) > 8 else ""
    raise RunError(f"the processes disagree on {what}: {differing}{more}")


def _holders(told: list[dict[str, Any]], name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for rank, facts in enumerate(told):
        found.setdefault(json.dumps(facts[name], default=str) if name in facts else "missing", []).append(rank)
    return found


def _who(holders: Mapping[str, list[int]]) -> str:
    return ", ".join(
        f"{value} on rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:6]))}"
        f"{', ...' if len(ranks) > 6 else ''}"
        for value, ranks in holders.items()
    )


def agree_on_recipe(here: World, recipe: Recipe) -> None:
    """Whether all processes have the same recipe and the same code; before anything is opened.

    Raises:
        RunError: they have not.
    """
    if here.size == 1:
        return
    agree(here, "the software; install the same on every host", software())
    fields = {name: value for name, value in checkpoint.flat(recipes.to_dict(recipe)).items() if name not in OWN}
    agree(here, "the recipe; start every one with the same command", fields)


def software() -> dict[str, str]:
    """Versions, and a hash of the package's source files."""
    code = hashlib.sha256()
    root = Path(siamscope.__file__).parent
    for file in sorted(root.rglob("*.py")):
        code.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return {"siamscope": f"{siamscope.__version__}, code {code.hexdigest()[:8]}", "torch": str(torch.__version__)}


def agree_on_data(here: World, dataset: Dataset) -> None:
    """Whether all processes see the same images in the same order, with the same labels, and enough of them.

    Raises:
        RunError: they do not; if it is a matter of files, one of those that not all have is named.
    """
    if here.size == 1:
        return
    facts: dict[str, Any] = {"fingerprint": dataset.fingerprint[:16]}
    facts |= {name: len(part) for name, part in _parts(dataset).items()}
    try:
        agree(here, f"the images of {dataset.name}; give every host the same", facts)
    except RunError as error:
        names = {str(name) for part in _parts(dataset).values() for name in part.names} if _few(dataset) else set()
        told = here.all_said(names)
        lone = sorted(set().union(*told) - set(told[0]).intersection(*told))
        if not lone:
            raise
        lacking = [rank for rank, held in enumerate(told) if lone[0] not in held]
        more = f" (and {len(lone) - 1} more files that not all have)" if len(lone) > 1 else ""
        raise RunError(f"{error}; {lone[0]} is missing on rank {', '.join(map(str, lacking[:6]))}{more}") from None
    if len(dataset.train) < here.size:
        raise RunError(
            f"{dataset.name} has fewer training images ({len(dataset.train)}) than there are processes ({here.size}), "
            "and each needs one of every batch: start fewer (torchrun --nproc-per-node)"
        )


def _parts(dataset: Dataset) -> dict[str, Any]:
    parts = {"training images": dataset.train, "validation images": dataset.val}
    return parts | ({"test images": dataset.test} if dataset.test else {})


def _few(dataset: Dataset) -> bool:
    return bool(dataset.files) and sum(map(len, _parts(dataset).values())) <= NAMED


# ------------------------------------------------------------------------------ torchrun's elastic restart


@dataclass(frozen=True)
class Launch:
    """Who started this run: the torchrun agents, of which one a host stays alive through restarts, and with which
    recipe."""

    agents: tuple[str, ...]
    asked: str

    @classmethod
    def of(cls, here: World, recipe: Recipe) -> Launch:
        """Called by all processes."""
        found = {name for name in here.all_said(agent()) if name}
        return cls(tuple(sorted(found)), recipes.digest(recipe))

    def began(self, run: RunDir) -> bool:
        """Whether a torchrun that runs now started the run in this directory: then it has restarted its processes.

        Raises:
            RunError: it has, with another recipe.
        """
        known = recorded(run)
        if not set(self.agents) & set(known.get("agents", ())):
            return False
        if known["asked"] != self.asked:
            raise RunError(
                f"the recipe has changed since this torchrun started {run.path}; stop it, and start a new run"
            )
        return True

    def facts(self, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """For environment.json; hosts may come and go."""
        agents = sorted({*self.agents, *(before or {}).get("agents", ())})
        return {"agents": agents, "asked": self.asked} if agents else {}

    def note(self, run: RunDir, processes: int) -> None:
        """Write down who goes on with a run."""
        if self.agents and run.environment.is_file():
            known = json.loads(run.environment.read_text(encoding="utf-8"))
            run.write_json(run.environment, known | {"launch": self.facts(known.get("launch")), "processes": processes})


def recorded(run: RunDir) -> dict[str, Any]:
    """The launch that a run directory holds, or nothing."""
    try:
        found = json.loads(run.environment.read_text(encoding="utf-8"))["launch"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def restarted() -> bool:
    """Whether torchrun has started these processes before."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def agent() -> str:
    """The torchrun process above this one, by host, number and time of start; empty without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    parent = os.getppid()
    try:
        began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):  # no Linux
        began = os.environ["TORCHELASTIC_RUN_ID"]
    return f"{socket.gethostname()}:{parent}:{began}"


def how_to_go_on(run: RunDir) -> str:
    """Where a run that lost a process stands, and what to do."""
    if not run.path.is_dir():
        return "the first host holds the run and its checkpoints, and says how to go on"
    paths = checkpoint.numbered(run)
    last = f"the last checkpoint is {paths[-1]}" if paths else f"no checkpoint in {run.path} yet"
    return (
        f"{last}. torchrun --max-restarts goes on from there by itself; by hand 'siamscope resume {run.path}' does, on "
        "any number of processes"
    )
