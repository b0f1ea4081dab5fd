"""The linear probe against scikit-learn and its own optimality conditions."""

import numpy as np
import pytest
import torch

from siamscope.evaluation import EvaluationError, LogisticFit, linear_probe


def split(n: int, *, classes: int = 6, d: int = 30, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Badly conditioned features with an offset, and labels that a linear classifier gets partly right."""
    shared = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=shared) * torch.arange(1, d + 1) ** -1.5
    centres = torch.randn(classes, d, generator=shared) * 0.35
    g = torch.Generator().manual_seed(seed + 1)
    y = torch.randint(classes, (n,), generator=g)
    return (centres[y] + torch.randn(n, d, generator=g)) @ mixing.T + 5, y


TRAIN, VAL, TEST = split(1500, seed=1), split(400, seed=2), split(600, seed=3)


def standardised(x: torch.Tensor) -> np.ndarray:
    train = TRAIN[0].double()
    return ((x.double() - train.mean(0)) / train.std(0, correction=0)).numpy()


@pytest.fixture(scope="module")
def oracle() -> dict[float, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """scikit-learn's weights, bias and test predictions by l2, C = 1 / (N l2), on standardised features."""
    models = pytest.importorskip("sklearn.linear_model")
    out = {}
    for l2 in (1e-1, 1e-2, 1e-3):
        model = models.LogisticRegression(C=1 / (len(TRAIN[0]) * l2), tol=1e-10, max_iter=5000)
        model.fit(standardised(TRAIN[0]), TRAIN[1].numpy())
        out[l2] = (model.coef_.T, model.intercept_, model.predict(standardised(TEST[0])))
    return out


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_scikit_learn(oracle: dict, l2: float, dtype: torch.dtype) -> None:
    weight, bias, predicted = oracle[l2]
    fit = LogisticFit(*TRAIN, dtype=dtype).fit(l2)
    assert fit.converged
    np.testing.assert_allclose(fit.weight.numpy(), weight, atol=1e-3 * np.abs(weight).max())
    np.testing.assert_allclose(fit.bias - fit.bias.mean(), bias - bias.mean(), atol=1e-3)
    ours = fit.logits(TEST[0]).argmax(1).numpy()
    assert abs((ours == TEST[1].numpy()).sum() - (predicted == TEST[1].numpy()).sum()) <= 1
    assert 0.3 < (predicted == TEST[1].numpy()).mean() < 0.9  # a problem that can tell fits apart


def test_another_c_or_unstandardised_features_give_another_fit(oracle: dict) -> None:
    weight = oracle[1e-2][0]
    for wrong in (LogisticFit(*TRAIN).fit(2e-2), LogisticFit(*TRAIN).fit(1e-2 * 6)):
        assert np.abs(wrong.weight.numpy() - weight).max() > 1e-2 * np.abs(weight).max()
    models = pytest.importorskip("sklearn.linear_model")
    raw = models.LogisticRegression(C=1 / (1500 * 1e-2), max_iter=5000).fit(TRAIN[0].numpy(), TRAIN[1].numpy())
    in_our_units = raw.coef_.T * TRAIN[0].std(0, correction=0).numpy()[:, None]
    assert np.abs(in_our_units - weight).max() > 1e-2 * np.abs(weight).max()


def test_gradient_vanishes_at_the_solution_and_warm_starts_agree_with_cold() -> None:
    warm = LogisticFit(*TRAIN, dtype=torch.float64)
    for l2 in (1.0, 1e-1, 1e-3):
        fit = warm.fit(l2)
    cold = LogisticFit(*TRAIN, dtype=torch.float64).fit(1e-3)
    torch.testing.assert_close(fit.weight, cold.weight, atol=1e-3, rtol=1e-3)
    weight = fit.weight.clone().requires_grad_()
    x = (TRAIN[0].double() - fit.mean) / fit.scale
    loss = torch.nn.functional.cross_entropy(x @ weight + fit.bias, TRAIN[1]) + 0.5e-3 * weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.abs().max() < 1e-4
    assert fit.iterations < 60  # preconditioned; without it this problem takes hundreds


def test_probe_chooses_on_validation_and_reports_the_test() -> None:
    grid = (1e1, 1e-1, 1e-3)
    result = linear_probe(*TRAIN, *VAL, *TEST, l2_grid=grid, seed=3)
    problem = LogisticFit(*TRAIN)
    by_l2 = {l2: (problem.fit(l2).logits(VAL[0]).argmax(1) == VAL[1]).double().mean().item() for l2 in grid}
    assert dict(result.validation) == pytest.approx(by_l2, abs=1.01 / len(VAL[0]))
    assert result.l2 == max(grid, key=lambda l2: (by_l2[l2], l2))
    logits = result.classifier.logits(TEST[0])
    assert result.top1 == pytest.approx((logits.argmax(1) == TEST[1]).double().mean().item(), abs=1e-12)
    top5 = (logits.topk(5).indices == TEST[1][:, None]).any(1).double().mean().item()
    assert result.top5 == pytest.approx(top5, abs=1e-12) and top5 > result.top1
    assert result.interval[0] < result.top1 < result.interval[1]
    assert result.converged
    assert (result.n_train, result.n_validation, result.n_test, result.n_classes) == (1500, 400, 600, 6)


def test_test_data_do_not_influence_the_choice() -> None:
    noise = torch.randint(6, TEST[1].shape, generator=torch.Generator().manual_seed(0))
    honest = linear_probe(*TRAIN, *VAL, *TEST)
    shuffled = linear_probe(*TRAIN, *VAL, TEST[0], noise)
    assert shuffled.l2 == honest.l2 and shuffled.validation == honest.validation
    assert shuffled.top1 < 0.25 < honest.top1


def test_of_equally_good_penalties_the_strongest_is_taken() -> None:
    x = torch.tensor([[-3.0], [-2.9], [2.9], [3.0]])
    y = torch.tensor([0, 0, 1, 1])
    result = linear_probe(x, y, x, y, x, y, l2_grid=(1e-4, 1e-2, 1.0))
    assert result.l2 == 1.0 and result.top1 == 1.0 and result.top5 is None
    assert "end of the grid" in result.note


def test_features_are_standardised_with_training_statistics() -> None:
    scale = torch.logspace(-4, 4, 30)
    plain = linear_probe(*TRAIN, *VAL, *TEST, l2_grid=(1e-2,))
    moved = [(x * scale + 7 * scale, y) for x, y in (TRAIN, VAL, TEST)]
    scaled = linear_probe(*moved[0], *moved[1], *moved[2], l2_grid=(1e-2,))
    assert scaled.top1 == pytest.approx(plain.top1, abs=1.01 / len(TEST[0]))


def test_constant_features_are_ignored() -> None:
    def widened(part: tuple[torch.Tensor, torch.Tensor], value: float) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([part[0], torch.full((len(part[0]), 1), value)], 1), part[1]

    plain = linear_probe(*TRAIN, *VAL, *TEST, l2_grid=(1e-2,))
    wide = linear_probe(*widened(TRAIN, 0.1), *widened(VAL, 0.1), *widened(TEST, 50.0), l2_grid=(1e-2,))
    assert wide.top1 == pytest.approx(plain.top1, abs=1.01 / len(TEST[0]))
    assert wide.classifier.weight[-1].abs().max() == 0


def test_classes_missing_from_validation_or_training() -> None:
    keep = VAL[1] != 2
    partial = linear_probe(*TRAIN, VAL[0][keep], VAL[1][keep], *TEST)
    assert partial.n_classes == 6 and partial.top1 > 0.4
    known = TRAIN[1] != 2
    result = linear_probe(TRAIN[0][known], TRAIN[1][known] * 10, *VAL, TEST[0], TEST[1] * 10, l2_grid=(1e-2,))
    assert result.n_classes == 5 and result.top5 is None
    strangers = int((TEST[1] == 2).sum())
    assert f"{strangers} test samples have labels the training split lacks" in result.note
    assert result.top1 <= 1 - strangers / len(TEST[1])


def test_too_few_iterations_are_admitted() -> None:
    result = linear_probe(*TRAIN, *VAL, *TEST, l2_grid=(1e-4,), max_iter=2)
    assert not result.converged and "not converged at l2 = 0.0001" in result.note


def test_more_dimensions_than_samples() -> None:
    x = torch.randn(40, 100, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    result = linear_probe(x, y, x, y, x, y, l2_grid=(1e-2,))
    assert result.top1 == 1.0 and result.converged


@pytest.mark.parametrize(
    ("train_x", "train_y", "options", "message"),
    [
        (TRAIN[0] * float("nan"), TRAIN[1], {}, "training features hold NaN"),
        (TRAIN[0], torch.zeros_like(TRAIN[1]), {}, "at least 2 classes"),
        (TRAIN[0], TRAIN[1].double(), {}, "integers"),
        (TRAIN[0], TRAIN[1][:-1], {}, "one label for each"),
        (TRAIN[0][:, :5], TRAIN[1], {}, "dimensions"),
        (TRAIN[0], TRAIN[1], {"l2_grid": ()}, "empty"),
        (TRAIN[0], TRAIN[1], {"l2_grid": (0.0,)}, "positive"),
    ],
)
def test_bad_input_is_refused(train_x: torch.Tensor, train_y: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        linear_probe(train_x, train_y, *VAL, *TEST, **options)
