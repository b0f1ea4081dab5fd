"""How many cores this process may use."""

import os
from pathlib import Path


def usable_cores(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, and the control group's quota rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(group)
    return cores if quota is None else max(1, min(cores, -int(-quota // 1)))


def _quota(group: Path) -> float | None:
    """Cores' worth of time in a period: version 2 (cpu.max) or 1 of control groups; None without a limit."""
    try:
        share, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return None if share == "max" else int(share) / int(period)
    except (OSError, ValueError):
        pass
    try:
        share, period = ((group / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(share) / int(period) if int(share) > 0 else None
    except (OSError, ValueError):
        return None
