"""The theory of non-contrastive learning as something one can run: systems, solvers, solutions.

A *system* is a frozen dataclass of parameters with a right-hand side (`MatrixFlow`, `ReducedFlow`, `Modes`, `EMAModes`,
`Parabola`, `ScalarNetwork`, `SetModes`, `SetFlow`). A *solver* takes it from a start to an end: `solve` one trajectory,
`solve_many` a batch. What comes back is a `Solution` or an `Ensemble`. `LinearSGD` trains the same network on samples.

What is built on these: `checks` (every claim as a number), `prediction` and `joint` (the modes of real data), and what
the figures draw: `portrait` and `plane`, `weights`, `courses`, `sweeps`, `alignment`, `thresholds`.

numpy and scipy only, float64; knows no other room.
"""

from siamscope.dynamics.anisotropic import ScalarNetwork, fixed_points, jacobian, multiplicative
from siamscope.dynamics.directset import (
    SetFlow,
    SetModes,
    SetRule,
    SubspaceTheorem,
    apply_rule,
    largest_decay,
    largest_noise,
)
from siamscope.dynamics.errors import DynamicsError
from siamscope.dynamics.joint import InputModes, input_modes, joint_forecast
from siamscope.dynamics.matrix import MatrixFlow, gradients, hessian, objective, optimal_predictor, subspace
from siamscope.dynamics.modes import EMAModes, Modes, Parabola, ema_share
from siamscope.dynamics.prediction import ModeForecast, NetworkModes, forecast, network_modes
from siamscope.dynamics.reduced import ReducedFlow
from siamscope.dynamics.separatrix import separatrix
from siamscope.dynamics.sgd import LinearSGD, Rates, Trained, rates
from siamscope.dynamics.solution import STATUSES, Ensemble, Solution, Stats
from siamscope.dynamics.solve import Adaptive, Euler, Steady, solve
from siamscope.dynamics.systems import Layout, System
from siamscope.dynamics.vectorised import Settled, solve_many

__all__ = [
    "STATUSES",
    "Adaptive",
    "DynamicsError",
    "EMAModes",
    "Ensemble",
    "Euler",
    "InputModes",
    "Layout",
    "LinearSGD",
    "MatrixFlow",
    "ModeForecast",
    "Modes",
    "NetworkModes",
    "Parabola",
    "Rates",
    "ReducedFlow",
    "ScalarNetwork",
    "SetFlow",
    "SetModes",
    "SetRule",
    "Settled",
    "Solution",
    "Stats",
    "Steady",
    "SubspaceTheorem",
    "System",
    "Trained",
    "apply_rule",
    "ema_share",
    "fixed_points",
    "forecast",
    "gradients",
    "hessian",
    "input_modes",
    "jacobian",
    "joint_forecast",
    "largest_decay",
    "largest_noise",
    "multiplicative",
    "network_modes",
    "objective",
    "optimal_predictor",
    "rates",
    "separatrix",
    "solve",
    "solve_many",
    "subspace",
]
