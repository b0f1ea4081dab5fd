"""Two processes follow one: same global batch, same views, synchronised batch norm, gathered negatives.

In float32, as a user runs it; the equality in float64, to 1e-12, is in test_world_sizes.py.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from siamscope import methods, networks, recipe
from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint

SCRIPT = Path(__file__).with_name("two_ranks.py")


def torchrun(*command: str, processes: int = 2, **more) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, *command], env=environment, capture_output=True, text=True, timeout=300, check=False, **more
    )


# Name of a run: the method, changed cells, changed options of the optimiser.
CASES: dict = {name: (name, {}, {}) for name in methods.METHODS} | {
    "decay-per-step": (
        "simsiam", {"predictor": "linear"},
        {"decay": "per-step", "weight_decay": 0.02, "predictor_lr": 4.0, "predictor_weight_decay": 0.05},
    ),
    "isotropic": ("simsiam", {"regulariser": "isotropic"}, {}),
    "distilled": (
        "simsiam", {"target": "teacher", "predictor": "none", "normalise": "none", "distance": "euclidean"},
        {"lr": 0.02},
    ),
}  # fmt: skip


@pytest.fixture
def recipes(small, tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    torch.manual_seed(1)
    teacher = networks.create("resnet8", width=0.25).eval()
    networks.save_encoder(tmp_path / "teacher", teacher, {"input_size": 16, "mean": [0.5] * 3, "std": [0.2] * 3})
    for name, (method, cells, optim) in CASES.items():
        config = small(method, train={"steps": 5}, optim={"lr": 0.1} | optim, monitor={"interval": 5})
        cells = cells | ({"teacher": str(tmp_path / "teacher")} if name == "distilled" else {})
        config = dataclasses.replace(config, method=dataclasses.replace(config.method, **cells))
        (folder / f"{name}.toml").write_text(recipe.to_toml(config))
    return folder


def test_two_ranks_follow_one(recipes, tmp_path):
    done = torchrun(str(SCRIPT), str(recipes), str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    alone = [sys.executable, str(SCRIPT), str(recipes), str(tmp_path / "one")]
    subprocess.run(alone, check=True, timeout=300)
    for name in CASES:
        one, two = RunDir(tmp_path / "one" / name), RunDir(tmp_path / "two" / name)
        losses = [[line["loss"] for line in read_jsonl(run.metrics) if line["kind"] == "step"] for run in (one, two)]
        assert len(losses[0]) == len(losses[1]) == 5
        assert losses[1] == pytest.approx(losses[0], rel=2e-4, abs=2e-5), name
        a, b = (checkpoint.load(checkpoint.numbered(run)[-1], run.recipe()).model for run in (one, two))
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(b[key], a[key], rtol=1e-3, atol=1e-4, msg=f"{name}: {key}")
        moved = max((a[k] - v).abs().max().item() for k, v in start(one).items())
        assert moved > 1e-3, "nothing was learnt: the comparison would be empty"


def start(run: RunDir) -> dict[str, torch.Tensor]:
    """The weights at step 0."""
    from siamscope.training.build import build_model

    return {k: v for k, v in build_model(run.recipe(), 3).state_dict().items() if k.endswith("weight")}


def test_the_command_line_under_torchrun(recipes, tmp_path):
    """One run directory, written once; a batch that cannot be shared is refused."""
    run = tmp_path / "run"
    command = ["-m", "siamscope", "train", "--recipe", str(recipes / "simsiam.toml"), "--steps", "2", "--out", str(run)]
    done = torchrun(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [line["step"] for line in read_jsonl(run / "metrics.jsonl") if line["kind"] == "step"]
    assert steps == [1, 2]
    assert (run / "report.html").is_file()
    assert done.stdout.count("verdict") == 1
    odd = torchrun(*command, "--batch-size", "31", "--overwrite", cwd=tmp_path)
    assert odd.returncode != 0
    assert "31 images cannot be shared out evenly among 2 processes" in odd.stderr
