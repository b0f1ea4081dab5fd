"""Cores within the affinity and the control group's quota, for decoding as for the computation."""

from pathlib import Path

import pytest

from siamscope.data import cores, pool


def test_a_quota_of_processor_time_bounds_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert cores.usable_cores(tmp_path) == 16, "no control group"
    for text, count in (("150000 100000\n", 2), ("max 100000\n", 16), ("20000 100000\n", 1), ("nonsense", 16)):
        (tmp_path / "cpu.max").write_text(text)
        assert cores.usable_cores(tmp_path) == count
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    for quota, count in (("300000", 3), ("-1", 16)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
        assert cores.usable_cores(tmp_path) == count


def test_decoding_processes_keep_to_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for quota, count in ((2.0, 2), (None, 64)):
        monkeypatch.setattr(cores, "_quota", lambda _, quota=quota: quota)
        assert pool.worker_count(0) == count
