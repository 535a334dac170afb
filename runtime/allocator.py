"""Memory that a step frees is kept for the next step, instead of going back to the operating system.

glibc maps every large block anew and unmaps it when it is freed, so that a training step, which allocates the same
activations again and again, pays a page fault for every 4 KiB that it touches: a tenth of a convolutional network's
step (docs/results.md). Accelerators' caching allocators exist for the same reason.

The price is that a process keeps the most memory that it has ever used at a time.
"""

from __future__ import annotations

import ctypes
import os

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
