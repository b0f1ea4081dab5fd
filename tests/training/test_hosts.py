"""Two 'hosts', that is two network namespaces with a cable between them and a disk each, follow one process."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest
from launching import FAST, environment, figures, start, steps, train, write_recipe
from launching import end as end_of
from PIL import Image

NAMES = ("siamscope-a", "siamscope-b")
PORT = "29517"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def cable():
    """Interfaces of two namespaces with the addresses 10.213.7.1 and .2; skipped where they may not be made."""
    ends = ("ss-a", "ss-b")
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (name, end) in enumerate(zip(NAMES, ends, strict=True), 1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"10.213.7.{number}/24", "dev", end)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", end, "up")
        yield ends
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    finally:
        for name in NAMES:
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def photos(folder):
    """A host's own copy of 60 images in two classes."""
    rng = np.random.default_rng(0)
    for number in range(60):
        path = folder / "photos" / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        level = 60 + 120 * (number % 2)
        Image.fromarray(rng.integers(level - 50, level + 50, (20, 20, 3), dtype=np.uint8)).save(path)


def test_two_hosts_follow_one_process(cable, tmp_path, monkeypatch):
    data = {"source": "photos", "kind": "folder", "samples": 0, "test_samples": 0}
    recipe = write_recipe(tmp_path / "r.toml", "simsiam", data, steps=6)
    hosts = [tmp_path / name for name in ("a", "b", "alone")]
    for host in hosts:
        photos(host)
    launchers = []
    for number, (host, name, end) in enumerate(zip(hosts, NAMES, cable, strict=False)):
        options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=1"]
        options += [f"--rdzv-endpoint=10.213.7.1:{PORT}", f"--local-addr=10.213.7.{number + 1}"]
        options += [f"--rdzv-conf={FAST},is_host={1 - number}"]
        monkeypatch.chdir(host)
        launchers.append(
            start(
                options, train(recipe, "run"), host / "log", ["ip", "netns", "exec", name],
                GLOO_SOCKET_IFNAME=end, SIAMSCOPE_CACHE=str(host / "cache"),
            )
        )  # fmt: skip
    monkeypatch.chdir(hosts[2])
    alone = [sys.executable, *train(recipe, "run")]
    more = environment(SIAMSCOPE_CACHE=str(hosts[2] / "cache"))
    try:
        subprocess.run(alone, check=True, timeout=300, env=more, capture_output=True)
        codes = [launcher.wait(timeout=300) for launcher in launchers]
    finally:
        for launcher in launchers:
            end_of(launcher)
    assert codes == [0, 0], [(host / "log").read_text()[-2000:] for host in hosts[:2]]

    wrote = [host for host in hosts[:2] if (host / "run").exists()]
    assert len(wrote) == 1, "rank 0's host holds the run, and no other"
    run, one = wrote[0] / "run", hosts[2] / "run"
    assert steps(run) == pytest.approx(steps(one), abs=1e-5)
    assert sorted(steps(run)) == list(range(1, 7))
    assert len(list((run / "checkpoints").glob("step-*.pt"))) == len(list((one / "checkpoints").glob("step-*.pt")))
    merged, whole = figures(run), figures(one)
    assert merged.keys() == whole.keys()
    assert {"0 knn", "6 feature_effective_rank", "6 lidar", "score auc_sigma", "trained 1"} <= merged.keys()
    assert merged == pytest.approx(whole, rel=1e-3, abs=1e-4)
    for host in hosts:  # each decodes its own images
        assert sum(file.stat().st_size for file in (host / "cache").rglob("*") if file.is_file()) >= 60 * 3 * 16 * 16
