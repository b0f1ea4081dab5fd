"""Processes that are killed, stopped or of two minds: who is named, and what torchrun makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import (
    FAST,
    LAUNCHER,
    end,
    environment,
    figures,
    free_port,
    rank,
    start,
    steps,
    train,
    wait_for,
    write_recipe,
)

from siamscope.rundir import RunDir, RunError, read_jsonl
from siamscope.training import checkpoint
from siamscope.training.distributed import patience

STEPS = 24
SLEEPER = Path(__file__).with_name("sleeper.py")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A recipe with a checkpoint every 4 steps."""
    return write_recipe(tmp_path_factory.mktemp("recipe") / "r.toml", "simsiam", steps=STEPS, checkpoint_steps=4)


@pytest.fixture(scope="module")
def undisturbed(file, tmp_path_factory):
    """The same on two processes that nobody disturbs, with nothing left of /dev/shm where one may arrange that."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    command = [*LAUNCHER, "--standalone", "--nproc-per-node=2", *train(file, out)]
    done = subprocess.run(
        [*without_shared_memory(), *command],
        timeout=300,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def without_shared_memory() -> list[str]:
    """A prefix that gives a command a /dev/shm that is full, or none where that is not allowed."""
    fill = "mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 4096 /dev/zero > /dev/shm/full"
    prefix = ["unshare", "--mount", "sh", "-c", f'{fill} && exec "$@"', "sh"]
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return []
    return prefix if allowed else []


def test_processes_need_no_shared_memory(undisturbed):
    """The undisturbed run was one without; there another program finds nothing left."""
    prefix = without_shared_memory()
    if not prefix:
        pytest.skip("a mount namespace of one's own is not allowed here")
    code = (
        "from multiprocessing.shared_memory import SharedMemory as S; S(create=True, size=65536).buf[:] = bytes(65536)"
    )
    assert subprocess.run([*prefix, sys.executable, "-c", code], capture_output=True, check=False).returncode != 0
    assert max(steps(undisturbed)) == STEPS


def test_a_killed_rank_is_named_and_the_restart_ends_with_the_same_figures(file, undisturbed, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    launcher = start(["--standalone", "--nproc-per-node=2", "--max-restarts=3"], train(file, out), log)
    try:
        wait_for(out, 6)
        os.kill(rank(1, launcher), signal.SIGKILL)
        assert launcher.wait(timeout=200) == 0, log.read_text()
    finally:
        end(launcher)
    said = log.read_text()
    assert "rank 1 (process" in said
    assert "is gone" in said
    assert "step-00000004.pt" in said
    assert "Traceback" not in said
    events = [line["message"] for line in read_jsonl(out / "metrics.jsonl") if line["kind"] == "event"]
    assert len(events) == 1
    assert events[0].startswith("resumed after step")
    assert steps(out) == steps(undisturbed)  # bit by bit
    assert sorted(steps(out)) == list(range(1, STEPS + 1))
    assert figures(out) == figures(undisturbed)


def test_a_lost_node_leaves_the_order_as_it_is(file, undisturbed, tmp_path):
    """Two 'nodes', one of which dies with its launcher: the other goes on alone, with the same batches and views."""
    out, log, endpoint = tmp_path / "run", tmp_path / "log", f"localhost:{free_port()}"
    options = ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=7"]
    options += [f"--rdzv-endpoint={endpoint}", "--local-addr=localhost", "--rdzv-conf"]
    stays = start([*options, f"{FAST},is_host=1"], train(file, out), log)
    goes = start([*options, f"{FAST},is_host=0"], train(file, out), tmp_path / "other")
    try:
        wait_for(out, 9)
        assert json.loads((out / "environment.json").read_text())["processes"] == 2
        end(goes)
        assert stays.wait(timeout=200) == 0, log.read_text()
    finally:
        end(goes)
        end(stays)
    assert json.loads((out / "environment.json").read_text())["processes"] == 1
    losses, before = steps(out), steps(undisturbed)
    assert [losses[step] for step in range(1, 5)] == [before[step] for step in range(1, 5)]
    assert losses != before  # sums in another order
    assert losses == pytest.approx(before, abs=1e-4)


def test_a_rank_that_hangs_is_named(file, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    launcher = start(
        ["--standalone", "--nproc-per-node=2"], train(file, out), log, SIAMSCOPE_TIMEOUT_MINUTES="0.05"
    )  # fmt: skip
    try:
        wait_for(out, 5)
        hung = rank(1, launcher)
        os.kill(hung, signal.SIGSTOP)
        until = time.monotonic() + 60
        while "not answered" not in log.read_text() and time.monotonic() < until:
            time.sleep(0.1)
        os.kill(hung, signal.SIGKILL)  # a stopped process does not hear torchrun
        assert launcher.wait(timeout=100) != 0
    finally:
        end(launcher)
    said = log.read_text()
    assert f"rank 1 (process {hung} on" in said
    assert "has not answered for 3 s" in said
    assert checkpoint.load(checkpoint.numbered(RunDir(out))[-1], RunDir(out).recipe()).step >= 4


def test_a_rank_that_sleeps_outside_a_step_is_named(file, tmp_path):
    """Its pulse goes on; the exchange of the measurement's features, which misses it, runs out of time."""
    out, log = tmp_path / "run", tmp_path / "log"
    launcher = start(
        ["--standalone", "--nproc-per-node=2"], [str(SLEEPER), *train(file, out)[2:]], log,
        SIAMSCOPE_TIMEOUT_MINUTES="0.05",
    )  # fmt: skip
    try:
        assert launcher.wait(timeout=100) != 0
    finally:
        end(launcher)
    said = log.read_text()
    assert "rank 1 (process" in said and "did not come to where the others wait" in said
    assert "last checkpoint is" in said


def test_a_timeout_that_is_none(monkeypatch):
    for text in ("soon", "0", "-1", "nan"):
        monkeypatch.setenv("SIAMSCOPE_TIMEOUT_MINUTES", text)
        with pytest.raises(RunError, match="SIAMSCOPE_TIMEOUT_MINUTES must be a number of minutes above 0"):
            patience()
    monkeypatch.setenv("SIAMSCOPE_TIMEOUT_MINUTES", "0.5")
    assert patience() == 30
