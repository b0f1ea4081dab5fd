"""The commands of `siamscope dynamics`: parse, hand over, print."""

from __future__ import annotations

import importlib

COMMANDS = {
    "check": "every theorem, identity, threshold and erratum on random configurations",
    "portrait": "the plane of a mode: flow, nullclines, fixed points, basin of collapse",
    "modes": "the flow of one mode on its parabola, and its course in time",
    "sweep": "what weight decay, rates, noise and the moving average do to fixed points and basins",
    "alignment": "eigenspaces of predictor and correlation in time, against the theorem's bound",
    "threshold": "which features survive a weight decay: the theory's curve and simulated networks",
    "explore": "one page on which sliders move all of it; no network needed",
    "predict": "what the theory says of a run or a recipe, and how it came out",
}
"""Each is a module of `siamscope.workflow.dynamics` with `Options`, `run` and, where defaults depend on the command
line, `default`."""


def overview(about: str) -> str:
    """The text of `siamscope dynamics --help`."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return f"usage: siamscope dynamics COMMAND ...\n\n{about}.\n\ncommands:\n{lines}"


def run(name: str, args: list[str]) -> int:
    """Run a command of `COMMANDS`; the exit code."""
    import tyro

    module = importlib.import_module(f"siamscope.workflow.dynamics.{name}")
    default = module.default(args) if hasattr(module, "default") else None
    given = tyro.cli(
        module.Options, args=args, prog=f"siamscope dynamics {name}", description=COMMANDS[name] + ".", default=default
    )
    answer = module.run(given)
    print(answer.text)
    code: int = answer.code
    return code
