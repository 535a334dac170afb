"""Whether all ranks of a communicator have come to the end of their program, so that what is theirs together can be freed.

MPI must not be finalized while shared memory is left (between hosts, MPICH fails then), and freeing it is collective. A
program that ends well may leave that to the exit of its ranks. One that fails must not wait there for ranks that never come.
"""

from __future__ import annotations

import sys
import time

from mpi4py import MPI

_PATIENCE = 3.0  # seconds for the other ranks: one that ends by sys.exit alone is to end the job soon
_NAP = 1e-3


def all_leave(comm: MPI.Intracomm) -> bool:
    """Whether every rank has called this; not where this one ends by an error, and not if others are long in coming."""
    if MPI.Is_finalized() or hasattr(sys, "last_value"):
        return False
    here, late = comm.Ibarrier(), time.monotonic() + _PATIENCE
    while not (over := here.Test()) and time.monotonic() < late:
        time.sleep(_NAP)
    return over
