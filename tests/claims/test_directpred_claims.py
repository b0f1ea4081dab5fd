"""DirectPred's tables as data: complete, each cell a recipe with the settings that its table says, verdicts by rule."""

from __future__ import annotations

import dataclasses
import tomllib
from collections import Counter

import pytest

from siamscope import recipe as recipes
from siamscope.claims import ClaimError, Expected, Published, directpred, judge
from siamscope.claims.base import Ablation, Claim, NotOffered, Order, Preset, judge_order
from siamscope.claims.published import canonical_hash

CLAIMS = {claim.id: claim for claim in directpred.claims()}
PRESETS = {id: claim.experiment for id, claim in CLAIMS.items() if isinstance(claim.experiment, Preset)}


def recipe(id):
    return PRESETS[id].recipe


# -- the data ----------------------------------------------------------------------------------------------------------


def test_every_table_is_complete():
    """The cells of the paper's tables; Fig. 6 has curves only, so no figures."""
    printed = Counter(claim.table for claim in CLAIMS.values() if claim.published)
    assert printed == {
        "T1": 8, "T2": 4, "T3": 16, "T3i": 4, "T5": 16, "T6": 8, "T7": 8, "T8": 18, "T9": 12, "S4": 1, "DC": 15,
    }  # fmt: skip
    assert len(CLAIMS) == len(directpred.claims())
    assert sum(claim.table == "F6" for claim in CLAIMS.values()) == 8


@pytest.mark.parametrize(
    ("id", "value", "sd"),
    [
        ("T1.ema.freq1", 40.67, 0.50),
        ("T1.noema.freq5", 32.22, 2.94),
        ("T2.noema.bias", 71.37, 0.77),
        ("T3.linear.noema.nobias.symmetric", 36.62, 1.85),
        ("T3.mlp.ema.nobias.regular", 78.85, 0.25),
        ("T5.decay-p-only.noema.bias.symmetric", 73.01, 0.37),
        ("T6.rho3.eps1", 77.86, 0.16),
        ("T7.freq1.c-plus10", 46.57, 18.43),
        ("T8.cifar10.directpred.freq5.ep500", 89.56, 0.13),
        ("T9.ep300.directpred.top5", 91.0, None),
        ("S4.planes6.ep100", 78.20, 0.16),
    ],
)
def test_printed_figures(id, value, sd):
    assert CLAIMS[id].published == Published(value, sd)


def test_cells_that_the_paper_prints_twice_agree():
    """T2 is a row pair of T5, T6's best cell is T8's first: the same figure and the same recipe."""
    pairs = [
        ("T2.ema.nobias", "T5.decay-neither.ema.nobias.regular"),
        ("T2.noema.bias", "T5.decay-neither.noema.bias.regular"),
        ("T6.rho3.eps1", "T8.stl10.directpred.ep100"),
    ]
    for one, two in pairs:
        assert CLAIMS[one].published == CLAIMS[two].published
        assert canonical_hash(recipe(one)) == canonical_hash(recipe(two))


def test_what_is_from_memory_is_never_judged():
    remembered = [claim for claim in CLAIMS.values() if claim.table == "DC"]
    for claim in remembered:
        assert claim.published.memory and claim.expected is None
        assert judge(claim, [claim.published.value] * 5).outcome == "not judged"
    assert not any(claim.published and claim.published.memory for claim in CLAIMS.values() if claim.table != "DC")


def test_tolerance_is_two_deviations_or_a_point_and_a_half():
    for claim in CLAIMS.values():
        if claim.published and claim.expected:
            assert claim.expected.tolerance == pytest.approx(max(2 * (claim.published.sd or 0), 1.5))
            assert claim.expected.of == "mean"


def test_directions_point_the_printed_way():
    orders = [claim.experiment for claim in CLAIMS.values() if isinstance(claim.experiment, Order)]
    assert len(orders) == 9
    for order in orders:
        assert CLAIMS[order.higher].published.value > CLAIMS[order.lower].published.value


def test_what_no_recipe_expresses_says_why():
    missing = {claim.table for claim in CLAIMS.values() if isinstance(claim.experiment, NotOffered)}
    assert missing == {"T9", "T3i"}  # ImageNet
    assert all(claim.experiment.reason for claim in CLAIMS.values() if isinstance(claim.experiment, NotOffered))


# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", PRESETS)
def test_recipe_survives_its_own_text(id):
    again = recipes.from_dict(tomllib.loads(recipes.to_toml(recipe(id))))
    assert again == recipe(id)
    assert canonical_hash(again) == canonical_hash(recipe(id))


def test_hashes_tell_recipes_apart():
    """As many hashes as different recipes; one changed digit changes the hash."""
    distinct = {repr(recipe(id)) for id in PRESETS}
    assert len({canonical_hash(recipe(id)) for id in PRESETS}) == len(distinct)
    one = recipe("T6.rho3.eps1")
    other = dataclasses.replace(one, optim=dataclasses.replace(one.optim, lr=0.121))
    assert canonical_hash(one) != canonical_hash(other)


@pytest.mark.parametrize("id", PRESETS)
def test_common_settings(id):
    """Section 2.1: ResNet-18, 512-512-128 with BN and ReLU, constant rate, momentum 0.9, batch 128; in our loss, a
    quarter of the paper's, rate 0.03 is 0.12 and decay 4e-4 is 1e-4."""
    r = recipe(id)
    assert r.network.backbone == "resnet18" and not r.network.zero_init_residual
    head = r.method.projector
    assert (head.layers, head.hidden, head.out, head.norm) == (2, 512, 128, "batch-no-affine")
    assert (r.optim.lr, r.optim.lr_scaling, r.optim.final_lr, r.optim.momentum) == (0.12, False, 1.0, 0.9)
    assert r.optim.decay == "coupled" and r.optim.warmup_epochs == 0 and r.train.batch_size == 128
    assert (r.method.normalise, r.method.objective, r.method.distance) == ("l2", "asymmetric", "cosine")
    stl = PRESETS[id].data == "stl10"
    assert (r.data.size, r.network.stem) == ((96, "imagenet") if stl else (32, "cifar"))
    if r.method.target == "momentum":
        assert r.method.momentum == r.method.momentum_end == 0.996
    assert r.optim.weight_decay == (0 if id[:3] == "T2." or id.startswith("T5") else 1e-4)


def test_table_1_sets_the_optimal_predictor_every_n():
    for n in (1, 2, 3, 5):
        cell = recipe(f"T1.noema.freq{n}").method
        assert (cell.predictor, cell.predictor_options.every, cell.target) == ("optimal", n, "detached")


def test_table_3_predictors_and_targets():
    kinds = {
        "linear.ema.nobias.symmetric": ("symmetric", False, False, "momentum"),
        "linear.noema.nobias.symmetric": ("symmetric", False, False, "detached"),
        "linear.noema.bias.regular": ("linear", True, False, "detached"),
        "mlp.ema.nobias.regular": ("mlp", False, False, "momentum"),
        "mlp.noema.bias.regular": ("mlp", False, True, "detached"),
        "mlp.noema.bias.symmetric": ("symmetric-mlp", False, True, "detached"),
    }
    for cell, (predictor, bias, last_bias, target) in kinds.items():
        row = recipe(f"T3.{cell}").method
        assert (row.predictor, row.predictor_bias, row.predictor_head.last_bias) == (predictor, bias, last_bias)
        assert row.target == target
        assert (row.predictor_head.layers, row.predictor_head.hidden) == (2, 512)


def test_table_5_separate_decays():
    """eta_p = 4e-4 alone, and neither; table 3's recipes have one for both."""
    assert recipe("T5.decay-p-only.ema.nobias.regular").optim.predictor_weight_decay == 1e-4
    assert recipe("T5.decay-neither.ema.nobias.regular").optim.predictor_weight_decay == -1
    assert recipe("T3.linear.ema.nobias.regular").optim.predictor_weight_decay == -1


def test_tables_6_7_8_and_the_planes():
    for name, rho in (("rho3", 0.3), ("rho5", 0.5)):
        for column, eps in (("eps0", 0.0), ("eps01", 0.01), ("eps1", 0.1), ("eps5", 0.5)):
            options = recipe(f"T6.{name}.{column}").method.predictor_options
            assert (options.rho, options.eps, options.rule, options.every) == (rho, eps, "code", 1)
    shifts = {"c-plus10": 0.1, "c-plus05": 0.05, "c-minus05": -0.05, "c-minus10": -0.1}
    for column, shift in shifts.items():
        options = recipe(f"T7.freq2.{column}").method.predictor_options
        assert (options.shift, options.every, options.eps, options.rho) == (shift, 2, 0.0, 0.3)
    for epochs in (100, 300, 500):
        r = recipe(f"T8.stl10.directpred.freq5.ep{epochs}")
        assert (r.method.predictor_options.every, r.train.epochs) == (5, epochs)
    assert recipe("T8.cifar10.sgd.ep100").method.predictor == "linear"
    assert recipe("S4.planes6.ep100").method.predictor_options.partitions == 6


def test_figure_6_moves_the_predictors_rate_without_average():
    rates = [recipe(f"F6.cifar10.alpha{a}").optim.predictor_lr for a in (1, 2, 5, 10)]
    assert rates == [1, 2, 5, 10]
    assert all(recipe(id).method.target == "detached" for id in PRESETS if id.startswith("F6"))


# -- verdicts ----------------------------------------------------------------------------------------------------------


def claim(expected, published=None):
    return Claim("X.y", "", Ablation("linear.trained", "size"), "seconds", published, expected)


@pytest.mark.parametrize(
    ("expected", "right", "wrong"),
    [
        (Expected("near", 77.86, 1.5, "mean"), [76.0, 79.0], [76.0, 76.2]),
        (Expected("near", 1.721, 0.03), [1.70, 1.74], [1.70, 1.76]),
        (Expected("at least", 0.4), [0.4, 0.9], [0.39, 0.9]),
        (Expected("at most", 0.06), [0.06, 0.0], [0.0, 0.061]),
    ],
)
def test_rules(expected, right, wrong):
    assert judge(claim(expected), right).outcome == "holds"
    assert judge(claim(expected), wrong).outcome == "does not hold"


def test_a_mean_may_hold_where_a_seed_does_not():
    values = [0.1, 0.9]
    assert judge(claim(Expected("at least", 0.4, of="mean")), values).outcome == "holds"
    assert judge(claim(Expected("at least", 0.4)), values).outcome == "does not hold"


@pytest.mark.parametrize("bad", [[float("nan")], [1.0, float("nan")], [float("inf")]])
def test_no_number_never_holds(bad):
    for kind in ("near", "at least", "at most"):
        assert judge(claim(Expected(kind, 1.0, 1e9, "mean")), bad).outcome == "does not hold"


def test_other_outcomes():
    near = claim(Expected("near", 1.0, 0.1))
    assert judge(near, []).outcome == "not run"
    assert judge(near, [1.0], comparable=False).outcome == "not comparable"
    assert judge(claim(None), [1.0]).outcome == "not judged"
    assert judge(near, [1.0, 1.1]).sd == pytest.approx(0.0707, abs=1e-4)
    assert judge(near, [1.0]).sd is None


def test_an_order_needs_more_than_its_noise():
    order = CLAIMS["O6.eps"]
    assert judge_order(order, [77.8, 77.9, 78.0], [75.0, 75.5, 74.5]).outcome == "holds"
    assert judge_order(order, [75.0, 75.5, 74.5], [77.8, 77.9, 78.0]).outcome == "does not hold"
    assert judge_order(order, [77.0, 79.0, 75.0], [76.0, 78.0, 76.5]).outcome == "undecided"
    assert judge_order(order, [77.0], [70.0]).outcome == "undecided"
    assert judge_order(order, [], [70.0]).outcome == "not run"
    nan = float("nan")
    assert judge_order(order, [nan, 1.0], [0.0, 0.1]).outcome == "does not hold"


def test_shortened_runs_decide_only_what_is_said_of_them():
    """That a symmetric predictor without average fails is a claim on full runs alone."""
    high, low = [77.8, 77.9, 78.0], [70.0, 70.1, 70.2]
    assert judge_order(CLAIMS["O3.symmetric"], high, low, comparable=False).outcome == "not comparable"
    assert judge_order(CLAIMS["O1.optimal"], high, low, comparable=False).outcome == "holds"


def test_an_order_is_not_judged_by_a_bound():
    with pytest.raises(ClaimError, match="compares nothing"):
        judge_order(CLAIMS["A21.size"], [1.0], [0.0])
