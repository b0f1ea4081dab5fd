"""How much memory is to be had."""

from pathlib import Path


def available_memory() -> int:
    """Bytes that this process could still use: what the system calls available, or less under a container's limit."""
    amounts = [amount for amount in (_of_system(), _of_container()) if amount is not None]
    return min(amounts, default=4 * 10**9)


def budget(megabytes: int) -> int:
    """The memory budget in bytes: as given, or half of what is available."""
    return megabytes * 10**6 if megabytes else available_memory() // 2


def _of_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _of_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container may still use. Its count holds the page cache, which a cache just written fills."""
    try:
        limit = int((folder / "memory.max").read_text())  # "max" without a limit
        used = int((folder / "memory.current").read_text())
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = int(fields["inactive_file"]) + int(fields["active_file"])  # given back when somebody needs it
        return max(0, limit - max(0, used - files))
    except (OSError, ValueError, KeyError):
        return None
