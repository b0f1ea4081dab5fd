"""Locks between processes on one disk. The system releases them when their holder ends, however it ends."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siamscope.data.descriptors import exhausted

if sys.platform != "win32":
    import fcntl

_MODE = "a+"  # network disks want a file open for reading to share a lock on it, and for writing to have it alone
_NOT_HERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # a network disk without locks


@contextmanager
def claimed(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file at `path` alone and yield True; yield False at once if somebody has it and not `wait`.

    Whoever removes the file must hold it, and whoever gets it must look again whether the work is done: the lock may
    be one on a file that was removed meanwhile. Without locks (Windows, some network disks) all get it; the last
    rename then wins.
    """
    with path.open(_MODE) as file:
        yield _lock(file.fileno(), exclusive=True, wait=wait)


class Company:
    """A lock file that all who work on something hold together."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def alone(self) -> bool:
        """Whether nobody else works on it, and from now on nobody can begin. Nothing is held if somebody does."""
        return _lock(self._descriptor, exclusive=True, wait=False)


@contextmanager
def company(path: Path) -> Iterator[Company]:
    """Hold the lock file at `path` together with others; waits while somebody who is alone tidies up."""
    with path.open(_MODE) as file:
        _lock(file.fileno(), exclusive=False, wait=True)
        yield Company(file.fileno())


class Held:
    """A lock that is held until this object goes, or the process ends."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def held(path: Path) -> Held | None:
    """Hold the lock file at `path` together with others; waits while somebody has it alone. None if that cannot be:
    there is no such file and none can be made, as on a disk that may only be read, or the disk knows no locks.

    The lock is on the file that lies at `path` at that moment: whoever removes that file must have it alone. Raises
    OSError if no further file can be opened.
    """
    while (descriptor := _opened(path)) >= 0:
        lock = Held(descriptor)
        try:
            _lock(descriptor, exclusive=False, wait=True)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return lock
        except FileNotFoundError:
            continue  # removed by whom we waited for
        except OSError:
            break
    return None


def _opened(path: Path) -> int:
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        try:
            return os.open(path, flags, 0o666)
        except OSError as error:
            if exhausted(error):
                raise
    return -1


def _lock(descriptor: int, exclusive: bool, wait: bool) -> bool:
    if sys.platform == "win32":
        return True
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    return True


def removed(path: Path) -> None:
    """Remove a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
