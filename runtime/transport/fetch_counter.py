"""A number from which ranks draw by MPI's one-sided fetch-and-op: whoever draws waits for nobody.

    draw    MPI_Fetch_and_op(1, SUM) at the group's first rank, in an epoch of passive target that lasts as long as the window

The first rank holds the number and takes no part: on one node the others reach its memory themselves. Over a network MPI serves
them only while the first rank is inside some call of MPI, and an operator may compute for seconds. There a thread of the first
rank looks at MPI every half millisecond, which lets it go on with whatever has come (measured on two hosts with a core each: a
draw takes 2 ms; without the thread, as long as the first rank computes). Without MPI_THREAD_MULTIPLE there is no such thread:
draws are as right, and late.
"""

from __future__ import annotations

import atexit
import threading

import torch
from mpi4py import MPI

from autopar.runtime.transport.mpi_buffers import typed
from autopar.runtime.transport.shutdown import all_leave

_NAP = 5e-4  # seconds between two looks


class FetchCounter:
    """A number in the memory of a group's first rank. Making and freeing it is collective."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm.Dup()
        here = comm.rank == 0
        self._window = MPI.Win.Allocate(8 if here else 0, 8, comm=self._comm)
        if here:
            torch.frombuffer(self._window.tomemory(), dtype=torch.int64).zero_()
        self._window.Lock_all(MPI.MODE_NOCHECK)
        self._window.Sync()
        self._one = torch.ones(1, dtype=torch.int64)
        self._drawn = torch.zeros(1, dtype=torch.int64)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if not _one_node(self._comm) and here and MPI.Query_thread() == MPI.THREAD_MULTIPLE:
            self._thread = threading.Thread(target=self._serve, name="micro-batch queue", daemon=True)
            self._thread.start()
        self._comm.Barrier()
        atexit.register(self._leave)

    def draw(self) -> int:
        """The number as it stands, which is one more from then on."""
        self._window.Fetch_and_op(typed(self._one), typed(self._drawn), 0, 0, MPI.SUM)
        self._window.Flush(0)
        return int(self._drawn)

    def free(self) -> None:
        """Give window and communicator back."""
        atexit.unregister(self._leave)
        if MPI.Is_finalized() or self._comm == MPI.COMM_NULL:
            return
        self._comm.Barrier()  # whoever still draws is served
        self._stop()
        self._window.Unlock_all()
        self._window.Free()
        self._comm.Free()

    def _leave(self) -> None:
        if all_leave(self._comm):
            self.free()
        self._stop()  # no thread may call a library that has ended

    def _stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    def _serve(self) -> None:
        while not self._ended.wait(_NAP):
            self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)


def _one_node(comm: MPI.Intracomm) -> bool:
    """Whether all ranks share memory, and so reach the number themselves."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)
    size = node.size
    node.Free()
    return bool(comm.allreduce(size == comm.size, MPI.LAND))
