"""The lines of the digits table: settings and, from an earlier measurement, what to compare with. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from siamscope import methods
from siamscope.row import Head, Method

FEATURES, DIM = 128, 32


@dataclass(frozen=True)
class Settings:
    """A method's row and the optimiser.

    alpha_p: the predictor's rate over the encoder's.  weight_decay_p: the predictor's own; None: as the encoder's.
    Both decays are coupled, so that alpha_p scales the predictor's.
    """

    row: Method
    epochs: int = 60
    lr: float = 0.05
    weight_decay: float = 4e-4
    alpha_p: float = 1.0
    weight_decay_p: float | None = None
    batch: int = 130
    ema: float = 0.99


def row(predictor: Any, target: Any = "momentum", *, cells: dict[str, Any] | None = None, **options: Any) -> Method:
    """A row with this predictor (its `options`), target and further cells, and the heads of this network."""
    base = methods.get("directpred")
    return replace(
        base,
        predictor=predictor,
        target=target,
        projector=Head(layers=2, hidden=FEATURES, out=DIM),
        predictor_head=Head(layers=2, hidden=FEATURES, last_bias=False),
        predictor_options=replace(base.predictor_options, **options),
        **(cells or {}),
    )


_COPY: dict[str, Any] = {"rho": 0.5, "eps": 0.3}

TABLE: dict[str, tuple[Settings, str]] = {
    "untrained": (Settings(row("linear"), epochs=0), "weights as drawn; batch norm has seen the training images"),
    "regular": (Settings(row("linear")), "BYOL with a linear predictor"),
    "regular.long": (Settings(row("linear"), epochs=200), "BYOL with a linear predictor, 200 epochs"),
    "regular.noema": (Settings(row("linear", "detached")), "SimSiam with a linear predictor"),
    "bias": (Settings(row("linear", cells={"predictor_bias": True})), "linear predictor with bias"),
    "mlp": (Settings(row("mlp")), "predictor of two layers, hidden 128, batch norm"),
    "mlp.noema": (Settings(row("mlp", "detached")), "the same without moving average"),
    "symmetric": (Settings(row("symmetric")), "symmetric predictor"),
    "symmetric.noema": (Settings(row("symmetric", "detached")), "the same without moving average"),
    "directpred": (Settings(row("directpred")), "DirectPred, rho 0.3, eps 0.1"),
    "directpred.eps0": (Settings(row("directpred", eps=0.0)), "eps 0"),
    "directpred.freq5": (Settings(row("directpred", every=5)), "set every 5 steps, gradient steps in between"),
    "directpred.noema": (Settings(row("directpred", "detached")), "without moving average"),
    "directpred.c-plus10": (Settings(row("directpred", eps=0.0, shift=0.1)), "c_j = 0.1, eps 0"),
    "directpred.planes6": (Settings(row("directpred", partitions=6)), "a correlation on each side of 6 hyperplanes"),
    "directcopy": (Settings(row("directcopy", **_COPY)), "DirectCopy, rho 0.5, eps 0.3"),
    "directcopy.eps0": (Settings(row("directcopy", **_COPY | {"eps": 0.0})), "eps 0"),
    "optimal": (Settings(row("optimal", eps=0.01)), "predictor of least squares at every step"),
    "no-predictor": (Settings(row("none")), "no predictor"),
    "no-predictor.noema": (Settings(row("none", "detached")), "neither predictor nor moving average"),
    "no-predictor.long": (Settings(row("none"), epochs=200), "no predictor, 200 epochs"),
    "no-stop-gradient": (Settings(row("linear", "shared")), "linear predictor, the gradient flows into both branches"),
    "decay": (Settings(row("linear"), weight_decay=0.05), "weight decay 0.05, 125 times as much"),
    "decay.directpred": (Settings(row("directpred"), weight_decay=0.05), "the same with DirectPred"),
    "alpha5": (Settings(row("linear"), alpha_p=5.0), "alpha_p = 5"),
    "alpha5.noema": (Settings(row("linear", "detached"), alpha_p=5.0), "alpha_p = 5 without moving average"),
    "decay-p-only": (
        Settings(row("symmetric", "detached"), weight_decay=0.0, weight_decay_p=4e-4),
        "symmetric without moving average, decay of the predictor alone",
    ),
}  # fmt: skip
"""By name: settings, and what they are in words."""

EARLIER = {
    "untrained": 0.818, "regular": 0.123, "regular.long": 0.46, "symmetric": 0.182, "regular.noema": 0.082,
    "symmetric.noema": 0.114,
    "no-predictor": 0.032, "no-predictor.noema": 0.026, "no-predictor.long": 0.012, "no-stop-gradient": 0.024,
    "directpred": 0.572, "directpred.eps0": 0.519, "directpred.freq5": 0.550, "directpred.noema": 0.436,
    "directpred.c-plus10": 0.191, "directcopy": 0.649, "directcopy.eps0": 0.209,
}  # fmt: skip
"""std(z / |z|) sqrt(d) of a network of these widths trained elsewhere, three seeds; its views are not known."""
