"""Every remedy for collapse is one flag on the shipped SimSiam recipe: it runs, and it changes what is trained."""

import dataclasses

import pytest
import torch

from siamscope import cli
from siamscope import recipe as recipes
from siamscope.row import Head, Method, MethodError, not_read, projector_of
from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint
from siamscope.workflow.compare_plan import cells, chosen
from siamscope.workflow.table import defaults

COMMAND = [
    "train", "shapes", "--method", "simsiam", "--size", "16", "--samples", "96", "--data.val-samples", "32",
    "--data.test-samples", "32", "--width", "0.25", "--batch-size", "32", "--steps", "4", "--precision", "fp32",
    "--train.channels-last", "off", "--device", "cpu", "--monitor.interval", "4", "--monitor.samples", "32",
    "--monitor.bank", "32", "--evaluation.no-probe", "--quiet", "--out",
]  # fmt: skip
REMEDIES = {
    "": {},
    "--target momentum": {"target": "momentum"},
    "--predictor directpred": {"predictor": "directpred"},
    "--predictor directcopy": {"predictor": "directcopy"},
    "--regulariser variance": {"regulariser": "variance"},
    "--regulariser isotropic": {"regulariser": "isotropic"},
    "--wide-projector 2": {"projector_scale": 2.0},
    "--order cumulative": {},
    "--order hybrid": {},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Exit code, what was said, and the run, for every remedy."""
    root = tmp_path_factory.mktemp("remedies")
    torch.set_num_threads(1)
    out = {}
    for flag in REMEDIES:
        path = root / (flag.replace(" ", "") or "plain")
        chunks = ["--order.chunks", "4"] if "order" in flag else []  # so few images make no hundred chunks
        out[flag] = cli.run([*COMMAND, str(path), *flag.split(), *chunks]), path
    return out


def losses(path):
    return [line["loss"] for line in read_jsonl(RunDir(path).metrics) if line["kind"] == "step"]


@pytest.mark.parametrize("flag", REMEDIES)
def test_one_flag(runs, flag):
    code, path = runs[flag]
    assert code == 0
    recipe = RunDir.open(path).recipe()
    for cell, value in REMEDIES[flag].items():
        assert getattr(recipe.method, cell) == value
    if "order" in flag:
        assert recipe.order.name == flag.split()[1]
    assert not not_read(recipe.method, list(REMEDIES[flag]))


@pytest.mark.parametrize("flag", [flag for flag in REMEDIES if flag and "momentum" not in flag])
def test_it_changes_the_training(runs, flag):
    assert losses(runs[flag][1]) != losses(runs[""][1])


def test_a_momentum_target_lags(runs):
    """The first loss is the same: the target starts as a copy. Later ones are not."""
    plain, momentum = losses(runs[""][1]), losses(runs["--target momentum"][1])
    assert momentum[0] == pytest.approx(plain[0], rel=1e-6)
    assert momentum[1:] != plain[1:]


def test_the_projector_is_wider(runs):
    shapes = []
    for flag in ("", "--wide-projector 2"):
        state = torch.load(checkpoint.numbered(RunDir(runs[flag][1]))[-1], weights_only=True)["model"]
        shapes.append([v.shape[0] for k, v in state.items() if k.startswith("online.projector") and v.ndim == 2])
    assert shapes == [[512, 256], [1024, 512]]
    wide = recipes.load(runs["--wide-projector 2"][1] / "recipe.toml").method
    assert (projector_of(wide).hidden, projector_of(wide).out, wide.projector.out) == (1024, 512, 256)


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        ({"projector_scale": 0.0}, "projector_scale must be above 0"),
        ({"projector_scale": float("nan")}, "projector_scale must be above 0"),
        ({"regulariser_weight": -1.0}, "regulariser_weight must be a number of at least 0"),
        ({"regulariser_weight": float("inf")}, "regulariser_weight must be a number of at least 0"),
    ],
)
def test_bad_values(cells, word):
    with pytest.raises(MethodError, match=word):
        Method(**cells)


def test_what_is_not_read_is_said():
    assert not_read(Method(), ["regulariser_weight", "regulariser"]) == ["regulariser_weight"]
    assert not_read(Method(regulariser="variance"), ["regulariser_weight"]) == []
    assert not_read(Method(projector=Head(layers=0)), ["projector_scale"]) == ["projector_scale"]


def test_a_comparison_puts_them_into_every_row():
    shared = recipes.load("compare")
    for flag, cell in (("regulariser", "isotropic"), ("projector_scale", 2.0), ("regulariser_weight", 0.5)):
        changed = dataclasses.replace(shared, method=dataclasses.replace(shared.method, **{flag: cell}))
        rows = cells(changed, chosen("all"), [flag], variants=True)
        assert rows and all(line.row is None or getattr(line.row, flag) == cell for line in rows)
        assert sum(line.row is not None for line in rows) >= len(chosen("all"))
        untouched = cells(changed, ["simsiam"])
        assert getattr(untouched[0].row, flag) != cell


def test_the_table_shows_what_is_built():
    row = dataclasses.replace(recipes.for_method("simsiam").method, projector_scale=2.0, regulariser="isotropic")
    shown = defaults(row)
    assert "projector 1024-512" in shown
    assert "predictor 64-512" in shown
    assert "regulariser isotropic, weight 0.1" in shown
    assert not any("regulariser" in text for text in defaults(recipes.for_method("simsiam").method))
