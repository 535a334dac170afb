"""Ranks that are MPI processes: mpi4py on the memory of torch's CPU tensors, without copies.

What is only moved goes as bytes, what is summed in its own type. The pieces of a scattered or gathered message are told
by their displacements from the lowest address, wherever they lie, so that they need not be joined first. Counts and
displacements are MPI-4's large ones where the library has them; otherwise mpi4py refuses what does not fit.
Communicators are duplicates of the user's, so that our messages never meet theirs.

Large sums among ranks that share a node go through shared memory (shared_sums.py), where they take a third of MPI's time;
small ones, and all that is only moved, are left to MPI (docs/results.md has the measurement).
"""

# ruff: noqa: D102  (the methods of a communicator are described once, in base.py)

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from mpi4py import MPI
from torch import Tensor

from autopar.runtime.transport.base import (
    Comm,
    Counter,
    Pieces,
    Work,
    check_tensors,
    joined,
    pieces_of,
    restore,
    summable,
)
from autopar.runtime.transport.fetch_counter import FetchCounter
from autopar.runtime.transport.mpi_buffers import SUMMED, pieces, raw, raw_row, typed
from autopar.runtime.transport.progress_thread import ProgressThread, ThreadedSum
from autopar.runtime.transport.shared_memory import PostedSum, crowded, nap_until
from autopar.runtime.transport.shared_sums import SharedSums

_FIRST_TAG = 1  # of messages with tags; `exchange` sends under tag 0
_SHARED_BYTES = 128 << 10  # from here on, a tensor in shared memory is summed there
# from here on, every rank sends its uneven part to all others itself: half of Allgatherv's time
_DIRECT_BYTES = 64 << 10
_STAGED_BYTES = 1 << 20  # from here on, any other tensor is summed through shared memory
_SCATTERED_BYTES = 4 << 20  # from here on, a reduce-scatter goes through shared memory
_CROWDED_BYTES = 8 << 20  # and from here on, if ranks have to share cores, where every wait is a change of process


class MpiComm(Comm):
    """An MPI communicator of our own; `duplicate` makes one from the user's."""

    def __init__(self, comm: MPI.Intracomm, crowded: bool) -> None:
        self._comm: MPI.Intracomm | None = comm
        self._crowded = crowded
        self._rank: int = comm.Get_rank()
        self._size: int = comm.Get_size()
        self._seconds = 0.0
        self._sums: SharedSums | None = None
        self._progress: ProgressThread | None = None

    @staticmethod
    def duplicate(comm: MPI.Intracomm) -> MpiComm:
        """The same ranks as `comm`, with messages apart from its own. Collective over `comm`."""
        return MpiComm(comm.Dup(), crowded(comm))

    @staticmethod
    def world() -> MpiComm:
        """All ranks of the job."""
        return MpiComm.duplicate(MPI.COMM_WORLD)

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._size

    @property
    def seconds(self) -> float:
        return self._seconds

    @property
    def largest_tag(self) -> int:
        bound = MPI.COMM_WORLD.Get_attr(MPI.TAG_UB)
        return int(bound) - _FIRST_TAG if isinstance(bound, int) else 32767 - _FIRST_TAG  # which MPI guarantees

    def empty(self, numel: int, dtype: torch.dtype) -> Tensor:
        return self._shared().empty(numel, dtype)

    def release(self, tensor: Tensor) -> None:
        self._shared().release(tensor)

    def all_reduce(self, tensor: Tensor) -> None:
        start = time.perf_counter()
        if tensor.dtype in SUMMED and tensor.nbytes < _SHARED_BYTES:  # the shortest way: here every microsecond counts
            self._call("Allreduce", MPI.IN_PLACE, typed(tensor), MPI.SUM)
        else:
            self._all_reduce(tensor)
        self._seconds += time.perf_counter() - start

    def _all_reduce(self, tensor: Tensor) -> None:
        total = summable(tensor)
        if total.is_cpu and total.nbytes >= _SHARED_BYTES and self._through_memory(total):
            self._shared().all_reduce(total)
        else:
            self._call("Allreduce", MPI.IN_PLACE, typed(total), MPI.SUM)
        restore(tensor, total)

    def start_all_reduce(self, tensor: Tensor) -> Work:
        start = time.perf_counter()
        total = summable(tensor)
        work: Work
        if self._sums is not None and self._sums.in_shared_memory(total):
            work = _SharedSum(self, self._sums, self._sums.start(total))
        elif self._over_network(total):
            self._progress = self._progress or ProgressThread(self._mpi)
            work = _RequestedSum(self, tensor, total, self._progress.all_reduce(total.view(-1)))
        else:
            work = _RequestedSum(self, tensor, total, self._mpi.Iallreduce(MPI.IN_PLACE, typed(total), MPI.SUM))
        self._seconds += time.perf_counter() - start
        return work

    def all_gather(self, tensor: Tensor, outs: Pieces) -> None:
        start = time.perf_counter()
        if isinstance(outs, Tensor):
            self._call("Allgather", raw(tensor), raw_row(outs, self._size))
        else:
            self._all_gather(tensor, outs)
        self._seconds += time.perf_counter() - start

    def _all_gather(self, tensor: Tensor, outs: Sequence[Tensor]) -> None:
        if sum(out.nbytes for out in outs) < _DIRECT_BYTES:
            self._call("Allgatherv", raw(tensor), pieces(outs))
        else:
            self._all_to_all([tensor] * self._size, outs)

    def reduce_scatter(self, parts: Pieces, out: Tensor) -> None:
        start = time.perf_counter()
        if isinstance(parts, Tensor) and parts.nbytes < _SCATTERED_BYTES and parts.dtype in SUMMED:
            self._call("Reduce_scatter_block", typed(parts, self._size), typed(out), MPI.SUM)
        else:
            self._reduce_scatter(pieces_of(parts), out)
        self._seconds += time.perf_counter() - start

    def _reduce_scatter(self, parts: Sequence[Tensor], out: Tensor) -> None:
        check_tensors("reduce_scatter", (*parts, out))
        addends = [summable(part) for part in parts]
        total = summable(out)
        size = sum(part.nbytes for part in addends)
        if size >= _SCATTERED_BYTES and self._staged(size) and self._shared().calm:
            self._shared().reduce_scatter(addends, total)
        else:
            source = joined(addends)  # named, for it has to outlive the call: MPI knows its address only
            if {part.nbytes for part in addends} == {total.nbytes}:
                self._call("Reduce_scatter_block", typed(source, self._size), typed(total), MPI.SUM)
            else:
                self._call("Reduce_scatter", typed(source), typed(total), [part.numel() for part in addends], MPI.SUM)
        restore(out, total)

    def all_to_all(self, sends: Pieces, recvs: Pieces) -> None:
        start = time.perf_counter()
        if isinstance(sends, Tensor):
            assert isinstance(recvs, Tensor), "all_to_all: messages of one size are sent, but others are expected"
            self._call("Alltoall", raw_row(sends, self._size), raw_row(recvs, self._size))
        else:
            self._all_to_all(sends, pieces_of(recvs))
        self._seconds += time.perf_counter() - start

    def _all_to_all(self, sends: Sequence[Tensor], recvs: Sequence[Tensor]) -> None:
        others = [rank for rank in range(self._size) if rank != self._rank]
        requests = [self._mpi.Irecv(raw(recvs[rank]), rank) for rank in others if recvs[rank].numel()]
        requests += [self._mpi.Isend(raw(sends[rank]), rank) for rank in others if sends[rank].numel()]
        recvs[self._rank].view(-1).copy_(sends[self._rank].view(-1))
        self._wait_for_all(requests)

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        start = time.perf_counter()
        requests = [self._mpi.Irecv(raw(tensor), source) for source, tensor in recvs.items()]
        requests += [self._mpi.Isend(raw(tensor), to) for to, tensor in sends.items()]
        self._wait_for_all(requests)
        self._seconds += time.perf_counter() - start

    def start_send(self, tensor: Tensor, to: int, tag: int, what: str) -> Work:
        start = time.perf_counter()
        work = _Message(self, tensor, self._mpi.Isend(raw(tensor), to, tag + _FIRST_TAG))
        self._seconds += time.perf_counter() - start
        return work

    def start_receive(self, tensor: Tensor, source: int, tag: int, what: str) -> Work:
        return _Message(self, tensor, self._mpi.Irecv(raw(tensor), source, tag + _FIRST_TAG))

    def note(self, what: str, file: str, line: int) -> None:
        """Nobody watches."""

    def broadcast(self, tensor: Tensor, root: int) -> None:
        start = time.perf_counter()
        self._call("Bcast", raw(tensor), root)
        self._seconds += time.perf_counter() - start

    def gather_objects(self, item: object) -> list[object]:
        start = time.perf_counter()
        if self._crowded:
            self._call("Barrier")  # before a call that cannot be waited for otherwise
        texts = self._mpi.allgather(json.dumps(item))
        self._seconds += time.perf_counter() - start
        return [json.loads(text) for text in texts]

    def split(self, color: int, key: int) -> MpiComm:
        return MpiComm(cast("MPI.Intracomm", self._mpi.Split(color, key)), self._crowded)

    def counter(self) -> Counter:
        return FetchCounter(self._mpi)

    def barrier(self) -> None:
        start = time.perf_counter()
        self._call("Barrier")
        self._seconds += time.perf_counter() - start

    def free(self) -> None:
        if self._comm is not None and not MPI.Is_finalized():
            if self._progress is not None:
                self._progress.free()
            if self._sums is not None:
                self._sums.free()
            self._comm.Free()
        self._comm = self._sums = self._progress = None

    def abort(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        with Path(os.devnull).open("wb") as nowhere:  # where MPI says that it was asked to: why it was stands above
            os.dup2(nowhere.fileno(), 2)
            MPI.COMM_WORLD.Abort(code)

    @property
    def _mpi(self) -> MPI.Intracomm:
        assert self._comm is not None, "this communicator has been freed"
        return self._comm

    def _call(self, name: str, *arguments: Any) -> None:  # noqa: ANN401 (of mpi4py)
        """A collective operation of MPI, from its beginning to its end."""
        if self._crowded:
            self._wait(getattr(self._mpi, f"I{name.lower()}")(*arguments))
        else:
            getattr(self._mpi, name)(*arguments)

    def _wait(self, request: MPI.Request) -> None:
        """Return at the end of a request.

        MPI waits by looking all the time. Where ranks share cores, that takes the time of those that are waited for.
        """
        if self._crowded:
            nap_until(request.Test)
        else:
            request.Wait()

    def _wait_for_all(self, requests: list[MPI.Request]) -> None:
        if self._crowded:
            nap_until(lambda: MPI.Request.Testall(requests))
        else:
            MPI.Request.Waitall(requests)

    def _shared(self) -> SharedSums:
        """The sums through shared memory, made when the first is asked for: collective then."""
        if self._sums is None:
            self._sums = SharedSums(self._mpi, self._crowded)
        return self._sums

    def _through_memory(self, total: Tensor) -> bool:
        """Alike on all ranks, since a sum has one size on all of them."""
        shared = self._shared()
        return shared.usable and (shared.in_shared_memory(total) or self._staged(total.nbytes))

    def _staged(self, size: int) -> bool:
        """Whether a sum of `size` bytes is worth the way through shared memory."""
        if size < _STAGED_BYTES or self._size == 1:
            return False
        shared = self._shared()
        return size >= _CROWDED_BYTES or shared.calm or not shared.one_node  # a network is slower than any wait

    def _over_network(self, total: Tensor) -> bool:
        """Whether a sum is worth a thread: a large one, of which every rank is on a node of its own."""
        if total.nbytes < _SHARED_BYTES or self._size == 1:
            return False
        return not self._shared().usable and ProgressThread.possible()


class _Message(Work):
    """A message that MPI has begun to carry; its tensor stays alive until the end."""

    def __init__(self, comm: MpiComm, tensor: Tensor, request: MPI.Request) -> None:
        self._comm = comm
        self._tensor = tensor
        self._request = request

    def wait(self) -> None:
        start = time.perf_counter()
        self._comm._wait(self._request)
        self._comm._seconds += time.perf_counter() - start

    def test(self) -> bool:
        return bool(self._request.Test())


class _SharedSum(Work):
    """An all-reduce under way in shared memory."""

    def __init__(self, comm: MpiComm, sums: SharedSums, posted: PostedSum) -> None:
        self._comm = comm
        self._sums = sums
        self._round = posted

    def wait(self) -> None:
        start = time.perf_counter()
        self._sums.wait(self._round)
        self._comm._seconds += time.perf_counter() - start

    def test(self) -> bool:
        start = time.perf_counter()
        over = self._sums.test(self._round)
        self._comm._seconds += time.perf_counter() - start
        return over


class _RequestedSum(Work):
    """An all-reduce that MPI, or the progress thread, has begun. `total` is where; it stays alive and unmoved until the end."""

    def __init__(self, comm: MpiComm, tensor: Tensor, total: Tensor, request: MPI.Request | ThreadedSum) -> None:
        self._comm = comm
        self._tensor = tensor
        self._total = total
        self._request: MPI.Request | ThreadedSum | None = request

    def wait(self) -> None:
        if self._request is not None:
            start = time.perf_counter()
            if isinstance(self._request, ThreadedSum):
                self._request.Wait()
            else:
                self._comm._wait(self._request)
            self._finish()
            self._comm._seconds += time.perf_counter() - start

    def test(self) -> bool:
        if self._request is not None:
            start = time.perf_counter()
            if self._request.Test():
                self._finish()
            self._comm._seconds += time.perf_counter() - start
        return self._request is None

    def _finish(self) -> None:
        restore(self._tensor, self._total)
        self._request = None
