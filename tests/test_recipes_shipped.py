"""Recipes at 224 and 32 pixels: one of each for every method, usable, and with the figures that are published."""

import dataclasses
import math
import tomllib

import pytest
import torch
from torch.nn import functional as F

from siamscope import methods, objectives
from siamscope import recipe as recipes
from siamscope.training.build import specs_of

NAMES = [method + suffix for method in methods.METHODS for suffix in ("-224", "-cifar10")]

LIGHTLY = "lightly, cifar10_benchmark.py, results of 27.03.2023"
LIGHTLY_SGD = {"optim.name": "sgd", "step.lr": 0.24, "optim.weight_decay": 5e-4, "train.epochs": 200.0}

# Recipe: where the figures are from, and the figures. `step.lr` is the rate of a whole step: lr, scaled if so asked.
PUBLISHED = {
    "mocov2-224": (
        "arXiv:2003.04297; facebookresearch/moco, main_moco.py with --mlp --moco-t 0.2 --aug-plus --cos",
        {
            "method.bank": 65_536, "method.temperature": 0.2, "method.momentum": 0.999, "method.momentum_end": 0.999,
            "method.projector.out": 128, "step.lr": 0.03, "optim.weight_decay": 1e-4, "train.batch_size": 256,
            "train.epochs": 200.0, "views.policy": "mocov2",
        },
    ),
    "mocov3-224": (
        "arXiv:2104.02057; facebookresearch/moco-v3, CONFIG.md, ResNet-50, 100 epochs",
        {
            "optim.name": "lars", "step.lr": 0.45 * 16, "optim.weight_decay": 1e-6, "optim.warmup_epochs": 10.0,
            "method.temperature": 1.0, "method.momentum": 0.99, "method.momentum_end": 1.0, "train.batch_size": 4096,
            "train.epochs": 100.0, "view.crop": (0.2, 1.0),
        },
    ),
    "nnclr-224": (
        "arXiv:2104.14548, the heads as lightly quotes them",
        {"method.projector.layers": 3, "method.projector.out": 256, "method.projector.last_norm": "batch",
         "method.predictor_head.hidden": 4096, "method.predictor_head.last_norm": "none", "train.epochs": 1000.0},
    ),
    "directpred-224": (
        "arXiv:2102.06810, table 9 and appendix: BYOL's dimensions, 300 epochs, LARS, batch 4096",
        {"method.projector.hidden": 4096, "method.projector.out": 256, "method.predictor_options.every": 1,
         "optim.name": "lars", "train.epochs": 300.0, "train.batch_size": 4096},
    ),
    "isoloss-224": (
        "arXiv:2212.04858; fmi-basel/implicit-var-reg, scripts/pretrain/imagenet/isoloss.yaml",
        {
            "method.target": "momentum", "method.momentum": 0.99, "method.predictor_options.rho": 0.998,
            "method.predictor_options.eps": 0.0, "method.predictor_options.straight_through": True,
            "method.projector.hidden": 4096, "method.projector.out": 256, "step.lr": 0.45, "optim.weight_decay": 1e-5,
            "train.batch_size": 64 * 4 * 16, "train.accumulate": 16, "train.epochs": 100.0,
        },
    ),
    "barlow-224": (
        "arXiv:2103.03230; facebookresearch/barlowtwins, main.py",
        {
            "method.balance": 0.0051, "method.projector.hidden": 8192, "method.projector.out": 8192,
            "optim.name": "lars", "step.lr": 0.2 * 8, "optim.weight_decay": 1e-6, "optim.warmup_epochs": 10.0,
            "optim.final_lr": 0.001, "train.batch_size": 2048, "train.epochs": 1000.0,
        },
    ),
    "vicreg-224": (
        "arXiv:2105.04906; facebookresearch/vicreg, README, single node",
        {
            "method.invariance": 25.0, "method.variance": 25.0, "method.covariance": 1.0, "method.projector.out": 8192,
            "optim.name": "lars", "step.lr": 0.3 * 2, "optim.weight_decay": 1e-6, "optim.final_lr": 0.001,
            "optim.exclude_norm_and_bias": True, "train.batch_size": 512, "train.epochs": 100.0,
        },
    ),
    "unigrad-224": (
        "arXiv:2112.05141; fundamentalvision/UniGrad, configs/unigrad.py",
        {
            "method.balance": 100.0, "method.rho": 0.99, "method.momentum": 0.996, "method.momentum_end": 1.0,
            "method.projector.layers": 3, "method.projector.out": 2048, "method.projector.last_norm": "none",
            "optim.name": "sgd", "step.lr": 0.2, "optim.weight_decay": 1e-4, "optim.exclude_norm_and_bias": False,
            "optim.warmup_epochs": 5.0, "train.batch_size": 1024, "train.epochs": 100.0,
        },
    ),
    "tico-224": (
        "lightly, benchmarks/imagenet/resnet50/tico.py",
        {
            "method.rho": 0.9, "method.balance": 2 * 8.0, "method.momentum": 0.99, "method.projector.hidden": 4096,
            "method.projector.out": 256, "optim.name": "lars", "step.lr": 0.2, "optim.weight_decay": 1.5e-6,
            "train.batch_size": 256, "train.epochs": 100.0,
        },
    ),
    "corinfomax-224": (
        "arXiv:2209.07999; serdarozsoy/corinfomax-ssl, README, ImageNet-1K, with theirs = 2 alpha / d times ours",
        {
            "method.rho": 0.1, "method.balance": 2 * (1 - 0.1) / 2000, "method.eps": 1e-8, "method.projector.out": 512,
            "method.projector.hidden": 8192, "step.lr": 0.2 * 2 * 2000 / 512,
            "optim.weight_decay": 1e-4 / (2 * 2000 / 512), "optim.warmup_epochs": 10.0, "train.batch_size": 1536,
            "train.epochs": 100.0,
        },
    ),
    "mmcr-224": (
        "arXiv:2303.03307; ThomasYerxa/mmcr, pretrain_imagenet.py and mmcr/imagenet/train.py",
        {
            "method.projector.hidden": 8192, "method.projector.out": 512, "optim.name": "lars", "step.lr": 0.8 * 8,
            "optim.weight_decay": 1e-6, "optim.warmup_epochs": 10.0, "optim.final_lr": 0.001,
            "train.batch_size": 2048, "train.epochs": 100.0,
        },
    ),
    "dino-224": (
        "arXiv:2104.14294; facebookresearch/dino, README, ResNet-50, and main_dino.py",
        {
            "method.prototypes": 65_536, "method.temperature": 0.1, "method.target_temperature": 0.04,
            "method.centre_momentum": 0.9, "method.momentum": 0.996, "method.momentum_end": 1.0,
            "method.projector.out": 256, "views.local_crops": 8, "views.local_size": 96, "views.local_min": 0.05,
            "views.local_max": 0.14, "view.crop": (0.14, 1.0), "optim.name": "sgd", "step.lr": 0.03 * 2,
            "optim.weight_decay": 1e-4, "optim.clip_norm": 3.0, "optim.warmup_epochs": 10.0,
            "train.batch_size": 8 * 64, "train.epochs": 100.0,
        },
    ),
    "swav-224": (
        "arXiv:2006.09882; facebookresearch/swav, scripts/swav_100ep_pretrain.sh",
        {
            "method.prototypes": 3000, "method.temperature": 0.1, "method.target_temperature": 0.05,
            "method.iterations": 3, "method.projector.out": 128, "views.local_crops": 6, "views.local_size": 96,
            "views.local_min": 0.05, "views.local_max": 0.14, "view.crop": (0.14, 1.0), "optim.name": "lars",
            "step.lr": 4.8, "optim.weight_decay": 1e-6, "optim.warmup_epochs": 10.0, "optim.final_lr": 0.0048 / 4.8,
            "train.batch_size": 64 * 64, "train.epochs": 100.0,
        },
    ),
    "lejepa-224": (
        "arXiv:2511.08544; rbalestr-lab/lejepa, README",
        {
            "method.slices": 1024, "method.knots": 17, "views.local_crops": 6, "views.local_size": 98,
            "views.local_min": 0.05, "views.local_max": 0.3, "view.crop": (0.3, 1.0), "optim.name": "adamw",
            "step.lr": 5e-4, "optim.weight_decay": 5e-4, "optim.final_lr": 0.001,
        },
    ),
    "mocov2-cifar10": (
        LIGHTLY,
        LIGHTLY_SGD | {"method.bank": 8192, "method.temperature": 0.1, "method.momentum": 0.99,
                       "method.momentum_end": 0.99, "method.projector.hidden": 512, "method.projector.out": 128},
    ),
    "nnclr-cifar10": (
        LIGHTLY,
        LIGHTLY_SGD | {"method.bank": 8192, "method.temperature": 0.5, "method.projector.layers": 2,
                       "method.projector.hidden": 2048, "method.predictor_head.hidden": 4096},
    ),
    "barlow-cifar10": (
        LIGHTLY,
        LIGHTLY_SGD | {"method.balance": 0.005, "method.projector.layers": 2, "method.projector.out": 2048},
    ),
    "dino-cifar10": (
        LIGHTLY,
        LIGHTLY_SGD | {"method.prototypes": 2048, "method.momentum": 0.99, "method.projector.layers": 2,
                       "method.projector.hidden": 2048, "method.target_temperature": 0.04, "view.crop": (0.4, 1.0)},
    ),
    "swav-cifar10": (
        LIGHTLY,
        {"method.prototypes": 512, "method.projector.hidden": 512, "method.projector.out": 128, "step.lr": 4e-3,
         "optim.weight_decay": 1e-6, "train.epochs": 200.0, "view.crop": (0.14, 1.0)},
    ),
    "directpred-cifar10": (
        "arXiv:2102.06810, appendix; theirs = 4 times ours, 0.03 at batch 128",
        {
            "method.projector.hidden": 512, "method.projector.out": 128, "method.projector.norm": "batch-no-affine",
            "method.momentum": 0.996, "method.momentum_end": 0.996, "method.predictor_options.rho": 0.3,
            "method.predictor_options.eps": 0.1, "optim.final_lr": 1.0, "step.lr": 0.03 * 4 * 512 / 128,
            "optim.weight_decay": 4e-4 / 4,
        },
    ),
    "isoloss-cifar10": (
        "arXiv:2212.04858; fmi-basel/implicit-var-reg, isoloss-noema.yaml; theirs = 4 times ours",
        {
            "method.target": "detached", "method.predictor_options.rho": 0.5, "method.predictor_options.eps": 0.0,
            "method.projector.hidden": 4096, "step.lr": 0.1 * 4 * 2, "optim.weight_decay": 1e-4 / 4,
        },
    ),
    "wmse-cifar10": (
        "arXiv:2007.06346; htdt/self-supervised, README (W-MSE 2) and cfg.py",
        {"method.projector.hidden": 1024, "method.projector.out": 64, "method.whiten_group": 128, "method.eps": 0.0,
         "step.lr": 3e-3, "optim.weight_decay": 1e-6, "train.batch_size": 512},
    ),
    "corinfomax-cifar10": (
        "arXiv:2209.07999; serdarozsoy/corinfomax-ssl, README, CIFAR-10, with theirs = 2 alpha / d times ours",
        {
            "method.rho": 0.01, "method.balance": 2 * (1 - 0.01) / 250, "method.eps": 1e-8,
            "method.projector.layers": 3, "method.projector.hidden": 2048, "method.projector.out": 64,
            "step.lr": 0.5 * 2 * 250 / 64, "optim.weight_decay": 1e-4 / (2 * 250 / 64), "train.batch_size": 512,
        },
    ),
    "mmcr-cifar10": (
        "arXiv:2303.03307; ThomasYerxa/mmcr, pretrain_cifar_stl.py and mmcr/cifar_stl",
        {"method.projector.hidden": 512, "method.projector.out": 128, "step.lr": 1e-3, "optim.weight_decay": 1e-6},
    ),
    "lejepa-cifar10": (
        "arXiv:2511.08544; rbalestr-lab/lejepa, MINIMAL.md and README",
        {"method.balance": 0.02, "method.knots": 17, "step.lr": 2e-3, "optim.weight_decay": 5e-4,
         "optim.warmup_epochs": 1.0, "optim.final_lr": 0.001},
    ),
}  # fmt: skip


def figure(recipe, path):
    """The value at a dotted path; `step.lr` and `view.crop` are what the recipe makes of several fields."""
    if path == "step.lr":
        return recipe.optim.lr * (recipe.train.batch_size / 256 if recipe.optim.lr_scaling else 1)
    if path == "view.crop":
        return specs_of(recipe)[0].crop_scale
    value = recipe
    for name in path.split("."):
        value = getattr(value, name)
    return value


def differences(recipe, figures):
    """Which of the published figures the recipe does not have."""
    found = {path: figure(recipe, path) for path in figures}
    return {
        path: got
        for path, got in found.items()
        if not (math.isclose(got, figures[path], rel_tol=1e-9) if isinstance(got, float) else got == figures[path])
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_both_recipes_with_their_source(name):
    text = (recipes.shipped_folder() / f"{name}.toml").read_text()
    named = tomllib.loads(text)["method"]["name"]
    recipe = recipes.load(name)
    assert named == recipe.method.name == name.rpartition("-")[0]
    header = text[: text.index("\n[")].splitlines()
    assert all(line.startswith("# ") for line in header if line)
    assert "arXiv:" in text or "lightly's CIFAR-10 table" in text
    expected = ("resnet50", "imagenet", 224) if name.endswith("-224") else ("resnet18", "cifar", 32)
    size = recipe.views.size or recipe.data.size
    assert (recipe.network.backbone, recipe.network.stem, size) == expected


@pytest.mark.parametrize("name", NAMES)
def test_views_and_objective_fit_the_recipe(name):
    """Crops are large enough, the bank holds two steps, whitening has more samples than dimensions."""
    recipe = recipes.load(name)
    row, batch = recipe.method, recipe.train.batch_size // recipe.train.accumulate
    assert len(specs_of(recipe)) == 2 + recipe.views.local_crops
    objectives.create(row.objective, dataclasses.asdict(row), row.projector.out)
    if row.bank:
        assert row.bank >= 2 * batch
    if row.objective == "whitening":
        assert batch % row.whiten_group == 0 and row.whiten_group > row.projector.out


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    source, figures = PUBLISHED[name]
    assert differences(recipes.load(name), figures) == {}, source


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_wrong_figure_is_found(name):
    """Negative control: every figure of the table, changed alone, is the one difference that is reported."""
    recipe, figures = recipes.load(name), PUBLISHED[name][1]
    for path, value in figures.items():
        if isinstance(value, bool):
            wrong = not value
        elif isinstance(value, str):
            wrong = value + "?"
        else:
            wrong = (0.5, 0.6) if isinstance(value, tuple) else value * 1.01 + 1e-4
        assert list(differences(recipe, figures | {path: wrong})) == [path]


def gradient(loss, z):
    """dL/dz of a loss of z (2, n, d), through the normaliser."""
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(F.normalize(z, dim=2)), z)[0]


def objective(row):
    return objectives.create(row.objective, dataclasses.asdict(row), row.projector.out).double()


def same_step(recipe, ours, theirs, rate, decay):
    """Whether a rate and a coupled decay with their gradient give the recipe's step with ours."""
    weight = torch.randn_like(ours)
    step = figure(recipe, "step.lr") * (ours + recipe.optim.weight_decay * weight)
    return torch.allclose(step, rate * (theirs + decay * weight), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "alpha", "keep", "rate"), [("corinfomax-cifar10", 250, 0.01, 0.5), ("corinfomax-224", 2000, 0.1, 0.2)]
)
def test_corinfomax_takes_the_published_step(name, alpha, keep, rate):
    """The authors' loss, on views that are permutations of each other, so that both have our F as covariance."""
    torch.manual_seed(0)
    recipe, d = recipes.load(name), recipes.load(name).method.projector.out
    z = torch.randn(d + 40, d, dtype=torch.float64)
    z = torch.stack([z, z.roll(1, 0)])
    u = F.normalize(z, dim=2)
    own, old = objective(recipe.method), torch.cov(u[0].T, correction=0)
    own.prepare(list(u), list(u))

    def theirs(u):
        covariances = [keep * old + (1 - keep) * torch.cov(v.T, correction=0) for v in u]
        volume = sum(torch.logdet(c + recipe.method.eps * torch.eye(d)) for c in covariances)
        return alpha * F.mse_loss(u[0], u[1]) - volume / d

    ours = gradient(lambda u: own(list(u), list(u)), z)
    assert same_step(recipe, ours, gradient(theirs, z), rate, 1e-4)
    assert not same_step(recipe, ours, gradient(lambda u: 1.01 * theirs(u), z), rate, 1e-4)


@pytest.mark.parametrize(
    ("name", "rate", "decay"), [("directpred-cifar10", 0.03 * 512 / 128, 4e-4), ("isoloss-cifar10", 0.1 * 2, 1e-4)]
)
def test_directpred_takes_the_published_step(name, rate, decay):
    """Theirs: -2 cos, summed over both views."""
    torch.manual_seed(0)
    recipe = recipes.load(name)
    z, target = torch.randn(2, 2, 20, recipe.method.projector.out, dtype=torch.float64)
    own, fixed = objective(recipe.method), list(F.normalize(target, dim=2))
    ours = gradient(lambda u: own(list(u), fixed), z)
    theirs = gradient(lambda u: -2 * (u[0] * fixed[1] + u[1] * fixed[0]).sum(1).mean(), z)
    assert same_step(recipe, ours, theirs, rate, decay)
    assert not same_step(recipe, ours, 2 * theirs, rate, decay)
