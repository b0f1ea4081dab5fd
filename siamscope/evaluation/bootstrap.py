"""How far an accuracy could be off because the test set is only a sample."""

import numpy as np
import numpy.typing as npt

from siamscope.evaluation.errors import EvaluationError


def accuracy_interval(
    correct: npt.ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of an accuracy, over the test samples.

    Drawing n of n right-or-wrong answers with replacement gives a Binomial(n, accuracy) number of right ones, so the
    resamples are drawn as binomial counts: the same distribution, without an index array of draws x n.

    It covers the choice of test images only, not of seeds, data splits or training runs. With no error (or no hit) at
    all it has zero width; 3/n is then a sensible bound on the error rate.

    Args:
        correct: (n,) booleans, or 0 and 1.
        level: coverage, in (0, 1).
        draws: resamples.
        seed: of the resampling.

    Returns:
        Lower and upper end, as fractions.

    Raises:
        EvaluationError: no samples, entries other than 0 and 1, or a level outside (0, 1).
    """
    hits = np.asarray(correct)
    if hits.ndim != 1 or hits.size == 0:
        raise EvaluationError(f"an interval needs one right-or-wrong answer per sample, not shape {hits.shape}.")
    if not np.isin(hits, (0, 1)).all():
        raise EvaluationError("answers must be True/False or 1/0; pass predictions == labels.")
    if not 0 < level < 1 or draws < 1:
        raise EvaluationError(f"level must lie between 0 and 1 and draws be positive, not {level} and {draws}.")
    n = hits.size
    resampled = np.random.default_rng(seed).binomial(n, hits.sum() / n, size=draws) / n
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
