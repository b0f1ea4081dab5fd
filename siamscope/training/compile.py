"""Whether the branches of a step are compiled (torch.compile): if the time it costs comes back within the run.

Before anything is compiled, the passes through the branches are timed: a run too short for what compiling can save is
left alone. Otherwise a trial compiles and times again, so that the answer rests on what was measured here. The choice
goes into the recipe, like that of the number format, so that a resumed run computes in the same way.

Measured on two cores with AMX (torch 2.13, bf16, channels last): ResNet-8 at 256 images 346 to 264 ms a step, ResNet-18
at 64 images 1,309 to 1,207 ms, 26 s of compiling either way.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from siamscope.training.siamese import TARGET_VIEWS, Branch
from siamscope.training.step import Trainer

SECONDS = 30.0
"""What compiling one graph, of a size of view, is expected to cost before it has been tried."""
SHARE = 0.2
"""Share of the passes' time that it is expected to save."""
MARGIN = 2.0
"""How many times the cost must be expected to come back before it is tried."""
FEWEST = 100
"""With fewer steps nothing is even timed."""
LEAST = 0.03
"""Smaller savings than this share are noise: they are not taken."""


@dataclass(frozen=True)
class Choice:
    """Whether the step is compiled, the sentence that says why, and the seconds that were measured."""

    compiled: bool
    reason: str
    seconds: dict[str, float] = field(default_factory=dict)


NOT_NEEDED = Choice(False, "not compiled: no step is left")


def choose(setting: str, trainer: Trainer, left: int, passes: Callable[[], float] | None = None) -> Choice:
    """Decide by `setting` (auto, on, off) for a run with `left` steps to go, and compile the trainer's branches or not.

    `passes` gives the seconds of one step's passes through the branches (by default `timed` on noise); weights, running
    statistics and random state are afterwards as they were. A compiler that is missing or fails is a reason not to,
    never an error.
    """
    if setting == "off":
        return Choice(False, "not compiled: train.compile is off")
    obstacle = _obstacle(trainer)
    if obstacle:
        return Choice(False, f"not compiled: {obstacle}")
    if setting == "auto" and left < FEWEST:
        return Choice(False, f"not compiled: {left} steps are too few")
    passes = passes or timed(trainer)
    if setting == "on":
        return _tried(trainer, passes)
    eager = _best(passes)
    cost = SECONDS * _graphs(trainer)
    saving = SHARE * eager * left
    if saving < MARGIN * cost:
        said = f"{1000 * SHARE * eager:.1f} ms a step saved x {left:,} steps = {saving:.0f} s"
        reason = f"not compiled: {said} at most, less than {MARGIN:g} x the {cost:.0f} s that compiling may cost"
        return Choice(False, reason, {"eager": round(eager, 5)})
    return _measured(trainer, passes, eager, left)


def _tried(trainer: Trainer, passes: Callable[[], float]) -> Choice:
    """Compiled whatever it saves, unless it fails."""
    start = time.perf_counter()
    failure = _compile(trainer, passes)
    if failure:
        return failure
    spent = time.perf_counter() - start
    return Choice(True, f"compiled the step in {spent:.0f} s: train.compile is on", {"compiling": round(spent, 1)})


def _measured(trainer: Trainer, passes: Callable[[], float], eager: float, left: int) -> Choice:
    """Compiled if it turns out faster."""
    tried = _tried(trainer, passes)
    if not tried.compiled:
        return tried
    compiled, spent = _best(passes), tried.seconds["compiling"]
    seconds = {"eager": round(eager, 5), "compiled": round(compiled, 5), **tried.seconds}
    gain = eager - compiled
    if gain < LEAST * eager:
        _use(trainer, None)
        return Choice(False, f"not compiled: tried for {spent:.0f} s, a step gains {1000 * gain:.1f} ms", seconds)
    relation = ">" if gain * left > spent else "<"
    said = f"compiled the step: {1000 * gain:.1f} ms a step saved x {left:,} steps = {gain * left:.0f} s"
    return Choice(True, f"{said} {relation} {spent:.0f} s of compiling", seconds)


def _compile(trainer: Trainer, passes: Callable[[], float]) -> Choice | None:
    """Compile the branches and run them once; what went wrong, with the branches as they were."""
    _use(trainer, lambda branch: torch.compile(branch.plain, dynamic=False))
    try:
        passes()
    except Exception as error:  # a compiler's failures have many types, and none may end a run that can go without it
        _use(trainer, None)
        said = str(error).strip().splitlines() or [type(error).__name__]
        return Choice(False, f"not compiled: compiling failed ({said[0][:200]})")
    return None


def _use(trainer: Trainer, make: Callable[[Branch], Callable[[torch.Tensor], torch.Tensor]] | None) -> None:
    for branch in (trainer.model.online, trainer.model.target):
        if isinstance(branch, Branch):
            branch.compiled = make(branch) if make else None


def timed(trainer: Trainer) -> Callable[[], float]:
    """The seconds of one step's forward and backward passes through the branches, on noise of the views' sizes."""
    model, config, device = trainer.model, trainer.recipe.train, trainer.world.device
    rows = config.batch_size // trainer.world.size // config.accumulate
    generator = torch.Generator().manual_seed(0)
    views = [
        trainer.precision.layout(torch.randn(rows, len(trainer.mean), s.size, s.size, generator=generator).to(device))
        for s in trainer.specs
    ]

    def passes() -> float:
        state = torch.get_rng_state()
        kept = [buffer.clone() for buffer in model.buffers()]
        model.train()
        _wait(device)
        start = time.perf_counter()
        with trainer.precision.autocast(device):
            out = [model.online(view) for view in views]
            target = _without_gradient(trainer)
            if target is not None:
                with torch.no_grad():
                    for view in views[:TARGET_VIEWS]:
                        target(view)
        torch.autograd.backward(torch.stack([z.float().square().mean() for z in out]).sum())
        _wait(device)
        seconds = time.perf_counter() - start
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)
        torch.set_rng_state(state)
        return seconds

    return passes


def _without_gradient(trainer: Trainer) -> Branch | None:
    """The branch that sees whole views without gradients: the momentum target, or with CutMix the online branch."""
    model = trainer.model
    if isinstance(model.target, Branch):
        return model.target
    mixed = trainer.recipe.views.cutmix > 0
    return model.online if mixed and model.teacher is None and model.row.target == "detached" else None


def _graphs(trainer: Trainer) -> int:
    """How many graphs are compiled: one for each size of view, and one more where it goes without gradients too."""
    sizes = len({spec.size for spec in trainer.specs})
    whole = len({spec.size for spec in trainer.specs[:TARGET_VIEWS]})
    return sizes + (whole if _without_gradient(trainer) is not None else 0)


def _obstacle(trainer: Trainer) -> str:
    """What keeps the step from being compiled at all; empty if nothing does."""
    if trainer.world.size > 1:
        return "several processes share their batch norms"
    if trainer.model.looks_inside:
        return "the regulariser is of what the projector's last norm is given"
    if trainer.world.device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "triton is not installed"
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return "" if any(shutil.which(name) for name in names) else f"no C++ compiler was found ({', '.join(names)})"


def _best(passes: Callable[[], float]) -> float:
    return min(passes() for _ in range(3))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
