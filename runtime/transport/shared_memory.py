"""Memory that the ranks of one node share, and the rounds in which they work on it.

A round is one step of a collective. Every rank leaves data in its own part of shared memory and *posts*; once all have
posted, every rank *acts* once, on the data of all; once all have acted, the round is over and the memory is free for
the next. Two counters per rank, in shared memory too, say how far it has come: no message is sent, and a rank that is
late costs the others nothing but the wait.

    post       counter 0 of this rank := number of the round
    act        when counter 0 of every rank >= number; afterwards counter 1 of this rank := number
    over       when counter 1 of every rank >= number

Rounds are posted in one order by all ranks, and may overlap: `PostedSums.post` returns at once, and whoever calls
`progress` moves all of them. An act may have stages with a request of MPI between them, such as a sum over the network.

MPI_Win_sync orders the memory accesses of one process before a counter is written and after it has been read, as the
standard's unified memory model demands.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import torch
from mpi4py import MPI
from torch import Tensor

_LINE = 64  # bytes of a cache line: what two ranks write must not share one
_PAGE = 4096
_SPINS = 300  # looks at the counters before a waiting rank offers its core to others
_OFFERS = 10  # looks of a rank that shares its core before it sleeps
_NAP = 5e-5  # seconds of sleep

Stage = Callable[[], MPI.Request | None]


def crowded(comm: MPI.Intracomm) -> bool:
    """Whether ranks of this node have to share cores, those of some node at least. Collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    crowd = len(set().union(*node.allgather(mine))) < node.size
    node.Free()
    return bool(comm.allreduce(crowd, MPI.LOR))


def places() -> list[int]:
    """For every rank of the job, the first rank of its node. Collective over all ranks."""
    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED, world.rank)
    first: int = node.bcast(world.rank)
    node.Free()
    return world.allgather(first)


def nap_until(over: Callable[[], bool]) -> None:
    """Return once it is over, on a rank that shares its core."""
    looks = 0
    while not over():
        looks += 1
        let_others_go(asleep=looks > _OFFERS)


def let_others_go(*, asleep: bool) -> None:
    """Offer the core to other processes, or sleep for a while: a core that is only offered is soon taken back."""
    if asleep:
        time.sleep(_NAP)
    elif hasattr(os, "sched_yield"):
        os.sched_yield()
    else:
        time.sleep(1e-6)


class SharedMemory:
    """`size` bytes of each rank of a node, which all of them see. Making and freeing it is collective."""

    def __init__(self, comm: MPI.Intracomm, size: int) -> None:
        room = -(-max(size, 1) // _PAGE) * _PAGE
        self._window: MPI.Win | None = MPI.Win.Allocate_shared(room, 1, comm=comm)
        self._window.Lock_all(MPI.MODE_NOCHECK)
        self.memory = [self._window.Shared_query(rank)[0][:size] for rank in range(comm.size)]
        self._views: dict[torch.dtype, list[Tensor]] = {}

    def views(self, dtype: torch.dtype) -> list[Tensor]:
        """Every rank's part as a flat tensor."""
        if dtype not in self._views:
            self._views[dtype] = [torch.frombuffer(memory, dtype=dtype) for memory in self.memory]
        return self._views[dtype]

    def sync(self) -> None:
        """A memory barrier."""
        assert self._window is not None, "this shared memory has been freed"
        self._window.Sync()

    def free(self) -> None:
        """Give the memory back. Tensors made from it must not be touched afterwards."""
        if self._window is not None and not MPI.Is_finalized():
            self._views.clear()
            self.memory.clear()
            self._window.Unlock_all()
            self._window.Free()
        self._window = None


class PostedSum:
    """One round under way; `over` says whether all ranks have acted."""

    __slots__ = ("number", "over", "request", "stages")

    def __init__(self, number: int, stages: tuple[Stage, ...]) -> None:
        self.number = number
        self.stages = deque(stages)
        self.request: MPI.Request | None = None
        self.over = False

    def advance(self) -> bool:
        """Go through the stages as far as possible without waiting; whether this rank has acted."""
        while self.stages or self.request is not None:
            if self.request is not None and not self.request.Test():
                return False
            self.request = self.stages.popleft()() if self.stages else None
        return True


class PostedSums:
    """The rounds of one group of ranks of a node. Making and freeing it is collective."""

    def __init__(self, comm: MPI.Intracomm, crowded: bool) -> None:
        self._comm = comm
        self._control = SharedMemory(comm, 2 * _LINE)
        lines = self._control.memory
        counters = [memoryview(line).cast("B").cast("q") for line in lines]  # type: ignore[arg-type]  # it is a buffer
        self._mine = counters[comm.rank]
        self._others = [line for rank, line in enumerate(counters) if rank != comm.rank]
        self._number = 0
        self._open: deque[PostedSum] = deque()
        self._lock = threading.Lock()
        self._mine[_POSTED] = self._mine[_ACTED] = 0
        self._spins = 0 if crowded else _SPINS
        self._offers = _OFFERS if crowded else sys.maxsize
        self._control.sync()
        comm.Barrier()

    @property
    def idle(self) -> bool:
        """Whether no round is under way."""
        return not self._open

    def post(self, *stages: Stage) -> PostedSum:
        """Say that this rank's data are in place; `stages` run one after another once all ranks have said so."""
        with self._lock:
            self._number += 1
            posted = PostedSum(self._number, stages)
            self._open.append(posted)
            self._control.sync()
            self._mine[_POSTED] = self._number
            self._progress()
        return posted

    def progress(self) -> None:
        """Act in every round that all ranks have posted."""
        with self._lock:
            self._progress()

    def wait(self, posted: PostedSum) -> None:
        """Return when the round is over."""
        looks = 0
        while not posted.over:
            self.progress()
            looks += 1
            if looks > self._spins and not posted.over:
                self._comm.Iprobe()  # what MPI still has to send for others moves only when it is called
                let_others_go(asleep=looks > self._offers)

    def free(self) -> None:
        """Give the counters' memory back; nothing may be under way."""
        self._mine.release()
        for line in self._others:
            line.release()
        self._control.free()

    def _progress(self) -> None:
        if not self._open:
            return
        acted = self._mine[_ACTED]
        posted = self._reached(_POSTED)
        self._control.sync()
        for pending in self._open:
            if pending.number > posted:
                break
            if pending.number > acted and pending.advance() and pending.number == acted + 1:
                acted = pending.number
        self._control.sync()
        self._mine[_ACTED] = acted
        done = min(acted, self._reached(_ACTED))
        while self._open and self._open[0].number <= done:
            self._open.popleft().over = True
        self._control.sync()

    def _reached(self, counter: int) -> int:
        """The round that all other ranks have come to."""
        return min((line[counter] for line in self._others), default=self._number)


_POSTED = 0
_ACTED = _LINE // 8
