"""Forecast of a probe's accuracy from label-free scores: least squares on few of them, fitted on runs that were probed.

Source: Li, Efros & Pathak 2022 (arXiv:2209.15007), who forecast without labels; Garrido et al. 2023 (RankMe) describe
it as the spectrum "in conjunction with the loss", with a regressor that needs some labelled runs. The paper's own
coefficients are not known here: accuracy = b0 + b1 AUC + b2 loss is fitted anew to every family of runs. Scores depend
on the dimension of the features and losses on the method, so runs that are compared must share both, or the features
must not depend on them. What a forecast is worth, its leave-one-out figures beside the baselines say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from siamscope.collapse.arrays import Float64
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.forecast_quality import Quality, compare, matrix, quality
from siamscope.collapse.least_squares import (
    GroupOut,
    LeastSquares,
    bootstrap,
    edge,
    explained,
    groups_out,
    solve,
)

BASELINES = ("loss", "auc_sigma")
"""Features that are always reported alone, where the runs have them; the mean of the targets is too."""


@dataclass(frozen=True)
class Expected:
    """What a forecast says of one run: a value and its prediction interval, or NaN and why not."""

    value: float
    low: float
    high: float
    leverage: float
    reason: str = ""


class Forecaster:
    """Ordinary (or ridge) least squares on few label-free scores, in the manner of scikit-learn.

    Args:
        features: names of the columns, in the order of an array's.
        alpha: ridge penalty on the standardised slopes; 0 = ordinary least squares.
        confidence: of all intervals.
        draws: of the bootstrap.
        strict: raise instead of answering NaN where a run lies outside what the fit has seen.
        seed: of bootstrap and shuffles.

    After `fit`: `coef_` (p,) and `intercept_` per unit of the features, `coef_interval_` (1 + p, 2) bootstrap
    percentiles (intercept first), `quality_`, `baselines_` (the mean first), `groups_`, `loo_` (n,) predictions of each
    run by the others.
    """

    def __init__(
        self,
        features: Sequence[str] = ("auc_sigma", "loss"),
        alpha: float = 0.0,
        confidence: float = 0.95,
        draws: int = 1000,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        self.features, self.alpha, self.confidence = features, alpha, confidence
        self.draws, self.strict, self.seed = draws, strict, seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {name: getattr(self, name) for name in _PARAMS}

    def set_params(self, **params: Any) -> Forecaster:
        """Change arguments of the constructor.

        Raises:
            CollapseError: an unknown one.
        """
        for name, value in params.items():
            if name not in _PARAMS:
                raise CollapseError(f"a forecaster has no parameter {name!r}; it has {', '.join(_PARAMS)}.")
            setattr(self, name, value)
        return self

    def fit(self, X: Any, y: Any, groups: Sequence[Any] | None = None) -> Forecaster:
        """Fit to n runs.

        Args:
            X: (n, p) array, or a mapping from names to (n,) columns, or n mappings from names to numbers; mappings may
                hold more than the features, and then loss and AUC are reported as baselines.
            y: (n,) accuracies.
            groups: (n,) such as architectures; each is left out in turn.

        Raises:
            CollapseError: fewer than p + 3 runs; NaN; a feature or target that does not vary; dependent features.
        """
        self._check()
        names = tuple(self.features)
        table = columns(X, names)
        target = _targets(y)
        x = matrix(table, names, len(target))
        if groups is not None and len(groups) != len(target):
            raise CollapseError(f"{len(groups)} groups were given for {len(target)} runs.")
        fit = solve(x, target, self.alpha, names)
        self._set(fit, x, target)
        self.groups_ = groups_out(x, target, groups, self.alpha, names) if groups is not None else []
        self.quality_ = quality(table, target, names, groups, self.alpha, self.seed)
        alone = dict.fromkeys([(name,) for name in (*BASELINES, *names) if _usable(table, name, len(target))])
        sets: list[tuple[str, ...]] = [(), *(single for single in alone if single != names)]
        self.baselines_ = compare(table, target, sets, groups, self.alpha, self.seed)
        return self

    def expect(self, X: Any) -> list[Expected]:
        """Value, prediction interval and leverage of each run, or why it is refused.

        The interval is Student's, y_hat +- t sigma sqrt(1 + h), for independent residuals of one size; of a ridge fit
        it is approximate.
        """
        x = _rows(columns(X, tuple(self.features)), tuple(self.features), self._fitted())
        out = [self._expected(row) for row in x]
        if self.strict and (refused := [(i, item) for i, item in enumerate(out) if item.reason]):
            raise CollapseError(f"run {refused[0][0]}: {refused[0][1].reason}.")
        return out

    def predict(self, X: Any) -> Float64:
        """(m,) expected accuracies; NaN where a run lies outside what the fit has seen (see `expect`).

        Raises:
            CollapseError: not fitted, columns missing; with `strict`, a run that is refused.
        """
        return np.array([item.value for item in self.expect(X)])

    def predict_interval(self, X: Any) -> Float64:
        """(m, 2) prediction intervals; NaN where `predict` is."""
        return np.array([[item.low, item.high] for item in self.expect(X)]).reshape(-1, 2)

    def score(self, X: Any, y: Any) -> float:
        """R^2 over the runs that are not refused; NaN of fewer than two."""
        target, predicted = _targets(y), self.predict(X)
        seen = np.isfinite(predicted)
        return explained(target[seen], predicted[seen]) if seen.sum() > 1 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON; NaN is None."""
        self._fitted()
        state = {name: getattr(self, f"{name}_").tolist() for name in _ARRAYS}
        return {
            "params": self.get_params() | {"features": list(self.features)},
            "state": state | {name: float(getattr(self, f"{name}_")) for name in _NUMBERS} | {"n": self.n_},
            "quality": _plain(asdict(self.quality_)),
            "baselines": [_plain(asdict(item)) for item in self.baselines_],
            "groups": [_plain(asdict(item)) for item in self.groups_],
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Forecaster:
        """A fitted forecaster from `to_dict`.

        Raises:
            CollapseError: something is missing, of another form, or not finite.
        """
        try:
            self = cls(**table["params"])
            self.features = tuple(str(name) for name in table["params"]["features"])
            state, p = table["state"], len(self.features)
            for name in _ARRAYS:
                setattr(self, f"{name}_", np.asarray(state[name], dtype=np.float64).reshape(_shape(name, p)))
            for name in _NUMBERS:
                setattr(self, f"{name}_", float(state[name]))
            self.n_ = int(state["n"])
            self.quality_ = _quality(table["quality"])
            self.baselines_ = [_quality(item) for item in table["baselines"]]
            self.groups_ = [GroupOut(**_numbers(item, GroupOut)) for item in table["groups"]]
            self._check()
        except (KeyError, TypeError, ValueError) as error:
            raise CollapseError(f"this is no forecast: {type(error).__name__}: {error}.") from error
        if not all(np.isfinite(getattr(self, f"{name}_")).all() for name in (*_ARRAYS, *_NUMBERS)):
            raise CollapseError("this forecast holds numbers that are not finite.")
        return self

    def _check(self) -> None:
        names = tuple(self.features)
        if isinstance(self.features, str) or not names or len(set(names)) < len(names):
            raise CollapseError(f"features must be names, each once; got {self.features!r}.")
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise CollapseError(f"alpha must be at least 0, got {self.alpha!r}.")
        if not 0 < self.confidence < 1:
            raise CollapseError(f"confidence must lie between 0 and 1, got {self.confidence!r}.")
        if self.draws < 100:
            raise CollapseError(f"draws must be at least 100 for an interval, got {self.draws!r}.")

    def _fitted(self) -> int:
        if not hasattr(self, "coef_"):
            raise CollapseError("this forecaster is not fitted yet; call fit first.")
        return len(self.coef_)

    def _set(self, fit: LeastSquares, x: Float64, y: Float64) -> None:
        tail = 100 * (1 - self.confidence) / 2
        drawn = bootstrap(x, y, fit, self.alpha, self.draws, self.seed)
        self.n_ = len(y)
        self.mean_, self.scale_, self.inverse_ = fit.mean, fit.scale, fit.inverse
        self.coef_ = fit.weights / fit.scale
        self.intercept_ = fit.intercept - float(self.coef_ @ fit.mean)
        self.coef_interval_ = np.percentile(drawn, [tail, 100 - tail], axis=0).T
        self.low_, self.high_ = x.min(0), x.max(0)
        self.most_leverage_ = float(fit.leverage.max())
        self.sigma_, self.freedom_ = fit.sigma, fit.freedom
        self.loo_ = fit.left_out()

    def _expected(self, row: Float64) -> Expected:
        nan = math.nan
        if not np.isfinite(row).all():
            missing = [name for name, value in zip(self.features, row, strict=True) if not math.isfinite(value)]
            return Expected(nan, nan, nan, nan, f"{missing[0]} is missing or not finite")
        z = (row - self.mean_) / self.scale_
        leverage = float(1 / self.n_ + z @ self.inverse_ @ z)
        reason = self._outside(row, leverage)
        if reason:
            return Expected(nan, nan, nan, leverage, reason)
        value = float(self.intercept_ + self.coef_ @ row)
        t = float(stdtrit(self.freedom_, (1 + self.confidence) / 2))
        half = t * self.sigma_ * math.sqrt(1 + leverage)
        return Expected(value, value - half, value + half, leverage)

    def _outside(self, row: Float64, leverage: float) -> str:
        """Why a run lies outside what the fit has seen, or nothing; see `least_squares.inside`."""
        for name, value, low, high in zip(self.features, row, self.low_, self.high_, strict=True):
            slack = 1e-9 * max(abs(low), abs(high))
            if not low - slack <= value <= high + slack:
                return f"{name} {value:.4g} lies outside the fit's {low:.4g} to {high:.4g}"
        if leverage > edge(self.most_leverage_):
            names = " and ".join(self.features)
            return f"no run of the fit has such {names} (leverage {leverage:.3g} above {self.most_leverage_:.3g})"
        return ""


_PARAMS = ("features", "alpha", "confidence", "draws", "strict", "seed")
_ARRAYS = ("mean", "scale", "coef", "low", "high", "inverse", "coef_interval", "loo")
_NUMBERS = ("intercept", "most_leverage", "sigma", "freedom")


def _shape(name: str, p: int) -> tuple[int, ...]:
    return {"inverse": (p, p), "coef_interval": (p + 1, 2), "loo": (-1,)}.get(name, (p,))


def columns(X: Any, names: Sequence[str]) -> dict[str, Float64]:
    """Columns by name, of an array whose columns are `names`, a mapping, or a list of mappings (missing: NaN).

    Raises:
        CollapseError: another form, or a column missing.
    """
    if isinstance(X, Mapping):
        found = {str(name): np.asarray(X[name], dtype=np.float64) for name in X}
    elif isinstance(X, Sequence) and X and isinstance(X[0], Mapping):
        known = dict.fromkeys(str(name) for row in X for name in row)
        found = {name: np.array([float(row.get(name, math.nan)) for row in X]) for name in known}
    else:
        x = np.asarray(X, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(names):
            raise CollapseError(f"expected one column for each of {', '.join(names)}, got an array of shape {x.shape}.")
        found = {name: x[:, j] for j, name in enumerate(names)}
    missing = [name for name in names if name not in found]
    if missing:
        raise CollapseError(f"no column {missing[0]}; there are {', '.join(found) or 'none'}.")
    return found


def _rows(table: Mapping[str, Float64], names: Sequence[str], p: int) -> Float64:
    return np.stack([table[name] for name in names], axis=1).reshape(-1, p)


def _targets(y: Any) -> Float64:
    out = np.asarray(y, dtype=np.float64)
    if out.ndim != 1 or not np.isfinite(out).all():
        raise CollapseError(f"accuracies must be one finite number a run, got shape {out.shape}.")
    return out


def _usable(table: Mapping[str, Float64], name: str, n: int) -> bool:
    return name in table and table[name].shape == (n,) and bool(np.isfinite(table[name]).all())


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in table.items()}


def _numbers(table: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Fields of a dataclass from JSON, None being NaN."""
    return {name: math.nan if table[name] is None else table[name] for name in kind.__dataclass_fields__}


def _quality(table: Mapping[str, Any]) -> Quality:
    values = _numbers(table, Quality)
    return Quality(**values | {"features": tuple(values["features"])})
