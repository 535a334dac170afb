"""What a rank's process does with the machine's cores and memory: threads, freed memory, Python's garbage.

glibc maps every large block anew and unmaps it when it is freed, so that a training step, which allocates the same
activations again and again, pays a page fault for every 4 KiB that it touches: a tenth of a convolutional network's
step (docs/results.md). Accelerators' caching allocators exist for the same reason. So freed memory is kept for the next
step; the price is that a process keeps the most memory that it has ever used at a time.
"""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys

import torch

from autopar.runtime.transport.base import Comm

SWITCH = "AUTOPAR_MALLOC"  # "system" leaves the C library's allocator as it is
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Ask the C library to keep what is freed; whether it does. Only glibc is known to understand."""
    library = ctypes.CDLL(None)
    if os.environ.get(SWITCH) == "system" or not hasattr(library, "gnu_get_libc_version"):
        return False
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
