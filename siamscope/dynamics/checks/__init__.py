"""Theorems as checks: every claim of the theory on fresh random configurations, with its residual and its bound.

>>> from siamscope.dynamics import checks
>>> [row.passed for row in checks.run("A7,A7.sign", seed=3)]
[True, True]

A claim that is wrong as printed appears as an "erratum": its residual must be *above* the bound. The right form stands
beside it as a theorem. Numbers in brackets are equations of Tian, Chen & Ganguli 2021 (arXiv:2102.06810).
"""

from siamscope.dynamics.checks import alignment, balance, learning, modes, predictors, samples, stop_gradient
from siamscope.dynamics.checks.registry import Claim, Experiment, Row, run_all

__all__ = ["EXPERIMENTS", "Claim", "Experiment", "Row", "ids", "run"]

EXPERIMENTS: tuple[Experiment, ...] = tuple(
    experiment
    for module in (balance, stop_gradient, alignment, modes, learning, predictors, samples)
    for experiment in module.EXPERIMENTS
)


def ids() -> list[str]:
    """The ids of all claims, in the order of the table."""
    return [claim.id for experiment in EXPERIMENTS for claim in experiment.claims]


def run(only: str = "*", *, seed: int = 0, configurations: int = 5) -> list[Row]:
    """Check the claims whose id matches one of the patterns in `only` (commas between), as "A3*,A7".

    Each has its own stream of random numbers from `seed`: what is left out changes nothing for the rest.

    Raises:
        DynamicsError: nothing matches, `only` is no text, seed below 0, configurations below 1.
    """
    return run_all(EXPERIMENTS, only, seed, configurations)
