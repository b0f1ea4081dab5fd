"""Everything that one pass over the rows gives, in O(d^2) memory: mean and scatter of the rows and of the unit rows.

A `Moments` can be fed block by block (an iterator, a memory map, a training loop), merged, and summed over processes;
from it come all spectral scores, SelfCluster and the embedding std.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from siamscope.collapse.arrays import (
    Array,
    Float64,
    detached,
    in_blocks,
    like,
    number_format,
    require_matrix,
    rounding_of,
    to_numpy,
)
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.scores import auc, effective_rank, embedding_std
from siamscope.collapse.spectral import (
    ALPHA_RANGE,
    RANKME_EPS,
    alpha_req,
    nesum,
    participation_ratio,
    participation_ratio_corrected,
    pseudo_condition,
    rankme,
    stable_rank,
)
from siamscope.collapse.spectrum import CovarianceState, Spectrum, TooFewSamples, spectrum


@dataclass(frozen=True)
class Conventions:
    """How spectral scores are taken.

    Attributes:
        center: False takes the uncentred spectrum also for scores that are defined on the centred one.
        eps: of RankMe.
        alpha_range: indices, from 1 and inclusive, that alpha-ReQ is fitted on.
    """

    center: bool = True
    eps: float = RANKME_EPS
    alpha_range: tuple[int, int] = ALPHA_RANGE


DEFAULT = Conventions()

FORMATS = (
    "bfloat16", "float16", "float32", "float64",
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
)  # fmt: skip
"""Number formats of rows, the coarsest first; whole numbers have no rounding."""


class Moments:
    """A stream of rows (B, d): `CovarianceState` of the rows, and of the rows divided by their norms.

    Attributes:
        raw: of the rows as they came; of the unit rows, if `row_norm`.
        unit: of the unit rows; the same object as `raw`, if `row_norm`.
        row_norm: whether spectra shall be those of unit rows.
        dtype: number format of the rows; of the coarsest, if they differ.
        rounding: its largest relative rounding error; 0 for whole numbers.
    """

    def __init__(self, d: int, *, row_norm: bool = False, reference: Array = None) -> None:
        """Nothing seen yet. `reference`: as of `CovarianceState`."""
        self.raw = CovarianceState(d, reference=reference)
        self.unit = self.raw if row_norm else CovarianceState(d, reference=reference)
        self.row_norm = row_norm
        self.dtype, self.rounding = "", 0.0

    @property
    def n(self) -> int:
        return self.raw.n

    @property
    def d(self) -> int:
        return self.raw.d

    def update(self, rows: Array) -> "Moments":
        """Add `rows` (B, d), array or tensor, B >= 0; CollapseError on NaN, infinity, wrong shape. Returns self."""
        require_matrix(rows, "a batch of features")
        self._note(*number_format(rows))
        rows = detached(rows)
        for block in in_blocks(rows):
            if not self.row_norm:
                self.raw.update(block)
            self.unit.update(block, unit=True)
        return self

    def _note(self, dtype: str, rounding: float) -> None:
        if not self.dtype or rounding > self.rounding:
            self.dtype, self.rounding = dtype, rounding

    def merge(self, other: "Moments") -> "Moments":
        """Add all that `other` has seen. Returns self."""
        if other.row_norm != self.row_norm:
            raise CollapseError("cannot merge moments of rows and moments of unit rows.")
        self._note(other.dtype, other.rounding)
        self.raw.merge(other.raw)
        if not self.row_norm:
            self.unit.merge(other.unit)
        return self

    def all_reduce(self, reduce: Callable[[Array], Array]) -> "Moments":
        """Replace this by the moments of all processes; see `CovarianceState.all_reduce`. Returns self.

        One round more than there: all processes must know the coarsest number format, also one that saw no row.
        """
        mine = np.asarray([float(name == self.dtype) for name in FORMATS])
        seen = to_numpy(reduce(like(mine, self.raw.mean)))
        self.dtype = next((name for name, count in zip(FORMATS, seen, strict=True) if count > 0), self.dtype)
        self.rounding = rounding_of(self.dtype)
        self.raw.all_reduce(reduce)
        if not self.row_norm:
            self.unit.all_reduce(reduce)
        return self

    def without(self, part: "Moments") -> "Moments":
        """What is left when `part`, which must be a smaller share of the same rows, is taken away. A new object."""
        rest = Moments(self.d, row_norm=self.row_norm)
        rest._note(self.dtype, self.rounding)
        rest.raw = _without(self.raw, part.raw)
        rest.unit = rest.raw if self.row_norm else _without(self.unit, part.unit)
        return rest

    def spectra(self) -> tuple[Spectrum, Spectrum]:
        """The centred and the uncentred spectrum, exactly those of one point if `is_constant`.

        Raises CollapseError for fewer than two rows.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TooFewSamples)  # whoever shows the scores says it once
            return (
                self.raw.spectrum(center=True, row_norm=self.row_norm, rounding=self.rounding),
                self.raw.spectrum(center=False, row_norm=self.row_norm, rounding=self.rounding),
            )

    def variances(self) -> Float64:
        """(d,) variance of every column (divisor n); exactly 0 for a constant one."""
        m2 = self.raw.m2
        diagonal: Float64 = np.clip(to_numpy(m2.diagonal()), 0, None) / max(self.n, 1)
        return diagonal

    def second_moment(self) -> Float64:
        """(d, d) sum of x x^T over the rows, not centred."""
        return _second_moment(self.raw)

    def noise(self) -> float:
        """Rounding of the rows' number format over their spread; 0 for whole numbers, infinite for no spread."""
        spread = math.sqrt(float(self.variances().sum()))
        if spread == 0:
            return math.inf
        return self.rounding * float(np.linalg.norm(to_numpy(self.raw.mean))) / spread

    def is_constant(self) -> bool:
        """Whether the rows are one point, up to the rounding of their number format: complete collapse."""
        return self.raw.is_point(self.rounding)

    def embedding_std(self) -> float:
        """`scores.embedding_std` of all rows seen."""
        if self.n < 2:
            raise CollapseError(f"a standard deviation needs at least 2 samples, not {self.n}.")
        variances = np.clip(to_numpy(self.unit.m2.diagonal()), 0, None) / (self.n - 1)
        return float(np.sqrt(variances).mean()) * math.sqrt(self.d)

    def self_cluster(self) -> float:
        """`geometry.self_cluster` of all rows seen: zero rows, which add nothing to U^T U, are left out."""
        moment = _second_moment(self.unit)
        n, d = round(float(np.trace(moment))), self.d
        if n < 2 or d == 1:
            return 1.0
        expected = n + n * (n - 1) / d
        return (float((moment * moment).sum()) - expected) / (n * n - expected)


def moments(features: Array | Iterable[Array], *, row_norm: bool = False) -> Moments:
    """`Moments` of a matrix (N, d), which may be a memory map, or of an iterable of such blocks, in one pass.

    Raises:
        CollapseError: wrong shapes, NaN or infinity, or no block at all.
    """
    if hasattr(features, "shape"):
        require_matrix(features, "the feature matrix")
        return Moments(features.shape[1], row_norm=row_norm).update(features)
    state: Moments | None = None
    for block in features:
        require_matrix(block, "a batch of features")
        state = Moments(block.shape[1], row_norm=row_norm) if state is None else state
        state.update(block)
    if state is None:
        raise CollapseError("there are no features: the iterable of blocks is empty.")
    return state


def moment_scores(state: Moments, conventions: Conventions = DEFAULT) -> dict[str, float]:
    """All scores of one pass by their names; NaN for those that have no value, such as alpha-ReQ in few dimensions."""
    return spectral_scores(*state.spectra(), conventions) | {
        "self_cluster": state.self_cluster(),
        "embedding_std": state.embedding_std(),
    }


def spectral_scores(centred: Spectrum, uncentred: Spectrum, conventions: Conventions = DEFAULT) -> dict[str, float]:
    """The scores of the two spectra of one set of features; NaN for those that have no value."""
    return {name: _or_nan(name, centred, uncentred, conventions) for name in SPECTRAL}


def spectral_score(name: str, centred: Spectrum, uncentred: Spectrum, conventions: Conventions = DEFAULT) -> float:
    """One of `spectral_scores`. Raises CollapseError where it has no value, and says why."""
    if not conventions.center:
        centred = replace(uncentred, center=True)  # as was asked for: the scores would refuse it otherwise
    return SPECTRAL[name](centred, uncentred, conventions)


SPECTRAL: dict[str, Callable[[Spectrum, Spectrum, Conventions], float]] = {
    "auc_sigma": lambda centred, _, how: auc(centred.singular_values),
    "auc_lambda": lambda centred, _, how: auc(centred.singular_values, of="lambda"),
    "effective_rank": lambda centred, _, how: effective_rank(centred.singular_values),
    "rankme": lambda _, uncentred, how: rankme(uncentred, eps=how.eps),
    "alpha_req": lambda centred, _, how: alpha_req(centred, span=how.alpha_range).alpha,
    "nesum": lambda centred, _, how: nesum(centred),
    "stable_rank": lambda _, uncentred, how: stable_rank(uncentred),
    "participation_ratio": lambda centred, _, how: participation_ratio(centred),
    "participation_ratio_corrected": lambda centred, _, how: participation_ratio_corrected(centred),
    "pseudo_condition": lambda _, uncentred, how: pseudo_condition(uncentred),
}

QUICK = (
    "auc_sigma",
    "auc_lambda",
    "effective_rank",
    "rankme",
    "nesum",
    "stable_rank",
    "participation_ratio",
    "embedding_std",
)


def quick(features: Array) -> dict[str, float]:
    """The cheap scores of `features` (N, d), array or tensor, N >= 2, in one pass: for monitors and tables of runs.

    auc_sigma, auc_lambda, effective_rank, nesum and participation_ratio of the centred features, rankme and stable_rank
    of the uncentred ones, and embedding_std. Identical rows: AUC 1, ranks 1, std 0.

    Raises:
        CollapseError: wrong shape, N < 2, NaN or infinity.
    """
    require_matrix(features, "the feature matrix")
    if 2 <= features.shape[0] < features.shape[1]:  # n x n matrices are then less work than d x d
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TooFewSamples)
            found = spectral_scores(spectrum(features), spectrum(features, center=False))
        found["embedding_std"] = embedding_std(features)
    else:
        found = moment_scores(moments(features))
    return {name: found[name] for name in QUICK}


def _or_nan(name: str, centred: Spectrum, uncentred: Spectrum, conventions: Conventions) -> float:
    try:
        return spectral_score(name, centred, uncentred, conventions)
    except CollapseError:
        return math.nan


def _second_moment(state: CovarianceState) -> Float64:
    mean = to_numpy(state.mean)
    moment: Float64 = to_numpy(state.m2) + state.n * np.outer(mean, mean)
    return moment


def _without(whole: CovarianceState, part: CovarianceState) -> CovarianceState:
    """Chan's merge backwards. It cancels no digits that matter while the part is small."""
    rest = CovarianceState(whole.d)
    n = whole.n - part.n
    mean, m2, mean_part, m2_part = map(to_numpy, (whole.mean, whole.m2, part.mean, part.m2))
    gap = mean_part - mean
    rest.n, rest.mean = n, mean - gap * (part.n / n)
    rest.m2 = m2 - m2_part - np.outer(gap, gap) * (part.n * whole.n / n)
    return rest
