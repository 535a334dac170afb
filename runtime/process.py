"""What a rank's process does with the machine's cores and memory: threads, freed memory, Python's garbage.

glibc maps every large block anew and unmaps it when it is freed, so that a training step, which allocates the same
activations again and again, pays a page fault for every 4 KiB that it touches: a tenth of a convolutional network's
step (docs/results.md). Accelerators' caching allocators exist for the same reason. So freed memory is kept for the next
step; the price is a heap with holes, two to three times as large as what is held.

Where a rank may not hold so much (`autopar.ir.units`), blocks are mapped and unmapped after all, and the process has what
its tensors have. With huge pages, which `autopar run` asks glibc for, that costs little: a fault for every 2 MiB.
"""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys

import torch

from autopar.runtime.transport.base import Comm

SWITCH = "AUTOPAR_MALLOC"  # "keep" and "return" in place of what the limit says; "system" leaves the C library's allocator as it is
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_MAPPED = 1 << 20  # bytes from which on a block has a mapping of its own where freed memory is given back


def set_allocator(*, gives_back: bool) -> bool:
    """Ask the C library to give back what is freed at once, or else to keep it; whether it does. Only glibc understands."""
    library, asked = ctypes.CDLL(None), os.environ.get(SWITCH)
    if asked == "system" or not hasattr(library, "gnu_get_libc_version"):
        return False
    if asked == "return" or (gives_back and asked != "keep"):
        mapped = library.mallopt(_MMAP_MAX, 1 << 16)
        return bool(mapped and library.mallopt(_MMAP_THRESHOLD, _MAPPED) and library.mallopt(_TRIM_THRESHOLD, _MAPPED))
    never_trim = library.mallopt(_TRIM_THRESHOLD, -1)
    never_map = library.mallopt(_MMAP_MAX, 0)
    return bool(never_trim and never_map)


def share_cores(comm: Comm) -> None:
    """Use this machine's cores, divided by its ranks, as threads. ``OMP_NUM_THREADS`` goes before. Collective."""
    hosts = comm.gather_objects(socket.gethostname())
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // hosts.count(hosts[comm.rank])))


def load_optimizers() -> None:
    """Load what torch loads with the first optimizer, and never look for garbage among it, nor among what is there already.

    These are some 300 000 objects. To look through them takes half a second, which would be spent several times while they
    are loaded, now and then in a step, and at exit.
    """
    if "torch._dynamo" in sys.modules:
        return
    was = gc.isenabled()
    gc.disable()
    try:
        torch.optim.SGD([torch.zeros((), requires_grad=True)])
    finally:
        gc.freeze()
        if was:
            gc.enable()
