"""The directions of Li, Efros & Pathak 2022 (arXiv:2209.15007) on synthetic vectors. Torch-free.

At equal steps SimSiam collapses more the more data it has and the smaller its network is, and features that collapsed
more say less of the classes. Values depend on the machine, so that only directions and sizes of effects are judged.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from siamscope.claims.base import Ablation, Claim, Expected

NAME = "collapse"
SIZES, WIDTHS = (256, 4096, 65536), (8, 128)
CONTROLS = {"no-stop-gradient": "without stop-gradient", "no-predictor": "without predictor"}


@cache
def claims() -> tuple[Claim, ...]:
    """Size of the data, size of the network, accuracy, and the controls. Ids are unique."""
    return (*_data(), *_network(), _accuracy(), *_controls())


def differences() -> tuple[str, ...]:
    """What is otherwise than in the paper."""
    return ("vectors of 32 numbers and small networks instead of ImageNet and ResNets",)


def _one(id: str, sentence: str, experiment: str, measure: str, expected: Expected) -> Claim:
    return Claim(id, sentence, Ablation(f"vectors.{experiment}", measure), "minutes", expected=expected)


def _above(value: float, why: str = "") -> Expected:
    return Expected("at least", value, of="mean", why=why)


def _data() -> list[Claim]:
    out = []
    for width in WIDTHS:
        for few, many in pairwise(SIZES):
            out.append(
                _one(
                    f"data.{width}.{many}", f"width {width}: AUC of {many:,} vectors less that of {few:,}", "sizes",
                    f"data.{width}.{many}", _above(0.0, "more data, more collapse"),
                )
            )  # fmt: skip
        out.append(
            _one(
                f"data.{width}", f"width {width}: AUC of {SIZES[-1]:,} vectors less that of {SIZES[0]:,}", "sizes",
                f"data.{width}", _above(0.05, "beyond the spread of seeds"),
            )
        )  # fmt: skip
    return out


def _network() -> list[Claim]:
    small, large = WIDTHS
    return [
        _one(
            f"network.{n}", f"{n:,} vectors: AUC of width {small} less that of width {large}", "sizes", f"network.{n}",
            _above(0.0, "a smaller network collapses more"),
        )
        for n in SIZES
    ]  # fmt: skip


def _accuracy() -> Claim:
    expected = Expected("at most", -0.6, why="a higher AUC, a lower accuracy")
    return _one("accuracy", "rank correlation of AUC and probe accuracy over all runs", "sizes", "accuracy", expected)


def _controls() -> list[Claim]:
    out = [
        _one("control.std", "SimSiam: std x sqrt(d) of the outputs", "controls", "std", Expected("at least", 0.9)),
        _one("control.auc", "SimSiam: AUC of the outputs", "controls", "auc", Expected("at most", 0.95)),
    ]
    for name, words in CONTROLS.items():
        out += [
            _one(f"control.{name}.std", f"{words}: std x sqrt(d)", "controls", f"{name}.std", Expected("at most", 0.3)),
            _one(f"control.{name}.auc", f"{words}: AUC", "controls", f"{name}.auc", Expected("at least", 0.99)),
        ]
    return out
