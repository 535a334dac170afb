"""Freed memory stays with the process, unless the user says otherwise."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from autopar.runtime.process import keep_freed_memory

print(keep_freed_memory())
for _ in range(3):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(monkeypatch, switch):
    """Page faults of touching four times 64 MiB that have been freed before."""
    monkeypatch.setenv("AUTOPAR_MALLOC", switch)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    kept, number = done.stdout.split()
    assert kept == str(switch != "system")
    return int(number)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_memory_that_was_freed_is_used_again_without_page_faults(monkeypatch):
    pages = (1 << 26) // 4096
    assert faults(monkeypatch, "system") > pages
    assert faults(monkeypatch, "") < pages // 4
