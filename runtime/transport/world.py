"""Which ranks a grid is made of when nobody says: those of the running simulation, or all of MPI's.

mpi4py is imported on the first call outside a simulation, and not before: importing it starts MPI.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from autopar.runtime.transport.base import Comm

_OF_THREAD = threading.local()  # a simulated rank is a thread, so its world can only hang on the thread


@contextmanager
def use_world(comm: Comm) -> Iterator[None]:
    """Make `comm` the default world of this thread while the context lasts."""
    before = simulated_world()
    _OF_THREAD.world = comm
    try:
        yield
    finally:
        _OF_THREAD.world = before


def simulated_world() -> Comm | None:
    """The world that `use_world` has set for this thread, if any."""
    return getattr(_OF_THREAD, "world", None)


def default_world() -> Comm:
    """The world of this thread if one is set; otherwise a new duplicate of MPI.COMM_WORLD, which the caller frees."""
    world = simulated_world()
    if world is not None:
        return world
    from autopar.runtime.transport.mpi import MpiComm

    return MpiComm.world()
