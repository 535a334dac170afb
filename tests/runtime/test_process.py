"""Freed memory stays with the process, unless the user says otherwise."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, resource
import torch
from autopar.runtime.process import keep_freed_memory

for switch in ("system", ""):
    os.environ["AUTOPAR_MALLOC"] = switch
    print(keep_freed_memory())
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
    system, faults, kept, fewer = done.stdout.split()
    pages = (1 << 26) // 4096
    assert (system, kept) == ("False", "True")
    assert int(faults) > pages
    assert int(fewer) < pages // 4
