"""Commands that are a module of `siamscope.workflow` each, alone or in a group: parse, hand over, print.

Such a module has `Options` (a dataclass), `run(options) -> Answer` and, where they are needed, `arguments(args)`, which
rewrites the command line, and `default(args) -> Options`, whose defaults depend on it.
"""

from __future__ import annotations

import importlib

GROUPS = {
    "dynamics": {
        "check": "every theorem, identity, threshold and erratum on random configurations",
        "portrait": "the plane of a mode: flow, nullclines, fixed points, basin of collapse",
        "modes": "the flow of one mode on its parabola, and its course in time",
        "sweep": "what weight decay, rates, noise and the moving average do to fixed points and basins",
        "alignment": "eigenspaces of predictor and correlation in time, against the theorem's bound",
        "threshold": "which features survive a weight decay: the theory's curve and simulated networks",
        "explore": "one page on which sliders move all of it; no network needed",
        "predict": "what the theory says of a run or a recipe, and how it came out",
    },
    "forecast": {
        "fit": "a regression of probe accuracy on label-free scores, from runs whose accuracy is known",
        "apply": "the accuracy that a fitted forecast expects of other runs, with an interval",
    },
    "study": {
        "size": "size of the data against size of the model, at a fixed number of steps",
        "order": "orders of presentation against size of the model, at a fixed number of steps",
        "remedies": "an ill run, and what each remedy that one flag turns on does to it",
        "distill": "capacity or optimisation: a small encoder alone, and distilled from a large one",
    },
}
"""Modules `siamscope.workflow.GROUP.NAME`."""

MODULES = {
    "diagnose": "diagnose.command",
    "select": "select.command",
    "sweep": "sweep.command",
    "scaling": "scaling.command",
}
"""Modules `siamscope.workflow.MODULE`."""


def overview(group: str, about: str) -> str:
    """The text of `siamscope GROUP --help`."""
    commands = GROUPS[group]
    width = max(map(len, commands))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in commands.items())
    return f"usage: siamscope {group} COMMAND ...\n\n{about}.\n\ncommands:\n{lines}"


def run_of_group(group: str, name: str, args: list[str]) -> int:
    """Run a command of a group; the exit code."""
    return _run(f"{group}.{name}", f"{group} {name}", GROUPS[group][name], args)


def run_module(name: str, about: str, args: list[str]) -> int:
    """Run a command of `MODULES`; the exit code."""
    return _run(MODULES[name], name, about, args)


def _run(module_name: str, words: str, about: str, args: list[str]) -> int:
    import tyro

    module = importlib.import_module(f"siamscope.workflow.{module_name}")
    args = module.arguments(args) if hasattr(module, "arguments") else args
    default = module.default(args) if hasattr(module, "default") else None
    given = tyro.cli(module.Options, args=args, prog=f"siamscope {words}", description=f"{about}.", default=default)
    answer = module.run(given)
    print(answer.text)
    code: int = answer.code
    return code
