"""From features to a `Diagnosis`: which scores can be had, their values, intervals and flags."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from siamscope.collapse import baseline, geometry, intervals, intrinsic
from siamscope.collapse.arrays import Array, require_matrix, require_numbers, to_float64, unit_rows
from siamscope.collapse.card import Diagnosis, Score
from siamscope.collapse.definitions import DEFINITIONS
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.health import SAMPLES_PER_DIMENSION, Vitals, assess
from siamscope.collapse.lidar import WHAT, lidar
from siamscope.collapse.moments import DEFAULT, SPECTRAL, Conventions, Moments, moment_scores, moments, spectral_score
from siamscope.collapse.scores import auc, effective_rank
from siamscope.collapse.spectral import alpha_req, dead_directions
from siamscope.collapse.spectrum import Spectrum, TooFewSamples, one_point

IntervalBy: TypeAlias = Literal["jackknife", "bootstrap", "none"]

COARSE = 1e-4
"""Rounding of the features' number format, as a share of their spread, that is worth a note."""
_TOLERANCE = 1e-9  # relative: what the last digits may add to a bound


def diagnose(
    features: Array | Moments | Iterable[Array],
    *,
    views: Array | None = None,
    groups: npt.ArrayLike | None = None,
    only: Sequence[str] | None = None,
    slow: bool = False,
    interval: IntervalBy = "jackknife",
    level: float = intervals.LEVEL,
    seed: int = 0,
    row_norm: bool = False,
    conventions: Conventions = DEFAULT,
) -> Diagnosis:
    """Every label-free score of `features`, as far as what is given allows; see `DEFINITIONS` for what they are.

    Constant rows are complete collapse: scores then have the values that `DEFINITIONS` says, with a flag, or none.

    Args:
        features: (N, d), N >= 2, array, memory map or tensor: pooled backbone features in eval mode, of images without
            augmentation. Or `Moments`, or an iterable of blocks of rows: then there is one pass only, and scores that
            look at rows again (needs "features") and intervals are left out.
        views: (n, q, d), q views of each of n images, for LiDAR and alignment.
        groups: (N,) which image each row is a view of, where several are; for the intervals.
        only: names of the scores wanted, slow ones among them. By default all that are not slow.
        slow: also LiDAR, TwoNN and CLID's learnability.
        interval: how intervals are made of all scores of one pass, or none; of LiDAR and alignment by the jackknife.
        level: of the intervals.
        seed: of blocks, draws and samples of rows.
        row_norm: divide rows by their norm first.
        conventions: centring, eps and range.

    Raises:
        CollapseError: wrong shapes, N < 2, NaN or infinity, an unknown score, or one that needs what is not given.
    """
    if interval not in get_args(IntervalBy):
        raise CollapseError(f"interval={interval!r}: choose one of {', '.join(get_args(IntervalBy))}.")
    rows = features if hasattr(features, "shape") else None
    if rows is not None:
        require_matrix(rows, "the feature matrix")
    names = _wanted(only, slow, rows is not None, views is not None)
    state = features if isinstance(features, Moments) else moments(features, row_norm=row_norm)
    if state.row_norm != row_norm:
        raise CollapseError(f"these moments were gathered with row_norm={state.row_norm}; give the same here.")
    spectra = state.spectra()
    point = state.is_constant()
    if point:
        found = {name: _at_a_point(name) for name in names if DEFINITIONS[name].needs != "views"}
    else:
        found = _of_moments(state, spectra, names, conventions) | _of_rows(rows, names, seed, state)
    if interval != "none" and not point and rows is not None and state.n >= intervals.SAMPLES_PER_DIMENSION * state.d:
        wanted = [name for name in found if DEFINITIONS[name].needs == "spectrum"]

        def statistics(part: Moments) -> dict[str, float]:
            scores = moment_scores(part, conventions)
            return {name: scores[name] for name in wanted}

        estimate = intervals.jackknife if interval == "jackknife" else intervals.bootstrap
        given = estimate(rows, statistics, state, groups=groups, level=level, seed=seed)
        found = {name: replace(score, interval=given.get(name)) for name, score in found.items()}
    if views is not None and _one_view(views, state.d):
        found |= {name: _at_a_point(name) for name in names if DEFINITIONS[name].needs == "views"}
    else:
        found |= _of_views(views, names, level if interval != "none" else None, seed)
    shape = None if views is None else tuple(int(k) for k in views.shape)
    centred, uncentred = spectra
    vitals = _vitals(state, centred, point)
    health = assess(None, vitals)
    return Diagnosis(
        n=state.n,
        d=state.d,
        scores={name: _bounded(found[name], state, shape, conventions) for name in DEFINITIONS if name in found},
        spectrum=centred if conventions.center else uncentred,
        dead_columns=tuple(np.flatnonzero(state.variances() == 0).tolist()),
        dead_directions=dead_directions(centred),
        baseline=baseline.isotropic(state.n, state.d, center=conventions.center),
        status="complete collapse" if point else health.status,
        health=health,
        vitals=vitals,
        notes=tuple(_notes(state, point, interval != "none", rows is not None)),
        conventions=conventions,
        row_norm=row_norm,
        dtype=state.dtype,
        seed=seed,
        views=shape,
    )


def _wanted(only: Sequence[str] | None, slow: bool, rows: bool, views: bool) -> list[str]:
    """Names of the scores to compute, in the order of `DEFINITIONS`."""
    missing = {
        "spectrum": "",
        "features": "" if rows else "the rows themselves, not a stream of blocks or their moments",
    }
    missing["views"] = "" if views else "several views of every image: give views (n, q, d)"
    if only is None:
        return [name for name, about in DEFINITIONS.items() if not missing[about.needs] and (slow or not about.slow)]
    for name in only:
        if name not in DEFINITIONS:
            raise CollapseError(f"there is no score {name!r}; choose from {', '.join(DEFINITIONS)}.")
        if missing[DEFINITIONS[name].needs]:
            raise CollapseError(f"{name} needs {missing[DEFINITIONS[name].needs]}.")
    return [name for name in DEFINITIONS if name in only]


def _one_view(views: Array, d: int) -> bool:
    """Whether all views of all images are one point. Raises CollapseError on NaN, infinity or a wrong shape."""
    require_numbers(views, WHAT)
    if len(views.shape) != 3 or views.shape[2] != d:
        raise CollapseError(f"{WHAT} have shape {tuple(views.shape)}; expected (images, views, {d}), as the features.")
    return one_point(views.reshape(-1, d), WHAT)


def _at_a_point(name: str) -> Score:
    value = DEFINITIONS[name].at_a_point
    word = "undefined" if value is None else "by convention"
    return Score(name, value, flags=(f"{word}: all rows are one point (complete collapse)",))


def _of_moments(
    state: Moments, spectra: tuple[Spectrum, Spectrum], names: Sequence[str], conventions: Conventions
) -> dict[str, Score]:
    """The scores of one pass."""
    others = {"self_cluster": state.self_cluster, "embedding_std": state.embedding_std}
    out = {}
    for name in names:
        if name == "alpha_req":
            out[name] = _alpha(spectra, conventions)
        elif name in SPECTRAL:
            out[name] = _tried(name, partial(spectral_score, name, *spectra, conventions))
        elif name in others:
            out[name] = _tried(name, others[name])
    return out


def _alpha(spectra: tuple[Spectrum, Spectrum], conventions: Conventions) -> Score:
    spectrum = spectra[0] if conventions.center else replace(spectra[1], center=True)
    try:
        law = alpha_req(spectrum, span=conventions.alpha_range)
    except CollapseError as error:
        return Score("alpha_req", None, flags=(str(error),))
    return Score("alpha_req", law.alpha, details={"fitted_on": [law.first, law.last], "r2": law.r2})


def _of_rows(rows: Array, names: Sequence[str], seed: int, state: Moments) -> dict[str, Score]:
    """The scores that look at the rows again."""
    if rows is None or not any(DEFINITIONS[name].needs == "features" for name in names):
        return {}
    unit = state.row_norm

    def drawn(most: int) -> Array:
        """As many rows as the score looks at."""
        return unit_rows(to_float64(geometry.sample_rows(rows, most, seed))) if unit else rows

    ways: dict[str, Callable[[], float]] = {
        "coherence": lambda: geometry.coherence(rows, moment=state.second_moment(), row_norm=unit),
        "uniformity": lambda: geometry.uniformity(rows, seed=seed),
        "twonn": lambda: intrinsic.twonn(drawn(intrinsic.MOST), seed=seed),
        "clid_learnability": lambda: intrinsic.clid_learnability(drawn(intrinsic.MOST), seed=seed),
    }
    return {name: _tried(name, ways[name]) for name in names if name in ways}


def _of_views(views: Array, names: Sequence[str], level: float | None, seed: int) -> dict[str, Score]:
    """The scores of views (n, q, d), with intervals over images unless `level` is None."""
    ways: dict[str, Callable[[Array], float]] = {
        "lidar": lidar,
        "alignment": geometry.views_alignment,
    }
    out = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewSamples)  # `_bounded` and the definition say it
        for name in names:
            if name not in ways:
                continue
            out[name] = _tried(name, partial(ways[name], views))
            if out[name].value is not None and level is not None and views.shape[0] >= intervals.BLOCKS:
                given = intervals.leave_out(views, ways[name], level=level, seed=seed)
                out[name] = replace(out[name], interval=given)
    return out


def _tried(name: str, score: Callable[[], float]) -> Score:
    try:
        return Score(name, score())
    except CollapseError as error:
        return Score(name, None, flags=(str(error),))


def _bounded(score: Score, state: Moments, views: tuple[int, ...] | None, how: Conventions) -> Score:
    """With its range, a flag if it is outside, and an interval that ends where the range ends."""
    about = DEFINITIONS[score.name]
    of_views = about.needs == "views" and views is not None
    n = state.n + (about.centring == "centred" and not how.center)  # centring costs a rank
    low, high = about.bounds(views[0], views[-1]) if of_views and views else about.bounds(n, state.d)
    score = replace(score, bounds=(low, high))
    if score.value is None:
        return score
    slack = _TOLERANCE * max(abs(score.value), 1.0)
    if not low - slack <= score.value <= high + slack:
        why = f"out of its range: {score.value:.10g} is not from {low:.6g} to {high:.6g}"
        return replace(score, flags=(*score.flags, f"{why}; {about.eps}" if about.eps else why))
    if score.interval is None:
        return score
    given = replace(score.interval, low=max(score.interval.low, low), high=min(score.interval.high, high))
    if abs(given.bias) <= 2 * given.error:
        return replace(score, interval=given)
    flag = f"biased by the size of the sample: many more rows would give about {score.value - given.bias:.4g}"
    return replace(score, interval=given, flags=(*score.flags, flag))


def _vitals(state: Moments, centred: Spectrum, point: bool) -> Vitals:
    if point:
        return Vitals(0.0, 1.0, 1.0, state.n, state.d)
    sigma = centred.singular_values
    return Vitals(state.embedding_std(), effective_rank(sigma), auc(sigma), state.n, state.d)


def _notes(state: Moments, point: bool, wanted: bool, rows: bool) -> list[str]:
    out = []
    n, d = state.n, state.d
    if n < SAMPLES_PER_DIMENSION * d:
        even = baseline.isotropic(n, d)
        out.append(
            f"N = {n} is less than {SAMPLES_PER_DIMENSION} d = {SAMPLES_PER_DIMENSION * d}: even equal variance in all "
            f"directions would read AUC {even.auc_sigma:.3f} (true: {(d + 1) / (2 * d):.3f}) and effective rank "
            f"{even.effective_rank:.1f} of {d}"
        )
    dead = int((state.variances() == 0).sum())
    if dead and not point:
        out.append(f"{dead} of {d} columns are constant; they count in d, and raise AUC")
    if not point and state.noise() > COARSE:
        out.append(
            f"the rounding of {state.dtype} is {state.noise():.1g} of the features' spread about their common offset: "
            "small directions are noise; centre the features before they are stored"
        )
    if point and float(state.variances().sum()) > 0:
        out.append(f"the rows differ by no more than the rounding of {state.dtype}")
    if wanted and not rows:
        out.append("no intervals: a stream is read once")
    elif wanted and not point and n < max(intervals.SAMPLES_PER_DIMENSION * d, 3):
        least = f"{intervals.SAMPLES_PER_DIMENSION} d" if d > 1 else "3"
        out.append(f"no intervals of the spectral scores: they need at least {least} rows")
    return out
