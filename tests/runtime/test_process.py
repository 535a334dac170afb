"""Freed memory stays with the process, unless that might take a rank over its limit, or the user says otherwise."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, resource
import torch
from autopar.runtime.process import set_allocator


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


print(set_allocator(gives_back=True))
before = resident()
held = [torch.ones(1 << 20) for _ in range(64)]
most = resident() - before
del held[::2]  # every other one: a heap would keep the holes
print(most, resident() - before)

for switch in ("system", "keep"):
    os.environ["AUTOPAR_MALLOC"] = switch
    print(set_allocator(gives_back=False))
    for _ in range(3):
        torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(1 << 24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    """Page faults of touching four times 64 MiB that have been freed before, in a process whose heap nobody has used."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    returned, most, half, system, faults, kept, fewer = done.stdout.split()
    pages = (1 << 26) // 4096
    assert (system, kept) == ("False", "True")
    assert int(faults) > pages
    assert int(fewer) < pages // 4
    assert returned == "True"
    assert int(most) > 4 * pages - 100
    assert int(half) < 2 * pages + pages // 8
