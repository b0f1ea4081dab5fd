"""Threads within what the process may use, and memory that stays."""

import subprocess
import sys

import pytest
import torch

from siamscope.training import machine


def test_threads_are_the_recipes_or_torchs_within_what_is_allowed(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    for cores, expected in ((2, 2), (32, 8)):
        monkeypatch.setattr(machine, "usable_cores", lambda cores=cores: cores)
        assert machine.threads(0) == expected
    assert machine.threads(3) == 3


FAULTS = """
import ctypes, resource, torch
from siamscope.training import machine

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

ctypes.CDLL(None).mallopt(-3, 2**17)  # blocks from 128 KiB on come from the system, and go back to it
returned = faults()
assert machine.keep_memory()
faults(), faults()  # the heap grows until blocks fit where earlier ones lay
print(returned, faults())
"""


@pytest.mark.skipif(not machine.keep_memory(), reason="another libc than glibc")
def test_freed_memory_is_kept():
    """Pages touched for the first time when 64 MB are taken, filled and given back ten times; in a fresh process."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    returned, kept = map(int, done.stdout.split())
    assert kept < returned / 5
