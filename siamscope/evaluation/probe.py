"""Linear probe: how well a linear classifier on frozen features does, with nothing chosen on test data."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from siamscope.evaluation.bootstrap import accuracy_interval
from siamscope.evaluation.errors import Array, EvaluationError, feature_matrix, label_vector
from siamscope.evaluation.linear import LinearClassifier, LogisticFit, accuracy

L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class ProbeResult:
    """Test accuracy (fractions) of a linear classifier fitted on training features only.

    Attributes:
        top1: test accuracy.
        top5: the same with five guesses; None with five classes or fewer.
        interval: percentile bootstrap interval of top1 over the test samples.
        l2: penalty chosen on the validation split.
        validation: (l2, validation accuracy) for the whole grid, in the order fitted (strongest first).
        converged: whether every fit of the grid converged.
        n_train, n_validation, n_test, n_classes: sizes; classes are those of the training labels.
        note: what a reader must know before quoting the figures; "" if nothing.
        classifier: the fitted classifier.
    """

    top1: float
    top5: float | None
    interval: tuple[float, float]
    l2: float
    validation: tuple[tuple[float, float], ...]
    converged: bool
    n_train: int
    n_validation: int
    n_test: int
    n_classes: int
    note: str
    classifier: LinearClassifier


def linear_probe(
    train_x: Array,
    train_y: Array,
    val_x: Array,
    val_y: Array,
    test_x: Array,
    test_y: Array,
    *,
    l2_grid: Sequence[float] = L2_GRID,
    max_iter: int = 500,
    seed: int = 0,
    level: float = 0.95,
    dtype: torch.dtype = torch.float32,
) -> ProbeResult:
    """Fit multinomial logistic regression on training features and judge it once on the test features.

    Features (N, d) are standardised with the training mean and deviation. For each l2 of the grid, mean cross-entropy +
    l2/2 * |weight|^2 is minimised by L-BFGS (scikit-learn's C is 1 / (n_train * l2)); the l2 with the best validation
    accuracy is taken, the stronger of equals. That same classifier, fitted on the training split alone, gives the test
    figures: the validation split is not added for a refit, so that the figure belongs to the model that was chosen.

    Args:
        max_iter: L-BFGS iterations for each l2; `converged` tells whether they were enough.
        seed, level: of the bootstrap interval. The fit itself has no randomness.
        dtype: precision of the fit. float32 leaves the weights good to about 1e-4 of their size.

    Raises:
        EvaluationError: bad shapes, NaN or infinity, labels that are not integers, one training class, an empty grid or
            l2 <= 0.
    """
    train = feature_matrix(train_x, "training features")
    val = feature_matrix(val_x, "validation features", width=train.shape[1]).to(train.device)
    test = feature_matrix(test_x, "test features", width=train.shape[1]).to(train.device)
    labels = label_vector(train_y, len(train), "training labels").to(train.device)
    val_labels = label_vector(val_y, len(val), "validation labels").to(train.device)
    test_labels = label_vector(test_y, len(test), "test labels").to(train.device)
    if not l2_grid:
        raise EvaluationError("l2_grid is empty; give at least one penalty.")

    problem = LogisticFit(train, labels, dtype=dtype)
    fits = [problem.fit(l2, max_iter=max_iter) for l2 in sorted(l2_grid, reverse=True)]
    scores = [_mean(accuracy(f.logits(val), f.classes, val_labels)[0]) for f in fits]
    best = scores.index(max(scores))  # the first of equals: the strongest penalty

    chosen = fits[best]
    top1, top5 = accuracy(chosen.logits(test), chosen.classes, test_labels, top=(1, 5))
    strangers = int((~torch.isin(test_labels, chosen.classes)).sum())
    return ProbeResult(
        top1=_mean(top1),
        top5=_mean(top5) if len(chosen.classes) > 5 else None,
        interval=accuracy_interval(top1.cpu().numpy(), level=level, seed=seed),
        l2=chosen.l2,
        validation=tuple((f.l2, s) for f, s in zip(fits, scores, strict=True)),
        converged=all(f.converged for f in fits),
        n_train=len(train),
        n_validation=len(val),
        n_test=len(test),
        n_classes=len(chosen.classes),
        note=_note(fits, best, strangers),
        classifier=chosen,
    )


def _mean(hits: Tensor) -> float:
    return float(hits.double().mean())


def _note(fits: list[LinearClassifier], best: int, strangers: int) -> str:
    notes = []
    slow = [f.l2 for f in fits if not f.converged]
    if slow:
        notes.append(f"not converged at l2 = {', '.join(f'{l2:g}' for l2 in slow)}: raise max_iter")
    if len(fits) > 1 and best in (0, len(fits) - 1):
        notes.append(f"l2 = {fits[best].l2:g} was chosen at the end of the grid: widen it")
    if strangers:
        notes.append(f"{strangers} test samples have labels the training split lacks and count as wrong")
    return "; ".join(notes)
