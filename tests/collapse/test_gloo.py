"""Two processes that share the rows hold the same scores as one that sees them all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from siamscope.collapse import moment_scores, moments

SCRIPT = Path(__file__).with_name("gloo_moments.py")


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 24)) * np.arange(1, 25) ** -0.5 + 100
    np.save(tmp_path / "x.npy", x)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(SCRIPT), str(tmp_path / "x.npy"), str(tmp_path / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = moment_scores(moments(x))
    for rank in range(2):
        found = json.loads((tmp_path / f"out.{rank}.json").read_text())
        for way in ("shared", "one empty"):
            assert found[way]["n"] == 2000 and found[way]["dtype"] == "float64"
            for name, value in expected.items():
                assert found[way]["scores"][name] == pytest.approx(value, rel=1e-9), (way, name)
        point = found["point"]  # one process saw no row, and still knows their number format
        assert point["dtype"] == "float32" and point["constant"] and point["spread"] > 0
