"""`siamscope study order`: what the order of presentation does to collapse, by size of the model, at equal steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from siamscope.recipe import Recipe
from siamscope.sections import OrderConfig
from siamscope.workflow.answer import Answer
from siamscope.workflow.batch import PlanError
from siamscope.workflow.study import plan, runner, verdicts
from siamscope.workflow.study.collect import Record
from siamscope.workflow.study.plan import Common, Line
from siamscope.workflow.study.verdicts import Verdict

TITLE = "Order of presentation against size of the model"
NAMES = ("iid", "current", "cumulative", "hybrid")
CLAIMS = {
    "c": "Runs with a higher AUC have a lower accuracy",
    "d": "Cumulative or hybrid training collapses less than iid",
    "e": "Hybrid training is at least as accurate as iid",
    "single": "A single pass regularises: less collapse than iid",
}
"""Directions of Li et al. 2022; (c), (d) and (e) in the letters of the reference."""


@dataclass(frozen=True)
class Options(Common):
    """Orders are names with commas between them: iid, current (a single pass), cumulative, hybrid@SWITCH (current up to
    that share of the steps, then iid), each with +replay=SHARE of a batch from earlier chunks where that has a meaning.
    """

    orders: str = "iid,current,current+replay=0.5,cumulative,hybrid@0.4,hybrid@0.8"
    """Orders to compare (in place of order.name, order.switch and order.replay)."""
    chunks: int = 25
    """Chunks that a pass over the images is cut into (in place of order.chunks)."""
    widths: str = "0.25,1"
    """Widths of the backbone, with commas between them (in place of network.width)."""
    backbones: str = ""
    """Backbones, with commas between them, for the depth (in place of network.backbone)."""
    out: Path = Path("runs/study-order")
    """Directory of the study; run again, it goes on where it was."""


def default(args: list[str]) -> Any:
    """Defaults: the shipped recipe of studies."""
    return plan.default(Options, args)


def run(given: Options) -> Answer:
    """Run what is missing, and write the results."""
    orders = [(text, order_of(text, given.order, given.chunks)) for text in plan.words(given.orders)]
    if not orders:
        raise PlanError("--orders names none; give iid,cumulative or more")
    widths, names = plan.widths(given.widths), plan.backbones(given.backbones, given.network.backbone)

    def lines(shared: Recipe, images: int) -> list[Line]:
        return [
            Line(
                f"{model.key}-{text.replace('+', '-').replace('=', '').replace('@', '')}",
                model.label, text, images, replace(model.recipe, order=order),
            )
            for model in plan.models(shared, names, widths)
            for text, order in orders
        ]  # fmt: skip

    study = runner.Study("order", TITLE, "order", lines, judge, (_note(given.chunks),))
    return runner.run(study, given, given.out)


def order_of(text: str, asked: OrderConfig, chunks: int) -> OrderConfig:
    """The section `order` that a word such as `hybrid@0.4+replay=0.5` stands for; rounds and shift are as asked.

    Raises:
        PlanError: an unknown order, or numbers that it does not take.
    """
    main, *more = text.split("+")
    name, at, switch = main.partition("@")
    if name not in NAMES:
        raise PlanError(
            f"--orders: unknown order {name!r}; known are {', '.join(NAMES)}, as hybrid@0.4 and current+replay=0.5"
        )
    if bool(at) != (name == "hybrid"):
        raise PlanError(f"--orders: {main!r}: hybrid takes a switch point, as hybrid@0.4, and no other order does")
    if name == "iid":
        config = OrderConfig()
    else:
        config = OrderConfig(_literal(name), chunks=chunks, rounds=asked.rounds, shift=asked.shift)
    config = replace(config, switch=_share(switch, text)) if at else config
    for part in more:
        key, _, value = part.partition("=")
        if key != "replay" or name not in ("current", "hybrid"):
            raise PlanError(f"--orders: {text!r}: only current and hybrid take something more, and only +replay=SHARE")
        config = replace(config, replay=_share(value, text), buffer=asked.buffer)
    return config


def _literal(name: str) -> Any:
    """The name as the section's own type has it."""
    allowed = get_args(get_type_hints(OrderConfig)["name"])
    return next(item for item in allowed if item == name)


def _share(text: str, word: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise PlanError(f"--orders: {word!r}: {text!r} must be a share above 0 and below 1")
    return value


def _note(chunks: int) -> str:
    return (
        f"A pass over the images is cut into {chunks} chunks. Orders matter where every image is seen many times: the "
        "paper's runs show each about 100 times (all inside its own chunk with `current`)."
    )


# ------------------------------------------------------------------------------------------ verdicts


def judge(lines: Sequence[Line], records: Sequence[Record]) -> list[Verdict]:
    """The directions that the runs can speak of."""
    at = {(line.model, line.variant): line.key for line in lines}
    accuracy = verdicts.labelled(records)
    found: list[Verdict] = []
    for model in dict.fromkeys(line.model for line in lines):
        if (model, "iid") not in at:
            continue
        base = at[model, "iid"]
        for line in (line for line in lines if line.model == model and line.key != base):
            name = line.variant.partition("@")[0].partition("+")[0]
            about = f"{model}, {line.variant} against iid"
            claim = CLAIMS["single"] if name == "current" else CLAIMS["d"]
            gaps = verdicts.pairs(records, line.key, base, "auc_sigma")
            found.append(verdicts.difference(claim, about, gaps, -1, "in AUC"))
            if name == "hybrid" and accuracy:
                gaps = verdicts.pairs(records, line.key, base, accuracy)
                found.append(verdicts.difference(CLAIMS["e"], about, gaps, 1, "points", 100))
    return found + verdicts.accuracy_falls_with_auc(CLAIMS["c"], records)
