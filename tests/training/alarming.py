"""A run whose alarm sounds, or an alarm that sounds when a test wants, and what a run left."""

from dataclasses import replace

import torch

from siamscope.collapse.alarm import Alarm
from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint
from siamscope.training import watch as watching


def weights(run) -> dict:
    return torch.load(checkpoint.numbered(RunDir(run))[-1], weights_only=True)["model"]


def lines(run, kind: str) -> list[dict]:
    return [line for line in read_jsonl(RunDir(run).metrics) if line["kind"] == kind]


def rates(run) -> dict[int, float]:
    return {line["step"]: line["lr"] for line in lines(run, "step")}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def collapsing(small, on_collapse: str, steps: int = 60):
    """SimSiam without its stop-gradient, at a high rate: two directions of 16 are left after fifteen steps, and the
    alarm, which waits until step 50 and for a second look, sounds at step 55."""
    recipe = small(
        train={"steps": steps, "batch_size": 16}, optim={"lr": 2.0},
        monitor={"interval": 10, "watch": 5, "on_collapse": on_collapse},
    )  # fmt: skip
    return replace(recipe, method=replace(recipe.method, target="shared"))


def scripted(monkeypatch, sounds) -> None:
    """An alarm that says what a test wants, whatever it sees: `sounds(look)`."""
    real = watching.advance

    def advance(state, look):
        state = real(state, look)
        said = "alarm" if sounds(look) else "quiet"
        alarm = Alarm(said, "dimensional" if said == "alarm" else "", look.step, ("a test",))
        return replace(state, severities=(2 if said == "alarm" else 0,), alarm=alarm)

    monkeypatch.setattr(watching, "advance", advance)
