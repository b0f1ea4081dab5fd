"""The limit on files that a process has open at once."""

import errno
import sys

if sys.platform != "win32":
    import resource

_SHARE = 4  # of the limit for one set of files: train, val and test, and the rest for everybody else


def share_of_descriptors(most: int) -> int:
    """Files that one owner should keep open: `most`, or fewer if the process's limit is low; at least 1."""
    if sys.platform == "win32":
        return most
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most if limit == resource.RLIM_INFINITY else max(1, min(most, limit // _SHARE))


def exhausted(error: OSError) -> bool:
    """Whether the process (or the system) may open no further file."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def too_many(error: OSError) -> str:
    """What a user should know of an error for which `exhausted` holds."""
    limit = "" if sys.platform == "win32" else f", limit {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"
    return (
        f"no further file can be opened ({error.strerror}{limit}): raise the limit on open files (ulimit -n 4096) and "
        "start again"
    )
