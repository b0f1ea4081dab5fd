"""Settings of the process for its machine: threads within what it may use, and memory that it keeps."""

from __future__ import annotations

import ctypes

import torch

from siamscope.data.cores import usable_cores

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
_GIBIBYTE = 2**30


def threads(setting: int) -> int:
    """Threads of the computation: `setting`, or with 0 torch's choice, but no more than the process may use.

    torch counts physical cores; a container's quota of processor time it does not see, and threads that wait for their
    share of it stop all others at every operation.
    """
    if setting:
        return setting
    return max(1, min(torch.get_num_threads(), usable_cores()))


def keep_memory() -> bool:
    """Have glibc keep freed blocks up to 1 GiB for the next step instead of handing them back; whether it does.

    A step frees and takes again the same hundreds of MB, and each fresh page costs a fault: 44,000 faults and 60 of 400
    ms a step with ResNet-8 and 256 images. The price, measured: 0.86 instead of 0.77 GB at most there, and 2.4 instead
    of 1.7 GB with ResNet-18 and 64 images.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another libc
        return False
    return bool(set_option(_MMAP_THRESHOLD, _GIBIBYTE) and set_option(_TRIM_THRESHOLD, 2 * _GIBIBYTE - 1))
