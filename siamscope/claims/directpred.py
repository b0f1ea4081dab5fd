"""The claims of Tian, Chen & Ganguli 2021 (DirectPred, arXiv:2102.06810). Torch-free.

Tables: `directpred.toml`, by `siamscope.claims.published`. The ablations run anywhere: a linear network on samples
(A21, A22), whose outcome the theory gives in numbers, and a small network on digits (A23), of which it gives the
direction.
"""

from __future__ import annotations

from functools import cache

from siamscope.claims import linear, published
from siamscope.claims.base import Ablation, Claim, Expected
from siamscope.claims.digits_table import EARLIER, TABLE

NAME = "directpred"


@cache
def claims() -> tuple[Claim, ...]:
    """All of them: ablations first, then tables, then directions. Ids are unique."""
    return (*_linear(), *_digits(), *published.load(NAME).claims)


def differences() -> tuple[str, ...]:
    """What the recipes of the tables do otherwise than the paper."""
    return published.load(NAME).differences


def _check(id: str, sentence: str, experiment: str, measure: str, expected: Expected | None, note: str = "") -> Claim:
    return Claim(id, sentence, Ablation(f"linear.{experiment}", measure), "seconds", expected=expected, note=note)


def _near(value: float, tolerance: float, why: str) -> Expected:
    return Expected("near", value, tolerance, why=why)


def _linear() -> tuple[Claim, ...]:
    size, set_size = round(linear.size(), 4), round(linear.set_size(), 4)
    gone = Expected("at most", 1e-3, why="collapse is complete in the flow")
    minibatch = "noise of minibatches"
    return (
        _check("A21.size", "|W P_S| ends at sqrt(r) p_+", "trained", "size", _near(size, 0.03, minibatch)),
        _check("A21.noise", "the noise dies: |W P_B| / |W P_S|", "trained", "noise", Expected("at most", 0.02)),
        _check("A21.rank", "F = W W^T has the rank of P_S", "trained", "rank", _near(linear.RANK, 0, "a count")),
        _check("A21.balance", "theorem 1: |W W^T - W_p^T W_p|", "trained", "balance",
               Expected("at most", 1e-3, why="a step of finite size")),
        _check("A21.alpha", "alpha_p = 5 with eta_p = eta: |W P_S| = sqrt(r) p_+ / sqrt(5)", "fast", "size",
               _near(round(size / 5**0.5, 4), 0.03, minibatch)),
        _check("A21.same-decay", "alpha_p = 5 with coupled decay, eta_p = 5 eta: |W P_S| as with alpha_p = 1", "fast",
               "coupled", _near(size, 0.03, minibatch)),
        _check("A21.directset", "DirectSet(1): |W P_S| ends at sqrt(r u_+)", "directset", "size",
               _near(set_size, 0.03, minibatch)),
        _check("A21.no-predictor", "without predictor: |W|", "no-predictor", "size", gone),
        _check("A21.no-stop-gradient", "without stop-gradient: |W|", "no-stop-gradient", "size", gone),
        _check("A21.decay", "eta = 0.3 > 1/4: |W|", "decay", "size", gone),
        _check("A21.weak-decay", "eta = 0.02 is below the noise's threshold: |W P_B| stays", "weak-decay", "noise",
               Expected("at least", 0.3)),
        _check("A22.trained", "small start, trained predictor: |W P_S| collapses", "small", "trained",
               Expected("at most", 1e-2)),
        _check("A22.directset", "the same start, DirectSet(1/2): |W P_S|", "small", "plain", Expected("at least", 1.0)),
        _check("A22.eps", "the same start: what eps = 0.1 adds", "small", "gain", Expected("at least", 0.0)),
        _check("A22.normal", "trained predictor, W and W_p normal times 0.05: |W P_S|", "normal", "size", None,
               "singular values of W reach 0.44, outside the basin of collapse"),
    )  # fmt: skip


_BOUNDS = {
    "directpred": Expected("at least", 0.4),
    "directcopy": Expected("at least", 0.5),
    "no-predictor": Expected("at most", 0.06),
    "no-predictor.noema": Expected("at most", 0.06),
    "no-predictor.long": Expected("at most", 0.06),
    "no-stop-gradient": Expected("at most", 0.06),
    "decay": Expected("at most", 0.06),
}


def _digits() -> tuple[Claim, ...]:
    lines = [
        Claim(f"A23.{name}", words, Ablation(f"digits.{name}", "std"), "minutes", expected=_BOUNDS.get(name),
              earlier=EARLIER.get(name), unit="std sqrt(d)")
        for name, (_, words) in TABLE.items()
    ]  # fmt: skip
    aligned = Claim(
        "A23.alignment", "DirectPred: cosine of u_j and W_p u_j, ten leading modes",
        Ablation("digits.directpred", "alignment"), "minutes", expected=Expected("at least", 0.98), earlier=0.997,
    )  # fmt: skip
    return (*lines, aligned, *_course())


def _course() -> tuple[Claim, ...]:
    """Row A24: eigenspaces turn towards each other, and the predictor towards symmetry, while BYOL trains."""

    def one(id: str, words: str, line: str, measure: str, expected: Expected, earlier: float | None = None) -> Claim:
        about = Ablation(f"digits.{line}", measure)
        return Claim(id, f"BYOL, linear predictor: {words}", about, "minutes", expected=expected, earlier=earlier)

    start = "as drawn: W is 32 x 32 normal-like, |W - W^T| / |W| about sqrt(2)"
    return (
        one("A24.start", "alignment before training", "untrained", "alignment", Expected("at most", 0.3), 0.171),
        one("A24.alignment", "after 60 epochs", "regular", "alignment", Expected("at least", 0.3), 0.443),
        one("A24.later", "after 200 epochs", "regular.long", "alignment", Expected("at least", 0.6), 0.72),
        one(
            "A24.asymmetric",
            "asymmetry before training",
            "untrained",
            "asymmetry",
            Expected("at least", 1.2, why=start),
        ),
        one(
            "A24.symmetric",
            "asymmetry after 200 epochs",
            "regular.long",
            "asymmetry",
            Expected("at most", 1.2, why="lower than before training"),
        ),
    )
