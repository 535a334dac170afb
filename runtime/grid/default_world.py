"""All ranks of the job as one communicator, for networks written by hand: watched, and open to device tensors."""

from __future__ import annotations

from autopar.runtime.diagnostics.watched_comm import watch
from autopar.runtime.transport import world
from autopar.runtime.transport.base import Comm
from autopar.runtime.transport.staged import stage


def default_world() -> Comm:
    """The ranks of the running simulation, or a new duplicate of MPI.COMM_WORLD, which the caller frees.

    Collective. Calls are noted for the watchdog, and in checked mode compared, as those of a grid are. Raises ConfigError
    where AUTOPAR_CHECK or AUTOPAR_TIMEOUT cannot be understood.
    """
    return watch(stage(world.default_world()))
