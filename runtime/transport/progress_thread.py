"""Sums over a network that travel while the caller computes.

MPI moves a message only while somebody calls it, and an operator may compute for tens of milliseconds. So a thread carries
the sums: it has a few small pieces under way at a time, one tensor after another in the order in which they were
handed over, alike on all ranks. Small pieces, because whatever else crosses the same link meanwhile, such as the
statistics of a batch norm, queues behind what is under way.

The thread needs MPI_THREAD_MULTIPLE, and sleeps between its looks, so that it takes next to nothing of a core.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from mpi4py import MPI
from torch import Tensor

from autopar.runtime.transport.mpi_buffers import typed

_PIECE_BYTES = 256 << 10
_UNDER_WAY = 2  # pieces: while the ranks agree that one is done, the other keeps the link busy
_NAP = 1e-4  # seconds between two looks


class ThreadedSum:
    """A tensor that is being summed, and what went wrong."""

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat
        self._done = threading.Event()
        self._error: BaseException | None = None

    def Test(self) -> bool:
        """Whether the sum stands in the tensor. Raises what the thread met."""
        if self._error is not None:
            raise self._error
        return self._done.is_set()

    def Wait(self) -> None:
        """Return once the sum stands in the tensor."""
        self._done.wait()
        self.Test()

    def end(self, error: BaseException | None = None) -> None:
        """Let whoever waits go on."""
        self._error = error
        self._done.set()


class ProgressThread:
    """The thread of one communicator. Making and freeing it is collective."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm.Dup()
        self._queue: deque[ThreadedSum] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._carry, name="gradient sums", daemon=True)
        self._thread.start()

    @staticmethod
    def possible() -> bool:
        """Whether MPI may be called from several threads."""
        return MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def all_reduce(self, flat: Tensor) -> ThreadedSum:
        """Begin to replace a flat tensor by its sum over all ranks."""
        pending = ThreadedSum(flat)
        with self._changed:
            self._queue.append(pending)
            self._changed.notify()
        return pending

    def free(self) -> None:
        """End the thread; nothing may be under way."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()
        self._comm.Free()

    def _carry(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._ended)
                if not self._queue:
                    return
                pending = self._queue.popleft()
            try:
                self._deliver(pending.flat)
            except BaseException as error:  # told to whoever waits, on the main thread
                pending.end(error)
            else:
                pending.end()

    def _deliver(self, flat: Tensor) -> None:
        under_way: deque[MPI.Request] = deque()
        for piece in flat.split(_PIECE_BYTES // flat.element_size()):  # type: ignore[no-untyped-call]  # torch's
            if len(under_way) == _UNDER_WAY:
                _wait(under_way.popleft())
            under_way.append(self._comm.Iallreduce(MPI.IN_PLACE, typed(piece), MPI.SUM))
        while under_way:
            _wait(under_way.popleft())


def _wait(request: MPI.Request) -> None:
    while not request.Test():
        time.sleep(_NAP)
