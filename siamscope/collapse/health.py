"""A verdict in words on a representation, from label-free numbers alone.

The rules are few and written out below as named constants. They were set on measured runs: an MLP encoder on synthetic
vectors, 64 or 512 embedding dimensions, eight objectives, 1,500-3,000 steps, eval mode, 8,000 held-out samples:

| run | embedding std | embedding rank (d=64 / 512) | feature rank (d=64) |
|---|---|---|---|
| SimSiam, BYOL, SimCLR, VICReg, Barlow Twins | .80-.98 | 10-25 / 44-54 | 18-45 |
| the same, after 20-100 steps | .77-.99 | 7-36 / 50-88 | 22-52 |
| no stop-gradient, with or without a predictor | .14-.19 | 1.1-1.3 / 1.6 | 5.6-9.4 |
| no predictor | .39 | 2.8 | 9.5 |
| SimSiam, weight decay or rate too high | **.97** | **1.9-2.2** | **2.2-2.9** |
| untrained, before any step (eval mode) | .05-.06 | 6-23 / 32 | 5-40 |

Three things follow. The embedding std sees only complete collapse: the over-decayed runs look perfect to it. AUC has no
threshold that holds for every d (healthy SimSiam reads .88 at d=64 and .964 at d=512, where "above .95" would cry
collapse), but the effective rank, a number of directions, has. And an untrained network in eval mode looks collapsed,
because batch normalisation has not yet settled; it must not be judged.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

from siamscope.collapse.arrays import Array
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.scores import auc, effective_rank, embedding_std
from siamscope.collapse.spectrum import TooFewSamples, spectrum

Status = Literal["healthy", "partial collapse", "collapse", "too early", "too few samples"]

# Embedding std x sqrt(d). Measured: collapsed at most .19, healthy at least .77.
COLLAPSED_STD = 0.3
# The cloud is shrinking: runs without stop-gradient passed through .54-.48 on their way down.
SHRUNKEN_STD = 0.5
# Effective rank, in directions. Measured: collapsed at most 2.9, healthy at least 7.
COLLAPSED_RANK = 3.0
# Runs on their way to collapse pass through 3-6; the poorest healthy one had 7.2.
LOW_RANK = 6.0
# Feature rank over the untrained network's. Measured: healthy at least .68, collapsed at most .35.
LOST_RANK = 0.5
# Training steps for batch-norm statistics to forget their start: .9^50 = .005.
SETTLING_STEPS = 50
# With fewer, sampling alone moves AUC by more than .01.
SAMPLES_PER_DIMENSION = 16


@dataclass(frozen=True)
class Vitals:
    """Label-free numbers of one set of embeddings or features, measured in eval mode on images without augmentation.

    Attributes:
        embedding_std: `scores.embedding_std`.
        effective_rank, auc: of the centred spectrum.
        n, d: samples and dimensions.
    """

    embedding_std: float
    effective_rank: float
    auc: float
    n: int
    d: int


@dataclass(frozen=True)
class Health:
    """A verdict, why, what to try, and what to know about the figures. `str()` gives one line."""

    status: Status
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.status}: {self.reasons[0]}" if self.reasons else self.status


def measure(features: Array) -> Vitals:
    """`Vitals` of `features` (N, d), an array or a tensor, N >= 2.

    Raises CollapseError on NaN, infinity or a wrong shape.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewSamples)  # `assess` says it in words
        values = spectrum(features)
    sigma = values.singular_values
    return Vitals(embedding_std(features), effective_rank(sigma), auc(sigma), values.n, values.d)


def assess(
    embeddings: Vitals | None,
    features: Vitals | None = None,
    *,
    untrained_features: Vitals | None = None,
    step: int | None = None,
) -> Health:
    """Verdict on a run from its embeddings (projector output) and, if given, its backbone features.

    The worst finding decides:

    - *collapse*: embedding std < .3 (one point), or effective rank of embeddings or features < 3 (a line or a plane);
    - *partial collapse*: embedding std < .5, or effective rank of either < 6, or that of the features less than half of
      the untrained network's;
    - *too early*: fewer than 50 training steps, when neither verdict can be given;
    - *too few samples*: at most 6, in as many dimensions or more: they could not show a rank of 6 if there were one;
    - *healthy* otherwise. It means: not collapsed. It does not promise accuracy.

    In few dimensions, or from few samples, the rank thresholds shrink with the highest possible rank m = min(d, n - 1):
    to 1 + (m - 1)/5 and 1 + 2(m - 1)/5 where these are less than 3 and 6.

    Args:
        embeddings: of the projector's output (or whatever the loss compares); None where only an encoder is left. Then
            the rules on embeddings fall away: features may share a large common part, as after a ReLU.
        features: of the backbone's pooled output.
        untrained_features: the same before training; tells "lost what it had" from "never had it".
        step: training steps done; None for a finished run.
    """
    if step is not None and step < SETTLING_STEPS:
        return Health(
            "too early",
            (f"{step} steps: batch-norm statistics need about {SETTLING_STEPS} to settle before they can be judged",),
            (),
        )
    if embeddings is None and features is None:
        raise CollapseError("there is nothing to assess: give vitals of embeddings, of features, or of both.")
    findings = [] if embeddings is None else [*_of_spread(embeddings), *_of_rank(embeddings, "embeddings")]
    if features is not None:
        findings += [*_of_rank(features, "backbone features"), *_of_loss(features, untrained_features)]
    status: Status = "healthy"
    if findings:
        status = "collapse" if any(f.complete for f in findings) else "partial collapse"
    elif few := [v for v in (embeddings, features) if v is not None and v.n - 1 < min(v.d, LOW_RANK)]:
        v = min(few, key=lambda v: v.n)
        reason = f"{v.n} samples can vary along {v.n - 1} of {v.d} directions at most, which tells nothing"
        return Health("too few samples", (reason,), (f"take at least {SAMPLES_PER_DIMENSION} samples per dimension",))
    findings.sort(key=lambda f: not f.complete)
    reasons = [f.reason for f in findings]
    if not reasons:
        shown = (embeddings, "embeddings") if embeddings is not None else (features, "backbone features")
        reasons = [_described(vitals, name) for vitals, name in (shown,) if vitals is not None]
    advice = [line for f in findings for line in f.advice]
    notes = [
        _few_samples(vitals, name)
        for vitals, name in ((embeddings, "embeddings"), (features, "backbone features"))
        if vitals is not None and vitals.n < SAMPLES_PER_DIMENSION * vitals.d
    ]
    return Health(status, tuple(reasons), tuple(dict.fromkeys(advice)), tuple(notes))


MISSING_BRAKE = (
    "check that the target branch is detached (stop-gradient) or a momentum copy, and that the predictor is trained: "
    "removing either reproduces this",
)
LOST_DIRECTIONS = (
    "lower the weight decay or the learning rate: too high, they flatten the representation while loss and embedding "
    "std look healthy",
    "try a momentum target, or an objective that spreads dimensions (VICReg, Barlow Twins, SimCLR)",
)
SMALL_MODEL = ("try a wider encoder: models too small for their data set lose dimensions first (Li et al. 2022)",)


@dataclass(frozen=True)
class _Finding:
    complete: bool
    reason: str
    advice: tuple[str, ...]


def rank_thresholds(d: int, n: int) -> tuple[float, float]:
    """Effective ranks below which (d-dimensional, n samples) counts as collapse, and as partial collapse."""
    if d < 1 or n < 2:
        raise CollapseError(f"vitals need d >= 1 and n >= 2, not d={d} and n={n}.")
    spare = min(d, n - 1) - 1
    return min(COLLAPSED_RANK, 1 + spare / 5), min(LOW_RANK, 1 + 2 * spare / 5)


def _of_spread(v: Vitals) -> list[_Finding]:
    if v.embedding_std < COLLAPSED_STD:
        reason = f"embeddings lie at nearly one point: std x sqrt(d) is {v.embedding_std:.2f}, below {COLLAPSED_STD}"
        return [_Finding(True, reason, MISSING_BRAKE)]
    if v.embedding_std < SHRUNKEN_STD:
        reason = f"embeddings crowd together: std x sqrt(d) is {v.embedding_std:.2f}, below {SHRUNKEN_STD}"
        return [_Finding(False, reason, MISSING_BRAKE)]
    return []


def _of_rank(v: Vitals, name: str) -> list[_Finding]:
    collapsed, low = rank_thresholds(v.d, v.n)
    if v.effective_rank >= low:
        return []
    complete = v.effective_rank < collapsed
    limit = collapsed if complete else low
    return [_Finding(complete, f"{_described(v, name)}, below {limit:.3g}", LOST_DIRECTIONS + SMALL_MODEL)]


def _of_loss(v: Vitals, untrained: Vitals | None) -> list[_Finding]:
    if untrained is None or v.effective_rank >= LOST_RANK * untrained.effective_rank:
        return []
    reason = (
        f"training lost directions: the backbone features had effective rank {untrained.effective_rank:.1f} before "
        f"it and have {v.effective_rank:.1f} now"
    )
    return [_Finding(False, reason, LOST_DIRECTIONS + SMALL_MODEL)]


def _described(v: Vitals, name: str) -> str:
    return f"{name} vary along {v.effective_rank:.1f} of {v.d} directions (effective rank; AUC {v.auc:.3f})"


def _few_samples(v: Vitals, name: str) -> str:
    return (
        f"{name} were measured on {v.n} samples in {v.d} dimensions, so their true rank is higher and their AUC lower "
        f"than reported; {SAMPLES_PER_DIMENSION} samples per dimension would settle it"
    )
