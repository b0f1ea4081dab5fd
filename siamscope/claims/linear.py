"""The linear network on minibatches: what it ends at, the ablations that collapse it, the rescue of a small start.

20 inputs, of which 4 are free of augmentation noise (P_S) and 16 have variance sigma^2 = 2 (P_B); weight decay
eta = 0.12; squared distance, no normalisation. Each seed draws start and data. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from siamscope.dynamics import Modes, SetRule, SubspaceTheorem
from siamscope.dynamics.errors import Float
from siamscope.dynamics.errors import transposed as _t
from siamscope.dynamics.sgd import train_on_subspace

WIDTH, RANK, SIGMA2, ETA = 20, 4, 2.0, 0.12
STEPS, SHORT = 6000, 1500

Measures = Mapping[str, tuple[float, ...]]


def size() -> float:
    """sqrt(rank) p_+: where |W P_S| must end with a trained predictor, 2 * 0.8606."""
    return float(RANK**0.5 * Modes(eta=ETA).roots()[1])


def set_size() -> float:
    """The same with DirectSet(1): 2 sqrt(u_+)."""
    return float(RANK**0.5 * SubspaceTheorem(ETA, SIGMA2, 1.0).scale)


def _train(seeds: Sequence[int], steps: int, w: Float | None = None, w_p: Float | None = None, **options: Any) -> Any:
    """(W, W_p) at the end, (seeds, 20, 20) each; NaN for all seeds if one diverged."""
    start = _normal(seeds, 1, WIDTH**-0.5) if w is None else w
    out = train_on_subspace(start, RANK, SIGMA2, steps, seeds, w_p, **({"weight_decay": ETA} | options))
    return (out.w[-1], out.w_p[-1]) if not out.diverged else (out.w[-1] * np.nan, out.w_p[-1] * np.nan)


def _normal(seeds: Sequence[int], stream: int, scale: float) -> Float:
    draws = [np.random.default_rng([seed, stream]).standard_normal((WIDTH, WIDTH)) for seed in seeds]
    return np.asarray(scale * np.stack(draws), dtype=np.float64)


def _norm(a: Float) -> Float:
    return np.asarray(np.linalg.norm(a, axis=(-2, -1)), dtype=np.float64)


def _of(**measures: Float) -> Measures:
    return {name: tuple(float(value) for value in values) for name, values in measures.items()}


def trained(seeds: Sequence[int], steps: int = STEPS) -> Measures:
    """size |W P_S|; noise |W P_B| / |W P_S|; rank of F = W W^T; balance |W W^T - W_p^T W_p|."""
    w, w_p = _train(seeds, steps)
    f = w @ _t(w)
    quiet = _norm(w[..., :RANK])
    rank = np.linalg.matrix_rank(f, 0.01) if np.isfinite(f).all() else quiet * np.nan
    return _of(size=quiet, noise=_norm(w[..., RANK:]) / quiet, rank=rank, balance=_norm(f - _t(w_p) @ w_p))


def fast(seeds: Sequence[int], steps: int = STEPS) -> Measures:
    """alpha_p = 5 with the flow's decay, eta_p = eta (size), and with one coupled decay, eta_p = 5 eta (coupled)."""
    own, coupled = (_train(seeds, steps, alpha_p=5.0, weight_decay_p=decay)[0] for decay in (None, ETA))
    return _of(size=_norm(own[..., :RANK]), coupled=_norm(coupled[..., :RANK]))


def directset(seeds: Sequence[int], steps: int = SHORT) -> Measures:
    """DirectSet(1) on a slow average of F, rho = 0.99: of few samples F is biased, and |W P_S| ends lower."""
    w, _ = _train(seeds, steps, 0.7 * np.eye(WIDTH), predictor=SetRule(1.0, boost="plain"), rho=0.99)
    return _of(size=_norm(w[..., :RANK]))


def collapsed(seeds: Sequence[int], steps: int = SHORT, **change: Any) -> Measures:
    """|W| with one part of the method changed."""
    return _of(size=_norm(_train(seeds, steps, **({"lr": 0.05, "batch": 32} | change))[0]))


def weak_decay(seeds: Sequence[int], steps: int = SHORT) -> Measures:
    """noise |W P_B| at eta = 0.02."""
    return _of(noise=_norm(_train(seeds, steps, weight_decay=0.02)[0][..., RANK:]))


def small_start(seeds: Sequence[int], steps: int = 2500) -> Measures:
    """|W P_S| from a start between two thresholds: a trained predictor (trained), DirectSet(1/2) with eps 0 (plain) and
    0.1 (boosted), and the gain of the boost.

    Three of the four singular values of W P_S lie above p_- = 0.139 and below what a trained predictor of size ~0 needs
    (0.17 to 0.19), one below p_- (0.1).
    """
    w = np.stack([_small(seed) for seed in seeds])
    lost = _train(seeds, steps, w, _normal(seeds, 2, 0.002), lr=0.05)[0]
    plain, boosted = (
        _norm(_train(seeds, steps, w, predictor=SetRule(0.5, eps, boost="plain"), rho=0.9)[0][..., :RANK])
        for eps in (0.0, 0.1)
    )
    return _of(trained=_norm(lost[..., :RANK]), plain=plain, boosted=boosted, gain=boosted - plain)


def _small(seed: int) -> Float:
    rng = np.random.default_rng([seed, 3])
    basis, _ = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))
    return np.asarray(basis * np.where(np.arange(WIDTH) == 0, 0.1, rng.uniform(0.17, 0.19, WIDTH)), dtype=np.float64)


def normal_start(seeds: Sequence[int], steps: int = 2500) -> Measures:
    """|W P_S| with a trained predictor from W and W_p of normal entries times 0.05: singular values up to 0.44."""
    w, _ = _train(seeds, steps, _normal(seeds, 1, 0.05), _normal(seeds, 2, 0.05))
    return _of(size=_norm(w[..., :RANK]))


EXPERIMENTS: dict[str, Callable[[Sequence[int]], Measures]] = {
    "linear.trained": trained,
    "linear.fast": fast,
    "linear.directset": directset,
    "linear.no-predictor": lambda seeds: collapsed(seeds, predictor="none"),
    "linear.no-stop-gradient": lambda seeds: collapsed(seeds, stop_gradient=False),
    "linear.decay": lambda seeds: collapsed(seeds, weight_decay=0.3),
    "linear.weak-decay": weak_decay,
    "linear.small": small_start,
    "linear.normal": normal_start,
}
"""By name: seeds to measures, one value a seed."""
